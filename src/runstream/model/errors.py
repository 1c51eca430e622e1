"""The errors of runstream, one tree.

Every error that reaches a caller is one of these; an exception of redis-py or of
:mod:`sqlite3` appears only as ``__cause__``::

    RunstreamError
    ├── ConfigurationError        what was asked for cannot be given by this store or server
    ├── InvalidRunId              not a string of 1 to 512 bytes of UTF-8
    ├── EncodingError             a value that cannot be stored (path)
    │   └── PayloadTooLarge       an event over the size limit (size, limit; bytes)
    ├── CorruptRecordError        a stored record that does not read (run_id, offset, raw)
    ├── UnsupportedVersion        written by a newer runstream (found, supported)
    ├── ConcurrencyConflict       somebody else wrote first (expected, actual)
    ├── LeaseLost                 the lease has passed on or run out
    ├── LeaseHeld                 somebody else holds the lease (owner, expires_in; seconds)
    ├── AcknowledgedWritesLost    the server forgot what it acknowledged (run_id, last_seen, last_present)
    ├── HistoryDiverged           two histories of one run differ (run_id, offset)
    ├── EventsArchived            what was asked for has left Redis (run_id, first_hot, archives)
    ├── TooManyHotEvents          a run has as many events in Redis as it may (run_id, hot_events, limit)
    ├── ArchiveGap                an archive would be left with a hole (run_id, expected, found)
    └── StoreUnavailable          outcome unknown; the same call is safe to send again

Each carries its facts as attributes and says in its message what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "AcknowledgedWritesLost",
    "ArchiveGap",
    "ConcurrencyConflict",
    "ConfigurationError",
    "CorruptRecordError",
    "EncodingError",
    "EventsArchived",
    "HistoryDiverged",
    "InvalidRunId",
    "LeaseHeld",
    "LeaseLost",
    "PayloadTooLarge",
    "RunstreamError",
    "StoreUnavailable",
    "TooManyHotEvents",
    "UnsupportedVersion",
]


def _rebuild(cls: type[RunstreamError], message: str, facts: dict[str, Any]) -> RunstreamError:
    error = cls.__new__(cls)
    error.args = (message,)
    error.__dict__.update(facts)
    return error


class RunstreamError(Exception):
    """The root of the tree: ``except RunstreamError`` catches all that runstream raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # the facts are keyword arguments, which the default protocol would drop between processes
        return _rebuild, (type(self), str(self), self.__dict__)


class ConfigurationError(RunstreamError):
    """What was asked for cannot be given by this store, server, URL or combination of options."""


class InvalidRunId(RunstreamError):
    """A run id is not a string of 1 to 512 bytes of UTF-8, or an event belongs to another run."""


class EncodingError(RunstreamError):
    """A value cannot be stored; ``path`` names it (``payload.args[3]``)."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class PayloadTooLarge(EncodingError):
    """An encoded event is over the limit; ``size`` and ``limit`` are in bytes."""

    def __init__(self, message: str, *, path: str = "", size: int, limit: int) -> None:
        super().__init__(message, path=path)
        self.size = size
        self.limit = limit


class CorruptRecordError(RunstreamError):
    """The stored record at ``offset`` of ``run_id`` fails its checksum or cannot be decoded.

    ``raw`` holds the bytes as they are stored. The records before and after it are not affected:
    ``read(..., on_corrupt="skip")`` passes over it.
    """

    def __init__(self, message: str, *, run_id: str, offset: int, raw: bytes = b"") -> None:
        super().__init__(message)
        self.run_id = run_id
        self.offset = offset
        self.raw = raw


class UnsupportedVersion(RunstreamError):
    """Data or an archive was written in a format newer than this runstream knows."""

    def __init__(self, message: str, *, found: int, supported: int) -> None:
        super().__init__(message)
        self.found = found
        self.supported = supported


class ConcurrencyConflict(RunstreamError):
    """Another writer came first; nothing was written.

    ``expected`` and ``actual`` are offsets for an append, revisions for a snapshot.
    """

    def __init__(self, message: str, *, expected: int, actual: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class LeaseLost(RunstreamError):
    """The lease under which this was sent has passed to another owner or run out; nothing was written."""


class LeaseHeld(RunstreamError):
    """A lease of ``owner`` is in the way; it runs out in ``expires_in`` seconds unless it is renewed."""

    def __init__(self, message: str, *, owner: str, expires_in: float) -> None:
        super().__init__(message)
        self.owner = owner
        self.expires_in = expires_in


class AcknowledgedWritesLost(RunstreamError):
    """The server no longer has events that it acknowledged: offsets after ``last_present`` up to ``last_seen``."""

    def __init__(self, message: str, *, run_id: str, last_seen: int, last_present: int) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.last_seen = last_seen
        self.last_present = last_present


class HistoryDiverged(RunstreamError):
    """Two histories of one run differ at ``offset`` or before."""

    def __init__(self, message: str, *, run_id: str, offset: int) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.offset = offset


class EventsArchived(RunstreamError):
    """What was asked for has been archived and has left Redis.

    ``first_hot`` is the first offset still in Redis, ``archives`` are the locations where the rest is, as far
    as they are known.
    """

    def __init__(self, message: str, *, run_id: str, first_hot: int, archives: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.first_hot = first_hot
        self.archives = tuple(archives)


class TooManyHotEvents(RunstreamError):
    """With this append the run would have more than ``limit`` events in Redis, where it has ``hot_events``.

    Nothing was written. The limit is the store's ``max_hot_events``.
    """

    def __init__(self, message: str, *, run_id: str, hot_events: int, limit: int) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.hot_events = hot_events
        self.limit = limit


class ArchiveGap(RunstreamError):
    """An archive stands at offset ``expected - 1`` and was offered ``found`` next; nothing was written."""

    def __init__(self, message: str, *, run_id: str, expected: int, found: int) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.expected = expected
        self.found = found


class StoreUnavailable(RunstreamError):
    """The store cannot be reached, or the reply was lost; whether the call took effect is unknown.

    The same call is safe to send again.
    """
