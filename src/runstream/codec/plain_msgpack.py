"""Unpack many values at once, where all are plain: what an archive keeps as plain JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgpack

__all__ = ["may_have_timestamp", "unpack_plain"]


class _NotPlain(Exception):
    """Raised at the first value that JSON has no type for."""


def _refuse_extension(_code: int, _payload: bytes) -> Any:
    raise _NotPlain


_unpack_plain = partial(
    msgpack.unpackb, strict_map_key=True, ext_hook=_refuse_extension, unicode_errors="surrogatepass"
)

# what may be a float, of 64 bits or of 32, that is infinite or not a number: a JSON encoder makes null of those.
# Two patterns, as each begins with a byte that is searched for at C speed
_find_double = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]").search
_find_single = re.compile(rb"\xca[\x7f\xff][\x80-\xff]").search


def unpack_plain(packed: Sequence[bytes], *, is_for_json: bool = True) -> list[Any] | None:
    """Unpack many values at once, if all are plain.

    Plain are strings, finite numbers, None, lists, and dicts with strings as keys. Bytes count as plain too: a
    JSON encoder refuses them by itself.

    Args:
        packed: The bytes of each value.
        is_for_json: Whether numbers must be finite: a search through all bytes.

    Returns:
        The values; None if one of them is not plain, or does not unpack.
    """
    together = b"".join(packed)
    if is_for_json and (_find_double(together) or (b"\xca" in together and _find_single(together))):
        return None
    if may_have_timestamp(together):
        return None
    try:
        return list(map(_unpack_plain, packed))
    except (_NotPlain, msgpack.UnpackException, ValueError, TypeError):
        return None


def may_have_timestamp(packed: bytes) -> bool:
    """Whether there may be an extension of type -1, which msgpack makes a Timestamp of without asking.

    Args:
        packed: The bytes of one value or of several.
    """
    return b"\xff" in packed and (b"\xd6\xff" in packed or b"\xd7\xff" in packed or b"\xc7\x0c\xff" in packed)
