"""What Python holds for what a store object remembers, in bytes, about."""

from __future__ import annotations

from sys import getsizeof

from runstream.codec.snapshot_fields import PackedState

__all__ = ["held_bytes"]

_EMPTY_BYTES = getsizeof(b"")
_RANK_BYTES = 32  # of an int, which the smallest ones share


def held_bytes(state: PackedState) -> int:
    """What Python holds for a packed state, also once it was unpacked: small fields take ten times their bytes."""
    names, values = sum(map(len, state.fields)), sum(map(len, state.fields.values()))
    small = (2 * _EMPTY_BYTES + _RANK_BYTES) * len(state.fields)
    large = sum(getsizeof(one.value) for one in state.large.values())
    return names + 2 * values + small + large + getsizeof(state.fields) + getsizeof(state.ranks)
