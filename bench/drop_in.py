"""What purpose-agent's users gain or lose by the switch: its four methods, on our stores and on its own.

    python bench/drop_in.py [--quick] [--cpu] [--only TEXT]

All stores take turns within each round. A ratio is how many times as long ours takes as its store, the median over
the rounds: below 1 ours is faster. Ours are opened through ``runstream.integrations.purpose_agent.connect`` with
its types, and by ``runstream.connect`` with the default ones. What its SQLite store writes is on the disk when the
call returns, and so with our SQLite and JSONL; its JSONL store never calls fsync, and Redis does once a second.

What a network costs is in two rows more: the embedded server by redis-py, each value as JSON in a field or entry,
and how long redis-py's commands alone take of that.
"""

from __future__ import annotations

import argparse
import gc
import json
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import redis
from purpose_agent import runtime as their_types
from purpose_agent.runtime.checkpoint import JSONLCheckpointer, SQLiteCheckpointer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

import runstream
from bench import event
from runstream.integrations.purpose_agent import connect

OURS = {"sqlite": "sqlite:{}/ours.db", "jsonl": "jsonl:{}/ours", "embedded": "embedded:{}/state"}
MANY = 18_000  # small values that have 1 MB together
LARGE_TIMES = 8  # so many large states, and SQLite carries its log over into the file in each round
DEFAULT = " (default types)"
BARE, ALONE = "redis-py, JSON", "redis-py alone"
BASELINES = {"sqlite": SQLiteCheckpointer, "jsonl": JSONLCheckpointer}


class BareRedis:
    """Redis without runstream: each event an entry of a stream, each key of a state a field of a hash, as JSON.

    Attributes:
        alone: The seconds that redis-py's commands have taken.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._client: Any = redis.Redis(unix_socket_path=str(path))
        self._clock = clock
        self.alone = 0.0

    def _send(self, *command: Any) -> Any:
        begun = self._clock()
        reply = self._client.execute_command(*command)
        self.alone += self._clock() - begun
        return reply

    def save_event(self, event: Any) -> None:
        self._send("XADD", f"bare:{event.run_id}", f"{event.seq}-0", "e", json.dumps(event.to_dict(), default=str))

    def list_events(self, run_id: str, since_seq: int) -> list[Any]:
        found = self._send("XRANGE", f"bare:{run_id}", f"({since_seq}-0" if since_seq else "-", "+")
        return [their_types.PAEvent.from_dict(json.loads(fields[b"e"])) for _, fields in found]

    def save_snapshot(self, run_id: str, state: Any) -> None:
        fields = state.to_dict()
        fields |= {f"data:{key}": value for key, value in fields.pop("data").items()}
        parts = [part for key, value in fields.items() for part in (key, json.dumps(value, default=str))]
        self._send("HSET", f"bare:{run_id}", *parts)

    def load_latest(self, run_id: str) -> Any:
        fields: dict[str, Any] = {"data": {}}
        for name, value in self._send("HGETALL", f"bare:{run_id}").items():
            key = name.decode()
            into, key = (fields["data"], key[5:]) if key.startswith("data:") else (fields, key)
            into[key] = json.loads(value)
        return their_types.RunState.from_dict(fields)


@dataclass
class Store:
    """A store that takes part, and the module of its types."""

    name: str
    store: Any
    types: Any

    def forget(self, run_id: str) -> None:
        """Let the next load of a run be the first one of this store, as that of a process which has just begun."""
        if self.types is runstream or hasattr(self.store, "forget"):
            self.store.forget(run_id)


Steps = Iterator[Callable[[], object]]
"""What is to be done, one after the other; only these calls are timed, not what lies between them."""

Operation = Callable[[Store], Steps]


def stores(directory: Path, stack: ExitStack, clock: Callable[[], float]) -> list[Store]:
    found = [
        Store(f"its {name}", kind(str(directory / f"its-{name}")), their_types) for name, kind in BASELINES.items()
    ]
    for name, url in OURS.items():
        store: Any = stack.enter_context(connect(url.format(directory)))
        found.append(Store(name, store, their_types))
        store = stack.enter_context(runstream.connect(url.format(directory)))
        found.append(Store(name + DEFAULT, store, runstream))
    found.append(Store(BARE, BareRedis(directory / "state" / "server.sock", clock), their_types))
    return found


def states(scale: int) -> dict[str, dict[str, Any]]:
    """What states hold: of 1 KB, and of 1 MB in two ways."""
    many = {f"key-{number}": {"value": number, "text": "x" * 20} for number in range(MANY // scale)}
    return {
        "1 KB": {"notes": "x" * 700, "step": 3},
        "1 MB of many keys": many,
        "1 MB of one string": {"text": "x" * (2**20 // scale)},
    }


def save_event(count: int) -> Operation:
    def steps(one: Store) -> Steps:
        run_id = uuid.uuid4().hex
        for each in [event(run_id, seq, one.types) for seq in range(1, count + 1)]:
            yield partial(one.store.save_event, each)

    return steps


def save_first(data: dict[str, Any], count: int) -> Operation:
    def steps(one: Store) -> Steps:
        for _ in range(count):
            run_id = uuid.uuid4().hex
            state = one.types.RunState(run_id, data=dict(data))
            yield partial(one.store.save_snapshot, run_id, state)

    return steps


def save_again(data: dict[str, Any], count: int) -> Operation:
    def steps(one: Store) -> Steps:
        state = one.types.RunState(run_id := uuid.uuid4().hex, data=dict(data))
        one.store.save_snapshot(run_id, state)
        for number in range(count):
            state.current_step, state.data["changed"] = number, number
            yield lambda: one.store.save_snapshot(run_id, state)

    return steps


def load(data: dict[str, Any], count: int, *, first: bool) -> Operation:
    def steps(one: Store) -> Steps:
        state = one.types.RunState(run_id := uuid.uuid4().hex, data=dict(data))
        one.store.save_snapshot(run_id, state)
        assert one.store.load_latest(run_id).data == data
        for _ in range(count):
            if first:
                one.forget(run_id)
            yield lambda: one.store.load_latest(run_id)

    return steps


def list_events(everyone: list[Store], count: int, last: int | None) -> Operation:
    """List a run of ``count`` events, or the ``last`` ones of it: those after the step that a state is at."""
    run_id, since = uuid.uuid4().hex, 0 if last is None else count - last
    for one in everyone:
        events = [event(run_id, seq, one.types) for seq in range(1, count + 1)]
        if one.name.endswith(DEFAULT):
            continue  # the other store of the same archive or server has them
        if isinstance(one.store, SQLiteCheckpointer):
            its_rows(one.store, events)
        elif isinstance(one.store, JSONLCheckpointer | BareRedis):
            for each in events:
                one.store.save_event(each)
        else:
            one.store.save_events(events)

    def steps(one: Store) -> Steps:
        assert len(one.store.list_events(run_id, since)) == count - since
        for _ in range(1 if last is None else 20):
            yield lambda: one.store.list_events(run_id, since)

    return steps


def its_rows(store: SQLiteCheckpointer, events: list[Any]) -> None:
    """The rows that its ``save_event`` makes, in one transaction: one for each takes minutes."""
    rows = [(e.run_id, e.seq, e.ts, e.kind.value, e.lane_id, json.dumps(e.to_dict())) for e in events]
    with sqlite3.connect(store.db_path) as connection:
        connection.executemany(
            "INSERT INTO events (run_id, seq, ts, kind, lane_id, data) VALUES (?, ?, ?, ?, ?, ?)", rows
        )


def operations(everyone: list[Store], scale: int) -> Iterator[tuple[str, Operation]]:
    yield "save_event", save_event(100 // scale)
    for name, data in states(scale).items():
        count = (20 if name == "1 KB" else LARGE_TIMES) // scale or 1
        yield f"save_snapshot of {name}, the first", save_first(data, count)
        yield f"save_snapshot of {name}, two values changed", save_again(data, count)
        yield f"load_latest of {name}, the first", load(data, count, first=True)
        yield f"load_latest of {name}, again", load(data, count, first=False)
    events = 10_000 // scale
    yield f"list_events of {events:,}", list_events(everyone, events, None)
    yield f"list_events of the last 10 of {events:,}", list_events(everyone, events, 10)


def seconds_of(one: Store, steps: Steps, clock: Callable[[], float]) -> tuple[float, float]:
    """The seconds that a step takes, and those of them that redis-py's commands take of BareRedis."""
    gc.collect()
    took, alone, count = 0.0, 0.0, 0
    for step in steps:
        before = getattr(one.store, "alone", 0.0)
        begun = clock()
        step()
        took, count = took + clock() - begun, count + 1
        alone += getattr(one.store, "alone", 0.0) - before
    return took / count, alone / count


def compared(
    operation: Operation, everyone: list[Store], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """The seconds that each store takes, round by round; of several rounds the first one warms up."""
    took: dict[str, list[float]] = {name: [] for name in (*(one.name for one in everyone), ALONE)}
    for number in range(rounds):
        turn = number % len(everyone)
        for one in everyone[turn:] + everyone[:turn]:
            seconds, alone = seconds_of(one, operation(one), clock)
            took[one.name].append(seconds)
            if one.name == BARE:
                took[ALONE].append(alone)
    return {name: seconds[rounds > 1 :] for name, seconds in took.items()}


def ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def table_of(what: str, took: dict[str, list[float]]) -> Table:
    """The table of an operation: its name stands above, where there is room for it in 80 columns."""
    its = [f"× its {base}" for base in BASELINES]
    store = Column("store", no_wrap=True)
    table = Table(store, "ms", *its, "default types: ms", *its, title=what, title_justify="left", box=SIMPLE)
    for name in [f"its {base}" for base in BASELINES] + [ALONE, BARE, *OURS]:
        cells = [name]
        for each in (name, name + DEFAULT):
            if each in took:
                cells.append(f"{1000 * statistics.median(took[each]):.2f}")
                bases = [] if name.startswith("its ") else BASELINES
                cells += [f"{ratio(took[each], took[f'its {base}']):.2f}" for base in bases]
        table.add_row(*cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: that it runs, not how fast")
    parser.add_argument("--cpu", action="store_true", help="this process's CPU time, not the time that passes")
    parser.add_argument("--only", default="", help="only the operations whose names have this in them")
    given = parser.parse_args()
    scale, rounds = (10, 1) if given.quick else (1, 12)
    clock = time.process_time if given.cpu else time.perf_counter
    console = Console()
    with tempfile.TemporaryDirectory(prefix="runstream-bench-") as name, ExitStack() as stack:
        everyone = stores(Path(name), stack, clock)
        for what, operation in operations(everyone, scale):
            if given.only in what:
                console.print(table_of(what, compared(operation, everyone, rounds, clock)))


if __name__ == "__main__":
    main()
