"""The indexes of tags, which follow from the tags of the runs: find what is missing from them, and put it back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import compress
from typing import Literal

from runstream.model.tags import TagSet
from runstream.operations.operation import Command, Exchange, Operation, Refusal
from runstream.stores.redis.keys import Keys, PartitionKeys, expected_type
from runstream.stores.redis.operations.worker.hot_run import HotRun
from runstream.stores.redis.operations.worker.mend import log_aside
from runstream.stores.redis.replies import parse_tags, start_text
from runstream.stores.redis.scripts.calls import ASIDE, INDEX_TAGS, TAGGED
from runstream.stores.redis.scripts.script import script_call

__all__ = ["index_again", "load_tags", "note_sweep", "unindexed"]


def load_tags(keys: Keys, runs: Sequence[HotRun]) -> Operation[list[tuple[HotRun, TagSet]]]:
    """The tags of those of these runs that have any; tags that do not read are passed over."""
    tagged = [run for run in runs if run.head.tags.version]
    if not tagged:
        return []
    replies = yield Exchange([(b"HGETALL", keys.run(run.run_id).tags) for run in tagged], tolerant=True)
    found = []
    for run, reply in zip(tagged, replies, strict=True):
        with suppress(ValueError):
            if not isinstance(reply, Refusal):
                found.append((run, parse_tags(run.head.tags.version.encode(), reply)))
    return found


def unindexed(keys: Keys, run: HotRun) -> Operation[list[str]]:
    """The indexes, by their keys, that miss a run, where all runs of its partition are to be in them."""
    partition, found = keys.run(run.run_id).partition, (yield from load_tags(keys, [run]))
    values = {} if not found else found[0][1].values
    commands: list[Command] = [(b"HGET", partition.config, "tagged")]
    for name, value in values.items():
        commands.append((b"ZSCORE", partition.index(name), f"{len(value.encode())}:{value}{run.run_id}"))
    is_complete, *scores = yield Exchange(commands, tolerant=True)
    missing = [score is None or isinstance(score, Refusal) for score in scores]
    return list(map(partition.index, compress(values, missing))) if is_complete == b"1" else []


def index_again(keys: Keys, runs: Sequence[HotRun], sweep: str) -> Operation[list[str]]:
    """Put these runs into the indexes of their tags; an index of another type is set aside first.

    Args:
        keys: The namespace's keys.
        runs: The runs.
        sweep: The name of the sweep that goes through all runs of their partitions.

    Returns:
        The ids of those that were missing from one.
    """
    missing: list[str] = []
    left = yield from load_tags(keys, runs)
    while left:
        replies = yield Exchange([_call(keys, run, tags) for run, tags in left])
        aside: dict[PartitionKeys, set[str]] = {}
        again = []
        for (run, tags), (added, *strange) in zip(left, replies, strict=True):
            if added or strange:
                missing.append(run.run_id)
            if strange:
                again.append((run, tags))
                partition = keys.run(run.run_id).partition
                aside.setdefault(partition, set()).update(partition.index(name.decode()) for name in strange)
        if aside:
            yield from note_sweep(list(aside), sweep, "again")
            replies = yield Exchange([_aside(sorted(names)) for names in aside.values()])
            log_aside(key.decode() for reply in replies for key in reply)
        left = again
    return missing


def _call(keys: Keys, run: HotRun, tags: TagSet) -> tuple[object, ...]:
    of_run = keys.run(run.run_id)
    names = (of_run.meta, of_run.tags, *map(of_run.partition.index, tags.values))
    return script_call(INDEX_TAGS, names, (run.run_id, start_text(run.head), *tags.values))


def _aside(names: Sequence[str]) -> tuple[object, ...]:
    return script_call(
        ASIDE, (*names, *(f"{name}:damaged" for name in names)), [expected_type(one) for one in names]
    )


def note_sweep(
    partitions: Collection[PartitionKeys], sweep: str, what: Literal["begin", "again", "end"]
) -> Operation[None]:
    """Note that a sweep of this name begins, has found an index to be made anew, or has gone through all runs."""
    yield Exchange([script_call(TAGGED, (partition.config,), (sweep, what)) for partition in partitions])
