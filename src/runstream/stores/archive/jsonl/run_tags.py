"""The tags of a run in its log: as its commit marks have them, and read back from the disk."""

from __future__ import annotations

import contextlib
import os

from runstream.model.archive_records import RunBatch, RunHeader
from runstream.model.errors import CorruptRecordError
from runstream.model.tags import NO_TAGS, TagSet
from runstream.stores.archive.durable_files import drop_from_cache
from runstream.stores.archive.jsonl.commit_marks import Mark
from runstream.stores.archive.jsonl.damaged_lines import sound_facts
from runstream.stores.archive.jsonl.file_locks import unavailable
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.archive.jsonl.tag_notes import TagNote

__all__ = ["note_of", "read_tags", "sound_tags_of", "tags_of", "tags_to_write"]


def tags_of(log: RunLog) -> TagSet:
    """A run's tags as of the last refresh. Raises CorruptRecordError where they do not read."""
    return _checked(log, log.index.tag_notes.mark)


def sound_tags_of(log: RunLog) -> TagSet:
    """The same, where damaged tags are as if they were not there: they are archived again."""
    try:
        return tags_of(log)
    except CorruptRecordError:
        return NO_TAGS


def read_tags(log: RunLog) -> TagSet:
    """The same, read from the disk and not from the memory of the operating system."""
    span = log.index.tag_notes.span
    if span is None:
        return tags_of(log)
    begin, end = span
    with unavailable(log.path), log.path.open("rb") as file:
        drop_from_cache(file.fileno(), begin, end - begin)
        facts, _ = sound_facts(os.pread(file.fileno(), end - begin, begin).rstrip(b"\r\n"))
    return _checked(log, b"" if facts is None else facts[4] or b"")


def tags_to_write(log: RunLog, batch: RunBatch) -> TagSet | None:
    """The tags of a batch, where they are to replace those that are there."""
    tags = batch.header.tags
    return tags if tags is not None and tags.follows(sound_tags_of(log), batch.tags_seen) else None


def note_of(log: RunLog, header: RunHeader) -> TagNote:
    """What a mark is to note of the tags: those of the header, if it says any, or what is there."""
    if header.tags is not None:
        return TagNote.of(header.tags)
    try:
        return TagNote.of(tags_of(log), whole=False)
    except CorruptRecordError:
        return TagNote(_last(log).version)  # they stay damaged


def _checked(log: RunLog, text: bytes) -> TagSet:
    found = TagNote()
    with contextlib.suppress(ValueError):  # it was damaged
        found = Mark.load(text).tags if text else found
    return log.index.tag_notes.check(found, _last(log))


def _last(log: RunLog) -> TagNote:
    return TagNote() if log.mark is None else log.mark.tags
