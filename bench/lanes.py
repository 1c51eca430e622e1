"""What lanes take: to recover one beside the events of others, to keep idle ones, and to write beside them.

    python bench/lanes.py [--quick]

In milliseconds and bytes that the server sends, a lane is recovered that has 30 events that no snapshot covers,
with so many events of seven other lanes between any two of them. The memory is that of the run's keys, for each
lane of one event that nobody goes on with, by what became of it. The ratio compares `save_event` to a run that has
many such lanes with one that has none.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

import runstream
from bench import Result, bench_server, event, report, save_event_to

OWN, OTHERS = 30, 7
LANE = "researcher"  # of the benchmarks' events
BETWEEN = (0, 1, 7, 30, 63, 64, 200, 1_000)


def a_run(store: Any, between: int) -> str:
    """A run of a lane and of others, with so many events of these between any two of the lane's."""
    run_id = f"run-{between}"
    for seq in range(1, OWN + 1):
        others = [
            runstream.PAEvent(
                run_id, lane_id=f"other-{n % OTHERS}", seq=seq * between + n, payload={"x": "x" * 150}
            )
            for n in range(between)
        ]
        store.append(run_id, [event(run_id, seq), *others])
    return run_id


def row(client: redis.Redis, store: Any, between: int, times: int) -> list[str]:
    run_id, took, sent = a_run(store, between), [], []
    counting = bytes_sent(client, lambda: None)
    for _ in range(times):
        begun = time.perf_counter()
        sent.append(bytes_sent(client, lambda: store.recover(run_id, lane_id=LANE)) - counting)
        took.append(1000 * (time.perf_counter() - begun))
    return [f"{between:,}", f"{statistics.median(took):.1f}", f"{statistics.median(sent):,.0f}"]


def bytes_sent(client: redis.Redis, work: Any) -> int:
    """What the server sends meanwhile, the reply to the first of the two questions included."""
    before = int(client.info("stats")["total_net_output_bytes"])
    work()
    return int(client.info("stats")["total_net_output_bytes"]) - before


IDLE = {
    "its event alone, not archived": ("", False),
    "its event and state, not archived": ("saved", False),
    "its state, archived": ("saved", True),
    "ended, archived": ("ended", True),
}
"""Whether a lane's state was saved, or it was ended with it; whether a worker has archived and trimmed it."""


def fill_lanes(store: Any, run_id: str, lanes: int, then: str) -> None:
    """Write so many lanes of one event each, and what comes after that."""
    for number in range(lanes):
        with store.open_run(run_id, lane_id=f"researcher-{number:04d}") as run:
            run.emit("tool.result", x="x" * 150)
            run.state.data["result"] = "x" * 150
            if then:
                (run.checkpoint if then == "saved" else run.finish_lane)()


def bytes_per_lane(client: redis.Redis, directory: Path, lanes: int, then: str, *, archived: bool) -> float:
    """How much memory each of so many lanes takes that nobody goes on with."""
    namespace = f"idle-{time.time_ns()}"
    store: Any = runstream.RedisCheckpointer(client, namespace=namespace)
    fill_lanes(store, "r", lanes, then)
    if archived:
        with runstream.SQLiteCheckpointer(directory / f"{namespace}.db") as archive:
            runstream.DrainWorker(store, [archive]).drain_once()
    names = client.scan_iter(f"*{namespace}*:run:r:*", count=1_000)
    return sum(client.memory_usage(name, samples=0) or 0 for name in names) / lanes


def bench_save_event(client: redis.Redis, rounds: int, lanes: int, count: int) -> Result:
    store: Any = runstream.RedisCheckpointer(client, namespace=f"saves-{time.time_ns()}")
    fill_lanes(store, "many", lanes, "saved")
    store.append("one", [event("one", 1)])
    return save_event_to(
        store, (f"save_event to a run with {lanes} idle lanes", "many"), ("to a run without", "one"), rounds, count
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="that it runs, not how fast")
    scale, rounds = (10, 1) if parser.parse_args().quick else (1, 9)
    table = Table("others' events between", "ms", "bytes", box=None)
    memory = Table("an idle lane", "bytes in Redis", box=None)
    with bench_server() as (client, directory):
        store: Any = runstream.RedisCheckpointer(client, namespace=f"lanes-{time.time_ns()}")
        for between in BETWEEN:
            table.add_row(*row(client, store, between, rounds))
        for what, (then, archived) in IDLE.items():
            size = bytes_per_lane(client, directory, 500 // scale, then, archived=archived)
            memory.add_row(what, f"{size:,.0f}")
        results = [bench_save_event(client, rounds, 500 // scale, 2000 // scale)]
    console = Console()
    console.print(table, memory)
    report(results, console)


if __name__ == "__main__":
    main()
