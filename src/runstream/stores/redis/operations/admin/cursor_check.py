"""Check that a cursor belongs to the history that Redis has, as a reader that goes on from it would."""

from __future__ import annotations

from runstream.codec.event_codec import Codec
from runstream.model.events import PAEvent
from runstream.model.results import Cursor
from runstream.model.state import RunState
from runstream.operations.operation import Operation
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.operations.client.reader import RunReader
from runstream.stores.redis.session.session import Session

__all__ = ["check_cursor"]


def check_cursor(keys: Keys, run_id: str, cursor: Cursor) -> Operation[None]:
    """Raise unless Redis's history of a run has this cursor, or had it before it was trimmed.

    Args:
        keys: The namespace's keys.
        run_id: The run.
        cursor: A cursor of the run, known from elsewhere.

    Raises:
        AcknowledgedWritesLost: The run ends before it.
        StoreUnavailable: The run ends before it on a replica, which may lag behind.
        HistoryDiverged: The run has another history.
    """
    session = Session(Codec[PAEvent, RunState](), keys.namespace, opened=keys)
    yield from RunReader(session, run_id, "raise", None).open(cursor)
