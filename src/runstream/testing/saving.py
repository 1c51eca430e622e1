"""Agents that save states of lanes with their events, in the same step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from runstream.model.errors import ConcurrencyConflict, EventsArchived
from runstream.model.events import PAEvent
from runstream.model.state import RunState
from runstream.testing.agent import Agent

__all__ = ["Checkpointing", "Saving", "ends_lanes", "together_with"]


def together_with(lane: str) -> str:
    """The lane whose state is saved in the same step as that of a lane whose agent saves both."""
    return f"{lane} too"


def ends_lanes(number: int) -> bool:
    """Whether an agent that ends its lanes does so with the event of this number."""
    return number % 4 == 0


class Saving(Agent):
    """Saves with each batch the state of its lane and of another one, which no event is in, in the same step.

    Both states have the text of the last event, which travels once. Now and then it ends both lanes with that.
    """

    def states(self, run_id: str, number: int, text: str) -> dict[str, RunState]:
        """The states of lanes that it saves with the event of this number: the same each time that it is sent.

        With another state it would be another call.
        """
        return dict.fromkeys((self.name, together_with(self.name)), _state(run_id, number, text=text))

    def write(self, run_id: str, events: Sequence[PAEvent], keys: Sequence[str] | None) -> int:
        """Append them with the states."""
        mark, text = events[-1].payload["mark"], events[-1].payload["text"]
        number = str(mark).strip("@").partition("/")[2]
        states = self.states(run_id, int(number), text) if number.isdecimal() else {}
        if not states:
            return super().write(run_id, events, keys)
        ended = list(states) if together_with(self.name) in states and ends_lanes(int(number)) else ()
        for _ in range(3):
            with suppress(EventsArchived):
                try:
                    appended = self.store.append(run_id, events, keys=keys, snapshots=states, end_lanes=ended)
                    return int(appended.first_offset)
                except ConcurrencyConflict:  # what it has saved was retired, or lost
                    for lane in states:
                        self.store.load_snapshot(run_id, lane_id=lane)
                except EventsArchived:  # a lane has left Redis, and nobody can tell that it is this one's
                    for lane in states:
                        self.store.recover(run_id, lane_id=lane)
        return super().write(run_id, events, keys)


class Checkpointing(Saving):
    """Saves the state of its lane, and no other, with most events, which have keys, as a checkpointer does."""

    sizes = (1, 1, 1, 1, 2)

    def choose_keys(self, marks: Sequence[str]) -> list[str] | None:
        """Those that come with a state have keys of their own, if no others."""
        keys = super().choose_keys(marks)
        return [mark.strip("@") for mark in marks] if keys is None and self._number % 3 else keys

    def states(self, run_id: str, number: int, text: str) -> dict[str, RunState]:
        """The state of its lane, or none."""
        return {self.name: _state(run_id, number, content=text)} if number % 3 else {}


def _state(run_id: str, number: int, **data: str) -> RunState:
    now = float(number)
    return RunState(run_id, current_step=number, data={"number": number, **data}, started_at=now, updated_at=now)
