"""Durable steps: a call that is made until its result is recorded, once, under a key of the run.

A step is an append with a key, and nothing else is kept of it: its result is the event of the key ``once:KEY``,
and its failures are those of the keys ``once-failed:1:KEY``, ``once-failed:2:KEY``, … So one look-up gives the
result, or how often it has failed; and whoever records a result second is given the first.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from runstream.model.errors import ConfigurationError, EncodingError, RunCancelled, RunstreamError, StepFailed
from runstream.model.events import EventKind
from runstream.model.identifiers import check_name, shown
from runstream.model.results import E, S
from runstream.operations.arguments import check_count
from runstream.operations.filters import field_of, payload_of, text_of
from runstream.operations.interface import AppendResult
from runstream.operations.messages import lease_lost
from runstream.operations.operation import Operation
from runstream.run.emission import Emission, error_payload
from runstream.run.people import AskingWriter
from runstream.run.write_call import WriteCall, noting

__all__ = ["Begun", "Step", "SteppingWriter", "check_returned"]

_FIRST_LOOK = 4
"""How many failures of a step are looked up with its result; of more, ever more."""

_CALL_AGAIN = "the call of the step was not made: call once(...) again"
_RECORD = "this Run has kept it: the same once(...), or the error's .resend() (awaited of an AsyncRun), records it"


class Step(NamedTuple):
    """A step as it is asked for; see :meth:`runstream.run.Run.once`."""

    key: str
    attempts: int | None
    record_start: bool

    def check(self, call: Any) -> None:
        """Raise ConfigurationError or EncodingError, naming the argument that does not fit."""
        if not callable(call):
            raise ConfigurationError(f"call={shown(call)}: pass the function, and what to call it with after it")
        check_name("key", self.key)
        check_name("key", _failure_key(self.key, 10**8))
        check_count("attempts", self.attempts)
        if self.attempts == 0:
            raise ConfigurationError("attempts=0: attempt it at least once, or pass None for any number of times")


class Begun(NamedTuple):
    """A step that has begun: its result if that is recorded, and how often it has failed."""

    step: Step
    failures: int = 0
    is_known: bool = False
    result: Any = None


@dataclass(slots=True)
class _Returned:
    """What the call of a step has returned, and the event that is to record it, once it is made."""

    begun: Begun
    result: Any
    emission: Emission | None = None


Keeping: TypeAlias = tuple[Callable[[WriteCall[Any]], Operation[Any]], WriteCall[Any]]
"""What records a result, and the call of it, which may have been made before."""


class SteppingWriter(AskingWriter[E, S], Generic[E, S]):
    """The writer of one lane, and the steps that it takes once."""

    def operation_id(self, key: str) -> str:
        """The id of a step, the same for each attempt in any process: for what can tell a repeated request by it.

        It is made from the run's id and the key alone: a run that is made anew under a former id has the same.

        Args:
            key: The step's key.

        Returns:
            32 hexadecimal digits.

        Raises:
            EncodingError: It is no key.
        """
        check_name("key", key)
        named = f"{len(self.run_id)}:{self.run_id}:{key}"
        return hashlib.sha256(named.encode()).hexdigest()[:32]

    def _begin(self) -> None:
        self._made: dict[str, Keeping] = {}  # what calls have returned, until it is recorded
        self._locks: WeakValueDictionary[str, Any] = WeakValueDictionary()  # of the steps that are under way

    def _beginning(self, step: Step, call: WriteCall[E]) -> Operation[Begun]:
        """Look a step up; and where its call is to be made, check that it may be."""
        call.next_step, call.resends, call.puts_off = _CALL_AGAIN, False, True
        offset, failures = yield from self._looking_up(step.key)
        if offset is not None:
            return Begun(step, is_known=True, result=(yield from self._result_at(step.key, offset)))
        with self._noting_loss():  # which refuses a forked process
            if self.lease is not None and self.lease.lost:
                raise lease_lost(self.lease.grant)
        if step.attempts is not None and failures >= step.attempts:
            raise StepFailed(
                f"step {step.key!r} of run {self.run_id!r} has failed {failures} times, and is to be attempted"
                f" {step.attempts} times; the call was not made: see why it fails (its tool.error and agent.error"
                " events), and pass more attempts",
                run_id=self.run_id,
                key=step.key,
                attempts=failures,
            )
        if step.record_start:
            payload = {"step": step.key, "attempt": failures + 1}
            yield from self._emitting_one(Emission(EventKind.TOOL_STARTED, payload), call)
        return Begun(step, failures)

    def _looking_up(self, key: str) -> Operation[tuple[int | None, int]]:
        """The offset of a step's result, None without one, and how often it has failed."""
        failures, count = 0, _FIRST_LOOK
        while True:
            numbers = range(failures + 1, failures + 1 + count)
            keys = [_result_key(key), *(_failure_key(key, number) for number in numbers)]
            result, *failed = yield from self._operations.find(self.run_id, keys)
            failures += failed.index(None) if None in failed else count
            if result is not None or None in failed:
                return result, failures
            count *= 2

    def _result_at(self, key: str, offset: int) -> Operation[Any]:
        for recorded in (yield from self._operations.read_at(self.run_id, [offset])):
            payload = payload_of(recorded.event)
            if text_of(field_of(recorded.event, "kind")) == EventKind.TOOL_RESULT and "result" in payload:
                return payload["result"]
        raise ConfigurationError(
            f"event {offset} of run {self.run_id!r} has the key {_result_key(key)!r}, and is not the result of a"
            " step: take another key"
        )

    def _returned(self, begun: Begun, result: Any) -> Keeping:
        """What records the result of a call; this Run remembers it until that is done."""
        returned = _Returned(begun, result)
        keeping: Keeping = (lambda call: self._keeping(returned, call)), WriteCall(next_step=_RECORD)
        self._made[begun.step.key] = keeping
        return keeping

    def _keeping(self, returned: _Returned, call: WriteCall[E]) -> Operation[Any]:
        """Record what a call has returned, and give it as it is recorded; or what was recorded first."""
        key = returned.begun.step.key
        try:
            emission = returned.emission = returned.emission or self._emission_of(returned)
            placement, cancelled = yield from self._telling(emission, call)
        except RunstreamError as error:
            if isinstance(error, EncodingError):  # it would be refused for ever
                self._made.pop(key, None)
            _carry(error, returned, "and that is not recorded")
            raise
        self._made.pop(key, None)
        if cancelled is not None:
            _carry(cancelled, returned, "and that is recorded")
            raise cancelled
        result = (emission.payload or {})["result"]
        if placement.known:
            result = returned.result = yield from self._result_at(key, placement.cursors[0].offset)
        if self._shortfall is not None:
            _carry(self._shortfall, returned, "and a result is recorded, which the same once(...) gives")
        return result

    def _emission_of(self, returned: _Returned) -> Emission:
        step, failures, *_ = returned.begun
        plain = self._operations.codec.packer.plain(returned.result, "payload.result", 2)
        payload = {"step": step.key, "attempt": failures + 1, "result": plain}
        return Emission(EventKind.TOOL_RESULT, payload, _result_key(step.key))

    def _keeping_failure(self, begun: Begun, error: Exception, _: WriteCall[E]) -> Operation[None]:
        """Record that a call has failed. If that fails too, it is a note on the error."""
        cancelled: list[RunCancelled] = []
        if not isinstance(error, RunCancelled):  # of a write that the call made itself
            yield from noting(
                error, "the failure is not recorded", self._recording_failure(begun, error, cancelled)
            )
        self._note_shortfall(error)
        for one in cancelled:
            raise one from error

    def _recording_failure(self, begun: Begun, error: Exception, cancelled: list[RunCancelled]) -> Operation[None]:
        step, attempt = begun.step, begun.failures
        while True:
            attempt += 1
            is_last = step.attempts is not None and attempt >= step.attempts
            payload = {"step": step.key, "attempt": attempt, **error_payload(error)}
            kind = EventKind.AGENT_ERROR if is_last else EventKind.TOOL_ERROR
            emission = Emission(kind, payload, _failure_key(step.key, attempt))
            placement, stopped = yield from self._telling(emission, WriteCall())
            cancelled += [] if stopped is None else [stopped]
            if not placement.known:  # otherwise somebody else has failed meanwhile: that number is taken
                break
        if is_last:
            self._told_error = error

    def _telling(
        self, emission: Emission, call: WriteCall[E]
    ) -> Operation[tuple[AppendResult, RunCancelled | None]]:
        """Append what has come of a call, which is there: also in a run that is to be cancelled."""
        cancelled = None
        try:
            yield from self._going_first(call)
            placement = yield from self._placing([emission], call)
        except RunCancelled as error:
            cancelled = error
            yield from self._going_first(call)
            placement = yield from self._placing([emission], call)
        return placement, cancelled


def check_returned(result: Any) -> None:
    """Raise ConfigurationError for a coroutine that nobody awaits."""
    if inspect.iscoroutine(result):
        result.close()
        raise ConfigurationError(
            f"{result.__qualname__} is a coroutine function: an AsyncRun awaits it (connect_async), a Run does not"
        )


def _result_key(key: str) -> str:
    return f"once:{key}"


def _failure_key(key: str, number: int) -> str:
    return f"once-failed:{number}:{key}"


def _carry(error: RunstreamError, returned: _Returned, what: str) -> None:
    """Let the error say that the call was made, and carry what it returned."""
    key = returned.begun.step.key
    error.args = (f"{error.args[0]}; the call of step {key!r} was made and has returned error.result, {what}",)
    error.result = returned.result
