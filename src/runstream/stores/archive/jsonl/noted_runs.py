"""Runs of which an archive has nothing yet but what is to be erased of them: they are not there.

A worker that has loaded the content before may bring it after that, so what was asked for is noted: in a log that
has nothing else. Its commit marks have no status. The first batch of the run begins the log anew; where that is of
another run of that name, what was noted goes with the run that was lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from runstream.model.archive_records import RunHeader
from runstream.model.erasures import ErasureNote
from runstream.stores.archive.jsonl.commit_marks import Mark
from runstream.stores.archive.jsonl.line_format import batch_text
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.local.erase_plan import noted

__all__ = ["begin_noted", "has_notes_alone", "note_alone", "notes_of"]


def has_notes_alone(log: RunLog) -> bool:
    """Whether a log, as of its last refresh, has nothing of its run but what is to be erased of it."""
    return log.mark is not None and not log.mark.status and bool(log.index.telling.erased)


def notes_of(log: RunLog, creation: int) -> Sequence[ErasureNote]:
    """What is noted to be erased of that creation of a log's run."""
    head = log.head()
    return log.index.telling.erased if head is not None and head.creation == creation else ()


def note_alone(log: RunLog, header: RunHeader, note: ErasureNote) -> None:
    """Note an erasure of a run that is not there; the log is ready to be written."""
    begin_noted(log, header, drained=True)
    notes = list(notes_of(log, header.creation))
    noted(notes, note)
    log.commit(_bare(header), (), Mark("", header.updated_at, drained=True, erased=tuple(notes)))


def begin_noted(log: RunLog, header: RunHeader, *, drained: bool) -> None:
    """Let a log that has notes alone begin with a header; only notes of this very run stay."""
    if not has_notes_alone(log):
        return
    mark = Mark("", header.updated_at, drained=drained, erased=tuple(notes_of(log, header.creation)))
    with log.path.open("rb") as file:
        log.replace(file, [batch_text(header, header.before_first, (), mark)])


def _bare(header: RunHeader) -> RunHeader:
    """A header that says of which run something is to be erased, and no more."""
    return RunHeader(header.run_id, header.start, identity=header.identity)
