"""Agents that use runs in all the ways there are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, ClassVar

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
from runstream.model.events import PAEvent
from runstream.model.state import RunState
from runstream.testing.agent import Agent
from runstream.testing.saving import Checkpointing, Saving

__all__ = ["AGENTS", "MOST_HOT_EVENTS", "InRuns"]

LEASE_SECONDS = 2.0
MOST_HOT_EVENTS = 20
"""How many events a run may have where all expect that."""


class Telling(Agent):
    """Writes one event at a time, without a key."""

    sizes = (1,)

    def choose_keys(self, marks: Sequence[str]) -> list[str] | None:  # noqa: ARG002 - its events have none
        """None."""
        return None


class InLeases(Agent):
    """Writes each batch under a lease on its lane, which it keeps as long as it can."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lane: str | None = self.name
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


class Owning(InLeases):
    """Writes under leases on whole runs, one at a time, and gives each back."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lane = None

    def write(self, run_id: str, events: Sequence[PAEvent], keys: Sequence[str] | None) -> int:
        for other in self._leases.keys() - {run_id}:  # whoever held one and waited for another might wait for ever
            self._drop(other)
        return super().write(run_id, events, keys)

    def take_turn(self) -> None:
        super().take_turn()
        self._drop_all()


class Contending(Owning):
    """Does so on a lane that it shares."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lane = "contended"

    def event(self, run_id: str, mark: str) -> PAEvent:
        return replace(super().event(run_id, mark), lane_id="contended")


class InRuns(Agent):
    """Emits through a Run, and sends again what got no reply as the error says."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._runs: dict[str, Any] = {}
        self._given_up: set[str] = set()
        """The runs whose states may lack an event that was written since: nobody has asked what became of it."""

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
        run = self._run(run_id)
        if run.lane_id != self.name:  # its process was forked, and the parent goes on in that lane, too
            self.told.note(["lane", run_id, run.lane_id, [event.payload["mark"] for event in events]])
        try:
            recorded = self._emitted(run, [(event.kind, event.payload) for event in events])
        except StoreUnavailable:
            self._given_up.add(run_id)
            raise
        number = str(events[-1].payload["mark"]).strip("@").partition("/")[2]
        if number.isdecimal():
            self._count(run, int(number))
            self._given_up.discard(run_id)
        # a twin's state, with which the run was opened again, lacks what the twin has written since
        is_mine = run.state.data.get("agent") == self.name and run_id not in self._given_up
        if self.dice.random() < 0.1 and is_mine:
            self._checkpoint(run_id, run)
        first: int = recorded[0].offset
        return first

    def _emitted(self, run: Any, emissions: Sequence[Any]) -> Any:
        try:
            return run.emit_many(emissions)
        except StoreUnavailable as error:
            return self._resent(error)

    def _run(self, run_id: str) -> Any:
        run = self._runs.get(run_id)
        if run is None:
            run = self._runs[run_id] = self._open_run(run_id)
        return run

    def _count(self, run: Any, number: int) -> None:
        run.state.current_step = run.state.data["number"] = number
        run.state.data["agent"] = self.name

    def _checkpoint(self, run_id: str, run: Any) -> None:
        with suppress(StoreUnavailable, LeaseHeld):  # the next covers as much
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
        """Take a run as it is now, and open it anew."""
        self._runs.pop(run_id, None)
        super().begin_anew(run_id)


class Counter(Agent):
    """Adds one to the state of a run, over and over."""

    def take_turn(self) -> None:
        run_id = self.dice.choice(self.run_ids)
        self._number += 1
        self.told.note(["adds", run_id])
        with suppress(StoreUnavailable):  # as above
            try:
                self._until_told(run_id, (), None)
            except EventsArchived:
                # the first state of a run of which something was trimmed that a lane's state covers
                if self.store.load_snapshot(run_id) is not None:
                    raise
            else:
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


class Scattering(Agent):
    """Writes in many lanes of one session, with seqs that fall, and saves states of lanes, whoever did before."""

    sizes = (1, 1, 2, 90)
    lanes: ClassVar[int] = 180

    def mark(self, number: int) -> str:
        lane = number % self.lanes if number % 3 else 0
        return f"@{self.name}.{lane}/{number}@"

    def choose_keys(self, marks: Sequence[str]) -> list[Any] | None:
        """The keys of some events of a batch, and of others none."""
        if self.dice.random() < 0.5:
            return None
        return [mark.strip("@") if number % 2 else None for number, mark in enumerate(marks)]

    def event(self, run_id: str, mark: str) -> PAEvent:
        lane_id = mark.strip("@").partition("/")[0]
        event = super().event(run_id, mark)
        return replace(event, lane_id=lane_id, session_id=self.name, seq=self.dice.randrange(10))

    def payload(self, mark: str) -> dict[str, Any]:
        return {"mark": mark, "text": "x" * self.dice.choice([10, 10, 10, 5000])}

    def write(self, run_id: str, events: Sequence[PAEvent], keys: Sequence[str] | None) -> int:
        first = super().write(run_id, events, keys)
        last = events[-1]
        number = str(last.payload["mark"]).strip("@").partition("/")[2]
        if number.isdecimal() and self.dice.random() < 0.5:
            state = RunState(run_id=run_id, current_step=int(number), data={"number": int(number)})
            with suppress(StoreUnavailable, LeaseHeld, EventsArchived):  # the next covers as much
                self.store.save_snapshot(run_id, state, lane_id=last.lane_id)
                self.store.save_snapshot(run_id, state, lane_id="of all")
        return first


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
    "tells": Telling,
    "resends": Agent,
    "leases": InLeases,
    "contends": Contending,
    "owns": Owning,
    "runs": InRuns,
    "counts": Counter,
    "expects": Expecting,
    "reads": Reading,
    "scatters": Scattering,
    "saves": Saving,
    "checkpoints": Checkpointing,
}
