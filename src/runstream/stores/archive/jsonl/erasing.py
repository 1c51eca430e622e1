"""Erase in an archive of JSON lines: the log of a run is written anew, and what else has the content is removed.

A file in the archive's directory says meanwhile of which run something is being erased: where a process was
killed, ``where_erased`` finds it and removes what is left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from runstream.model.archive_records import ArchiveEntry, RunHeader
from runstream.model.erasures import ErasedPlace, ErasureNote, has_offset
from runstream.model.errors import CorruptRecordError, HistoryDiverged
from runstream.model.identifiers import check_run_id
from runstream.model.results import Cursor
from runstream.model.run_head import RunHead
from runstream.stores.archive.durable_files import sync_directory
from runstream.stores.archive.eraser import (
    Eraser,
    branch_plan,
    digests_of,
    plan_drained_base,
    plan_drained_spans,
)
from runstream.stores.archive.jsonl import file_names
from runstream.stores.archive.jsonl.commit_marks import Mark
from runstream.stores.archive.jsonl.file_locks import names_in, write_file
from runstream.stores.archive.jsonl.lanes import lane_facts
from runstream.stores.archive.jsonl.rewriting import rewritten
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.archive.jsonl.run_logs import RunLogs
from runstream.stores.archive.jsonl.run_snapshots import kept_snapshots
from runstream.stores.archive.jsonl.run_tags import tags_of
from runstream.stores.archive.jsonl.tag_notes import TagNote
from runstream.stores.local.erase_plan import EraseOrder, ErasePlan, noted, plan_erase, plan_truncate

__all__ = ["JSONLEraser"]


class JSONLEraser(Eraser):
    """The part of an archive of JSON lines that erases.

    Args:
        logs: The logs of its runs.
        clock: Unix time in seconds.
    """

    def __init__(self, logs: RunLogs, clock: Callable[[], float]) -> None:
        self._logs = logs
        self._clock = clock

    def carry_out(self, order: EraseOrder) -> tuple[ErasureNote, ErasePlan]:
        """Plan an erasure that a caller of the archive asks for, make it and note it."""
        note = order.note(self._clock())
        with self._erasing(order.run_id) as (log, head, branches):
            facts = lane_facts(log)
            if order.before is None:
                plan = plan_erase(order, head, facts.snapshots.values(), {})
            else:
                plan = plan_truncate(order, head, facts, {})
            if head is not None and not plan.is_empty(head):
                note = self._erase(log, head, plan, note, branches)
        return note, plan

    def erase_offsets(self, header: RunHeader, note: ErasureNote, clean: Collection[str] = ()) -> None:
        """Erase the content at the offsets of a note, and note it."""
        with self._erasing(header.run_id) as (log, head, branches):
            if head is None:
                self._note(log, header, note)
                return
            plan = plan_drained_spans(header, head, lane_facts(log).snapshots.values(), note, clean)
            self._erase(log, head, plan, note, branches)

    def truncate_history(self, header: RunHeader, note: ErasureNote, base: Cursor) -> None:
        """Remove the entries up to ``base``, and note it."""
        with self._erasing(header.run_id) as (log, head, branches):
            if head is None:
                self._note(log, header, note)
                return
            found = log.cursor_at(base.offset)
            plan = plan_drained_base(header, head, lane_facts(log).snapshots.values(), base, found)
            self._erase(log, head, plan, note, branches, base)

    def erasure_notes(self, run_id: str) -> Sequence[ErasureNote]:
        """The erasures that are noted of a run, in the order in which they came."""
        check_run_id(run_id)
        with self._logs.reading():
            log = self._logs.log(run_id)
            log.refresh()
            return list(log.index.telling.erased)

    def where_erased(self) -> ErasedPlace:
        """Whether all that was erased is out of the files; what a killed process has left is removed first."""
        with self._logs.reading():
            names = names_in(self._logs.path)
        for name in names:
            if name.startswith(file_names.ERASING):
                marker = self._logs.path / name
                with contextlib.suppress(FileNotFoundError):
                    self._finish(marker, marker.read_text())
        return ErasedPlace(f"jsonl:{self._logs.path}", done=True)

    # -- inside --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _erasing(self, run_id: str) -> Iterator[tuple[RunLog, RunHead | None, list[str]]]:
        """The run's log, ready to be written, where it stands (None: it is not there), and its branches."""
        check_run_id(run_id)
        with self._logs.reading():
            branches = self._branches(run_id)
        with self._logs.writing([run_id, *branches]):
            log = self._logs.log(run_id)
            head = self._logs.head(log, durable=True)
            if head is not None:
                log.make_ready()
                head = self._logs.head(log, durable=True)
                log.index.check_head()
            yield log, head, branches

    def _branches(self, run_id: str) -> list[str]:
        """The branches of a run, which are named for it."""
        found = []
        begin = f"{run_id[:_LONGEST_BEGINNING]}"
        for name in self._logs.directory.run_ids():
            if name.startswith(begin) and "~" in name and name != run_id:
                with contextlib.suppress(HistoryDiverged, CorruptRecordError):
                    head = self._logs.head_in_brief(self._logs.log(name))
                    if head is not None and head.parent is not None and head.parent[0] == run_id:
                        found.append(name)
        return found

    def _note(self, log: RunLog, header: RunHeader, note: ErasureNote) -> None:
        """Note an erasure of a run that is yet to come: its log begins with it."""
        log = self._logs.begun(log)
        log.make_ready()
        log.commit(
            header, (), Mark(header.status, header.updated_at, header.session_id, drained=True, erased=(note,))
        )

    def _erase(
        self,
        log: RunLog,
        head: RunHead,
        plan: ErasePlan,
        note: ErasureNote,
        branches: Sequence[str],
        beyond: Cursor | None = None,
    ) -> ErasureNote:
        """Erase as planned; ``beyond`` where the run is not as far as the base of the plan."""
        marker = self._logs.path / f"{file_names.ERASING}{file_names.encoded(log.run_id)}"
        write_file(marker, log.run_id.encode())
        sync_directory(self._logs.path)
        digests: dict[bytes, list[int]] = {}
        for first, last in plan.spans:
            digests |= digests_of(log.run_id, log.entries_between([log.span(first - 1, last)], first, last))
        for branch in branches if plan.spans else ():
            self._erase_in_branch(log.run_id, branch, plan, digests)
        notes = list(log.index.telling.erased)
        note = noted(notes, note)
        base = None
        if plan.base is not None and plan.base > head.before_first.offset:
            base = log.cursor_at(plan.base) or beyond
        _rewrite(log, head, plan, notes, base)
        log.drop_leftovers()
        marker.unlink(missing_ok=True)
        return note

    def _erase_in_branch(self, run_id: str, branch: str, plan: ErasePlan, digests: dict[bytes, list[int]]) -> None:
        """Erase in a branch of a run what is erased of the run: events that were appended to it again."""
        log = self._logs.log(branch)
        head = self._logs.head(log, durable=True)
        if head is None or head.fork_of is not None:
            return
        log.make_ready()
        same: list[int] = []
        first, last = head.before_first.offset + 1, head.last.offset
        for digest, offsets in digests_of(branch, _entries(log, first, last), run_id).items():
            same += offsets if digest in digests else ()
        of_branch = branch_plan(head, plan.spans, same)
        holding = [one.head for one in kept_snapshots(log) if one.damage is None and not of_branch.keeps(one.head)]
        if of_branch.spans or holding:
            dropped = frozenset(saved.token for saved in holding)
            _rewrite(log, head, replace(of_branch, dropped=dropped), log.index.telling.erased, None)
            log.drop_leftovers()

    def _finish(self, marker: Path, run_id: str) -> None:
        """Remove what an erasing that was killed has left."""
        with self._logs.reading():
            branches = self._branches(run_id)
        with self._logs.writing([run_id, *branches]):
            for name in (run_id, *branches):
                log = self._logs.log(name)
                if log.refresh(durable=True):
                    log.make_ready()
                    log.drop_leftovers()
            marker.unlink(missing_ok=True)


def _entries(log: RunLog, first: int, last: int) -> Iterator[ArchiveEntry]:
    return log.entries_between([log.span(first - 1, last)], first, last)


def _rewrite(
    log: RunLog, head: RunHead, plan: ErasePlan, notes: Sequence[ErasureNote], base: Cursor | None
) -> None:
    """Write the log anew; its last mark says which snapshots stay."""
    latest = lane_facts(log).snapshots
    stay = [one.head for one in kept_snapshots(log) if one.damage is None and one.head.token not in plan.dropped]
    tokens = tuple(dict.fromkeys(saved.token for saved in stay if plan.keeps(saved)))
    mark = Mark(
        head.status,
        head.updated_at,
        head.session_id,
        dropped=tuple(lane_id for lane_id, saved in latest.items() if saved.token in plan.dropped),
        kept=tokens,
        drained=log.index.is_drained,
        ended=tuple(log.index.ends.values()),
        tags=_tags(log),
        erased=tuple(notes),
    )
    header = RunHeader.of(log.run_id, replace(head, base=base or head.base))
    with log.path.open("rb") as file:
        content = rewritten(log, file, lambda offset: has_offset(plan.spans, offset), header, base, mark)
        log.replace(file, content)


def _tags(log: RunLog) -> TagNote:
    try:
        return TagNote.of(tags_of(log))
    except CorruptRecordError:  # they stay damaged
        return TagNote() if log.mark is None else TagNote(log.mark.tags.version)


_LONGEST_BEGINNING = 64
