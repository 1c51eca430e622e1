"""Cursors of many runs in little room: 48 bytes for each, in buckets that are searched in C.

A run is known by 64 bits of a digest of its id. That two of a million runs share them has a probability of 3 in a
hundred million.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import blake2b

from runstream.stores.redis.append_batch import Seen
from runstream.stores.redis.replies import noted_start

__all__ = ["PackedCursors"]

_FACTS = struct.Struct("<QQQQQ")  # offset and chain of the history's start, a fork's identity, the last cursor
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
        base, first_chain, identity, offset, chain = _FACTS.unpack_from(bucket, at + _KEY_BYTES)
        start = b"%d-%d-%d" % (base, first_chain, identity) if identity else b"%d-%d" % (base, first_chain)
        return Seen(start, b"%d-%d" % (offset, chain), offset)

    def put(self, run_id: str, seen: Seen) -> bool:
        """Keep a cursor of a run, in the place of its former one. Returns whether another had to go for it."""
        bucket, key = self._bucket(run_id)
        (start, identity), last = noted_start(seen.start), seen.cursor
        record = key + _FACTS.pack(*start, identity, *last)
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
