"""What a drain worker does to Redis to retire and to forget runs. Times are seconds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from runstream.model.archive_records import RunHeader
from runstream.stores.redis.exchange import Command, Exchange, Operation
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.operations.worker.drain import server_time
from runstream.stores.redis.scripts.calls import MICROSECONDS, forget_call, retire_call

__all__ = ["Due", "Fit", "Outcome", "forget", "is_due", "look", "put_off", "retire"]


class Due(NamedTuple):
    """The runs that it is time to retire, and those that it is time to forget."""

    to_retire: Sequence[str]
    to_forget: Sequence[str]


def look(
    keys: Keys, quiet: float, retired: float | None, count: int, only: Collection[int] | None = None
) -> Operation[Due]:
    """Up to ``count`` runs of each partition that were quiet, or retired (None: do not look), for so long.

    ``only`` limits this to some partitions, by their numbers.
    """
    now = yield from server_time()
    commands: list[Command] = []
    for partition in keys.numbered(only).values():
        commands.append(_up_to(partition.retire, now, quiet, count))
        if retired is not None:
            commands.append(_up_to(partition.retired, now, retired, count))
    replies = yield Exchange(commands)
    per_partition = 1 if retired is None else 2
    to_retire = replies[::per_partition]
    to_forget = replies[1::2] if per_partition == 2 else []
    return Due(_names(to_retire), _names(to_forget))


def _up_to(key: str, now: int, seconds: float, count: int) -> Command:
    limit = now - int(seconds * MICROSECONDS)
    return (b"ZRANGEBYSCORE", key, b"-inf", limit, b"LIMIT", 0, count)


def _names(replies: Sequence[Sequence[bytes]]) -> list[str]:
    return [name.decode() for reply in replies for name in reply]


class Fit(NamedTuple):
    """A run that may be fit to be retired: its header (None: there is no such run), and its snapshots' tokens."""

    run_id: str
    header: RunHeader | None
    tokens: Mapping[str | None, str] = {}


class Outcome(NamedTuple):
    """What became of a run: 'ok', or why not, see retire.lua; and how many entries left Redis."""

    name: str
    entries: int = 0
    detail: str = ""


def retire(keys: Keys, runs: Sequence[Fit], quiet: float, archives: Sequence[str]) -> Operation[list[Outcome]]:
    """Retire those of these runs that are fit; the server decides."""
    replies = yield Exchange(
        [
            retire_call(
                keys,
                run.run_id,
                start="" if run.header is None else str(run.header.start),
                quiet_seconds=quiet,
                archives=archives,
                snapshots=run.tokens,
            )
            for run in runs
        ]
    )
    return [_outcome(*reply) for reply in replies]


def _outcome(name: bytes, fact: bytes | int = 0) -> Outcome:
    if isinstance(fact, int):
        return Outcome(name.decode(), fact)
    return Outcome(name.decode(), detail=fact.decode())


def forget(keys: Keys, runs: Sequence[Fit], retired: float) -> Operation[list[str]]:
    """Forget those of these runs that are tombstones still; the server decides. Gives what forget.lua replies."""
    replies: list[bytes] = yield Exchange(
        [
            forget_call(
                keys,
                run.run_id,
                start="" if run.header is None else str(run.header.start),
                session_id="" if run.header is None else run.header.session_id,
                retired_seconds=retired,
            )
            for run in runs
        ]
    )
    return [reply.decode() for reply in replies]


def is_due(keys: Keys, run_id: str) -> Operation[bool]:
    """Whether a run is due, claimed or parked."""
    (score,) = yield Exchange([(b"ZSCORE", keys.run(run_id).partition.due, run_id)])
    return score is not None


def put_off(keys: Keys, run_id: str, seconds: float) -> Operation[None]:
    """Do not look at a run, to retire or to forget it, for at least so long."""
    partition = keys.run(run_id).partition
    now = yield from server_time()
    until = now + int(seconds * MICROSECONDS)
    yield Exchange([(b"ZADD", key, b"XX", until, run_id) for key in (partition.retire, partition.retired)])
