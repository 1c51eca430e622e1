"""Agents that use runs in all the ways there are, and note what they sent and what they were told.

Each event has a mark in its payload, ``@LANE/NUMBER@``, by which a judge (:mod:`~runstream.testing.judge`) finds
it in whatever bytes it is stored.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, Protocol

from runstream.model.errors import (
    AcknowledgedWritesLost,
    ConcurrencyConflict,
    EventsArchived,
    HistoryDiverged,
    LeaseHeld,
    LeaseLost,
    StoreUnavailable,
    TooManyHotEvents,
)
from runstream.model.events import EventKind, PAEvent
from runstream.model.state import RunState

__all__ = ["AGENTS", "MOST_HOT_EVENTS", "Agent", "Diary"]

LEASE_SECONDS = 2.0
MOST_HOT_EVENTS = 20
"""How many events a run may have where all expect that."""
SHARED_KEYS = 40
"""How many keys there are in each run under which every agent writes: of each, one event is to be there."""


class Diary(Protocol):
    """Where an agent notes what it does, so that it outlives the agent."""

    def note(self, value: Any) -> None:
        """Write one more line."""


class Agent:
    """Appends single events and batches, with keys of its own and with those that all agents share."""

    def __init__(self, store: Any, name: str, run_ids: Sequence[str], told: Diary, dice: random.Random) -> None:
        self.store = store
        self.name = name
        self.run_ids = run_ids
        self.told = told
        self.dice = dice
        self._number = 0

    def take_turn(self) -> None:
        """Do one thing to one run, until it was told what came of it."""
        run_id = self.dice.choice(self.run_ids)
        size = self.dice.choice([1, 1, 1, 2, 3, 20])
        marks = [f"@{self.name}/{self._number + n}@" for n in range(1, size + 1)]
        self._number += size
        keys = self.choose_keys(marks)
        self.told.note(["sends", run_id, marks, keys])
        try:
            first = self._until_told(run_id, [self.event(run_id, mark) for mark in marks], keys)
        except (AcknowledgedWritesLost, HistoryDiverged):
            self._lost(run_id)
        except StoreUnavailable:  # the server's clock has leapt, and nobody can tell any more
            pass
        else:
            self.told.note(["told", run_id, marks, first])
        time.sleep(self.dice.uniform(0, 0.02))

    def settle(self) -> None:
        """Touch each run once more: what was lost is told by then."""
        for run_id in self.run_ids:
            for mark in ("last", "last2"):  # of the first one, nobody may be able to tell what became of it
                with suppress(LeaseHeld, LeaseLost, StoreUnavailable):
                    try:
                        self._until_told(run_id, [self.event(run_id, f"@{self.name}/{mark}@")], None)
                        break
                    except (AcknowledgedWritesLost, HistoryDiverged):
                        self._lost(run_id)
                        break

    def choose_keys(self, marks: Sequence[str]) -> list[str] | None:
        """The keys of events with these marks, or none."""
        chance = self.dice.random()
        if chance < 0.2:
            return [mark.strip("@") for mark in marks]
        if chance < 0.3 and len(marks) == 1:
            return [f"shared-{self.dice.randrange(SHARED_KEYS)}"]
        return None

    def event(self, run_id: str, mark: str) -> PAEvent:
        """One event of this agent's lane."""
        number = mark.partition("/")[2].strip("@")
        seq = int(number) if number.isdecimal() else 2**40
        return PAEvent(run_id, lane_id=self.name, seq=seq, kind=EventKind.TOOL_RESULT, payload=self.payload(mark))

    def payload(self, mark: str) -> dict[str, Any]:
        """What an event with this mark carries."""
        return {"mark": mark, "text": "x" * self.dice.choice([10, 100, 3000])}

    def write(self, run_id: str, events: Sequence[PAEvent], keys: Sequence[str] | None) -> int:
        """Append them, and return the offset of the first."""
        first: int = self.store.append(run_id, events, keys=keys).first_offset
        return first

    def begin_anew(self, run_id: str) -> None:
        """Take a run as it is now."""
        self.store.forget(run_id)

    def _lost(self, run_id: str) -> None:
        self.told.note(["lost", run_id])
        self.begin_anew(run_id)

    def _until_told(self, run_id: str, events: Sequence[PAEvent], keys: Sequence[str] | None) -> int:
        while True:
            try:
                return self.write(run_id, events, keys)
            except StoreUnavailable as error:
                if error.is_final:
                    raise
            time.sleep(0.002)


class InLeases(Agent):
    """Writes each batch under a lease on its lane, which it keeps as long as it can."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lane = self.name
        self._leases: dict[str, Any] = {}

    def choose_keys(self, marks: Sequence[str]) -> list[str] | None:
        return [mark.strip("@") for mark in marks]  # so that a batch may come again under another lease

    def write(self, run_id: str, events: Sequence[PAEvent], keys: Sequence[str] | None) -> int:
        while True:
            try:
                lease = self._leases.get(run_id) or self.store.lease(
                    run_id, owner=self.name, lane_id=self.lane, ttl=LEASE_SECONDS, wait=30.0
                )
                self._leases[run_id] = lease
                marks = [event.payload["mark"] for event in events]
                self.told.note(["leased", run_id, self.lane, marks, lease.epoch])
                first: int = lease.append(run_id, events, keys=keys).first_offset
            except (LeaseLost, LeaseHeld):
                self._drop(run_id)
            else:
                return first

    def begin_anew(self, run_id: str) -> None:
        self._drop(run_id)
        super().begin_anew(run_id)

    def settle(self) -> None:
        super().settle()
        self._drop_all()

    def _drop_all(self) -> None:
        for run_id in list(self._leases):
            self._drop(run_id)

    def _drop(self, run_id: str) -> None:
        lease = self._leases.pop(run_id, None)
        if lease is not None:
            with suppress(StoreUnavailable, LeaseLost, AcknowledgedWritesLost, HistoryDiverged):
                lease.release()


class Contending(InLeases):
    """Writes under leases on a lane that it shares, one at a time, and gives each back."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lane = "contended"

    def event(self, run_id: str, mark: str) -> PAEvent:
        return replace(super().event(run_id, mark), lane_id=self.lane)

    def write(self, run_id: str, events: Sequence[PAEvent], keys: Sequence[str] | None) -> int:
        for other in self._leases.keys() - {run_id}:  # whoever held one and waited for another might wait for ever
            self._drop(other)
        return super().write(run_id, events, keys)

    def take_turn(self) -> None:
        super().take_turn()
        self._drop_all()


class InRuns(Agent):
    """Emits through a Run, and sends again what got no reply as the error says."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._runs: dict[str, Any] = {}

    def choose_keys(self, marks: Sequence[str]) -> list[str] | None:  # noqa: ARG002 - a Run's events have no keys
        """None."""
        return None

    def write(
        self,
        run_id: str,
        events: Sequence[PAEvent],
        keys: Sequence[str] | None,  # noqa: ARG002 - as above
    ) -> int:
        """Emit them."""
        run = self._runs.get(run_id)
        if run is None:
            run = self._runs[run_id] = self._open_run(run_id)
        if run.lane_id != self.name:  # its process was forked, and the parent goes on in that lane, too
            self.told.note(["lane", run_id, run.lane_id, [event.payload["mark"] for event in events]])
        emissions = [(event.kind, event.payload) for event in events]
        try:
            recorded = run.emit_many(emissions)
        except StoreUnavailable as error:
            recorded = self._resent(error)
        number = str(events[-1].payload["mark"]).strip("@").partition("/")[2]
        if number.isdecimal():
            run.state.current_step = run.state.data["number"] = int(number)
            run.state.data["agent"] = self.name
        if self.dice.random() < 0.1:
            self._checkpoint(run_id, run)
        first: int = recorded[0].offset
        return first

    def _checkpoint(self, run_id: str, run: Any) -> None:
        with suppress(StoreUnavailable):  # the next covers as much
            try:
                run.checkpoint()
            except (
                EventsArchived,
                ConcurrencyConflict,
            ):  # it was retired, a twin has saved another, or that was lost
                del self._runs[run_id]

    def _open_run(self, run_id: str) -> Any:
        """Go on where its lane left off; in another lane where what that needs has left Redis for the archives."""
        lane_id = self.name
        for number in count(2):
            try:
                return self.store.open_run(run_id, lane_id=lane_id)
            except EventsArchived:
                lane_id = f"{self.name}.{number}"
        raise AssertionError("unreachable")

    @staticmethod
    def _resent(error: StoreUnavailable) -> Any:
        while error.resend is not None and not error.is_final:
            try:
                return error.resend()
            except StoreUnavailable as next_error:
                error = next_error
                time.sleep(0.002)
        raise error

    def begin_anew(self, run_id: str) -> None:
        self._runs.pop(run_id, None)
        super().begin_anew(run_id)


class Counter(Agent):
    """Adds one to the state of a run, over and over."""

    def take_turn(self) -> None:
        run_id = self.dice.choice(self.run_ids)
        self._number += 1
        self.told.note(["adds", run_id])
        with suppress(StoreUnavailable):  # as above
            self._until_told(run_id, (), None)
            self.told.note(["added", run_id])
        time.sleep(self.dice.uniform(0, 0.05))

    def write(
        self,
        run_id: str,
        events: Sequence[PAEvent],  # noqa: ARG002 - there are none
        keys: Sequence[str] | None,  # noqa: ARG002 - as above
    ) -> int:
        """Add one."""
        # of another number it is another change: what is not known of one is said of that one alone
        state = self.store.update_state(run_id, partial(_add_one, self._number), attempts=1_000_000)
        step: int = state.current_step
        return step

    def settle(self) -> None:
        """It has sent no event."""


class Reading(Agent):
    """Looks now and then where a run ends before it appends, so that it knows what others have written."""

    def choose_keys(self, marks: Sequence[str]) -> list[str] | None:  # noqa: ARG002 - such an append is not the fastest
        """None."""
        return None

    def write(self, run_id: str, events: Sequence[PAEvent], keys: Sequence[str] | None) -> int:
        if self.dice.random() < 0.7:
            with suppress(EventsArchived):
                list(self.store.read(run_id, reverse=True, limit=1))
        return super().write(run_id, events, keys)


class Expecting(Agent):
    """Appends where it expects the run to end, and notes what is refused: that must not be there."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._ends: dict[str, int] = {}

    def choose_keys(self, marks: Sequence[str]) -> list[str] | None:  # noqa: ARG002 - known ones would not be written
        """None."""
        return None

    def take_turn(self) -> None:
        """Append, until it was where it expected."""
        while not self._is_appended():
            time.sleep(self.dice.uniform(0, 0.02))

    def _is_appended(self) -> bool:
        run_id = self.dice.choice(self.run_ids)
        self._number += 1
        mark = f"@{self.name}/{self._number}@"
        end = self._ends.setdefault(run_id, 0)
        self.told.note(["sends", run_id, [mark], None])
        try:
            first = self._until_told(run_id, [self.event(run_id, mark)], None)
        except ConcurrencyConflict as error:
            self.told.note(["refused", run_id])
            self._ends[run_id] = error.actual
        except TooManyHotEvents:
            self.told.note(["refused", run_id])
            return True
        except StoreUnavailable:  # as above
            return True
        else:
            self.told.note(["told", run_id, [mark], first])
            if first != end + 1:
                raise AssertionError(f"{mark} lies at {first}, and was to follow {end}")
            self._ends[run_id] = first
            self._check_room(run_id)
            return True
        return False

    def _check_room(self, run_id: str) -> None:
        """There are never more events than may be, where all writers have this limit."""
        with suppress(StoreUnavailable):
            info = self.store.run_info(run_id)
            if info.last_offset - info.first_hot >= MOST_HOT_EVENTS:
                raise AssertionError(f"{info} has more events than may be")

    def write(self, run_id: str, events: Sequence[PAEvent], keys: Sequence[str] | None) -> int:
        first: int = self.store.append(
            run_id, events, keys=keys, expected_offset=self._ends.get(run_id)
        ).first_offset
        return first

    def settle(self) -> None:
        """What it was told is where it was told."""


def _add_one(_: int, state: RunState) -> None:
    state.current_step += 1


AGENTS: Mapping[str, type[Agent]] = {
    "plain": Agent,
    "async": Agent,
    "resends": Agent,
    "leases": InLeases,
    "contends": Contending,
    "runs": InRuns,
    "counts": Counter,
    "expects": Expecting,
    "reads": Reading,
}
