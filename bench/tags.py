"""What tags cost: bytes in Redis for each tag of a run, and whether an ordinary append is slower with them.

    python bench/tags.py [--quick]

The bytes are what the server's memory grows by when runs of one event get their tags: the run's own hash, and its
place in the index of each name. The ratio compares `save_event` to a run that has ten tags with one that has none.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

import runstream
from bench import Result, bench_server, event, report, save_event_to

KINDS: dict[str, Callable[[int, int], tuple[str, str]]] = {
    "few values (env=prod)": lambda _, n: (f"env{n}", "prod"),
    "a value for each run (user=…, 36 bytes)": lambda run, n: (f"user{n}", f"{run:036d}"),
    "long (name and value of 256 bytes)": lambda run, n: (f"{n:0256d}", f"{run:0256d}"),
}


def bytes_per_tag(client: redis.Redis, runs: int, count: int, kind: str) -> float:
    """How much memory each of ``count`` tags takes, of so many runs."""
    store: Any = runstream.RedisCheckpointer(client, namespace=f"tags-{time.time_ns()}")
    names = [f"run-{number:08d}-of-the-benchmark" for number in range(runs)]
    store.save_events([event(run_id, 1) for run_id in names])
    for run_id in names:  # what any append but a plain one keeps of its producer
        store.append(run_id, [], tags={"none": None})
    before = int(client.info("memory")["used_memory"])
    for number, run_id in enumerate(names):
        store.append(run_id, [], tags=dict(KINDS[kind](number, n) for n in range(count)))
    return (int(client.info("memory")["used_memory"]) - before) / (runs * count)


def bench_save_event(client: redis.Redis, rounds: int, count: int) -> Result:
    store: Any = runstream.RedisCheckpointer(client, namespace=f"saves-{time.time_ns()}")
    store.append("tagged", [event("tagged", 1)], tags={f"name{n}": f"value{n}" for n in range(10)})
    store.append("plain", [event("plain", 1)])
    return save_event_to(
        store, ("save_event to a run with ten tags", "tagged"), ("to a run without", "plain"), rounds, count
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: that it runs, not how fast")
    scale, rounds = (10, 2) if parser.parse_args().quick else (1, 9)
    table = Table("tags of a run", "one tag", "ten tags", title="bytes in Redis for each tag", box=None)
    with bench_server() as (client, _):
        for kind in KINDS:
            found = (bytes_per_tag(client, 10_000 // scale // count, count, kind) for count in (1, 10))
            table.add_row(kind, *(f"{size:.0f}" for size in found))
        results = [bench_save_event(client, rounds, 2000 // scale)]
    console = Console()
    console.print(table)
    report(results, console)


if __name__ == "__main__":
    main()
