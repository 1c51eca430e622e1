"""Durable, shared, replayable runs for multi-process AI agents, on plain Redis.

Every event of a run is appended to that run's own Redis stream, the latest state of a run is a hash of
msgpack values, and a drain worker archives both into SQLite or JSONL, after which the stream is
trimmed. All stores speak one small Protocol, :class:`Checkpointer`.
"""

from runstream.codec.extension_types import NamedOffset
from runstream.codec.upcasts import Upcasts
from runstream.connect import connect, connect_async
from runstream.drain import DrainWorker
from runstream.model.awaitable import Opening
from runstream.model.erasures import ErasedPlace, Erasure
from runstream.model.errors import (
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
from runstream.model.events import TERMINAL_KINDS, EventKind, PAEvent, Visibility, create_event
from runstream.model.protocols import Checkpointer, Leased, Sink
from runstream.model.questions import Question
from runstream.model.results import (
    Appended,
    ArchivingHealth,
    Cursor,
    DeltaBuffer,
    DrainReport,
    Fork,
    LaneInfo,
    LeaseGrant,
    Placement,
    Recorded,
    Recovery,
    RunInfo,
    Snapshot,
    SnapshotInfo,
)
from runstream.model.run_diff import LaneDiff, RunDiff, StateDifference
from runstream.model.state import NodeState, RunState, RunStatus
from runstream.run import AsyncLease, AsyncRun, Emission, Lease, Run
from runstream.stores.archive.jsonl import JSONLCheckpointer
from runstream.stores.archive.sqlite import SQLiteCheckpointer
from runstream.stores.async_facade import AsyncSnapshotStore, AsyncStore
from runstream.stores.facade import SnapshotStore, Store
from runstream.stores.local.memory import InMemoryCheckpointer
from runstream.stores.protocol import AsyncRunStore, RunStore
from runstream.stores.redis.checkpointer import AsyncRedisCheckpointer, RedisCheckpointer
from runstream.stores.tiered import AsyncTieredCheckpointer, TieredCheckpointer

__all__ = [
    "TERMINAL_KINDS",
    "AcknowledgedWritesLost",
    "Appended",
    "ArchiveGap",
    "ArchivingHealth",
    "AsyncLease",
    "AsyncRedisCheckpointer",
    "AsyncRun",
    "AsyncRunStore",
    "AsyncSnapshotStore",
    "AsyncStore",
    "AsyncTieredCheckpointer",
    "Checkpointer",
    "ConcurrencyConflict",
    "ConfigurationError",
    "CorruptRecordError",
    "Cursor",
    "DeltaBuffer",
    "DrainReport",
    "DrainWorker",
    "DurabilityNotReached",
    "Emission",
    "EncodingError",
    "ErasedPlace",
    "Erasure",
    "EventKind",
    "EventRefused",
    "EventsArchived",
    "Fork",
    "HistoryDiverged",
    "InMemoryCheckpointer",
    "InvalidRunId",
    "JSONLCheckpointer",
    "LaneDiff",
    "LaneInfo",
    "Lease",
    "LeaseGrant",
    "LeaseHeld",
    "LeaseLost",
    "Leased",
    "NamedOffset",
    "NodeState",
    "Opening",
    "PAEvent",
    "PayloadTooLarge",
    "Placement",
    "Question",
    "Recorded",
    "Recovery",
    "RedisCheckpointer",
    "Run",
    "RunCancelled",
    "RunDiff",
    "RunHasForks",
    "RunInfo",
    "RunState",
    "RunStatus",
    "RunStore",
    "RunstreamError",
    "SQLiteCheckpointer",
    "Sink",
    "Snapshot",
    "SnapshotInfo",
    "SnapshotStore",
    "StateDifference",
    "StepFailed",
    "Store",
    "StoreUnavailable",
    "TieredCheckpointer",
    "TooManyHotEvents",
    "TooManyPending",
    "UnsupportedVersion",
    "Upcasts",
    "Visibility",
    "connect",
    "connect_async",
    "create_event",
]
