"""Durable, shared, replayable runs for multi-process AI agents, on plain Redis.

Every event of a run is appended to that run's own Redis stream, the latest state of a run is a hash of
msgpack values, and a drain worker archives both into SQLite or JSONL, after which the stream is
trimmed. All stores speak one small Protocol, :class:`Checkpointer`.
"""

from runstream.connect import connect, connect_async
from runstream.drain import DrainWorker
from runstream.lease import AsyncLease, Lease
from runstream.model.errors import (
    AcknowledgedWritesLost,
    ArchiveGap,
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    EncodingError,
    EventsArchived,
    HistoryDiverged,
    InvalidRunId,
    LeaseHeld,
    LeaseLost,
    PayloadTooLarge,
    RunstreamError,
    StoreUnavailable,
    TooManyHotEvents,
    UnsupportedVersion,
)
from runstream.model.events import TERMINAL_KINDS, EventKind, PAEvent, Visibility, create_event
from runstream.model.opening import Opening
from runstream.model.protocols import AsyncRunStore, Checkpointer, Leased, RunStore, Sink
from runstream.model.state import NodeState, RunState, RunStatus
from runstream.model.values import (
    Appended,
    Cursor,
    DeltaBuffer,
    DrainReport,
    LeaseGrant,
    Placement,
    Recorded,
    Recovery,
    RunInfo,
    Snapshot,
)
from runstream.run import AsyncRun, Emission, Run
from runstream.stores.jsonl import JSONLCheckpointer
from runstream.stores.memory import InMemoryCheckpointer
from runstream.stores.redis.async_checkpointer import AsyncRedisCheckpointer
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.sqlite import SQLiteCheckpointer
from runstream.tiered import AsyncTieredCheckpointer, TieredCheckpointer

__all__ = [
    "TERMINAL_KINDS",
    "AcknowledgedWritesLost",
    "Appended",
    "ArchiveGap",
    "AsyncLease",
    "AsyncRedisCheckpointer",
    "AsyncRun",
    "AsyncRunStore",
    "AsyncTieredCheckpointer",
    "Checkpointer",
    "ConcurrencyConflict",
    "ConfigurationError",
    "CorruptRecordError",
    "Cursor",
    "DeltaBuffer",
    "DrainReport",
    "DrainWorker",
    "Emission",
    "EncodingError",
    "EventKind",
    "EventsArchived",
    "HistoryDiverged",
    "InMemoryCheckpointer",
    "InvalidRunId",
    "JSONLCheckpointer",
    "Lease",
    "LeaseGrant",
    "LeaseHeld",
    "LeaseLost",
    "Leased",
    "NodeState",
    "Opening",
    "PAEvent",
    "PayloadTooLarge",
    "Placement",
    "Recorded",
    "Recovery",
    "RedisCheckpointer",
    "Run",
    "RunInfo",
    "RunState",
    "RunStatus",
    "RunStore",
    "RunstreamError",
    "SQLiteCheckpointer",
    "Sink",
    "Snapshot",
    "StoreUnavailable",
    "TieredCheckpointer",
    "TooManyHotEvents",
    "UnsupportedVersion",
    "Visibility",
    "connect",
    "connect_async",
    "create_event",
]
