"""What is taken of LangGraph, which is the user's to install: all other modules have it from here."""

from __future__ import annotations

from runstream.model.errors import ConfigurationError

try:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        WRITES_IDX_MAP,
        BaseCheckpointSaver,
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        CheckpointTuple,
        DeltaChannelHistory,
        PendingWrite,
        get_checkpoint_metadata,
        writes_sort_key,
    )
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    from ormsgpack import Ext
except ImportError as error:
    raise ConfigurationError(
        "langgraph is not installed, or a langgraph-checkpoint before 4.3: pip install 'runstream[langgraph]'"
    ) from error

__all__ = [
    "WRITES_IDX_MAP",
    "BaseCheckpointSaver",
    "ChannelVersions",
    "Checkpoint",
    "CheckpointMetadata",
    "CheckpointTuple",
    "DeltaChannelHistory",
    "Ext",
    "JsonPlusSerializer",
    "PendingWrite",
    "RunnableConfig",
    "SerializerProtocol",
    "get_checkpoint_metadata",
    "writes_sort_key",
]
