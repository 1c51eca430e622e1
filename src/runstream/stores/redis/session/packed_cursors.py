"""Cursors of many runs in little room: 40 bytes for each, in buckets that are searched in C.

A run is known by 64 bits of a digest of its id. That two of a million runs share them has a probability of 3 in a
hundred million.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import blake2b

from runstream.stores.redis.append_batch import Seen
from runstream.stores.redis.replies import parse_cursor

__all__ = ["PackedCursors"]

_FACTS = struct.Struct("<QQQQ")  # offset and chain of the history's start, offset and chain of the last cursor
_KEY_BYTES = 8
_BYTES = _KEY_BYTES + _FACTS.size
_BUCKETS = 4096


class PackedCursors:
    """The last cursor that was seen of each of many runs.

    Args:
        most: How many to keep at most, about: each bucket keeps its share, and drops its oldest for a new one.
    """

    def __init__(self, most: int) -> None:
        self._most_bytes = max(1, most // _BUCKETS) * _BYTES
        self._buckets: dict[int, bytearray] = {}

    def get(self, run_id: str) -> Seen | None:
        """What was put last for a run; None for nothing."""
        bucket, key = self._bucket(run_id)
        at = _find(bucket, key)
        if at is None:
            return None
        base, history, offset, chain = _FACTS.unpack_from(bucket, at + _KEY_BYTES)
        return Seen(b"%d-%d" % (base, history), b"%d-%d" % (offset, chain), offset)

    def put(self, run_id: str, seen: Seen) -> bool:
        """Keep a cursor of a run, in the place of its former one. Returns whether another had to go for it."""
        bucket, key = self._bucket(run_id)
        start, last = parse_cursor(seen.start), seen.cursor
        record = key + _FACTS.pack(start.offset, start.chain, last.offset, last.chain)
        at = _find(bucket, key)
        if at is not None:
            bucket[at : at + _BYTES] = record
            return False
        bucket += record
        is_over = len(bucket) > self._most_bytes
        if is_over:
            del bucket[:_BYTES]
        return is_over

    def forget(self, run_id: str) -> None:
        """Keep nothing of a run."""
        bucket, key = self._bucket(run_id)
        at = _find(bucket, key)
        if at is not None:
            del bucket[at : at + _BYTES]

    def _bucket(self, run_id: str) -> tuple[bytearray, bytes]:
        key = blake2b(run_id.encode(), digest_size=_KEY_BYTES).digest()
        return self._buckets.setdefault(int.from_bytes(key[:2], "big") % _BUCKETS, bytearray()), key


def _find(bucket: bytearray, key: bytes) -> int | None:
    return next((at for at in _places(bucket, key) if at % _BYTES == 0), None)


def _places(bucket: bytearray, key: bytes) -> Iterator[int]:
    at = bucket.find(key)
    while at >= 0:
        yield at
        at = bucket.find(key, at + 1)
