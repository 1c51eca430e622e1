"""What puts a run right in Redis: look at it sparsely, refill a history beside it, switch the two; unpark it.

A history is refilled in pieces of any number, under names that expire by themselves, and takes the run's
place in one atomic step, if the run is still as it was seen. Until then nothing of the run has changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runstream.codec.lossless_json import load_json
from runstream.codec.msgpack_values import Packer
from runstream.codec.snapshot_fields import pack_state, state_checksum
from runstream.model.archive_records import ArchiveSnapshot, RunHeader
from runstream.model.errors import ConcurrencyConflict, StoreUnavailable
from runstream.model.results import Cursor
from runstream.stores.redis.exchange import Command, Exchange, Operation, script_call
from runstream.stores.redis.keys import Keys, RefilledKeys
from runstream.stores.redis.operations.worker.drain import LoadedRun, load
from runstream.stores.redis.replies import as_map, place
from runstream.stores.redis.scripts.calls import MICROSECONDS, REFILL, SWITCH, UNPARK, snapshot_field

__all__ = [
    "HotRun",
    "Replacement",
    "hot_run",
    "known_keys",
    "places",
    "put_entries",
    "put_snapshot",
    "required_archives",
    "switch",
    "unpark",
]

_OUTLIVES_MILLISECONDS = 3_600_000
_PACKER = Packer(fallback=None)


@dataclass(frozen=True, slots=True)
class HotRun:
    """A run as Redis has it: what a worker sees of it, and the first offset that is still there.

    ``first_hot`` is the offset after the last where nothing is. ``is_tombstone``: the run was retired, and nothing
    has come after that.
    """

    run: LoadedRun
    first_hot: int
    is_tombstone: bool = False


@dataclass(frozen=True, slots=True)
class Replacement:
    """A history that is to take a run's place, besides its entries.

    ``lanes`` has the offset and seq of each lane's last event, ``since`` the offset of each lane's first event
    that no snapshot of it covers. ``before`` is the place before the first entry that Redis gets.
    """

    header: RunHeader
    last: Cursor
    before: Cursor
    lanes: Mapping[str, tuple[int, int]]
    since: Mapping[str, int]
    snapshots: Sequence[ArchiveSnapshot] = field(default=())

    def meta(self) -> dict[str, str]:
        """The fields of the run's meta."""
        header = self.header
        fields = {
            "start": str(header.start),
            "last": str(self.last),
            # what others have archived is proven again from here on: nobody has compared it with these entries
            "mark": str(self.before),
            "status": header.status,
            "created": str(round(header.created_at * MICROSECONDS)),
            "updated": str(round(header.updated_at * MICROSECONDS)),
        }
        if header.session_id:
            fields["session"] = header.session_id
        if header.parent is not None:
            fields["parent"] = f"{header.parent[1]}:{header.parent[0]}"
        if self.before.offset > header.start.offset:
            fields["trimmed"] = str(self.before.offset)
        for lane, (offset, seq) in self.lanes.items():
            fields[f"lane:{lane}"] = f"{offset} {seq}"
        for lane, offset in self.since.items():
            fields[f"since:{lane}"] = str(offset)
        for one in self.snapshots:
            fields[snapshot_field(one.lane_id)] = f"{one.offset} {one.revision} {one.token}"
        return fields


def hot_run(keys: Keys, run_id: str) -> Operation[HotRun | None]:
    """The run as it stands in Redis, or None."""
    (run,) = yield from load(keys, [run_id])
    if run is None:
        return None
    of_run = keys.run(run_id)
    query: list[Command] = [(b"XRANGE", of_run.events, "-", "+", b"COUNT", 1), (b"HGET", of_run.meta, b"retired")]
    first, retired = yield Exchange(query)
    # the revisions alone: once something has come after it, the offset stands beside them
    is_tombstone = retired is not None and len(retired.split()) == 2
    return HotRun(run, place(first[0][0]).offset if first else run.last.offset + 1, is_tombstone)


def places(keys: Keys, run_id: str, offsets: Collection[int]) -> Operation[list[Cursor | None]]:
    """The places at these offsets; None for what Redis does not have."""
    events = keys.run(run_id).events
    replies = yield Exchange([(b"XRANGE", events, str(offset), str(offset)) for offset in offsets])
    return [place(entries[0][0]) if entries else None for entries in replies]


def required_archives(keys: Keys, run_id: str) -> Operation[dict[str, str]]:
    """The archives, UUID to location, that the run's partition requires."""
    (reply,) = yield Exchange([(b"HGETALL", keys.run(run_id).partition.archives)])
    return {uuid.decode(): location.decode() for uuid, location in as_map(reply).items()}


def known_keys(keys: Keys, run_id: str, wanted: Sequence[str]) -> Operation[set[str]]:
    """Those of the callers' keys that the run knows."""
    if not wanted:
        return set()
    (replies,) = yield Exchange([(b"HMGET", keys.run(run_id).keys, *wanted)])
    return {key for key, found in zip(wanted, replies, strict=True) if found is not None}


def put_entries(
    keys: Keys,
    run_id: str,
    token: str,
    entries: Sequence[tuple[Cursor, bytes]],
    places_of_keys: Mapping[str, Cursor],
) -> Operation[int]:
    """Add entries, and callers' keys, to what is refilled under this token; how many entries are there now."""
    refilled = RefilledKeys(keys.run(run_id), token)
    args: list[Any] = [_OUTLIVES_MILLISECONDS, len(entries)]
    for cursor, record in entries:
        args += (str(cursor), record)
    for key, cursor in places_of_keys.items():
        args += (key, str(cursor))
    (count,) = yield Exchange([script_call(REFILL, (refilled.events, refilled.keys), args)])
    return int(count)


def put_snapshot(keys: Keys, run_id: str, token: str, snapshot: ArchiveSnapshot) -> Operation[None]:
    """Add a snapshot to what is refilled under this token. Raises ValueError for one that does not read."""
    key = RefilledKeys(keys.run(run_id), token).snapshot(snapshot.lane_id)
    packed = pack_state(_PACKER, load_json(snapshot.data))
    command: list[Any] = [b"HSET", key, "offset", snapshot.offset, "revision", snapshot.revision]
    command += ["token", snapshot.token, "checksum", state_checksum(packed.fields)]
    for name, value in packed.fields.items():
        command += (name, value)
    commands: list[Command] = [(b"DEL", key), tuple(command), (b"PEXPIRE", key, _OUTLIVES_MILLISECONDS)]
    yield Exchange(commands)


def switch(
    keys: Keys, seen: HotRun | None, replacement: Replacement, *, token: str, count: int, common: int
) -> Operation[None]:
    """Put what was refilled, ``count`` entries, in the place of the run as it was ``seen`` (None: not at all).

    ``common`` is the last offset that both histories have, 0 for none. Raises ConcurrencyConflict if the run is
    not as it was seen any more; nothing has changed then.
    """
    header = replacement.header
    run_id = header.run_id
    of_run, refilled = keys.run(run_id), RefilledKeys(keys.run(run_id), token)
    partition = of_run.partition
    former = "" if seen is None else seen.run.header.session_id
    lanes = [one.lane_id for one in replacement.snapshots]
    gone = [] if seen is None else [lane for lane in seen.run.tokens if lane not in lanes]
    fields = replacement.meta()
    names: list[str] = [of_run.events, of_run.meta, of_run.producers, of_run.keys, partition.runs, partition.due]
    names += [partition.parked, partition.config, partition.session(former), partition.session(header.session_id)]
    names += [refilled.events, refilled.keys, partition.retire, partition.retired]
    for lane in lanes:
        names += (of_run.snapshot(lane), refilled.snapshot(lane))
    names += [of_run.snapshot(lane) for lane in gone]
    there = "-"
    if seen is not None:
        updated = round(seen.run.header.updated_at * MICROSECONDS)
        there = f"{seen.run.header.start} {seen.run.last} {updated}"
    args: list[Any] = [run_id, there, count, common, len(keys.partitions), header.session_id]
    args += [fields["updated"], len(lanes)]
    for pair in fields.items():
        args += pair
    ((outcome, *detail),) = yield Exchange([script_call(SWITCH, names, args)])
    if outcome == b"ok":
        return
    if outcome == b"incomplete":
        raise StoreUnavailable(
            f"what was put back of run {run_id!r} has expired or was removed before it took the run's place:"
            " nothing was changed; send the same call again"
        )
    at = place(detail[0])
    # a reply that was lost: it has been done, and nothing was written since
    if at == replacement.last and (yield from load(keys, [run_id]))[0] == _as_loaded(replacement):
        return
    raise ConcurrencyConflict(
        f"run {run_id!r} went on meanwhile and stands at {at} now: nothing was changed; look again",
        expected=0 if seen is None else seen.run.last.offset,
        actual=at.offset,
    )


def _as_loaded(replacement: Replacement) -> LoadedRun:
    tokens = {one.lane_id: one.token for one in replacement.snapshots}
    fields = replacement.meta()
    header = replacement.header
    noted = (int(fields["created"]) / MICROSECONDS, int(fields["updated"]) / MICROSECONDS)
    header = RunHeader(header.run_id, header.start, header.session_id, header.status, *noted)
    return LoadedRun(header, replacement.before, replacement.last, tokens, {})


def unpark(keys: Keys, run_ids: Sequence[str]) -> Operation[list[str]]:
    """Let runs that were set aside come due now; those of them that were set aside."""
    partitions = [keys.run(run_id).partition for run_id in run_ids]
    calls = [
        script_call(UNPARK, (partition.due, partition.parked), (run_id,))
        for partition, run_id in zip(partitions, run_ids, strict=True)
    ]
    replies = yield Exchange(calls)
    return [run_id for run_id, done in zip(run_ids, replies, strict=True) if int(done)]
