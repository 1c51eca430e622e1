"""Sweep a namespace: find the runs that miss from the sets of their partition, whatever removed them there.

The sets of a partition, and its count of partitions, follow from its runs. A key that was evicted, or removed by a
person, would be believed otherwise: what is not in ``due`` is not archived. The sweep goes through the server's
keys, page by page.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from runstream.model.errors import CorruptRecordError
from runstream.model.state import ENDED_STATUSES
from runstream.operations.operation import Command, Exchange, Operation
from runstream.stores.redis.keys import Keys, PartitionKeys, namespace_config, run_of_key
from runstream.stores.redis.operations.worker.held import Held, find_held
from runstream.stores.redis.operations.worker.hot_run import HotRun
from runstream.stores.redis.operations.worker.load import load_runs
from runstream.stores.redis.operations.worker.noted_forks import give_up_left, note_again
from runstream.stores.redis.operations.worker.tag_index import index_again, note_sweep
from runstream.stores.redis.replies import start_text
from runstream.stores.redis.scripts.calls import RELIST
from runstream.stores.redis.scripts.script import script_call

__all__ = ["BEGINNING", "SweptPage", "load_sound", "relist", "run_ids", "sweep_page"]

BEGINNING = b"0"
"""The position at which a sweep begins, and that comes back when it is through."""
_KEYS_PER_PAGE = 500


class SweptPage(NamedTuple):
    """What one page of a sweep has found.

    Attributes:
        position: Where the next page begins; BEGINNING: this was the last.
        relisted: The runs that missed from a set, and are in it again.
        damaged: The runs that do not read and are not parked, with the error.
        held: The runs of which something is archived and still in Redis.
        idle: The runs that are archived, have not ended, and that nobody would look at to retire them.
        settled: The runs that are archived, of which Redis has more than a tombstone.
    """

    position: bytes
    relisted: Sequence[str]
    damaged: Sequence[CorruptRecordError]
    held: Sequence[Held]
    idle: Sequence[str] = ()
    settled: Sequence[HotRun] = ()


def sweep_page(
    keys: Keys,
    position: bytes,
    only: Collection[int] | None = None,
    *,
    finds_idle: bool = False,
    sweep: str = "sweep",
) -> Operation[SweptPage]:
    """Look at the runs among the server's next few hundred keys, and put each back into the sets it must be in.

    Args:
        keys: The namespace's keys.
        position: Where to go on, BEGINNING at first.
        only: The numbers of the partitions; None for all.
        finds_idle: Whether to look for idle runs.
        sweep: A name for the sweep, another for each worker.
    """
    partitions = dict.fromkeys(keys.numbered(only).values())  # in their order, and quick to look into
    if position == BEGINNING:
        yield from _keep_count(keys, partitions)
        yield from give_up_left(keys, only)
        yield from note_sweep(partitions, sweep, "begin")
    position, found = yield from _scan(keys, position)
    loaded, damaged = yield from load_sound(keys, [one for one in found if keys.run(one).partition in partitions])
    yield from note_again(keys, loaded)
    relisted = yield from relist(keys, loaded)
    relisted += yield from index_again(keys, loaded, sweep)
    if position == BEGINNING:
        yield from note_sweep(partitions, sweep, "end")
    scores = yield Exchange([(b"ZSCORE", keys.run(one.run_id).partition.due, one.run_id) for one in damaged])
    unparked = [error for error, score in zip(damaged, scores, strict=True) if score is None]
    settled = [run for run in loaded if not run.is_tombstone and _is_archived(run)]
    idle = (yield from _find_idle(keys, settled)) if finds_idle else []
    return SweptPage(position, relisted, unparked, (yield from find_held(keys, loaded)), idle, settled)


def _find_idle(keys: Keys, runs: Sequence[HotRun]) -> Operation[list[str]]:
    """Those of these archived runs that settling would put among those to be retired, now that idle ones are."""
    idle = [run.run_id for run in runs if run.head.status not in ENDED_STATUSES]
    if not idle:
        return []
    commands: list[Command] = []
    for run_id in idle:
        partition = keys.run(run_id).partition
        commands += [(b"ZSCORE", name, run_id) for name in (partition.due, partition.retire)]
    scores = yield Exchange(commands)
    pairs = zip(scores[::2], scores[1::2], strict=True)
    return [run_id for run_id, pair in zip(idle, pairs, strict=True) if pair == (None, None)]


def run_ids(keys: Keys) -> Operation[set[str]]:
    """The ids of all runs of which there is a key, listed or not."""
    found: set[str] = set()
    position = BEGINNING
    while True:
        position, some = yield from _scan(keys, position)
        found.update(some)
        if position == BEGINNING:
            return found


def _scan(keys: Keys, position: bytes) -> Operation[tuple[bytes, Sequence[str]]]:
    """The runs that have a ``meta`` or ``events`` in the next page of keys; where the page after it begins."""
    pattern = f"{{{keys.namespace}:*}}:run:*:[em]*"
    ((position, found),) = yield Exchange([(b"SCAN", position, b"MATCH", pattern, b"COUNT", _KEYS_PER_PAGE)])
    names = {name.decode(errors="backslashreplace") for name in found}
    named = {name: run_of_key(name) for name in names if name.endswith((":meta", ":events"))}
    some = {run_id for name, run_id in named.items() if run_id and name in _names(keys, run_id)}
    return position, sorted(some)


def _names(keys: Keys, run_id: str) -> tuple[str, str]:
    """The keys by which a run is found. A key that looks like one may lie in another partition than its run."""
    run = keys.run(run_id)
    return run.meta, run.events


def _keep_count(keys: Keys, partitions: Collection[PartitionKeys]) -> Operation[None]:
    """Note the number of partitions again where that was lost."""
    names = [namespace_config(keys.namespace), *(partition.config for partition in partitions)]
    found = yield Exchange([(b"HEXISTS", name, "partitions") for name in names])
    lost = [name for name, is_there in zip(names, found, strict=True) if not is_there]
    if lost:
        yield Exchange([(b"HSETNX", name, "partitions", len(keys.partitions)) for name in lost])


def load_sound(keys: Keys, names: Sequence[str]) -> Operation[tuple[list[HotRun], list[CorruptRecordError]]]:
    """Load those of these runs that are there and read, and the errors of those that do not."""
    damaged: dict[str, CorruptRecordError] = {}
    while True:
        try:
            runs = yield from load_runs(keys, [run_id for run_id in names if run_id not in damaged])
        except CorruptRecordError as error:
            damaged[error.run_id] = error
        else:
            return [run for run in runs if run is not None], list(damaged.values())


def relist(keys: Keys, runs: Sequence[HotRun]) -> Operation[list[str]]:
    """Put these runs back into the sets that they must be in; the ids of those that were missing from one."""
    calls = yield from _missing(keys, runs)
    if not calls:
        return []
    # a worker may have settled a run, or retired it, between the look at it and the look at the sets
    now, _ = yield from load_sound(keys, list(calls))
    unchanged = {run.run_id for run in now if run in runs}
    calls = {run_id: call for run_id, call in calls.items() if run_id in unchanged}
    replies = yield Exchange(list(calls.values()))
    return [run_id for run_id, is_done in zip(calls, replies, strict=True) if int(is_done)]


def _missing(keys: Keys, runs: Sequence[HotRun]) -> Operation[dict[str, Command]]:
    """What puts those of these runs back that are missing from a set, by run id."""
    commands: list[Command] = []
    for run in runs:
        partition = keys.run(run.run_id).partition
        names = (partition.runs, partition.due, partition.retire, partition.retired)
        commands += [(b"ZSCORE", name, run.run_id) for name in names]
        commands.append((b"ZSCORE", partition.session(run.head.session_id), run.run_id))
    scores = yield Exchange(commands)
    calls: dict[str, Command] = {}
    for run, listed, due, retire, retired, in_session in zip(
        runs, *(scores[at::5] for at in range(5)), strict=True
    ):
        belongs = ""
        if run.is_tombstone:
            belongs = "retired" if retired is None else ""
        elif due is None and (not _is_archived(run) or (retire is None and run.head.status in ENDED_STATUSES)):
            belongs = "due"
        if belongs or listed is None or (run.head.session_id and in_session is None):
            calls[run.run_id] = _relist_call(keys, run, belongs)
    return calls


def _relist_call(keys: Keys, run: HotRun, belongs: str) -> Command:
    meta, partition, session_id = keys.run(run.run_id).meta, keys.run(run.run_id).partition, run.head.session_id
    names = (meta, partition.runs, partition.session(session_id), partition.due, partition.retired)
    return script_call(RELIST, names, (run.run_id, start_text(run.head), session_id, belongs))


def _is_archived(run: HotRun) -> bool:
    head = run.head
    proven = run.proven_tokens
    is_proven = head.mark == head.last and run.proven_tags == head.tags.version and run.erasures == run.erased
    return is_proven and all(proven.get(one) == token for one, token in head.tokens.items())
