"""What recovering a lane takes, beside the events of others: milliseconds, and the bytes that the server sends.

    python bench/lanes.py [--quick]

A lane of 30 events that no snapshot covers, with so many events of seven other lanes between any two of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

import runstream
from bench import bench_server, event

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="that it runs, not how fast")
    times = 1 if parser.parse_args().quick else 9
    table = Table("others' events between", "ms", "bytes", box=None)
    with bench_server() as (client, _):
        store: Any = runstream.RedisCheckpointer(client, namespace=f"lanes-{time.time_ns()}")
        for between in BETWEEN:
            table.add_row(*row(client, store, between, times))
    Console().print(table)


if __name__ == "__main__":
    main()
