"""Wait until what was written is as durable as was asked for.

WAIT and WAITAOF tell how far the writes of their own connection have got: they go behind the append, in the same
exchange. What a server sends to its replicas and to its disk is one sequence, so what comes later covers all that
comes before. See https://redis.io/docs/latest/commands/waitaof/.

Where the file is synced once a second, WAITAOF says so too early in Valkey (seen in 9.1), and in Redis before 8.0
(https://github.com/redis/redis/pull/13793). There a file that is synced before each reply has to be, which
``CONFIG GET *append*`` shows with each append. A file that was just switched on is none before it was written for
the first time: that WAITAOF tells, and before 7.2 INFO.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from runstream.model.durability import PRIMARY, Durability
from runstream.model.errors import ConfigurationError, DurabilityNotReached
from runstream.model.results import E, S
from runstream.operations.operation import (
    Command,
    Exchange,
    Operation,
    Refusal,
    carry_resolution,
    carry_result,
    returning,
    take_last,
)
from runstream.stores.redis.append_batch import Seen
from runstream.stores.redis.append_result import Applied
from runstream.stores.redis.confirmations import (
    keeps_whole_file,
    reached,
    syncs_each_write,
    syncs_while_it_rewrites,
)
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.operations.client.run_head import head_query, parse_head
from runstream.stores.redis.replies import parse_info, server_version, start_text
from runstream.stores.redis.scripts.calls import is_append
from runstream.stores.redis.session.session import Session

__all__ = ["durably", "learn_confirmation", "waiting_commands"]

T = TypeVar("T")

_HAS_WAITAOF = (7, 2)
# before 7.0 several names are asked for by a pattern alone
_SYNC_SETTINGS: Command = (b"CONFIG", b"GET", b"*append*")
_OF_FILES: Command = (b"INFO", b"persistence")
_NO_WAIT: Command = (b"WAIT", 0, 0)
_NO_WAITAOF: Command = (b"WAITAOF", 0, 0, 0)
_PROBE_MILLISECONDS = 1_500  # a replica says once a second what it has on its disk


def durably(
    session: Session[E, S],
    operation: Operation[T],
    wanted: Durability,
    run_ids: Sequence[str],
    writes: Callable[[Command], bool] = is_append,
) -> Operation[T]:
    """Write to these runs, and wait until that is as durable as ``wanted``; what the operation returns.

    Args:
        session: The session.
        operation: Writes.
        wanted: How durable that is to be.
        run_ids: The runs.
        writes: Which of its commands write what is waited for. What is no append does not show in where a run
            ends: then each of them has to be as durable on the connection over which it went.

    Raises:
        DurabilityNotReached: It was applied and is not as durable.
        ConfigurationError: The server cannot give that; nothing is written.
    """
    if session.gives_any or not run_ids:
        return (yield from operation)
    if wanted not in session.confirmations:
        (info,) = yield Exchange([(b"INFO",)], permissive=True)
        yield from learn_confirmation(session, wanted, {} if isinstance(info, Refusal) else parse_info(info))
    confirm = session.confirmations.get(wanted, [_wait(session, wanted)])
    heard: list[Durability] = []
    result = yield from _confirmed(operation, confirm, heard, writes)
    short = [one for one in heard if not wanted.is_within(one)]
    if writes is not is_append:
        least = short[0] if short else (yield from _reached_by_now(session, confirm, run_ids))
        if wanted.is_within(least):
            return result
        error = _not_reached(run_ids[0], _seen_offset(session, run_ids[0]), wanted, least, _OTHER)
        raise _carrying(error, session, result, wanted, run_ids)
    applied = _applied(result, run_ids)
    # what another caller has resolved, or written under the same key, was not written over this connection
    is_of_others = not heard or any(one.known for one in applied.values())
    if is_of_others or (short and wanted.is_within(heard[-1])):
        heard.append((yield from _reached_by_now(session, confirm, run_ids)))
    if wanted.is_within(heard[-1]):
        return result
    run_id, least = run_ids[0], heard[-1]
    if len(run_ids) > 1:  # of several servers, each was waited for
        found = yield from _first_short(session, confirm, wanted, run_ids)
        if found is None:
            return result
        run_id, least = found
    there = applied.get(run_id)
    offset = _seen_offset(session, run_id) if there is None else there.appended.last_offset
    error = _not_reached(run_id, offset, wanted, least, _APPEND)
    raise _carrying(error, session, result, wanted, run_ids)


def _carrying(
    error: DurabilityNotReached, session: Session[E, S], result: T, wanted: Durability, run_ids: Sequence[str]
) -> DurabilityNotReached:
    """The error, which carries what the write has returned, and what waits for that once more."""
    carry_result(error, result)
    carry_resolution(error, lambda: durably(session, returning(result), wanted, run_ids))
    return error


def _applied(result: Any, run_ids: Sequence[str]) -> Mapping[str, Applied]:
    """What was appended to each of these runs, as far as the operation has returned that."""
    of_each = result if isinstance(result, list) else [result]
    pairs = zip(run_ids, of_each, strict=False)
    return {run_id: one for run_id, one in pairs if isinstance(one, Applied)}


def _first_short(
    session: Session[E, S], confirm: Sequence[Command], wanted: Durability, run_ids: Sequence[str]
) -> Operation[tuple[str, Durability] | None]:
    """The first of these runs that is not as durable, and what it has reached; None if all are by now."""
    for run_id in dict.fromkeys(run_ids):
        by_now = yield from _reached_by_now(session, confirm, [run_id])
        if not wanted.is_within(by_now):
            return run_id, by_now
    return None


def _confirmed(
    operation: Operation[T],
    confirm: Sequence[Command],
    heard: list[Durability],
    writes: Callable[[Command], bool],
) -> Operation[T]:
    """The operation, with a confirmation behind each write; what these say is added to ``heard``."""
    try:
        step = next(operation)
        while True:
            sent = step
            if isinstance(step, Exchange) and any(map(writes, step.commands)):
                sent = step._replace(confirm=confirm)
            try:
                result = yield sent
            except BaseException as error:  # noqa: BLE001 - the operation decides what to do about it
                step = operation.throw(error)
                continue
            if sent is not step:
                heard.append(reached(take_last(result, len(confirm))))
            step = operation.send(result)
    except StopIteration as stop:
        returned: T = stop.value
        return returned
    finally:
        operation.close()


def _reached_by_now(
    session: Session[E, S], confirm: Sequence[Command], run_ids: Sequence[str]
) -> Operation[Durability]:
    """What these runs have reached up to where this store saw them end: a later write reaches it after them."""
    runs = [session.keys.run(run_id) for run_id in run_ids]
    ends = [(run, seen) for run in runs if (seen := session.seen.get(run.run_id)) is not None and seen.offset]
    touches = [(b"HSET", key, "waited", 1) for key in sorted({run.partition.config for run in runs})]
    looks: list[Command] = []
    for run, seen in ends:  # first the entry: where one is trimmed in between, the head tells of it
        looks += (b"XRANGE", run.events, seen.offset, seen.offset), head_query(run.meta)
    replies = yield Exchange([*touches, *looks], permissive=True, confirm=confirm)
    said = take_last(replies, len(confirm))
    if any(isinstance(one, Refusal) for one in replies):
        return Durability()
    found = iter(replies[len(touches) :])
    if not all(_has(run, seen, *of_it) for (run, seen), *of_it in zip(ends, found, found, strict=True)):
        return Durability()
    return reached(said)


def _has(run: RunKeys, seen: Seen, entries: Sequence[Any], meta: Sequence[bytes | None]) -> bool:
    """Whether a run has what was seen of it: in Redis, in every archive, or before its own beginning."""
    if entries:
        return bool(entries[0][0] == seen.last)
    head = parse_head(run, meta)
    if start_text(head).encode() != seen.start or head.last.offset < seen.offset:
        return False
    known = [head.last, head.mark, head.start, head.before_first]
    there = [one for one in known if one.offset == seen.offset]
    if there:
        return there.count(seen.cursor) == len(there)
    return seen.offset < max(known[1:]).offset


def _seen_offset(session: Session[E, S], run_id: str) -> int:
    seen = session.seen.get(run_id)
    return 0 if seen is None else seen.offset


_APPEND = "run {run_id!r} is written up to offset {offset}, and has reached", "do not send it again"
_OTHER = "what was asked for of run {run_id!r} has reached", "the same call, made again, waits again"


def _not_reached(
    run_id: str, offset: int, wanted: Durability, least: Durability, words: tuple[str, str]
) -> DurabilityNotReached:
    shown = wanted.at_most(least)
    what, then = words
    return DurabilityNotReached(
        f"{what.format(run_id=run_id, offset=offset)} durability {str(shown)!r} instead of {str(wanted)!r}: it is"
        f" applied, so {then}; see INFO replication and INFO persistence for what keeps the server's replicas or"
        " its disk",
        run_id=run_id,
        offset=offset,
        wanted=str(wanted),
        reached=str(shown),
    )


def waiting_commands(wanted: Durability, info: Mapping[str, str]) -> Sequence[Command]:
    """The commands that a durability takes, of a server that INFO tells of; they wait for nothing."""
    if info.get("role") == "slave":
        return ()  # which they cannot be asked
    if wanted.fsync:
        return [_NO_WAITAOF] if server_version(info).of_redis >= _HAS_WAITAOF else ()
    return [_NO_WAIT] if wanted.replicas else ()


def learn_confirmation(session: Session[E, S], wanted: Durability, info: Mapping[str, str]) -> Operation[None]:
    """Learn by what a durability is confirmed, from what INFO tells; what is tried, once the namespace is open.

    Raises ConfigurationError for one that the server cannot give.
    """
    if wanted == PRIMARY or wanted in session.confirmations:
        return
    learn = _of_disk(session, info) if wanted.fsync else _of_replicas(session, wanted, info)
    confirm = yield from learn
    if confirm:
        session.confirmations[wanted] = confirm


def _of_disk(session: Session[E, S], info: Mapping[str, str]) -> Operation[Sequence[Command]]:
    if info.get("aof_enabled") != "1":
        raise _refused("fsync", "it keeps no append-only file; set appendonly yes")
    if not keeps_whole_file(info):
        raise _refused(
            "fsync",
            "its append-only file is being written for the first time, and a restart would load nothing of it;"
            " wait until INFO persistence shows aof_rewrite_in_progress:0",
        )
    server = server_version(info)
    confirm: list[Command] = [] if server.tells_of_syncs else [_SYNC_SETTINGS]
    asked = [*confirm]
    if server.of_redis >= _HAS_WAITAOF:
        confirm.append((b"WAITAOF", 1, 0, _milliseconds(session)))
        asked.append(_NO_WAITAOF)
    else:
        confirm.append(_OF_FILES)
    replies = yield Exchange(asked, permissive=True)
    for said in replies:
        if isinstance(said, Refusal) and info.get("role") != "slave":
            raise _refused(
                "fsync",
                f"{said.error}; that shows whether what is written is on its disk: {_ALLOW.format('fsync')}, or"
                " ask for another durability",
            )
    if not server.tells_of_syncs:
        _check_settings(f"{server.program} {server.version}", replies[0])
    return confirm


def _check_settings(server: str, settings: Any) -> None:
    """Raise ConfigurationError where the settings do not show that each write is synced before its reply."""
    if isinstance(settings, Refusal) or not syncs_each_write(settings):
        raise _refused(
            "fsync",
            f"{server} shows by nothing but appendfsync always (CONFIG GET) that what is written is on its disk:"
            " set appendfsync always, and allow CONFIG GET; or use Redis 8 or later",
        )
    if not syncs_while_it_rewrites(settings):
        raise _refused(
            "fsync",
            "while it writes a file anew it syncs nothing (no-appendfsync-on-rewrite yes): set"
            " no-appendfsync-on-rewrite no",
        )


def _of_replicas(
    session: Session[E, S], wanted: Durability, info: Mapping[str, str]
) -> Operation[Sequence[Command]]:
    connected = int(info.get("connected_slaves", "0"))
    if info.get("role") == "slave":  # in a failover: what it has once it is promoted, each write will tell
        return [_wait(session, wanted)]
    if connected < wanted.replicas:
        raise _refused(str(wanted), f"replicas connected: {connected}; connect more, or ask for fewer")
    (said,) = yield Exchange([_NO_WAIT], permissive=True)
    if isinstance(said, Refusal):
        raise _refused(
            str(wanted),
            f"{said.error}; that shows which replicas have what is written: {_ALLOW.format(wanted)}, or ask for"
            " another durability",
        )
    # for less time than between two of a replica's words nobody waits for its file
    if server_version(info).of_redis >= _HAS_WAITAOF and _milliseconds(session) >= _PROBE_MILLISECONDS:
        if session.opened is None:
            return ()
        probe: list[Command] = [(b"WAITAOF", 0, wanted.replicas, _milliseconds(session))]
        # of a cluster, each server that has a partition
        touches = [(b"HSET", partition.config, "waited", 1) for partition in session.keys.partitions]
        *touched, said = yield Exchange(touches, permissive=True, confirm=probe)
        if any(isinstance(one, Refusal) for one in touched):
            return ()  # what was not written, every file has: it is asked again with the next write
        if wanted.is_within(reached([said])):
            return probe
    return [_wait(session, wanted)]


_ALLOW = "allow it (`runstream acl --durability {}` prints the rule)"


def _refused(level: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"the server cannot give durability {level!r}: {why}")


def _wait(session: Session[E, S], wanted: Durability) -> Command:
    """Waits until so many replicas have it in memory, and tells of no files."""
    return (b"WAIT", wanted.replicas, _milliseconds(session))


def _milliseconds(session: Session[E, S]) -> int:
    return int(session.longest_wait * 1000)
