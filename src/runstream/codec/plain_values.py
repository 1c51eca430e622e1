"""Copy a value into the exact types that stores keep, or say which part of it cannot be kept.

This is the rule for what an append takes (P11): the exact types, and what a store's ``fallback`` makes of others,
to a stated depth. Whatever is refused is named by its path.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from runstream.codec.extension_types import CONTAINERS, SCALARS, form_of, is_twofold
from runstream.codec.fallback import as_text
from runstream.model.errors import EncodingError
from runstream.model.identifiers import kind_of, shown, told
from runstream.model.protocols import Fallback

__all__ = [
    "MAX_DEPTH",
    "MAX_TAGGED_DEPTH",
    "STATE_VALUES_LEVEL",
    "is_json",
    "is_plain",
    "path_to_most",
    "plain_copy",
]

MAX_DEPTH = 200
"""How deeply lists, tuples, dicts and sets may be nested in a payload or a state, itself included."""

MAX_TAGGED_DEPTH = 64
"""How many of these, within each other, may be tuples and sets: each is a msgpack value within another's bytes."""

STATE_VALUES_LEVEL = 2
"""The depth of what a state has under its keys: the state itself is at depth 1."""

_MAX_FALLBACKS = 16  # a fallback may give a value that needs the fallback again, but not for ever
_SHOWN_STEPS = 12  # of a path into a value that is nested too deeply

_TAGGED = frozenset(kind.type for kind in CONTAINERS)
_HOLDERS = _TAGGED | {list, dict}
_EXACT = _HOLDERS | {type(None), bool, int, float, str, bytes} | {kind.type for kind in SCALARS}
_JSON = frozenset({type(None), bool, int, float, str, list, dict})


def is_plain(value: Any, level: int = 1) -> bool:
    """Whether a value is of exact types at every depth, and no deeper than a store takes it.

    One with a moment that the clocks show twice is for ``plain_copy`` to look at.

    Args:
        value: The value.
        level: The depth at which it stands itself.
    """
    return _is_all(value, level, _EXACT, lambda found, kinds: datetime in kinds and any(map(_is_twofold, found)))


def is_json(value: Any, level: int = 1, *, with_bytes: bool = False) -> bool:
    """Whether JSON has a type for a value at every depth, and it is no deeper than a store takes it.

    What else JSON has not, its encoder refuses by itself: keys that are no strings, integers of more than 64 bits,
    surrogates.

    Args:
        value: The value.
        level: The depth at which it stands itself.
        with_bytes: Whether bytes count too, which take a tag.
    """
    allowed = _JSON | {bytes} if with_bytes else _JSON
    return _is_all(value, level, allowed, lambda found, kinds: float in kinds and not all(map(_is_finite, found)))


def _is_all(
    value: Any, level: int, allowed: frozenset[type[Any]], is_odd: Callable[[list[Any], set[type[Any]]], bool]
) -> bool:
    """Whether the parts of a value are of these types at every depth, and those of no depth are odd."""
    found = [value]
    while True:
        kinds = set(map(type, found))
        holders = kinds & _HOLDERS
        if not kinds <= allowed or (holders and level > MAX_DEPTH) or is_odd(found, kinds):
            return False
        if not holders:
            return True
        parts = found if len(holders) == len(kinds) else [part for part in found if type(part) in holders]
        level, found = level + 1, gc.get_referents(*parts)  # what they hold, keys included, collected in C


def _is_twofold(value: Any) -> bool:
    return type(value) is datetime and is_twofold(value)


def _is_finite(value: Any) -> bool:
    return type(value) is not float or value - value == 0


def plain_copy(value: Any, fallback: Fallback | None, path: str = "", level: int = 1) -> Any:
    """Copy a value into exact types.

    Args:
        value: The value.
        fallback: Turns a value of another type into one of these; None: such a value is refused.
        path: What the value is, for the error: ``payload``.
        level: The depth at which it stands itself.

    Returns:
        The copy; parts that cannot change are the same objects.

    Raises:
        EncodingError: A part of it cannot be stored; ``path`` names the part.
        RecursionError: The stack has no room for it.
    """
    return _Copy(as_text if fallback is str else fallback).of(value, _Path(None, path), level, 0)


def path_to_most(value: Any, weigh: Callable[[Any], int], path: str = "") -> str:
    """The path to the part that weighs most, through dicts and lists.

    Args:
        value: The value, of exact types.
        weigh: The weight of a part.
        path: What the value is.
    """
    at = _Path(None, path)
    while (type(value) is dict or type(value) is list) and value:
        named = value.items() if type(value) is dict else enumerate(value)
        parts = [(at.to(step), part) for step, part in named]
        at, value = max(parts, key=lambda named: weigh(named[1]))
    return str(at)


class _Path:
    """A part's path, as text only where it is asked for."""

    __slots__ = ("_before", "_step")

    def __init__(self, before: _Path | None, step: str) -> None:
        self._before = before
        self._step = step

    def to(self, step: Any) -> _Path:
        """The path to what a dict has under a key."""
        return _Path(self, f".{step}" if type(step) is str else f"[{shown(step)}]")

    def __str__(self) -> str:
        steps: list[str] = []
        at: _Path | None = self
        while at is not None:
            steps.append(at._step)
            at = at._before
        steps.reverse()
        if len(steps) > _SHOWN_STEPS:
            steps = [*steps[:_SHOWN_STEPS], "…"]
        return "".join(steps).removeprefix(".")


def _refused(path: _Path, why: str) -> EncodingError:
    return EncodingError(f"{str(path) or 'value'}: {why}", path=str(path))


class _Copy:
    def __init__(self, fallback: Fallback | None) -> None:
        self._fallback = fallback

    def of(self, value: Any, path: _Path, level: int, tagged: int) -> Any:
        """The copy of one part, at this depth and within so many tuples and sets."""
        kind = type(value)
        if kind not in _EXACT:
            value = self._converted(value, path)
            kind = type(value)
        if kind not in _HOLDERS:
            return _checked(value, path)
        if level > MAX_DEPTH:
            raise _refused(path, f"it is nested more than {MAX_DEPTH} deep, or contains itself")
        if kind is dict:
            return self._dict(value, path, level, tagged)
        if kind is list:
            # no comprehension: it would take a second frame of Python's stack per level
            copied = []
            for index, part in enumerate(value):
                copied.append(self.of(part, _Path(path, f"[{index}]"), level + 1, tagged))
            return copied
        if tagged == MAX_TAGGED_DEPTH:
            raise _refused(path, f"tuples and sets are nested more than {MAX_TAGGED_DEPTH} deep")
        if kind is not tuple:
            return self._set(value, path, level, tagged)
        copied = []
        for index, part in enumerate(value):
            copied.append(self.of(part, _Path(path, f"[{index}]"), level + 1, tagged + 1))
        return tuple(copied)

    def _dict(self, value: dict[Any, Any], path: _Path, level: int, tagged: int) -> dict[Any, Any]:
        copied: dict[Any, Any] = {}
        instants: set[Any] = set()
        for key, part in value.items():
            plain = key if type(key) is str else self._hashable(key, path, "key ", level, tagged)
            if plain in copied:
                raise _refused(path.to(key), f"two keys are both {shown(plain)} once they are plain data")
            if type(key) is not str:
                _check_instant(plain, instants, path.to(key))
            copied[plain] = self.of(part, path.to(key), level + 1, tagged)
        return copied

    def _set(self, value: Any, path: _Path, level: int, tagged: int) -> Any:
        copied: set[Any] = set()
        instants: set[Any] = set()
        for member in value:
            plain, at = self._hashable(member, path, "", level, tagged + 1), _Path(path, f"[{shown(member)}]")
            if plain in copied:
                raise _refused(at, f"two members are both {shown(plain)} once they are plain data")
            _check_instant(plain, instants, at)
            copied.add(plain)
        return type(value)(copied)

    def _hashable(self, value: Any, path: _Path, role: str, level: int, tagged: int) -> Any:
        inner = _Path(path, f"[{role}{shown(value)}]")
        copied = self.of(value, inner, level + 1, tagged)
        try:
            hash(copied)
        except TypeError as error:
            raise _refused(
                inner, f"it becomes {shown(copied)}, which can be neither a key nor a member of a set"
            ) from error
        return copied

    def _converted(self, value: Any, path: _Path) -> Any:
        """A value of an exact type for one that is of none."""
        if type(value) is bytearray or type(value) is memoryview:
            try:
                copied: Any = bytes(value)
            except ValueError as error:  # a view that was released
                raise _refused(path, str(error)) from error
            if value == copied:
                return copied
            raise _refused(
                path, f"{shown(value)} is not equal to its bytes; store bytes(value) if these are meant"
            )
        for _ in range(_MAX_FALLBACKS):
            if self._fallback is None:
                raise _refused(
                    path,
                    f"cannot store a value of type {type(value).__module__}.{kind_of(value)};"
                    " store plain data, or open the store with a fallback",
                )
            try:
                value = self._fallback(value)
            except RecursionError:
                raise
            except Exception as error:  # it is the user's, and may raise anything
                hint = (
                    "; store plain data, or open the store with fallback=str"
                    if self._fallback is not as_text
                    else ""
                )
                raise _refused(path, f"{told(error)}{hint}") from error
            if type(value) in _EXACT:
                return value
        raise _refused(path, "the fallback never gives a value that can be stored")


def _check_instant(plain: Any, instants: set[Any], path: _Path) -> None:
    """Refuse a key or member that is the same instant as another, though they differ.

    Where a clock shows an hour twice, its moments are equal to none in another zone (PEP 495). A machine that does
    not know the zone cannot tell that, and would make one of the two.
    """
    instant = _instant(plain)
    if instant in instants:
        raise _refused(path, "it is the same instant as another, at a time that a clock shows twice or skips")
    instants.add(instant)


def _instant(value: Any) -> Any:
    """A key with its moments at their offsets, as a machine reads it that does not know their zones."""
    kind = type(value)
    if kind is datetime and value.tzinfo is not None:
        return value.replace(tzinfo=timezone(value.utcoffset()), fold=0)
    if kind is tuple or kind is frozenset:
        return kind(map(_instant, value))
    return value


def _checked(value: Any, path: _Path) -> Any:
    """A scalar, if it can be dumped: a moment's time zone may be the user's own."""
    form = form_of(value)
    if form is not None and form.type is not int:
        try:
            form.dump(value).encode()
        except RecursionError:
            raise
        except Exception as error:  # likewise
            raise _refused(path, told(error)) from error
    return value
