"""Fork a run: in three steps, since the fork lies in another slot than its parent.

The parent notes that it is about to be forked (fork_intent.lua), so that it is neither deleted nor forgotten; the
fork is made (fork.lua); the parent notes that (fork_end.lua). Each may be sent again. Each fork has an identity:
what was deleted or given up is never made by a request that comes late. What is left of one who died in between is
seen to by :mod:`~runstream.stores.redis.operations.worker.noted_forks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runstream.model.clock import unix_seconds
from runstream.model.errors import ConfigurationError, CorruptRecordError, EventsArchived, StoreUnavailable
from runstream.model.results import Cursor, E, RunInfo, S
from runstream.model.run_head import UNKNOWN_TOKEN, EndedLane, RunHead
from runstream.operations.messages import diverged
from runstream.operations.operation import Command, Exchange, Operation
from runstream.operations.run_forks import (
    Brought,
    BroughtTooLittle,
    ForkOptions,
    check_fork,
    fork_head,
)
from runstream.stores.redis.damage import corrupt_key, parsing
from runstream.stores.redis.operations.absent import check_absent
from runstream.stores.redis.operations.client.archived_errors import events_archived
from runstream.stores.redis.operations.client.fork_snapshots import ForkedRun, SnapshotsChanged, fork_snapshots
from runstream.stores.redis.operations.client.lineage import cursor_in_ancestors
from runstream.stores.redis.operations.client.refusals import held
from runstream.stores.redis.operations.client.run_head import HEAD_FIELDS, is_there, parse_head
from runstream.stores.redis.operations.client.runs import run_info
from runstream.stores.redis.operations.client.send import resolve_unanswered
from runstream.stores.redis.operations.worker.noted_forks import NotedFork, give_up
from runstream.stores.redis.people_notes import parse_questions
from runstream.stores.redis.replies import parse_cursor, parse_map, parse_tags, start_text
from runstream.stores.redis.scripts.fork_calls import CopiedSnapshot, fork_call, fork_end_call, intent_call
from runstream.stores.redis.session.session import Session

__all__ = ["fork"]

_ATTEMPTS = 10


def fork(
    session: Session[E, S], run_id: str, new_run_id: str, options: ForkOptions, brought: Brought | None = None
) -> Operation[RunInfo]:
    """Make a run that shares this one's history up to an offset.

    Args:
        session: The session.
        run_id: The run.
        new_run_id: The fork.
        options: At which offset, and with which tags.
        brought: What an archive has of the run.

    Raises:
        BroughtTooLittle: It may have more of it by now.
    """
    options.check(run_id, new_run_id)
    yield from resolve_unanswered(session, [run_id, new_run_id])
    for _ in range(_ATTEMPTS):
        parent, former, erasures = yield from _look(session, run_id, new_run_id)
        if brought is not None and (parent is None or _lost(brought.head, parent.head, options.at)):
            raise BroughtTooLittle
        at = check_fork(run_id, None if parent is None else parent.head, new_run_id, former, options.at)
        assert parent is not None  # noqa: S101 - it was checked
        head, made = parent.head, former
        if made is None:
            begins = yield from _beginning(session, parent, new_run_id, at, brought)
            if begins is None:
                continue
            cursor, snapshots = begins
            made = fork_head(run_id, head, cursor, options, _now(session))
            # what lies before a fork's own part is there as long as the fork is
            is_archived = (brought is not None and brought.at == cursor) or at < head.shares_to
            facts = session.keys, run_id, head, new_run_id, made
            call = intent_call(*facts, archived=is_archived, erasures=erasures)
            made = yield from _intend(session, run_id, new_run_id, made, call)
            if made is None:
                continue
            ended = _ended(parent, brought, at, snapshots)
            # an archive's, and those of runs before it, may have what is to be erased there still
            is_own = at >= head.shares_to and not (brought is not None and brought.snapshots)
            clean_of = erasures if is_own else b""
            call = fork_call(session.keys, new_run_id, made, snapshots, ended, clean_of)
            if not (yield from _make(session, run_id, new_run_id, made, call)):
                continue
        yield Exchange([fork_end_call(session.keys, run_id, head.creation, new_run_id, made.identity, made.start)])
        session.forget(new_run_id)
        session.seen.note(new_run_id, start_text(made).encode(), str(made.start).encode(), made.start.offset)
        info = yield from run_info(session, new_run_id)
        if info is not None:
            return info
    raise StoreUnavailable(
        f"run {run_id!r} or {new_run_id!r} changed all the while that it was forked: send the same call again"
    )


def _beginning(
    session: Session[E, S], parent: ForkedRun, new_run_id: str, at: int, brought: Brought | None
) -> Operation[tuple[Cursor, list[CopiedSnapshot]] | None]:
    """The cursor and the snapshots with which a fork begins. None if something has changed: it is to begin anew.

    Raises:
        BroughtTooLittle: The archive may have more of it by now.
        EventsArchived: What it needs has left Redis.
    """
    run_id, head = parent.run.run_id, parent.head
    try:
        cursor = yield from _cursor_at(session, run_id, head, at, brought)
        return cursor, (yield from fork_snapshots(session, parent, new_run_id, at, brought))
    except SnapshotsChanged:
        if brought is not None:
            raise BroughtTooLittle from None
    except EventsArchived:
        again, *_ = yield from _look(session, run_id, new_run_id)
        if again is not None and (again.head.creation, again.head.base) == (head.creation, head.base):
            raise
    return None  # else it has been deleted, or truncated, just now


def _now(session: Session[E, S]) -> float:
    now = session.server_clock.now()
    return unix_seconds() if now is None else now / 1_000_000


def _look(
    session: Session[E, S], run_id: str, new_run_id: str
) -> Operation[tuple[ForkedRun | None, RunHead | None, bytes]]:
    """The run, with its tags, and the head of the one that is to be made; None for one not there.

    With them the run's last request to erase. What is damaged is looked at once more: a run may be deleted between
    what tells of its tags and the tags.
    """
    try:
        return (yield from _look_once(session, run_id, new_run_id))
    except CorruptRecordError:
        return (yield from _look_once(session, run_id, new_run_id))


def _look_once(
    session: Session[E, S], run_id: str, new_run_id: str
) -> Operation[tuple[ForkedRun | None, RunHead | None, bytes]]:
    run, new = session.keys.run(run_id), session.keys.run(new_run_id)
    queries = [(b"HGETALL", run.meta), (b"HGETALL", run.tags), (b"HMGET", new.meta, *HEAD_FIELDS)]
    reply, tags, there = yield Exchange(queries)
    former = parse_head(new, there) if is_there(there) else None
    meta = parse_map(reply)
    with parsing(run):
        found = ForkedRun.of(run_id, meta)
    if found is None:
        yield from check_absent([run])
        return None, former, b""
    with parsing(run, run.tags):
        of_run = parse_tags(meta.get(b"tags"), tags)
    head = replace(found.head, tags=of_run, questions=parse_questions(meta.get(b"questions")))
    return found._replace(run=replace(found.run, head=head)), former, meta.get(b"erasures", b"")


def _lost(seen: RunHead, now: RunHead, at: int | None) -> bool:
    """Whether a run is another one since it was seen, or a snapshot that may be the fork's has gone from Redis."""
    upto = now.last.offset if at is None else at
    gone = (
        lane not in now.snapshots or now.snapshots[lane].offset > upto
        for lane, noted in seen.snapshots.items()
        if noted.offset <= upto
    )
    return (now.creation, now.left) != (seen.creation, seen.left) or any(gone)


def _ended(
    parent: ForkedRun, brought: Brought | None, at: int, snapshots: Sequence[CopiedSnapshot]
) -> list[EndedLane]:
    """The ends up to an offset of lanes that had no other snapshot by then than the fork has of them.

    Whether they have had events since then, of what the fork shares, is seen where its lanes are listed.
    """
    archived = {} if brought is None else {end.lane_id: end for end in brought.ends}
    # where Redis does not know the snapshot any more, the archive does
    later = {
        lane: end
        for lane, end in parent.run.ends.items()
        if lane not in archived or (end.offset, end.token != UNKNOWN_TOKEN) > (archived[lane].offset, False)
    }
    tokens = {noted.lane_id: noted.token for noted, _ in snapshots}
    # had these been saved before, the ends would have their tokens
    hot = parent.head.snapshots
    return [
        end._replace(token=tokens.get(end.lane_id, ""))
        for end in {**archived, **later}.values()
        if end.offset <= at
        and (end.token == tokens.get(end.lane_id, "") or (end.token == UNKNOWN_TOKEN and end.lane_id not in hot))
    ]


def _cursor_at(
    session: Session[E, S], run_id: str, parent: RunHead, at: int, brought: Brought | None
) -> Operation[Cursor]:
    """The run's cursor at an offset that it has."""
    known = [parent.last, parent.mark, parent.start, parent.before_first]
    if brought is not None:
        known.append(brought.at)
    for cursor in known:
        if cursor.offset == at:
            return cursor
    if at < parent.shares_to:
        shared: Cursor = yield from cursor_in_ancestors(session, run_id, parent, at)
        return shared
    (entries,) = yield Exchange([(b"XRANGE", session.keys.run(run_id).events, str(at), str(at))])
    if not entries:
        raise (yield from events_archived(session, run_id, at))
    return parse_cursor(entries[0][0])


def _intend(
    session: Session[E, S],
    run_id: str,
    new_run_id: str,
    fork: RunHead,
    call: Command,
) -> Operation[RunHead | None]:
    """Note the intent at the run. None if something has changed: then it is to be begun anew."""
    ((outcome, *detail),) = yield Exchange([call])
    if outcome == b"ok":
        return replace(fork, identity=int(detail[0]))
    if outcome == b"archived":
        raise (yield from events_archived(session, run_id, fork.start.offset))
    if outcome == b"diverged":
        raise diverged(run_id, fork.start)
    if outcome in (b"made", b"other"):  # and yet it was not there: it was deleted since, or not made
        if not detail:
            raise corrupt_key(
                run_id, session.keys.run(run_id).forks, f"what it has of {new_run_id!r} does not read"
            )
        at = parse_cursor(detail[1])
        noted = NotedFork(run_id, new_run_id, int(detail[0]), at, outcome == b"made", 0)
        yield from give_up(session.keys, [noted])
    return None


def _make(
    session: Session[E, S],
    run_id: str,
    new_run_id: str,
    fork: RunHead,
    call: Command,
) -> Operation[bool]:
    """Make the fork. False if another of that name came first, or it was given up: its intent is taken back."""
    ((outcome, *detail),) = yield Exchange([call])
    if outcome == b"ok":
        return True
    yield from give_up(session.keys, [NotedFork(run_id, new_run_id, fork.identity, fork.start, False, 0)])
    if outcome == b"held":
        raise held(new_run_id, detail)
    if outcome == b"partitions":
        raise ConfigurationError(
            f"namespace {session.namespace!r} has {int(detail[0])} partitions, not {len(session.keys.partitions)}:"
            " it was created anew since this store was opened; open the store again"
        )
    return False
