"""What an operator asks of a namespace: what is due or parked, where the archives are, how full the server is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runstream.stores.redis.exchange import Command, Exchange, Operation, Refusal
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.replies import as_map, parse_info, scored
from runstream.stores.redis.scripts import MICROSECONDS

__all__ = ["NamespaceStatus", "namespace_status", "snapshot_lanes"]


@dataclass(frozen=True, slots=True)
class NamespaceStatus:
    """A namespace at one moment of its server's time.

    ``version`` and ``used_memory_bytes`` are None for a server that does not say. ``due`` counts the runs
    that wait for a worker now, ``later`` those that come due in the future: claimed by a worker, or
    parked. ``oldest_due_seconds`` is how long the first of the due ones has waited, 0 if there is none.
    ``parked`` is run id to reason, ``archives`` UUID to location.
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


def namespace_status(keys: Keys) -> Operation[NamespaceStatus]:
    """How a namespace stands, in two round trips."""
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
    replies = yield Exchange(commands)
    runs, queued, due, first, parked, archives = (replies[at::6] for at in range(6))
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
    )


def snapshot_lanes(keys: Keys, run_id: str) -> Operation[list[str | None]]:
    """The lanes of a run that have a snapshot, None for the run's own, which comes first."""
    (fields,) = yield Exchange([(b"HKEYS", keys.run(run_id).meta)])
    names = sorted(field.decode() for field in fields if field.startswith(b"snapshot"))
    return [name.partition(":")[2] if ":" in name else None for name in names]
