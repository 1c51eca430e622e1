"""What the commit marks of a run's log say of its tags. Reads lines that are handed to it; touches no file.

A mark has all tags of the run, so that the last one is enough to tell; but where these are many, only one that has
changed them, and the others their version alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from runstream.model.errors import CorruptRecordError
from runstream.model.tags import NO_TAGS, TagSet

__all__ = ["TagNote", "TagNotes"]

_MOST_REPEATED = 2048  # characters of names and values
_MEMBER = b'"tags":["'
_WITH_VALUES = re.compile(rb'"tags":\["[^"]*",\[')


class TagNote(NamedTuple):
    """The version of a run's tags, '' for none, and the tags; None: an earlier mark has them."""

    version: str = ""
    values: Mapping[str, str] | None = None

    @classmethod
    def of(cls, tags: TagSet, *, whole: bool = True) -> TagNote:
        """Note these tags; without ``whole``, many of them by their version alone."""
        is_noted = whole or sum(len(name) + len(value) for name, value in tags.values.items()) <= _MOST_REPEATED
        return cls(tags.version, tags.values if is_noted else None)

    def dump(self) -> list[Any]:
        """The note as JSON has it."""
        return [self.version] if self.values is None else [self.version, list(self.values.items())]

    @classmethod
    def load(cls, members: Any) -> TagNote:
        """The note that was dumped. Raises ValueError for anything else."""
        version, *values = members
        note = cls(version, dict(values[0]) if values else None)
        if not all(
            type(text) is str
            for text in (version, *(part for pair in (note.values or {}).items() for part in pair))
        ):
            raise ValueError("no tags: one of them is of another type")
        TagSet(version).number  # noqa: B018 - raises ValueError for what is none
        return note


class TagNotes:
    """What the marks of one log say of the run's tags.

    Attributes:
        span: Where in the log the last line with all tags begins and ends; None if there is none.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._mark = b""
        self.span: tuple[int, int] | None = None

    def take(self, mark: bytes, begin: int, end: int) -> None:
        """Take note of a commit mark that counts, and of where its line is."""
        if _MEMBER in mark and _WITH_VALUES.search(mark):
            self._mark, self.span = mark, (begin, end)

    @property
    def mark(self) -> bytes:
        """The text of the last mark with all tags; b'' if there is none."""
        return self._mark

    def check(self, found: TagNote, last: TagNote) -> TagSet:
        """The tags that were found, if they are those that the last mark means. Raises CorruptRecordError."""
        if found.version == last.version or not last.version:
            return TagSet(found.version, found.values or {}) if found.version else NO_TAGS
        raise CorruptRecordError(
            f"the tags of run {self._run_id!r} do not read: the line that has them was damaged; restore the"
            " directory from a copy, or let a drain write them again; the run's events can be read",
            run_id=self._run_id,
            offset=0,
        )
