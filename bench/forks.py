"""What a fork costs: whether one of a long run takes longer than one of a short run, and its bytes in Redis.

    python bench/forks.py [--quick]

The ratio compares forking a run of 1,000,000 events to one of 1,000, each at an offset in its middle; the bytes
are what the server's memory grows by: the fork itself, and what its parent notes of it. The second ratio compares
`save_event` to a fork with one to a run of its own.
"""

from __future__ import annotations

import argparse
import time
from itertools import count
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

import runstream
from bench import Result, bench_server, event, interleaved, report, save_event_to, timed

LENGTHS = (1_000, 1_000_000)
_PAGE = 1_000


def open_store(client: redis.Redis, lengths: tuple[int, ...]) -> Any:
    """A store with a run of each of these lengths, by that name."""
    store: Any = runstream.RedisCheckpointer(client, namespace=f"forks-{time.time_ns()}")
    for length in lengths:
        run_id = str(length)
        for first in range(1, length + 1, _PAGE):
            store.append(run_id, [event(run_id, seq) for seq in range(first, min(first + _PAGE, length + 1))])
    return store


def bench_fork(client: redis.Redis, lengths: tuple[int, ...], rounds: int, times: int) -> Result:
    store, number = open_store(client, lengths), count()

    def fork(length: int) -> float:
        names = [f"fork-{next(number)}" for _ in range(times)]
        return timed(times, lambda: [store.fork(str(length), name, at=length // 2) for name in names])

    short, long = lengths
    return interleaved(
        f"forking a run of {long:,} events",
        f"a run of {short:,}",
        "forks/s",
        rounds,
        lambda: fork(long),
        lambda: fork(short),
    )


def bench_save_event(client: redis.Redis, rounds: int, count: int) -> Result:
    store = open_store(client, LENGTHS[:1])
    store.fork(str(LENGTHS[0]), "fork")
    store.append("run", [event("run", 1)])
    return save_event_to(store, ("save_event to a fork", "fork"), ("to a run of its own", "run"), rounds, count)


def bytes_per_fork(client: redis.Redis, forks: int, snapshot: bool) -> float:
    """How much memory each fork takes that has no events of its own yet."""
    store = open_store(client, LENGTHS[:1])
    run_id = str(LENGTHS[0])
    if snapshot:
        store.save_snapshot(run_id, runstream.RunState(run_id))
    before = int(client.info("memory")["used_memory"])
    for number in range(forks):
        store.fork(run_id, f"fork-{number:08d}-of-the-benchmark")
    return (int(client.info("memory")["used_memory"]) - before) / forks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: that it runs, not how fast")
    scale, rounds = (10, 2) if parser.parse_args().quick else (1, 9)
    table = Table("a fork", "bytes in Redis", box=None)
    with bench_server() as (client, _):
        for what, snapshot in (("without a snapshot", False), ("with its parent's", True)):
            table.add_row(what, f"{bytes_per_fork(client, 2000 // scale, snapshot):.0f}")
        lengths = LENGTHS[0] // scale, LENGTHS[1] // scale**2
        results = [
            bench_fork(client, lengths, rounds, 100 // scale),
            bench_save_event(client, rounds, 2000 // scale),
        ]
    console = Console()
    console.print(table)
    report(results, console)


if __name__ == "__main__":
    main()
