"""Processes that write to one run: single events, batches, keys, expected offsets, all mixed."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from runstream import (
    ConcurrencyConflict,
    PAEvent,
    RunstreamError,
    connect,
    connect_async,
)
from tests.support.processes.journal import Journal, Sent
from tests.support.processes.talk import wait_for_all

LANES = 4
SHARED_KEYS = [f"shared-{number}" for number in range(160)]
"""The keys under which every process writes: of all of them, one event each is to be there."""


class Call(NamedTuple):
    """A call of a store's method."""

    method: str
    arguments: Sequence[Any]
    options: Mapping[str, Any] = {}


Work: TypeAlias = Generator[Call, Any, None]
"""What is done to a store, sync or async: it yields calls, and gets their results and errors."""


class Lane:
    """The work of one lane. Each event has a place in a batch of its own, so no two are equal.

    A lane of a process that was killed goes on with the next batch; a batch whose keys are all its own is sent
    again if it got no reply, as an agent does that repeats a step.
    """

    def __init__(self, run_id: str, lane_id: str, events: int, seed: int, journal: Journal) -> None:
        self._run_id = run_id
        self._lane_id = lane_id
        self._journal = journal
        past = journal.past(lane_id)
        self._number = past.batches
        self._seq = past.events
        self._left = max(0, events + len(SHARED_KEYS) - past.events)
        self._unanswered = past.unanswered
        self._stands = 0
        self._dice = random.Random(f"{seed} {lane_id} {past.batches}")
        keys = self._dice.sample(SHARED_KEYS, len(SHARED_KEYS))
        self._shared = [keys[at : at + 8] for at in range(0, len(keys), 8)]

    def work(self) -> Work:
        """Write what is left to write, and meanwhile the shared keys."""
        if self._unanswered is not None and self._unanswered.keys and None not in self._unanswered.keys:
            yield from self._append(keys=self._unanswered.keys)
        ways = (self._single, self._batch, self._own_keys, self._expected)
        pause = self._left // (len(self._shared) + 1)
        for keys in self._shared:
            until = self._left - pause
            while self._left > until:
                (way,) = self._dice.choices(ways, (16, 3, 2, 2))
                yield from way()
            yield from self._append(keys=keys)
        while self._left > 0:
            yield from self._single()

    def _single(self) -> Work:
        batch, events = self._make(1)
        yield Call("save_event", events)
        self._journal.was_told(batch)

    def _batch(self) -> Work:
        size = self._dice.randint(2, 20)
        if self._dice.random() < 0.5:
            yield from self._append(size)
        else:
            batch, events = self._make(size)
            yield Call("save_events", (events,))
            self._journal.was_told(batch)

    def _own_keys(self) -> Work:
        """Events with keys, and in some batches one without; now and then they come again, under the same keys."""
        keys: list[str | None] = [f"{self._lane_id}/{self._number}/{n}" for n in range(self._dice.randint(1, 6))]
        yield from self._append(keys=keys)
        if self._dice.random() < 0.3:
            yield from self._append(keys=keys)
        if self._dice.random() < 0.3:
            yield from self._append(keys=[keys[0], None, f"{keys[0]}+"])

    def _expected(self) -> Work:
        """Right after the last that is known; whoever was refused knows better and tries again."""
        batch, events = self._make(self._dice.randint(1, 3), expected=self._stands)
        while True:
            try:
                at = yield Call("append", (self._run_id, events), {"expected_offset": self._stands})
            except ConcurrencyConflict as conflict:
                expected, actual = conflict.expected, conflict.actual
            else:
                self._stands = at.last_offset
                self._journal.was_told(batch, at.first_offset, at.last_offset)
                return
            assert expected == self._stands < actual
            self._stands = actual
            self._journal.sends(batch._replace(expected=self._stands))

    def _append(self, size: int = 0, *, keys: Sequence[str | None] | None = None) -> Work:
        batch, events = self._make(len(keys) if keys else size, keys=keys)
        at = yield Call("append", (self._run_id, events), {"keys": keys} if keys else {})
        self._stands = max(self._stands, at.last_offset)
        self._journal.was_told(batch, at.first_offset, at.last_offset)

    def _make(self, size: int, **facts: Any) -> tuple[Sent, list[PAEvent]]:
        self._number += 1
        self._left -= size
        batch = Sent(self._lane_id, self._number, size, **facts)
        events = []
        for n in range(size):
            self._seq += 1
            place = {"batch": self._number, "n": n}
            events.append(PAEvent(self._run_id, lane_id=self._lane_id, seq=self._seq, payload=place))
        self._journal.sends(batch)
        return batch, events


def write(url: str, run_id: str, name: str, form: str, events: int, seed: int, journal: str) -> None:
    """Write so many events to a run: in one lane, or in four, each in a thread, task or fork of its own."""
    told = Journal(journal)
    names = [name] if form == "alone" else [f"{name}.{number}" for number in range(LANES)]
    works = [Lane(run_id, lane_id, events // len(names), seed, told).work() for lane_id in names]
    if form == "tasks":
        asyncio.run(_write_in_tasks(url, works))
        return
    with connect(url) as store:
        wait_for_all()
        if form == "forks":
            _write_in_forks(store, PAEvent(run_id, lane_id=name, seq=1, payload={"batch": 1, "n": 0}), told, works)
        else:
            _write_in_threads(store, works)


def _write_in_threads(store: Any, works: Sequence[Work]) -> None:
    with ThreadPoolExecutor(len(works)) as threads:
        for done in [threads.submit(_perform, store, work) for work in works]:
            done.result()


def _write_in_forks(store: Any, first: PAEvent, told: Journal, works: Sequence[Work]) -> None:
    """All over the one store object, which has written before."""
    batch = Sent(first.lane_id, 1, 1)
    told.sends(batch)
    store.save_event(first)
    told.was_told(batch)
    forks = []
    for work in works:
        if (fork := os.fork()) == 0:
            _perform(store, work)
            sys.exit()
        forks.append(fork)
    assert [os.waitpid(fork, 0)[1] for fork in forks] == [0] * len(forks)


def _perform(store: Any, work: Work) -> None:
    with suppress(StopIteration):
        call = next(work)
        while True:
            try:
                result = getattr(store, call.method)(*call.arguments, **call.options)
            except RunstreamError as error:
                call = work.throw(error)
            else:
                call = work.send(result)


async def _write_in_tasks(url: str, works: Iterable[Work]) -> None:
    async with connect_async(url) as store, asyncio.TaskGroup() as tasks:
        await asyncio.to_thread(wait_for_all)
        for work in works:
            tasks.create_task(_perform_async(store, work))


async def _perform_async(store: Any, work: Work) -> None:
    with suppress(StopIteration):
        call = next(work)
        while True:
            try:
                result = await getattr(store, call.method)(*call.arguments, **call.options)
            except RunstreamError as error:
                call = work.throw(error)
            else:
                call = work.send(result)
