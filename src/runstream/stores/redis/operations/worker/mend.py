"""Set aside what is damaged in the sets of a partition: members that are no runs, and keys of another type."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence

from runstream.operations.operation import Command, Exchange, Operation
from runstream.stores.redis.keys import Keys, PartitionKeys, expected_type
from runstream.stores.redis.replies import run_id_of
from runstream.stores.redis.scripts.calls import ASIDE
from runstream.stores.redis.scripts.script import script_call

__all__ = ["log_aside", "runs_in", "set_aside_foreign_keys"]

_log = logging.getLogger("runstream.redis")


def runs_in(keys: Keys, found: Sequence[tuple[PartitionKeys, str, Sequence[bytes]]]) -> Operation[list[list[str]]]:
    """The runs that are in these sorted sets. A member that is none of the partition's runs is removed.

    Nothing is lost by that: no run is there under such a name. The log says what it was.

    Args:
        keys: The namespace's keys.
        found: The partition, the key and some members of each set.

    Returns:
        The ids of the runs, for each set.
    """
    run_ids: list[list[str]] = []
    strays: dict[str, list[bytes]] = {}
    for partition, key, members in found:
        named = [(member, run_id_of(member)) for member in members]
        sound = {member: run_id for member, run_id in named if run_id and keys.run(run_id).partition is partition}
        run_ids.append(list(sound.values()))
        strays[key] = [member for member in members if member not in sound]
    removals = [(b"ZREM", key, *members) for key, members in strays.items() if members]
    if removals:
        yield Exchange(removals)
    for key, members in strays.items():
        for member in members:
            fields = {"key": key, "member": f"{member!r:.200}"}
            _log.error(
                "%s had a member that is no run of its partition: %.200r; it was removed",
                key,
                member,
                extra=fields,
            )
    return run_ids


def set_aside_foreign_keys(keys: Keys, only: Collection[int] | None = None) -> Operation[list[str]]:
    """Rename the sets of partitions that are of another type than they must be: they are made anew.

    Only what a sweep finds again is set aside; the archives that are required, and the number of partitions, are
    for a person to put right.

    Args:
        keys: The namespace's keys.
        only: The numbers of the partitions; None for all.

    Returns:
        The keys that were renamed, to their name with ``:damaged`` behind it.
    """
    replies = yield Exchange([_aside(partition) for partition in keys.numbered(only).values()])
    aside = [key.decode() for reply in replies for key in reply]
    log_aside(aside)
    return aside


def log_aside(keys: Iterable[str]) -> None:
    """Say which keys were set aside."""
    for key in keys:
        _log.error(
            "%s is no sorted set or hash of runstream's; it was renamed to %s:damaged",
            key,
            key,
            extra={"key": key},
        )


def _aside(partition: PartitionKeys) -> Command:
    names = [partition.runs, partition.due, partition.deleted, partition.forking]
    names += [partition.retire, partition.retired, partition.leftovers, partition.parked]
    keys = (*names, *(f"{name}:damaged" for name in names))
    return script_call(ASIDE, keys, [expected_type(name) for name in names])
