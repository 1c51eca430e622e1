"""The snapshots that a fork begins with: those in Redis, and those that an archive brings.

Redis has the latest ones alone. Where events were truncated a snapshot stands for them: a fork that began without
it would have lost them. So where an archive may have one, Redis alone makes no such fork. Where nothing was
truncated the events say all that a snapshot does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from runstream.codec.lossless_json import load_json
from runstream.codec.snapshot_fields import PackedState, pack_state, read_saved
from runstream.codec.stored import STORED_PACKER
from runstream.model.errors import EventsArchived
from runstream.model.results import E, S
from runstream.model.run_head import RunHead, SnapshotHead
from runstream.operations.operation import Exchange, Operation
from runstream.operations.run_forks import Brought, as_state_of
from runstream.stores.redis.damage import corrupt_key, parsing
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.operations.client.archived_errors import states_away
from runstream.stores.redis.operations.client.lineage import segments_here
from runstream.stores.redis.operations.client.snapshots import SNAPSHOT_REMOVED
from runstream.stores.redis.operations.worker.hot_run import HotRun, left_lanes, run_of
from runstream.stores.redis.replies import gone_field, parse_map
from runstream.stores.redis.scripts.fork_calls import CopiedSnapshot
from runstream.stores.redis.session.session import Session

__all__ = ["ForkedRun", "SnapshotsChanged", "fork_snapshots"]


class SnapshotsChanged(Exception):
    """A snapshot that was to be copied has left Redis, or was replaced by a later one, since a run was loaded."""


class ForkedRun(NamedTuple):
    """A run that is to be forked, or that such a one comes from, as Redis has it.

    Attributes:
        run: The run.
        left: The lanes of which snapshots have left Redis, as ``left_lanes`` gives them.
    """

    run: HotRun
    left: Collection[str]

    @property
    def head(self) -> RunHead:
        """Where it stands."""
        return self.run.head

    @classmethod
    def of(cls, run_id: str, meta: Mapping[bytes, bytes]) -> ForkedRun | None:
        """The run that has this meta; None where it is not there. Raises ValueError for what does not parse."""
        known = run_of(run_id, meta, is_partial=False)
        return None if known is None else cls(known, left_lanes(meta))

    def may_lack(self, at: int, found: Collection[str | None]) -> bool:
        """Whether an archive may have a snapshot that covers at most an offset, of a lane of which none was found.

        Args:
            at: The offset.
            found: The lanes (None: the run) of which one was found.
        """
        others = (noted for lane, noted in self.head.snapshots.items() if lane not in found)
        is_replaced = any(noted.offset > at and noted.revision > 1 for noted in others)
        return is_replaced or not {*map(_left_field, found)}.issuperset(self.left)


def fork_snapshots(
    session: Session[E, S], parent: ForkedRun, new_run_id: str, at: int, brought: Brought | None
) -> Operation[list[CopiedSnapshot]]:
    """The newest snapshots that are known and cover no more than an offset, as the fork's.

    Args:
        session: The session.
        parent: The run.
        new_run_id: The fork.
        at: The offset.
        brought: What an archive has of the run.

    Raises:
        SnapshotsChanged: A run has others than it had when it was loaded.
        EventsArchived: An archive may have one that stands for events that were truncated.
    """
    found: dict[str | None, CopiedSnapshot] = {}
    for kept in () if brought is None else brought.snapshots:
        if kept.offset <= at:
            packed = pack_state(STORED_PACKER, as_state_of(new_run_id, load_json(kept.data)))
            found[kept.lane_id] = SnapshotHead(*kept[:4]), _fields(packed)
    here: dict[str | None, CopiedSnapshot] = {}
    runs = [parent, *(yield from _ancestors(session, parent, at, brought))]
    for one in runs:
        wanted = [
            noted
            for lane, noted in one.head.snapshots.items()
            if noted.offset <= at
            and lane not in here
            and (lane not in found or noted.revision > found[lane][0].revision)
        ]
        here |= yield from _copied(session, one, wanted, new_run_id, at)
    found |= here
    if brought is None and any(one.may_lack(at, found) for one in runs):
        yield from _check_whole(session, parent, at)
    return list(found.values())


def _ancestors(
    session: Session[E, S], parent: ForkedRun, at: int, brought: Brought | None
) -> Operation[list[ForkedRun]]:
    """The runs that a fork comes from, as far as they may have snapshots of what it shares up to an offset."""
    if at >= parent.head.shares_to:
        return []
    try:
        *shared, _ = yield from segments_here(session, parent.run.run_id, parent.head)
    except EventsArchived:
        if brought is None:
            raise
        return []
    found = []
    for segment in reversed(shared):
        one = yield from _load(session.keys.run(segment.run_id))
        if one is not None:
            found.append(one)
        if segment.after <= at:  # it began with those that were held there; what was saved since is not of it
            break
    return found


def _check_whole(session: Session[E, S], parent: ForkedRun, at: int) -> Operation[None]:
    """Check that no event up to an offset was truncated, or no archive can have a state that stands for it.

    Raises:
        EventsArchived: One may have it.
    """
    run_id, head = parent.run.run_id, parent.head
    first, *_ = yield from segments_here(session, run_id, head)
    if (
        first.after > head.run_start.offset
        and (error := (yield from states_away(session, run_id, at))) is not None
    ):
        raise error


def _copied(
    session: Session[E, S], forked: ForkedRun, wanted: Sequence[SnapshotHead], new_run_id: str, at: int
) -> Operation[dict[str | None, CopiedSnapshot]]:
    """The latest snapshots of these lanes, as the fork's, by lane.

    Raises:
        SnapshotsChanged: One covers more than that by now, or has left Redis.
        CorruptRecordError: One does not read, or is not there though the run notes it.
    """
    run = session.keys.run(forked.run.run_id)
    replies = (yield Exchange([(b"HGETALL", run.snapshot(one.lane_id)) for one in wanted])) if wanted else ()
    found: dict[str | None, CopiedSnapshot] = {}
    for noted, reply in zip(wanted, map(parse_map, replies), strict=True):
        lane = noted.lane_id
        if not reply:
            again = yield from _load(run)
            if again is None or noted != again.head.snapshots.get(lane):
                raise SnapshotsChanged
            raise corrupt_key(run.run_id, run.snapshot(lane), SNAPSHOT_REMOVED)
        with parsing(run, run.snapshot(lane)):
            saved = read_saved(reply)
        if saved.offset > at:
            raise SnapshotsChanged
        packed = pack_state(STORED_PACKER, as_state_of(new_run_id, saved.state), saved.packed)
        found[lane] = SnapshotHead(lane, saved.offset, saved.revision, saved.token), _fields(packed)
    return found


def _load(run: RunKeys) -> Operation[ForkedRun | None]:
    (meta,) = yield Exchange([(b"HGETALL", run.meta)])
    with parsing(run):
        return ForkedRun.of(run.run_id, parse_map(meta))


def _fields(packed: PackedState) -> dict[bytes, bytes]:
    return {**packed.fields, b"checksum": b"%d" % packed.checksum}


def _left_field(lane_id: str | None) -> str:
    return "" if lane_id is None else gone_field(lane_id)
