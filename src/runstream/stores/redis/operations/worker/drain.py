"""The drain worker's round trips: claim runs, settle them, park them, report on the worker.

The worker decides; here is only what is sent. Times are seconds; due times are microseconds of server
time, as the sorted sets hold them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from runstream.model.archive_records import RunHeader
from runstream.model.errors import RunstreamError
from runstream.model.results import Cursor
from runstream.operations.operation import Exchange, Operation, Refusal
from runstream.stores.redis.keys import Keys, PartitionKeys
from runstream.stores.redis.operations.server_policy import check_policy_still
from runstream.stores.redis.operations.worker.mend import runs_in
from runstream.stores.redis.replies import parse_scores, parse_texts, start_text
from runstream.stores.redis.scripts.calls import MICROSECONDS, LanesAfter, park_call, settle_call
from runstream.stores.redis.scripts.queue_calls import claim_call, enlist_call, extend_call, report_call

__all__ = [
    "FARTHEST_SECONDS",
    "DueRun",
    "LanesAfter",
    "Proven",
    "SeqSpan",
    "Settled",
    "check_eviction",
    "claim",
    "enlist",
    "extend",
    "park",
    "park_unread",
    "release",
    "report",
    "server_time",
    "settle",
    "sign_off",
    "take_off",
]

FARTHEST_SECONDS = 24 * 3600.0
"""No due time that this version sets lies further ahead, unless a worker's own settings do."""


class DueRun(NamedTuple):
    """A run that was claimed.

    Attributes:
        run_id: The run.
        due_at: When it came due, in microseconds by the server's clock.
        waited_seconds: For how long it had been due then.
    """

    run_id: str
    due_at: int
    waited_seconds: float = 0.0


class Settled(NamedTuple):
    """The outcome of settling one run.

    Attributes:
        outcome: 'ok', 'gone', 'diverged' or 'archives'; settle.lua says when.
        trimmed: How many entries left Redis.
        noted_to: The offset up to which the highest ``seq`` of what has left Redis is noted.
        detail: With 'archives': the location of one that is required and has not taken part.
        error: With 'refused': why the server could not do it, as for a run that is damaged.
    """

    outcome: str
    trimmed: int = 0
    noted_to: int = 0
    detail: str = ""
    error: RunstreamError | None = None


def enlist(
    keys: Keys, archives: Mapping[str, str], only: Collection[int] | None = None
) -> Operation[dict[int, dict[str, str]]]:
    """Let each partition that requires no archive yet require these.

    Args:
        keys: The namespace's keys.
        archives: UUID to location.
        only: The numbers of the partitions; None for all.

    Returns:
        What each partition requires now, by its number.
    """
    partitions = keys.numbered(only)
    replies = yield Exchange([enlist_call(partition, archives) for partition in partitions.values()])
    return {number: parse_texts(reply) for number, reply in zip(partitions, replies, strict=True)}


def server_time() -> Operation[int]:
    """The server's time in microseconds."""
    (reply,) = yield Exchange([(b"TIME",)])
    return int(reply[0]) * MICROSECONDS + int(reply[1])


def check_eviction(keys: Keys) -> Operation[None]:  # noqa: ARG001 - as all others
    """Raise ConfigurationError if the server may evict keys by now."""
    return check_policy_still()


def claim(
    keys: Keys,
    due_until: int | None,
    count: int,
    seconds: float,
    only: Collection[int] | None = None,
    farthest_seconds: float = FARTHEST_SECONDS,
) -> Operation[list[DueRun]]:
    """Claim runs that have come due: nobody else gets them while the claim lasts.

    Args:
        keys: The namespace's keys.
        due_until: Up to when they came due; None: until now.
        count: How many runs of each partition to claim at most.
        seconds: How long the claim lasts.
        only: The numbers of the partitions; None for all.
        farthest_seconds: A run that would come due further ahead than this is claimed too: a server whose clock
            was ahead has left it there.
    """
    partitions = keys.numbered(only).values()
    replies = yield Exchange(
        [claim_call(partition, due_until, count, seconds, farthest_seconds) for partition in partitions]
    )
    claimed = {
        run_id: DueRun(run_id, at, max(0, int(now) - at) / MICROSECONDS)
        for now, due in replies
        for run_id, at in parse_scores(due)
    }
    members = [(one, one.due, due[::2]) for one, (_, due) in zip(partitions, replies, strict=True)]
    found = yield from runs_in(keys, members)
    return [claimed[run_id] for run_ids in found for run_id in run_ids]


def extend(keys: Keys, run_ids: Sequence[str], seconds: float) -> Operation[None]:
    """Extend claims: they last ``seconds`` from now on."""
    together: dict[PartitionKeys, list[str]] = {}
    for run_id in run_ids:
        together.setdefault(keys.run(run_id).partition, []).append(run_id)
    yield Exchange([extend_call(partition, of_it, seconds) for partition, of_it in together.items()])


def release(keys: Keys, claimed: Sequence[DueRun]) -> Operation[None]:
    """Give claims back, so that another worker need not wait until they run out."""
    if claimed:
        yield Exchange(
            [(b"ZADD", keys.run(due.run_id).partition.due, b"XX", due.due_at, due.run_id) for due in claimed]
        )


class SeqSpan(NamedTuple):
    """The highest ``seq`` of the events of a run after one offset, up to another."""

    after: int
    upto: int
    seq: int


class Proven(NamedTuple):
    """What a worker has proven of a run.

    Attributes:
        header: The run.
        cursor: It is archived up to here.
        tokens: The tokens of the snapshots that are archived, by lane.
        trim: What is to leave Redis: 'covered', 'archived' or 'never'.
        keep_seconds: How much longer to hold the claim; None: the run is given back.
        retires_idle: Whether it is to be retired, once it was quiet, though it has not ended.
        span: The highest ``seq`` of what is to be trimmed; None: it is not known.
        lanes: The lanes of what is archived with it; None: they are not known.
        ended: The lanes that were ended.
        tags: The version of the tags that are archived; '' for none.
        erased: The number of the last request to erase that is carried out, in Redis and in the archives; 0: that
            is not known.
        retry_seconds: After what time the run is due again if more is to be done for it.
    """

    header: RunHeader
    cursor: Cursor
    tokens: Mapping[str | None, str]
    trim: str
    keep_seconds: float | None
    retires_idle: bool = False
    span: SeqSpan | None = None
    lanes: LanesAfter | None = None
    ended: Collection[str] = ()
    tags: str = ""
    erased: int = 0
    retry_seconds: float = 0


def settle(keys: Keys, proven: Sequence[Proven], archives: Mapping[str, str]) -> Operation[list[Settled]]:
    """Note how far these runs are archived, trim them, and give back the claims that are not to be kept.

    A partition that requires no archive, as after a failover that lost which ones, requires these (UUID to
    location) from then on.
    """
    replies = yield Exchange(
        [
            settle_call(
                keys,
                item.header.run_id,
                start=f"{start_text(item.header)}{' fork' if item.header.parent_identity else ''}",
                proven=item.cursor,
                trim=f"{item.trim} idle" if item.retires_idle else item.trim,
                keep_seconds=item.keep_seconds,
                archives=archives,
                snapshots=item.tokens,
                span="" if item.span is None else " ".join(map(str, item.span)),
                lanes=item.lanes,
                ended=item.ended,
                tags=item.tags,
                erased=item.erased,
                retry_seconds=item.retry_seconds,
            )
            for item in proven
        ],
        permissive=True,
    )
    return [_settled(reply) for reply in replies]


def _settled(reply: Sequence[bytes] | Refusal) -> Settled:
    if isinstance(reply, Refusal):
        return Settled("refused", error=reply.error)
    outcome = reply[0].decode()
    if outcome == "ok":
        return Settled(outcome, int(reply[1]), int(reply[3]))
    return Settled(outcome, detail=reply[1].decode(errors="backslashreplace") if len(reply) > 1 else "")


def park(keys: Keys, header: RunHeader, reason: str, seconds: float, unless: str = "") -> Operation[bool]:
    """Set a run aside with a reason; it comes due again in ``seconds``.

    Returns:
        False, and nothing has changed, if it is parked with another reason that begins with what ``unless`` says.
    """
    call = park_call(
        keys, header.run_id, start=start_text(header).encode(), reason=reason, seconds=seconds, unless=unless
    )
    (reply,) = yield Exchange([call])
    return int(reply) != 2


def park_unread(keys: Keys, run_id: str, reason: str, seconds: float) -> Operation[None]:
    """Set a run aside that could not be loaded."""
    (start,) = yield Exchange([(b"HGET", keys.run(run_id).meta, b"start")], tolerant=True)
    start = start if isinstance(start, bytes) else b""
    yield Exchange([park_call(keys, run_id, start=start, reason=reason, seconds=seconds)])


def take_off(keys: Keys, run_id: str) -> Operation[None]:
    """Make a run neither due nor parked if nothing at all of it is there; if something is, park it."""
    reason = f"nothing of run {run_id!r} was found but keys without its meta"
    yield Exchange([park_call(keys, run_id, start=b"", reason=reason, seconds=0)])


def report(keys: Keys, name: str, facts: Mapping[str, object]) -> Operation[None]:
    """Keep what a worker reports of itself."""
    yield Exchange([report_call(keys.workers, name, json.dumps(facts))])


def sign_off(keys: Keys, name: str) -> Operation[None]:
    """Remove a worker's report: it has ended in good order."""
    yield Exchange([(b"HDEL", keys.workers, name)])
