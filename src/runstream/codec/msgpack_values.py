"""Encode values as msgpack bytes, and decode them equal.

Lists, strings, dicts and numbers are plain msgpack, which other programs read; what msgpack has no type for is an
extension type (:mod:`runstream.codec.extension_types`). Equal values give equal bytes, sets included: so bytes can
be compared instead of values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

import msgpack

from runstream.codec.extension_types import BY_CODE, SCALARS, TaggedType, form_of
from runstream.codec.fallback import plain_data
from runstream.codec.own_stack import with_room
from runstream.codec.plain_msgpack import may_have_timestamp
from runstream.codec.plain_values import MAX_DEPTH, MAX_TAGGED_DEPTH, is_plain, path_to_most, plain_copy
from runstream.model.errors import EncodingError
from runstream.model.protocols import Fallback

__all__ = ["NESTED_FLOOR", "Packer", "most_nested_bytes", "pack_stored", "unpack", "unpack_all"]

_NESTED_FACTOR = 8
NESTED_FLOOR = 2**20
"""How many bytes the tuples and sets in a value may have in all however small it is."""


def most_nested_bytes(size: int) -> int:
    """How many bytes the tuples and sets in a value may have in all, each counted with all that it holds.

    Each is kept while what it holds is decoded: nested ones would take memory by the square of their depth.

    Args:
        size: The size of the packed value in bytes.

    Returns:
        Eight times as many, or 1 MiB if that is more.
    """
    return max(_NESTED_FACTOR * size, NESTED_FLOOR)


class _Level:
    """Packs exact types: values within as many tuples and sets as its depth says. It serves one call at a time.

    Attributes:
        nested: The bytes of the tuples and sets that were packed below it.
    """

    __slots__ = ("_depth", "_inner", "nested", "pack")

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._inner: _Level | None = None
        packer = msgpack.Packer(default=self._convert, strict_types=True, unicode_errors="surrogatepass")
        self.pack: Callable[[Any], bytes] = packer.pack
        self.nested = 0

    def _convert(self, value: Any) -> Any:
        """Turn what msgpack does not pack by itself into something that it does."""
        kind = form_of(value)
        if kind is None:
            raise TypeError(f"cannot store a value of type {type(value).__module__}.{type(value).__qualname__}")
        if kind in SCALARS:
            return msgpack.ExtType(kind.code, kind.dump(value).encode())
        inner = self._inner
        if inner is None:
            if self._depth == MAX_TAGGED_DEPTH:
                raise ValueError(f"tuples and sets are nested more than {MAX_TAGGED_DEPTH} deep")
            inner = self._inner = _Level(self._depth + 1)
        inner.nested = 0
        if kind.type is tuple:
            payload = inner.pack(list(value))
        else:
            # by their bytes: a set has no order of its own, and hashes differ from process to process
            members = sorted(map(inner.pack, value))
            payload = b"".join((msgpack.Packer().pack_array_header(len(members)), *members))
        self.nested += len(payload) + inner.nested
        return msgpack.ExtType(kind.code, payload)


_free: list[_Level] = []  # making one costs as much as packing a small event


def _pack(value: Any) -> tuple[bytes, int]:
    """The bytes of a value of exact types, and how many bytes its tuples and sets have in all.

    Raises:
        Exception: It is not of exact types, or too deep for msgpack; or what a time zone of the caller's raises.
    """
    level = _free_level()
    packed = level.pack(value)
    _free.append(level)  # not one that failed: it may be in the middle of something
    return packed, level.nested


def _pack_all(values: Iterable[Any]) -> list[bytes] | None:
    """The bytes of many values; None if one of them has tuples or sets, or does not pack."""
    level = _free_level()
    try:
        packed = list(map(level.pack, values))
    except Exception:  # noqa: BLE001 - as of _pack
        return None
    _free.append(level)
    return None if level.nested else packed


def _free_level() -> _Level:
    """One that nobody uses: those of other threads are in the middle of theirs."""
    try:
        level = _free.pop()
    except IndexError:
        level = _Level(0)
    level.nested = 0
    return level


def pack_stored(value: Any) -> bytes:
    """Pack a value that was read from a store: no limit holds for it.

    Args:
        value: The value.

    Returns:
        The bytes: equal for equal values.

    Raises:
        ValueError: It is not of the types that stores keep, or is nested beyond what msgpack takes.
    """
    try:
        return with_room(_pack, value)[0]
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


# the heads of what msgpack packs though it is of none of our types: bytes of every kind, and extension types
_FOREIGN_HEADS = bytes([*range(0xC4, 0xCA), *range(0xD4, 0xD9)])
_find_foreign: Callable[[bytes], object] = re.compile(b"[%b]" % _FOREIGN_HEADS).search
_HOLDER_HEADS = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])


def _may_hide(packed: bytes, level: int) -> bool:
    """Whether a value with these bytes may have parts of other types, or be nested too deeply."""
    levels, size = MAX_DEPTH - level, len(packed)
    if size <= levels:
        return bool(_find_foreign(packed))
    # of many bytes, these are found in a tenth of the time
    if len(packed.translate(None, _FOREIGN_HEADS)) < size:
        return True
    return size - len(packed.translate(None, _HOLDER_HEADS)) > levels


class Packer:
    """Packs values that are to be stored, and refuses what a store does not take. Safe to share between threads.

    Args:
        fallback: Turns a value of a type that is not stored into one that is; None: such a value is refused.
        limits: Whether depth and memory are limited. Not for what was stored once: see ``pack_stored``.
    """

    def __init__(self, fallback: Fallback | None = plain_data, *, limits: bool = True) -> None:
        self.fallback = fallback
        self._limits = limits

    def pack(self, value: Any, path: str = "", level: int = 1) -> bytes:
        """Pack a value.

        Args:
            value: The value.
            path: What the value is, for the error: ``payload``.
            level: The depth at which it stands itself, of the 200 that a payload or a state may have.

        Returns:
            The bytes.

        Raises:
            EncodingError: A part of it cannot be stored; ``path`` names the part.
        """
        packed, nested, value = self.measured(value, path, level)
        if nested > (limit := most_nested_bytes(len(packed))):
            path = path_to_most(value, lambda part: _pack(part)[1], path)
            raise EncodingError(
                f"{path or 'value'}: its tuples and sets have {nested} bytes, each counted with all that it holds;"
                f" at most {limit} are allowed: nest them less, or use lists",
                path=path,
            )
        return packed

    def pack_all(self, values: list[Any], level: int = 1) -> list[bytes] | None:
        """Pack many values at once, if all are of exact types and have no tuples and sets.

        Args:
            values: The values.
            level: The depth at which each of them stands.

        Returns:
            What ``pack`` gives for each; None if one of them may need more than that.
        """
        packed = _pack_all(values)  # first: what contains itself ends here, at msgpack's depth
        return packed if packed is None or not self._limits or is_plain(values, level - 1) else None

    def measured(self, value: Any, path: str = "", level: int = 1) -> tuple[bytes, int, Any]:
        """Pack a value, however much memory its tuples and sets take.

        Args:
            value: The value.
            path: What the value is, for the error.
            level: The depth at which it stands itself.

        Returns:
            The bytes; how many bytes its tuples and sets have in all, each counted with all that it holds (0 where
            no limits hold); the value in exact types.

        Raises:
            EncodingError: A part of it cannot be stored; ``path`` names the part.
        """
        if not self._limits:
            try:
                return pack_stored(value), 0, value
            except ValueError as error:
                raise EncodingError(f"{path or 'value'}: {error}", path=path) from error
        try:
            packed, nested = _pack(value)
        except Exception:  # noqa: BLE001 - of other types, or not to be stored at all, which its copy will tell
            is_taken = False
        else:
            is_taken = not (nested or _may_hide(packed, level)) or is_plain(value, level)
        if not is_taken:
            value = self.plain(value, path, level)
            packed, nested = with_room(_pack, value)
        return packed, nested, value

    def plain(self, value: Any, path: str = "", level: int = 1) -> Any:
        """Copy a value into the exact types that are stored.

        Args:
            value: The value.
            path: What the value is, for the error.
            level: The depth at which it stands itself.

        Returns:
            The copy; the value itself if no limits hold, since it was stored once.

        Raises:
            EncodingError: A part of it cannot be stored; ``path`` names the part.
        """
        if not self._limits:
            return value
        try:
            return with_room(plain_copy, value, self.fallback, path, level)
        except (ValueError, RuntimeError) as error:  # the stack of a fallback; or it is changed by another thread
            raise EncodingError(f"{path or 'value'}: {error}", path=path) from error


class _Tagged:
    """A container that is not unpacked yet: msgpack within msgpack would grow the stack of C."""

    __slots__ = ("kind", "payload")

    def __init__(self, kind: TaggedType, payload: bytes) -> None:
        self.kind = kind
        self.payload = payload


def _load_scalar(code: int, payload: bytes) -> Any:
    kind = BY_CODE.get(code)
    if kind is None or kind not in SCALARS:
        raise ValueError(code)
    return kind.load(payload.decode())


# keys that are strings alone are shared by all dicts, which takes two thirds of the time
_unpack_named = partial(msgpack.unpackb, ext_hook=_load_scalar, unicode_errors="surrogatepass")
_unpack_untagged = partial(_unpack_named, strict_map_key=False)


def unpack(packed: bytes) -> Any:
    """Unpack a value.

    Args:
        packed: What ``Packer.pack`` gave.

    Raises:
        ValueError: No packer of ours wrote these bytes, or they take more memory than ``most_nested_bytes``.
    """
    if not may_have_timestamp(packed):
        try:
            return _unpack_untagged(packed)
        except Exception:  # noqa: BLE001, S110 - it has a tuple or a set, or does not read: below it is told which
            pass
    try:
        return _Unpacking(len(packed)).value(packed)
    except RecursionError:
        return with_room(lambda: _Unpacking(len(packed)).value(packed))
    except (TypeError, ArithmeticError) as error:  # an unhashable key or member, a bad Decimal
        raise ValueError(f"{type(error).__name__}: {error}") from error


def unpack_all(packed: Collection[bytes]) -> list[Any]:
    """Unpack many values: what ``unpack`` gives for each.

    Args:
        packed: The bytes of each value.

    Raises:
        ValueError: As ``unpack`` does for one of them.
    """
    if not may_have_timestamp(b"".join(packed)):
        try:
            return list(map(_unpack_named, packed))
        except Exception:  # noqa: BLE001, S110 - as above, or a dict has other keys than strings
            pass
    return list(map(unpack, packed))


class _Unpacking:
    """One value that is unpacked: its tuples and sets by calls of Python alone, which need no stack of C."""

    __slots__ = ("_has_tagged", "_left")

    def __init__(self, size: int) -> None:
        self._left = most_nested_bytes(size)
        self._has_tagged = False

    def value(self, packed: bytes) -> Any:
        """The value of these bytes."""
        self._has_tagged = False
        try:
            value = msgpack.unpackb(
                packed, strict_map_key=False, ext_hook=self._load, unicode_errors="surrogatepass"
            )
        except msgpack.UnpackException as error:  # those that are no ValueErrors already
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if may_have_timestamp(packed):
            _refuse_timestamps(value)
        return self._resolved(value) if self._has_tagged else value

    def _load(self, code: int, payload: bytes) -> Any:
        kind = BY_CODE.get(code)
        if kind is None:
            raise ValueError(f"extension type {code} is not one of ours")
        if kind in SCALARS:
            return kind.load(payload.decode())
        self._has_tagged = True
        self._left -= len(payload)
        if self._left < 0:
            raise ValueError("its tuples and sets take too much memory: they are nested too deeply for their size")
        return _Tagged(kind, payload)

    def _resolved(self, value: Any) -> Any:
        if type(value) is _Tagged:
            return value.kind.load(self.value(value.payload))
        if type(value) is list:
            for index, part in enumerate(value):
                value[index] = self._resolved(part)
        elif type(value) is dict:
            return {self._resolved(key): self._resolved(part) for key, part in value.items()}
        return value


def _refuse_timestamps(value: Any) -> None:
    found = [value]
    while found:
        part = found.pop()
        if type(part) is list:
            found += part
        elif type(part) is dict:
            found += [*part, *part.values()]
        elif type(part) is msgpack.Timestamp:
            raise ValueError("extension type -1 is not one of ours")
