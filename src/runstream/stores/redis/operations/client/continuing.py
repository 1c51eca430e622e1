"""The reads of a run that goes on in Redis where an archive ends, which they check in the same exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic

from runstream.model.results import Cursor, E, Recorded, Recovery, S
from runstream.model.run_head import RunHead
from runstream.operations.arguments import ReadQuery
from runstream.operations.operation import Operation, Stream
from runstream.stores.redis.operations.client import look_ups, read, recover
from runstream.stores.redis.operations.client.border import Border
from runstream.stores.redis.operations.client.list_events import list_events
from runstream.stores.redis.session.session import Session

__all__ = ["Continuing"]


class Continuing(Generic[E, S]):
    """Reads of runs that go on in Redis from a cursor. All raise RunElsewhere for a run that does not.

    Args:
        session: The store's.
        end: The cursor of the last event that an archive has; None: it does not know the run.
    """

    def __init__(self, session: Session[E, S], end: Cursor | None) -> None:
        self._session = session
        self._border = Border(end)

    def read(self, run_id: str, query: ReadQuery, head_of: Callable[[RunHead], object]) -> Stream:
        """The events between two offsets that are the run's own."""
        return read.read(self._session, run_id, query, None, self._border, head_of)

    def find(self, run_id: str, keys: Sequence[str]) -> Operation[tuple[list[int | None], bool]]:
        """The offsets of the run's own events that have these keys, and whether it is a fork."""
        return look_ups.find_after(self._session, run_id, keys, self._border)

    def read_at(self, run_id: str, offsets: Iterable[int]) -> Operation[list[Recorded[E]]]:
        """The run's own events at these offsets, in the order in which they are asked for."""
        return look_ups.read_at(self._session, run_id, offsets, self._border)

    def list_events(self, run_id: str, since_seq: int) -> Operation[list[E]]:
        """The events whose ``seq`` is over ``since_seq``, in log order."""
        return list_events(self._session, run_id, since_seq, self._border)

    def recover(self, run_id: str, lane_id: str | None) -> Operation[Recovery[S, E]]:
        """The latest snapshot and the events after it; nothing of a run that neither has."""
        border = self._border._replace(may_be_absent=True)
        return recover.recover(self._session, run_id, lane_id, border)
