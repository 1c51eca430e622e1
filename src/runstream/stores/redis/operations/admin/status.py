"""The status of a namespace: what is due or parked, where the archives are, how full the server is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runstream.codec.own_stack import with_room
from runstream.model.results import Failure
from runstream.operations.operation import Command, Exchange, Operation, Refusal
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.replies import (
    noted_cursor,
    parse_info,
    parse_map,
    parse_scores,
    parse_texts,
    run_id_of,
    server_version,
)
from runstream.stores.redis.scripts.calls import MICROSECONDS

__all__ = ["NamespaceStatus", "WorkerReport", "backlog", "namespace_status", "snapshot_lanes"]

_CHUNK = 2000  # runs in one round trip
_LIVING_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The last report of a drain worker. It takes it back when it ends in good order; else it stays for a day.

    Attributes:
        name: The worker's name.
        seen_at: When it reported: Unix time in seconds, by the server's clock.
        archives: The locations of its archives.
        failing: What is wrong with what fails, by the archive's location, ``"redis"``, or ``"archives"``: others
            are required.
        events: How many events it has archived.
        partitions: The numbers of those that it drains; None for all.
        archive_ids: The UUIDs of its archives; None: it is of a version that does not say.
        trim: What it trims.
    """

    name: str
    seen_at: float
    archives: Sequence[str]
    failing: Mapping[str, Failure]
    events: int
    partitions: Sequence[int] | None
    archive_ids: Sequence[str] | None = None
    trim: str = "covered"

    def drains(self, partition: int) -> bool:
        """Whether it drains the partition of this number."""
        return self.partitions is None or partition in self.partitions

    @property
    def waits(self) -> bool:
        """Whether it does nothing, as the namespace requires other archives than it has."""
        return "archives" in self.failing

    def has(self, archive_id: str, location: str) -> bool:
        """Whether an archive is one of its own."""
        return location in self.archives if self.archive_ids is None else archive_id in self.archive_ids


@dataclass(frozen=True, slots=True)
class NamespaceStatus:
    """A namespace at one moment of its server's time.

    Attributes:
        namespace: Its name.
        server: 'Redis' or 'Valkey'.
        version: The server's version; None where it does not say.
        used_memory_bytes: The server's memory in use; None where it does not say.
        partitions: How many partitions it has.
        runs: How many runs it has.
        due: How many runs wait for a worker now.
        later: How many come due in the future: claimed by a worker, or parked.
        oldest_due_seconds: How long the first of the due ones has waited; 0 if there is none.
        parked: Run id to reason.
        archives: The archives that are required: UUID to location.
        backlog_events: How many events of the runs that are due, claimed or parked are not archived.
        workers: The drain workers, by name.
        now: That moment: Unix time in seconds, by the server's clock, as a worker's ``seen_at``.
        damaged: What is wrong with keys of partitions that are of another type than they must be, by key.
        undrained: The numbers of the partitions that have due runs, and that no living worker drains, or only
            ones that wait until their archives are those that are required.
        without_worker: The archives that a partition requires and that none of its living workers has: UUID to
            location.
        max_memory_bytes: The server's ``maxmemory``; None where it has none, or does not say. Of a cluster: what
            is in use when its first server is full, if all grow alike.
    """

    namespace: str
    server: str
    version: str | None
    used_memory_bytes: int | None
    partitions: int
    runs: int
    due: int
    later: int
    oldest_due_seconds: float
    parked: Mapping[str, str]
    archives: Mapping[str, str]
    backlog_events: int
    workers: Sequence[WorkerReport]
    now: float
    damaged: Mapping[str, str] = field(default_factory=dict)
    undrained: Sequence[int] = ()
    without_worker: Mapping[str, str] = field(default_factory=dict)
    max_memory_bytes: int | None = None

    @property
    def trims(self) -> set[str]:
        """What the living workers trim."""
        return {worker.trim for worker in self.workers if self.is_living(worker)}

    def is_living(self, worker: WorkerReport) -> bool:
        """Whether a worker has said within the last minute that it lives."""
        return self.now - worker.seen_at < _LIVING_SECONDS


def namespace_status(keys: Keys) -> Operation[NamespaceStatus]:
    """Load the status of a namespace: in three round trips, and two for every few thousand runs that are due."""
    info, time = yield Exchange([(b"INFO",), (b"TIME",)], permissive=True)
    facts = {} if isinstance(info, Refusal) else parse_info(info)
    now = _time(time, facts)
    commands: list[Command] = []
    for partition in keys.partitions:
        commands += [
            (b"ZCARD", partition.runs),
            (b"ZCARD", partition.due),
            (b"ZCOUNT", partition.due, "-inf", now),
            (b"ZRANGE", partition.due, 0, 0, b"WITHSCORES"),
            (b"HGETALL", partition.parked),
            (b"HGETALL", partition.archives),
            # only to see what they are
            *((b"ZCARD", key) for key in (partition.retire, partition.retired, partition.deleted)),
        ]
    commands.append((b"HGETALL", keys.workers))
    replies = yield Exchange(commands, tolerant=True)
    answered = list(zip(commands, replies, strict=True))
    damaged = {str(command[1]): str(reply.error) for command, reply in answered if isinstance(reply, Refusal)}
    *replies, workers = [() if isinstance(reply, Refusal) else reply for reply in replies]
    runs, queued, due, first, parked, archives = (replies[at::9] for at in range(6))
    backlog_events = yield from backlog(keys)
    oldest = min((at for reply in first for _, at in parse_scores(reply)), default=now)
    server = server_version(facts)
    status = NamespaceStatus(
        keys.namespace,
        server.program,
        server.version,
        _bytes(facts, "used_memory"),
        len(keys.partitions),
        _total(runs),
        _total(due),
        _total(queued) - _total(due),
        max(0, now - oldest) / MICROSECONDS,
        _merged(parked),
        _merged(archives),
        backlog_events,
        sorted(_reports(parse_map(workers)), key=lambda worker: worker.name),
        now / MICROSECONDS,
        damaged,
        max_memory_bytes=_bytes(facts, "maxmemory") or None,
    )
    return _with_gaps(status, due, list(map(parse_texts, archives)))


def _time(reply: Any, facts: Mapping[str, str]) -> int:
    """The server's time in microseconds: INFO has it too, where the user may not call TIME."""
    if not isinstance(reply, Refusal):
        return int(reply[0]) * MICROSECONDS + int(reply[1])
    if not facts.get("server_time_usec", "").isdigit():
        raise reply.error
    return int(facts["server_time_usec"])


def _bytes(facts: Mapping[str, str], name: str) -> int | None:
    text = facts.get(name, "")
    return int(text) if text.isdigit() else None


def _with_gaps(
    status: NamespaceStatus, due: Sequence[Any], required: Sequence[Mapping[str, str]]
) -> NamespaceStatus:
    """The same status, with what no living worker does. By partition: how many runs are due, what is required."""
    living = [worker for worker in status.workers if status.is_living(worker)]
    undrained: list[int] = []
    without: dict[str, str] = {}
    for number, (count, archives) in enumerate(zip(due, required, strict=True)):
        of_it = [worker for worker in living if worker.drains(number)]
        if count and all(worker.waits for worker in of_it):
            undrained.append(number)
        if of_it:
            without.update(one for one in archives.items() if not any(worker.has(*one) for worker in of_it))
    return replace(status, undrained=undrained, without_worker=without)


def _total(replies: Sequence[Any]) -> int:
    return sum(reply for reply in replies if isinstance(reply, int))


def _merged(replies: Sequence[Any]) -> dict[str, str]:
    return {name: text for reply in replies for name, text in parse_texts(reply).items()}


def backlog(keys: Keys) -> Operation[int]:
    """Count the events of runs that are due, claimed or parked that are not archived.

    Runs are counted in chunks while workers go on, so the sum is of no one moment.
    """
    count, partitions, first = 0, keys.partitions, 0
    while partitions:
        each = max(1, _CHUNK // len(partitions))
        last = first + each - 1
        replies = yield Exchange(
            [(b"ZRANGE", partition.due, first, last) for partition in partitions], tolerant=True
        )
        chunks = [() if isinstance(reply, Refusal) else reply for reply in replies]
        run_ids = [run_id for chunk in chunks for member in chunk if (run_id := run_id_of(member))]
        if run_ids:
            metas: list[Command] = [
                (b"HMGET", keys.run(run_id).meta, b"last", b"mark", b"start") for run_id in run_ids
            ]
            found = yield Exchange(metas, tolerant=True)
            count += sum(_unarchived(*reply) for reply in found if not isinstance(reply, Refusal))
        partitions = [p for p, chunk in zip(partitions, chunks, strict=True) if len(chunk) == each]
        first += each
    return count


def _unarchived(last: bytes | None, mark: bytes | None, start: bytes | None) -> int:
    archived = mark or start
    try:
        if last is None or archived is None:
            return 0
        return max(0, noted_cursor(last).offset - noted_cursor(archived).offset)
    except ValueError:  # damaged: the worker parks it and says so
        return 0


def _reports(workers: Mapping[bytes, bytes]) -> Iterator[WorkerReport]:
    for name, text in workers.items():
        try:
            facts: dict[str, Any] = with_room(json.loads, text)
            failing = {what: Failure(**failure) for what, failure in facts["failing"].items()}
            archives, partitions = facts["archives"], facts["partitions"]
            seen_at, events, ids = float(facts["seen_at"]), int(facts["events"]), facts.get("archive_ids")
            trim = str(facts.get("trim", "covered"))
            yield WorkerReport(
                name.decode(), seen_at, list(map(str, archives)), failing, events, partitions, ids, trim
            )
        except (ValueError, LookupError, TypeError, AttributeError):
            continue  # of another version: what is reported of a worker is no part of its work


def snapshot_lanes(keys: Keys, run_id: str) -> Operation[list[str | None]]:
    """The lanes of a run that have a snapshot, None for the run's own, which comes first."""
    (fields,) = yield Exchange([(b"HKEYS", keys.run(run_id).meta)])
    with parsing(keys.run(run_id)):
        names = sorted(name.decode() for name in fields if name.startswith(b"snapshot"))
    return [name.partition(":")[2] if ":" in name else None for name in names]
