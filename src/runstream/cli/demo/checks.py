"""Check, after the demo, what Redis and both archives hold against what was acknowledged.

Each run is verified as ``runstream verify`` does it. Everything is also read through the public interface; where a
store and an agent's journal differ, the journal is right. Each check says how much it covered and, where something
does not hold, the run and the offset.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from runstream.cli.demo.journal import Acknowledged, digest
from runstream.model.errors import ArchiveGap, EventsArchived, RunstreamError
from runstream.model.events import EventKind
from runstream.model.results import Recorded, RunInfo
from runstream.repair.verify import verify_run
from runstream.stores.capabilities import archive_of
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import namespace_of

__all__ = ["Check", "check"]

_REDIS = "Redis"

History: TypeAlias = Sequence[Recorded[Any]]
Lane: TypeAlias = tuple[str, str]  # run and lane


@dataclass(slots=True)
class Check:
    """One promise, how many ``unit`` were checked for it, and what does not hold."""

    promise: str
    unit: str
    checked: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(slots=True)
class _Evidence:
    """The contents of the stores.

    Attributes:
        hot: The Redis store.
        archives: The archives, by name.
        acknowledged: The agents' journals.
        steps: How many steps each lane had to do.
        infos: The RunInfo of each run in Redis.
        histories: The events that each store holds, by its name and by run.
    """

    hot: RunStore[Any, Any]
    archives: Mapping[str, RunStore[Any, Any]]
    acknowledged: Sequence[Acknowledged]
    steps: Mapping[Lane, int]
    infos: dict[str, RunInfo] = field(default_factory=dict)
    histories: dict[str, dict[str, History]] = field(default_factory=dict)

    @property
    def run_ids(self) -> list[str]:
        """The runs that were to be made."""
        return list(dict.fromkeys(run_id for run_id, _ in self.steps))

    def union(self, run_id: str) -> dict[int, Recorded[Any]]:
        """All that any store holds of a run, by offset; where all is well, equal in every store that holds it."""
        found = {item.offset: item for history in self.histories.values() for item in history[run_id]}
        return dict(sorted(found.items()))


def check(
    hot: RunStore[Any, Any],
    archives: Mapping[str, RunStore[Any, Any]],
    acknowledged: Sequence[Acknowledged],
    steps: Mapping[Lane, int],
) -> list[Check]:
    """Make all checks, on stores that nobody writes to any more.

    Args:
        hot: The Redis store.
        archives: The archives, by name.
        acknowledged: The agents' journals.
        steps: How many steps each lane of each run had to do.
    """
    evidence = _Evidence(hot, archives, acknowledged, steps)
    checks = [
        _read_all(evidence),  # the first: it gathers what the others compare
        _acknowledged_are_kept(evidence),
        _runs_verify(evidence),
        _no_event_is_doubled(evidence),
        _lanes_are_whole(evidence),
        _archives_end_where_redis_stands(evidence),
        _snapshots_are_equal(evidence),
        _nothing_waits(evidence),
        _redis_is_trimmed(evidence),
    ]
    for one in checks:
        if not one.checked:
            one.problems.append(f"{one.promise}: there was nothing to check")
    return checks


def _read_all(evidence: _Evidence) -> Check:
    result = Check("every store reads from its first event to its last", "events read")
    for name, store in {_REDIS: evidence.hot, **evidence.archives}.items():
        evidence.histories[name] = {}
        for run_id in evidence.run_ids:
            history = list(_readable(store, run_id, name, result))
            result.checked += len(history)
            evidence.histories[name][run_id] = history
    for run_id in evidence.run_ids:
        if (info := evidence.hot.run_info(run_id)) is None:
            result.problems.append(f"run {run_id!r}: Redis does not know it")
        else:
            evidence.infos[run_id] = info
    return result


def _readable(store: RunStore[Any, Any], run_id: str, name: str, result: Check) -> Iterator[Recorded[Any]]:
    """The events that a store gives, going on after a hole; what it refuses to give is a problem."""
    after = 0
    while True:
        try:
            yield from store.read(run_id, after)
        except EventsArchived as error:  # as it must be: these are in the archives
            after = error.first_hot - 1
        except ArchiveGap as error:
            result.problems.append(f"run {run_id!r}, offset {error.expected}: {name}: {error}")
            if error.expected <= after:
                return
            after = error.expected
        except RunstreamError as error:
            result.problems.append(f"run {run_id!r}: {name}: {error}")
            return
        else:
            return


def _acknowledged_are_kept(evidence: _Evidence) -> Check:
    result = Check("each acknowledged event is in Redis or in both archives, at its offset, unchanged", "events")
    held = {
        name: {(run_id, item.offset): item.event for run_id, history in runs.items() for item in history}
        for name, runs in evidence.histories.items()
    }
    for line in evidence.acknowledged:
        result.checked += 1
        at = (line.run_id, line.offset)
        without = [name for name in evidence.archives if at not in held[name]]
        if without and at not in held[_REDIS]:
            result.problems.append(
                _problem(*at, f"acknowledged, but neither in Redis nor in {' and '.join(without)}")
            )
        for name, events in held.items():
            if at in events and digest(events[at]) != line.digest:
                result.problems.append(_problem(*at, f"{name} holds something else than what was acknowledged"))
    return result


def _runs_verify(evidence: _Evidence) -> Check:
    result = Check("each run is one history in Redis and both archives, without a hole, under one chain", "events")
    sinks = [archive_of(store) for store in evidence.archives.values()]
    for run_id in evidence.run_ids:
        verdict = verify_run(run_id, hot=evidence.hot, sinks=sinks)
        result.checked += sum(copy.events for copy in verdict.checked)
        if verdict.difference is not None:
            difference = verdict.difference
            sides = "; ".join(f"{who}: {has}" for who, has in difference.sides)
            result.problems.append(_problem(run_id, difference.offset, f"{difference.what} ({sides})"))
    return result


def _no_event_is_doubled(evidence: _Evidence) -> Check:
    result = Check("no event is there twice", "events")
    for run_id in evidence.run_ids:
        offsets: dict[str, int] = {}
        for offset, item in evidence.union(run_id).items():
            result.checked += 1
            former = offsets.setdefault(item.event.span_id, offset)
            if former != offset:
                result.problems.append(_problem(run_id, offset, f"the event of offset {former} again"))
    return result


def _lanes_are_whole(evidence: _Evidence) -> Check:
    result = Check("each lane has every step once, and its seq is 1, 2, 3, …", "steps")
    expected_seq: dict[Lane, int] = defaultdict(int)
    steps: dict[Lane, list[int]] = defaultdict(list)
    for run_id in evidence.run_ids:
        for offset, item in evidence.union(run_id).items():
            event = item.event
            lane = (run_id, event.lane_id)
            expected_seq[lane] += 1
            if event.seq != expected_seq[lane]:
                problem = f"lane {event.lane_id!r} has seq {event.seq}, not {expected_seq[lane]}"
                result.problems.append(_problem(run_id, offset, problem))
                expected_seq[lane] = event.seq
            if event.kind == EventKind.MODEL_REQUEST:
                steps[lane].append(event.payload["step"])
    for (run_id, lane_id), count in evidence.steps.items():
        result.checked += count
        done = steps[run_id, lane_id]
        if done != list(range(1, count + 1)):
            result.problems.append(f"run {run_id!r}, lane {lane_id!r}: the steps are {done}, not 1 to {count}")
    return result


def _archives_end_where_redis_stands(evidence: _Evidence) -> Check:
    result = Check("each archive ends at the very cursor, offset and chain, where Redis ends", "cursors")
    for run_id in evidence.infos:
        cursor = evidence.hot.append(run_id, []).cursor  # an append of nothing gives the run's last cursor
        for name in evidence.archives:
            result.checked += 1
            history = evidence.histories[name][run_id]
            if not history or history[-1].cursor != cursor:
                ends = history[-1].cursor if history else "nowhere"
                offset = evidence.infos[run_id].last_offset
                result.problems.append(
                    _problem(run_id, offset, f"Redis stands at {cursor}, {name} ends at {ends}")
                )
    return result


def _snapshots_are_equal(evidence: _Evidence) -> Check:
    result = Check("the snapshots in Redis are those in both archives", "snapshots")
    for run_id, lane_id in evidence.steps:
        try:
            saved = evidence.hot.load_snapshot(run_id, lane_id=lane_id)
            held = {
                name: store.load_snapshot(run_id, lane_id=lane_id) for name, store in evidence.archives.items()
            }
        except RunstreamError as error:
            result.problems.append(f"run {run_id!r}, lane {lane_id!r}: {error}")
            continue
        for name, snapshot in held.items():
            result.checked += 1
            if saved is None or snapshot != saved:
                at = 0 if saved is None else saved.offset
                result.problems.append(_problem(run_id, at, f"{name} has another snapshot of lane {lane_id!r}"))
    return result


def _nothing_waits(evidence: _Evidence) -> Check:
    result = Check("no run is due or parked, no record is in quarantine", "runs")
    status = namespace_of(evidence.hot).status()
    result.checked = status.runs
    if status.due or status.later:
        result.problems.append(f"{status.due + status.later} runs are due")
    result.problems += [f"run {run_id!r} is parked: {reason}" for run_id, reason in status.parked.items()]
    for name, store in evidence.archives.items():
        result.problems += [
            _problem(run_id, entry.offset, f"in quarantine of {name}: {entry.reason}")
            for run_id, entry in archive_of(store).quarantine()
        ]
    return result


def _redis_is_trimmed(evidence: _Evidence) -> Check:
    result = Check("Redis holds what a snapshot does not cover, and no more", "events trimmed")
    for run_id, info in evidence.infos.items():
        needed = _first_needed(evidence, run_id, info)
        result.checked += info.first_hot - 1
        if info.first_hot != needed:
            result.problems.append(_problem(run_id, info.first_hot, f"is the first hot one, {needed} should be"))
    return result


def _first_needed(evidence: _Evidence, run_id: str, info: RunInfo) -> int:
    """The first offset that must be hot: not archived, or after the snapshot of a lane that has gone on since."""
    last_of_lane = {item.event.lane_id: offset for offset, item in evidence.union(run_id).items()}
    needed = info.archived_offset + 1
    for lane_id, last in last_of_lane.items():
        snapshot = evidence.hot.load_snapshot(run_id, lane_id=lane_id)
        covered = 0 if snapshot is None else snapshot.offset
        if last > covered:
            needed = min(needed, covered + 1)
    return needed


def _problem(run_id: str, offset: int, text: str) -> str:
    return f"run {run_id!r}, offset {offset}: {text}"
