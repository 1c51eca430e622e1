"""What the stores of one machine share: memory, SQLite, JSONL.

A local store gives a few primitives (:mod:`runstream.stores.local.primitives`), each atomic in its own medium; the
rest of the interface is made of them here. What an append does to a run is decided in
:mod:`runstream.stores.local.append_plan`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Self

from runstream.codec.event_codec import DEFAULT_MAX_EVENT_BYTES, Codec, EncodedEvent, group_by_run
from runstream.codec.fallback import plain_data
from runstream.codec.msgpack_values import unpack
from runstream.model.errors import ConcurrencyConflict, ConfigurationError
from runstream.model.identifiers import check_name, check_run_id
from runstream.model.protocols import Fallback, Leased
from runstream.model.results import (
    Appended,
    Cursor,
    DeltaBuffer,
    E,
    Placement,
    Recovery,
    RunInfo,
    S,
    Snapshot,
)
from runstream.operations.coverage import CoverageBook, Covered
from runstream.operations.filters import (
    RunFilter,
    check_attempts,
    check_count,
    check_lease,
    check_leased,
    grant_of,
    lane_of,
    seq_of,
)
from runstream.run import Run
from runstream.run.lease import Lease
from runstream.stores.lifecycle import Lifecycle
from runstream.stores.local.append_plan import AppendPlan, AppendRequest, RunHead, plan_append
from runstream.stores.local.primitives import Primitives

__all__ = ["LocalStore"]


class LocalStore(Lifecycle, Primitives[E, S]):
    """A store of one machine. Subclasses give the primitives."""

    _has_leases: ClassVar[bool] = True

    def __init__(
        self,
        *,
        event_type: type[E] | None = None,
        state_type: type[S] | None = None,
        fallback: Fallback | None = plain_data,
        max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES,
        require_lease: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.codec: Codec[E, S] = Codec(event_type, state_type, fallback, max_event_bytes)
        self._require_lease = require_lease
        self._clock = clock
        self._coverage = CoverageBook()
        self._known: dict[tuple[str, str | None], tuple[str, int]] = {}  # token and revision

    def save_event(self, event: E) -> None:
        """Append one event to its run. It is kept when this returns."""
        self.save_events((event,))

    def save_events(self, events: Iterable[E]) -> None:
        """Append events to their runs, each run's in one atomic step, in order."""
        self._send(
            [
                AppendRequest(run_id, self.codec.encode_events(run_id, group))
                for run_id, group in group_by_run(events).items()
            ]
        )

    def append(
        self,
        run_id: str,
        events: Iterable[E],
        *,
        expected_offset: int | None = None,
        keys: Sequence[str | None] | None = None,
        lease: Leased | None = None,
        snapshot: S | None = None,
        lane_id: str | None = None,
    ) -> Appended:
        """Append events to a run, with a snapshot if there is one, in one atomic step; nothing of it, or all.

        With ``expected_offset`` the events land right after that offset, or ConcurrencyConflict is
        raised, as it is if another snapshot was saved since this store's. ``keys`` has one key (at most
        512 bytes), or None, per event: an event whose key the run knows is not written again, whoever
        wrote it, and keeps its first offset; an append of nothing but such events writes nothing, its
        snapshot included. With ``lease`` it is applied only if that is the newest still. ``lane_id`` says
        whose the snapshot is: a lane's, or, if None, the run's. Raises LeaseLost, and LeaseHeld where
        another's lease is in the way.
        """
        return self.append_each(
            run_id,
            events,
            expected_offset=expected_offset,
            keys=keys,
            lease=lease,
            snapshot=snapshot,
            lane_id=lane_id,
        ).appended

    def append_each(
        self,
        run_id: str,
        events: Iterable[E],
        *,
        expected_offset: int | None = None,
        keys: Sequence[str | None] | None = None,
        lease: Leased | None = None,
        snapshot: S | None = None,
        lane_id: str | None = None,
    ) -> Placement:
        """As ``append``, telling where each of the events lies."""
        check_count("expected_offset", expected_offset)
        encoded = self.codec.encode_events(run_id, events, keys)
        grant_of(run_id, lease)
        if not encoded and snapshot is None:
            _, last = self._bounds(run_id) or (Cursor(0, 0), Cursor(0, 0))
            # an append of nothing creates nothing, and still minds what is expected
            return plan_append(RunHead(last, last), AppendRequest(run_id, (), expected_offset)).placement
        request = self._request(
            run_id, encoded, snapshot, lane_id, expected_offset=expected_offset, lease=lease, compare=True
        )
        (plan,) = self._send([request])
        return plan.placement

    def save_snapshot(
        self, run_id: str, state: S, *, lane_id: str | None = None, lease: Leased | None = None
    ) -> None:
        """Replace the snapshot of the run, or of one lane of it, whoever saved the one before."""
        check_run_id(run_id)
        self._send([self._request(run_id, (), state, lane_id, lease=lease, compare=False)])

    def update_state(
        self,
        run_id: str,
        change: Callable[[S], S | None],
        *,
        attempts: int = 10,
        lease: Leased | None = None,
    ) -> S:
        """Load the run's state, change it, and save it unless another was saved in between; then again.

        ``change`` gets the state, a new one for a run that has none, and returns what is to be saved, or
        None if it has changed the state itself; it may be called several times. Gives the state that was
        saved. Raises ConcurrencyConflict after so many attempts.
        """
        check_run_id(run_id)
        check_attempts(attempts)
        grant_of(run_id, lease)  # refused before anything is changed
        for left in range(attempts - 1, -1, -1):
            bounds = self._bounds(run_id)
            loaded = self._load_snapshot(run_id, None)
            saved = None if loaded is None else loaded[0]
            state = self.codec.new_state(run_id) if loaded is None else self.codec.make_state(run_id, loaded[1])
            changed = change(state)
            state = state if changed is None else changed
            request = replace(
                self._request(run_id, (), state, None, lease=lease, compare=True),
                # made from what was loaded here, and from nothing else that this store knows
                covers=Covered() if saved is None or bounds is None else Covered(saved.offset, bounds[0].chain),
                known_token="" if saved is None else saved.token,
                known_revision=0 if saved is None else saved.revision,
            )
            try:
                self._send([request])
            except ConcurrencyConflict:
                if left == 0:
                    raise
            else:
                return state
        raise AssertionError("unreachable: the last attempt returns or raises")

    def lease(
        self,
        run_id: str,
        *,
        owner: str,
        lane_id: str | None = None,
        ttl: float = 30.0,
        wait: float = 0.0,
    ) -> Lease[E, S]:
        """Take the sole right to write one lane of a run, or, without ``lane_id``, the whole run.

        A context manager that gives it back at the end. A thread renews it; it runs out ``ttl`` seconds
        after the last renewal, by this machine's clock. The same ``owner`` gets its lease back at once, and
        the former one is lost. Raises LeaseHeld while somebody else's is in the way for ``wait`` seconds, and
        ConfigurationError where this store has no leases.
        """
        check_run_id(run_id)
        check_lease(owner, lane_id, ttl, wait)
        return Lease.taken(
            self,
            lambda: self.take_lease(run_id, owner=owner, lane_id=lane_id, ttl=ttl),
            wait,
            renew=self.renew_lease,
            release=self.release_lease,
        )

    def open_run(
        self,
        run_id: str,
        *,
        lane_id: str = "main",
        session_id: str = "",
        lease_ttl: float | None = None,
        owner: str | None = None,
        wait: float = 0.0,
        deltas: DeltaBuffer | None = None,
    ) -> Run[E, S]:
        """Recover one lane of a run, new or not, and go on with it: the handle that an agent works with.

        See :class:`~runstream.run.Run`. With ``lease_ttl`` it holds a lease on the lane, for ``owner``.
        Raises what ``recover`` and ``lease`` raise.
        """
        return Run.open(
            self.for_one_writer(),
            run_id,
            lane_id=lane_id,
            session_id=session_id,
            lease_ttl=lease_ttl,
            owner=owner,
            wait=wait,
            deltas=deltas,
        )

    def for_one_writer(self) -> Self:
        """The same store, in an object that knows of snapshots only what is done through it."""
        return self._sharing_all_but(_coverage=CoverageBook(), _known={})

    def load_snapshot(self, run_id: str, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The latest snapshot of the run, or of one lane of it."""
        check_run_id(run_id)
        if lane_id is not None:
            check_name("lane_id", lane_id)
        bounds = self._bounds(run_id)
        loaded = self._load_snapshot(run_id, lane_id)
        if loaded is None:
            self._known.pop((run_id, lane_id), None)  # so the next one follows none
            return None
        saved, fields = loaded
        state = self.codec.make_state(run_id, fields)
        self._known[run_id, lane_id] = (saved.token, saved.revision)
        if bounds is not None:
            self._coverage.loaded(run_id, lane_id, bounds[0], saved.offset)
        return Snapshot(state, saved.offset, saved.revision)

    def load_latest(self, run_id: str) -> S | None:
        """The state of the run's latest snapshot, or None."""
        snapshot = self.load_snapshot(run_id)
        return None if snapshot is None else snapshot.state

    def recover(self, run_id: str, *, lane_id: str | None = None) -> Recovery[S, E]:
        """The latest snapshot and the events after it, of the run or of one lane."""
        check_run_id(run_id)
        bounds = self._bounds(run_id)
        snapshot = self.load_snapshot(run_id, lane_id=lane_id)
        covered = 0 if snapshot is None else snapshot.offset
        recorded = list(self.read(run_id, covered))
        end = recorded[-1].offset if recorded else covered
        if lane_id is not None:
            recorded = [item for item in recorded if lane_of(item.event) == lane_id]
        if bounds is not None:
            self._coverage.recovered(run_id, lane_id, bounds[0], end)
        return Recovery(None if snapshot is None else snapshot.state, covered, recorded)

    def has_recovered(self, run_id: str, offset: int, *, lane_id: str | None = None) -> None:
        """Note that the history up to an offset was read, elsewhere, in order to go on from there."""
        bounds = self._bounds(run_id)
        if bounds is not None:
            self._coverage.recovered(run_id, lane_id, bounds[0], offset)

    def forget(self, run_id: str) -> None:
        """Know nothing of a run any more: this store loses nothing, and has nothing else to forget."""
        self._forget(run_id)

    def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The events with ``seq > since_seq`` in log order; all of them for ``since_seq <= 0``."""
        events = [item.event for item in self.read(run_id)]
        if since_seq <= 0:
            return events
        return [event for event in events if seq_of(event) > since_seq]

    def run_info(self, run_id: str) -> RunInfo | None:
        """What is known of a run, or None."""
        check_run_id(run_id)
        return next((info for info in self._infos() if info.run_id == run_id), None)

    def runs(
        self,
        *,
        session_id: str | None = None,
        status: str | None = None,
        updated_after: float | None = None,
        limit: int | None = None,
    ) -> Iterator[RunInfo]:
        """The runs that match, the most recently updated first."""
        check_count("limit", limit)
        wanted = RunFilter(session_id, status, updated_after)
        newest_first = sorted(self._infos(), key=lambda info: info.updated_at, reverse=True)
        yield from [info for info in newest_first if wanted(info)][:limit]

    def list_runs(self) -> list[str]:
        """The ids of all runs, the most recently updated first."""
        return [info.run_id for info in self.runs()]

    # -- inside ------------------------------------------------------------------------------------

    def _request(
        self,
        run_id: str,
        encoded: Sequence[EncodedEvent],
        state: S | None,
        lane_id: str | None,
        *,
        compare: bool,
        expected_offset: int | None = None,
        lease: Leased | None = None,
    ) -> AppendRequest:
        grant = grant_of(run_id, lease)
        if grant is not None and not self._has_leases:
            raise self._no_leases()
        if state is None:
            return AppendRequest(run_id, encoded, expected_offset, lease=grant)
        if lane_id is not None:
            check_name("lane_id", lane_id)
        fields = self.codec.snapshot_fields(run_id, state)
        packer = self.codec.packer
        known_token, known_revision = self._known.get((run_id, lane_id), ("", 0))
        return AppendRequest(
            run_id,
            encoded,
            expected_offset,
            # through the packer: what is kept is plain data and never the caller's own object
            {key: unpack(packer.pack(value, key)) for key, value in fields.items()},
            lane_id,
            self._coverage.covered(run_id, lane_id),
            known_token if compare else None,
            known_revision,
            # a lane that has finished has not ended the run
            self.codec.status_of(fields) if lane_id is None else None,
            grant,
        )

    def _no_leases(self) -> ConfigurationError:
        return ConfigurationError(
            f"{type(self).__name__} has no leases: take them in Redis, in SQLite or in memory"
        )

    def _send(self, requests: Sequence[AppendRequest]) -> list[AppendPlan]:
        if not requests:
            return []
        if self._require_lease:
            for request in requests:
                check_leased(request.run_id, request.lanes, request.lease)
        plans = self._commit(requests)
        for request, plan in zip(requests, plans, strict=True):
            if plan.is_empty:
                continue
            former = plan.head.last.offset - len(plan.written)
            lanes = {lane: (before, plan.head.lanes[lane]) for lane, before in plan.lanes_before.items()}
            self._coverage.appended(request.run_id, plan.head.start, former, plan.head.last.offset, lanes)
            if plan.snapshot is not None:
                self._known[request.run_id, request.lane_id] = (plan.snapshot.token, plan.snapshot.revision)
        return plans

    def _forget(self, run_id: str) -> None:
        self._coverage.forget(run_id)
        for place in [place for place in self._known if place[0] == run_id]:
            del self._known[place]
