"""Load snapshots."""

from __future__ import annotations

from runstream.codec.snapshot_fields import PackedState, read_saved
from runstream.model.errors import CorruptRecordError
from runstream.model.results import E, S, Snapshot, SnapshotInfo
from runstream.operations.kept_snapshots import check_snapshot_of
from runstream.operations.operation import Exchange, Operation
from runstream.stores.redis.append_batch import snapshot_field
from runstream.stores.redis.damage import corrupt_key, parsing
from runstream.stores.redis.operations.client.archived_errors import retired_away
from runstream.stores.redis.operations.client.run_head import (
    checked_head,
    head_query,
    retired_of,
)
from runstream.stores.redis.replies import parse_map, parse_start
from runstream.stores.redis.session.session import Session

__all__ = ["SNAPSHOT_REMOVED", "decode_known", "decode_snapshot", "kept_snapshots", "load_snapshot"]

SNAPSHOT_REMOVED = "the snapshot was removed; its events are there: save a new one"

_MANY_FIELDS = 256
"""A snapshot of fewer fields is fetched as fast as its token."""


def load_snapshot(session: Session[E, S], run_id: str, lane_id: str | None) -> Operation[Snapshot[S] | None]:
    """The latest snapshot of the run, or of one lane of it."""
    check_snapshot_of(run_id, lane_id)
    if (unchanged := (yield from _load_unchanged(session, run_id, lane_id))) is not None:
        return unchanged
    keys = session.keys.run(run_id)
    queries = [
        (b"HGETALL", keys.snapshot(lane_id)),
        head_query(keys.meta, lane_id, [snapshot_field(lane_id)]),
    ]
    saved, (*meta, noted) = yield Exchange(queries, atomic=True)
    head, retired = (yield from checked_head(keys, meta)), retired_of(meta)
    session.largest.note(run_id, head)  # what a reader goes on from is mostly what comes next
    snapshot = decode_snapshot(session, run_id, lane_id, parse_map(saved), noted)
    if snapshot is None and retired is not None and retired.had_snapshot(lane_id):
        raise (yield from retired_away(session, run_id, lane_id))
    if snapshot is None:
        session.snapshots.drop(run_id, lane_id)
    else:
        session.coverage.loaded(run_id, lane_id, head.run_start, snapshot.offset)
    return snapshot


def kept_snapshots(session: Session[E, S], run_id: str, lane_id: str | None) -> Operation[list[SnapshotInfo]]:
    """The latest snapshot of the run, or of one lane of it, without its state."""
    check_snapshot_of(run_id, lane_id)
    keys = session.keys.run(run_id)
    key = keys.snapshot(lane_id)
    queries = [
        (b"HMGET", key, "offset", "revision"),
        head_query(keys.meta, lane_id, [snapshot_field(lane_id)]),
    ]
    (offset, revision), (*meta, noted) = yield Exchange(queries, atomic=True)
    yield from checked_head(keys, meta)
    if offset is None and revision is None:
        if not noted and (retired := retired_of(meta)) is not None and retired.had_snapshot(lane_id):
            raise (yield from retired_away(session, run_id, lane_id))
        decode_known(session, run_id, lane_id, {}, noted)
        return []
    with parsing(keys, key):
        return [SnapshotInfo(int(offset), int(revision))]


def _load_unchanged(session: Session[E, S], run_id: str, lane_id: str | None) -> Operation[Snapshot[S] | None]:
    """The snapshot that this store saved or loaded last, if it has many fields and is still the latest.

    To ask for its token takes less time than to fetch and to prove all of it again.
    """
    token, _, packed = session.snapshots.get(run_id, lane_id)
    if packed is None or len(packed.fields) < _MANY_FIELDS:
        return None
    keys = session.keys.run(run_id)
    queries = [
        (b"HMGET", keys.snapshot(lane_id), "token", "offset", "revision"),
        (b"HGET", keys.meta, "start"),
    ]
    (found, offset, revision), start = yield Exchange(queries, atomic=True)
    if (
        found != token.encode()
        or not start
        or not (offset and offset.isdigit() and revision and revision.isdigit())
    ):
        return None  # if it is damaged, reading all of it will tell
    fields = session.codec.upcast_state(run_id, int(offset), packed.unpack())
    snapshot = Snapshot(session.codec.make_state(run_id, fields), int(offset), int(revision), fields)
    with parsing(keys):
        session.coverage.loaded(run_id, lane_id, parse_start(start), snapshot.offset)
    return snapshot


def decode_snapshot(
    session: Session[E, S], run_id: str, lane_id: str | None, saved: dict[bytes, bytes], noted: bytes | None
) -> Snapshot[S] | None:
    """Decode the snapshot in a hash, and cache it as the base of the next difference.

    Raises CorruptRecordError for a hash that fails its checksum or does not decode, or that is not there though
    meta has ``noted`` it, and EventRefused where the store's class refuses the state.
    """
    *_, before = session.snapshots.get(run_id, lane_id)
    known = decode_known(session, run_id, lane_id, saved, noted, before)
    if known is None:
        return None
    snapshot, token, packed = known
    session.snapshots.put(run_id, lane_id, token, snapshot.revision, packed)
    return snapshot


def decode_known(
    session: Session[E, S],
    run_id: str,
    lane_id: str | None,
    saved: dict[bytes, bytes],
    noted: bytes | None,
    before: PackedState | None = None,
) -> tuple[Snapshot[S], str, PackedState] | None:
    """The snapshot in a hash, its token, and its packed fields, from which a difference can be made.

    ``before``: the state that was loaded last, if it is known; the snapshot may have the same one.
    """
    if not saved:
        if noted:
            key = session.keys.run(run_id).snapshot(lane_id)
            raise corrupt_key(run_id, key, SNAPSHOT_REMOVED)
        return None
    try:
        offset, revision, token, fields, packed = read_saved(saved, before)
    except ValueError as error:
        of_lane = "" if lane_id is None else f" of lane {lane_id!r}"
        raise CorruptRecordError(
            f"the snapshot{of_lane} of run {run_id!r} does not read: {error}; the events are not affected: save"
            " a new snapshot from them",
            run_id=run_id,
            offset=0,
            key=session.keys.run(run_id).snapshot(lane_id),
        ) from error
    fields = session.codec.upcast_state(run_id, offset, fields)
    return Snapshot(session.codec.make_state(run_id, fields, offset), offset, revision, fields), token, packed
