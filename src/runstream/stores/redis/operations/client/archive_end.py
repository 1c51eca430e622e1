"""Compare a run with where an archive of it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runstream.codec.chain import former_chain
from runstream.codec.record import is_sound, record_crc
from runstream.model.results import Cursor
from runstream.model.run_head import RunHead, written_as
from runstream.operations.operation import Command
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.replies import parse_cursor, parse_records

__all__ = ["end_query", "goes_on"]


def end_query(keys: RunKeys, end: Cursor) -> Command:
    """The command whose reply :func:`goes_on` reads: for the entry there, or the one after it."""
    return (b"XRANGE", keys.events, str(end.offset), str(end.offset + 1), b"COUNT", 1)


def goes_on(run_id: str, head: RunHead, end: Cursor, entries: Sequence[Any]) -> bool:
    """Whether a run may go on from a cursor that it had.

    Where Redis has neither the entry there nor the one after it, nor notes that cursor, nothing refutes it.
    """
    if end.offset <= head.lowest.offset:
        return end == head.lowest
    known = [head.mark, head.last]
    for entry, record in zip(entries, parse_records(entries), strict=True):
        at = parse_cursor(entry[0])
        if at.offset == end.offset:
            known.append(at)
        # the chain before an entry can be told from it and its checksum
        elif is_sound(written_as(run_id, head.origins, at.offset), record):
            known.append(Cursor(at.offset - 1, former_chain(at.chain, record_crc(record))))
    return all(at == end for at in known if at.offset == end.offset)
