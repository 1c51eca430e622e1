"""The archives that a namespace requires: list them, add one, drop one. Each partition has a set of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runstream.operations.operation import Command, Exchange, Operation
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.replies import parse_texts
from runstream.stores.redis.scripts.queue_calls import drop_call, revisit_call

__all__ = ["archives_of_run", "drop_archive", "make_due", "require_archives", "required_archives"]

_CHUNK = 1000


def required_archives(keys: Keys) -> Operation[list[dict[str, str]]]:
    """The archives that each partition requires: UUID to location."""
    replies = yield Exchange([(b"HGETALL", partition.archives) for partition in keys.partitions])
    return [_archives(reply) for reply in replies]


def archives_of_run(keys: Keys, run_id: str) -> Operation[dict[str, str]]:
    """The archives that a run's partition requires: UUID to location."""
    (reply,) = yield Exchange([(b"HGETALL", keys.run(run_id).partition.archives)])
    return _archives(reply)


def _archives(reply: Any) -> dict[str, str]:
    return parse_texts(reply)


def require_archives(keys: Keys, archives: Sequence[Mapping[str, str]]) -> Operation[None]:
    """Add archives (UUID to location), one set for each partition, to what it requires. It may be repeated."""
    commands: list[Command] = [
        (b"HSET", partition.archives, *(part for pair in added.items() for part in pair))
        for partition, added in zip(keys.partitions, archives, strict=True)
    ]
    yield Exchange(commands)


def drop_archive(keys: Keys, archive_id: str) -> Operation[list[int]]:
    """Require an archive no longer. Returns the numbers of the partitions that still do: they have no other."""
    replies = yield Exchange([drop_call(partition, archive_id) for partition in keys.partitions])
    return [number for number, is_dropped in enumerate(replies) if not is_dropped]


def make_due(keys: Keys, run_ids: Sequence[str]) -> Operation[None]:
    """Make runs due, so that a worker checks whether every archive has them."""
    for at in range(0, len(run_ids), _CHUNK):
        yield Exchange([revisit_call(keys, run_id) for run_id in run_ids[at : at + _CHUNK]])
