"""A run in Redis: where it stands, as its meta has it. No I/O here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from runstream.model.archive_records import RunHeader
from runstream.model.run_head import EndedLane, RunHead, SnapshotHead
from runstream.model.tags import NO_TAGS
from runstream.stores.redis.replies import (
    gone_field,
    noted_cursor,
    noted_left,
    noted_size,
    noted_start,
    noted_tags,
    noted_time,
    parse_origins,
    parse_parent,
    parse_peak,
    parse_retired,
)

__all__ = ["HotRun", "Lasts", "lane_marks", "left_lanes", "run_of"]

Lasts: TypeAlias = dict[str, tuple[int, int]]
"""Offset and ``seq`` of the last event of each lane."""


@dataclass(frozen=True, slots=True)
class HotRun:
    """A run as Redis has it: its head, and the facts that only Redis has.

    Attributes:
        run_id: The run's id.
        head: Where it stands; of its tags their version alone.
        proven_tokens: The tokens, by lane, of the snapshots that were proven to be archived at the last settling.
        is_tombstone: It was retired, and nothing has come after that.
        since: The first offset of each lane that no snapshot of it covers, but for lanes that are ended.
        noted_to: The offset up to which the highest ``seq`` of what has left Redis is noted.
        is_partial: Of its lanes, only those are loaded whose snapshots are not proven to be archived, or that hold
            trimming back the furthest: it was loaded to be archived, and has many.
        ends: The last end of each lane that was ever ended, as long as it is noted.
        ended: Those of lanes to which nothing has come since.
        proven_tags: The version of the tags that were proven to be archived at the last settling; '' for none.
        erasures: How many erasures were asked for.
        erased: How many of them are carried out in Redis, and were in all archives at the last settling.
        clean_of: Of a fork: the snapshots that it began with have nothing of so many erasures of its parent.
    """

    run_id: str
    head: RunHead
    proven_tokens: Mapping[str | None, str] = field(default_factory=dict)
    is_tombstone: bool = False
    since: Mapping[str, int] = field(default_factory=dict)
    noted_to: int = 0
    is_partial: bool = False
    ends: Mapping[str, EndedLane] = field(default_factory=dict)
    ended: tuple[EndedLane, ...] = ()
    proven_tags: str = ""
    erasures: int = 0
    erased: int = 0
    clean_of: int = 0

    @property
    def header(self) -> RunHeader:
        """The header that an archive stores for it."""
        head = self.head if self.head.tags is NO_TAGS else replace(self.head, tags=NO_TAGS)
        return RunHeader.of(self.run_id, head)


class _Lanes(NamedTuple):
    """What meta notes of the lanes of a run."""

    snapshots: dict[str | None, SnapshotHead]
    proven: dict[str | None, str]
    since: dict[str, int]
    ends: dict[str, EndedLane]
    ended: tuple[EndedLane, ...]


def _lanes_in(meta: Mapping[bytes, bytes]) -> _Lanes:
    snapshots: dict[str | None, SnapshotHead] = {}
    proven: dict[str | None, str] = {}
    since: dict[str, int] = {}
    lasts: dict[str | None, int] = {}
    ends: dict[str, EndedLane] = {}
    for name, value in meta.items():
        kind, colon, lane = name.partition(b":")
        lane_id = lane.decode() if colon else None
        if kind == b"snapshot":
            offset, revision, token = value.split()
            snapshots[lane_id] = SnapshotHead(lane_id, int(offset), int(revision), token.decode())
        elif kind == b"proven":
            proven[lane_id] = value.decode()
        elif kind == b"since" and lane_id is not None:
            since[lane_id] = int(value)
        elif kind == b"lane":
            lasts[lane_id] = int(value.split()[0])
        elif kind == b"end" and lane_id is not None:
            at, token = value.split()
            ends[lane_id] = EndedLane(lane_id, int(at), "" if token == b"-" else token.decode())
    ended = tuple(
        end for lane, end in ends.items() if end.is_end_of(lasts.get(lane, 0), _token_in(snapshots, lane))
    )
    for end in ended:
        since.pop(end.lane_id, None)
    return _Lanes(snapshots, proven, since, ends, tuple(sorted(ended)))


def run_of(run_id: str, meta: Mapping[bytes, bytes], *, is_partial: bool) -> HotRun | None:
    """The run that has this meta; None where it is not there. ``is_partial``: only some of its lanes are in it."""
    if b"start" not in meta and b"last" not in meta:
        return None
    (start, identity), last = noted_start(meta[b"start"]), noted_cursor(meta[b"last"])
    retired = parse_retired(meta.get(b"retired"))
    # of a tombstone all is archived; what goes on after one has a mark
    unmarked = start if retired is None else last
    lanes = _lanes_in(meta)
    mark = noted_cursor(meta[b"mark"]) if b"mark" in meta else unmarked
    parent, creation = parse_parent(meta.get(b"parent"))
    head = RunHead(
        start,
        last,
        mark,
        meta[b"status"].decode(),
        meta.get(b"session", b"").decode(),
        noted_time(meta[b"created"]),
        noted_time(meta[b"updated"]),
        parent,
        lanes.snapshots,
        noted_size(meta.get(b"largest")),
        tags=noted_tags(meta.get(b"tags")),
        identity=identity,
        parent_identity=creation,
        base=noted_cursor(meta[b"base"]) if b"base" in meta else None,
        origins=parse_origins(meta.get(b"origin")),
        left=noted_left(meta.get(b"retired"), meta.get(b"ended")),
    )
    if not head.lowest.offset <= mark.offset <= last.offset:
        raise ValueError(f"the archived mark {mark} does not lie between {head.lowest.offset} and {last}")
    is_tombstone = retired is not None and retired.offset is None
    peak = parse_peak(meta)
    noted_to = head.lowest.offset if peak is None else peak.offset
    is_partial = is_partial and meta.get(b"indexed") == meta.get(b"mark", b"")
    # those of a tombstone are archived, as all of it is
    proven_tags = noted_tags(meta.get(b"tags" if is_tombstone else b"tagsproven")).version
    return HotRun(
        run_id,
        head,
        lanes.proven,
        is_tombstone,
        lanes.since,
        noted_to,
        is_partial,
        lanes.ends,
        lanes.ended,
        proven_tags,
        int(meta.get(b"erasures", b"0")),
        int(meta.get(b"erased", b"0")),
        int(meta.get(b"cleanof", b"0")),
    )


def _token_in(snapshots: Mapping[str | None, SnapshotHead], lane_id: str) -> str:
    return snapshots[lane_id].token if lane_id in snapshots else ""


def lane_marks(meta: Mapping[bytes, bytes]) -> Lasts:
    """What meta notes of the last event of each lane; nothing of a lane that is known to have none.

    Raises ValueError for what no script of ours has written.
    """
    pairs = ((name[5:].decode(), value.split()) for name, value in meta.items() if name.startswith(b"lane:"))
    return {lane: (int(offset), int(seq)) for lane, (offset, seq) in pairs if int(offset)}


def left_lanes(meta: Mapping[bytes, bytes]) -> frozenset[str]:
    """The lanes of which snapshots have left Redis, whether others have come since or not, as a run's meta has it.

    Each is given as its ``gone_field``, '' for the run; 'ended' stands for lanes that left as they were ended, and
    'unlisted' for those of a run that 0.1.0 has retired: of these it is not noted which they are.

    Raises ValueError for what no script of ours has written.
    """
    retired = parse_retired(meta.get(b"retired"), None, meta.get(b"unlisted"))
    _, of_ended = meta.get(b"ended", b"0 0").split()
    revisions = {"ended": int(of_ended)}
    if retired is not None:
        revisions |= {"": retired.run_revision, "unlisted": retired.lane_revision}
    for name, value in meta.items():
        if name.startswith((b"gone:", b"gone#")):
            revisions[name.decode()] = int(value)
        elif name.startswith(b"back:"):
            revisions[gone_field(name[5:].decode())] = int(value)
    return frozenset(lane for lane, revision in revisions.items() if revision)
