"""Erase in a SQLite archive: content out of its rows, and beginnings of histories.

What is erased stays as a row with neither kind nor data, which has the caller's key, and lane and ``seq``, by
which a lane goes on. Of what is before a history's base, such rows stay where there is a key, or a lane's last
event.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from runstream.model.archive_records import ArchiveEntry, RunHeader
from runstream.model.erasures import ErasedPlace, ErasureNote, Spans
from runstream.model.errors import StoreUnavailable
from runstream.model.results import Cursor, Fork
from runstream.model.run_head import RunHead
from runstream.operations.run_forks import forks_among
from runstream.stores.archive.eraser import (
    Eraser,
    branch_plan,
    digests_of,
    plan_drained_base,
    plan_drained_spans,
)
from runstream.stores.archive.sqlite.connection import ArchiveFile
from runstream.stores.archive.sqlite.deletion import was_deleted
from runstream.stores.archive.sqlite.erasure_table import load_notes, note_erasure
from runstream.stores.archive.sqlite.lane_rows import lane_facts, load_ends, save_ends
from runstream.stores.archive.sqlite.latest_snapshots import read_heads
from runstream.stores.archive.sqlite.lease_table import in_force
from runstream.stores.archive.sqlite.queries import ASIDE, EVENT, find_children, load_head, save_heads, save_lanes
from runstream.stores.archive.sqlite.row_checksums import entry_checksum, run_seed
from runstream.stores.archive.sqlite.row_values import entries_in
from runstream.stores.archive.sqlite.scrubbing import note_unscrubbed, overwriting, scrub
from runstream.stores.archive.sqlite.snapshot_table import history_of
from runstream.stores.local.erase_plan import EraseOrder, ErasePlan, Family, plan_erase, plan_truncate, sharing

__all__ = ["SQLiteEraser"]

_PAGE = 1000
_BETWEEN = "WHERE run_id = ? AND offset BETWEEN ? AND ? ORDER BY offset"
_GET_EVENTS, _GET_ASIDE = f"{EVENT} {_BETWEEN}", f"{ASIDE} {_BETWEEN}"
_ERASE_EVENT = "UPDATE events SET ts = 0.0, kind = '', data = '', checksum = ? WHERE run_id = ? AND offset = ?"
_ADD_ERASED = """INSERT INTO events (run_id, seq, ts, kind, lane_id, data, offset, chain, key, checksum)
    VALUES (?, ?, 0.0, '', ?, '', ?, ?, ?, ?)"""
_DROP_ASIDE = "DELETE FROM quarantine WHERE run_id = ? AND offset BETWEEN ? AND ?"
_REMOVE = (
    """DELETE FROM events WHERE run_id = :run_id AND offset <= :base AND key IS NULL
    AND offset NOT IN (SELECT last_offset FROM lanes WHERE run_id = :run_id)""",
    "DELETE FROM quarantine WHERE run_id = :run_id AND offset <= :base AND key IS NULL",
)
_DROP_LATEST = (
    "DELETE FROM snapshots WHERE run_id = ? AND token = ?",
    "DELETE FROM lane_snapshots WHERE run_id = ? AND token = ?",
)
_DROP_KEPT = "DELETE FROM snapshot_history WHERE id = ?"
_IS_LOST = "SELECT 1 FROM losses WHERE run_id = ?"
_FORGET_LOSS = "DELETE FROM losses WHERE run_id = ?"


class SQLiteEraser(Eraser):
    """The part of a SQLite archive that erases.

    Args:
        file: The archive's file.
        clock: Unix time in seconds.
    """

    def __init__(self, file: ArchiveFile, clock: Callable[[], float]) -> None:
        self._file = file
        self._clock = clock

    def carry_out(self, order: EraseOrder) -> tuple[ErasureNote, ErasePlan]:
        """Plan an erasure that a caller of the archive asks for, make it and note it, in one transaction."""
        run_id = order.run_id
        with self._file.write() as connection, overwriting(connection):
            now = self._clock()
            head, leases = load_head(connection, run_id), in_force(connection, now, run_id)
            if order.before is None:
                plan = plan_erase(
                    order,
                    head,
                    list(read_heads(connection, run_id)),
                    leases,
                    _family(connection, run_id, order.spans),
                )
            else:
                family = Family(_forks_of(connection, run_id))
                plan = plan_truncate(order, head, lane_facts(connection, now, run_id), leases, family)
            note = order.note(now)
            if head is not None and not plan.is_empty(head):
                note = note_erasure(connection, RunHeader.of(run_id, head), note)
                _erase(connection, run_id, head, plan)
        return note, plan

    def erase_offsets(self, header: RunHeader, note: ErasureNote, clean: Collection[str] = ()) -> None:
        """Erase the content at the offsets of a note, and note it."""
        run_id = header.run_id
        with self._file.write() as connection, overwriting(connection):
            head = load_head(connection, run_id)
            if head is not None:
                latest = list(read_heads(connection, run_id))
                _erase(connection, run_id, head, plan_drained_spans(header, head, latest, note, clean))
            elif was_deleted(connection, run_id, header.creation):
                return
            note_erasure(connection, header, note)

    def truncate_history(
        self, header: RunHeader, note: ErasureNote, base: Cursor, former: Sequence[ArchiveEntry] = ()
    ) -> None:
        """Remove the entries up to ``base``, and note it."""
        run_id = header.run_id
        with self._file.write() as connection, overwriting(connection):
            head = load_head(connection, run_id)
            if head is not None:
                found = _cursor_at(connection, run_id, base.offset)
                forks = _forks_of(connection, run_id)
                plan = plan_drained_base(header, head, read_heads(connection, run_id), base, found, forks)
                if not plan.is_empty(head):
                    _add_former(connection, run_id, [one for one in former if one.offset > head.last.offset])
                    _erase(connection, run_id, head, plan, base)
            elif was_deleted(connection, run_id, header.creation):
                return
            note_erasure(connection, header, note)

    def erasure_notes(self, run_id: str) -> Sequence[ErasureNote]:
        """The erasures that are noted of a run, in the order in which they came."""
        with self._file.use() as connection:
            head = load_head(connection, run_id)
            return load_notes(connection, run_id, None if head is None else head.creation)

    def where_erased(self) -> ErasedPlace:
        """Whether all that was erased is out of the file and its log; if not, tries again first."""
        path, command = self._file.path, ""
        try:
            with self._file.use() as connection:
                reason = scrub(connection)
        except StoreUnavailable as error:  # a quota or a limit on files, say: to SQLite the disk fails
            reason = str(error)
        if reason:
            first = "make room" if "room" in reason else f"end what has {path} open"
            command = f"{first}, then ask for the erasures again"
        return ErasedPlace(f"sqlite:{path}", not reason, reason, command)


def _erase(
    connection: sqlite3.Connection, run_id: str, head: RunHead, plan: ErasePlan, base: Cursor | None = None
) -> None:
    """Erase as planned; ``base`` where the run is not as far as the base of the plan."""
    was_lost = connection.execute(_IS_LOST, (run_id,)).fetchone() is not None
    branches = [child for child in find_children(connection, run_id) if child[1].fork_of is None]
    digests: dict[bytes, list[int]] = {}
    for entries in _pages(connection, run_id, plan.spans) if branches else ():
        digests |= digests_of(run_id, entries)
    _erase_spans(connection, run_id, plan.spans)
    if plan.base is not None:
        _truncate(connection, run_id, head, plan.base, base)
    _drop_snapshots(connection, run_id, plan)
    if plan.spans:
        for fork in sharing(run_id, plan.spans[0][0], partial(_forks_of, connection)):
            _drop_holding(connection, fork, plan)
        for branch, its_head in branches:
            _erase_in_branch(connection, run_id, branch, its_head, plan.spans, digests)
    if not was_lost:
        connection.execute(_FORGET_LOSS, (run_id,))  # what the triggers noted was deleted here
    note_unscrubbed(connection)


def _chunks(spans: Spans) -> Iterator[tuple[int, int]]:
    """The same offsets in spans that are not long."""
    for first, last in spans:
        yield from ((begin, min(begin + _PAGE - 1, last)) for begin in range(first, last + 1, _PAGE))


def _pages(connection: sqlite3.Connection, run_id: str, spans: Spans) -> Iterator[list[ArchiveEntry]]:
    """The entries at some offsets."""
    for span in _chunks(spans):
        for query in (_GET_EVENTS, _GET_ASIDE):
            yield list(entries_in(run_id, connection.execute(query, (run_id, *span))))


def _erase_spans(connection: sqlite3.Connection, run_id: str, spans: Spans) -> None:
    seed = run_seed(run_id)
    for span in _chunks(spans):
        there = connection.execute(_GET_EVENTS, (run_id, *span)).fetchall()
        left = [(entry_checksum(seed, at, chain, key, None), run_id, at) for at, chain, key, *_ in there]
        connection.executemany(_ERASE_EVENT, left)
        aside = connection.execute(_GET_ASIDE, (run_id, *span)).fetchall()
        _add_erased(connection, run_id, [ArchiveEntry(row[0], row[1], row[2], None) for row in aside])
        connection.execute(_DROP_ASIDE, (run_id, *span))


def _add_erased(connection: sqlite3.Connection, run_id: str, entries: Iterable[ArchiveEntry]) -> None:
    seed = run_seed(run_id)
    rows = [
        (run_id, one.seq, one.lane_id, *one[:3], entry_checksum(seed, one.offset, one.chain, one.key, None))
        for one in entries
    ]
    connection.executemany(_ADD_ERASED, rows)


def _add_former(connection: sqlite3.Connection, run_id: str, former: Sequence[ArchiveEntry]) -> None:
    """Add what is left of entries behind the end of a history that is to begin after them."""
    _add_erased(connection, run_id, former)
    save_lanes(connection, [(run_id, one.lane_id, one.offset) for one in former if one.lane_id])


def _truncate(
    connection: sqlite3.Connection, run_id: str, head: RunHead, offset: int, beyond: Cursor | None
) -> None:
    base = _cursor_at(connection, run_id, offset) or beyond
    if base is None:
        base = head.before_first  # nothing is there to be removed
    for statement in _REMOVE:
        connection.execute(statement, {"run_id": run_id, "base": base.offset})
    _erase_spans(connection, run_id, ((head.lowest.offset, base.offset),))
    last = base if head.last.offset < base.offset else head.last
    save_heads(connection, {run_id: replace(head, last=last, base=base)})


def _drop_snapshots(connection: sqlite3.Connection, run_id: str, plan: ErasePlan) -> None:
    """Drop the snapshots that go; one in the history of which nothing is known may hold anything."""
    for saved in list(read_heads(connection, run_id)) if plan.dropped else ():
        if saved.lane_id is not None and saved.token in plan.dropped:
            ends = load_ends(connection, run_id, saved.lane_id)
            save_ends(connection, [(run_id, plan.end_after(end, saved.token)) for end in ends])
    for token in plan.dropped:
        for statement in _DROP_LATEST:
            connection.execute(statement, (run_id, token))
    for kept in history_of(connection, run_id):
        if kept.stored_at is not None and (
            kept.damage is not None or kept.head.token in plan.dropped or not plan.keeps(kept.head)
        ):
            connection.execute(_DROP_KEPT, (kept.stored_at,))


def _forks_of(connection: sqlite3.Connection, run_id: str) -> list[Fork]:
    head = load_head(connection, run_id)
    return [] if head is None else forks_among(run_id, head.creation, find_children(connection, run_id))


def _family(connection: sqlite3.Connection, run_id: str, spans: Spans) -> Family:
    """The latest snapshots of the runs that share some of these offsets with a run."""
    runs = sharing(run_id, spans[0][0], partial(_forks_of, connection)) if spans else ()
    return Family(snapshots=[(each, saved) for each in runs for saved in read_heads(connection, each)])


def _drop_holding(connection: sqlite3.Connection, run_id: str, plan: ErasePlan) -> None:
    """Drop the snapshots of a fork or a branch that may hold what is erased of the history that it shares."""
    holding = [saved.token for saved in read_heads(connection, run_id) if not plan.keeps(saved)]
    _drop_snapshots(connection, run_id, replace(plan, dropped=frozenset(holding)))
    connection.execute(_FORGET_LOSS, (run_id,))


def _erase_in_branch(
    connection: sqlite3.Connection,
    run_id: str,
    branch: str,
    head: RunHead,
    spans: Spans,
    digests: dict[bytes, list[int]],
) -> None:
    """Erase in a branch of a run what is erased of the run: events that were appended to it again."""
    same: list[int] = []
    for entries in _pages(connection, branch, ((head.start.offset + 1, head.last.offset),)):
        for digest, offsets in digests_of(branch, entries, run_id).items():
            same += offsets if digest in digests else ()
    plan = branch_plan(head, spans, same)
    _erase_spans(connection, branch, plan.spans)
    _drop_holding(connection, branch, plan)


def _cursor_at(connection: sqlite3.Connection, run_id: str, offset: int) -> Cursor | None:
    """The cursor of what the file has at an offset; None for nothing."""
    for query in (_GET_EVENTS, _GET_ASIDE):
        for entry in entries_in(run_id, connection.execute(query, (run_id, offset, offset))):
            return entry.cursor
    return None
