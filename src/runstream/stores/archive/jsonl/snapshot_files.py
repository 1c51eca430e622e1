"""Snapshots as files: the state's JSON object with our members at its end.

``{STATE,"$offset":12,"$revision":3,"$token":"…","$lane":null}``. A file without them was written by
another program: it covers nothing, is revision 1, and its token is made of its content.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from runstream.codec.foreign_json import load_foreign_json
from runstream.codec.lossless_json import dump_json, load_object
from runstream.model.archive_records import ArchiveSnapshot
from runstream.model.errors import CorruptRecordError
from runstream.model.protocols import OnCorrupt
from runstream.model.run_head import SnapshotHead
from runstream.stores.archive.jsonl.file_locks import names_in
from runstream.stores.archive.jsonl.file_names import prepared_name, snapshot_name
from runstream.stores.archive.jsonl.line_format import Mark, text_in

__all__ = [
    "all_snapshots",
    "facts_of_snapshot",
    "load_head",
    "load_snapshot",
    "load_state",
    "parse_snapshot",
    "snapshot_text",
]

_FACTS_BEGIN = b'"$offset":'
_TEXT = rb'"(?:[^"\\]|\\.)*"'
_FACTS = re.compile(
    rb'"\$offset":(\d{1,16}),"\$revision":(\d{1,16}),"\$token":('
    + _TEXT
    + rb'),"\$lane":(null|'
    + _TEXT
    + rb")\}\s*"
)
_MOST = 2**53
_LONGEST_FACTS_BYTES = 8192  # two names of 512 bytes, at most six times as long when escaped


def snapshot_text(snapshot: ArchiveSnapshot) -> bytes:
    """The content of the snapshot's file."""
    state = snapshot.data[:-1]
    comma = "" if state == "{" else ","
    return (
        f'{state}{comma}"$offset":{snapshot.offset},"$revision":{snapshot.revision}'
        f',"$token":{json.dumps(snapshot.token)},"$lane":{json.dumps(snapshot.lane_id)}}}\n'
    ).encode()


def load_snapshot(run_id: str, directory: Path, lane_id: str | None, mark: Mark | None) -> ArchiveSnapshot | None:
    """The snapshot of the run (None) or of a lane; ``mark`` is the last commit mark of the run.

    Raises CorruptRecordError for a file that does not read.
    """
    for path in _candidates(directory, lane_id, mark):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        return parse_snapshot(run_id, lane_id, content)
    return None


def load_head(directory: Path, lane_id: str | None, mark: Mark | None) -> SnapshotHead | None:
    """What is stored beside the state, without reading the state."""
    for path in _candidates(directory, lane_id, mark):
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - _LONGEST_FACTS_BYTES))
                found = facts_of_snapshot(file.read())
                if found is not None:
                    return found.head._replace(lane_id=lane_id)
                file.seek(0)
                return SnapshotHead(lane_id, 0, 1, _token_of(file.read()))
        except FileNotFoundError:
            continue
    return None


def load_state(run_id: str, snapshot: ArchiveSnapshot) -> dict[str, Any]:
    """The state as plain data. Raises CorruptRecordError where its text does not read."""
    try:
        return load_object(snapshot.data)
    except ValueError as error:
        raise _corrupt(run_id, snapshot.data.encode(), str(error)) from error


def all_snapshots(
    run_id: str,
    directory: Path,
    mark: Mark | None,
    *,
    on_corrupt: OnCorrupt = "raise",
    only_lanes: bool = False,
) -> Iterator[ArchiveSnapshot]:
    """The snapshots of the run and of its lanes, or of its lanes alone.

    Raises CorruptRecordError for a file that does not read, unless ``on_corrupt="skip"``.
    """
    names = names_in(directory)
    lanes = {lane_id for lane_id, _ in mark.snapshots} if mark is not None else set()
    for name in names:
        if name == snapshot_name(None):
            lanes.add(None)
        elif name.startswith("snapshot-") and name.endswith(".json"):
            lanes.add(_lane_in(directory / name))
    if only_lanes:
        lanes.discard(None)
    for lane_id in sorted(lanes, key=lambda lane_id: (lane_id is not None, lane_id or "")):
        try:
            snapshot = load_snapshot(run_id, directory, lane_id, mark)
        except CorruptRecordError:
            if on_corrupt == "skip":
                continue
            raise
        if snapshot is not None:
            yield snapshot


def _candidates(directory: Path, lane_id: str | None, mark: Mark | None) -> Iterator[Path]:
    """The files that may have the snapshot, the newest first: a committed one may not have been renamed yet."""
    for lane, token in mark.snapshots if mark is not None else ():
        if lane == lane_id:
            yield directory / prepared_name(lane_id, token)
    if mark is not None and lane_id in mark.dropped:
        return  # the file belongs to a branch that was cut off, and was not removed yet
    yield directory / snapshot_name(lane_id)


class SnapshotFacts(NamedTuple):
    """Our members at the end of a snapshot's content: what they say, and where they begin."""

    head: SnapshotHead
    begin: int


def facts_of_snapshot(content: bytes) -> SnapshotFacts | None:
    """Our members at the end; None if they are not there, or damaged."""
    begin = content.rfind(_FACTS_BEGIN)
    found = _FACTS.fullmatch(content, begin) if begin > 0 else None
    if found is None:
        return None
    try:
        token, lane_id = text_in(found[3]), None if found[4] == b"null" else text_in(found[4])
    except ValueError:
        return None
    return SnapshotFacts(SnapshotHead(lane_id, int(found[1]), int(found[2]), token), begin)


def _lane_in(path: Path) -> str | None:
    """The lane that a file is of; None for one that names no lane, which is as good as not there."""
    try:
        facts = facts_of_snapshot(path.read_bytes())
    except FileNotFoundError:
        return None
    return None if facts is None else facts.head.lane_id


def parse_snapshot(run_id: str, lane_id: str | None, content: bytes) -> ArchiveSnapshot:
    """The snapshot in a file's content. Raises CorruptRecordError for one that does not read."""
    found = facts_of_snapshot(content)
    try:
        if found is not None:
            state = content[: found.begin].decode().removesuffix(",") + "}"
            return ArchiveSnapshot(lane_id, *found.head[1:], state)
        fields = load_foreign_json(content)
        if "$token" not in fields:
            return ArchiveSnapshot(lane_id, 0, 1, _token_of(content), dump_json(fields))
        # ours, but laid out anew by another program: the tags in it are still ours
        fields = load_object(content)
        ours = {name: fields.pop(name, None) for name in ("$offset", "$revision", "$token", "$lane")}
        offset, revision, token = int(ours["$offset"]), int(ours["$revision"]), ours["$token"]
        if not (0 <= offset <= _MOST and 0 <= revision <= _MOST and isinstance(token, str)):
            raise ValueError("what is noted beside the state was damaged")
        return ArchiveSnapshot(lane_id, offset, revision, token, dump_json(fields))
    except (ValueError, TypeError, OverflowError) as error:
        raise _corrupt(run_id, content, str(error)) from error


def _token_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _corrupt(run_id: str, content: bytes, reason: str) -> CorruptRecordError:
    return CorruptRecordError(
        f"the snapshot of run {run_id!r} does not read: {reason}; save another, or recover from the events",
        run_id=run_id,
        offset=0,
        raw=content,
    )
