"""Erase in an archive of JSON lines: the log of a run is written anew, and what else has the content is removed.

A file in the archive's directory says meanwhile of which run something is being erased: where a process was
killed, ``where_erased`` finds it and removes what is left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from runstream.model.archive_records import ArchiveEntry, RunHeader
from runstream.model.erasures import ErasedPlace, ErasureNote, Spans, has_offset
from runstream.model.errors import CorruptRecordError
from runstream.model.identifiers import check_run_id
from runstream.model.results import Cursor, Fork
from runstream.model.run_head import RunHead, SnapshotHead
from runstream.operations.run_forks import forks_among
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
from runstream.stores.archive.jsonl.noted_runs import note_alone
from runstream.stores.archive.jsonl.rewriting import rewritten
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.archive.jsonl.run_logs import RunLogs
from runstream.stores.archive.jsonl.run_snapshots import kept_snapshots
from runstream.stores.archive.jsonl.run_tags import tags_of
from runstream.stores.archive.jsonl.tag_notes import TagNote
from runstream.stores.local.erase_plan import (
    EraseOrder,
    ErasePlan,
    Family,
    noted,
    plan_erase,
    plan_truncate,
    sharing,
)

__all__ = ["JSONLEraser"]


class _Others(NamedTuple):
    """The runs that share with one: its branches, and the forks that share what is to be erased."""

    branches: Sequence[str]
    forks: Sequence[str]


class _Beyond(NamedTuple):
    """The base of a history where a log is not as far, and what is left of entries up to there that it lacks."""

    base: Cursor
    former: Sequence[ArchiveEntry]


class JSONLEraser(Eraser):
    """The part of an archive of JSON lines that erases.

    Args:
        logs: The logs of its runs.
        clock: Unix time in seconds.
        children_of: Gives the forks and the branches of a run.
    """

    def __init__(
        self,
        logs: RunLogs,
        clock: Callable[[], float],
        children_of: Callable[[str], Iterable[tuple[str, RunHead]]],
    ) -> None:
        self._logs = logs
        self._clock = clock
        self._children_of = children_of

    def carry_out(self, order: EraseOrder) -> tuple[ErasureNote, ErasePlan]:
        """Plan an erasure that a caller of the archive asks for, make it and note it."""
        note = order.note(self._clock())
        with self._erasing(order.run_id, order.spans) as (log, head, others):
            facts = lane_facts(log)
            if order.before is None:
                family = Family(snapshots=list(self._snapshots_of(others.forks)))
                plan = plan_erase(order, head, facts.snapshots.values(), {}, family)
            else:
                plan = plan_truncate(order, head, facts, {}, Family(self._forks_of(order.run_id)))
            if head is not None and not plan.is_empty(head):
                note = self._erase(log, head, plan, note, others)
        return note, plan

    def erase_offsets(self, header: RunHeader, note: ErasureNote, clean: Collection[str] = ()) -> None:
        """Erase the content at the offsets of a note, and note it."""
        with self._erasing(header.run_id, note.spans) as (log, head, others):
            if head is None:
                self._note(log, header, note)
                return
            plan = plan_drained_spans(header, head, lane_facts(log).snapshots.values(), note, clean)
            self._erase(log, head, plan, note, others)

    def truncate_history(
        self, header: RunHeader, note: ErasureNote, base: Cursor, former: Sequence[ArchiveEntry] = ()
    ) -> None:
        """Remove the entries up to ``base``, and note it."""
        with self._erasing(header.run_id, ()) as (log, head, others):
            if head is None:
                self._note(log, header, note)
                return
            found = log.cursor_at(base.offset)
            latest, forks = lane_facts(log).snapshots.values(), self._forks_of(header.run_id)
            plan = plan_drained_base(header, head, latest, base, found, forks)
            lacking = [one for one in former if one.offset > head.last.offset]
            self._erase(log, head, plan, note, others, _Beyond(base, lacking))

    def erasure_notes(self, run_id: str) -> Sequence[ErasureNote]:
        """The erasures that are noted of a run, in the order in which they came."""
        check_run_id(run_id)
        with self._logs.reading_run(run_id) as log:
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
    def _erasing(self, run_id: str, spans: Spans) -> Iterator[tuple[RunLog, RunHead | None, _Others]]:
        """The run's log, ready to be written, where it stands (None: it is not there), and what shares with it."""
        check_run_id(run_id)
        while True:
            others = self._others(run_id, spans)
            with self._logs.writing([run_id, *others.branches, *others.forks]):
                if self._others(run_id, spans) != others:
                    continue  # one was made meanwhile
                log = self._logs.log(run_id)
                head = self._logs.head(log, durable=True)
                if head is not None:
                    log.make_ready()
                    head = self._logs.head(log, durable=True)
                    log.index.check_head()
                yield log, head, others
                return

    def _others(self, run_id: str, spans: Spans) -> _Others:
        if not spans:
            return _Others([], [])
        branches = [each for each, head in self._children_of(run_id) if head.fork_of is None]
        return _Others(sorted(branches), sharing(run_id, spans[0][0], self._forks_of))

    def _forks_of(self, run_id: str) -> list[Fork]:
        with self._logs.reading():
            head = self._logs.head(self._logs.log(run_id))
        return [] if head is None else forks_among(run_id, head.creation, self._children_of(run_id))

    def _snapshots_of(self, run_ids: Iterable[str]) -> Iterator[tuple[str, SnapshotHead]]:
        """The latest snapshots of some runs."""
        for run_id in run_ids:
            log = self._logs.log(run_id)
            log.refresh(durable=True)
            yield from ((run_id, saved) for saved in lane_facts(log).snapshots.values())

    def _note(self, log: RunLog, header: RunHeader, note: ErasureNote) -> None:
        """Note an erasure of a run that is yet to come."""
        if self._logs.directory.was_deleted(header.run_id, header.creation):
            return
        log = self._logs.begun(log)
        log.make_ready()
        log.drop_leftovers()  # before it is noted: a batch that was torn may have held it
        note_alone(log, header, note)

    def _erase(
        self,
        log: RunLog,
        head: RunHead,
        plan: ErasePlan,
        note: ErasureNote,
        others: _Others,
        beyond: _Beyond | None = None,
    ) -> ErasureNote:
        """Erase as planned; ``beyond`` where the run is not as far as the base of the plan."""
        marker = self._logs.path / f"{file_names.ERASING}{file_names.encoded(log.run_id)}"
        write_file(marker, log.run_id.encode())
        sync_directory(self._logs.path)
        digests: dict[bytes, list[int]] = {}
        for first, last in plan.spans if others.branches else ():
            digests |= digests_of(log.run_id, log.entries_between([log.span(first - 1, last)], first, last))
        for branch in others.branches:
            self._erase_in_branch(log.run_id, branch, plan, digests)
        for fork in others.forks:
            self._drop_in(fork, replace(plan, spans=(), first_held=plan.spans[0][0]))
        notes = list(log.index.telling.erased)
        note = noted(notes, note)
        base: Cursor | None = None
        former: Sequence[ArchiveEntry] = ()
        if plan.base is not None and plan.moves(head):
            base = log.cursor_at(plan.base)
            if beyond is not None:
                base, former = base or beyond.base, beyond.former
        _rewrite(log, head, plan, notes, base, former)
        log.drop_leftovers()
        marker.unlink(missing_ok=True)
        return note

    def _erase_in_branch(self, run_id: str, branch: str, plan: ErasePlan, digests: dict[bytes, list[int]]) -> None:
        """Erase in a branch of a run what is erased of the run: events that were appended to it again."""
        log = self._logs.log(branch)
        head = self._logs.head(log, durable=True)
        if head is None:
            return
        same: list[int] = []
        first, last = head.before_first.offset + 1, head.last.offset
        entries = log.entries_between([log.span(first - 1, last)], first, last)
        for digest, offsets in digests_of(branch, entries, run_id).items():
            same += offsets if digest in digests else ()
        self._drop_in(branch, branch_plan(head, plan.spans, same))

    def _drop_in(self, run_id: str, plan: ErasePlan) -> None:
        """Erase as planned in a run that shares with another one, and drop its snapshots that may hold it."""
        log = self._logs.log(run_id)
        head = self._logs.head(log, durable=True)
        if head is None:
            return
        log.make_ready()
        holding = [one.head for one in kept_snapshots(log) if one.damage is None and not plan.keeps(one.head)]
        if plan.spans or holding:
            dropped = frozenset(saved.token for saved in holding)
            _rewrite(log, head, replace(plan, dropped=dropped), log.index.telling.erased, None)
            log.drop_leftovers()

    def _finish(self, marker: Path, run_id: str) -> None:
        """Remove what an erasing that was killed has left."""
        names = [run_id, *(each for each, _ in self._children_of(run_id))]
        with self._logs.writing(names):
            for name in names:
                log = self._logs.log(name)
                if log.refresh(durable=True):
                    log.make_ready()
                    log.drop_leftovers()
            marker.unlink(missing_ok=True)


def _rewrite(
    log: RunLog,
    head: RunHead,
    plan: ErasePlan,
    notes: Sequence[ErasureNote],
    base: Cursor | None,
    former: Sequence[ArchiveEntry] = (),
) -> None:
    """Write the log anew, with these former entries before its base; its last mark says which snapshots stay."""
    latest = lane_facts(log).snapshots
    stay = [one.head for one in kept_snapshots(log) if one.damage is None and one.head.token not in plan.dropped]
    tokens = tuple(dict.fromkeys(saved.token for saved in stay if plan.keeps(saved)))
    mark = Mark(
        head.status,
        head.updated_at,
        head.session_id,
        tuple((lane_id, token) for lane_id, token in log.index.latest.items() if token in tokens),
        dropped=tuple(lane_id for lane_id, saved in latest.items() if saved.token in plan.dropped),
        kept=tokens,
        drained=log.index.is_drained,
        ended=tuple(plan.end_after(end, log.index.latest.get(end.lane_id, "")) for end in log.index.ends.values()),
        tags=_tags(log),
        erased=tuple(notes),
    )
    header = RunHeader.of(log.run_id, replace(head, base=base or head.base))
    with log.path.open("rb") as file:
        content = rewritten(log, file, lambda offset: has_offset(plan.spans, offset), header, base, mark, former)
        log.replace(file, content)


def _tags(log: RunLog) -> TagNote:
    try:
        return TagNote.of(tags_of(log))
    except CorruptRecordError:  # they stay damaged
        return TagNote() if log.mark is None else TagNote(log.mark.tags.version)
