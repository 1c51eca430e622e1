"""One call that writes through a Run, as it is made again: it sends what it sent before, and takes effect once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeGuard

from runstream.model.clock import unix_seconds
from runstream.model.errors import DurabilityNotReached, RunstreamError, StoreUnavailable
from runstream.model.events import EventKind
from runstream.model.results import E
from runstream.operations.arguments import Sender
from runstream.operations.operation import Operation, carried_resolution, settled

__all__ = ["RepeatableEnd", "WriteCall", "is_applied", "is_refusal", "noting"]

_RESEND = (
    "the error's .resend() (awaited of an AsyncRun) makes this call take effect once, whether it did so already or"
    " not, and returns its result; a new call records another event"
)


def is_refusal(error: BaseException) -> bool:
    """Whether the store has said that it wrote nothing."""
    return isinstance(error, RunstreamError) and not (isinstance(error, StoreUnavailable) or is_applied(error))


def is_applied(error: BaseException) -> TypeGuard[DurabilityNotReached]:
    """Whether the store has said that it wrote all, though that is not as durable as was asked for."""
    return isinstance(error, DurabilityNotReached)


def noting(error: BaseException | None, consequence: str, operation: Operation[Any]) -> Operation[None]:
    """Run an operation; where it fails while an error is in flight, that becomes a note on the error.

    Args:
        error: The error in flight; None: there is none, and what fails is raised.
        consequence: What it means that the operation has failed.
        operation: The operation.
    """
    try:
        yield from operation
    except Exception as failure:  # whatever it is, the error in flight is the one to be raised
        if error is None:
            raise
        error.add_note(f"runstream: {consequence}: {type(failure).__name__}: {failure}")


@dataclass(slots=True, eq=False)
class WriteCall(Generic[E]):
    """What is remembered of one call that writes, for the case that it is made again.

    Attributes:
        began: When it was first made, in Unix time.
        events: The events that it made; None before that.
        seqs: Their numbers in the lane.
        resolve: Resolves what it sent and got no reply to, or waits again for what is not as durable as was asked
            for; None if it sent nothing, or knows what became of it.
        is_done: Whether it has succeeded.
        result: What it returned then.
        sender: Who sends it: a request to cancel stops what a Run is asked to write, and not what ends it.
        status: The run's status after it, whatever it writes; "": what that says.
        next_step: What to do where its outcome is unknown.
        resends: Whether that is to send again what it sent.
        end_lanes: The lanes that it ends.
        puts_off: Whether it leaves it to the next call to tell what is not as durable as was asked for.
    """

    began: float = field(default_factory=unix_seconds)
    events: Sequence[E] | None = None
    seqs: range = range(0)
    resolve: Callable[[], Operation[Any]] | None = None
    is_done: bool = False
    result: Any = None
    sender: Sender = "run"
    status: str = ""
    next_step: str = _RESEND
    resends: bool = True
    end_lanes: Sequence[str] = ()
    puts_off: bool = False

    def tell_next_step(self, error: StoreUnavailable, resend: Callable[[], Any]) -> None:
        """Let an error say what to do, and carry what does; one whose outcome is never known says that itself."""
        if not error.is_final:  # what it would send could be there already, and be another event by then
            error.resend, error.next_step = resend if self.resends else None, self.next_step

    def sending(self, send: Callable[[], Operation[Any]]) -> Operation[tuple[Any, DurabilityNotReached | None]]:
        """Send; or, where that was done and got no reply, resolve it.

        Returns:
            What that returned; and the error where it is not as durable as was asked for: it is applied, so the
            call goes on.
        """
        try:
            result, shortfall = yield from settled((self.resolve or send)())
        except BaseException as error:  # a cancellation too
            self.resolve = carried_resolution(error) or self.resolve
            raise
        if shortfall is not None:
            self.resolve = carried_resolution(shortfall)
        return result, shortfall

    def take_over(self, former: WriteCall[E]) -> None:
        """Be the same call as one that was made before."""
        self.began, self.events, self.seqs, self.resolve = former.began, former.events, former.seqs, former.resolve


class RepeatableEnd(NamedTuple):
    """An end of the run that may be repeated, as its outcome is unknown, or it is not as durable as was asked for.

    It has what was asked for, and the call.
    """

    kind: EventKind
    payload: Mapping[str, Any]
    call: WriteCall[Any]
