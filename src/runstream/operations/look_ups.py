"""Look-ups in a run: offsets by the callers' keys, and events by their offsets. Pure.

Where the events are, each store knows; what may be asked for, and what is said of an offset that has no event, is
here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from runstream.model import erasures
from runstream.model.errors import ConfigurationError, EncodingError
from runstream.model.identifiers import check_iterable, check_name, check_run_id, shown

__all__ = ["cut", "in_order", "keys_asked", "offsets_asked", "spans_of"]

T = TypeVar("T")

_MOST_NAMED = 10


def keys_asked(run_id: str, keys: Iterable[str]) -> list[str]:
    """The keys that ``find`` is asked for.

    Raises:
        InvalidRunId: There can be no such run.
        EncodingError: One can be no key.
    """
    check_run_id(run_id)
    if isinstance(keys, str):
        raise EncodingError(f"keys={shown(keys)}: pass a list of keys, not one of them", path="keys")
    check_iterable("keys", keys, instead="put a single key in a list")
    asked = list(keys)
    for key in asked:
        check_name("key", key)
    return asked


def offsets_asked(run_id: str, offsets: Iterable[int]) -> list[int]:
    """The offsets that ``read_at`` is asked for.

    Raises:
        InvalidRunId: There can be no such run.
        ConfigurationError: One can be no offset of an event.
        EncodingError: They are no list.
    """
    check_run_id(run_id)
    check_iterable("offsets", offsets, instead="put a single offset in a list")
    asked = list(offsets)
    for offset in asked:
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 1:
            raise ConfigurationError(f"offsets: {shown(offset)} is none of an event: they begin with 1")
    return asked


def spans_of(offsets: Iterable[int]) -> list[tuple[int, int]]:
    """The spans that offsets are made of, in order: after the first number of each, up to its second."""
    return [(first - 1, last) for first, last in erasures.spans_of(offsets)]


def cut(spans: Sequence[tuple[int, int]], count: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The spans of the first so many offsets in these, and those of the rest."""
    first: list[tuple[int, int]] = []
    for index, (low, high) in enumerate(spans):
        end = min(high, low + count)
        if end > low:
            first.append((low, end))
        if end < high:
            return first, [(end, high), *spans[index + 1 :]]
        count -= end - low
    return first, []


def in_order(run_id: str, asked: Sequence[int], found: Mapping[int, T], first: int, last: int) -> list[T]:
    """What was found at some offsets, in the order in which it was asked for.

    Args:
        run_id: The run.
        asked: The offsets.
        found: What was found, by offset.
        first: The offset of the run's first event.
        last: The offset of its last event.

    Raises:
        ConfigurationError: An offset has no event.
    """
    lacking = sorted({offset for offset in asked if offset not in found})
    if not lacking:
        return [found[offset] for offset in asked]
    outside = [offset for offset in lacking if not first <= offset <= last]
    if not outside:
        why = "what was there has been erased"
    elif last < first:
        why = "it has none"
    else:
        why = f"it has {first} to {last}"
    raise ConfigurationError(f"run {run_id!r} has no event at {_named(outside or lacking)}: {why}")


def _named(offsets: Sequence[int]) -> str:
    named = ", ".join(map(str, offsets[:_MOST_NAMED]))
    more = f" and {len(offsets) - _MOST_NAMED} more" if len(offsets) > _MOST_NAMED else ""
    return f"offset{'s' if len(offsets) > 1 else ''} {named}{more}"
