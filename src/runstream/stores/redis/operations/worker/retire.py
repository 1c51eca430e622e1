"""The drain worker's round trips that retire and forget runs. Times are seconds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from runstream.model.archive_records import RunHeader
from runstream.model.errors import RunstreamError
from runstream.operations.operation import Command, Exchange, Operation, Refusal
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.operations.worker.drain import server_time
from runstream.stores.redis.operations.worker.mend import runs_in
from runstream.stores.redis.operations.worker.noted_forks import fork_gone, living_forks, shares_unarchived
from runstream.stores.redis.replies import parent_text, start_text, tag_names
from runstream.stores.redis.scripts.calls import MICROSECONDS
from runstream.stores.redis.scripts.removal_calls import clear_call, forget_call, retire_call

__all__ = [
    "Quiet",
    "QuietRuns",
    "RetireCandidate",
    "RetireOutcome",
    "clear_leftovers",
    "find_quiet",
    "forget",
    "is_due",
    "put_off",
    "retire",
]


_AGAIN_SECONDS = 60
"""When a fork that has to stay is looked at again."""


class Quiet(NamedTuple):
    """For how many seconds a run must have been quiet to be retired.

    Attributes:
        ended_seconds: One that has ended.
        idle_seconds: One that has not; None: it is not retired.
    """

    ended_seconds: float
    idle_seconds: float | None = None

    def words(self) -> str:
        """As retire.lua takes it."""
        idle = "-" if self.idle_seconds is None else int(self.idle_seconds * MICROSECONDS)
        return f"{int(self.ended_seconds * MICROSECONDS)} {idle}"


class QuietRuns(NamedTuple):
    """The ids of runs to retire, and of tombstones to forget."""

    to_retire: Sequence[str]
    to_forget: Sequence[str]


def find_quiet(
    keys: Keys, quiet: float, retired: float | None, count: int, only: Collection[int] | None = None
) -> Operation[QuietRuns]:
    """Find runs that have been quiet, or retired, for long enough.

    Args:
        keys: The namespace's keys.
        quiet: For how many seconds a run must have been quiet to be retired.
        retired: For how many seconds it must have been retired to be forgotten; None: none of those are given.
        count: How many runs of each kind and partition to give at most.
        only: The numbers of the partitions; None for all.
    """
    now = yield from server_time()
    partitions = keys.numbered(only).values()
    sets = [(partition, partition.retire, quiet) for partition in partitions]
    if retired is not None:
        sets += [(partition, partition.retired, retired) for partition in partitions]
    replies = yield Exchange([_up_to(key, now, seconds, count) for _, key, seconds in sets])
    members = [(one, key, found) for (one, key, _), found in zip(sets, replies, strict=True)]
    run_ids = yield from runs_in(keys, members)
    to_retire, to_forget = run_ids[: len(partitions)], run_ids[len(partitions) :]
    return QuietRuns(list(chain(*to_retire)), list(chain(*to_forget)))


def _up_to(key: str, now: int, seconds: float, count: int) -> Command:
    limit = now - int(seconds * MICROSECONDS)
    return (b"ZRANGEBYSCORE", key, b"-inf", limit, b"LIMIT", 0, count)


class RetireCandidate(NamedTuple):
    """A candidate for retirement: its header (None if it is gone), its snapshots' tokens, its tags' version."""

    run_id: str
    header: RunHeader | None
    tokens: Mapping[str | None, str] = {}
    tags: str = ""


class RetireOutcome(NamedTuple):
    """The outcome of a candidate for retirement.

    Attributes:
        name: 'ok', or why it was not retired; retire.lua says when.
        entries: How many entries left Redis.
        detail: With 'archives': the location of one that is required and does not have it.
        error: With 'refused': why the server could not do it, as for a run that is damaged.
    """

    name: str
    entries: int = 0
    detail: str = ""
    error: RunstreamError | None = None


def retire(
    keys: Keys, runs: Sequence[RetireCandidate], quiet: Quiet, archives: Mapping[str, str]
) -> Operation[list[RetireOutcome]]:
    """Retire those of the candidates that may be retired; the script decides.

    Args:
        keys: The namespace's keys.
        runs: The candidates.
        quiet: For how long a run must have been quiet.
        archives: The archives that have all of them, UUID to location.
    """
    replies = yield Exchange(
        [
            retire_call(
                keys,
                run.run_id,
                start="" if run.header is None else start_text(run.header),
                quiet=quiet.words(),
                archives=archives,
                snapshots=run.tokens,
                tags=run.tags,
            )
            for run in runs
        ],
        permissive=True,
    )
    return [
        RetireOutcome("refused", error=reply.error) if isinstance(reply, Refusal) else _outcome(*reply)
        for reply in replies
    ]


def _outcome(name: bytes, fact: bytes | int = 0) -> RetireOutcome:
    if isinstance(fact, int):
        return RetireOutcome(name.decode(), fact)
    return RetireOutcome(name.decode(), detail=fact.decode(errors="backslashreplace"))


def forget(keys: Keys, runs: Sequence[RetireCandidate], retired: float) -> Operation[list[RetireOutcome]]:
    """Forget those of these runs that are tombstones still. An outcome's name is what forget.lua replies.

    A fork stays, for now, as long as its parent must not be deleted for what it shares.
    """
    needed = set()
    for run in runs:
        if run.header is not None and (yield from shares_unarchived(keys, run.header)):
            yield from put_off(keys, run.run_id, _AGAIN_SECONDS)
            needed.add(run.run_id)
    forgotten = iter((yield from _forget(keys, [run for run in runs if run.run_id not in needed], retired)))
    return [RetireOutcome("later") if run.run_id in needed else next(forgotten) for run in runs]


def _forget(keys: Keys, runs: Sequence[RetireCandidate], retired: float) -> Operation[list[RetireOutcome]]:
    if not runs:
        return []
    tags = yield Exchange([(b"HGETALL", keys.run(run.run_id).tags) for run in runs], tolerant=True)
    names = [[] if isinstance(reply, Refusal) else tag_names(reply) for reply in tags]
    replies = yield Exchange(
        [
            forget_call(
                keys,
                run.run_id,
                start="" if run.header is None else start_text(run.header),
                session_id="" if run.header is None else run.header.session_id,
                retired_seconds=retired,
                tags=(run.tags, *found),
            )
            for run, found in zip(runs, names, strict=True)
        ],
        permissive=True,
    )
    for run, reply in zip(runs, replies, strict=True):
        header = run.header
        if reply == b"forks":
            yield from living_forks(keys, run.run_id)  # what is noted of those that are gone is removed
        elif reply == b"ok" and header is not None:  # its own parent needs it no more: its archives have it
            yield from fork_gone(keys, run.run_id, start_text(header).encode(), parent_text(header).encode())
    return [
        RetireOutcome("refused", error=reply.error) if isinstance(reply, Refusal) else _outcome(reply)
        for reply in replies
    ]


def clear_leftovers(keys: Keys, count: int, only: Collection[int] | None = None) -> Operation[int]:
    """Clear what is left of runs that are retired or not there: producers and leases that nothing needs any more.

    Args:
        keys: The namespace's keys.
        count: How many runs of each partition to look at at most.
        only: The numbers of the partitions; None for all.

    Returns:
        How many runs were looked at. One that is damaged is none of them: it stays, and holds up no other.
    """
    now = yield from server_time()
    partitions = keys.numbered(only).values()
    replies = yield Exchange([_up_to(partition.leftovers, now, 0, count) for partition in partitions])
    members = [(one, one.leftovers, found) for one, found in zip(partitions, replies, strict=True)]
    run_ids = list(chain(*(yield from runs_in(keys, members))))
    cleared = (yield Exchange([clear_call(keys, run_id) for run_id in run_ids], tolerant=True)) if run_ids else []
    return sum(not isinstance(reply, Refusal) for reply in cleared)


def is_due(keys: Keys, run_id: str) -> Operation[bool]:
    """Whether a run is due, claimed or parked."""
    (score,) = yield Exchange([(b"ZSCORE", keys.run(run_id).partition.due, run_id)])
    return score is not None


def put_off(keys: Keys, run_id: str, seconds: float) -> Operation[None]:
    """Do not find a run, to retire or to forget it, for at least ``seconds``."""
    partition = keys.run(run_id).partition
    now = yield from server_time()
    until = now + int(seconds * MICROSECONDS)
    yield Exchange([(b"ZADD", key, b"XX", until, run_id) for key in (partition.retire, partition.retired)])
