"""What two plain values differ in, part by part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runstream.codec.own_stack import with_room
from runstream.codec.stored import STORED_PACKER
from runstream.model.identifiers import shown
from runstream.model.run_diff import StateDifference

__all__ = ["differences"]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[StateDifference]:
    """What two states differ in: down to the entries of dicts, lists and tuples.

    Values of two types differ (1 and 1.0, a list and a tuple), and nan is nan, as in every comparison of what is
    stored.

    Args:
        old: The fields of one, as a store gave them.
        new: The fields of the other.

    Returns:
        The differences, in the order of ``old``'s entries and then of what only ``new`` has.
    """
    return with_room(lambda: list(_within("", dict(old), dict(new))))


def _within(path: str, old: Any, new: Any) -> Iterator[StateDifference]:
    if STORED_PACKER.pack(old) == STORED_PACKER.pack(new):
        return
    if type(old) is dict and type(new) is dict:
        yield from _of_parts(old, new, ((key, _to(path, key)) for key in dict.fromkeys((*old, *new))))
    elif type(old) is type(new) and type(old) in (list, tuple):
        parts, others = dict(enumerate(old)), dict(enumerate(new))
        longest = range(max(len(old), len(new)))
        yield from _of_parts(parts, others, ((index, f"{path}[{index}]") for index in longest))
    else:
        yield StateDifference(path, "changed", old, new)


def _of_parts(
    old: Mapping[Any, Any], new: Mapping[Any, Any], steps: Iterable[tuple[Any, str]]
) -> Iterator[StateDifference]:
    for step, path in steps:
        if step not in new:
            yield StateDifference(path, "removed", old=old[step])
        elif step not in old:
            yield StateDifference(path, "added", new=new[step])
        else:
            yield from _within(path, old[step], new[step])


def _to(path: str, key: Any) -> str:
    if type(key) is not str:
        return f"{path}[{shown(key)}]"
    return f"{path}.{key}" if path else key
