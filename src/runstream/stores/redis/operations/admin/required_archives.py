"""Which archives a namespace requires: tell them, add one, drop one. Each partition has a set of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runstream.stores.redis.exchange import Command, Exchange, Operation
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.replies import as_map
from runstream.stores.redis.scripts.calls import drop_call, revisit_call

__all__ = ["drop", "require", "required", "revisit"]

_CHUNK = 1000


def required(keys: Keys) -> Operation[list[dict[str, str]]]:
    """What each partition requires: UUID to location."""
    replies = yield Exchange([(b"HGETALL", partition.archives) for partition in keys.partitions])
    return [{uuid.decode(): location.decode() for uuid, location in as_map(reply).items()} for reply in replies]


def require(keys: Keys, archives: Sequence[Mapping[str, str]]) -> Operation[None]:
    """Add these archives (UUID to location) to what each partition requires. It may be repeated."""
    commands: list[Command] = [
        (b"HSET", partition.archives, *(part for pair in added.items() for part in pair))
        for partition, added in zip(keys.partitions, archives, strict=True)
    ]
    yield Exchange(commands)


def drop(keys: Keys, archive_id: str) -> Operation[list[int]]:
    """Require an archive no longer; tells the partitions that still do, as they have no other."""
    replies = yield Exchange([drop_call(partition, archive_id) for partition in keys.partitions])
    return [number for number, is_dropped in enumerate(replies) if not is_dropped]


def revisit(keys: Keys, run_ids: Sequence[str]) -> Operation[None]:
    """Make these runs due, so that a worker looks whether each archive has them."""
    for at in range(0, len(run_ids), _CHUNK):
        yield Exchange([revisit_call(keys, run_id) for run_id in run_ids[at : at + _CHUNK]])
