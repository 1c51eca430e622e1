"""What an operator asks of a namespace: what is due or parked, where the archives are, how full the server is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runstream.model.results import Failure
from runstream.stores.redis.exchange import Command, Exchange, Operation, Refusal
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.replies import as_map, parse_info, place, scored
from runstream.stores.redis.scripts.calls import MICROSECONDS

__all__ = ["NamespaceStatus", "WorkerReport", "backlog", "namespace_status", "snapshot_lanes"]

_CHUNK = 2000  # runs in one round trip


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a drain worker said of itself last, at ``seen_at``: Unix time in seconds, of the server's clock.

    ``archives`` are locations; ``failing`` is an archive's location, or ``"redis"``, to what is wrong with it.
    ``events`` counts those that it has archived. ``partitions`` are the only ones that it drains, None for all.
    A worker that ends in good order is not reported any more; one that dies is, for a day.
    """

    name: str
    seen_at: float
    archives: Sequence[str]
    failing: Mapping[str, Failure]
    events: int
    partitions: Sequence[int] | None


@dataclass(frozen=True, slots=True)
class NamespaceStatus:
    """A namespace at one moment of its server's time.

    ``version`` and ``used_memory_bytes`` are None for a server that does not say. ``due`` counts the runs
    that wait for a worker now, ``later`` those that come due in the future: claimed by a worker, or
    parked. ``oldest_due_seconds`` is how long the first of the due ones has waited, 0 if there is none.
    ``parked`` is run id to reason, ``archives`` UUID to location. ``backlog_events`` counts the events of all
    these runs that are not archived, ``workers`` are the drain workers, by name. ``now`` is that moment, Unix
    time in seconds: what a worker's ``seen_at`` is compared with.
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


def namespace_status(keys: Keys) -> Operation[NamespaceStatus]:
    """How a namespace stands: in three round trips, and two for every few thousand runs that are due."""
    info, time = yield Exchange([(b"INFO",), (b"TIME",)], tolerant=True)
    facts = {} if isinstance(info, Refusal) else parse_info(info)
    now = int(time[0]) * MICROSECONDS + int(time[1])
    commands: list[Command] = []
    for partition in keys.partitions:
        commands += [
            (b"ZCARD", partition.runs),
            (b"ZCARD", partition.due),
            (b"ZCOUNT", partition.due, "-inf", now),
            (b"ZRANGE", partition.due, 0, 0, b"WITHSCORES"),
            (b"HGETALL", partition.parked),
            (b"HGETALL", partition.archives),
        ]
    *replies, workers = yield Exchange([*commands, (b"HGETALL", keys.workers)])
    runs, queued, due, first, parked, archives = (replies[at::6] for at in range(6))
    backlog_events = yield from backlog(keys)
    oldest = min((at for reply in first for _, at in scored(reply)), default=now)
    is_valkey = "valkey_version" in facts
    memory = facts.get("used_memory", "")
    return NamespaceStatus(
        keys.namespace,
        "Valkey" if is_valkey else "Redis",
        facts.get("valkey_version" if is_valkey else "redis_version"),
        int(memory) if memory.isdigit() else None,
        len(keys.partitions),
        sum(runs),
        sum(due),
        sum(queued) - sum(due),
        max(0, now - oldest) / MICROSECONDS,
        {run_id.decode(): why.decode() for reply in parked for run_id, why in as_map(reply).items()},
        {uuid.decode(): location.decode() for reply in archives for uuid, location in as_map(reply).items()},
        backlog_events,
        sorted(_reports(as_map(workers)), key=lambda worker: worker.name),
        now / MICROSECONDS,
    )


def backlog(keys: Keys) -> Operation[int]:
    """How many events of runs that are due, claimed or parked are not archived.

    Runs are looked at in chunks while workers go on, so the sum is of no one moment.
    """
    count, partitions, first = 0, keys.partitions, 0
    while partitions:
        each = max(1, _CHUNK // len(partitions))
        last = first + each - 1
        chunks = yield Exchange([(b"ZRANGE", partition.due, first, last) for partition in partitions])
        run_ids = [run_id.decode() for chunk in chunks for run_id in chunk]
        if run_ids:
            metas: list[Command] = [
                (b"HMGET", keys.run(run_id).meta, b"last", b"mark", b"start") for run_id in run_ids
            ]
            count += sum(_unarchived(*reply) for reply in (yield Exchange(metas)))
        partitions = [p for p, chunk in zip(partitions, chunks, strict=True) if len(chunk) == each]
        first += each
    return count


def _unarchived(last: bytes | None, mark: bytes | None, start: bytes | None) -> int:
    archived = mark or start
    try:
        return 0 if last is None or archived is None else place(last).offset - place(archived).offset
    except ValueError:  # damaged: the worker parks it and says so
        return 0


def _reports(workers: Mapping[bytes, bytes]) -> Iterator[WorkerReport]:
    for name, text in workers.items():
        try:
            said: dict[str, Any] = json.loads(text)
            failing = {what: Failure(**failure) for what, failure in said["failing"].items()}
            archives, partitions = said["archives"], said["partitions"]
            yield WorkerReport(name.decode(), said["seen_at"], archives, failing, said["events"], partitions)
        except (ValueError, LookupError, TypeError, AttributeError):
            continue  # of another version: what is reported of a worker is no part of its work


def snapshot_lanes(keys: Keys, run_id: str) -> Operation[list[str | None]]:
    """The lanes of a run that have a snapshot, None for the run's own, which comes first."""
    (fields,) = yield Exchange([(b"HKEYS", keys.run(run_id).meta)])
    names = sorted(field.decode() for field in fields if field.startswith(b"snapshot"))
    return [name.partition(":")[2] if ":" in name else None for name in names]
