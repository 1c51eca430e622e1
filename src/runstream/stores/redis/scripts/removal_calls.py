"""The calls of the Lua scripts that take a run out of Redis: delete, retire, forget, clear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runstream.operations.operation import Command
from runstream.stores.redis.append_batch import snapshot_field
from runstream.stores.redis.keys import Keys, RunKeys
from runstream.stores.redis.scripts.calls import MICROSECONDS, PRODUCER_WINDOW_SECONDS, archive_args
from runstream.stores.redis.scripts.library import SCRIPT
from runstream.stores.redis.scripts.script import script_call

__all__ = ["clear_call", "delete_call", "forget_call", "retire_call"]

DELETED_WINDOW_SECONDS = 7 * 24 * 3600
"""For how long the server remembers that a run was deleted rather than lost."""


def delete_call(
    keys: Keys,
    run_id: str,
    *,
    start: str,
    session_id: str,
    lanes: Sequence[str | None],
    tags: Sequence[str] = ("",),
) -> Command:
    """Delete a run if its start, its session, the lanes of its snapshots and its tags are these.

    ``tags`` are the version of its tags and their names. ``start`` is "" for a run whose meta has none that can be
    read. What is not UTF-8 comes with surrogates.
    """
    run = keys.run(run_id)
    others = (*map(run.snapshot, lanes), run.erasures, run.rebuilt)
    names = (*_all_but_snapshots(run, session_id), *others, *map(run.partition.index, tags[1:]))
    args = (run_id, start, session_id)
    return script_call(
        SCRIPT["delete"],
        [name.encode(errors="surrogateescape") for name in names],
        (
            *(arg.encode(errors="surrogateescape") for arg in args),
            len(lanes),
            DELETED_WINDOW_SECONDS * MICROSECONDS,
            *(tag.encode(errors="surrogateescape") for tag in tags),
        ),
    )


def _all_but_snapshots(run: RunKeys, session_id: str) -> tuple[str, ...]:
    partition = run.partition
    of_run = (run.events, run.meta, run.producers, run.keys)
    of_all = (partition.runs, partition.session(session_id), partition.due, partition.parked, partition.deleted)
    return (
        *of_run,
        *of_all,
        partition.retire,
        partition.retired,
        partition.leftovers,
        run.lanes,
        run.tags,
        run.forks,
    )


def retire_call(
    keys: Keys,
    run_id: str,
    *,
    start: str,
    quiet: str,
    archives: Mapping[str, str],
    snapshots: Mapping[str | None, str],
    tags: str = "",
) -> Command:
    """Retire a run that is archived and was quiet.

    Args:
        keys: The namespace's keys.
        run_id: The run.
        start: The run's start, which names this very run; "" if there is no run of that name.
        quiet: How long it must have been quiet, as retire.lua takes it.
        archives: The archives that have all of it, UUID to location.
        snapshots: The tokens of the snapshots that they have, by lane.
        tags: The version of the tags that they have; '' for none.
    """
    run = keys.run(run_id)
    partition = run.partition
    args: list[Any] = [
        run_id,
        start,
        quiet,
        PRODUCER_WINDOW_SECONDS * MICROSECONDS,
        *archive_args(archives),
    ]
    for lane_id, token in snapshots.items():
        args += (snapshot_field(lane_id), token)
    args += ("tags", tags) if tags else ()
    return script_call(
        SCRIPT["retire"],
        (
            run.events,
            run.meta,
            run.producers,
            partition.due,
            partition.retire,
            partition.retired,
            partition.archives,
            partition.leftovers,
            run.lanes,
            *(run.snapshot(lane_id) for lane_id in snapshots),
        ),
        args,
    )


def forget_call(
    keys: Keys, run_id: str, *, start: str, session_id: str, retired_seconds: float, tags: Sequence[str] = ("",)
) -> Command:
    """Forget a run that was retired ``retired_seconds`` ago; ``start`` is "" if there is no run of that name.

    ``tags`` are the version of its tags and their names.
    """
    run = keys.run(run_id)
    return script_call(
        SCRIPT["forget"],
        (
            *_all_but_snapshots(run, session_id),
            run.partition.config,
            run.erasures,
            *map(run.partition.index, tags[1:]),
        ),
        (
            run_id,
            start,
            session_id,
            int(retired_seconds * MICROSECONDS),
            DELETED_WINDOW_SECONDS * MICROSECONDS,
            *tags,
        ),
    )


def clear_call(keys: Keys, run_id: str) -> Command:
    """Clear what is left of a run that is retired or not there."""
    run = keys.run(run_id)
    partition = run.partition
    return script_call(
        SCRIPT["clear"], (partition.leftovers, run.meta, run.producers, partition.config), (run_id,)
    )
