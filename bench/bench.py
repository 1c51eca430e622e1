"""What runstream costs beside what a user would write by hand: ratios, measured interleaved in one run.

    python bench/bench.py [--quick]

Each figure is a ratio of rates, ours to the baseline's, the median over rounds that alternate between
the two; over 1 means ours is faster. Absolute rates are shown for orientation only: machines differ,
and a shared one differs from minute to minute. The server is one of the bench's own on loopback TCP, with AOF.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import random
import re
import shutil
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgpack
import purpose_agent.runtime.checkpoint as purpose_agent
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from rich.console import Console
from rich.table import Table

import runstream
from runstream.codec.lossless_json import dump_json
from runstream.stores.redis.connection.server_binary import find_server_program


@dataclass
class Result:
    """The rates of one comparison, per second, round by round."""

    name: str
    baseline: str
    unit: str
    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))


def event(run_id: str, seq: int, types: Any = runstream) -> Any:
    """An event whose record has about 300 bytes, a tool result, of the types of that module."""
    return types.create_event(
        run_id,
        types.EventKind.TOOL_RESULT,
        seq=seq,
        lane_id="researcher",
        tool="search",
        args={"query": "redis streams", "limit": 10},
        result="x" * 150,
        latency=12.5,
        ok=True,
    )


def timed(count: int, work: Callable[[], object]) -> float:
    """How many per second."""
    gc.collect()
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def interleaved(
    name: str, baseline: str, unit: str, rounds: int, ours: Callable[[], float], theirs: Callable[[], float]
) -> Result:
    result = Result(name, baseline, unit, [], [])
    ours(), theirs()  # the first round warms up
    for _ in range(rounds):
        result.ours.append(ours())
        result.theirs.append(theirs())
    return result


def save_event_to(store: Any, run: tuple[str, str], other: tuple[str, str], rounds: int, count: int) -> Result:
    """``save_event`` to one run beside another, each given by what it is called and its id."""

    def save(run_id: str) -> float:
        events = [event(run_id, seq) for seq in range(2, count + 2)]
        return timed(count, lambda: [store.save_event(one) for one in events])

    (name, run_id), (other_name, other_id) = run, other
    return interleaved(name, other_name, "events/s", rounds, lambda: save(run_id), lambda: save(other_id))


@contextmanager
def bench_server(*more: str) -> Iterator[tuple[redis.Redis, Path]]:
    """A server of the bench's own at a loopback port, as processes and machines that share runs reach theirs.

    ``more`` are further options of it.
    """
    directory = Path(tempfile.mkdtemp(prefix="runstream-bench-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", random.randrange(10_000, 20_000)))  # servers of a cluster meet 10,000 above it
        port = probe.getsockname()[1]
    options = f"--port {port} --bind 127.0.0.1 --appendonly yes --appendfsync everysec --save".split()
    server = subprocess.Popen(
        [find_server_program(), *options, "", *more],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        with redis.Redis(port=port, retry=Retry(ConstantBackoff(0.05), 100)) as client:
            client.ping()
            yield client, directory
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(directory)


def bench_save_event(client: redis.Redis, store: Any, rounds: int, count: int) -> Result:
    def ours() -> float:
        run_id = uuid.uuid4().hex
        events = [event(run_id, seq) for seq in range(count)]
        return timed(count, lambda: [store.save_event(one) for one in events])

    def theirs() -> float:
        key = uuid.uuid4().hex
        record = store._operations.codec.encode_events("r", [event("r", 1)])[0].record
        return timed(count, lambda: [client.xadd(key, {"e": record}) for _ in range(count)])

    return interleaved("save_event", "bare xadd of the same bytes", "events/s", rounds, ours, theirs)


def bench_save_events(client: redis.Redis, store: Any, rounds: int, count: int) -> Result:
    def ours() -> float:
        run_id = uuid.uuid4().hex
        batches = [[event(run_id, seq) for seq in range(100)] for _ in range(count // 100)]
        return timed(count, lambda: [store.save_events(batch) for batch in batches])

    def theirs() -> float:
        key = uuid.uuid4().hex
        events = [[event(key, seq) for seq in range(100)] for _ in range(count // 100)]

        def by_hand() -> None:
            for batch in events:
                pipeline = client.pipeline(transaction=False)
                for one in batch:
                    pipeline.xadd(key, {"e": msgpack.packb(one.to_dict())})
                pipeline.execute()

        return timed(count, by_hand)

    return interleaved("save_events of 100", "pipeline of 100 msgpack + xadd", "events/s", rounds, ours, theirs)


def bench_list_events(client: redis.Redis, store: Any, rounds: int, count: int) -> Result:
    run_id, key = uuid.uuid4().hex, uuid.uuid4().hex
    for first in range(0, count, 1000):
        batch = [event(run_id, first + index) for index in range(1000)]
        store.save_events(batch)
        pipeline = client.pipeline(transaction=False)
        for one in batch:
            pipeline.xadd(key, {"e": msgpack.packb(one.to_dict())})
        pipeline.execute()

    raw: Any = client  # redis-py's stubs make every reply a union of sync and async

    def by_hand() -> list[runstream.PAEvent]:
        events = []
        last = "-"
        while page := raw.xrange(key, last, "+", count=1000):
            for entry_id, fields in page:
                events.append(runstream.PAEvent.from_dict(msgpack.unpackb(fields[b"e"])))
                last = f"({entry_id.decode()}"
        return events

    assert len(by_hand()) == count
    return interleaved(
        f"list_events of {count:,}",
        "xrange pages of 1,000 + msgpack + from_dict",
        "events/s",
        rounds,
        lambda: timed(count, lambda: store.list_events(run_id)),
        lambda: timed(count, by_hand),
    )


def bench_list_the_end(name: str, store: Any, rounds: int, count: int, directory: Path) -> Result:
    """The last ten events of a run, as an agent asks for them that comes back."""
    run_id = uuid.uuid4().hex
    theirs = purpose_agent.SQLiteCheckpointer(str(directory / f"{run_id}.db"))
    events = [event(run_id, seq) for seq in range(1, count + 1)]
    rows = [
        (run_id, one.seq, one.ts, str(one.to_dict()["kind"]), one.lane_id, json.dumps(one.to_dict()))
        for one in events
    ]
    with sqlite3.connect(theirs.db_path) as connection:
        connection.executemany(
            "INSERT INTO events (run_id, seq, ts, kind, lane_id, data) VALUES (?, ?, ?, ?, ?, ?)", rows
        )
    for first in range(0, count, 1000):
        store.save_events(events[first : first + 1000])
    since = count - 10
    assert [one.seq for one in store.list_events(run_id, since)] == list(range(since + 1, count + 1))
    return interleaved(
        f"list_events of the last 10 of {count:,}, {name}",
        "purpose-agent's SQLite store",
        "calls/s",
        rounds,
        lambda: timed(50, lambda: [store.list_events(run_id, since) for _ in range(50)]),
        lambda: timed(50, lambda: [theirs.list_events(run_id, since) for _ in range(50)]),
    )


def bench_drain(client: redis.Redis, directory: Path, rounds: int, runs: int, per_run: int) -> Result:
    count = runs * per_run
    store: Any = runstream.RedisCheckpointer(client, namespace="drain")  # nothing else is due there

    def ours() -> float:
        store_runs = [uuid.uuid4().hex for _ in range(runs)]
        for run_id in store_runs:
            store.save_events([event(run_id, seq) for seq in range(per_run)])
        sink.archive_id  # noqa: B018 - the file is made before the clock starts
        rate = timed(count, lambda: reports.append(worker.drain_once()))
        assert reports[-1].events == count
        for run_id in store_runs:
            store.delete_run(run_id)
        return rate

    sink = runstream.SQLiteCheckpointer(str(directory / "ours.db"))
    worker = runstream.DrainWorker(store, [sink])
    reports: list[runstream.DrainReport] = []

    def theirs() -> float:
        rows = ready_made_rows(per_run, runs)
        connection = sqlite3.connect(directory / "theirs.db")
        copy_schema(directory / "ours.db", connection)

        def by_hand() -> None:
            for first in range(0, count, 1000):
                with connection:
                    connection.executemany(INSERT, rows[first : first + 1000])

        rate = timed(count, by_hand)
        connection.close()
        return rate

    result = interleaved(
        f"drain_once of {count:,} in {runs} runs",
        "executemany of ready-made rows, same schema, pragmas and batch",
        "events/s",
        rounds,
        ours,
        theirs,
    )
    sink.close()
    return result


def bench_idle_runs(client: redis.Redis, directory: Path, rounds: int, idle: int) -> Result:
    """Ten active runs among idle ones, against ten active runs alone: work is proportional to what is new."""

    def drainer(name: str) -> tuple[Any, runstream.DrainWorker]:
        store: Any = runstream.RedisCheckpointer(client, namespace=name)
        return store, runstream.DrainWorker(store, [runstream.SQLiteCheckpointer(str(directory / f"{name}.db"))])

    def rate(store: Any, worker: runstream.DrainWorker) -> float:
        run_ids = [f"active-{number}" for number in range(10)]
        store.save_events([event(run_id, seq) for run_id in run_ids for seq in range(100)])
        reports: list[runstream.DrainReport] = []
        per_second = timed(1000, lambda: reports.append(worker.drain_once()))
        assert reports[0].events == 1000
        return per_second

    among, worker_among = drainer("among")
    alone, worker_alone = drainer("alone")
    for first in range(0, idle, 1000):
        among.save_events([event(f"idle-{number}", 0) for number in range(first, min(first + 1000, idle))])
    assert worker_among.drain_once().events == idle
    return interleaved(
        f"drain_once of 10 active runs among {idle:,} idle ones",
        "the same without the idle ones",
        "events/s",
        rounds,
        lambda: rate(among, worker_among),
        lambda: rate(alone, worker_alone),
    )


def bench_many_lanes(client: redis.Redis, directory: Path, rounds: int, lanes: int) -> Result:
    """A lane of a run of many, against one alone: what is per lane costs only the lanes concerned."""

    def agent(name: str, others: int) -> Callable[[], float]:
        store: Any = runstream.RedisCheckpointer(client, namespace=name)
        worker = runstream.DrainWorker(store, [runstream.SQLiteCheckpointer(str(directory / f"{name}.db"))])
        lane_ids = [f"agent-{number}" for number in range(others)]
        kind = runstream.EventKind.TOOL_RESULT
        for first in range(0, others, 1000):
            of_others = lane_ids[first : first + 1000]
            store.save_events([runstream.create_event("r", kind, seq=1, lane_id=lane) for lane in of_others])
        for lane in lane_ids:
            store.save_snapshot("r", runstream.RunState("r"), lane_id=lane)

        def steps() -> None:
            for _ in range(10):
                store.save_event(event("r", 1))
                worker.drain_once()
                assert len(store.recover("r", lane_id="researcher").events) == 1
                with store.lease("r", owner="bench", lane_id="researcher") as lease:
                    lease.save_snapshot("r", runstream.RunState("r"))
                worker.drain_once()

        return lambda: timed(10, steps)

    among, alone = agent("many-lanes", lanes), agent("one-lane", 0)
    name = f"append, drain, recover, lease, checkpoint of a lane among {lanes:,}"
    return interleaved(name, "the same of a run of one lane", "steps/s", rounds, among, alone)


INSERT = "INSERT INTO events (run_id, seq, ts, kind, lane_id, data, offset, chain) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


def ready_made_rows(per_run: int, runs: int) -> list[tuple[Any, ...]]:
    rows = []
    for _ in range(runs):
        run_id = uuid.uuid4().hex
        for seq in range(per_run):
            one = event(run_id, seq)
            data = dump_json(one.to_dict())
            rows.append((run_id, seq, one.ts, "tool.result", "researcher", data, seq + 1, seq))
    return rows


def copy_schema(path: Path, connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    with sqlite3.connect(path) as source:
        for (sql,) in source.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name = 'events'"
        ):
            if_new = re.sub("^CREATE (TABLE|INDEX|UNIQUE INDEX|TRIGGER) ", r"CREATE \1 IF NOT EXISTS ", sql)
            connection.execute(if_new)
    source.close()


def report(results: list[Result], console: Console) -> None:
    table = Table("what", "ours", "baseline", "ratio", "beside")
    for result in results:
        table.add_row(
            result.name,
            f"{statistics.median(result.ours):,.0f} {result.unit}",
            f"{statistics.median(result.theirs):,.0f} {result.unit}",
            f"{result.ratio:.2f}",
            result.baseline,
        )
    console.print(table)
    slower = [result.name for result in results if result.ratio < 1]
    console.print(f"the baseline wins in: {', '.join(slower) or 'none'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: that it runs, not how fast")
    quick = parser.parse_args().quick
    scale, rounds = (10, 2) if quick else (1, 5)
    console = Console()
    with bench_server() as (client, directory):
        store = runstream.RedisCheckpointer(client)
        server: dict[str, Any] = client.info("server")
        console.print(
            f"{platform.machine()}, {platform.system()}, Python {platform.python_version()},"
            f" redis-py {version('redis')} + hiredis {version('hiredis')},"
            f" {server.get('server_name', 'redis')} {server.get('valkey_version', server['redis_version'])},"
            f" runstream {version('runstream')}"
        )
        report(
            [
                bench_save_event(client, store, rounds, 5000 // scale),
                bench_save_events(client, store, rounds, 20000 // scale),
                bench_list_events(client, store, rounds, 100_000 // scale),
                *(
                    bench_list_the_end(name, one, rounds, 10_000 // scale, directory)
                    for name, one in (
                        ("Redis", store),
                        ("SQLite", runstream.SQLiteCheckpointer(directory / "list.db")),
                        ("JSONL", runstream.JSONLCheckpointer(directory / "list")),
                    )
                ),
                bench_drain(client, directory, min(rounds, 3), 100 // scale, 1000),
                bench_idle_runs(client, directory, rounds, 100_000 // scale),
                bench_many_lanes(client, directory, rounds, 20_000 // scale),
            ],
            console,
        )


if __name__ == "__main__":
    main()
