"""The errors themselves, each with its facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

__all__ = [
    "AcknowledgedWritesLost",
    "ArchiveGap",
    "ConcurrencyConflict",
    "ConfigurationError",
    "CorruptRecordError",
    "DurabilityNotReached",
    "EncodingError",
    "EventRefused",
    "EventsArchived",
    "HistoryDiverged",
    "InvalidRunId",
    "LeaseHeld",
    "LeaseLost",
    "PayloadTooLarge",
    "RunCancelled",
    "RunHasForks",
    "RunstreamError",
    "StepFailed",
    "StoreUnavailable",
    "TooManyHotEvents",
    "TooManyPending",
    "UnsupportedVersion",
]


def _rebuild(cls: type[RunstreamError], message: str, facts: dict[str, Any]) -> RunstreamError:
    """An error as it was pickled: without its ``__init__``, which takes the facts by name."""
    error = cls.__new__(cls)
    error.args = (message,)
    error.__dict__.update(facts)
    return error


class RunstreamError(Exception):
    """The root of the tree: ``except RunstreamError`` catches every error of runstream.

    Every error takes its message first, and its other attributes by name.

    Attributes:
        result: From ``Run.once``, after the call of the step was made: what that returned. None from anywhere
            else, and after pickling.

    Args:
        message: What happened, and what to do next.
    """

    result: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        # the facts are keyword arguments, which the default protocol would drop between processes
        # and what a call returned may be anything
        # and what is carried from one operation to another belongs to the objects of this process
        facts = {name: value for name, value in vars(self).items() if name != "result" and name[0] != "_"}
        return _rebuild, (type(self), str(self), facts)


class ConfigurationError(RunstreamError):
    """This store, server, URL or combination of options cannot give what was asked for."""


class InvalidRunId(RunstreamError):
    """A run id is no string of 1 to 512 bytes of UTF-8, or an event belongs to another run."""


class EncodingError(RunstreamError):
    """A value cannot be stored.

    Attributes:
        path: The part that cannot be stored, as in ``payload.args[3]``; empty where there is no part to name.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class PayloadTooLarge(EncodingError):
    """An encoded event is over the store's ``max_event_bytes``.

    Attributes:
        size: The event's size in bytes.
        limit: The largest size that the store takes, in bytes.
    """

    def __init__(self, message: str, *, path: str = "", size: int, limit: int) -> None:
        super().__init__(message, path=path)
        self.size = size
        self.limit = limit


class CorruptRecordError(RunstreamError):
    """A stored record, snapshot or key fails its checksum or cannot be decoded. Its neighbours are not affected.

    Attributes:
        run_id: The run.
        offset: The offset of the record; 0 for a snapshot, and for a key.
        raw: The bytes as they are stored, where they are at hand.
        key: The key in Redis, where it is not one record of it that is damaged; '' otherwise.
    """

    def __init__(self, message: str, *, run_id: str, offset: int = 0, raw: bytes = b"", key: str = "") -> None:
        super().__init__(message)
        self.run_id = run_id
        self.offset = offset
        self.raw = raw
        self.key = key


class EventRefused(RunstreamError):
    """The store's class for events or states, or a rule of its Upcasts, does not take what reads. It is sound.

    What the class or the rule raised is the ``__cause__``.

    Attributes:
        run_id: The run.
        offset: The offset of the event; for a state, the offset that its snapshot covers.
        event_type: The qualified name of the class, or of the rule.
        fields: The event, or the state, as plain fields.
    """

    def __init__(
        self, message: str, *, run_id: str, offset: int, event_type: str, fields: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.offset = offset
        self.event_type = event_type
        self.fields: dict[str, Any] = {} if fields is None else fields


class UnsupportedVersion(RunstreamError):
    """Data or an archive was written in a newer format than this runstream reads, or by a newer program.

    Attributes:
        found: The version that was found.
        supported: The newest version that this runstream, or the program's own Upcasts, read.
        run_id: The run; '' where it is not about one.
        offset: The event's offset, or the one that a snapshot covers; 0 where it is about neither.
    """

    def __init__(self, message: str, *, found: int, supported: int, run_id: str = "", offset: int = 0) -> None:
        super().__init__(message)
        self.found = found
        self.supported = supported
        self.run_id = run_id
        self.offset = offset


class ConcurrencyConflict(RunstreamError):
    """Another writer came first; nothing was written.

    Attributes:
        expected: The offset that the writer expected the run to end at; for a snapshot, the revision it knew of.
        actual: The offset that the run ends at; for a snapshot, the revision of the latest.
    """

    def __init__(self, message: str, *, expected: int, actual: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class LeaseLost(RunstreamError):
    """The lease under which a call was sent has passed to another owner or run out; nothing was written."""


class LeaseHeld(RunstreamError):
    """Somebody else's lease is in the way; nothing was written.

    Attributes:
        owner: Who holds it.
        expires_in: In how many seconds it runs out, unless it is renewed.
    """

    def __init__(self, message: str, *, owner: str, expires_in: float) -> None:
        super().__init__(message)
        self.owner = owner
        self.expires_in = expires_in


class RunCancelled(RunstreamError):
    """A person has asked for the run to be cancelled; nothing was written. A Run raises it once.

    Attributes:
        run_id: The run.
        reason: Why; "" where nobody said.
    """

    def __init__(self, message: str, *, run_id: str, reason: str = "") -> None:
        super().__init__(message)
        self.run_id = run_id
        self.reason = reason


class RunHasForks(RunstreamError):
    """Runs need the history of this one, as they were forked from it; nothing was deleted.

    Attributes:
        run_id: The run.
        forks: The ids of the runs that were forked from it.
    """

    def __init__(self, message: str, *, run_id: str, forks: Sequence[str]) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.forks = tuple(forks)


class StepFailed(RunstreamError):
    """A durable step has failed as often as it may; its call was not made.

    Attributes:
        run_id: The run.
        key: The key of the step.
        attempts: How often it has failed.
    """

    def __init__(self, message: str, *, run_id: str, key: str, attempts: int) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.key = key
        self.attempts = attempts


class TooManyHotEvents(RunstreamError):
    """The run would have more events in Redis than the store's ``max_hot_events``; nothing was written.

    Attributes:
        run_id: The run.
        hot_events: How many events it has in Redis.
        limit: How many it may have.
    """

    def __init__(self, message: str, *, run_id: str, hot_events: int, limit: int) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.hot_events = hot_events
        self.limit = limit


class DurabilityNotReached(RunstreamError):
    """What was written is there, and may not be as durable as was asked for.

    Attributes:
        run_id: The run; the first one that is not as durable where several were written to.
        offset: The offset of the last event that was written, or whose key was known; where the call had none, of
            the run's last event that this store has seen; 0 if there is none.
        wanted: The durability that was asked for.
        reached: The one that was reached when the wait ended.
    """

    def __init__(self, message: str, *, run_id: str, offset: int, wanted: str, reached: str) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.offset = offset
        self.wanted = wanted
        self.reached = reached


class TooManyPending(RunstreamError):
    """As many events wait to be written as may; this one was neither queued nor given to anybody.

    Attributes:
        events: How many wait.
        size: How many bytes their records have.
    """

    def __init__(self, message: str, *, events: int, size: int) -> None:
        super().__init__(message)
        self.events = events
        self.size = size


class AcknowledgedWritesLost(RunstreamError):
    """The server no longer has events that it acknowledged, as after a failover.

    Attributes:
        run_id: The run.
        last_seen: The last offset that was seen; the events after ``last_present`` up to it are lost.
        last_present: The last offset that the run has now.
    """

    def __init__(self, message: str, *, run_id: str, last_seen: int, last_present: int) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.last_seen = last_seen
        self.last_present = last_present


class HistoryDiverged(RunstreamError):
    """Two histories of one run differ: events were lost, and others have their offsets now.

    Attributes:
        run_id: The run.
        offset: They differ at this offset or before.
    """

    def __init__(self, message: str, *, run_id: str, offset: int) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.offset = offset


class EventsArchived(RunstreamError):
    """What was asked for has been archived and has left Redis.

    Attributes:
        run_id: The run.
        first_hot: The first offset that is still in Redis.
        archives: The locations of the archives that have the rest, as far as they are known.
    """

    def __init__(self, message: str, *, run_id: str, first_hot: int, archives: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.first_hot = first_hot
        self.archives: tuple[str, ...] = tuple(archives)


class ArchiveGap(RunstreamError):
    """An archive has a hole in a run, or would be left with one; nothing was written to it.

    Attributes:
        run_id: The run.
        expected: The first offset that is missing.
        found: The offset that it has, or was offered, instead.
    """

    def __init__(self, message: str, *, run_id: str, expected: int, found: int) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.expected = expected
        self.found = found


class StoreUnavailable(RunstreamError):
    """The store cannot be reached, or its reply was lost: whether the call took effect is unknown.

    The same events may be sent again on the same store object: they are applied once. A Run makes events of its
    own at every call, so its errors carry what to call instead.

    Attributes:
        resend: From a Run or an AsyncRun: a function without arguments (a coroutine function) that sends again
            what the failed call sent, takes effect once however often it is called, and returns what that call
            would have returned, or raises what it would have raised. None from anywhere else, after pickling, and
            where the outcome can never be known.
        next_step: What to do next, the end of the message; "" where the message says it already.
    """

    resend: Callable[[], Any] | None = None
    is_final: ClassVar[bool] = False  # the outcome is never known any more, and nothing is sent again

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step

    @property
    def reason(self) -> str:
        """What is wrong, without the next step."""
        return super().__str__()

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.reason, self.next_step)))

    def __reduce__(self) -> tuple[Any, ...]:
        # what sends again belongs to the objects of this process
        return _rebuild, (type(self), self.reason, {"next_step": self.next_step})
