"""What many runs take beside few: to drain, to verify and to list them, and an idle worker's partitions.

    python bench/many_runs.py [--quick] [--full] [--only WORD]

Each figure is how many times as much time (an idle worker: processor time) the first case takes as the second,
the median over rounds that alternate between the two, with the most that it may be. The usual form has a tenth of
the runs that the targets are set for, ``--full`` has all of them, and ``--quick`` shows only that it runs.
"""

from __future__ import annotations

import argparse
import gc
import sqlite3
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import redis
from rich.console import Console
from rich.table import Table

import runstream
from bench import bench_server, event
from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import namespace_of

PER_RUN, PER_LONG_RUN = 3, 1000
AT_ONCE = 300  # runs, in one call of ``save_events``


@dataclass
class Size:
    """How much is measured: runs, partitions, rounds, and for how many seconds a worker is idle."""

    runs: int
    partitions: int = 4096
    rounds: int = 3
    window: float = 4.0


@dataclass
class Row:
    """One comparison: what the first and the second take, round by round, and the most that the ratio may be."""

    name: str
    beside: str
    unit: str
    target: float
    first: list[float]
    second: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(a / b for a, b in zip(self.first, self.second, strict=True))


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    gc.collect()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compared(
    row: tuple[str, str, str, float], rounds: int, first: Callable[[], float], second: Callable[[], float]
) -> Row:
    """Alternate between the two; the first round warms up."""
    result = Row(*row, [], [])
    for number in range(rounds + 1):
        of_both = first(), second()
        if number:
            result.first.append(of_both[0])
            result.second.append(of_both[1])
    return result


def fill(store: Any, runs: int, per_run: int, name: str = "run") -> list[str]:
    """Write so many runs of so many events each. Returns their ids."""
    run_ids = [f"{name}-{number}" for number in range(runs)]
    at_once = max(1, AT_ONCE * PER_RUN // per_run)
    for begin in range(0, runs, at_once):
        some = run_ids[begin : begin + at_once]
        store.save_events([event(run_id, seq) for run_id in some for seq in range(1, per_run + 1)])
    return run_ids


def fresh(client: redis.Redis, directory: Path, **options: Any) -> tuple[Any, Any]:
    """A namespace, and an archive, that nobody has used."""
    name = uuid.uuid4().hex
    store: Any = runstream.RedisCheckpointer(client, namespace=name, **options)
    return store, runstream.SQLiteCheckpointer(directory / f"{name}.db")


def spread(client: redis.Redis, store: Any, run_ids: list[str]) -> None:
    """Let these runs have been updated a second after each other."""
    keys = namespace_of(store).keys
    now = int(time.time())
    with client.pipeline(transaction=False) as pipeline:
        for ago, run_id in enumerate(run_ids):
            run, updated = keys.run(run_id), (now - ago) * 1_000_000
            pipeline.hset(run.meta, "updated", updated)
            pipeline.zadd(run.partition.runs, {run_id: updated})
        pipeline.execute()


def forget(client: redis.Redis, *stores: Any) -> None:
    for store in stores:
        store.close()
    client.flushall()


def drain(client: redis.Redis, directory: Path, size: Size) -> Iterator[Row]:
    """A drain of many short runs beside one of as many events in few runs."""

    def takes(count: int, per_run: int) -> float:
        store, archive = fresh(client, directory)
        fill(store, count, per_run)
        worker = runstream.DrainWorker(store, [archive])
        reports: list[runstream.DrainReport] = []
        took = seconds(lambda: reports.append(worker.drain_once()))
        assert reports[0].events == count * per_run
        forget(client, store, archive)
        return took

    runs, long_runs = size.runs, max(1, size.runs * PER_RUN // PER_LONG_RUN)
    yield compared(
        (f"drain_once of {runs:,} runs of {PER_RUN} events", f"of {long_runs:,} of {PER_LONG_RUN:,}", "s", 3.0),
        size.rounds,
        lambda: takes(runs, PER_RUN),
        lambda: takes(long_runs, PER_LONG_RUN),
    )


def idle_runs(client: redis.Redis, directory: Path, size: Size) -> Iterator[Row]:
    """Ten active runs among idle ones, beside ten active runs alone."""

    def drained(store: Any, worker: runstream.DrainWorker) -> float:
        run_ids = [f"active-{number}" for number in range(10)]
        store.save_events([event(run_id, seq) for run_id in run_ids for seq in range(100)])
        reports: list[runstream.DrainReport] = []
        took = seconds(lambda: reports.append(worker.drain_once()))
        assert reports[0].events == 1000
        return took

    among, alone = fresh(client, directory), fresh(client, directory)
    workers = [runstream.DrainWorker(store, [archive]) for store, archive in (among, alone)]
    fill(among[0], size.runs, 1, "idle")
    assert workers[0].drain_once().events == size.runs  # it has swept them, too: it does so once a minute
    workers[1].drain_once()
    yield compared(
        (f"drain_once of 10 active runs among {size.runs:,} idle ones", "of 10 alone", "s", 1.2),
        3 * size.rounds,
        lambda: drained(among[0], workers[0]),
        lambda: drained(alone[0], workers[1]),
    )
    forget(client, *among, *alone)


def idle_worker(client: redis.Redis, directory: Path, size: Size) -> Iterator[Row]:
    """An idle worker's processor time for many partitions, and the server's, beside that for 16."""

    def takes(count: int) -> float:
        store, archive = fresh(client, directory, partitions=count)
        worker, stop = runstream.DrainWorker(store, [archive]), threading.Event()
        thread = threading.Thread(target=worker.run, args=[stop])
        thread.start()
        time.sleep(5 * size.window)  # it is idle, and has slowed down, by then
        before = used(client)
        time.sleep(size.window)
        took = (used(client) - before) / size.window
        stop.set()
        thread.join()
        forget(client, store, archive)
        return took

    yield compared(
        (f"an idle worker of {size.partitions:,} partitions", "of 16", "s of CPU per s", 1.5),
        size.rounds,
        lambda: takes(size.partitions),
        lambda: takes(16),
    )


def used(client: redis.Redis) -> float:
    """The processor time of this process and of the server, in seconds."""
    of_server: dict[str, float] = client.info("cpu")
    return time.process_time() + of_server["used_cpu_user"] + of_server["used_cpu_sys"]


def verify(client: redis.Redis, directory: Path, size: Size) -> Iterator[Row]:
    """Verifying runs in Redis and in an archive, beside reading the same rows and entries."""
    store, archive = fresh(client, directory)
    runs = size.runs
    run_ids = fill(store, runs, PER_RUN)
    runstream.DrainWorker(store, [archive], trim="never").drain_once()
    streams = list(client.scan_iter("*:events", count=1000))
    path = archive.location.removeprefix("sqlite:")
    assert len(streams) == runs

    def ours() -> None:
        assert all(verify_run(run_id, hot=store, sinks=[archive]).is_sound for run_id in run_ids)

    def by_hand() -> None:
        for begin in range(0, runs, 100):
            pipeline = client.pipeline(transaction=False)
            for stream in streams[begin : begin + 100]:
                pipeline.xrange(stream)
            for entries in pipeline.execute():
                for _, fields in entries:
                    msgpack.unpackb(next(iter(fields.values()))[5:], strict_map_key=False)
        with closing(sqlite3.connect(path)) as connection:
            assert sum(1 for _ in connection.execute("SELECT * FROM events ORDER BY run_id, offset")) == runs * 3

    yield compared(
        (f"verify of {runs:,} runs of {PER_RUN} events", "reading rows and entries by hand", "s", 3.0),
        size.rounds,
        lambda: seconds(ours),
        lambda: seconds(by_hand),
    )
    forget(client, store, archive)


def first_of_runs(client: redis.Redis, directory: Path, size: Size) -> Iterator[Row]:
    """The first item of ``runs()`` with many runs, beside that with 100."""

    def first(store: Any) -> float:
        return seconds(lambda: next(iter(store.runs())))

    many, few = fresh(client, directory), fresh(client, directory)
    for (store, archive), count in ((many, size.runs), (few, 100)):
        spread(client, store, fill(store, count, 1))
        runstream.DrainWorker(store, [archive]).drain_once()
    for where, large, small in zip(("Redis", "SQLite"), many, few, strict=True):
        yield compared(
            (f"the first item of runs(), {where}, of {size.runs:,}", "of 100", "s", 2.0),
            10 * size.rounds,
            partial(first, large),
            partial(first, small),
        )
    forget(client, *many, *few)


CASES: dict[str, Callable[[redis.Redis, Path, Size], Iterator[Row]]] = {
    "drain": drain,
    "idle_runs": idle_runs,
    "idle_worker": idle_worker,
    "verify": verify,
    "first": first_of_runs,
}


def shown(rows: list[Row], console: Console) -> None:
    table = Table("what", "takes", "beside", "takes", "ratio", "at most", box=None)
    for row in rows:
        first, second = (f"{statistics.median(of_it):,.4g} {row.unit}" for of_it in (row.first, row.second))
        table.add_row(row.name, first, row.beside, second, f"{row.ratio:.2f}", f"{row.target:.1f}")
    console.print(table)
    over = [row.name for row in rows if row.ratio > row.target]
    console.print(f"over what it may be: {', '.join(over) or 'none'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="that it runs, not how fast")
    parser.add_argument("--full", action="store_true", help="100,000 runs")
    parser.add_argument(
        "--only", default="", help="the cases whose name has this: drain, idle, verify, first, retired"
    )
    arguments = parser.parse_args()
    size = Size(1_000, 256, 1, 1.0) if arguments.quick else Size(100_000 if arguments.full else 10_000)
    console = Console()
    with bench_server() as (client, directory):
        rows = [
            row for name, case in CASES.items() if arguments.only in name for row in case(client, directory, size)
        ]
    shown(rows, console)


if __name__ == "__main__":
    main()
