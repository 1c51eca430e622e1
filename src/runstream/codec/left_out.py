"""What a stored state has and its class does not know: found when it is loaded, put back when it is saved.

In a rolling deployment an older process loads the states of newer ones. Its class leaves out the keys that it
does not know, and so would what it saves. Dicts are gone through by their keys; in a list nothing tells which
element was which, so a list is the class's own as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["LeftOut", "find_left_out", "put_back"]


class LeftOut(NamedTuple):
    """What a class left out of a dict.

    Attributes:
        entries: The entries whose keys it did not give back.
        within: What it left out of the dicts that it gave back, by their keys.
    """

    entries: dict[Any, Any]
    within: dict[Any, LeftOut]


def find_left_out(stored: Mapping[Any, Any], given: Any, to_plain: Callable[[Any], Any]) -> LeftOut | None:
    """Find what a class left out.

    Args:
        stored: The dict that an object was made from. What its class took out of it counts as known.
        given: What that object gives in its place.
        to_plain: Turns a value into what a store would give back of it.

    Returns:
        What is in ``stored`` alone; None if nothing is, or if ``given`` stands for no dict.
    """
    # the common case: an object that passes its dict on
    own = None if given is stored else _as_dict(given, to_plain)
    if own is None:
        return None
    entries, within = {}, {}
    for key, value in stored.items():
        if key not in own:
            entries[key] = value
        elif type(value) is dict and (inner := find_left_out(value, own[key], to_plain)) is not None:
            within[key] = inner
    return LeftOut(entries, within) if entries or within else None


def put_back(given: dict[Any, Any], left_out: LeftOut | None, to_plain: Callable[[Any], Any]) -> dict[Any, Any]:
    """Put back what a class left out, where the dict that it was in is still there and lacks it.

    Args:
        given: What an object of the class gives; it is not changed.
        left_out: What ``find_left_out`` gave when the object before it was loaded.
        to_plain: Turns a value into what a store would give back of it.

    Returns:
        The whole.
    """
    own = None if left_out is None else _as_dict(given, to_plain)
    if left_out is None or own is None:
        return given
    whole = {**own, **{key: value for key, value in left_out.entries.items() if key not in own}}
    for key, inner in left_out.within.items():
        if key in own:
            whole[key] = put_back(own[key], inner, to_plain)
    return whole


def _as_dict(value: Any, to_plain: Callable[[Any], Any]) -> dict[Any, Any] | None:
    """The dict that a value is or becomes when it is stored, with the keys that it then has; None for no dict."""
    if type(value) is dict and all(type(key) is str for key in value):
        return value
    plain = value if isinstance(value, str | int | float | list | None) else to_plain(value)
    return plain if type(plain) is dict else None
