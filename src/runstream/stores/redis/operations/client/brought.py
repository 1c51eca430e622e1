"""What a wait has brought to a follower: the next entries of its run, where they prove it.

They were read over a connection that many followers share, without the entry that this follower has read last. In
its place stands the chain: that of each entry is made of the one before. Where meta, which is read after them,
notes these entries for that very run, they are its next ones. In all other cases the follower reads a page of its
own, and tells what is wrong.
"""

from __future__ import annotations

from runstream.codec.chain import next_chain
from runstream.codec.record import record_crc
from runstream.model.errors import CorruptRecordError
from runstream.model.results import Cursor
from runstream.model.run_head import RunHead
from runstream.operations.operation import News
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.operations.client.run_head import parse_head
from runstream.stores.redis.replies import parse_cursor, parse_records

__all__ = ["entries_at_once", "next_in"]

_MOST = 8
_MOST_BYTES = 65_536


def entries_at_once(head: RunHead) -> int:
    """How many entries a wait may bring to a follower of a run; at least 1.

    What is the largest of those that come is not known yet. So they are few: what is sent to all followers of a
    connection has no page's bound.
    """
    return 1 if head.largest is None else max(1, min(_MOST, _MOST_BYTES // head.largest))


def next_in(
    keys: RunKeys, known: RunHead, seen: Cursor | None, news: News | None
) -> tuple[RunHead, list[tuple[Cursor, bytes]]] | None:
    """Where a run stands, and its next entries; None where what was brought does not prove that.

    Args:
        keys: The run's keys.
        known: Where it stood.
        seen: The cursor that was read last.
        news: What was brought.
    """
    if news is None or seen is None or seen.offset != known.last.offset:
        return None
    try:
        head = parse_head(keys, news.look)
    except CorruptRecordError:
        return None
    if head.run_start != known.run_start:
        return None
    found: list[tuple[Cursor, bytes]] = []
    at = seen
    for (entry_id, _), record in zip(news.entries, parse_records(news.entries), strict=True):
        cursor = parse_cursor(entry_id)
        if at.offset < cursor.offset <= head.last.offset:
            if cursor != (at.offset + 1, next_chain(at.chain, record_crc(record))):
                return None
            found.append((cursor, record))
            at = cursor
    is_last = at.offset == head.last.offset
    return (head, found) if found and (at == head.last or not is_last) else None
