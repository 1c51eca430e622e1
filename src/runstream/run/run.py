"""The handle that an agent author works with: one lane of a run, recovered and gone on with.

What it does is written as operations, once for sync and async, in :mod:`~runstream.run.lane`; here they are run,
one at a time. :mod:`~runstream.run.async_run` awaits the same operations.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from runstream.model.errors import StoreUnavailable
from runstream.model.events import EventKind, Visibility
from runstream.model.results import E, LeaseGrant, Recorded, S
from runstream.model.state import RunStatus
from runstream.operations.arguments import FollowFilters, FollowQuery, RunRequest
from runstream.operations.interface import StoreOperations
from runstream.operations.operation import Operation
from runstream.operations.runners import SyncRunner
from runstream.run.emission import Emission, emissions_of, error_payload, joined_payload
from runstream.run.lease import Lease
from runstream.run.steps import Step, SteppingWriter, check_returned
from runstream.run.write_call import WriteCall

__all__ = ["Run"]

T = TypeVar("T")


class Run(SteppingWriter[E, S]):
    """One lane of a run, for one writer; a store's ``open_run`` gives it.

    ``run_id``, ``lane_id`` and ``session_id`` are what its events carry; a session that is not given is taken from
    the recovered state. ``state`` is never None: it begins as the recovered state, or as a new one; change it or
    replace it, and ``checkpoint`` saves it. ``recovered`` is what was there: the state (the very object that
    ``state`` begins with), the offset that it covers, and the events after it. ``lease`` is the lease on the lane,
    if one was asked for.

    Its events are numbered (``seq``) from where the lane left off, one by one. A number is used again only if the
    store has refused the event. Threads may share a Run. In a forked process it goes on as another writer of the
    lane, without what was held back; under a lease, which is the parent's, it is refused there.

    A call that raises StoreUnavailable may have taken effect. ``error.resend()`` makes it take effect once
    and gives its result; ``finish`` and ``fail`` may simply be called again. Any other call records another event,
    after that one.

    It is a context manager. Leaving it sends what is held back and gives the lease back. Leaving it with an
    exception records ``agent.error``, and raises that exception even if recording fails; KeyboardInterrupt,
    SystemExit, GeneratorExit and cancellation record nothing. None of this ends the run: only ``finish`` and
    ``fail`` do, and a request to cancel it: a Run that RunCancelled told of one ends the run as cancelled when it
    is left.

    With ``deltas`` text is held back for a moment and appended together: when the buffer is full, when its first
    delta is old enough (a thread sees to that), before anything else that is written through this Run, by
    ``flush`` and on leaving. A crash loses what is held back at that moment, at most what
    :class:`~runstream.model.results.DeltaBuffer` allows, and nothing else: all that is not a delta is kept when
    its call returns. What could not be sent stays held, and goes out again as the same append, which is applied
    once. If that failed in the background, the next call that writes raises it, and has then done nothing; the one
    after that tries again. After DurabilityNotReached all is there, what was held back and what the call wrote.

    It is a :class:`~runstream.model.protocols.Checkpointer` for its run. All that is written through it carries
    the lease, and raises LeaseLost when that has passed on.

    Args:
        operations: The store's operations, for one writer.
        runner: Runs them.
        request: The arguments of ``open_run``.
    """

    lease: Lease[E, S] | None

    def __init__(self, operations: StoreOperations[E, S], runner: SyncRunner, request: RunRequest) -> None:
        super().__init__(operations, request)
        self._runner = runner
        self._begin()

    def _begin(self) -> None:
        super()._begin()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    @classmethod
    def open(cls, operations: StoreOperations[E, S], runner: SyncRunner, request: RunRequest) -> Self:
        """Recover the lane and go on with it; a store's ``open_run`` calls this.

        Args:
            operations: The store's operations, for one writer.
            runner: Runs them.
            request: The arguments of ``open_run``.

        Returns:
            The handle.

        Raises:
            RunstreamError: What the store's ``recover`` and ``lease`` raise.
        """
        run = cls(operations, runner, request)
        runner.run(run._opening(request))
        return run

    def _hold_lease(self, grant: LeaseGrant, asked_at: float) -> None:
        self.lease = Lease(self._operations, self._runner, grant, asked_at)

    def emit(
        self,
        kind: EventKind | str,
        payload: Mapping[str, Any] | None = None,
        /,
        *,
        key: str | None = None,
        parent_span_id: str | None = None,
        visibility: Visibility | str = Visibility.PUBLIC,
        **fields: Any,
    ) -> Recorded[E]:
        """Append one event of this lane.

        An event whose ``key`` the run knows is not written again: this gives the offset and the event of its first
        append, or the event just made where this store no longer has that one.

        Args:
            kind: What happened; a kind that this version does not know is kept as a plain string.
            payload: The event's own data; None for none.
            key: A key of at most 512 bytes under which the run records the event once; None for no key.
            parent_span_id: The ``span_id`` of the event that this one came from.
            visibility: Who may see it.
            **fields: More of the payload, by name; they win over ``payload``.

        Returns:
            The event with its offset and its cursor.

        Raises:
            LeaseLost: The lease has passed on or run out; nothing was written.
            RunCancelled: The run is to be cancelled; nothing was written. It is raised once: what is emitted then
                undoes what is half done.
            StoreUnavailable: It is unknown whether the event was written. ``error.resend()`` writes it once
                and returns what this would have returned; it may be called at any time, and more than once. What
                is appended next to the run goes after it. To emit it again makes another event, with another
                ``ts`` and ``seq``; with the same ``key`` it is recorded once all the same.
            RunstreamError: What the store's ``append`` raises.
        """
        emission = Emission(kind, joined_payload(payload, fields), key, parent_span_id, visibility)
        return self._do(partial(self._emitting_one, emission))

    def emit_many(
        self, items: Iterable[Emission | tuple[Any, ...] | str], *, checkpoint: bool = False
    ) -> list[Recorded[E]]:
        """Append several events of this lane in one atomic step, and the state with them if ``checkpoint``.

        Args:
            items: The events. Each is an :class:`~runstream.Emission`, a tuple of the first of its fields
                (``(kind, payload)``, ``(kind, payload, key)``), or just a kind. An event whose key is known leaves
                a gap in ``seq`` if others of its batch come after it. A batch of nothing but such events writes
                nothing, the state included: that was saved when they were.
            checkpoint: Save the state too, as ``checkpoint()`` does.

        Returns:
            The events with their offsets and cursors, in the order of ``items``.

        Raises:
            EncodingError: An item is no event, or cannot be stored; nothing was written.
            ConcurrencyConflict: The state is to be saved, and another was saved since the one that this Run knows.
            RunstreamError: What ``emit`` raises.
        """
        emissions = emissions_of(items)
        return self._do(partial(self._emitting, emissions, checkpoint=checkpoint))

    def emit_delta(self, text: str, **fields: Any) -> None:
        """Append a piece of text as ``text.delta``, or hold it back until the buffer is flushed.

        Args:
            text: The text.
            **fields: What else its payload has, by name.

        Raises:
            EncodingError: It cannot be stored.
            RunstreamError: What ``emit`` raises. Where there is a buffer, also what failed in the background. A
                call that raises has not taken the text, unless it is DurabilityNotReached; without a buffer the
                outcome is that of ``emit``.
        """
        self._do(partial(self._emitting_delta, text, fields))

    def flush(self) -> None:
        """Append the text that is held back, now.

        Raises:
            RunstreamError: What ``emit`` raises; the text stays held and goes out again as the same append.
        """
        self._do(self._going_first)

    def checkpoint(self) -> None:
        """Save the state as the snapshot of this lane; the main lane's is the run's.

        A state that is pending becomes a running one, as one that has ended does with a new ``run.started``; its
        ``updated_at`` is set, and ``started_at`` where that is 0. They are as before if nothing was saved. What
        the state's class left out of the state that this Run has loaded last is put back.

        Raises:
            ConcurrencyConflict: Another was saved since the one that this Run knows: open the run again, or load
                that state and go on with it.
            RunstreamError: What ``emit`` raises.
        """
        self._do(self._checkpointing)

    def follow(self, after: int | str = 0, **filters: Unpack[FollowFilters]) -> Iterator[Recorded[E]]:
        """The events of the run, then those that come; of all lanes, unless a filter says otherwise.

        Args:
            after: An offset, or a cursor, after which to begin.
            **filters: ``idle_timeout`` (in seconds), ``lane_id``, ``kinds`` and ``visibility``, as the store's
                ``follow`` takes them.

        Returns:
            The events as they come; it ends when the run has ended and all was given.

        Raises:
            TimeoutError: There was no event to give for ``idle_timeout`` seconds.
            RunstreamError: What the store's ``follow`` raises.
        """
        return self._runner.follow(self._operations.follow(self.run_id, FollowQuery(after, **filters)))

    def pause(self, question: Any, /, *, key: str | None = None, **fields: Any) -> Recorded[E]:
        """Ask a person: append the question and save the state as paused, in one atomic step.

        The run is listed as paused, with its question, until the store's ``answer`` answers it from any process.
        A lane waits with one question at a time: the one that it asked last. An agent that asks again after a
        restart names the question by a key, and has asked once.

        Args:
            question: What is asked: a text, or any value that can be stored.
            key: A key of at most 495 bytes under which the run records the question once; it is the question's id.
                None: each call asks anew, under an id of its own.
            **fields: What else the payload has, by name.

        Returns:
            The event, ``human.approval.requested``, whose payload has ``question_id`` and ``question``.

        Raises:
            ConfigurationError: This store keeps no questions: it is an archive.
            RunCancelled: The run is to be cancelled.
            RunstreamError: What ``emit`` and ``checkpoint`` raise.
        """
        return self._do(partial(self._pausing, self._asking(question, key, fields)))

    def wait(self, question_id: str | None = None, *, timeout: float | None = None) -> Any:
        """Wait for the answer to the question that this lane has asked last, in this process or before a restart.

        The state is one of a run at work then, and the next checkpoint covers the answer. Called again, it gives
        the same answer at once.

        Args:
            question_id: Wait for this question only; None: the one that the lane asked last.
            timeout: After how many seconds to give up; None: never. The question waits on.

        Returns:
            The answer.

        Raises:
            TimeoutError: There was no answer for ``timeout`` seconds.
            RunCancelled: The run is to be cancelled, or has ended meanwhile.
            ConfigurationError: The lane has asked no such question, or this store keeps no questions.
            EventsArchived: The answer is longer than 64 KiB, and has left Redis: a tiered store has it.
            StoreUnavailable: The store gave no answer; the same call may be made again.
        """
        self._do(self._sending_first)
        waiting: Any = self._runner.follow(self._waiting(question_id, timeout))
        with closing(waiting) as answers:
            return next(answers)

    def once(
        self,
        key: str,
        call: Callable[..., Any],
        /,
        *args: Any,
        attempts: int | None = None,
        record_start: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Take a durable step: give the result that the run has recorded, or make the call and record its result.

        A call that has returned is not made again, by whichever process, after whatever crash: its result is an
        event of this lane, ``tool.result``, appended under the key ``once:KEY``, and there is at most one of it.
        Where two processes make the call at once, the first result that is recorded counts, and both give that
        one; under a lease, that of a stale worker is refused. Through this Run a step is taken once at a time, and
        other threads may take others meanwhile.

        The outside effect of the call can happen more than once: a process that dies between the call and the
        record leaves no trace of it, and the call is made again. So that whoever it calls can tell a repeated
        request, pass on ``operation_id(key)``, which is the same each time.

        An exception of the call is recorded and raised, and the call is made again the next time. It is recorded
        as ``tool.error``, or as ``agent.error`` if ``attempts`` allows no further one; its payload has the
        ``step``, the number of the ``attempt`` and the ``error``. Only recorded failures count as attempts.
        KeyboardInterrupt, SystemExit and cancellation record nothing.

        Args:
            key: What names the step in the run: a key of at most 490 bytes.
            call: What to call. What it returns is kept and given as plain data, at the first time too: what can be
                stored (docs/values.md), and what ``fallback`` makes of the rest.
            *args: What to call it with.
            attempts: After so many recorded failures the call is not made any more; None: it always is.
            record_start: Append ``tool.started`` before the call is made.
            **kwargs: What to call it with, by name.

        Returns:
            The result as it is recorded.

        Raises:
            StepFailed: It has failed ``attempts`` times; the call was not made.
            LeaseLost: The lease has passed on or run out; if that is known before, the call was not made.
            RunCancelled: The run is to be cancelled. What has come of the call is recorded all the same.
            EncodingError: The call was made, and its result cannot be stored; PayloadTooLarge where it is over the
                store's limit. ``error.result`` has it, as it has after any other error of ours that comes after
                the call.
            EventsArchived: The result was recorded, and has left Redis: a tiered store has it.
            ConfigurationError: These are no arguments of a step, or the event of that key is no result of one.
            StoreUnavailable: The same call may be made again. If the step's call had been made, this Run has kept
                what it returned, and records that then, as ``error.resend()`` does.
            RunstreamError: What ``emit`` raises. If the step's call had been made, the same holds.
        """
        step = Step(key, attempts, record_start)
        step.check(call)
        with self._lock:
            lock = self._locks.setdefault(key, threading.RLock())
        with lock:
            made = self._made.get(key)
            if made is not None:  # what it has returned could not be recorded
                return self._make(*made)
            begun = self._do(partial(self._beginning, step))
            if begun.is_known:
                return begun.result
            try:
                result = call(*args, **kwargs)
            except Exception as error:
                self._do(partial(self._keeping_failure, begun, error))
                raise
            check_returned(result)
            return self._make(*self._returned(begun, result))

    def finish_lane(self) -> None:
        """End this lane, and not the run: save the state as the lane's snapshot, in one atomic step.

        The lane holds up trimming no more, and leaves Redis once it is archived. What is written through this Run
        later opens it again, as opening it does: where it has left Redis, that takes the tiered store.

        Raises:
            ConfigurationError: It is the main lane, which ends with the run.
            ConcurrencyConflict: Another snapshot was saved since the one that this Run knows.
            RunstreamError: What ``emit`` raises.
        """
        self._do(self._finishing_lane)

    def finish(self, payload: Mapping[str, Any] | None = None, /, **fields: Any) -> Recorded[E]:
        """End the run well: append ``run.finished`` and save the state as completed, in one atomic step.

        The state's ``status`` becomes ``completed`` and its ``finished_at`` is set; both are as before unless it
        is known to be there. A status of the author's own is left as it is. After StoreUnavailable and
        DurabilityNotReached the same call may be repeated: the run ends once.

        Args:
            payload: The event's own data; None for none.
            **fields: More of the payload, by name; they win over ``payload``.

        Returns:
            The event with its offset and its cursor.

        Raises:
            ConcurrencyConflict: Another snapshot was saved since the one that this Run knows.
            ConfigurationError: The state would contradict the event; nothing was written.
            RunstreamError: What ``emit`` raises.
        """
        payload = joined_payload(payload, fields)
        return self._do(partial(self._ending, EventKind.RUN_FINISHED, RunStatus.COMPLETED, payload))

    def fail(self, error: BaseException | str, /, **fields: Any) -> Recorded[E]:
        """End the run badly: append ``run.error`` and save the state as failed, in one atomic step.

        The state's ``status`` becomes ``failed`` and its ``finished_at`` is set; both are as before unless it
        is known to be there. A status of the author's own is left as it is. After StoreUnavailable and
        DurabilityNotReached the same call may be repeated: the run ends once.

        Args:
            error: What went wrong. The payload has its text as ``error``, and its class as ``type``: None for a
                string.
            **fields: More of the payload, by name; they win over those two.

        Returns:
            The event with its offset and its cursor.

        Raises:
            ConcurrencyConflict: Another snapshot was saved since the one that this Run knows.
            ConfigurationError: The state would contradict the event; nothing was written.
            RunstreamError: What ``emit`` raises.
        """
        payload = {**error_payload(error), **fields}
        return self._do(partial(self._ending, EventKind.RUN_ERROR, RunStatus.FAILED, payload))

    def close(self) -> None:
        """Send what is held back and give the lease back, as leaving the context manager does.

        Raises:
            RunstreamError: What was held back could not be sent, and is lost, or the lease could not be given
                back.
        """
        self._do(lambda _: self._leaving(None))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(lambda _: self._leaving(error))

    def save_event(self, event: E) -> None:
        """Append an event that was made elsewhere; the numbering of this lane goes on after its ``seq``.

        Args:
            event: The event, of this run and of any lane.

        Raises:
            InvalidRunId: It belongs to another run.
            StoreUnavailable: There was no answer: the same event may be sent again and is applied once.
            RunstreamError: What the store's ``append`` raises.
        """
        self._do(partial(self._saving_event, event))

    def save_snapshot(self, run_id: str, state: S) -> None:
        """Replace the snapshot of this lane, whoever saved the one before. ``self.state`` stays as it is.

        Args:
            run_id: This Run's run.
            state: The state to save; it is taken as it is now.

        Raises:
            InvalidRunId: It is another run.
            LeaseLost: The lease has passed on or run out; nothing was written.
            RunstreamError: What the store's ``save_snapshot`` raises.
        """
        self._do(partial(self._saving_snapshot, run_id, state))

    def load_latest(self, run_id: str) -> S | None:
        """The state of the latest snapshot of this lane, or None. ``self.state`` stays as it is.

        Args:
            run_id: This Run's run.

        Raises:
            InvalidRunId: It is another run.
            RunstreamError: What the store's ``load_snapshot`` raises.
        """
        return self._runner.run(self._loading_latest(run_id))

    def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The run's events with ``seq > since_seq``, of all lanes, in log order.

        Args:
            run_id: This Run's run.
            since_seq: The producer's number after which to begin; 0 or less gives all events.

        Raises:
            InvalidRunId: It is another run.
            RunstreamError: What the store's ``list_events`` raises.
        """
        return self._runner.run(self._listing_events(run_id, since_seq))

    def _do(self, write: Callable[[WriteCall[E]], Operation[T]]) -> T:
        return self._make(write, WriteCall())

    def _make(self, write: Callable[[WriteCall[E]], Operation[T]], call: WriteCall[E]) -> T:
        """Run one operation at a time, so that the lane's numbers and the order of its events agree."""
        with self._lock:
            try:
                if not call.is_done:
                    call.result = self._runner.run(self._completing(write(call), call))
                    call.is_done = True
            except StoreUnavailable as error:
                call.tell_next_step(error, partial(self._make, write, call))
                raise
            finally:
                self._set_timer()
            result: T = call.result
            return result

    def _set_timer(self) -> None:
        seconds = self._seconds_to_flush
        if self._timer is not None and seconds is None:
            self._timer.cancel()
            self._timer = None
        elif self._timer is None and seconds is not None:
            self._timer = threading.Timer(seconds, self._flush_in_time)
            self._timer.daemon = True
            self._timer.start()

    def _flush_in_time(self) -> None:
        with self._lock:
            self._timer = None
            self._runner.run(self._flushing_quietly())
