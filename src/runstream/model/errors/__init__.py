"""The errors of runstream: one tree, explained here.

Every error of a store, an archive, a worker or a Run is one of these; an exception of redis-py or :mod:`sqlite3`
reaches a caller only as ``__cause__``. (Python's own TimeoutError ends a ``follow`` after its ``idle_timeout``.)
Each carries its facts as attributes, here in brackets, and its message says what to do next::

    RunstreamError
    ├── ConfigurationError        this store, server or URL cannot give what was asked for
    ├── InvalidRunId              no string of 1 to 512 bytes of UTF-8, or an event of another run
    ├── EncodingError             a value cannot be stored [path]
    │   └── PayloadTooLarge       an event is over the size limit [size, limit: bytes]
    ├── CorruptRecordError        a stored record or key does not read [run_id, offset, raw, key]
    ├── EventRefused              the caller's class does not take what reads [run_id, offset, event_type, fields]
    ├── UnsupportedVersion        a newer runstream, or program, wrote it [found, supported, run_id, offset]
    ├── ConcurrencyConflict       another writer came first [expected, actual]
    ├── LeaseLost                 the lease has passed to another owner or run out
    ├── LeaseHeld                 somebody else's lease is in the way [owner, expires_in: seconds]
    ├── AcknowledgedWritesLost    the server lost what it acknowledged [run_id, last_seen, last_present]
    ├── HistoryDiverged           two histories of one run differ [run_id, offset]
    ├── EventsArchived            what was asked for has left Redis [run_id, first_hot, archives]
    ├── RunHasForks               runs that were forked from it need what was to go [run_id, forks]
    ├── RunCancelled              a person wants the run to stop [run_id, reason]
    ├── StepFailed                a durable step has failed as often as it may [run_id, key, attempts]
    ├── TooManyHotEvents          the run has as many events in Redis as it may [run_id, hot_events, limit]
    ├── TooManyPending            as much waits to be written as may [events, size: bytes]
    ├── DurabilityNotReached      it is written, but not as durable as asked for [run_id, offset, wanted, reached]
    ├── ArchiveGap                an archive has a hole, or would have one [run_id, expected, found]
    └── StoreUnavailable          the store gave no answer: the outcome is unknown [resend, next_step]

After every error but StoreUnavailable and DurabilityNotReached, nothing was written of what was sent for that run.
May the same call be sent again?

======================  ==========================================================================================
StoreUnavailable        To a store, yes: the same events, sent again on the same store object, are applied once;
                        with a key per event, from any process at any time; ``update_state`` with the same
                        ``change`` makes it once. Of a Run: ``error.resend()`` records the same events once and
                        gives what the call would have given; ``finish`` and ``fail`` may simply be repeated. Any
                        other call records a new event, after that one, even if it is equal.
DurabilityNotReached    No: it was applied. What is written next, and is as durable as asked for, shows that all
                        before it is, too. To fork, erase, truncate or delete again only waits again.
                        A Run has done all that the call asked for, and its state is as it was saved; ``finish``
                        and ``fail`` may be repeated: they wait again, and the run ends once.
LeaseHeld               Yes, when the lease has been given back or has run out.
TooManyHotEvents        Yes, when a drain worker has archived and trimmed some of the run.
TooManyPending          Yes, when some of what waits is written; a bus's ``flush`` waits until all is.
EventsArchived          Not to this store: a tiered store, or the archive itself, has what it has not. For a
                        snapshot: recover first.
ConcurrencyConflict     Not as it is: read what the other writer did, and decide anew.
RunHasForks             When these forks are gone.
RunCancelled            Yes, to undo what is half done; leaving the Run then ends the run as cancelled.
StepFailed              With more attempts.
LeaseLost               Not as it is: take a new lease, recover, and decide anew.
AcknowledgedWritesLost  Not as it is: ``forget(run_id)`` takes the run as it is now; read it, and repeat what is
HistoryDiverged         missing.
CorruptRecordError      No: it fails the same. ``read(..., on_corrupt="skip")`` passes over the record, and
                        ``on_corrupt="raw"`` gives its bytes; a key is to be mended first, or the run deleted and
                        restored from its archive.
EventRefused            Not with this class: open the store with another ``event_type`` or ``state_type``.
                        ``read(..., on_corrupt="raw")`` gives the plain fields of an event.
ArchiveGap              No: the archive is to be mended first. A drain worker parks the run meanwhile.
UnsupportedVersion      No: upgrade runstream first, or the program where it is about its own schema.
The others              No: the call itself is to change.
======================  ==========================================================================================
"""

from runstream.model.errors.kinds import (
    AcknowledgedWritesLost,
    ArchiveGap,
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    DurabilityNotReached,
    EncodingError,
    EventRefused,
    EventsArchived,
    HistoryDiverged,
    InvalidRunId,
    LeaseHeld,
    LeaseLost,
    PayloadTooLarge,
    RunCancelled,
    RunHasForks,
    RunstreamError,
    StepFailed,
    StoreUnavailable,
    TooManyHotEvents,
    TooManyPending,
    UnsupportedVersion,
)

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
