"""What a store of one machine must give of its own: the least that the rest of its interface can be made of.

Each is atomic in the store's own medium. What follows from them is in :mod:`runstream.stores.local.operations`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Generic

from runstream.model.events import EventKind, Visibility
from runstream.model.protocols import OnCorrupt
from runstream.model.results import Cursor, E, LeaseGrant, Recorded, RunInfo, S
from runstream.stores.local.append_plan import AppendPlan, AppendRequest, SavedSnapshot

__all__ = ["Primitives"]


class Primitives(ABC, Generic[E, S]):
    """What is abstract here, a store gives."""

    @abstractmethod
    def _commit(self, requests: Sequence[AppendRequest]) -> list[AppendPlan]:
        """Plan and write these appends to different runs, each in one atomic step; nothing for an empty plan."""

    @abstractmethod
    def _load_snapshot(self, run_id: str, lane_id: str | None) -> tuple[SavedSnapshot, dict[str, Any]] | None:
        """The latest snapshot's header and the state as plain data."""

    @abstractmethod
    def _infos(self) -> list[RunInfo]:
        """All runs, in any order."""

    @abstractmethod
    def _bounds(self, run_id: str) -> tuple[Cursor, Cursor] | None:
        """The place before the run's first event and that of its last; None for a run that is not there."""

    @abstractmethod
    def read(
        self,
        run_id: str,
        after: int | str = 0,
        *,
        before: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        on_corrupt: OnCorrupt = "raise",
    ) -> Iterator[Recorded[E]]:
        """The events with ``after < offset < before``."""

    @abstractmethod
    def follow(
        self,
        run_id: str,
        after: int | str = 0,
        *,
        idle_timeout: float | None = None,
        lane_id: str | None = None,
        kinds: Collection[EventKind | str] | None = None,
        visibility: Visibility | str | None = None,
    ) -> Iterator[Recorded[E]]:
        """History, then live. Raises ConfigurationError where there is no live end."""

    @abstractmethod
    def delete_run(self, run_id: str) -> bool:
        """Remove all that this store holds of a run; False if there was nothing.

        Raises LeaseHeld while a lease of it is in force.
        """

    @abstractmethod
    def last_seq(self, run_id: str, lane_id: str) -> int:
        """The ``seq`` of the lane's last event; 0 for a lane that has none."""

    @abstractmethod
    def take_lease(self, run_id: str, *, owner: str, lane_id: str | None, ttl: float) -> LeaseGrant:
        """Give out the lease of one lane, or (None) of the whole run; LeaseHeld where another is in the way."""

    @abstractmethod
    def renew_lease(self, grant: LeaseGrant) -> None:
        """Let it last for its whole ttl from now on. Raises LeaseLost where it has passed on or run out."""

    @abstractmethod
    def release_lease(self, grant: LeaseGrant) -> None:
        """Take it back, unless it has passed on already."""
