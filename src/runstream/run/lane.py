"""The writer of one lane of a run: its numbering, its state, and the text that it holds back.

What it does is written as operations over those of its store; :class:`~runstream.run.Run` runs them one at a time,
:class:`~runstream.run.AsyncRun` awaits them one at a time, and nothing else differs between the two.

``seq`` is given out so that no two events of the lane ever share one. A refused append gives its numbers
back; one whose outcome is unknown may have been written, and keeps them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

from runstream.codec.left_out import LeftOut
from runstream.model.errors import (
    ConfigurationError,
    CorruptRecordError,
    DurabilityNotReached,
    EncodingError,
    EventRefused,
    EventsArchived,
    RunCancelled,
)
from runstream.model.events import EventKind, PAEvent, Visibility, member_or_text
from runstream.model.identifiers import shown, snapshot_lane
from runstream.model.results import Cursor, E, LeaseGrant, Recorded, Recovery, S, Snapshot
from runstream.model.state import RunStatus
from runstream.operations.arguments import AppendOptions, LeaseRequest, ReadQuery, RunRequest, Sender
from runstream.operations.forks import starts_anew
from runstream.operations.interface import AppendResult, StoreOperations
from runstream.operations.operation import Operation, collect
from runstream.run.emission import Emission, check_kind, error_payload, joined_payload
from runstream.run.held_deltas import HeldDeltas
from runstream.run.lease_state import LeaseState, new_owner, take_lease
from runstream.run.state_fields import ABSENT, at_work, ended, get_field, open_again
from runstream.run.write_call import RepeatableEnd, WriteCall, is_applied, is_refusal, noting

__all__ = ["LaneWriter"]

T = TypeVar("T")


class LaneWriter(ABC, Generic[E, S]):
    """The writer of one lane: all that :class:`~runstream.run.Run` and :class:`~runstream.run.AsyncRun` share.

    Args:
        operations: The store's operations, for one writer.
        request: The arguments of ``open_run``.
    """

    lease: LeaseState[E, S] | None
    state: S
    """What ``checkpoint`` saves, never None: the recovered state or a new one; it may be changed or replaced."""
    recovered: Recovery[S, E]
    """What was there when the Run was opened: of the main lane, the whole run's; of any other, its own."""

    def __init__(self, operations: StoreOperations[E, S], request: RunRequest) -> None:
        request.check()
        self._operations = operations
        self.run_id: str = request.run_id
        self.lane_id: str = request.lane_id
        self.session_id: str = request.session_id
        self.lease = None
        self._seq = 0
        self._deltas = request.deltas
        self._held: HeldDeltas[E] = HeldDeltas()
        self._failure: Exception | None = None
        self._left_out: LeftOut | None = None
        self._end: RepeatableEnd | None = None
        self._shortfall: DurabilityNotReached | None = None  # of what was written last, which no call has told
        self._is_forked = False
        self._is_cancelled = False  # RunCancelled was raised: what is written now undoes and ends
        self._told_error: Exception | None = None  # recorded as agent.error, or of an end that is written
        starts_anew(self)

    def __repr__(self) -> str:
        """The run and the lane, how far the lane is, and whether it is leased."""
        lease = "" if self.lease is None else f", {self.lease!r}"
        return f"<{type(self).__name__} of {self.run_id!r}, lane {self.lane_id!r}, seq {self._seq}{lease}>"

    def _start_anew(self) -> None:
        """Go on as another writer of the lane; what is held back is the parent's to send."""
        self._held, self._is_forked = HeldDeltas(), True
        self._failure = self._end = self._shortfall = None
        self._begin()

    @property
    def grant(self) -> LeaseGrant | None:
        """The lease that this Run writes under, as the store gave it; None without one."""
        return None if self.lease is None else self.lease.grant

    # -- opening and leaving -----------------------------------------------------------------------

    def _opening(self, request: RunRequest) -> Operation[None]:
        if request.lease_ttl is not None:
            owner = new_owner() if request.owner is None else request.owner
            wanted = LeaseRequest(self.run_id, owner, self.lane_id, request.lease_ttl, request.wait)
            self._hold_lease(*(yield from take_lease(self._operations, wanted)))
        try:
            self.recovered = yield from self._operations.recover(self.run_id, snapshot_lane(self.lane_id))
            self._seq = yield from self._operations.last_seq(self.run_id, self.lane_id)
            self.state = self._new_state() if self.recovered.state is None else self.recovered.state
            self._note_left_out(self.recovered)
            if request.tags:
                options = AppendOptions[S](lease=self.lease, tags=request.tags)
                yield from self._operations.append(self.run_id, (), options)
        except BaseException as error:  # an interrupt too: nobody would give the lease back
            if is_applied(error):
                error.args = (f"{error.args[0]}. The run was not opened, so open it again",)
            yield from self._releasing(error)
            raise
        known = get_field(self.state, "session_id")
        if not self.session_id and isinstance(known, str):
            self.session_id = known

    @abstractmethod
    def _begin(self) -> None:
        """Begin with nobody who writes, and no timer."""

    @abstractmethod
    def _cancelling(self, error: BaseException | None) -> Operation[None]:
        """End the run as cancelled, unless it has ended already."""

    @abstractmethod
    def _hold_lease(self, grant: LeaseGrant, asked_at: float) -> None:
        """Hold the lease that was given, and renew it from now on."""

    def _note_left_out(self, loaded: Recovery[S, E] | Snapshot[S] | None) -> None:
        """Remember what the state's class left out of what was loaded: the next checkpoint puts it back."""
        state = None if loaded is None else loaded.state
        self._left_out = None
        if loaded is not None and state is not None:
            self._left_out = self._operations.codec.left_out(loaded.stored, state)

    def _new_state(self) -> S:
        codec = self._operations.codec
        state = codec.new_state(self.run_id)
        if not self.session_id or get_field(state, "session_id") is ABSENT:
            return state
        return codec.make_state(self.run_id, {"run_id": self.run_id, "session_id": self.session_id})

    def _leaving(self, error: BaseException | None) -> Operation[None]:
        """Send what is held, record the error if it is the agent's, give the lease back.

        With an error in flight nothing that fails here hides it: it becomes a note on it.
        """
        self._failure = None  # what failed in the background is tried once more, and fails here if it fails
        try:
            yield from noting(error, "the text that was held back is lost", self._flushing("-"))
            is_told = error is self._told_error or (self._is_cancelled and isinstance(error, RunCancelled))
            if isinstance(error, Exception) and not is_told:
                yield from noting(error, "agent.error could not be recorded", self._recording_error(error))
            if self._is_cancelled:
                yield from noting(error, "the run could not be ended as cancelled", self._cancelling(error))
            if error is not None:
                self._note_shortfall(error)
        finally:
            yield from self._releasing(error)

    def _recording_error(self, error: Exception) -> Operation[None]:
        yield from self._recording([Emission(EventKind.AGENT_ERROR, error_payload(error))], WriteCall(sender="-"))

    def _releasing(self, error: BaseException | None) -> Operation[None]:
        if self.lease is not None:
            yield from noting(error, "the lease could not be given back", self.lease._releasing())

    # -- events and snapshots ----------------------------------------------------------------------

    def _emitting(
        self, emissions: Sequence[Emission], call: WriteCall[E], *, checkpoint: bool = False
    ) -> Operation[list[Recorded[E]]]:
        yield from self._going_first(call)
        if not checkpoint:
            return (yield from self._recording(emissions, call)) if emissions else []
        opens = any(one.starts_run and one.key is None for one in emissions)  # under a key it may be there already
        with at_work(self.state, call.began, opens=opens):
            return (yield from self._recording(emissions, call, self.state))

    def _emitting_one(self, emission: Emission, call: WriteCall[E]) -> Operation[Recorded[E]]:
        (recorded,) = yield from self._emitting([emission], call)
        return recorded

    def _checkpointing(self, call: WriteCall[E]) -> Operation[None]:
        yield from self._emitting((), call, checkpoint=True)

    def _ending(
        self, kind: EventKind, status: RunStatus, payload: Mapping[str, Any], call: WriteCall[E]
    ) -> Operation[Recorded[E]]:
        call.sender, former_end = "-", self._end
        if former_end is not None and (former_end.kind, former_end.payload) == (kind, payload):
            call.take_over(former_end.call)  # the same end again, which may be there already
        yield from self._going_first(call)
        try:
            with ended(self.state, status, call.began):
                self._check_says(status)
                (recorded,) = yield from self._recording([Emission(kind, payload)], call, self.state)
        except BaseException as error:  # an interrupt too
            if not is_refusal(error):
                self._end = RepeatableEnd(kind, payload, call)
            raise
        if self._shortfall is not None:
            self._end = RepeatableEnd(kind, payload, call)  # to end again is to wait again
        elif self._end is not None and self._end.call.resolve is call.resolve:
            self._end = None  # it is known now: to end again is to end anew
        return recorded

    def _finishing_lane(self, call: WriteCall[E]) -> Operation[None]:
        if (lane_id := snapshot_lane(self.lane_id)) is None:
            raise ConfigurationError(f"lane {self.lane_id!r} ends with run {self.run_id!r}: use finish()")
        call.end_lanes = (lane_id,)
        yield from self._checkpointing(call)

    def _check_says(self, status: RunStatus) -> None:
        """Refuse a state whose status contradicts the event: the snapshot would open the run again."""
        codec = self._operations.codec
        said = codec.status_of(codec.state_fields(self.state))
        if said not in (None, status.value):
            raise ConfigurationError(
                f"the state of run {self.run_id!r} says {said!r} and cannot be set to {status.value!r}; nothing"
                f" was written: replace it (run.state = …) by one that says {status.value!r}, or nothing"
            )

    def _recording(
        self, emissions: Sequence[Emission], call: WriteCall[E], snapshot: S | None = None
    ) -> Operation[list[Recorded[E]]]:
        """Append events of this lane, with the state if it is to be saved, in one atomic step."""
        placement = yield from self._placing(emissions, call, snapshot)
        recorded = []
        for index, (event, cursor) in enumerate(zip(call.events or (), placement.cursors, strict=True)):
            is_known = index in placement.known
            first = (yield from self._reading(cursor)) if is_known else None
            recorded.append(first or Recorded(cursor.offset, str(cursor), event))
        return recorded

    def _placing(
        self, emissions: Sequence[Emission], call: WriteCall[E], snapshot: S | None = None
    ) -> Operation[AppendResult]:
        """The same, and where they are: ``call.events`` are the events, of which some may have been known."""
        yield from self._number_anew()
        if call.events is None or (call.resolve is None and call.seqs.stop <= self._seq):
            # not made yet; or nothing of it is in the store, and later numbers are
            call.seqs = range(self._seq + 1, self._seq + 1 + len(emissions))
            call.events = [self._event(emission, seq) for emission, seq in zip(emissions, call.seqs, strict=True)]
        keys = [emission.key for emission in emissions]
        has_keys = any(key is not None for key in keys)
        placement = yield from self._appending(call.events, call.seqs, call, keys if has_keys else None, snapshot)
        if any(one.starts_run and index not in placement.known for index, one in enumerate(emissions)):
            open_again(self.state)  # which the next checkpoint would else end again
        return placement

    def _number_anew(self) -> Operation[None]:
        """In a forked process, once: go on where the lane ends by now."""
        if self._is_forked:
            self._seq = yield from self._operations.last_seq(self.run_id, self.lane_id)
            self._is_forked = False

    def _reading(self, cursor: Cursor) -> Operation[Recorded[E] | None]:
        """The event at a cursor, or None where this store cannot give it (any more)."""
        query = ReadQuery.one(cursor.offset)
        try:
            found = yield from collect(self._operations.read(self.run_id, query))
        except (EventsArchived, CorruptRecordError, EventRefused):
            return None
        return found[0] if found else None

    def _appending(
        self,
        events: Sequence[E],
        seqs: Sequence[int],
        call: WriteCall[E],
        keys: Sequence[str | None] | None = None,
        snapshot: S | None = None,
    ) -> Operation[AppendResult]:
        """Append once under the lease. The numbering goes on after ``seqs``, those of its events of this lane."""
        left_out, sender = self._left_out, "-" if self._is_cancelled else call.sender
        lane_id = snapshot_lane(self.lane_id)
        options = AppendOptions(
            None, keys, self.lease, snapshot, lane_id, left_out, sender, call.status, end_lanes=call.end_lanes
        )
        if left_out is not None and snapshot is not None and call.resolve is None:
            # what is removed now is not put back later
            codec = self._operations.codec
            left_out = codec.left_out(codec.snapshot_fields(self.run_id, snapshot, left_out), snapshot)
        self._end = None if call.resolve is None else self._end  # something new follows it
        try:
            placement: AppendResult = yield from self._sending(
                call, lambda: self._operations.append(self.run_id, events, options)
            )
        except BaseException as error:  # an interrupt too: the events may have been applied
            self._is_cancelled = self._is_cancelled or isinstance(error, RunCancelled)
            if not is_refusal(error):
                self._seq, self._left_out = max((self._seq, *seqs)), left_out
            raise
        self._left_out = left_out
        self._seq = max((self._seq, *(seq for index, seq in enumerate(seqs) if index not in placement.known)))
        return placement

    def _sending(self, call: WriteCall[E], send: Callable[[], Operation[T]]) -> Operation[T]:
        """Write. What is as durable as was asked for shows that all before it is, too."""
        with self._noting_loss():
            result, self._shortfall = yield from call.sending(send)
        returned: T = result
        return returned

    def _completing(self, operation: Operation[T], call: WriteCall[E]) -> Operation[T]:
        """Do all that a call has to do; then tell what was written, by it or before, and is not as durable."""
        result = yield from operation
        if self._shortfall is not None and not call.puts_off:
            shortfall, self._shortfall = self._shortfall, None
            if call.end_lanes or (self._end is not None and self._end.call is call):
                self._told_error = shortfall  # nothing is to come behind an end: it would open the lane again
            raise shortfall
        return result

    def _note_shortfall(self, error: BaseException) -> None:
        """Let the error in flight tell what is not as durable as was asked for."""
        shortfall, self._shortfall = self._shortfall, None
        if shortfall is not None:
            error.add_note(f"runstream: {type(shortfall).__name__}: {shortfall}")

    def _event(self, emission: Emission, seq: int) -> E:
        """The event, of the store's own type. Raises EncodingError where that refuses it."""
        check_kind(emission.kind)
        return self._operations.codec.as_own(
            PAEvent(
                self.run_id,
                session_id=self.session_id,
                lane_id=self.lane_id,
                parent_span_id=emission.parent_span_id,
                seq=seq,
                kind=member_or_text(EventKind, emission.kind),
                visibility=member_or_text(Visibility, emission.visibility),
                payload=joined_payload(emission.payload, {}),
            )
        )

    # -- text deltas -------------------------------------------------------------------------------

    def _emitting_delta(self, text: str, fields: Mapping[str, Any], call: WriteCall[E]) -> Operation[None]:
        if not isinstance(text, str):
            raise EncodingError(f"a delta is text, not {type(text).__name__} ({shown(text)})", path="payload.text")
        emission = Emission(EventKind.TEXT_DELTA, {"text": text, **fields})
        if self._deltas is None:
            yield from self._recording([emission], call)
            return
        self._raise_failure()
        yield from self._number_anew()
        if self._held.is_sealed:
            yield from self._flushing()
        codec, event = self._operations.codec, self._event(emission, self._seq + 1)
        # now, as one that cannot be stored would hold up all the others
        (encoded,) = codec.encode_events(self.run_id, [event])
        if fields:  # what is held is as it is now, whatever becomes of the caller's values
            event = codec.decode_event(self.run_id, 0, encoded.record)
        self._seq += 1
        self._held.events.append(event)
        self._held.text_bytes += len(text.encode(errors="surrogatepass"))
        if len(self._held.events) >= self._deltas.max_events or self._held.text_bytes >= self._deltas.max_bytes:
            yield from self._flushing_quietly()

    def _going_first(self, call: WriteCall[E]) -> Operation[None]:
        """Send what must go before everything that is not a delta, unless that call has been sent already."""
        if call.resolve is None:
            self._raise_failure()
            yield from self._flushing(call.sender)

    def _flushing(self, sender: Sender = "run") -> Operation[None]:
        if self._held.events:
            self._held.is_sealed = True
            # not resolved by the call but repeated: what is refused stays held, and may be taken the next time
            yield from self._appending(self._held.events, (), WriteCall(sender=sender))
            self._held = HeldDeltas()

    def _flushing_quietly(self) -> Operation[None]:
        """Flush what was taken already; a failure is raised by the next call."""
        try:
            yield from self._flushing()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised there
            self._failure = error

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    @property
    def _seconds_to_flush(self) -> float | None:
        """Seconds until the held text is to be sent; None if nothing is held, or if sending it has failed."""
        if self._deltas is None or not self._held.events or self._held.is_sealed:
            return None
        return self._deltas.max_milliseconds / 1000

    # -- inside ------------------------------------------------------------------------------------

    def _noting_loss(self) -> AbstractContextManager[None]:
        return nullcontext() if self.lease is None else self.lease._noting_loss()
