"""Change a run's state: load it, change it, save it unless another was saved in between, and once if repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from runstream.codec.left_out import LeftOut
from runstream.codec.snapshot_fields import pack_state
from runstream.model.errors import ConcurrencyConflict, RunstreamError
from runstream.model.identifiers import check_run_id
from runstream.model.results import E, S, Snapshot
from runstream.model.run_head import RunStart
from runstream.operations.arguments import StateChange, grant_of
from runstream.operations.coverage import Covered
from runstream.operations.operation import Exchange, Operation
from runstream.stores.redis.append_batch import SnapshotWrite
from runstream.stores.redis.made_change import MadeChange
from runstream.stores.redis.operations.client.append import Base, with_snapshot
from runstream.stores.redis.operations.client.archived_errors import retired_away
from runstream.stores.redis.operations.client.resend_lost import deliver
from runstream.stores.redis.operations.client.run_head import checked_head, head_query, is_there, retired_of
from runstream.stores.redis.operations.client.send import batch_of, resolve_unanswered
from runstream.stores.redis.operations.client.snapshots import decode_known
from runstream.stores.redis.replies import parse_map
from runstream.stores.redis.session.session import Session

__all__ = ["Archived", "update_state"]


def update_state(
    session: Session[E, S],
    run_id: str,
    change: Callable[[S], S | None],
    how: StateChange,
    archived: Archived | None = None,
) -> Operation[S]:
    """Load the run's state, change it, and save it unless another was saved in between; then try again.

    A change that is made again after a call that got no reply is made once: the repeated call gives the state that
    it saved. ``archived`` is the snapshot that an archive has, for a run whose own was retired; it is used for one
    attempt.
    """
    check_run_id(run_id)
    how.check()
    repeated = yield from _repeated(session, run_id, change)
    if repeated is not None:
        return repeated
    keys, plain = session.keys.run(run_id), batch_of(run_id, (), grant=grant_of(run_id, how.lease))
    queries = [(b"HGETALL", keys.snapshot(None)), head_query(keys.meta, beside=["snapshot"])]
    for left in range(how.attempts - 1, -1, -1):
        saved, (*meta, noted) = yield Exchange(queries, atomic=True)
        start, retired = (yield from checked_head(keys, meta)).run_start, retired_of(meta)
        base = _base(session, run_id, parse_map(saved), start, noted)
        if not saved and is_there(meta) and retired is not None and retired.had_snapshot(None):
            former, archived = archived and archived.snapshot, archived and Archived(None)
            if former is None or former.revision != retired.run_revision:
                raise (yield from retired_away(session, run_id, None))  # and no new state instead
            covers = Covered(former.offset, start.creation)
            base = Base(retired.token(None), former.revision, None, covers, compare=True, snapshot=former)
        before = base.packed
        if before is None and base.snapshot is not None:
            before = pack_state(session.codec.packer, base.snapshot.stored)
        base = base._replace(changes=archived is not None, made=MadeChange(change, before))
        state, left_out = _before_change(session, run_id, base.snapshot)
        changed = change(state)
        state = state if changed is None else changed
        try:
            yield from deliver(session, [with_snapshot(session, plain, state, None, base, left_out)])
        except ConcurrencyConflict:
            if left == 0:
                raise
        else:
            return state
    raise AssertionError("unreachable: the last attempt returns or raises")


class Archived(NamedTuple):
    """The snapshot that an archive has of a run; None for none."""

    snapshot: Snapshot[Any] | None


def _base(
    session: Session[E, S], run_id: str, saved: dict[bytes, bytes], start: RunStart, noted: bytes | None
) -> Base:
    """The saved snapshot, as the base of a change that is made to it and to nothing else.

    It covers what that one covers, whatever this store knows besides. It is what this call has loaded,
    not what another thread of this store has saved since.
    """
    known = decode_known(session, run_id, None, saved, noted)
    if known is None:
        return Base("", 0, None, Covered(), compare=True)
    snapshot, token, packed = known
    covers = Covered(snapshot.offset, start.creation)
    return Base(token, snapshot.revision, packed, covers, compare=True, snapshot=snapshot)


def _before_change(session: Session[E, S], run_id: str, snapshot: Snapshot[S] | None) -> tuple[S, LeftOut | None]:
    """The state that is to be changed, and what its class has left out of it."""
    if snapshot is None:
        return session.codec.new_state(run_id), None
    return snapshot.state, session.codec.left_out(snapshot.stored, snapshot.state)


def _repeated(session: Session[E, S], run_id: str, change: Callable[[S], S | None]) -> Operation[S | None]:
    """The state that this change saved in a call that got no reply; None if it has not, and is to be made now.

    That the same function comes again does not say that it makes the same change: what it sees besides the state
    may be other than it was. So it is given the same state as before, and must make the same of it.
    """
    yield from resolve_unanswered(session, [run_id])
    former = session.in_flight.take_change(run_id, change)
    if former is None:
        return None
    write, outcome = former
    if isinstance(outcome, RunstreamError):
        raise outcome
    if write.made is None:
        raise AssertionError("unreachable: it was found by the change that it made")
    before, snapshot = write.made.before, None
    if before is not None:
        offset = write.covers.offset
        fields = session.codec.upcast_state(run_id, offset, before.unpack())
        snapshot = Snapshot(session.codec.make_state(run_id, fields), offset, write.known_revision, fields)
    state, left_out = _before_change(session, run_id, snapshot)
    changed = change(state)
    state = state if changed is None else changed
    fields = session.codec.snapshot_fields(run_id, state, left_out)
    packed = pack_state(session.codec.packer, fields, write.known_state)  # ranked as it was then
    if packed.fields != write.state.fields:
        raise _other_change(run_id, write)
    return state


def _other_change(run_id: str, write: SnapshotWrite) -> ConcurrencyConflict:
    made = write.known_revision + 1
    return ConcurrencyConflict(
        f"a change of the state of run {run_id!r} that got no reply was made after all, as revision {made}, and"
        " the same function makes another one now: nothing was written, as this may be the same change or a new"
        " one; if it is a new one, call again; if it is the same, it is done",
        expected=write.known_revision,
        actual=made,
    )
