"""Snapshots as files: the state's JSON object with our members at its end.

``{STATE,"$offset":12,"$revision":3,"$token":"…","$lane":null,"$state_checksum":N,"$checksum":N}``: the crc32 of
the state, which is all that comes before the offset, and that of our members before it; format 1 has neither. A
file without any of them was written by another program: it covers nothing, is revision 1, and its token is made of
its content.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from runstream.codec.foreign_json import load_foreign_json
from runstream.codec.lossless_json import dump_json, load_object
from runstream.model.archive_records import ArchiveSnapshot
from runstream.model.errors import CorruptRecordError
from runstream.model.run_head import SnapshotHead
from runstream.stores.archive.jsonl.commit_marks import Mark
from runstream.stores.archive.jsonl.file_locks import names_in
from runstream.stores.archive.jsonl.file_names import path_in, prepared_name, snapshot_name
from runstream.stores.archive.jsonl.line_format import CHECKSUM, text_in

__all__ = [
    "facts_of_snapshot",
    "lanes_in",
    "load_head",
    "load_snapshot",
    "load_state",
    "loaded_state",
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
    + rb')(?:,"\$state_checksum":(\d{1,10}),"\$checksum":(\d{1,10}))?\}[ \t\r\n]*'
)
_MEMBERS = ("$offset", "$revision", "$token", "$lane")
_NAMES = tuple(f'"{name}"'.encode() for name in (*_MEMBERS, "$state_checksum", "$checksum"))
_MOST = 2**53
_QUIET_SECONDS, _LONGEST_WAIT_SECONDS, _PAUSE_SECONDS = 2.0, 5.0, 0.002  # for another program's writer
_LONGEST_FACTS_BYTES = 8192  # two names of 512 bytes, at most six times as long when escaped


def snapshot_text(snapshot: ArchiveSnapshot) -> bytes:
    """The content of the snapshot's file."""
    state = memoryview(snapshot.data.encode())[:-1]  # it may be large, and each copy takes its time
    comma = b"" if len(state) == 1 else b","
    members = (
        f'"$offset":{snapshot.offset},"$revision":{snapshot.revision}'
        f',"$token":{json.dumps(snapshot.token)},"$lane":{json.dumps(snapshot.lane_id)}'
        f',"$state_checksum":{zlib.crc32(comma, zlib.crc32(state))}'
    ).encode()
    return b"".join((state, comma, members, CHECKSUM, b"%d}\n" % zlib.crc32(members)))


def load_snapshot(run_id: str, directory: Path, lane_id: str | None, mark: Mark | None) -> ArchiveSnapshot | None:
    """The snapshot of the run (None) or of a lane; ``mark`` is the last commit mark of the run.

    Raises CorruptRecordError for a file that does not read.
    """

    def load(path: Path) -> ArchiveSnapshot:
        return parse_snapshot(run_id, lane_id, _written(path))

    return _latest(directory, lane_id, mark, load)


def load_head(directory: Path, lane_id: str | None, mark: Mark | None) -> SnapshotHead | None:
    """What is stored beside the state, without reading the state."""

    def load(path: Path) -> SnapshotHead:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _LONGEST_FACTS_BYTES))
            found = facts_of_snapshot(file.read())
        if found is not None:
            return found.head._replace(lane_id=lane_id)
        try:
            return SnapshotHead(*parse_snapshot("", lane_id, _written(path))[:4])
        except CorruptRecordError:
            return SnapshotHead(lane_id, 0, 0, "")  # one that nobody knows

    return _latest(directory, lane_id, mark, load)


def load_state(run_id: str, snapshot: ArchiveSnapshot) -> dict[str, Any]:
    """The state as plain data. Raises CorruptRecordError where its text does not read."""
    try:
        return load_object(snapshot.data)
    except ValueError as error:
        raise _corrupt(run_id, snapshot.data.encode(), str(error)) from error


def lanes_in(directory: Path, mark: Mark | None) -> set[str | None]:
    """The lanes that may have a snapshot there, and None if the run may."""
    lanes = {lane_id for lane_id, _ in mark.snapshots} if mark is not None else set()
    for name in names_in(directory):
        if name == snapshot_name(None):
            lanes.add(None)
        elif name.startswith("snapshot-") and name.endswith(".json"):
            lanes.add(_lane_in(directory / name))
    return lanes


def _written(path: Path) -> bytes:
    """A snapshot's content. Purpose-agent's writer empties the file and fills it: until it is done, this waits."""
    until = time.monotonic() + _LONGEST_WAIT_SECONDS
    while True:
        content = path.read_bytes()
        is_half = not content or (content.startswith(b"{\n") and not content[-16:].rstrip().endswith(b"\n}"))
        if not is_half or time.monotonic() > until:
            return content
        if time.time() - path.stat().st_mtime > _QUIET_SECONDS:
            return content  # its writer was killed
        time.sleep(_PAUSE_SECONDS)


_T = TypeVar("_T", ArchiveSnapshot, SnapshotHead)


def _latest(directory: Path, lane_id: str | None, mark: Mark | None, load: Callable[[Path], _T]) -> _T | None:
    """Load what the run (None) or a lane has for its latest snapshot: the one that the last commit mark names."""
    path = path_in(directory, snapshot_name(lane_id))
    named, dropped = (mark.snapshots, mark.dropped) if mark is not None else ((), ())
    for lane, token in named:
        if lane == lane_id:
            with suppress(FileNotFoundError, CorruptRecordError):
                if (found := load(path)).token == token:
                    return found
            with suppress(FileNotFoundError):  # it was not renamed yet, or has been just now
                return load(directory / prepared_name(lane_id, token))
    if lane_id not in dropped:  # else the file belongs to a branch that was cut off, and was not removed yet
        with suppress(FileNotFoundError):
            return load(path)
    return None


class SnapshotFacts(NamedTuple):
    """Our members at the end of a snapshot's content: what they say, where they begin, the state's checksum."""

    head: SnapshotHead
    begin: int
    state_checksum: int | None  # None: of format 1

    def is_of(self, content: bytes) -> bool:
        """Whether the state in front of them is the one that they are of, as far as they tell."""
        return self.state_checksum in (None, zlib.crc32(memoryview(content)[: self.begin]))


def facts_of_snapshot(content: bytes) -> SnapshotFacts | None:
    """Our members at the end; None if they are not there, or damaged."""
    begin = content.rfind(_FACTS_BEGIN)
    found = _FACTS.fullmatch(content, begin) if begin > 0 else None
    if found is None:
        return None
    if found[6] is not None and zlib.crc32(content[begin : found.start(6) - len(CHECKSUM)]) != int(found[6]):
        return None
    try:
        token, lane_id = text_in(found[3]), None if found[4] == b"null" else text_in(found[4])
    except ValueError:
        return None
    head = SnapshotHead(lane_id, int(found[1]), int(found[2]), token)
    return SnapshotFacts(head, begin, None if found[5] is None else int(found[5]))


def _was_ours(content: bytes) -> bool:
    """Whether content in which our members do not read had them once."""
    return sum(name in content[-_LONGEST_FACTS_BYTES:] for name in _NAMES) > 1


def _lane_in(path: Path) -> str | None:
    """The lane that a file is of; None for one that names no lane, which is as good as not there."""
    try:
        facts = facts_of_snapshot(path.read_bytes())
    except FileNotFoundError:
        return None
    if facts is not None:
        return facts.head.lane_id
    name = path.name.removeprefix("snapshot-").removesuffix(".json")
    return unquote(name) if snapshot_name(unquote(name)) == path.name else None


def parse_snapshot(run_id: str, lane_id: str | None, content: bytes) -> ArchiveSnapshot:
    """The snapshot in a file's content. Raises CorruptRecordError for one that does not read."""
    found = facts_of_snapshot(content)
    try:
        if found is not None:
            if not found.is_of(content):
                raise ValueError("its checksum is of another content")
            end = found.begin - content.endswith(b",", 0, found.begin)
            text = str(memoryview(content)[:end], "utf-8")  # it may be large, and each copy takes its time
            text += "}"
            return ArchiveSnapshot(lane_id, *found.head[1:], text)
        fields = load_foreign_json(content)
        if not _was_ours(content):
            return ArchiveSnapshot(lane_id, 0, 1, _token_of(content), dump_json(fields))
        return _laid_out_anew(lane_id, load_object(content))
    except (ValueError, TypeError, OverflowError) as error:
        raise _corrupt(run_id, content, str(error)) from error


def _laid_out_anew(lane_id: str | None, fields: dict[str, Any]) -> ArchiveSnapshot:
    """One of ours that another program has laid out anew: the tags in it are still ours."""
    offset, revision, token, lane = (fields.pop(name, None) for name in _MEMBERS)
    checksums = [fields.pop(name, None) for name in ("$state_checksum", "$checksum")]
    if not (type(offset) is type(revision) is int and 0 <= offset <= _MOST and 0 <= revision <= _MOST):
        raise ValueError("what is noted beside the state was damaged")
    if not isinstance(token, str) or lane != lane_id:
        raise ValueError("what is noted beside the state was damaged")
    snapshot = ArchiveSnapshot(lane_id, offset, revision, token, dump_json(fields))
    found = _FACTS.search(snapshot_text(snapshot))
    if checksums != [None, None] and (found is None or checksums != [int(found[5]), int(found[6])]):
        raise ValueError("its checksum is of another content")
    return snapshot


def _token_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _corrupt(run_id: str, content: bytes, reason: str) -> CorruptRecordError:
    return CorruptRecordError(
        f"the snapshot of run {run_id!r} does not read: {reason}; save another, or recover from the events",
        run_id=run_id,
        offset=0,
        raw=content,
    )


def loaded_state(run_id: str, snapshot: ArchiveSnapshot | None) -> tuple[SnapshotHead, dict[str, Any]] | None:
    """A snapshot's head, and its state as plain data."""
    return None if snapshot is None else (SnapshotHead(*snapshot[:4]), load_state(run_id, snapshot))
