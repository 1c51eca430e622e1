"""Encode values as msgpack bytes, and decode them equal.

Lists, strings, dicts and numbers are plain msgpack, which other programs read; what msgpack has no type for is an
extension type (:mod:`runstream.codec.extension_types`). A value of a subclass is stored as one of its base type (a
named tuple as a tuple): it comes back equal. Equal values give equal bytes, sets included: so bytes can be
compared instead of values.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgpack

from runstream.codec.extension_types import BY_CODE, BY_TYPE, CONTAINERS, SCALARS, TaggedType
from runstream.codec.fallback import plain_data
from runstream.model.errors import EncodingError
from runstream.model.protocols import Fallback

__all__ = ["Packer", "unpack", "unpack_plain"]

_NATIVE = frozenset({type(None), bool, int, float, str, bytes, list, dict})
# how an instance of a subclass becomes its base, without asking methods that the subclass may override
_NATIVE_BASES: tuple[tuple[type[Any], Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, lambda value: bytes(memoryview(value))),
    (list, list.copy),
    (dict, lambda value: dict(dict.items(value))),
)
_MAX_FALLBACKS = 16  # a fallback may give a value that needs the fallback again, but not for ever
_MAX_BLAME_DEPTH = 32
_MAX_TAGGED_DEPTH = 64  # each level is one more call of msgpack's within another, on a stack of C

# what msgpack and a fallback raise for a value that cannot be stored
_REFUSALS = (TypeError, ValueError, OverflowError, RecursionError)


class Packer:
    """Packs values. Safe to share between threads.

    Args:
        fallback: Turns a value of a type that is not stored into one that is; None: such a value is refused.
    """

    def __init__(self, fallback: Fallback | None = plain_data) -> None:
        self.fallback = fallback
        self._free: list[msgpack.Packer] = []  # making one costs as much as packing a small event
        self._own = threading.local()

    def pack(self, value: Any, path: str = "") -> bytes:
        """Pack a value.

        Args:
            value: The value.
            path: What the value is, for the error: ``payload``.

        Returns:
            The bytes.

        Raises:
            EncodingError: A part of it cannot be stored; ``path`` names the part.
        """
        try:
            return self._pack(value)
        except _REFUSALS as error:
            raise self._blame(value, path, error) from error

    def _pack(self, value: Any) -> bytes:
        # one that nobody uses: those of other threads, and of what holds this value, are in the middle of theirs
        try:
            packer = self._free.pop()
        except IndexError:
            packer = msgpack.Packer(default=self._convert, strict_types=True, unicode_errors="surrogatepass")
        packed: bytes = packer.pack(value)
        self._free.append(packer)
        return packed

    def _convert(self, value: Any) -> Any:
        """Turn what msgpack does not pack by itself into something that it does."""
        for _ in range(_MAX_FALLBACKS):
            kind = BY_TYPE.get(type(value)) or next((k for k in _TAGGED if isinstance(value, k.type)), None)
            if kind is not None and kind.type is not int:
                return msgpack.ExtType(kind.code, self._payload(kind, value))
            for base, to_base in _NATIVE_BASES:
                if isinstance(value, base):
                    value = to_base(value)
                    break
            else:
                if self.fallback is None:
                    raise TypeError(
                        f"cannot store a value of type {type(value).__module__}.{type(value).__qualname__}"
                    )
                value = self.fallback(value)
            if type(value) is int and not -(2**63) <= value < 2**64:
                kind = BY_TYPE[int]
                return msgpack.ExtType(kind.code, kind.dump(value).encode())
            if type(value) in _NATIVE:
                return value
        raise TypeError("the fallback never gives a value that can be stored")

    def _payload(self, kind: Any, value: Any) -> bytes:
        if kind in SCALARS:
            return str(kind.dump(value)).encode()
        self._own.depth = depth = getattr(self._own, "depth", 0) + 1
        try:
            if depth > _MAX_TAGGED_DEPTH:
                raise ValueError(f"tuples and sets are nested more than {_MAX_TAGGED_DEPTH} deep")
            return self._container(kind, value)
        finally:
            self._own.depth = depth - 1

    def _container(self, kind: Any, value: Any) -> bytes:
        if kind.type is tuple:
            return self._pack(list(tuple.__iter__(value)))
        # by their bytes: a set has no order of its own, and hashes differ from process to process
        packed = sorted(self._pack(member) for member in value)
        return b"".join((msgpack.Packer().pack_array_header(len(packed)), *packed))

    def _blame(self, value: Any, path: str, error: BaseException) -> EncodingError:
        """Find the innermost part that cannot be packed, and make the error that names it."""
        for _ in range(_MAX_BLAME_DEPTH):
            for step, part in _parts(value):
                try:
                    self._pack(part)
                except _REFUSALS as part_error:
                    value, path, error = part, f"{path}{step}".removeprefix("."), part_error
                    break
            else:
                hint = (
                    "; store plain data, or open the store with fallback=str" if self.fallback is not str else ""
                )
                return EncodingError(f"{path or 'value'}: {error}{hint}", path=path)
        return EncodingError(f"{path}…: nested too deeply, or contains itself", path=path)


_TAGGED = tuple(kind for kind in SCALARS + CONTAINERS if kind.type is not int)


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        named = [(f".{k}" if isinstance(k, str) else f"[{k!r:.80}]", part) for k, part in value.items()]
        return [(f"[key {key!r:.80}]", key) for key in value if not isinstance(key, str)] + named
    if isinstance(value, list | tuple):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    if isinstance(value, set | frozenset):
        return [(f"[{part!r:.80}]", part) for part in value]
    return []


class _Tagged:
    """A container that is not unpacked yet: msgpack within msgpack would grow the stack of C."""

    __slots__ = ("kind", "payload")

    def __init__(self, kind: TaggedType, payload: bytes) -> None:
        self.kind = kind
        self.payload = payload


def unpack(packed: bytes) -> Any:
    """Unpack a value.

    Args:
        packed: What ``Packer.pack`` gave.

    Raises:
        ValueError: No packer of ours wrote these bytes.
    """
    try:
        return _resolve(*_unpack_tagged(packed))
    except (RecursionError, TypeError, ArithmeticError) as error:
        # nested too deeply, an unhashable key or member, a bad Decimal
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _unpack_tagged(packed: bytes) -> tuple[Any, bool]:
    """The value with its tuples and sets still packed, and whether there are any."""
    has_tagged = False

    def load(code: int, payload: bytes) -> Any:
        nonlocal has_tagged
        kind = BY_CODE.get(code)
        if kind is None:
            raise ValueError(f"extension type {code} is not one of ours")
        if kind in SCALARS:
            return kind.load(payload.decode())
        has_tagged = True
        return _Tagged(kind, payload)

    try:
        value = msgpack.unpackb(packed, strict_map_key=False, ext_hook=load, unicode_errors="surrogatepass")
    except (msgpack.UnpackException, TypeError, ArithmeticError) as error:
        # StackError and ExtraData are ValueErrors already; an unhashable key or a bad Decimal is not
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return value, has_tagged


def _resolve(value: Any, has_tagged: bool) -> Any:
    """The value with its tuples and sets unpacked, by calls of Python alone, which need no stack of C."""
    if not has_tagged:
        return value
    if type(value) is _Tagged:
        return value.kind.load(_resolve(*_unpack_tagged(value.payload)))
    if type(value) is list:
        for index, part in enumerate(value):
            value[index] = _resolve(part, True)
    elif type(value) is dict:
        return {_resolve(key, True): _resolve(part, True) for key, part in value.items()}
    return value


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


def unpack_plain(packed: Sequence[bytes]) -> list[Any] | None:
    """Unpack many values at once, if all are plain.

    Plain are strings, finite numbers, None, lists, and dicts with strings as keys. Bytes count as plain too: a
    JSON encoder refuses them by itself.

    Args:
        packed: The bytes of each value.

    Returns:
        The values; None if one of them is not plain, or does not unpack.
    """
    together = b"".join(packed)
    if _find_double(together) or (b"\xca" in together and _find_single(together)):
        return None
    try:
        return list(map(_unpack_plain, packed))
    except (_NotPlain, msgpack.UnpackException, ValueError, TypeError):
        return None
