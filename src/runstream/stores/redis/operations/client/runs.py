"""List runs, describe one, delete one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from runstream.model.errors import CorruptRecordError, RunstreamError
from runstream.model.identifiers import check_run_id
from runstream.model.questions import pending_of
from runstream.model.results import Cursor, E, RunInfo, S
from runstream.model.run_head import RunHead
from runstream.operations.arguments import RunsQuery
from runstream.operations.filters import RunFilter
from runstream.operations.operation import Command, Exchange, Items, Operation, Refusal, Stream
from runstream.operations.run_forks import has_forks
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.keys import PartitionKeys, RunKeys
from runstream.stores.redis.operations.absent import check_absent
from runstream.stores.redis.operations.client.border import Border
from runstream.stores.redis.operations.client.refusals import held
from runstream.stores.redis.operations.client.run_head import HEAD_FIELDS, is_there, parse_head
from runstream.stores.redis.operations.client.runs_by_update import (
    latest_run_ids,
    lowest_score,
    run_ids_by_update,
)
from runstream.stores.redis.operations.client.send import resolve_unanswered
from runstream.stores.redis.operations.unfinished import snapshots_left
from runstream.stores.redis.operations.worker.noted_forks import fork_gone, living_forks
from runstream.stores.redis.page_size import first_entries
from runstream.stores.redis.people_notes import parse_questions
from runstream.stores.redis.replies import (
    noted_size,
    noted_time,
    parse_cursor,
    parse_map,
    parse_tags,
    run_id_of,
    start_text,
    tag_names,
)
from runstream.stores.redis.scripts.calls import MICROSECONDS
from runstream.stores.redis.scripts.removal_calls import delete_call
from runstream.stores.redis.session.session import Session

__all__ = ["delete_run", "list_runs", "run_info", "run_info_after", "runs", "was_deleted"]

_log = logging.getLogger("runstream.redis")

_CHUNK = 200
_FIRST_CHUNK = 50
_AS_IT_IS = "surrogateescape"
_INFO = (*HEAD_FIELDS, b"session", b"created", b"updated", b"questions", b"tags")


def run_info(session: Session[E, S], run_id: str) -> Operation[RunInfo | None]:
    """What is known of a run, or None."""
    info, *_ = yield from _info_beside(session, run_id, Border(None))
    return info


def run_info_after(
    session: Session[E, S], run_id: str, end: Cursor | None
) -> Operation[tuple[RunInfo | None, bool, int]]:
    """What is known of a run, whether what Redis has goes on from a cursor, and where it begins.

    Where it ends was seen then: what is read after that may not be less, if a failover has lost it meanwhile.
    """
    info, head, goes_on = yield from _info_beside(session, run_id, Border(end))
    known, start = session.seen.get(run_id), start_text(head).encode()
    if info is not None and goes_on and (known is None or known.start == start):
        session.seen.note(run_id, start, str(head.last).encode(), head.last.offset)
    return info, goes_on, head.before_first.offset


def _info_beside(
    session: Session[E, S], run_id: str, border: Border
) -> Operation[tuple[RunInfo | None, RunHead, bool]]:
    check_run_id(run_id)
    keys = session.keys.run(run_id)
    queries: list[Command] = [(b"HMGET", keys.meta, *_INFO), (b"XRANGE", keys.events, "-", "+", b"COUNT", 1)]
    queries.append((b"HGETALL", keys.tags))
    meta, first, tags, *beside = yield Exchange([*queries, *border.queries(keys)], atomic=True)
    info = _info(keys, meta, first, tags)
    if info is None:
        yield from check_absent([keys])
    head = parse_head(keys, meta[: len(HEAD_FIELDS)])
    return info, head, info is None or border.is_passed(run_id, head, beside)


def runs(
    session: Session[E, S],
    query: RunsQuery,
) -> Stream:
    """The runs that match, the most recently updated first, or page by page in the order of their creation."""
    query.check()
    left = query.limit
    given: set[str] = set()
    if not query.tags and not query.session_id and query.page is None and left != 0:
        # whoever wants a few need not wait for the list of all
        latest = yield from latest_run_ids(session.keys, query.updated_after)
        left = yield from _give(session, query, latest, left)
        given.update(latest)
    if left == 0:
        return
    run_ids = yield from _candidates(session, query)
    if query.tags or query.page is not None:
        run_ids = yield from _in_order(session, query, run_ids)
    yield from _give(session, query, [run_id for run_id in run_ids if run_id not in given], left)


def _give(
    session: Session[E, S], query: RunsQuery, run_ids: Sequence[str], left: int | None
) -> Operation[int | None]:
    """Give those of these runs that match, ``left`` at most. Returns how many may be given after that."""
    wanted, at, size = RunFilter(query), 0, _FIRST_CHUNK
    while at < len(run_ids):
        infos = yield from _infos(session, run_ids[at : at + size])
        at, size = at + size, _CHUNK
        matching = [info for info in _sound(infos) if wanted(info)]
        if query.session_id and query.page is None:
            # the session's set is not touched by events that name no session
            matching.sort(key=lambda info: info.updated_at, reverse=True)
        matching = list(islice(matching, left))
        yield Items(matching)
        if left is not None:
            left -= len(matching)
            if left <= 0:
                break
    return left


def list_runs(session: Session[E, S]) -> Operation[list[str]]:
    """The ids of all runs, the most recently updated first."""
    return (yield from run_ids_by_update(session.keys))


def _candidates(session: Session[E, S], query: RunsQuery) -> Operation[list[str]]:
    """Runs among which are all that have the tags, and are in the session, that are asked for; in any order.

    In each partition, those of the tag that the fewest runs have; or those that were updated since then, if they
    are fewer, or the partition's indexes are not complete.
    """
    if not query.tags:
        return (yield from run_ids_by_update(session.keys, query.session_id, query.updated_after))
    keys = session.keys
    found: list[tuple[bytes, Command]] = []
    ranges = [(name, f"{len(value.encode())}:{value}".encode()) for name, value in query.tags.items()]
    commands: list[Command] = []
    for partition in keys.partitions:
        commands.append((b"HGET", partition.config, "tagged"))
        commands.append((b"ZCOUNT", partition.runs, lowest_score(query.updated_after), b"+inf"))
        commands += [(b"ZLEXCOUNT", partition.index(name), *_range(prefix)) for name, prefix in ranges]
    replies = iter((yield Exchange(commands, tolerant=True)))
    for partition in keys.partitions:
        is_complete, updated, *counts = islice(replies, 2 + len(ranges))
        is_complete = is_complete == b"1" and not any(isinstance(count, Refusal) for count in counts)
        if is_complete and (isinstance(updated, Refusal) or min(counts) <= updated):
            name, prefix = ranges[counts.index(min(counts))]
            found.append((prefix, (b"ZRANGEBYLEX", partition.index(name), *_range(prefix))))
        else:
            found.append((b"", _updated(partition, query)))
    are_complete: list[Command] = [(b"HGET", partition.config, "tagged") for partition in keys.partitions]
    replies = yield Exchange([*(command for _, command in found), *are_complete])
    members = list(replies[: len(found)])
    # an index that was found to lack runs since it was chosen has told of nothing
    lacking = [at for at, (prefix, _) in enumerate(found) if prefix and replies[len(found) + at] != b"1"]
    for at in lacking:
        found[at] = (b"", _updated(keys.partitions[at], query))
        (members[at],) = yield Exchange([found[at][1]])
    run_ids = []
    for partition, (prefix, _), of_it in zip(keys.partitions, found, members, strict=True):
        named = (run_id_of(member[len(prefix) :]) for member in of_it)
        run_ids += [run_id for run_id in named if run_id and keys.run(run_id).partition is partition]
    return run_ids


def _updated(partition: PartitionKeys, query: RunsQuery) -> Command:
    """Asks for the runs of a partition that were updated since then."""
    return (b"ZRANGEBYSCORE", partition.runs, lowest_score(query.updated_after), b"+inf")


def _range(prefix: bytes) -> tuple[bytes, bytes]:
    """The range of the members that begin so, of which all are UTF-8."""
    return b"[" + prefix, b"(" + prefix + b"\xff"


def _in_order(session: Session[E, S], query: RunsQuery, run_ids: Sequence[str]) -> Operation[list[str]]:
    """Those of these runs that may be given, in the order that is asked for; one that is damaged comes last."""
    former, field = query.parse_page(), "updated" if query.page is None else "created"
    times: list[tuple[float, str]] = []
    for at in range(0, len(run_ids), _CHUNK):
        chunk = run_ids[at : at + _CHUNK]
        found = yield Exchange([(b"HGET", session.keys.run(one).meta, field) for one in chunk], tolerant=True)
        for run_id, time in zip(chunk, found, strict=True):
            is_sound = isinstance(time, bytes) and time.isdigit()
            times.append((int(time) / MICROSECONDS if is_sound else 0.0, run_id))
    if query.page is None:
        return [run_id for _, run_id in sorted(times, reverse=True)]
    return [run_id for time, run_id in sorted(times) if former is None or (time, run_id) > former]


def _sound(infos: Sequence[RunInfo | RunstreamError | None]) -> Iterator[RunInfo]:
    """The runs that are there. One that is damaged holds up no list of the others: it is named in the log."""
    for info in infos:
        if isinstance(info, RunstreamError):
            _log.error("a run is left out: %s", info)
        elif info is not None:
            yield info


def _infos(session: Session[E, S], run_ids: Sequence[str]) -> Operation[list[RunInfo | RunstreamError | None]]:
    """What is known of these runs; None for one that is not there, the error for one that is damaged.

    Such a one is looked at once more: a run may be deleted between what tells of its tags and the tags.
    """
    infos = yield from _infos_once(session, run_ids)
    damaged = [index for index, info in enumerate(infos) if isinstance(info, CorruptRecordError)]
    if damaged:
        again = yield from _infos_once(session, [run_ids[index] for index in damaged])
        for index, info in zip(damaged, again, strict=True):
            infos[index] = info
    return infos


def _infos_once(
    session: Session[E, S], run_ids: Sequence[str]
) -> Operation[list[RunInfo | RunstreamError | None]]:
    runs_keys = list(map(session.keys.run, run_ids))
    metas = yield Exchange([(b"HMGET", run.meta, *_INFO) for run in runs_keys], tolerant=True)
    firsts = yield from first_entries([run.events for run in runs_keys], list(map(_largest, metas)))
    tagged = [
        run for run, meta in zip(runs_keys, metas, strict=True) if not isinstance(meta, Refusal) and meta[-1]
    ]
    asked = [(b"HGETALL", run.tags) for run in tagged]
    tags = dict(zip(tagged, (yield Exchange(asked, tolerant=True)) if asked else (), strict=True))
    infos: list[RunInfo | RunstreamError | None] = []
    for run, meta, first in zip(runs_keys, metas, firsts, strict=True):
        of_tags = tags.get(run, ())
        refusal = next((reply for reply in (meta, first, of_tags) if isinstance(reply, Refusal)), None)
        try:
            infos.append(_info(run, meta, first, of_tags) if refusal is None else refusal.error)
        except CorruptRecordError as error:
            infos.append(error)
    return infos


def _largest(meta: Sequence[bytes | None] | Refusal) -> int | None:
    try:
        return None if isinstance(meta, Refusal) else noted_size(meta[HEAD_FIELDS.index(b"largest")])
    except ValueError:
        return None


def _info(
    run: RunKeys, meta: Sequence[bytes | None], first: Sequence[Sequence[bytes]], of_tags: Any
) -> RunInfo | None:
    head = parse_head(run, meta[: len(HEAD_FIELDS)])
    if not is_there(meta):
        return None
    session_id, created, updated, questions, version = meta[len(HEAD_FIELDS) :]
    with parsing(run, run.tags):
        tags = parse_tags(version, of_tags)
    with parsing(run):
        pending = pending_of(head.status, parse_questions(questions))
        return RunInfo(
            run.run_id,
            session_id.decode() if session_id else "",
            "paused" if pending else head.status,
            head.last.offset,
            head.mark.offset,
            parse_cursor(first[0][0]).offset if first else head.last.offset + 1,
            noted_time(created or b"0"),
            noted_time(updated or b"0"),
            head.parent,
            pending,
            tags.values,
        )


def was_deleted(session: Session[E, S], run_id: str) -> Operation[bool]:
    """Whether the run of that name that this store saw last has been deleted since."""
    known = session.seen.get(run_id)
    if known is None:
        return False
    (deleted,) = yield Exchange([(b"ZSCORE", session.keys.run(run_id).partition.deleted, known.history)])
    return deleted is not None


def delete_run(session: Session[E, S], run_id: str) -> Operation[bool]:
    """Remove all that Redis holds of a run. False if there was nothing; LeaseHeld, RunHasForks if it must stay."""
    check_run_id(run_id)
    yield from resolve_unanswered(session, [run_id])  # or it would come after the deletion and create the run anew
    was_there = yield from _delete(session, run_id)
    session.in_flight.forget(run_id)
    session.forget(run_id)
    return was_there


def _delete(session: Session[E, S], run_id: str) -> Operation[bool]:
    in_flight = session.in_flight
    while True:
        keys = session.keys.run(run_id)
        queries = [(b"HGETALL", name) for name in (keys.meta, keys.tags, keys.forks)]
        reply, of_tags, noted = yield Exchange(queries, tolerant=True)
        tags = [] if isinstance(of_tags, Refusal) else tag_names(of_tags)
        fields = {} if isinstance(reply, Refusal) else parse_map(reply)
        # what is damaged goes as it is: any bytes are text in this way
        meta = {name.decode(errors=_AS_IT_IS): value.decode(errors=_AS_IT_IS) for name, value in fields.items()}
        start, former = meta.get("start"), in_flight.unanswered_deletion(run_id)
        if former is not None and former != start:  # it was deleted; what is there now is another one
            in_flight.end_deletion(run_id)
            return True
        lanes = [name.partition(":")[2] if ":" in name else None for name in meta if name.startswith("snapshot")]
        if forks := (yield from living_forks(session.keys, run_id, noted)):
            raise has_forks(run_id, forks)
        if start is None:
            left = yield from _left_without_meta(keys)
            if left is None:
                return False
            start, lanes = "", left
        tags.insert(0, meta.get("tags", ""))
        session_id = meta.get("session", "")
        call = delete_call(session.keys, run_id, start=start, session_id=session_id, lanes=lanes, tags=tags)
        in_flight.begin_deletion(run_id, start)
        (outcome,) = yield Exchange([call], permissive=True)
        in_flight.end_deletion(run_id)
        if isinstance(outcome, Refusal):
            raise outcome.error
        if isinstance(outcome, list):
            raise held(run_id, outcome[1:])
        if int(outcome) >= 0:  # otherwise a snapshot was saved in between, or it was forked
            if fields and start:
                yield from fork_gone(session.keys, run_id, start.encode(errors=_AS_IT_IS), fields.get(b"parent"))
            # 0: it was there when its meta was read, so redis-py has sent this twice, or another did the same
            return True


def _left_without_meta(run: RunKeys) -> Operation[list[str | None] | None]:
    """The lanes whose snapshots are left of a run without a readable meta; None if nothing of it is left."""
    meta_type, has_last, left = yield Exchange(
        [
            (b"TYPE", run.meta),
            (b"HEXISTS", run.meta, "last"),
            (b"EXISTS", run.events, run.keys, run.run_snapshot),
        ],
        tolerant=True,
    )
    if not left and (meta_type == b"none" or has_last == 0):
        return None
    return (yield from snapshots_left(run))
