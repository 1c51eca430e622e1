"""Erase content of a run, or let its history begin later; say what is done of it, place by place."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from shlex import quote
from typing import Any, NamedTuple

from runstream.codec.chain import former_chain
from runstream.codec.record import is_sound, record_crc
from runstream.model.erasures import ErasedPlace, Erasure, ErasureNote, Spans, may_hold
from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import check_run_id, random_token
from runstream.model.protocols import Leased
from runstream.model.results import Cursor, E, LeaseGrant, S
from runstream.model.run_head import SnapshotHead
from runstream.operations.arguments import check_leased, grant_of
from runstream.operations.erase_arguments import (
    MAY_HOLD,
    MAY_HOLD_SHARED,
    Beside,
    EraseOptions,
    MayNeedEvents,
    SnapshotsAway,
    TruncateOptions,
    begins_elsewhere,
    check_before,
    check_offsets,
    check_own,
    check_truncated,
    may_hold_erased,
)
from runstream.operations.messages import diverged, lease_lost, lost
from runstream.operations.operation import Command, Exchange, Operation
from runstream.operations.run_forks import has_forks
from runstream.stores.redis.noted_erasures import NotedErasures
from runstream.stores.redis.operations.client.archived_errors import events_archived, snapshots_away
from runstream.stores.redis.operations.client.refusals import held
from runstream.stores.redis.operations.client.runs import was_deleted
from runstream.stores.redis.operations.client.send import resolve_unanswered
from runstream.stores.redis.operations.server_files import check_files
from runstream.stores.redis.operations.worker.erasing import load_erasures, rebuild
from runstream.stores.redis.operations.worker.hot_run import HotRun
from runstream.stores.redis.operations.worker.inherited_erasures import erase_inherited, heirs_of
from runstream.stores.redis.operations.worker.load import load_runs
from runstream.stores.redis.operations.worker.noted_forks import living_forks
from runstream.stores.redis.replies import parse_cursor, parse_records, parse_texts, start_text
from runstream.stores.redis.scripts.erasure_calls import erase_call
from runstream.stores.redis.session.session import Session

__all__ = ["erase", "erasures", "to_be_erased", "truncate"]

PLACE = "Redis"
_MAY_NEED = "may need what is to be truncated"
_OR_DROP = ", or let them go with drop_snapshots=True; nothing was erased"


class _Asked(NamedTuple):
    """What is asked for: the offsets, or the cursor before the event with which the history is to begin.

    Of these latest snapshots it is known that they hold, or need, nothing of it: ``sound`` are their tokens by
    lane, ``clean`` only their tokens; and of those that had left Redis when ``beside.away`` was noted.
    """

    what: str
    grant: LeaseGrant | None
    spans: Spans = ()
    before: Cursor | None = None
    drops_snapshots: bool = False
    sound: Mapping[str | None, str] = {}
    clean: frozenset[str] = frozenset()
    beside: Beside | None = None

    @property
    def offset(self) -> int | None:
        """The offset with which the history is to begin."""
        return None if self.before is None else self.before.offset + 1


def erase(
    session: Session[E, S], run_id: str, spans: Spans, options: EraseOptions, beside: Beside | None = None
) -> Operation[Erasure]:
    """Erase the content at these offsets for good; offsets, chains and callers' keys stay.

    Args:
        session: The session.
        run_id: The run.
        spans: The offsets.
        options: How.
        beside: What is known of an archive, by one who asks it, of forks too.

    Raises:
        SnapshotsAway: Latest snapshots that left Redis may hold some of it, and the archive can be asked.
        EventsArchived: The same, and there is nobody to ask.
    """
    grant = _grant(session, run_id, options.lease)
    tokens = {lane_id: session.snapshots.get(run_id, lane_id)[0] for lane_id in options.given}
    what = ErasureNote(0.0, spans).text
    asked = _Asked(what, grant, spans, drops_snapshots=options.drop_snapshots, sound=tokens, beside=beside)
    yield from resolve_unanswered(session, [run_id])
    if not spans:
        yield from _there(session, run_id)
        return Erasure(run_id, 0.0)
    return (yield from _request(session, run_id, asked))


def truncate(
    session: Session[E, S],
    run_id: str,
    before: int,
    options: TruncateOptions,
    beside: Beside | None = None,
) -> Operation[Erasure]:
    """Remove the events before an offset: the history begins with it from then on.

    Args:
        session: The session.
        run_id: The run.
        before: The offset.
        options: How.
        beside: What is known of an archive, by one who asks it.

    Raises:
        MayNeedEvents: Latest snapshots may need some of them.
        SnapshotsAway: Some that left Redis may, and the archive can be asked.
        EventsArchived: What is needed to tell has left Redis.
    """
    grant = _grant(session, run_id, options.lease)
    check_before(before)
    yield from resolve_unanswered(session, [run_id])
    run, _ = yield from _there(session, run_id)
    check_truncated(run_id, before, run.head.last.offset)
    check_own(run_id, before, run.head)
    if not begins_elsewhere(run.head, before - 1):
        known = [one for _, one in (yield from _state(session, run_id)) if one.before == before]
        return known[0] if known else Erasure(run_id, 0.0, before=before)
    cursor = (beside and beside.at) or (yield from _cursor_before(session, run, before))
    asked = _Asked(f"<{before}", grant, before=cursor, clean=options.clean, beside=beside)
    return (yield from _request(session, run_id, asked))


def _grant(session: Session[E, S], run_id: str, lease: Leased | None) -> LeaseGrant | None:
    """The lease that is carried, which a store may require."""
    check_run_id(run_id)
    grant = grant_of(run_id, lease)
    if session.require_lease:
        check_leased(run_id, (), grant)
    return grant


def _there(session: Session[E, S], run_id: str) -> Operation[tuple[HotRun, Cursor | None]]:
    """A run that is to be there, and the cursor that this store object saw last of its history."""
    (run,) = yield from load_runs(session.keys, [run_id])
    seen, last, known = session.seen.get(run_id), 0 if run is None else run.head.last.offset, None
    if seen is not None:
        is_same = run is not None and run.head.creation == seen.history
        if last < seen.offset if is_same else not (yield from was_deleted(session, run_id)):
            raise lost(run_id, seen.offset, last)
        known = seen.cursor if is_same else None
    if run is None:
        raise ConfigurationError(f"there is no run {run_id!r} here: see its id (list_runs)")
    return run, known


def _cursor_before(session: Session[E, S], run: HotRun, before: int) -> Operation[Cursor]:
    """The cursor before an event, by the one that is there, or by the event itself."""
    head = run.head
    for known in (head.last, head.mark, head.start):
        if known.offset == before - 1:
            return known
    query: Command = (b"XRANGE", session.keys.run(run.run_id).events, str(before - 1), str(before))
    (entries,) = yield Exchange([query])
    for (entry_id, _), record in zip(entries, parse_records(entries), strict=True):
        at = parse_cursor(entry_id)
        if at.offset == before - 1:
            return at
        if is_sound(run.header.written_as(at.offset), record):
            return Cursor(before - 1, former_chain(at.chain, record_crc(record)))
    raise (yield from events_archived(session, run.run_id, before - 1))


def _request(session: Session[E, S], run_id: str, asked: _Asked) -> Operation[Erasure]:
    """Note what is asked for, and do of it what can be done here."""
    token = random_token()
    while True:
        number = yield from _noted(session, run_id, asked, token)
        if asked.drops_snapshots:  # in forks, too, also where the same was asked for before
            yield from erase_inherited(session.keys, run_id, [ErasureNote(math.inf, asked.spans)])
        for noted, erasure in (yield from _state(session, run_id)):
            if noted == number and (erasure.spans, erasure.before) == (asked.spans, asked.offset):
                return erasure
        # the server has lost it since: it is asked for again, of the history that the run has now


def _noted(session: Session[E, S], run_id: str, asked: _Asked, token: str) -> Operation[int]:
    """Note what is asked for. Returns its number."""
    keys = session.keys.run(run_id)
    while True:
        run, seen = yield from _there(session, run_id)
        check_offsets(run_id, asked.spans, run.head.before_first.offset + 1, run.head.last.offset)
        if asked.spans and not asked.drops_snapshots:
            yield from _check_heirs(session, run_id, asked)
        dropped = _to_drop(run, asked) if asked.drops_snapshots else []
        known = {lane: saved.token for lane, saved in run.head.snapshots.items() if saved.token in asked.clean}
        call = erase_call(
            keys,
            start=start_text(run.head),
            token=token,
            what=asked.what,
            lease=asked.grant,
            before=asked.before,
            seen=seen,
            drops_snapshots=asked.drops_snapshots,
            away=b"" if asked.beside is None else asked.beside.away,
            dropped=dropped,
            sound={**asked.sound, **known},
        )
        ((outcome, *facts),) = yield Exchange([call])
        if outcome == b"ok":
            for lane_id in dropped:
                session.snapshots.drop(run_id, lane_id)
            return int(facts[0])
        if outcome == b"forks":
            living = yield from living_forks(session.keys, run_id)
            if forks := [fork for fork in living if fork.at > run.head.begin]:
                raise has_forks(run_id, forks, "truncated")
        elif outcome == b"lost" and seen is not None:
            raise lost(run_id, seen.offset, int(facts[0]))
        elif outcome not in (b"gone", b"changed"):
            raise (yield from _refusal(session, run_id, asked, outcome, facts))


def _check_heirs(session: Session[E, S], run_id: str, asked: _Asked) -> Operation[None]:
    """Raise ConfigurationError if snapshots of forks may hold what is to be erased, or EventsArchived."""
    for heir in (yield from heirs_of(session.keys, run_id, [ErasureNote(math.inf, asked.spans)])):
        if heir.holding:
            raise may_hold_erased(heir.run_id, heir.holding, MAY_HOLD_SHARED)
        if heir.is_away and asked.beside is None:
            raise (yield from snapshots_away(session, heir.run_id, MAY_HOLD_SHARED, _OR_DROP))


def _to_drop(run: HotRun, asked: _Asked) -> list[str | None]:
    """The lanes whose snapshots may hold something of what is to be erased."""
    first, start = asked.spans[0][0], run.head.begin
    found = run.head.snapshots.values()
    return [
        one.lane_id
        for one in found
        if may_hold(one.offset, start, first) and asked.sound.get(one.lane_id) != one.token
    ]


def _refusal(
    session: Session[E, S], run_id: str, asked: _Asked, outcome: bytes, facts: Sequence[bytes]
) -> Operation[Exception]:
    """The error of a reply that is not 'ok'; see erase.lua."""
    if outcome == b"unleased" and asked.grant is not None:
        return lease_lost(asked.grant)
    if outcome == b"held":
        return held(run_id, facts)
    if outcome == b"diverged":
        return diverged(run_id, parse_cursor(facts[0]))
    if outcome == b"outside":
        check_offsets(run_id, asked.spans, int(facts[0]), int(facts[1]))
        check_truncated(run_id, asked.offset or 1, int(facts[1]))
    if outcome == b"away":
        if asked.beside is not None:
            return SnapshotsAway(facts[0])
        what, instead = (MAY_HOLD, _OR_DROP) if asked.before is None else (_MAY_NEED, "; nothing was truncated")
        return (yield from snapshots_away(session, run_id, what, instead))
    holding = [_snapshot_in(field, noted) for field, noted in zip(facts[::2], facts[1::2], strict=True)]
    if asked.before is None:
        return may_hold_erased(run_id, holding)
    return MayNeedEvents(holding)


def _snapshot_in(field: bytes, noted: bytes) -> SnapshotHead:
    """A snapshot by its field in meta and what that has."""
    _, colon, lane = field.decode().partition(":")
    offset, revision, token = noted.decode().split()
    return SnapshotHead(lane if colon else None, int(offset), int(revision), token)


def erasures(session: Session[E, S], run_id: str) -> Operation[list[Erasure]]:
    """What was asked to be erased of a run, and what is done of it where; tries what could not be done yet."""
    check_run_id(run_id)
    return [one for _, one in (yield from _state(session, run_id))]


def to_be_erased(session: Session[E, S], run_id: str) -> Operation[Spans]:
    """The offsets of a run whose content is to be erased, and that an archive may have still."""
    keys = session.keys.run(run_id)
    ((asked, erased),) = yield Exchange([(b"HMGET", keys.meta, "erasures", "erased")])
    if not asked or asked == erased:
        return ()
    return (yield from load_erasures(session.keys, run_id)).spans_since(int(erased or 0))


def _state(session: Session[E, S], run_id: str) -> Operation[list[tuple[int, Erasure]]]:
    keys = session.keys.run(run_id)
    (run,) = yield from load_runs(session.keys, [run_id])
    if run is None or not run.erasures:
        return []
    full = yield from rebuild(session.keys, run.header)
    noted = yield from load_erasures(session.keys, run_id)
    full = full or (yield from erase_inherited(session.keys, run_id, noted.notes.values()))
    place = ErasedPlace(PLACE, done=False, reason=full)
    if not full:
        files = yield from check_files(keys, start_text(run.head), noted)
        place = ErasedPlace(PLACE, files.done, files.reason, files.command)
    (required,) = yield Exchange([(b"HGETALL", keys.partition.archives)])
    states = []
    for number, note in noted.notes.items():
        archives = _archives(number, required, noted, run.erased)
        states.append((number, Erasure.of(run_id, note, [_here(number, place, noted), *archives])))
    return states


def _here(number: int, place: ErasedPlace, noted: NotedErasures) -> ErasedPlace:
    """What has become of an erasure in Redis, given what has become of the last one."""
    if noted.files.done >= number:
        return ErasedPlace(PLACE, done=True)
    return place


def _archives(number: int, required: Any, noted: NotedErasures, settled: int) -> Collection[ErasedPlace]:
    """What has become of an erasure in the archives; those up to ``settled`` all of them had carried out."""
    places = []
    for archive_id, location in sorted(parse_texts(required).items(), key=lambda item: item[1]):
        # a failover may have lost the note of one archive, and not the settling that came of it
        there = noted.in_archive(archive_id)
        done = max(settled, there.number) >= number
        reason = "" if done else there.why or "no drain worker has erased it there yet"
        command = "" if done else f"runstream drain --to {quote(location)} --once"
        places.append(ErasedPlace(location, done, reason, command))
    return places
