"""Leave a run as an append does that the server refuses right after its first write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runstream import PAEvent
from runstream.codec.chain import next_chain
from runstream.codec.record import record_crc
from runstream.model.results import Cursor
from runstream.stores.redis.replies import parse_cursor
from tests.support.operations import session_of

START = Cursor(0, 12345)


def leave_entries(
    store: Any, raw: Any, events: Sequence[PAEvent], keys: Sequence[str | None] | None = None
) -> Cursor:
    """Add entries behind the last one of a run, which its meta does not note; the cursor of the last of them.

    A script of any version that lacks ``hset`` does that.
    """
    session, run_id = session_of(store), events[0].run_id
    run = session.keys.run(run_id)
    noted = raw.hget(run.meta, "last")
    at = START if noted is None else parse_cursor(noted)
    for event in session.codec.encode_events(run_id, events, keys):
        at = Cursor(at.offset + 1, next_chain(at.chain, record_crc(event.record)))
        raw.xadd(run.events, {b"e": event.record}, id=str(at))
    return at
