"""Wait until what was written is as durable as was asked for.

WAIT and WAITAOF tell how far the writes of their own connection have got: they go behind the append, in the same
exchange. What a server sends to its replicas and to its disk is one sequence, so what comes later covers all that
comes before. See https://redis.io/docs/latest/commands/waitaof/.

Where the file is synced once a second, WAITAOF says so too early in Valkey (seen in 9.1), and in Redis before 8.0
(https://github.com/redis/redis/pull/13793). There a file that is synced before each reply has to be, which
``CONFIG GET append*`` shows with each append.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from runstream.model.durability import PRIMARY, Durability
from runstream.model.errors import ConfigurationError, DurabilityNotReached
from runstream.model.results import E, S
from runstream.operations.operation import Command, Exchange, Operation, Refusal
from runstream.stores.redis.append_result import Applied
from runstream.stores.redis.replies import parse_info, server_version, syncs_each_write
from runstream.stores.redis.scripts.calls import is_append
from runstream.stores.redis.session.session import Session

__all__ = ["durably", "learn_confirmation"]

T = TypeVar("T")

_HAS_WAITAOF = (7, 2)
# before 7.0 several names are asked for by a pattern alone
_SYNC_SETTINGS: Command = (b"CONFIG", b"GET", b"append*")
_PROBE_MILLISECONDS = 1_500  # a replica says once a second what it has on its disk


def durably(
    session: Session[E, S], operation: Operation[T], wanted: Durability, run_ids: Sequence[str]
) -> Operation[T]:
    """Append to these runs, and wait until that is as durable as ``wanted``; what the operation returns.

    Raises DurabilityNotReached where it was applied and is not as durable, and ConfigurationError, before anything
    is written, where the server cannot give that.
    """
    if session.gives_any or not run_ids:
        return (yield from operation)
    if wanted not in session.confirmations:
        (info,) = yield Exchange([(b"INFO",)], permissive=True)
        yield from learn_confirmation(session, wanted, {} if isinstance(info, Refusal) else parse_info(info))
    command = session.confirmations.get(wanted, _wait(session, wanted))
    heard: list[Any] = []
    result = yield from _confirmed(operation, command, heard)
    reached = [_reached(reply) for reply in heard]
    # what another caller has resolved, or written under the same key, was not written over this connection
    is_of_others = not heard or (isinstance(result, Applied) and result.known)
    if is_of_others or (wanted.is_within(reached[-1]) and not all(map(wanted.is_within, reached))):
        reached.append((yield from _reached_by_now(session, command, run_ids)))
    if wanted.is_within(reached[-1]):
        return result
    short = run_ids[0], reached[-1]
    if len(run_ids) > 1:  # of several servers, each was waited for
        found = yield from _first_short(session, command, wanted, run_ids)
        if found is None:
            return result
        short = found
    raise _not_reached(session, short[0], wanted, short[1])


def _first_short(
    session: Session[E, S], command: Command, wanted: Durability, run_ids: Sequence[str]
) -> Operation[tuple[str, Durability] | None]:
    """The first of these runs that is not as durable, and what it has reached; None if all are by now."""
    for run_id in dict.fromkeys(run_ids):
        reached = yield from _reached_by_now(session, command, [run_id])
        if not wanted.is_within(reached):
            return run_id, reached
    return None


def _confirmed(operation: Operation[T], command: Command, heard: list[Any]) -> Operation[T]:
    """The operation, with a confirmation behind each append; the replies to these are added to ``heard``."""
    try:
        step = next(operation)
        while True:
            sent = step
            if isinstance(step, Exchange) and any(map(is_append, step.commands)):
                sent = step._replace(confirm=command)
            try:
                result = yield sent
            except BaseException as error:  # noqa: BLE001 - the operation decides what to do about it
                step = operation.throw(error)
                continue
            if sent is not step:
                heard.append(result.pop())
            step = operation.send(result)
    except StopIteration as stop:
        returned: T = stop.value
        return returned
    finally:
        operation.close()


def _reached(reply: Any) -> Durability:
    """What a confirmation says."""
    if isinstance(reply, Refusal):  # as by a server that came after a failover, and has no append-only file
        return Durability()
    if isinstance(reply, int):
        return Durability(replicas=reply)
    if len(reply) == 2 and not isinstance(reply, dict) and isinstance(reply[1], int):
        return Durability(fsync=reply[0] > 0, replicas=reply[1])
    return Durability(fsync=syncs_each_write(reply))


def _reached_by_now(session: Session[E, S], command: Command, run_ids: Sequence[str]) -> Operation[Durability]:
    """What these runs have reached up to where this store saw them end: a later write reaches it after them."""
    runs = [session.keys.run(run_id) for run_id in run_ids]
    ends = [(run, seen.last) for run in runs if (seen := session.seen.get(run.run_id)) is not None and seen.offset]
    touches = [(b"HSET", key, "waited", 1) for key in sorted({run.partition.config for run in runs})]
    looks = [(b"XRANGE", run.events, last, last) for run, last in ends]
    *replies, reply = yield Exchange([*touches, *looks], permissive=True, confirm=command)
    if any(isinstance(one, Refusal) for one in replies) or not all(replies[len(touches) :]):
        return Durability()
    return _reached(reply)


def _not_reached(
    session: Session[E, S], run_id: str, wanted: Durability, reached: Durability
) -> DurabilityNotReached:
    seen = session.seen.get(run_id)
    offset = 0 if seen is None else seen.offset
    shown = wanted.at_most(reached)
    return DurabilityNotReached(
        f"run {run_id!r} is written up to offset {offset}, and has reached durability {str(shown)!r} instead of"
        f" {str(wanted)!r}: it is applied, so do not send it again; see INFO replication and INFO persistence for"
        " what keeps the server's replicas or its disk",
        run_id=run_id,
        offset=offset,
        wanted=str(wanted),
        reached=str(shown),
    )


def learn_confirmation(session: Session[E, S], wanted: Durability, info: Mapping[str, str]) -> Operation[None]:
    """Learn by what a durability is confirmed, from what INFO tells; what is tried, once the namespace is open.

    Raises ConfigurationError for one that the server cannot give.
    """
    if wanted == PRIMARY or wanted in session.confirmations:
        return
    learn = _of_disk(session, info) if wanted.fsync else _of_replicas(session, wanted, info)
    command = yield from learn
    if command is not None:
        session.confirmations[wanted] = command


def _of_disk(session: Session[E, S], info: Mapping[str, str]) -> Operation[Command | None]:
    refused = "the server cannot give durability 'fsync':"
    if info.get("aof_enabled") != "1":
        raise ConfigurationError(f"{refused} it keeps no append-only file; set appendonly yes")
    server = server_version(info)
    asked: Command = (b"WAITAOF", 0, 0, 0) if server.tells_of_syncs else _SYNC_SETTINGS
    (said,) = yield Exchange([asked], permissive=True)
    if isinstance(said, Refusal) and info.get("role") != "slave":
        raise ConfigurationError(
            f"{refused} {said.error}; that shows whether what is written is on its disk: allow it (`runstream acl"
            " --durability fsync` prints the rule), or ask for another durability"
        )
    if server.tells_of_syncs:
        return (b"WAITAOF", 1, 0, _milliseconds(session))
    if _reached(said).fsync:
        return _SYNC_SETTINGS
    raise ConfigurationError(
        f"{refused} {server.program} {server.version} shows by nothing but appendfsync always (CONFIG GET) that"
        " what is written is on its disk: set appendfsync always, and allow CONFIG GET; or use Redis 8 or later"
    )


def _of_replicas(session: Session[E, S], wanted: Durability, info: Mapping[str, str]) -> Operation[Command | None]:
    connected = int(info.get("connected_slaves", "0"))
    if info.get("role") == "slave":  # in a failover: what it has once it is promoted, each write will tell
        return _wait(session, wanted)
    if connected < wanted.replicas:
        raise ConfigurationError(
            f"the server cannot give durability {str(wanted)!r}: replicas connected: {connected}; connect more, or"
            " ask for fewer"
        )
    # for less time than between two of a replica's words nobody waits for its file
    if server_version(info).of_redis >= _HAS_WAITAOF and _milliseconds(session) >= _PROBE_MILLISECONDS:
        if session.opened is None:
            return None
        probe = (b"WAITAOF", 0, wanted.replicas, _milliseconds(session))
        # of a cluster, each server that has a partition
        touches = [(b"HSET", partition.config, "waited", 1) for partition in session.keys.partitions]
        *touched, said = yield Exchange(touches, permissive=True, confirm=probe)
        if any(isinstance(one, Refusal) for one in touched):
            return None  # what was not written, every file has: it is asked again with the next write
        if wanted.is_within(_reached(said)):
            return probe
    return _wait(session, wanted)


def _wait(session: Session[E, S], wanted: Durability) -> Command:
    """Waits until so many replicas have it in memory, and tells of no files."""
    return (b"WAIT", wanted.replicas, _milliseconds(session))


def _milliseconds(session: Session[E, S]) -> int:
    return int(session.longest_wait * 1000)
