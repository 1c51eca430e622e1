"""What was asked to be erased of a run, and what has become of that, place by place. Plain data."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple, TypeAlias

__all__ = [
    "ErasedPlace",
    "Erasure",
    "ErasureNote",
    "Spans",
    "has_offset",
    "may_hold",
    "spans_of",
    "spans_without",
]

Spans: TypeAlias = tuple[tuple[int, int], ...]
"""Offsets, rising: the first and the last of each stretch of them, both included."""

_TEXT = re.compile(r"\d{1,16}(?:-\d{1,16})?(?:,\d{1,16}(?:-\d{1,16})?)*")


def spans_of(offsets: Iterable[int]) -> Spans:
    """The spans that offsets are made of.

    Args:
        offsets: The offsets, in any order; one may come twice.
    """
    spans: list[tuple[int, int]] = []
    for offset in sorted(set(offsets)):
        if spans and spans[-1][1] == offset - 1:
            spans[-1] = spans[-1][0], offset
        else:
            spans.append((offset, offset))
    return tuple(spans)


def has_offset(spans: Spans, offset: int) -> bool:
    """Whether an offset is among those of some spans.

    Args:
        spans: The spans.
        offset: The offset.
    """
    before = bisect_right(spans, offset, key=_first)
    return before > 0 and offset <= spans[before - 1][1]


_first = itemgetter(0)


def spans_without(spans: Spans, others: Spans) -> Spans:
    """What is left of spans without the offsets of others.

    Args:
        spans: The spans.
        others: The others, rising by their first offsets.
    """
    left: list[tuple[int, int]] = []
    for first, last in spans:
        after = first
        for begin, end in others:
            if after <= end and begin <= last:
                if after < begin:
                    left.append((after, begin - 1))
                after = end + 1
        if after <= last:
            left.append((after, last))
    return tuple(left)


def may_hold(covered: int, start: int, first_erased: int) -> bool:
    """Whether a snapshot may hold something of what is erased.

    One that covers nothing does not say from what it was made: another program wrote it, or somebody who had not
    read the run.

    Args:
        covered: The offset up to which it covers the history.
        start: The offset before the first event of the run.
        first_erased: The first of the offsets that are erased.
    """
    return covered >= first_erased or covered <= start


@dataclass(frozen=True, slots=True)
class ErasedPlace:
    """What has become of an erasure in one place.

    Attributes:
        place: The URL of the store or archive; ``Redis`` for what a worker drains.
        done: Whether nothing of it is left there, in no file either.
        reason: Why it is not done yet; '' if it is.
        command: What to run so that it will be, where somebody must; '' if nothing.
    """

    place: str
    done: bool
    reason: str = ""
    command: str = ""


class ErasureNote(NamedTuple):
    """An erasure as a store or an archive notes it.

    Attributes:
        requested_at: When it was asked for: Unix time in seconds.
        spans: The offsets that were erased; none where the history was truncated.
        before: The offset with which the history begins since; None where it was not truncated.
    """

    requested_at: float
    spans: Spans
    before: int | None = None

    @property
    def text(self) -> str:
        """What was asked for, as text: ``3,5-8``, or ``<9`` for all before 9."""
        if self.before is not None:
            return f"<{self.before}"
        return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in self.spans)

    @classmethod
    def parse(cls, requested_at: float, text: str) -> ErasureNote:
        """The note of that text.

        Args:
            requested_at: When it was asked for: Unix time in seconds.
            text: What was asked for, as ``text`` gives it.

        Raises:
            ValueError: It names no offsets.
        """
        if text.startswith("<"):
            return cls(requested_at, (), int(text[1:]))
        if _TEXT.fullmatch(text) is None:
            raise ValueError(f"{text!r:.80} names no offsets")
        pairs = (part.partition("-") for part in text.split(","))
        return cls(requested_at, tuple((int(first), int(last or first)) for first, _, last in pairs))

    def has(self, offset: int) -> bool:
        """Whether the content at an offset is gone.

        Args:
            offset: The offset.
        """
        return has_offset(self.spans, offset) or (self.before is not None and offset < self.before)


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was asked to be erased of a run, and what has become of it.

    Attributes:
        run_id: The run.
        requested_at: When it was asked for: Unix time in seconds, by the store's clock.
        spans: The offsets whose content was to go: the first and the last of each stretch, both included; none
            where the history was truncated.
        before: The history begins with this offset since; None where it was not truncated.
        places: What has become of it in each place that has the run.
    """

    run_id: str
    requested_at: float
    spans: Spans = ()
    before: int | None = None
    places: tuple[ErasedPlace, ...] = ()

    @classmethod
    def of(cls, run_id: str, note: ErasureNote, places: Iterable[ErasedPlace]) -> Erasure:
        """The erasure that a store noted.

        Args:
            run_id: The run.
            note: What the store noted.
            places: What has become of it in each place.
        """
        return cls(run_id, note.requested_at, note.spans, note.before, tuple(places))

    @property
    def done(self) -> bool:
        """Whether it is done in every place."""
        return all(place.done for place in self.places)

    @property
    def pending(self) -> tuple[ErasedPlace, ...]:
        """The places in which it is not done yet."""
        return tuple(place for place in self.places if not place.done)

    def offsets(self) -> Iterator[int]:
        """The offsets whose content was to go, one by one."""
        return (offset for first, last in self.spans for offset in range(first, last + 1))
