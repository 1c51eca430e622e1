"""What erasing and truncating cost: of one event of a run, and of half of a run, in milliseconds.

    python bench/erasing.py [--quick]

A call returns when the content is out of the run and, but in Redis, of the files: a SQLite file is written anew
for it, and of a JSONL directory the run's log. In Redis it is noted, and carried out by the next pass of a worker,
which is timed with it; the server then writes its files anew by itself. The last column is for comparison.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

import runstream
from bench import bench_server, event

_PAGE = 1_000
_names = count()


class Store(NamedTuple):
    """A store that takes part, and what carries out what was asked of it."""

    name: str
    store: Any
    carry_out: Callable[[], object]


def stores(client: Any, directory: Path, stack: ExitStack) -> Iterator[Store]:
    for name in ("memory", "sqlite", "jsonl"):
        place = "bench" if name == "memory" else directory / name
        yield Store(name, stack.enter_context(runstream.connect(f"{name}:{place}")), lambda: None)
    hot: Any = runstream.RedisCheckpointer(client, namespace=f"erasing-{time.time_ns()}")
    archive: Any = stack.enter_context(runstream.connect(f"sqlite:{directory / 'drained'}"))
    worker = runstream.DrainWorker(hot, [archive], trim="never")
    yield Store("Redis, drained to SQLite", hot, worker.drain_once)


def a_run(one: Store, length: int) -> str:
    """A new run of so many events, archived where there is a worker."""
    run_id = f"run-{next(_names)}"
    for first in range(1, length + 1, _PAGE):
        one.store.append(run_id, [event(run_id, seq) for seq in range(first, min(first + _PAGE, length + 1))])
    one.carry_out()
    return run_id


def milliseconds(one: Store, work: Callable[..., object], *args: Any, **options: Any) -> float:
    """How long a call takes, and what carries it out."""
    started = time.perf_counter()
    work(*args, **options)
    one.carry_out()
    return 1000 * (time.perf_counter() - started)


def row(one: Store, length: int, times: int) -> list[str]:
    """The medians: of erasing one event, erasing half of a run in one call, truncating it by half, appending."""
    half, store = length // 2, one.store
    found = []
    for _ in range(times):
        run_id = a_run(one, length)
        found.append(
            (
                milliseconds(one, store.erase, run_id, [half]),
                milliseconds(one, store.erase, run_id, range(half + 1, length + 1)),
                milliseconds(one, store.truncate, run_id, before=half),
                milliseconds(one, store.append, run_id, [event(run_id, length + 1)]),
            )
        )
    return [one.name, f"{length:,}", *(f"{statistics.median(took):.1f}" for took in zip(*found, strict=True))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: that it runs, not how fast")
    scale, times = (10, 1) if parser.parse_args().quick else (1, 5)
    table = Table("store", "events", "erase 1", "erase half", "truncate half", "append 1", box=None, title="ms")
    with bench_server() as (client, _), tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        for one in stores(client, Path(name), stack):
            for length in (1_000, 10_000):
                table.add_row(*row(one, length // scale, times))
    Console().print(table)


if __name__ == "__main__":
    main()
