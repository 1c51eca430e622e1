"""What a Run needs of its store, beyond what callers use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from runstream.codec.event_codec import Codec
from runstream.model.protocols import AsyncRunStore, Leased, RunStore
from runstream.model.results import E, Placement, S

__all__ = ["AsyncLaneStore", "LaneStore"]


class LaneStore(RunStore[E, S], Protocol[E, S]):
    """What a Run needs of its store."""

    @property
    def codec(self) -> Codec[E, S]:
        """Makes events and states of the store's types."""

    def append_each(
        self,
        run_id: str,
        events: Iterable[E],
        *,
        expected_offset: int | None = None,
        keys: Sequence[str | None] | None = None,
        lease: Leased | None = None,
        snapshot: S | None = None,
        lane_id: str | None = None,
    ) -> Placement:
        """``append``, telling of each event where it lies and whether its key was known."""

    def last_seq(self, run_id: str, lane_id: str) -> int:
        """The ``seq`` of the lane's last event, also when that has been archived; 0 for a lane without one."""


class AsyncLaneStore(AsyncRunStore[E, S], Protocol[E, S]):
    """:class:`LaneStore`, awaited."""

    @property
    def codec(self) -> Codec[E, S]:
        """Makes events and states of the store's types."""

    async def append_each(
        self,
        run_id: str,
        events: Iterable[E],
        *,
        expected_offset: int | None = None,
        keys: Sequence[str | None] | None = None,
        lease: Leased | None = None,
        snapshot: S | None = None,
        lane_id: str | None = None,
    ) -> Placement:
        """``append``, telling of each event where it lies and whether its key was known."""

    async def last_seq(self, run_id: str, lane_id: str) -> int:
        """The ``seq`` of the lane's last event, also when that has been archived; 0 for a lane without one."""
