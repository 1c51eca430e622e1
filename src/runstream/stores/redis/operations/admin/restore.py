"""Replace the history of a run in Redis: refill one beside it, then switch the two; let a parked run come due.

A history is refilled in any number of batches, under key names that expire by themselves, and replaces the run's
in one atomic step, if the run is still as it was seen. Until then nothing of the run has changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runstream.codec.lossless_json import load_json
from runstream.codec.snapshot_fields import pack_state
from runstream.codec.stored import STORED_PACKER
from runstream.model.archive_records import ArchiveSnapshot, RunHeader
from runstream.model.errors import ConcurrencyConflict, StoreUnavailable
from runstream.model.results import Cursor
from runstream.model.run_head import EndedLane, RunHead, SnapshotHead
from runstream.model.tags import NO_TAGS, TagSet
from runstream.operations.operation import Command, Exchange, Operation, Refusal
from runstream.stores.redis.append_batch import snapshot_field, tag_args
from runstream.stores.redis.keys import Keys, RefilledKeys
from runstream.stores.redis.operations.worker.hot_run import HotRun
from runstream.stores.redis.operations.worker.load import load_runs
from runstream.stores.redis.page_size import size_bound
from runstream.stores.redis.replies import origins_text, parent_text, parse_cursor, start_text, tag_names
from runstream.stores.redis.scripts.calls import MICROSECONDS, REFILL, SWITCH, UNPARK
from runstream.stores.redis.scripts.script import script_call

__all__ = ["Replacement", "cursor_at", "put_entries", "put_snapshot", "switch_history", "unpark"]

_OUTLIVES_MILLISECONDS = 3_600_000


@dataclass(frozen=True, slots=True)
class Replacement:
    """A history that is to replace a run's, besides its entries.

    Attributes:
        header: What is noted of the run besides its history.
        last: The cursor of its last event.
        before: The cursor before the first entry that Redis gets.
        lanes: The offset and seq of each lane's last event.
        since: The offset of each lane's first event that no snapshot of it covers.
        peak: The highest ``seq`` of what Redis does not get; None if it gets all, or that is not known.
        rising: The lanes none of whose events has a lower ``seq`` than one before it.
        largest: The size of the largest record that Redis gets.
        snapshots: Its snapshots.
        unread: The offset of the last entry whose lane is not known; 0 for none.
        people: The fields of its meta that note what it and people have said to each other.
        ended: The lanes that are ended.

    The header's tags are to be the run's; None: those that Redis has stay.
    """

    header: RunHeader
    last: Cursor
    before: Cursor
    lanes: Mapping[str, tuple[int, int]]
    since: Mapping[str, int]
    peak: int | None
    rising: Collection[str]
    largest: int
    snapshots: Sequence[ArchiveSnapshot] = field(default=())
    unread: int = 0
    people: Mapping[str, str] = field(default_factory=dict)
    ended: Sequence[EndedLane] = ()

    def meta(self) -> dict[str, str]:
        """The fields of the run's meta."""
        header = self.header
        fields = {
            **self.people,
            "start": start_text(header),
            "last": str(self.last),
            # the mark begins here again: no archive was compared with these entries yet
            "mark": str(self.before),
            "status": header.status,
            "created": str(round(header.created_at * MICROSECONDS)),
            "updated": str(round(header.updated_at * MICROSECONDS)),
            "largest": str(size_bound(self.largest)),
        }
        optional = {
            "session": header.session_id,
            "tags": header.tags.version if header.tags is not None else "",
            "parent": parent_text(header),
            "unread": str(self.unread) if self.unread else "",
            "base": str(header.base or ""),
            "origin": origins_text(header.origins),
        }
        fields |= {name: value for name, value in optional.items() if value}
        if self.before.offset > header.lowest.offset:
            fields["trimmed"] = str(self.before.offset)
            if self.peak is not None:
                fields["peak"] = f"{self.before.offset} {self.peak}"
        for lane, (offset, seq) in self.lanes.items():
            fields[f"lane:{lane}"] = f"{offset} {'+' if lane in self.rising else ''}{seq}"
        for end in self.ended:
            fields[f"end:{end.lane_id}"] = f"{end.offset} {end.token or '-'}"
        for lane, offset in self.since.items():
            fields[f"since:{lane}"] = str(offset)
        for one in self.snapshots:
            fields[snapshot_field(one.lane_id)] = f"{one.offset} {one.revision} {one.token}"
        return fields


def cursor_at(keys: Keys, run_id: str, offset: int) -> Operation[Cursor | None]:
    """The cursor of the entry at an offset; None if Redis does not have it."""
    (entries,) = yield Exchange([(b"XRANGE", keys.run(run_id).events, str(offset), str(offset))])
    return parse_cursor(entries[0][0]) if entries else None


def put_entries(
    keys: Keys,
    run_id: str,
    token: str,
    entries: Sequence[tuple[Cursor, bytes]],
    key_cursors: Mapping[str, Cursor],
) -> Operation[int]:
    """Add entries, and the cursors of callers' keys, to the history that is refilled under this token.

    Returns:
        How many entries it has now.
    """
    refilled = RefilledKeys(keys.run(run_id), token)
    args: list[Any] = [_OUTLIVES_MILLISECONDS, len(entries)]
    for cursor, record in entries:
        args += (str(cursor), record)
    for key, cursor in key_cursors.items():
        args += (key, str(cursor))
    (count,) = yield Exchange([script_call(REFILL, (refilled.events, refilled.keys), args)])
    return int(count)


def put_snapshot(keys: Keys, run_id: str, token: str, snapshot: ArchiveSnapshot) -> Operation[None]:
    """Add a snapshot to the history that is refilled under this token.

    Raises:
        ValueError: It does not read.
    """
    key = RefilledKeys(keys.run(run_id), token).snapshot(snapshot.lane_id)
    packed = pack_state(STORED_PACKER, load_json(snapshot.data))
    command: list[Any] = [b"HSET", key, "offset", snapshot.offset, "revision", snapshot.revision]
    command += ["token", snapshot.token, "checksum", packed.checksum]
    for name, value in packed.fields.items():
        command += (name, value)
    commands: list[Command] = [(b"DEL", key), tuple(command), (b"PEXPIRE", key, _OUTLIVES_MILLISECONDS)]
    # in one transaction: what breaks off between them leaves no key that does not expire. It may be repeated
    yield Exchange(commands, atomic=True)


def switch_history(
    keys: Keys, seen: HotRun | None, replacement: Replacement, *, token: str, count: int, keyed: int, common: int
) -> Operation[None]:
    """Replace the run's history by the refilled one, unless the run has changed since it was seen.

    Args:
        keys: The namespace's keys.
        seen: The run as it was seen; None: it was not there.
        replacement: What belongs to the history besides the refilled entries.
        token: The token under which they were refilled.
        count: How many entries they are.
        keyed: How many of the callers' keys were put there.
        common: The last offset that both histories have; 0 for none.

    Raises:
        ConcurrencyConflict: The run is not as it was seen any more; nothing has changed.
        StoreUnavailable: What was refilled has expired; nothing has changed.
    """
    header = replacement.header
    run_id = header.run_id
    of_run, refilled = keys.run(run_id), RefilledKeys(keys.run(run_id), token)
    partition = of_run.partition
    former = "" if seen is None else seen.head.session_id
    lanes = [one.lane_id for one in replacement.snapshots]
    without = [] if seen is None else [lane for lane in seen.head.snapshots if lane not in lanes]
    fields, tags, indexes = replacement.meta(), ["-"], []
    if header.tags is not None:
        (held,) = yield Exchange([(b"HGETALL", of_run.tags)], tolerant=True)
        values = header.tags.values
        gone = () if isinstance(held, Refusal) else [name for name in tag_names(held) if name not in values]
        tags = [str(len(values) + len(gone)), *tag_args({**values, **dict.fromkeys(gone)})]
        indexes = [partition.index(name) for name in (*values, *gone)]
    names: list[str] = [of_run.events, of_run.meta, of_run.producers, of_run.keys, partition.runs, partition.due]
    names += [partition.parked, partition.config, partition.session(former), partition.session(header.session_id)]
    names += [refilled.events, refilled.keys, partition.retire, partition.retired, of_run.lanes]
    names.append(of_run.tags)
    for lane in lanes:
        names += (of_run.snapshot(lane), refilled.snapshot(lane))
    names += [of_run.snapshot(lane) for lane in without]
    names += indexes
    there = "-"
    if seen is not None:
        updated = round(seen.head.updated_at * MICROSECONDS)
        there = f"{start_text(seen.head)} {seen.head.last} {updated}"
    args: list[Any] = [run_id, there, f"{count} {keyed}", common, len(keys.partitions), header.session_id]
    args += [fields["updated"], len(lanes), len(without), *tags]
    for pair in fields.items():
        args += pair
    ((outcome, *detail),) = yield Exchange([script_call(SWITCH, names, args)])
    if outcome == b"ok":
        return
    if outcome == b"incomplete":
        raise StoreUnavailable(
            f"what was put back of run {run_id!r} has expired or was removed before it replaced the run's history:"
            " nothing was changed; send the same call again"
        )
    at = parse_cursor(detail[0])
    # the reply to a former attempt was lost: it was done, and nothing was written since
    if at == replacement.last and (yield from load_runs(keys, [run_id]))[0] == _as_loaded(replacement, seen):
        return
    raise ConcurrencyConflict(
        f"run {run_id!r} went on meanwhile and stands at {at} now: nothing was changed; look again",
        expected=0 if seen is None else seen.head.last.offset,
        actual=at.offset,
    )


def _as_loaded(replacement: Replacement, seen: HotRun | None) -> HotRun:
    """The run as it would be loaded once it has this history."""
    header, fields = replacement.header, replacement.meta()
    snapshots = {one.lane_id: SnapshotHead(*one[:4]) for one in replacement.snapshots}
    noted = replacement.before.offset if "peak" in fields else header.lowest.offset
    head = RunHead(
        header.start,
        replacement.last,
        replacement.before,
        header.status,
        header.session_id,
        int(fields["created"]) / MICROSECONDS,
        int(fields["updated"]) / MICROSECONDS,
        header.parent,
        snapshots,
        int(fields["largest"]),
        tags=TagSet(header.tags.version)
        if header.tags is not None
        else NO_TAGS
        if seen is None
        else seen.head.tags,
        identity=header.identity,
        parent_identity=header.parent_identity,
        base=header.base,
        origins=header.origins,
    )
    ends = {end.lane_id: end for end in replacement.ended}
    since = {lane: offset for lane, offset in replacement.since.items() if lane not in ends}
    return HotRun(header.run_id, head, since=since, noted_to=noted, ends=ends, ended=tuple(replacement.ended))


def unpark(keys: Keys, run_ids: Sequence[str]) -> Operation[list[str]]:
    """Let parked runs come due now. Returns the ids of those that were parked."""
    partitions = [keys.run(run_id).partition for run_id in run_ids]
    calls = [
        script_call(UNPARK, (partition.due, partition.parked), (run_id,))
        for partition, run_id in zip(partitions, run_ids, strict=True)
    ]
    replies = yield Exchange(calls)
    return [run_id for run_id, done in zip(run_ids, replies, strict=True) if int(done)]
