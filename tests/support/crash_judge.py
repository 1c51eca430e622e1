"""What must hold after a drain worker has died at some point, and after another one has finished."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runstream import Snapshot
from runstream.model.results import Cursor
from tests.support.archive_check import Archive, archive_faults
from tests.support.crash_world import World

__all__ = ["faults_at_once", "faults_in_the_end", "standing", "unlike"]


def faults_at_once(world: World, archives: Sequence[Archive]) -> Iterator[str]:
    """Right after a crash: what Redis does not have any more, or calls archived, every archive has."""
    for run_id in [*world.acknowledged, "anew"]:
        run = world.keys.run(run_id)
        meta = world.raw.hgetall(run.meta)
        first = world.raw.xrange(run.events, count=1)
        if meta:
            last_gone = Cursor.parse((first[0][0] if first else meta[b"last"]).decode()).offset - bool(first)
            marked = Cursor.parse(meta.get(b"mark", meta[b"start"]).decode()).offset
        elif run_id in ("gone", "anew"):
            continue
        else:
            last_gone = marked = len(world.acknowledged[run_id]) + sum(
                run_id == poisoned for poisoned, _ in world.poison
            )
        for archive in archives:
            position = archive.position(run_id)
            held = 0 if position is None else position.cursor.offset
            if held < max(last_gone, marked):
                yield (
                    f"{archive.location} has run {run_id!r} up to {held}; Redis has trimmed it up to"
                    f" {last_gone} and calls it archived up to {marked}"
                )


def faults_in_the_end(world: World, archives: Sequence[Archive]) -> Iterator[str]:
    """After another worker has finished."""
    parked = world.parked()
    if left := world.due() - parked.keys():
        yield f"{sorted(left)} are due still"
    for archive in archives:
        for faults in (_faults_of_events(world, archive), _faults_beside_events(world, archive)):
            yield from (f"{archive.location}: {fault}" for fault in faults)
    if not world.is_new:
        yield from _faults_of_remade(world, archives, parked.pop("anew", None))
    if parked:
        yield f"{parked} are parked"


def unlike(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Where Redis does not stand as it would if nobody had died."""
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            yield f"Redis has {name} as {found.get(name)}, not {expected.get(name)}"


def standing(world: World) -> dict[str, Any]:
    """What Redis holds, without what differs from one time to the other: clocks, tokens, and who wrote."""
    names = [name for name in world.key_names() if not _PASSING.search(name)]
    with world.raw.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.type(name)
        kinds = pipeline.execute()
        for name, kind in zip(names, kinds, strict=True):
            getattr(pipeline, {b"stream": "xrange", b"zset": "zrange", b"hash": "hgetall"}[kind])(
                name, *_ALL.get(kind, ())
            )
        values = pipeline.execute()
    found = {}
    for name, value in zip(names, values, strict=True):
        if name.endswith(b":archives"):
            told = sorted(location.rpartition(b"/")[2].decode() for location in value.values())
        elif isinstance(value, dict):
            told = [_told(value, key) for key in sorted(value) if key not in _PASSING_FIELDS]
        else:  # a stream's entries, or the members of a sorted set
            members = [each[0] if isinstance(each, tuple) else each for each in value]
            told = sorted(member.decode() for member in members if member != b"anew")
        if told:
            found[name.decode().partition(":")[2]] = told
    return found


_PASSING = re.compile(rb":run:anew:|:(producers|deleted|workers)$")
_PASSING_FIELDS = {b"updated", b"created", b"saved", b"token", b"anew"}
_ALL: Mapping[bytes, tuple[Any, ...]] = {b"zset": (0, -1)}


def _told(fields: Mapping[bytes, bytes], key: bytes) -> str:
    """A field of a hash; in meta a snapshot's place has its token behind it, which is noted when it is proven."""
    content = fields[key]
    if key.startswith(b"snapshot"):
        content = content.rpartition(b" ")[0]
    elif key.startswith(b"proven"):
        latest = fields.get(key.replace(b"proven", b"snapshot"), b"").rpartition(b" ")[2]
        content = b"the latest" if content == latest else b"a former one"
    return f"{key.decode()} {content.decode('latin-1')}"


def _faults_of_events(world: World, archive: Archive) -> Iterator[str]:
    events, poisoned = world.expected_events(), {run_id for run_id, _ in world.poison}
    for run_id, acknowledged in events.items():
        for fault in archive_faults(archive, run_id, acknowledged, kept_aside=int(run_id in poisoned)):
            yield f"run {run_id!r}: {fault}"
    if "gone" in world.acknowledged:
        position = archive.position("gone")
        held = [] if position is None else world.acknowledged["gone"][: position.cursor.offset]
        yield from (f"the deleted run: {fault}" for fault in archive_faults(archive, "gone", held))
    aside = {(run_id, entry.offset): entry.raw for run_id, entry in archive.quarantine()}
    if aside != world.poison:
        yield f"in quarantine are {aside}"
    if strange := set(archive.list_runs()) - {*events, "gone", "anew"}:
        yield f"there are runs {strange}"


def _faults_beside_events(world: World, archive: Archive) -> Iterator[str]:
    for run_id, status in world.statuses.items():
        info = archive.run_info(run_id)
        if run_id != "gone" and (info is None or (info.status, info.session_id) != (status, "s")):
            yield f"run {run_id!r} is {info}, not {status} of session 's'"
    for (run_id, lane_id), expected in world.expected_snapshots().items():
        if (found := archive.load_snapshot(run_id, lane_id=lane_id)) != expected:
            yield f"the snapshot of {run_id!r}, {lane_id!r} is {found}, not {expected}"
        history = list(archive.snapshot_history(run_id, lane_id=lane_id))
        revisions = [one.revision for one in history]
        if history[-1:] != [expected] or revisions != sorted(set(revisions)):
            yield f"the history of the snapshots of {run_id!r}, {lane_id!r} is {history}"
    yield from archive.check_integrity()


def _faults_of_remade(world: World, archives: Sequence[Archive], why: str | None) -> Iterator[str]:
    """A run that was made anew is archived, or, where an archive has some of the former one, parked and kept."""
    former, later = world.former, world.later["anew"]
    former_snapshot, later_snapshot = world.snapshots["anew", None], Snapshot(world.later_states["anew"], 2, 1)
    have_former = []
    for archive in archives:
        position = archive.position("anew")
        held = 0 if position is None else position.cursor.offset
        snapshot = archive.load_snapshot("anew")
        if not any(archive_faults(archive, "anew", former[:held])) and held:
            have_former.append(archive.location)
            if snapshot not in (None, former_snapshot):
                yield f"{archive.location} has the former run with the snapshot of the new one"
        else:
            # where the other archive has the former run, this one may have got some of the new one before
            is_whole = why is None or held == len(later)
            if snapshot != (later_snapshot if is_whole else None):
                yield f"{archive.location} has {held} events of the new run, with {snapshot}"
            for fault in archive_faults(archive, "anew", later if is_whole else later[:held]):
                yield f"{archive.location}, the new run: {fault}"
    if bool(have_former) != (why is not None):
        yield f"{have_former} have some of the former run, and the new one is parked: {why}"
    run = world.keys.run("anew")
    there = [entry for entry, _ in world.raw.xrange(run.events)]
    if why is not None and len(there) != len(later):
        yield f"of the new run, which is parked, there is only {there}"
    start, last, mark = world.raw.hmget(run.meta, "start", "last", "mark")
    if mark not in (None, start, last, *there):
        yield f"the new run is archived up to {mark}, which is no place in it"
