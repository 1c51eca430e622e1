"""The operations of the tiered store: the archive has the beginning of a run, Redis has its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from runstream.codec.event_codec import Codec
from runstream.model.erasures import Erasure, Spans
from runstream.model.errors import AcknowledgedWritesLost, CorruptRecordError, EventsArchived
from runstream.model.identifiers import check_run_id, event_run_id
from runstream.model.protocols import Leased
from runstream.model.questions import Inbox, Question
from runstream.model.results import ArchivingHealth, E, Fork, LaneInfo, LeaseGrant, Recorded, Recovery, RunInfo, S
from runstream.operations.arguments import (
    AppendOptions,
    FollowQuery,
    LeaseRequest,
    ReadQuery,
    RunsQuery,
    StateChange,
    check_since_seq,
    group_by_run,
)
from runstream.operations.erase_arguments import EraseOptions, TruncateOptions
from runstream.operations.filters import arranged, lane_of, seq_of
from runstream.operations.follow_runs import FollowRunsQuery, following_runs
from runstream.operations.interface import AppendResult, RunElsewhere
from runstream.operations.messages import snapshot_conflict
from runstream.operations.operation import Items, Operation, Stream, blocking, collect, settled
from runstream.operations.people import answer_at
from runstream.operations.run_forks import ForkOptions, by_offset, has_forks
from runstream.stores.tiered import erasing
from runstream.stores.tiered.forks import detach, fork
from runstream.stores.tiered.lanes import lanes
from runstream.stores.tiered.look_ups import find, read_at
from runstream.stores.tiered.read import follow, read
from runstream.stores.tiered.recover import STANDS_FOR_ARCHIVED, archived_lane, recover
from runstream.stores.tiered.snapshots import TieredSnapshots

__all__ = ["TieredOperations"]

_ATTEMPTS = 10  # to save what follows a snapshot that left Redis, while other lanes leave


class TieredOperations(TieredSnapshots[E, S]):
    """The operations of the tiered store: writes go to the hot store, reads to the store that has the events.

    It implements :class:`~runstream.operations.interface.StoreOperations` and
    :class:`~runstream.operations.interface.KeepsSnapshots`.
    """

    @property
    def codec(self) -> Codec[E, S]:
        """The hot store's: makes events and states of the caller's types, and encodes them."""
        return self.hot.codec

    def forget(self, run_id: str) -> Operation[None]:
        """Forget what this store saw of a run, so that it is taken as Redis has it now."""
        self.writable.discard(run_id)
        return self.hot.forget(run_id)

    # -- events --------------------------------------------------------------------------------------

    def save_event(self, event: E) -> Operation[Any]:
        """Append one event to the run that it names."""
        yield from self.check_writable([event_run_id(event)])
        return (yield from self.hot.save_event(event))

    def save_events(self, events: Iterable[E]) -> Operation[None]:
        """Append events to the runs that they name, each run's in one atomic step."""
        together = list(events)
        yield from self.check_writable(group_by_run(together))
        yield from self.hot.save_events(together)

    def append(self, run_id: str, events: Iterable[E], options: AppendOptions[S]) -> Operation[AppendResult]:
        """Append to Redis, also with snapshots that follow ones which were retired since."""
        check_run_id(run_id)
        yield from self.check_writable([run_id])
        if not options.states:
            return (yield from self.hot.append(run_id, events, options))
        return (yield from self._append_with_snapshots(run_id, list(events), options))

    def _append_with_snapshots(
        self, run_id: str, events: Sequence[E], options: AppendOptions[S]
    ) -> Operation[AppendResult]:
        for left in range(_ATTEMPTS, -1, -1):
            try:
                return (yield from self.hot.append(run_id, events, options))
            except EventsArchived as moved:
                is_known = False
                for lane_id in options.states:
                    follows = yield from self._follows_archived(run_id, lane_id)
                    knows = yield from self._knows_lane(run_id, lane_id, moved.first_hot, follows=follows)
                    is_known = is_known or follows or knows
                if not is_known or left == 0:
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _follows_archived(self, run_id: str, lane_id: str | None) -> Operation[bool]:
        """Note the archive's snapshot as the one that this writer goes on from; False if none was retired."""
        known, revision = self.hot.known_snapshot(run_id, lane_id)
        if lane_id is not None and known.startswith(STANDS_FOR_ARCHIVED):
            return (yield from self._follows_lane(run_id, lane_id, revision))
        retired, start = yield from self.hot.retired_token(run_id, lane_id)
        if not retired:
            return False
        # asked after that: one that is retired later than this makes it another token
        position = yield from blocking(self.archive.position_of_lanes, run_id, (lane_id,))
        archived = "" if position is None else position.snapshots.get(lane_id, "")
        is_left = archived == known
        if is_left and (spans := (yield from self.hot.to_be_erased(run_id))):
            _, is_left = yield from self._kept(run_id, lane_id, start, spans)
        if not is_left:
            raise snapshot_conflict(run_id, lane_id, revision, int(retired.rpartition("-")[2]))
        self.hot.note_snapshot(run_id, lane_id, retired, revision)
        return True

    def _follows_lane(self, run_id: str, lane_id: str, revision: int) -> Operation[bool]:
        """Note what stands by now for the archive's snapshot of a lane that this writer has recovered.

        Other lanes have ended since: it is still the same if the archive has none of a higher revision.
        """
        token, start = yield from self.hot.retired_token(run_id, lane_id)
        # asked after that, as above
        archived, is_left = yield from self._kept(run_id, lane_id, start)
        actual = 0 if archived is None or not is_left else archived.revision
        if not token or actual != revision:
            raise snapshot_conflict(run_id, lane_id, revision, actual)
        self.hot.note_snapshot(run_id, lane_id, token, revision)
        return True

    def _knows_lane(self, run_id: str, lane_id: str | None, first_hot: int, *, follows: bool) -> Operation[bool]:
        """Note that this writer knows all of a lane, if what has left Redis has no other event of it.

        ``follows``: it knows the lane's snapshot, if there is one.
        """
        if lane_id is None:
            return False
        yield from self.check_archived(run_id, first_hot - 1, first_hot, is_hot=True)
        found = yield from archived_lane(self, run_id, lane_id)
        if found is not None:
            if found.snapshot_offset is not None and not follows:
                return False
            query = ReadQuery(self.hot.known_to(run_id, lane_id), before=first_hot)
            recorded: list[Recorded[E]] = yield from collect(self.archive.read(run_id, query))
            if any(lane_of(item.event) == lane_id for item in recorded):
                return False
        known = self.hot.known_snapshot(run_id, lane_id)
        yield from self.hot.mark_recovered(run_id, first_hot - 1, lane_id)
        if follows:
            self.hot.note_snapshot(run_id, lane_id, *known)
        return True

    def read(self, run_id: str, query: ReadQuery) -> Stream:
        """The events between two offsets, as they are at the first step."""
        return read(self, run_id, query)

    def follow(self, run_id: str, query: FollowQuery) -> Stream:
        """History, from the archive on, then live."""
        return follow(self, run_id, query)

    def follow_runs(self, query: FollowRunsQuery) -> Stream:
        """The events of many runs: history, from the archive on, then live."""

        def look(runs: RunsQuery) -> Stream:
            # all at first; and then those that are written to, which Redis has
            return self.runs(runs) if runs.updated_after is None else self.hot.runs(runs)

        return following_runs(
            query, look, lambda run_id, after: self.follow(run_id, FollowQuery(after)), self.hot.was_deleted
        )

    def list_events(self, run_id: str, since_seq: int) -> Operation[list[E]]:
        """The events whose ``seq`` is over ``since_seq``, in log order."""
        check_run_id(run_id)
        since_seq = check_since_seq(since_seq)
        after = 0
        if since_seq > 0:
            archived = yield from self.archived(run_id)
            # what has left may be no part of the answer
            with suppress(RunElsewhere, EventsArchived, AcknowledgedWritesLost):
                return (yield from self.continuing(archived).list_events(run_id, since_seq))
            boundary = yield from self.locate_after(run_id, archived)
            if boundary.parent is None:
                after = yield from blocking(self.archive.offset_before, run_id, since_seq)
        recorded: list[Recorded[E]] = yield from collect(self.read(run_id, ReadQuery(after)))
        return [item.event for item in recorded if since_seq <= 0 or seq_of(item.event) > since_seq]

    def find(self, run_id: str, keys: Iterable[str]) -> Operation[list[int | None]]:
        """The offsets of the events that have these keys; None for a key that the run does not know."""
        return find(self, run_id, keys)

    def read_at(self, run_id: str, offsets: Iterable[int]) -> Operation[list[Recorded[E]]]:
        """The events at these offsets, in the order in which they are asked for."""
        return read_at(self, run_id, offsets)

    def last_seq(self, run_id: str, lane_id: str) -> Operation[int]:
        """The ``seq`` of a lane's last event; 0 for a lane without one."""
        first_hot: int | None = None
        try:
            seq = yield from self.hot.last_seq(run_id, lane_id)
            if seq or (yield from self.hot.run_info(run_id)) is not None:
                return seq
        except EventsArchived as moved:
            first_hot = moved.first_hot
        boundary = yield from self.locate(run_id)
        if boundary.parent is not None:
            known = yield from lanes(self, run_id)
            return next((one.last_seq for one in known if one.lane_id == lane_id), 0)
        if boundary.is_hot and first_hot is None:  # it was not there, and has begun since
            return (yield from self.hot.last_seq(run_id, lane_id))
        if boundary.is_hot and first_hot is not None:
            yield from self.check_archived(run_id, first_hot - 1, first_hot, is_hot=True)
        return (yield from self.archive.last_seq(run_id, lane_id))

    # -- states --------------------------------------------------------------------------------------

    def save_snapshot(self, run_id: str, state: S, lane_id: str | None, lease: Leased | None) -> Operation[None]:
        """Replace the snapshot of a run, or of one lane of it, whoever saved the one before."""
        check_run_id(run_id)
        yield from self.check_writable([run_id])
        yield from self.hot.save_snapshot(run_id, state, lane_id, lease)

    def recover(self, run_id: str, lane_id: str | None) -> Operation[Recovery[S, E]]:
        """The latest snapshot and the events after it; of a run that the archive alone has, from there."""
        return recover(self, run_id, lane_id)

    def update_state(self, run_id: str, change: Callable[[S], S | None], how: StateChange) -> Operation[S]:
        """Compare-and-set of the state, also of one that has left Redis. It covers what it did before."""
        check_run_id(run_id)
        yield from self.check_writable([run_id])
        try:
            return (yield from self.hot.update_state(run_id, change, how))
        except EventsArchived:
            attempts = how.attempts
        while True:
            attempts -= 1
            archived = yield from self.load_snapshot(run_id, None)
            again = how._replace(attempts=max(1, attempts))
            try:
                return (yield from self.hot.update_archived(run_id, change, archived, again))
            except EventsArchived:  # another one was saved meanwhile, and retired
                if attempts <= 0:
                    raise

    # -- leases --------------------------------------------------------------------------------------

    def take_lease(self, request: LeaseRequest) -> Operation[LeaseGrant]:
        """Take a lease, without waiting. Raises LeaseHeld where another is in the way."""
        return self.hot.take_lease(request)

    def renew_lease(self, grant: LeaseGrant) -> Operation[None]:
        """Extend a lease to its full ttl from now on."""
        return self.hot.renew_lease(grant)

    def release_lease(self, grant: LeaseGrant) -> Operation[None]:
        """Give a lease back, unless it has passed on already."""
        return self.hot.release_lease(grant)

    # -- people --------------------------------------------------------------------------------------

    def inbox(self, run_id: str) -> Operation[Inbox]:
        """What people were asked about a run, and have said to it: Redis has that."""
        return self.hot.inbox(run_id)

    def wait_for_news(self, run_id: str, known: Inbox, seconds: float | None) -> Stream:
        """Wait until there may be something new in a run's inbox."""
        return self.hot.wait_for_news(run_id, known, seconds)

    def load_answer(self, run_id: str, question: Question) -> Operation[E | None]:
        """The event that answers a question; a long one may be in the archive by now."""
        try:
            return (yield from self.hot.load_answer(run_id, question))
        except EventsArchived:
            event: E | None = yield from answer_at(partial(self.read, run_id), question.answer_offset or 0)
            return event

    # -- runs ----------------------------------------------------------------------------------------

    def lanes(self, run_id: str) -> Operation[list[LaneInfo]]:
        """The lanes of a run, by name: of those that have left Redis, what the archive knows."""
        return lanes(self, run_id)

    def run_info(self, run_id: str) -> Operation[RunInfo | None]:
        """What is known of a run; of one that has left Redis, what the archive knows."""
        info = yield from self.hot.run_info(run_id)
        if info is not None:
            return info
        archived = yield from self.archive.run_info(run_id)
        return None if archived is None else _only_archived(archived)

    def runs(self, query: RunsQuery) -> Stream:
        """The runs that match, the most recently updated first: what Redis knows of a run counts."""
        found: list[RunInfo] = yield from collect(self.hot.runs(query))
        # after that: one that is forgotten in between is among those that were found
        known = {info.run_id for info in found}.union((yield from self.hot.list_runs()))
        # at least this many are in the archive alone, if there are that many
        enough = None if query.limit is None else query.limit + len(known)
        archived: list[RunInfo] = yield from collect(self.archive.runs(query._replace(limit=enough)))
        found += [_only_archived(info) for info in archived if info.run_id not in known]
        yield Items(arranged(found, query))

    def list_runs(self) -> Operation[list[str]]:
        """The ids of all runs, the most recently updated first."""
        found: list[RunInfo] = yield from collect(self.runs(RunsQuery()))
        return [info.run_id for info in found]

    def forks(self, run_id: str) -> Operation[list[Fork]]:
        """The runs that were forked from a run: those that Redis has noted, and those that the archive has."""
        noted = yield from self.hot.forks(run_id)
        return by_offset([*noted, *(yield from blocking(self.archive.forks_of, run_id))])

    def archiving_health(self, lag_seconds: float) -> Operation[ArchivingHealth]:
        """How the archiving of what is in Redis stands."""
        return self.hot.archiving_health(lag_seconds)

    def fork(self, run_id: str, new_run_id: str, options: ForkOptions) -> Operation[RunInfo]:
        """Make a run that shares this one's history up to an offset."""
        return fork(self, run_id, new_run_id, options)

    def detach(self, run_id: str, of: str) -> Operation[None]:
        """Give a fork of a run a copy of its own of all that it shares."""
        return detach(self, run_id, of)

    def erase(self, run_id: str, spans: Spans, options: EraseOptions) -> Operation[Erasure]:
        """Erase the content at these offsets for good."""
        return erasing.erase(self, run_id, spans, options)

    def truncate(self, run_id: str, before: int, options: TruncateOptions) -> Operation[Erasure]:
        """Remove the events before an offset."""
        return erasing.truncate(self, run_id, before, options)

    def erasures(self, run_id: str) -> Operation[list[Erasure]]:
        """What was asked to be erased of a run."""
        return erasing.erasures(self, run_id)

    def delete_run(self, run_id: str) -> Operation[bool]:
        """Remove the run from both; the archive takes no more of its history from a drain in flight."""
        try:
            creation = yield from self.hot.creation_to_delete(run_id)
        except CorruptRecordError:  # then whichever run of that name the archive has
            creation = None
        if forks := (yield from blocking(self.archive.forks_of, run_id, creation)):
            raise has_forks(run_id, [*forks, *(yield from self.hot.living_forks(run_id))])
        was_hot, shortfall = yield from settled(self.hot.delete_run(run_id))
        was_archived = yield from blocking(self.archive.delete_history, run_id, creation)
        if shortfall is not None:
            raise shortfall
        return was_hot or was_archived


def _only_archived(info: RunInfo) -> RunInfo:
    """The RunInfo of a run that only the archive has."""
    return replace(info, first_hot=info.last_offset + 1)
