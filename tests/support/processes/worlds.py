"""What processes of the tests do.

``python -m tests.support.processes.worlds WORLD ARGUMENTS`` runs a function of :data:`WORLDS`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, TypeAlias

from runstream import (
    DrainWorker,
    LeaseLost,
    PAEvent,
    RunCancelled,
    RunState,
    RunstreamError,
    connect,
    connect_async,
)
from runstream.operations.operation import Operation
from tests.support.operations import operations_of
from tests.support.processes.agents import act, watch
from tests.support.processes.journal import Diary, Journal, Sent
from tests.support.processes.players import play
from tests.support.processes.talk import wait_for_all, wait_for_word
from tests.support.processes.writers import write

Json: TypeAlias = dict[str, Any]


# -- draining, up to a moment


MOMENTS = ("write", "written", "proven")
"""Before the first archive is written, after the last was, after the proof. Any other: how a statement begins."""


def drain(url: str, archives: Sequence[str], moment: str, trim: str, claim_seconds: float) -> None:
    """Drain once; stand still at a moment, say so, and go on at the parent's word. Then tell the report."""
    with ExitStack() as opened:
        hot: Any = opened.enter_context(connect(url))
        sinks: list[Any] = [opened.enter_context(connect(target)) for target in archives]
        if moment in MOMENTS:
            place = 0 if moment == "write" else -1
            sinks[place] = _Standing(sinks[place], moment)
        else:
            _stand_at_statement(sinks[-1], moment)
        worker = DrainWorker(hot, sinks, trim=trim, claim_seconds=claim_seconds)  # type: ignore[arg-type]  # a stand-in for a sink
        print(json.dumps(worker.drain_once().to_dict()), flush=True)


class _Standing:
    """A sink that stands still once, at a moment, until the parent says anything."""

    def __init__(self, sink: Any, moment: str) -> None:
        self._sink = sink
        self._moments = [moment]
        self._has_snapshots = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    def write(self, batches: Sequence[Any]) -> None:
        self._stand("write")
        self._has_snapshots = any(batch.snapshots for batch in batches)
        self._sink.write(batches)
        self._stand("written")

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[Any]:
        yield from self._sink.read_back(run_id, first, last)
        if not self._has_snapshots:  # they come after
            self._stand("proven")

    def read_back_snapshots(self, run_id: str) -> Any:
        found = self._sink.read_back_snapshots(run_id)
        self._stand("proven")
        return found

    def _stand(self, moment: str) -> None:
        if moment in self._moments:
            self._moments.remove(moment)
            print(moment, flush=True)
            wait_for_word()


def _stand_at_statement(archive: Any, beginning: str) -> None:
    """Stand still before a statement of a writing transaction, with pages of it in the file's log already."""
    awaited = ["BEGIN IMMEDIATE", beginning]

    def trace(statement: str) -> None:
        if len(awaited) == 2 and statement.startswith(awaited[0]):
            awaited.pop(0)
        if len(awaited) == 1 and statement.startswith(awaited[0]):
            print(awaited.pop(), flush=True)
            wait_for_word()

    with operations_of(archive)._file.use() as connection:
        connection.execute("PRAGMA cache_size = 2")  # pages: what does not fit is written before the commit
        connection.set_trace_callback(trace)


# -- counting


def count(url: str, run_id: str, name: str, times: int) -> None:
    """Add one to the run's state, so many times."""

    def add_one(state: RunState) -> None:
        state.current_step += 1
        state.data[name] = state.data.get(name, 0) + 1

    with connect(url) as store:
        wait_for_all()
        for _ in range(times):
            # whoever is refused has been overtaken, so all others together can refuse it so often
            store.update_state(run_id, add_one, attempts=1_000_000)


# -- holding a lease


def hold(
    url: str, run_id: str, lane_id: str | None, ttl: float, form: str, journal: str, payload_bytes: int
) -> None:
    """Take a lease and write under it: once and then wait for a word, or in a loop until the lease is lost.

    Then tell whether it knew by itself, and what became of all that can be tried under it.
    """
    told = Journal(journal)
    batches = _batches_without_end(run_id, lane_id or "main", payload_bytes)
    if form == "task":
        asyncio.run(_hold_in_task(url, run_id, lane_id, ttl, batches, told))
        return
    with connect(url) as store:
        wait_for_all()
        lease = store.lease(run_id, owner="holder", lane_id=lane_id, ttl=ttl)
        with suppress(LeaseLost):
            for batch, events in batches:
                told.sends(batch)
                at = lease.append(run_id, events)
                told.was_told(batch, at.first_offset, at.last_offset)
                if form == "waits":
                    wait_for_word()
                    break
        knew, outcomes = lease.lost, {}
        for name, attempt in _attempts(store, lease, next(batches)[1]).items():
            try:
                outcomes[name] = str(attempt())
            except RunstreamError as error:
                outcomes[name] = type(error).__name__
        print(json.dumps({"knew": knew, "lost": lease.lost, "outcomes": outcomes}), flush=True)
        lease.release()


async def _hold_in_task(
    url: str, run_id: str, lane_id: str | None, ttl: float, batches: Batches, told: Journal
) -> None:
    async with connect_async(url) as store:
        wait_for_all()  # no other task does anything yet
        lease = await store.lease(run_id, owner="holder", lane_id=lane_id, ttl=ttl)
        with suppress(LeaseLost):
            for batch, events in batches:
                told.sends(batch)
                at = await lease.append(run_id, events)
                told.was_told(batch, at.first_offset, at.last_offset)
        knew, outcomes = lease.lost, {}
        for name, attempt in _attempts(store, lease, next(batches)[1]).items():
            try:
                outcomes[name] = str(await attempt())
            except RunstreamError as error:
                outcomes[name] = type(error).__name__
        print(json.dumps({"knew": knew, "lost": lease.lost, "outcomes": outcomes}), flush=True)
        await lease.release()


Batches: TypeAlias = Iterator[tuple[Sent, list[PAEvent]]]


def _batches_without_end(run_id: str, lane_id: str, payload_bytes: int) -> Batches:
    """Batches of two events."""
    for number in itertools.count(1):
        events = [
            PAEvent(run_id, lane_id=lane_id, seq=seq, payload={"by": "holder", "text": "x" * payload_bytes})
            for seq in (2 * number - 1, 2 * number)
        ]
        yield Sent(lane_id, number, 2), events


def _attempts(store: Any, lease: Any, events: Sequence[PAEvent]) -> dict[str, Callable[[], Any]]:
    """All that can be sent under a lease, to the store and through the lease."""
    run_id, lane_id, state = lease.run_id, lease.lane_id, RunState(lease.run_id)
    return {
        "check": lease.check,
        "append": lambda: store.append(run_id, events, lease=lease),
        "append a key": lambda: store.append(run_id, events[:1], keys=["key"], lease=lease),
        "append a snapshot": lambda: store.append(run_id, events, snapshot=state, lane_id=lane_id, lease=lease),
        "save a snapshot": lambda: store.save_snapshot(run_id, state, lane_id=lane_id, lease=lease),
        "update the state": lambda: store.update_state(run_id, lambda state: state, lease=lease),
        "the lease's append": lambda: lease.append(run_id, events),
        "the lease's event": lambda: lease.save_event(events[0]),
        "the lease's events": lambda: lease.save_events(events),
        "the lease's snapshot": lambda: lease.save_snapshot(run_id, state),
    }


# -- following


def follow(url: str, run_id: str, after: int | str) -> None:
    """Tell each event's offset as it comes, and the error that ends it."""
    with connect(url) as store:
        try:
            for item in store.follow(run_id, after):
                print(item.offset, flush=True)
        except RunstreamError as error:
            print(json.dumps(facts(error)), flush=True)


def facts(error: RunstreamError) -> Json:
    """An error's name and attributes."""
    return {"error": type(error).__name__, **vars(error)}


def _fail(failure: threading.ExceptHookArgs) -> None:
    """What a thread fails with fails its process, also in threads that a store has for itself."""
    threading.__excepthook__(failure)
    os._exit(1)


# -- waiting for a person


def ask(url: str, run_id: str) -> None:
    """Ask what was not asked yet, and wait for the answer under a lease on the whole run; tell it, or the end."""
    with connect(url) as store:
        try:
            with store.open_run(run_id) as run:
                if not run.recovered.offset:
                    run.pause("Ship it?", key="ship")
                with store.lease(run_id, owner="asker", ttl=60):
                    print("asked", flush=True)
                    print(json.dumps(run.wait()), flush=True)
                run.checkpoint()
        except RunCancelled as told:
            print(told.reason, flush=True)


# -- taking a durable step


def step(url: str, effects: str, moment: str) -> None:
    """Take a step whose effect is a line in a file, and tell its result.

    It stands still at a moment, says so, and goes on at the parent's word: when the effect is there (``called``),
    or when the result is recorded too (``recorded``).
    """
    told = Diary(effects)
    with connect(url) as store:
        run: Any = store.open_run("r")

        def call(operation_id: str) -> int:
            told.note(operation_id)
            if moment == "called":
                wait_for_all()
            return os.getpid()

        if moment == "recorded":
            keeping = run._keeping

            def stand(*args: Any) -> Operation[Any]:
                result = yield from keeping(*args)
                wait_for_all()
                return result

            run._keeping = stand
        print(run.once("pay", call, run.operation_id("pay")), flush=True)


WORLDS: Mapping[str, Callable[..., None]] = {
    world.__name__: world for world in (write, play, act, watch, drain, count, hold, follow, ask, step)
}


def main() -> None:
    """Run the world that the process was started for."""
    threading.excepthook = _fail
    WORLDS[sys.argv[1]](**json.loads(sys.argv[2]))


if __name__ == "__main__":
    main()
