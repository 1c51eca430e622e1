"""Fork a run: in three steps, since the fork lies in another slot than its parent.

The parent notes that it is about to be forked (fork_intent.lua), so that it is neither deleted nor forgotten; the
fork is made (fork.lua); the parent notes that (fork_end.lua). Each may be sent again. Each fork has an identity:
what was deleted or given up is never made by a request that comes late. What is left of one who died in between is
seen to by :mod:`~runstream.stores.redis.operations.worker.noted_forks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from runstream.codec.lossless_json import load_json
from runstream.codec.snapshot_fields import PackedState, pack_state, read_saved
from runstream.codec.stored import STORED_PACKER
from runstream.model.clock import unix_seconds
from runstream.model.errors import ConfigurationError, CorruptRecordError, EventsArchived, StoreUnavailable
from runstream.model.results import Cursor, E, RunInfo, S
from runstream.model.run_head import UNKNOWN_TOKEN, EndedLane, RunHead, SnapshotHead
from runstream.operations.messages import diverged
from runstream.operations.operation import Command, Exchange, Operation
from runstream.operations.run_forks import (
    Brought,
    BroughtTooLittle,
    ForkOptions,
    as_state_of,
    check_fork,
    fork_head,
)
from runstream.stores.redis.damage import corrupt_key, parsing
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.operations.absent import check_absent
from runstream.stores.redis.operations.client.archived_errors import events_archived
from runstream.stores.redis.operations.client.lineage import cursor_in_ancestors
from runstream.stores.redis.operations.client.refusals import held
from runstream.stores.redis.operations.client.run_head import HEAD_FIELDS, is_there, parse_head
from runstream.stores.redis.operations.client.runs import run_info
from runstream.stores.redis.operations.client.send import resolve_unanswered
from runstream.stores.redis.operations.worker.hot_run import run_of
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
        parent, former, erasures, ends = yield from _look(session, run_id, new_run_id)
        head = parent or (None if brought is None else brought.head)
        at = check_fork(run_id, head, new_run_id, former, options.at)
        assert head is not None  # noqa: S101 - it was checked
        if parent is not None and brought is not None and parent.left != brought.head.left:
            raise BroughtTooLittle
        made = former
        if made is None:
            try:
                cursor = yield from _cursor_at(session, run_id, parent, at, brought)
            except EventsArchived:
                again, *_ = yield from _look(session, run_id, new_run_id)
                if again is not None and (again.creation, again.base) == (head.creation, head.base):
                    raise
                continue  # it has been deleted, or truncated, just now
            snapshots = yield from _snapshots(session, run_id, new_run_id, parent, at, brought)
            made = fork_head(run_id, head, cursor, options, _now(session))
            # what lies before a fork's own part is there as long as the fork is
            is_archived = (brought is not None and brought.at == cursor) or at < head.shares_to
            facts = head.creation, new_run_id, made
            call = intent_call(session.keys, run_id, parent, *facts, archived=is_archived, erasures=erasures)
            made = yield from _intend(session, run_id, new_run_id, made, call)
            if made is None:
                continue
            ended = _ended(parent, ends, brought, at, snapshots)
            # an archive's may have what is to be erased there still
            clean_of = b"" if brought is not None and brought.snapshots else erasures
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


def _now(session: Session[E, S]) -> float:
    now = session.server_clock.now()
    return unix_seconds() if now is None else now / 1_000_000


def _look(
    session: Session[E, S], run_id: str, new_run_id: str
) -> Operation[tuple[RunHead | None, RunHead | None, bytes, Mapping[str, EndedLane]]]:
    """The head of the run, with tags and snapshots, and of the one that is to be made; None for one not there.

    With them the run's last request to erase, and the last ends of its lanes. What is damaged is looked at once
    more: a run may be deleted between what tells of its tags and the tags.
    """
    try:
        return (yield from _look_once(session, run_id, new_run_id))
    except CorruptRecordError:
        return (yield from _look_once(session, run_id, new_run_id))


def _look_once(
    session: Session[E, S], run_id: str, new_run_id: str
) -> Operation[tuple[RunHead | None, RunHead | None, bytes, Mapping[str, EndedLane]]]:
    run, new = session.keys.run(run_id), session.keys.run(new_run_id)
    queries = [(b"HGETALL", run.meta), (b"HGETALL", run.tags), (b"HMGET", new.meta, *HEAD_FIELDS)]
    reply, tags, there = yield Exchange(queries)
    former = parse_head(new, there) if is_there(there) else None
    meta = parse_map(reply)
    with parsing(run):
        known = run_of(run_id, meta, is_partial=False)
    if known is None:
        yield from check_absent([run])
        return None, former, b"", {}
    with parsing(run, run.tags):
        of_run = parse_tags(meta.get(b"tags"), tags)
    head = replace(known.head, tags=of_run, questions=parse_questions(meta.get(b"questions")))
    return head, former, meta.get(b"erasures", b""), known.ends


def _ended(
    parent: RunHead | None,
    ends: Mapping[str, EndedLane],
    brought: Brought | None,
    at: int,
    snapshots: Sequence[CopiedSnapshot],
) -> list[EndedLane]:
    """The ends up to an offset of lanes that had no other snapshot by then than the fork has of them.

    Whether they have had events since then, of what the fork shares, is seen where its lanes are listed.
    """
    archived = {} if brought is None else {end.lane_id: end for end in brought.ends}
    # where Redis does not know the snapshot any more, the archive does
    later = {
        lane: end
        for lane, end in ends.items()
        if lane not in archived or (end.offset, end.token != UNKNOWN_TOKEN) > (archived[lane].offset, False)
    }
    tokens = {noted.lane_id: noted.token for noted, _ in snapshots}
    # had these been saved before, the ends would have their tokens
    hot = {} if parent is None else parent.snapshots
    return [
        end._replace(token=tokens.get(end.lane_id, ""))
        for end in {**archived, **later}.values()
        if end.offset <= at
        and (end.token == tokens.get(end.lane_id, "") or (end.token == UNKNOWN_TOKEN and end.lane_id not in hot))
    ]


def _cursor_at(
    session: Session[E, S], run_id: str, parent: RunHead | None, at: int, brought: Brought | None
) -> Operation[Cursor]:
    """The run's cursor at an offset that it has."""
    known: list[Cursor] = [] if parent is None else [parent.last, parent.mark, parent.start, parent.before_first]
    if brought is not None:
        known.append(brought.at)
    for cursor in known:
        if cursor.offset == at:
            return cursor
    if parent is None:
        raise ConfigurationError(f"what was brought of run {run_id!r} does not say its cursor at {at}")
    if at < parent.shares_to:
        shared: Cursor = yield from cursor_in_ancestors(session, run_id, parent, at)
        return shared
    (entries,) = yield Exchange([(b"XRANGE", session.keys.run(run_id).events, str(at), str(at))])
    if not entries:
        raise (yield from events_archived(session, run_id, at))
    return parse_cursor(entries[0][0])


def _snapshots(
    session: Session[E, S], run_id: str, new_run_id: str, parent: RunHead | None, at: int, brought: Brought | None
) -> Operation[list[CopiedSnapshot]]:
    """The newest snapshots that are known and cover no more than an offset, as the fork's."""
    run = session.keys.run(run_id)
    found: dict[str | None, CopiedSnapshot] = {}
    for one in () if brought is None else brought.snapshots:
        if one.offset <= at:
            packed = pack_state(STORED_PACKER, as_state_of(new_run_id, load_json(one.data)))
            found[one.lane_id] = SnapshotHead(*one[:4]), _fields(packed)
    lanes = [
        lane
        for lane, noted in ({} if parent is None else parent.snapshots).items()
        if noted.offset <= at and (lane not in found or noted.revision > found[lane][0].revision)
    ]
    replies = (yield Exchange([(b"HGETALL", run.snapshot(lane)) for lane in lanes])) if lanes else ()
    for lane, reply in zip(lanes, replies, strict=True):
        copied = _copied(run, lane, parse_map(reply), new_run_id)
        if copied is None and brought is not None:
            raise BroughtTooLittle
        if copied is not None and copied[0].offset <= at:  # else it was saved since, or left Redis
            found[lane] = copied
    return list(found.values())


def _copied(
    run: RunKeys, lane: str | None, reply: Mapping[bytes, bytes], new_run_id: str
) -> CopiedSnapshot | None:
    if not reply:
        return None
    with parsing(run, run.snapshot(lane)):
        saved = read_saved(reply)
    noted = SnapshotHead(lane, saved.offset, saved.revision, saved.token)
    return noted, _fields(pack_state(STORED_PACKER, as_state_of(new_run_id, saved.state), saved.packed))


def _fields(packed: PackedState) -> dict[bytes, bytes]:
    return {**packed.fields, b"checksum": b"%d" % packed.checksum}


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
