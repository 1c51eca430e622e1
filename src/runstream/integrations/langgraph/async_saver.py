"""LangGraph's checkpointer over a store for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NoReturn, Self, TypeVar, Unpack

from runstream.connect import connect_async
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
from runstream.model.awaitable import Opening
from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import shown
from runstream.operations.operation import Operation
from runstream.run.lease import AsyncLease
from runstream.stores.async_facade import AsyncStore
from runstream.stores.lifecycle import AsyncClosing, own_async
from runstream.stores.options import StoreOptions

__all__ = ["AsyncRunstreamSaver"]

T = TypeVar("T")


class AsyncRunstreamSaver(SaverBase, AsyncClosing):
    """Keeps the checkpoints of LangGraph's threads in a store for asyncio.

    It does what :class:`~runstream.integrations.langgraph.saver.RunstreamSaver` does, which has the documentation
    of each method.

    Args:
        store: The store: what ``await runstream.connect_async(url)`` gives.
        serde: LangGraph's serializer for the values of channels; None: its own.
        cache_bytes: How many bytes of the latest checkpoints of threads to hold, about, and as many of messages.

    Raises:
        ConfigurationError: It is no async store. The methods that are not awaited raise it too.
    """

    def __init__(
        self,
        store: AsyncStore[Any, Any],
        *,
        serde: SerializerProtocol | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if not isinstance(store, AsyncStore):
            raise ConfigurationError(
                f"{shown(store)} is no async store: pass what await runstream.connect_async(url) gives, or use"
                " RunstreamSaver"
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
    ) -> Opening[Self]:
        """Open a store, and a saver over it that closes it.

        Args:
            url: As ``runstream.connect_async`` takes it; None: the one in ``RUNSTREAM_URL``.
            archive: The archive that a drain worker writes from that server.
            serde: LangGraph's serializer for the values of channels; None: its own.
            cache_bytes: How many bytes of the latest checkpoints of threads to hold, about, and as many of
                messages.
            **options: As ``connect_async`` takes them. On a server ``namespace`` is ``langgraph`` if nothing is
                said.

        Returns:
            What is awaited, or entered with ``async with``, to have the saver.

        Raises:
            ConfigurationError: A URL, an option or the server does not fit.
            StoreUnavailable: The server cannot be reached.
        """
        given: Any = own_options(url, options)
        open_store = partial(connect_async, url, archive=archive, **given)
        return Opening(partial(cls._opened, open_store, serde, cache_bytes))

    @classmethod
    async def _opened(cls, open_store: Any, serde: SerializerProtocol | None, cache_bytes: int) -> Self:
        saver = cls(await open_store(), serde=serde, cache_bytes=cache_bytes)
        own_async(saver, saver.store.close)
        return saver

    @asynccontextmanager
    async def lease(
        self, thread_id: str, *, owner: str | None = None, ttl: float = 30.0, wait: float = 0.0
    ) -> AsyncIterator[AsyncLease[Any, Any]]:
        """Take the sole right to write a thread; all that this saver writes to it meanwhile carries the lease."""
        request = lease_request(thread_id, owner, ttl, wait)
        async with await AsyncLease.take(self._context.operations, self.store._runner, request) as lease:
            with self._context.known.leased(thread_id, lease):
                yield lease

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint."""
        return await self._run(put(self._context, config, checkpoint, metadata, new_versions))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save what a task wrote after a checkpoint."""
        await self._run(put_writes(self._context, config, writes, task_id, task_path))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that a config names, or else the latest, with what tasks wrote after it."""
        return await self._run(get_tuple(self._context, config))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """The checkpoints that match, the latest first, in the order in which they were saved."""
        stream = list_checkpoints(self._context, config, filter, before, limit)
        async for found in self.store._runner.iterate(stream):
            yield found

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What each DeltaChannel is rebuilt from."""
        return await self._run(delta_history(self._context, config, channels))

    async def adelete_thread(self, thread_id: str) -> None:
        """Remove a thread for good. Its copies get a history of their own first, and live on."""
        await self._run(removal.delete_thread(self._context, thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Make a thread with the history of another, which costs the same however long that is."""
        await self._run(removal.copy_thread(self._context, source_thread_id, target_thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints that these runs of LangGraph made."""
        await self._run(removal.delete_for_runs(self._context, run_ids))

    async def aprune(
        self,
        thread_ids: Sequence[str] | None = None,
        *,
        strategy: str = "keep_latest",
        idle_seconds: float | None = None,
    ) -> None:
        """Remove what is no longer needed of threads."""
        await self._run(pruning.prune(self._context, thread_ids, strategy, idle_seconds))

    async def forget(self, thread_id: str) -> None:
        """Take a thread as the store has it now: the way on after AcknowledgedWritesLost or HistoryDiverged."""
        self._context.known.forget_thread(thread_id)
        await self._run(self._context.operations.forget(thread_id))

    async def _run(self, operation: Operation[T]) -> T:
        return await self.store._runner.run(operation)

    # -- LangGraph's sync methods: this has none --------------------------------------------------------

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise ConfigurationError(
            "AsyncRunstreamSaver is for asyncio: await graph.ainvoke(...), graph.aget_state(...) and the like, or"
            " give the graph a RunstreamSaver"
        )

    put = put_writes = get_tuple = list = get_delta_channel_history = _refuse
    delete_thread = copy_thread = delete_for_runs = prune = _refuse
