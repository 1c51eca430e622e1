"""An agent that changes the tags of runs, and what a judge says of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from runstream.model.errors import AcknowledgedWritesLost, HistoryDiverged, StoreUnavailable
from runstream.model.events import PAEvent
from runstream.testing.agent import Agent

__all__ = ["Finding", "Tagging", "ToldTags"]


def _too(name: str) -> str:
    """The tag that has the same value as the tag of that name: both are changed in one step."""
    return f"{name} too"


class Tagging(Agent):
    """Changes two tags of its own with each batch, or without any event, and removes both now and then."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._changes = 0

    def take_turn(self) -> None:
        """Write events with tags, or change tags alone."""
        if self.dice.random() < 0.5:
            super().take_turn()
            return
        run_id = self.dice.choice(self.run_ids)
        try:
            self._until_told(run_id, (), None)
        except (AcknowledgedWritesLost, HistoryDiverged):
            self._lost(run_id)
        except StoreUnavailable:  # as of events
            pass
        time.sleep(self.dice.uniform(0, 0.02))

    def choose_keys(self, marks: Sequence[str]) -> list[str] | None:  # noqa: ARG002 - known ones would change no tags
        """None."""
        return None

    def write(
        self,
        run_id: str,
        events: Sequence[PAEvent],
        keys: Sequence[str] | None,  # noqa: ARG002 - there are none
    ) -> int:
        """Append them with the tags."""
        tags = dict.fromkeys((self.name, _too(self.name)), self._value)
        first: int = self.store.append(run_id, events, tags=tags).first_offset
        return first

    @property
    def _value(self) -> str | None:
        return None if self._changes % 4 == 0 else str(self._changes)

    def _until_told(self, run_id: str, events: Sequence[PAEvent], keys: Sequence[str] | None) -> int:
        self._changes += 1
        self.told.note(["tags", run_id, self.name, self._value])
        first = super()._until_told(run_id, events, keys)
        self.told.note(["tagged", run_id, self.name, self._value])
        return first


class Finding(Tagging):
    """Looks now and then whether a run is found by the tags that it has just set: its server loses nothing."""

    def _until_told(self, run_id: str, events: Sequence[PAEvent], keys: Sequence[str] | None) -> int:
        first = super()._until_told(run_id, events, keys)
        if self.dice.random() < 0.3:
            with suppress(StoreUnavailable):
                self._look(run_id)
        return first

    def _look(self, run_id: str) -> None:
        tags = self.store.run_info(run_id).tags
        if tags.get(self.name) != self._value:
            raise AssertionError(f"{self.name} has set {self._value}, and {run_id} has {tags}")
        if self._value is not None:
            found = [info.run_id for info in self.store.runs(tags={self.name: self._value})]
            if found != [run_id]:
                raise AssertionError(f"by {self.name}={self._value} {found} are found, not {run_id}")


@dataclass
class ToldTags:
    """What one agent says about its tags of one run.

    Attributes:
        possible: The values that they may have; None: there are no such tags.
        is_settled: It was told of the last one, and has come to its end.
    """

    possible: list[str | None] = field(default_factory=lambda: [None])
    is_settled: bool = False

    def note(self, value: str | None, *, is_told: bool, is_settled: bool) -> None:
        """Take note that it has sent this value, or was told of it; and whether it comes to its end."""
        self.is_settled = is_told and is_settled
        self.possible = [value] if is_told else [*self.possible, value]

    @staticmethod
    def faults(told: Mapping[str, ToldTags], tags: Mapping[str, str], *, losses: bool) -> Iterator[str]:
        """What is wrong with the tags of a run, given what each agent was told of its own.

        Args:
            told: By the agents' names.
            tags: The run's tags.
            losses: The server has lost what it had acknowledged: only what was told after that counts.
        """
        for name, its in told.items():
            value, other = tags.get(name), tags.get(_too(name))
            if value != other:
                yield f"the tags of {name} are {value} and {other}, and were set in one step"
            if value not in its.possible and (its.is_settled or not losses):
                yield f"the tag of {name} is {value}, and may be {its.possible}"
