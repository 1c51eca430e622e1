"""What each thing takes of a server's memory: bytes for an event, a run, a lane, a key; and partitions by shard.

    python bench/sizing.py [--quick]

The bytes are slopes: what the memory in use grows by when as many again are added to so many, without what the
append-only file's buffer and the connections take. docs/sizing.md has them, and what follows from them. The other
tables are the processor time of appends and of archiving, what an idle worker takes that asks so many partitions
for work, and how partitions spread over a cluster.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from rich.console import Console
from rich.table import Table

import runstream
from bench import bench_server

RUN = "run-of-the-benchmark-{:015d}"  # 36 bytes, as a UUID has
PAYLOAD = 150


@dataclass
class World:
    """A server, a namespace on it, and an archive that is as new."""

    client: redis.Redis
    archive: runstream.SQLiteCheckpointer[Any, Any]
    opened: ExitStack
    store: Any = field(init=False)

    def __post_init__(self) -> None:
        self.client.flushall()
        self.store = self.another()

    def another(self) -> Any:
        """Another store over the namespace, as another process has."""
        return runstream.RedisCheckpointer(self.client)

    def drain(self, **options: Any) -> None:
        """Archive all, and trim what may go."""
        runstream.DrainWorker(self.store, [self.archive], batch=5000, **options).drain_once()


def event(run_id: str, seq: int, payload: int = PAYLOAD, **more: Any) -> runstream.PAEvent:
    return runstream.PAEvent(run_id, seq=seq, kind="tool.result", payload={"text": "x" * payload}, **more)


def state(run_id: str, status: str = "running", size: int = PAYLOAD) -> runstream.RunState:
    return runstream.RunState(run_id=run_id, status=runstream.RunStatus(status), data={"result": "x" * size})


Numbers = Iterable[int]
Adds = Callable[[World, Numbers], None]


def events(payload: int) -> Adds:
    """Events of one run, as most are appended, a few at once."""

    def add(world: World, numbers: Numbers) -> None:
        chosen = list(numbers)
        for at in range(0, len(chosen), 5):
            world.store.append("r", [event("r", n + 1, payload) for n in chosen[at : at + 5]])

    return add


def runs(world: World, numbers: Numbers) -> None:
    for n in numbers:
        world.store.append(RUN.format(n), [event(RUN.format(n), 1)])


def runs_with_long_ids(world: World, numbers: Numbers) -> None:
    for n in numbers:
        run_id = RUN.format(n).rjust(100, "x")
        world.store.append(run_id, [event(run_id, 1)])


def runs_in_sessions(world: World, numbers: Numbers) -> None:
    for n in numbers:
        world.store.append(RUN.format(n), [event(RUN.format(n), 1, session_id=f"session-{n:028d}")])


def states(size: int) -> Adds:
    """States of runs that are there already."""

    def add(world: World, numbers: Numbers) -> None:
        for n in numbers:
            world.store.save_snapshot(RUN.format(n), state(RUN.format(n), size=size))

    return add


def idle_runs(world: World, numbers: Numbers) -> None:
    _with_states(world, numbers, "running")
    world.drain()


def ended_runs(world: World, numbers: Numbers) -> None:
    _with_states(world, numbers, "completed")
    world.drain(retire_after_seconds=0)
    forget_writers(world)


def waiting_runs(world: World, numbers: Numbers) -> None:
    _with_states(world, numbers, "running")
    world.drain(retire_idle_seconds=0)
    forget_writers(world)


def _with_states(world: World, numbers: Numbers, status: str) -> None:
    for n in numbers:
        run_id = RUN.format(n)
        world.store.append(run_id, [event(run_id, 1)], snapshot=state(run_id, status))


def forget_writers(world: World) -> None:
    """Let the worker do what it does ten minutes after a run was retired: its writers' last batches go."""
    client: Any = world.client  # the stubs have unions of sync and async
    for key in client.scan_iter("{*}:leftovers"):
        client.zadd(key, {run_id: at - 1e9 for run_id, at in client.zrange(key, 0, -1, withscores=True)})
    world.drain()


def lanes(world: World, numbers: Numbers) -> None:
    """Lanes that have a state each, ten of a run."""
    for n in numbers:
        run_id, lane = of_ten(n)
        world.store.append(run_id, [event(run_id, 1, lane_id=lane)], lane_id=lane, snapshot=state(run_id))
    world.drain()


def ended_lanes(world: World, numbers: Numbers) -> None:
    for n in numbers:
        run_id, lane = of_ten(n)
        world.store.append(run_id, [event(run_id, 1, lane_id=lane)], end_lanes=[lane])
    world.drain(trim="archived")


def of_ten(number: int) -> tuple[str, str]:
    """A run and a lane of it."""
    return RUN.format(number % 100), f"researcher-{number // 100:05d}"


def hundred_runs(world: World, _: Numbers) -> None:
    runs(world, range(100))
    world.drain(trim="archived")


def keys(world: World, numbers: Numbers) -> None:
    """Callers' keys of events that are archived and gone: the keys stay."""
    for n in numbers:
        world.store.append("r", [event("r", n + 1)], keys=[f"{n:036d}"])
    world.drain(trim="archived")


def tags(world: World, numbers: Numbers) -> None:
    """A tag that has another value for each run."""
    for n in numbers:
        world.store.append(RUN.format(n), [], tags={"user": f"{n:036d}"})


def writers(world: World, numbers: Numbers) -> None:
    """Stores, as processes have one each, that have written to a run."""
    for n in numbers:
        run_id, _ = of_ten(n)
        world.another().append(run_id, [event(run_id, n + 2)])
    world.drain(trim="archived")


def leases(world: World, numbers: Numbers) -> None:
    for n in numbers:
        run_id, lane = of_ten(n)
        world.store.lease(run_id, owner="worker-1", lane_id=lane, ttl=3600)


def connections(world: World, numbers: Numbers) -> None:
    pool = world.client.connection_pool
    for _ in numbers:
        world.opened.callback(pool.release, pool.get_connection())


@dataclass
class Thing:
    """What is counted: how it is added, how many, and what is there first."""

    add: Adds
    count: int = 2000
    first: Adds | None = None


THINGS = {
    "an event with 10 bytes of payload": Thing(events(10), 10_000),
    "an event with 150 bytes of payload": Thing(events(150), 10_000),
    "an event with 1,000 bytes of payload": Thing(events(1_000), 4000),
    "an event with 10,000 bytes of payload": Thing(events(10_000), 1000),
    "a run with one event that is not archived": Thing(runs),
    "the same, with an id of 100 bytes": Thing(runs_with_long_ids),
    "the same, with a session of its own": Thing(runs_in_sessions),
    "a state with 150 bytes of data": Thing(states(150), first=runs),
    "a state with 10,000 bytes of data": Thing(states(10_000), 500, runs),
    "an idle run: archived, with its state": Thing(idle_runs),
    "a run that has ended, retired": Thing(ended_runs),
    "a run that has not ended, retired": Thing(waiting_runs),
    "a tag of a run, with a value of its own": Thing(tags, first=runs),
    "a lane with its state, archived": Thing(lanes, 500, hundred_runs),
    "a lane that has ended, archived": Thing(ended_lanes, 500, hundred_runs),
    "a caller's key of 36 bytes": Thing(keys),
    "a process that has written to a run": Thing(writers, 500, hundred_runs),
    "a lease on a lane": Thing(leases, 500, hundred_runs),
    "a connection": Thing(connections, 40),
}

OPTIONS = ["--zset-max-listpack-entries", "4"]
"""The sets of runs are as in a namespace of many runs, those of sessions small."""


def memory(client: redis.Redis) -> int:
    """What is in use, beside what the append-only file's buffer takes."""
    facts: Any = client.info("memory")
    return int(facts["used_memory"]) - int(facts.get("mem_aof_buffer", 0))


def bytes_for_each(client: redis.Redis, directory: Path, thing: Thing, count: int) -> float:
    """By how much the memory grows for each of so many, when there are so many already."""
    path = directory / f"{time.monotonic_ns()}.db"
    with runstream.SQLiteCheckpointer[Any, Any](path) as archive, ExitStack() as opened:
        world = World(client, archive, opened)
        if thing.first is not None:
            thing.first(world, range(2 * count))
        sizes = []
        for numbers in (range(count), range(count, 2 * count)):
            thing.add(world, numbers)
            if thing.add is not connections:  # what they hold is not what is counted
                client.client_kill_filter(_type="normal", skipme=True)
            sizes.append(memory(client))
        return (sizes[1] - sizes[0]) / count


def idle_cost(client: redis.Redis, directory: Path, partitions: int, seconds: float) -> tuple[float, float]:
    """The processor time, in hundredths of a core, that an idle worker takes, and its server for it."""
    client.flushall()
    store: Any = runstream.RedisCheckpointer(client, partitions=partitions)
    stop = threading.Event()
    with runstream.SQLiteCheckpointer[Any, Any](directory / f"{partitions}.db") as archive:
        worker = threading.Thread(target=runstream.DrainWorker(store, [archive]).run, args=(stop,))
        worker.start()
        time.sleep(min(1, seconds))
        own, servers = time.process_time(), server_seconds(client)
        time.sleep(seconds)
        own, servers = time.process_time() - own, server_seconds(client) - servers
        stop.set()
        worker.join()
    return 100 * own / seconds, 100 * servers / seconds


def server_seconds(client: redis.Redis) -> float:
    facts: Any = client.info("cpu")
    return float(facts["used_cpu_user"] + facts["used_cpu_sys"])


def work_cost(client: redis.Redis, directory: Path, count: int) -> Iterator[tuple[str, float, float]]:
    """The processor time, in microseconds for each event, of the process that does it and of the server."""
    with runstream.SQLiteCheckpointer[Any, Any](directory / "work.db") as archive, ExitStack() as opened:
        world = World(client, archive, opened)

        def append() -> None:
            for n in range(count):
                world.store.append(RUN.format(n % 100), [event(RUN.format(n % 100), n // 100 + 1)])

        def begin() -> None:
            runs(world, range(100, 100 + count))

        for name, work in (
            ("to append an event to a run that is there", append),
            ("to archive it, of many of its run, in SQLite", world.drain),
            ("to append the first event of a run", begin),
            ("to archive it, the only one of its run", world.drain),
        ):
            own, servers = time.process_time(), server_seconds(client)
            work()
            own, servers = time.process_time() - own, server_seconds(client) - servers
            yield name, 1e6 * own / count, 1e6 * servers / count


def by_shard(namespace: str, partitions: int, shards: int) -> list[int]:
    """How many partitions each of so many shards gets that have the slots in equal parts, as clusters are made."""
    slots = (key_slot(f"{{{namespace}:{number}}}:due".encode()) for number in range(partitions))
    counted = Counter(slot * shards // REDIS_CLUSTER_HASH_SLOTS for slot in slots)
    return [counted[shard] for shard in range(shards)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: that it runs, not how much")
    parser.add_argument("--node-bytes", type=int, default=4096, help="the server's stream-node-max-bytes")
    options = parser.parse_args()
    scale = 10 if options.quick else 1
    console = Console()
    sizes = Table("what", "bytes", title="bytes in Redis", box=None)
    work = Table("what", "process", "server", title="microseconds of a processor", box=None)
    idle = Table("partitions", "worker", "server", title="an idle worker, in hundredths of a core", box=None)
    with bench_server(*OPTIONS, "--stream-node-max-bytes", str(options.node_bytes)) as (client, directory):
        for name, thing in THINGS.items():
            sizes.add_row(name, f"{round(bytes_for_each(client, directory, thing, thing.count // scale)):,}")
        for what, *took in work_cost(client, directory, 5000 // scale):
            work.add_row(what, *(f"{each:.0f}" for each in took))
        for partitions in (16, 256, 1024, 4096):
            shares = idle_cost(client, directory, partitions, 5 / scale)
            idle.add_row(f"{partitions:,}", *(f"{each:.1f}" for each in shares))
    spread = Table(
        "partitions", "shards", "fewest", "most", "most / mean", title="partitions of a shard", box=None
    )
    for shards in (3, 10, 100):
        for partitions in (16, 64, 256, 1024, 4096):
            found = by_shard("runstream", partitions, shards)
            share = f"{max(found) * shards / partitions:.2f}"
            spread.add_row(f"{partitions:,}", str(shards), str(min(found)), str(max(found)), share)
    console.print(sizes, work, idle, spread)


if __name__ == "__main__":
    main()
