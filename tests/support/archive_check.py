"""What every test of a fault of the drain ends in: P8, each acknowledged event exactly once, in order.

That an archive's history is whole, under the chain it was given, is for the library's own checker to say
(:func:`~runstream.repair.verify.verify_run`). What was acknowledged to the writers only the tests know.
:func:`check_archives` compares archives with that, :func:`check_drained` with Redis when all is drained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from runstream import JSONLCheckpointer, Recorded, RedisCheckpointer, SQLiteCheckpointer
from runstream.history.archived import ArchivedHistory
from runstream.model.archive_records import ArchiveEntry
from runstream.repair.verify import verify_run
from runstream.stores.capabilities import archive_of
from runstream.stores.redis.namespace import namespace_of

__all__ = ["Archive", "archive_faults", "check_archives", "check_drained", "drained_faults"]

Archive: TypeAlias = SQLiteCheckpointer[Any, Any] | JSONLCheckpointer[Any, Any]

_EVERYTHING = 2**53
"""An offset behind any that a test gives out: what an archive holds behind its own end is seen too."""


def check_archives(archives: Sequence[Archive], acknowledged: Mapping[str, Sequence[Any]], **options: Any) -> None:
    """Fail, with all that is wrong, unless each archive holds just what it must.

    ``acknowledged`` has for each run the events that were acknowledged, of each lane in order. Further
    options are those of :func:`archive_faults`.
    """
    faults = [
        f"{archive.location}, run {run_id!r}: {fault}"
        for archive in archives
        for run_id, events in acknowledged.items()
        for fault in archive_faults(archive, run_id, events, **options)
    ]
    assert not faults, "\n".join(faults)


def archive_faults(
    archive: Archive,
    run_id: str,
    events: Sequence[Any],
    *,
    or_more: bool = False,
    kept_aside: int = 0,
    unanswered: Iterable[Collection[str]] = (),
) -> Iterator[str]:
    """What is wrong with an archive's history of a run: nothing, if it holds just these events.

    ``or_more``: events whose reply was lost may be there too, once each. ``kept_aside``: so many records
    do not read, and are in the quarantine. ``unanswered``: batches among the events, as their span ids, that
    got no reply: each may be missing, but only as a whole.
    """
    verdict = verify_run(run_id, sinks=[archive])
    if verdict.difference is not None:
        yield str(verdict.difference)
        return
    (copy,) = verdict.checked
    if copy.quarantined != kept_aside:
        yield f"{copy.quarantined} records are kept aside, not {kept_aside}"
    yield from _faults_of_keys(archive.read_back(run_id, 1, _EVERYTHING))
    recorded = list(archive.read(run_id, on_corrupt="skip"))
    present = {item.event.span_id for item in recorded}
    events = _without([batch for batch in unanswered if present.isdisjoint(batch)], events)
    yield from _faults_of_events(recorded, events, or_more=or_more)


def _without(batches: Sequence[Collection[str]], events: Sequence[Any]) -> Sequence[Any]:
    left_out = {span for batch in batches for span in batch}
    return [event for event in events if event.span_id not in left_out]


def _faults_of_keys(entries: Iterable[ArchiveEntry]) -> Iterator[str]:
    keys = Counter(entry.key for entry in entries if entry.key is not None)
    yield from (f"key {key!r} is there {count} times" for key, count in keys.items() if count > 1)


def _faults_of_events(recorded: Sequence[Recorded[Any]], events: Sequence[Any], *, or_more: bool) -> Iterator[str]:
    spans = Counter(item.event.span_id for item in recorded)
    yield from (f"{span} is there {count} times" for span, count in spans.items() if count > 1)
    acknowledged = {event.span_id for event in events}
    if missing := acknowledged - spans.keys():
        yield f"{len(missing)} acknowledged events are missing, {min(missing)} is one"
    if not or_more and (strange := spans.keys() - acknowledged):
        yield f"{len(strange)} events are there that nobody was acknowledged, {min(strange)} is one"
    there = [item.event for item in recorded if item.event.span_id in acknowledged]
    for lane_id in {event.lane_id for event in events}:
        if _of_lane(lane_id, there) != _of_lane(lane_id, events):
            yield f"lane {lane_id!r} is not what was acknowledged, or not in order"


def _of_lane(lane_id: str, events: Iterable[Any]) -> list[Any]:
    return [event for event in events if event.lane_id == lane_id]


# -- against Redis -----------------------------------------------------------------------------------


def check_drained(hot: RedisCheckpointer[Any, Any], archives: Sequence[Archive]) -> None:
    """Fail, with all that is wrong, unless each archive has all that Redis has or had, and nothing is left."""
    faults = list(drained_faults(hot, archives))
    assert not faults, "\n".join(faults)


def drained_faults(hot: RedisCheckpointer[Any, Any], archives: Sequence[Archive]) -> Iterator[str]:
    """What of Redis the archives lack; what is due, parked, quarantined or not marked as archived.

    An archive that ends at the run's last cursor, chain included, has all that ever was in the run before.
    """
    status = namespace_of(hot).status()
    if status.due or status.later:
        yield f"{status.due} runs are due, and {status.later} later"
    yield from (f"run {run_id!r} is parked: {reason}" for run_id, reason in status.parked.items())
    run_ids = sorted(hot.list_runs())
    for archive in archives:
        yield from (f"{archive.location}: {run_id!r} is in the quarantine" for run_id, _ in archive.quarantine())
        if (archived_ids := sorted(archive.list_runs())) != run_ids:
            yield f"{archive.location} has the runs {archived_ids}, Redis has {run_ids}"
    for run_id, run in zip(run_ids, namespace_of(hot).load_runs(run_ids), strict=True):
        assert run is not None, "a run was deleted while its archives were checked"
        head = run.head
        if head.mark != head.last:
            yield f"run {run_id!r} is archived up to {head.mark} only, of {head.last}"
        verdict = verify_run(run_id, hot=hot, sinks=archives)
        if verdict.difference is not None:
            yield f"run {run_id!r}: {verdict.difference}"
        for archive in archives:
            history = ArchivedHistory.load(archive_of(archive), run_id)
            archived = None if history is None else (history.last, history.tokens())
            if archived != (head.last, head.tokens):
                yield f"{archive.location}, run {run_id!r}: it has {archived}, Redis {head.last}, {head.tokens}"
