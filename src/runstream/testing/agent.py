"""An agent that uses runs, and notes what it sent and what it was told.

Each event has a mark in its payload, ``@LANE/NUMBER@``, by which a judge (:mod:`~runstream.testing.judge`) finds
it in whatever bytes it is stored.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar, Protocol

from runstream.model.errors import (
    AcknowledgedWritesLost,
    HistoryDiverged,
    LeaseHeld,
    LeaseLost,
    StoreUnavailable,
)
from runstream.model.events import EventKind, PAEvent

__all__ = ["Agent", "Diary", "mark_of"]

SHARED_KEYS = 40
"""How many keys there are in each run under which every agent writes: of each, one event is to be there."""


def mark_of(event: Any) -> Any:
    """The mark of an event; None for one that has none."""
    names = ("mark", "answer", "result", "error")
    return next((event.payload[name] for name in names if name in event.payload), None)


class Diary(Protocol):
    """Where an agent notes what it does, so that it outlives the agent."""

    def note(self, value: Any) -> None:
        """Write one more line."""


class Agent:
    """Appends single events and batches, with keys of its own and with those that all agents share."""

    sizes: ClassVar[Sequence[int]] = (1, 1, 1, 2, 3, 20)
    """How many events a batch may have, each as often as it is named."""

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
        size = self.dice.choice(self.sizes)
        marks = [self.mark(self._number + n) for n in range(1, size + 1)]
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

    def mark(self, number: int) -> str:
        """The mark of the event that it sends as the one with this number."""
        return f"@{self.name}/{number}@"

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
            except LeaseHeld:  # whoever has the whole run gives it back soon
                time.sleep(0.05)
