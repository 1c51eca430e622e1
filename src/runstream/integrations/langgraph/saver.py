"""LangGraph's checkpointer over a store. Its async methods run the sync ones in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar, Unpack

from runstream.connect import connect
from runstream.integrations.langgraph import pruning, removal
from runstream.integrations.langgraph.base import CACHE_BYTES, SaverBase, lease_request, own_options
from runstream.integrations.langgraph.deltas import delta_history
from runstream.integrations.langgraph.history import list_checkpoints
from runstream.integrations.langgraph.loading import get_tuple
from runstream.integrations.langgraph.saving import put, put_writes
from runstream.integrations.langgraph.upstream import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    RunnableConfig,
    SerializerProtocol,
)
from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import shown
from runstream.operations.operation import Operation
from runstream.run.lease import Lease
from runstream.stores.facade import Store
from runstream.stores.lifecycle import Closing, own
from runstream.stores.options import StoreOptions

__all__ = ["RunstreamSaver"]

T = TypeVar("T")
_END = object()


class RunstreamSaver(SaverBase, Closing):
    """Keeps the checkpoints of LangGraph's threads in a store: a thread is a run, a checkpoint an event of it.

    A second writer of a thread is refused with ConcurrencyConflict, and nothing of it is written. A list that
    grows, as the messages of a chat, is kept by element, so that a thread grows with what is said, not with its
    square. Threads of a process may share a saver. Leaving it as a context manager closes the store, if the saver
    has opened it.

    Args:
        store: The store: what ``runstream.connect`` gives.
        serde: LangGraph's serializer for the values of channels; None: its own.
        cache_bytes: How many bytes of the latest checkpoints of threads to hold, about: what has not changed is
            told by them. And as many of messages that were loaded more than once: these are made again of their
            fields, in a fifth of the time.

    Raises:
        ConfigurationError: It is no sync store.
    """

    def __init__(
        self, store: Store[Any, Any], *, serde: SerializerProtocol | None = None, cache_bytes: int = CACHE_BYTES
    ) -> None:
        if not isinstance(store, Store):
            raise ConfigurationError(
                f"{shown(store)} is no sync store: pass what runstream.connect(url) gives, or use"
                " AsyncRunstreamSaver"
            )
        super().__init__(store, serde, cache_bytes)
        self.store = store

    @classmethod
    def from_url(
        cls,
        url: str | None = None,
        *,
        archive: str | None = None,
        serde: SerializerProtocol | None = None,
        cache_bytes: int = CACHE_BYTES,
        **options: Unpack[StoreOptions],
    ) -> Self:
        """Open a store, and a saver over it that closes it.

        Args:
            url: As ``runstream.connect`` takes it; None: the one in the environment variable ``RUNSTREAM_URL``.
            archive: The archive that a drain worker writes from that server, as ``connect`` takes it.
            serde: LangGraph's serializer for the values of channels; None: its own.
            cache_bytes: How many bytes of the latest checkpoints of threads to hold, about, and as many of
                messages.
            **options: As ``connect`` takes them. On a server ``namespace`` is ``langgraph`` if nothing is said.

        Returns:
            The saver.

        Raises:
            ConfigurationError: A URL, an option or the server does not fit.
            StoreUnavailable: The server cannot be reached.
        """
        given: Any = own_options(url, options)
        store: Any = connect(url, archive=archive, **given)
        saver = cls(store, serde=serde, cache_bytes=cache_bytes)
        own(saver, store.close)
        return saver

    @contextmanager
    def lease(
        self, thread_id: str, *, owner: str | None = None, ttl: float = 30.0, wait: float = 0.0
    ) -> Iterator[Lease[Any, Any]]:
        """Take the sole right to write a thread; all that this saver writes to it meanwhile carries the lease.

        Args:
            thread_id: The thread.
            owner: Who holds it: the same owner, restarted, gets it back at once. None: nobody else's.
            ttl: After how many seconds without a renewal it runs out; it is renewed in the background.
            wait: For how many seconds to wait while another's is in the way.

        Returns:
            The lease, as a context manager.

        Raises:
            LeaseHeld: Another's is in the way still.
            ConfigurationError: This store has no leases, or an argument does not fit.
        """
        request = lease_request(thread_id, owner, ttl, wait)
        with (
            Lease.take(self._context.operations, self.store._runner, request) as lease,
            self._context.known.leased(thread_id, lease),
        ):
            yield lease

    # -- what LangGraph calls ----------------------------------------------------------------------------

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint.

        Args:
            config: Names the thread, the namespace and the parent.
            checkpoint: The checkpoint.
            metadata: Its metadata.
            new_versions: The versions of the channels that have changed.

        Returns:
            The config that names the checkpoint.

        Raises:
            ConcurrencyConflict: Another run has written the thread since this one loaded it; nothing was written.
            LeaseHeld: Another has a lease on the thread.
            LeaseLost: The lease that this saver holds has passed on.
            RunstreamError: What the store's ``append`` raises.
        """
        return self._run(put(self._context, config, checkpoint, metadata, new_versions))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save what a task wrote after a checkpoint.

        Args:
            config: Names the checkpoint.
            writes: Channels with values.
            task_id: The task.
            task_path: Where it is in the graph: what is written is applied in this order.

        Raises:
            RunstreamError: What the store's ``append`` raises.
        """
        self._run(put_writes(self._context, config, writes, task_id, task_path))

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that a config names, or else the latest, with what tasks wrote after it.

        Args:
            config: Names the thread, and may name a namespace and a checkpoint.

        Returns:
            The checkpoint; None if there is none.

        Raises:
            EventsArchived: It has left Redis: a saver with ``archive=`` has it.
            RunstreamError: What the store's ``recover`` and ``read`` raise.
        """
        return self._run(get_tuple(self._context, config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """The checkpoints that match, the latest first, in the order in which they were saved.

        Args:
            config: Names a thread, and may name a namespace and a checkpoint; None: those of all threads.
            filter: What their metadata has.
            before: Names a checkpoint: only those that were saved before it.
            limit: How many to give at most.

        Raises:
            EventsArchived: Some have left Redis: a saver with ``archive=`` has them.
            RunstreamError: What the store's ``read`` raises.
        """
        return self.store._runner.iterate(list_checkpoints(self._context, config, filter, before, limit))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What each DeltaChannel is rebuilt from: the writes on the way to a checkpoint, and the value before.

        Args:
            config: Names the checkpoint.
            channels: The channels.
        """
        return self._run(delta_history(self._context, config, channels))

    def delete_thread(self, thread_id: str) -> None:
        """Remove a thread for good. Its copies get a history of their own first, and live on.

        Args:
            thread_id: The thread; one that is not there is fine.

        Raises:
            LeaseHeld: A lease on it is in force.
        """
        self._run(removal.delete_thread(self._context, thread_id))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Make a thread with the history of another, which costs the same however long that is.

        Args:
            source_thread_id: The thread.
            target_thread_id: The one to make.

        Raises:
            ConfigurationError: There is no such thread, or the other one is there already.
        """
        self._run(removal.copy_thread(self._context, source_thread_id, target_thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints that these runs of LangGraph made (``run_id`` in the metadata).

        What later checkpoints still need of them stays, out of sight. Of one thread, its first 10,000 runs are
        found.

        Args:
            run_ids: LangGraph's ids of the runs.

        Raises:
            ConcurrencyConflict: Somebody writes such a thread meanwhile: call it again.
        """
        self._run(removal.delete_for_runs(self._context, run_ids))

    def prune(
        self,
        thread_ids: Sequence[str] | None = None,
        *,
        strategy: str = "keep_latest",
        idle_seconds: float | None = None,
    ) -> None:
        """Remove what is no longer needed of threads.

        Args:
            thread_ids: The threads; None: all.
            strategy: ``"keep_latest"`` keeps the latest checkpoint of each namespace, with what tasks wrote after
                it and what its DeltaChannels are rebuilt from; ``"delete"`` keeps nothing.
            idle_seconds: Only threads that nobody has written to for so many seconds.

        Raises:
            ConfigurationError: There is no such strategy.
            ConcurrencyConflict: Somebody writes such a thread meanwhile: call it again.
            PayloadTooLarge: A checkpoint is larger than an event may be (``max_event_bytes``).
        """
        self._run(pruning.prune(self._context, thread_ids, strategy, idle_seconds))

    def forget(self, thread_id: str) -> None:
        """Take a thread as the store has it now: the way on after AcknowledgedWritesLost or HistoryDiverged.

        Args:
            thread_id: The thread.
        """
        self._context.known.forget_thread(thread_id)
        self._run(self._context.operations.forget(thread_id))

    def _run(self, operation: Operation[T]) -> T:
        return self.store._runner.run(operation)

    # -- the same for asyncio, in threads ----------------------------------------------------------------

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As ``put``, in a thread."""
        return await asyncio.to_thread(self.put, config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """As ``put_writes``, in a thread."""
        await asyncio.to_thread(self.put_writes, config, writes, task_id, task_path)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As ``get_tuple``, in a thread."""
        return await asyncio.to_thread(self.get_tuple, config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """As ``list``, in threads."""
        found = self.list(config, filter=filter, before=before, limit=limit)
        while (item := await asyncio.to_thread(next, found, _END)) is not _END:
            yield item  # type: ignore[misc]  # whatever is not the end

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As ``get_delta_channel_history``, in a thread."""
        return await asyncio.to_thread(self.get_delta_channel_history, config=config, channels=channels)

    async def adelete_thread(self, thread_id: str) -> None:
        """As ``delete_thread``, in a thread."""
        await asyncio.to_thread(self.delete_thread, thread_id)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As ``copy_thread``, in a thread."""
        await asyncio.to_thread(self.copy_thread, source_thread_id, target_thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """As ``delete_for_runs``, in a thread."""
        await asyncio.to_thread(self.delete_for_runs, run_ids)

    async def aprune(
        self,
        thread_ids: Sequence[str] | None = None,
        *,
        strategy: str = "keep_latest",
        idle_seconds: float | None = None,
    ) -> None:
        """As ``prune``, in a thread."""
        await asyncio.to_thread(self.prune, thread_ids, strategy=strategy, idle_seconds=idle_seconds)
