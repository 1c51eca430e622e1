"""The forks that are noted at a run: which of them are there still, and what to note of them.

A fork lies in another slot than its parent, so to make one takes three steps: the intent is noted at the parent,
the fork is made, and that is noted at the parent. Whoever dies in between leaves an intent, and a failover may
lose a note, or a fork. What is noted counts until the fork's own slot says that it is gone; that says so only once
it has seen to it that the fork is never made any more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from runstream.model.archive_records import RunHeader
from runstream.model.results import Cursor, Fork
from runstream.operations.operation import Command, Exchange, Operation, Refusal
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.operations.worker.drain import server_time
from runstream.stores.redis.operations.worker.hot_run import HotRun
from runstream.stores.redis.replies import (
    noted_cursor,
    noted_start,
    parse_cursor,
    parse_map,
    parse_parent,
    run_id_of,
)
from runstream.stores.redis.scripts.calls import MICROSECONDS
from runstream.stores.redis.scripts.fork_calls import fork_end_call, give_up_call

__all__ = [
    "NotedFork",
    "fork_gone",
    "fork_notes",
    "give_up",
    "give_up_left",
    "living_forks",
    "note_again",
    "noted_forks",
    "shares_unarchived",
]

_INTENT_MICROSECONDS = 600 * MICROSECONDS
"""For how long a fork may be about to be made: an older intent is given up."""
_PAGE = 100


class NotedFork(NamedTuple):
    """A fork as its parent's key ``forks`` has it.

    Attributes:
        parent: The parent.
        run_id: The fork.
        identity: Its identity.
        at: The cursor at which it begins.
        is_made: Whether it was made, as far as the parent knows.
        noted_at: When that was noted, in microseconds of server time.
    """

    parent: str
    run_id: str
    identity: int
    at: Cursor
    is_made: bool
    noted_at: int

    @classmethod
    def parse(cls, parent: str, name: bytes, value: bytes) -> NotedFork:
        """Parse a field. Raises ValueError for one that no script of ours has written."""
        state, identity, cursor, noted_at = value.split()
        return cls(parent, name.decode(), int(identity), parse_cursor(cursor), state == b"fork", int(noted_at))


def fork_notes(keys: Keys, run_id: str) -> Operation[list[NotedFork]]:
    """What a run has noted of its forks: one or the other may be gone. Nothing is written."""
    run = keys.run(run_id)
    (reply,) = yield Exchange([(b"HGETALL", run.forks)])
    with parsing(run, run.forks):
        return [NotedFork.parse(run_id, *field) for field in parse_map(reply).items()]


def noted_forks(keys: Keys, run_id: str) -> Operation[list[Fork]]:
    """The same, as other stores tell of forks."""
    return [Fork(fork.run_id, fork.at.offset) for fork in (yield from fork_notes(keys, run_id))]


def living_forks(keys: Keys, run_id: str, reply: Any = None) -> Operation[list[Fork]]:
    """The forks of a run that are there, or about to be made. What is noted of others is removed.

    Args:
        keys: The namespace's keys.
        run_id: The run.
        reply: All of its key ``forks``; None: it is asked for.

    Raises:
        CorruptRecordError: That does not read: nobody knows what forks the run has.
    """
    run = keys.run(run_id)
    if reply is None:
        (reply,) = yield Exchange([(b"HGETALL", run.forks)], tolerant=True)
    if isinstance(reply, Refusal):
        raise reply.error
    with parsing(run, run.forks):
        noted = [NotedFork.parse(run_id, *field) for field in parse_map(reply).items()]
    if not noted:
        return []
    young = (yield from server_time()) - _INTENT_MICROSECONDS
    there = yield from _not_deleted(keys, [fork for fork in noted if not fork.is_made and fork.noted_at > young])
    there |= yield from give_up(keys, [fork for fork in noted if fork not in there])
    return [Fork(fork.run_id, fork.at.offset) for fork in noted if fork in there]


def _not_deleted(keys: Keys, intended: Sequence[NotedFork]) -> Operation[set[NotedFork]]:
    """Those of these forks that may still be made: nobody has deleted or given them up.

    Else the request that noted the intent came late, or once more: after the fork was made, and deleted.
    """
    if not intended:
        return set()
    queries = [(b"ZSCORE", keys.run(fork.run_id).partition.deleted, fork.identity) for fork in intended]
    replies = yield Exchange(queries, tolerant=True)
    return {
        fork for fork, since in zip(intended, replies, strict=True) if since is None or isinstance(since, Refusal)
    }


def give_up(keys: Keys, noted: Sequence[NotedFork]) -> Operation[set[NotedFork]]:
    """Let these forks never be made if they are not there, and note at their parents what is so.

    Returns:
        Those that are there, or may be: what is damaged holds up no other.
    """
    if not noted:
        return set()
    calls = [give_up_call(keys, fork.run_id, fork.identity) for fork in noted]
    replies = yield Exchange(calls, tolerant=True)
    pairs = zip(noted, replies, strict=True)
    there = {fork for fork, reply in pairs if isinstance(reply, Refusal) or int(reply)}
    changed = [fork for fork in noted if fork not in there or not fork.is_made]
    if changed:
        yield Exchange([_end_call(keys, fork, is_there=fork in there) for fork in changed], tolerant=True)
    return there


def fork_gone(keys: Keys, run_id: str, start: bytes, parent: bytes | None) -> Operation[None]:
    """Note at its parent that a fork is gone; nothing of a run that is none.

    Args:
        keys: The namespace's keys.
        run_id: The fork.
        start: Its meta's field ``start``.
        parent: Its meta's field ``parent``.
    """
    try:
        _, identity = noted_start(start)
        of, creation = parse_parent(parent)
    except ValueError:  # damaged: what is noted is found to be gone by whoever deletes the parent
        return
    if identity and of is not None:
        yield Exchange([fork_end_call(keys, of[0], creation, run_id, identity, None)], tolerant=True)


def _end_call(keys: Keys, fork: NotedFork, *, is_there: bool) -> Command:
    return fork_end_call(keys, fork.parent, 0, fork.run_id, fork.identity, fork.at if is_there else None)


def give_up_left(keys: Keys, only: Collection[int] | None = None) -> Operation[int]:
    """See to intents that are left over: what was made is noted, and what was not is given up.

    Args:
        keys: The namespace's keys.
        only: The numbers of the partitions; None for all.

    Returns:
        How many there were; at most some of each partition are looked at.
    """
    upto = (yield from server_time()) - _INTENT_MICROSECONDS
    partitions = list(keys.numbered(only).values())
    query = (b"-inf", upto, b"LIMIT", 0, _PAGE)
    found = yield Exchange(
        [(b"ZRANGEBYSCORE", partition.forking, *query) for partition in partitions], tolerant=True
    )
    members = [
        (partition, member)
        for partition, reply in zip(partitions, found, strict=True)
        if not isinstance(reply, Refusal)
        for member in reply
    ]
    if not members:
        return 0
    pairs = [_pair(member) for _, member in members]
    queries = [(b"HGET", keys.run(parent).forks, fork_id) for parent, fork_id in pairs]
    noted = yield Exchange(queries, tolerant=True)
    left, strays = [], []
    for (partition, member), (parent, fork_id), value in zip(members, pairs, noted, strict=True):
        try:
            left.append(NotedFork.parse(parent, fork_id.encode(), value))
        except (ValueError, AttributeError):  # nothing is noted any more, or it is damaged
            strays.append((b"ZREM", partition.forking, member))
    if strays:
        yield Exchange(strays)
    yield from give_up(keys, left)
    return len(members)


def _pair(member: bytes) -> tuple[str, str]:
    """The parent and the fork of a member of the key ``forking``; see tag_member in common.lua."""
    length, _, names = member.partition(b":")
    size = int(length) if length.isdigit() else 0
    return run_id_of(names[:size]) or "", run_id_of(names[size:]) or ""


def shares_unarchived(keys: Keys, fork: RunHeader) -> Operation[bool]:
    """Whether some of what a fork shares may be in Redis alone; of any other run, nothing is.

    Then its parent has to know of it still: whoever deletes that would take it from the fork.
    """
    of, creation, end = fork.parent, fork.parent_identity, fork.start.offset
    while of is not None and creation:
        run = keys.run(of[0])
        (noted,) = yield Exchange(
            [(b"HMGET", run.meta, "start", "last", "mark", "parent", "retired")], tolerant=True
        )
        if isinstance(noted, Refusal):
            return True
        start, last, mark, parent, retired = noted
        if start is None:  # it was forgotten, so that all of it is archived
            return False
        try:
            begin, identity = noted_start(start)
            at = begin if mark is None and retired is None else noted_cursor(mark or last)
            if creation == (identity or begin.chain) and at.offset < end:
                return True
            of, creation = parse_parent(parent)
        except (ValueError, AttributeError):  # it is damaged: nobody knows
            return True
        end = min(end, begin.offset)
    return False


def note_again(keys: Keys, runs: Sequence[HotRun]) -> Operation[None]:
    """Note those of these runs that are forks at their parents, where a failover has lost that."""
    calls = []
    for run in runs:
        head = run.head
        if head.fork_of is not None:
            facts = head.parent_identity, run.run_id, head.identity, head.start
            calls.append(fork_end_call(keys, head.fork_of[0], *facts))
    if calls:
        yield Exchange(calls, tolerant=True)
