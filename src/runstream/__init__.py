"""Durable, shared, replayable runs for multi-process AI agents, on plain Redis."""

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
    UnsupportedVersion,
)
from runstream.model.events import TERMINAL_KINDS, EventKind, PAEvent, Visibility, create_event
from runstream.model.protocols import AsyncRunStore, Checkpointer, RunStore, Sink
from runstream.model.state import NodeState, RunState, RunStatus
from runstream.model.values import Appended, Recorded, Recovery, RunInfo, Snapshot
from runstream.stores.memory import InMemoryCheckpointer
from runstream.stores.redis.checkpointer import AsyncRedisCheckpointer, RedisCheckpointer
