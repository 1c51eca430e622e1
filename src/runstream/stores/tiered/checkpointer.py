"""The tiered store as a user sees it: Redis and an archive as one store."""

from __future__ import annotations

import asyncio
from typing import Any

from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import one_of_kind
from runstream.model.results import E, S
from runstream.stores.archive.facade import ArchiveStore
from runstream.stores.async_facade import AsyncSnapshotStore, AsyncStore
from runstream.stores.capabilities import Archive, part_of
from runstream.stores.facade import SnapshotStore, Store
from runstream.stores.lifecycle import own, own_async, place_at
from runstream.stores.redis.checkpointer import AsyncRedisCheckpointer, RedisCheckpointer
from runstream.stores.tiered.hot_operations import HotOperations
from runstream.stores.tiered.late_archive import ArchiveToCome, LateArchive
from runstream.stores.tiered.operations import TieredOperations

__all__ = ["AsyncTieredCheckpointer", "TieredCheckpointer", "with_archive_to_come", "with_archive_to_come_async"]


class TieredCheckpointer(SnapshotStore[E, S]):
    """A Redis store and the archive that a drain worker writes from it, as one store: no gap, no duplicate.

    Writes go to Redis. A read goes to the archive for what has left Redis, and on in Redis, also while a worker
    trims. Missing events are an ArchiveGap, which names both ends, never a shorter list; an archive that is ahead
    of Redis raises AcknowledgedWritesLost, one with another history HistoryDiverged. A run that only the archive
    has is read and recovered from there; what would begin it anew in Redis raises EventsArchived. Closing it
    closes neither of the two, unless ``connect`` opened them.

    Args:
        hot: The Redis store.
        archive: The archive, opened with the same types and upcasts.

    Raises:
        ConfigurationError: One of the two is no such store, or they were opened with different upcasts.
    """

    def __init__(self, hot: RedisCheckpointer[E, S], archive: ArchiveStore[E, S] | ArchiveToCome[E, S]) -> None:
        _check_parts(hot, archive, facade=Store, named="RedisCheckpointer")
        self._snapshots, parts = _joined(hot, archive)
        super().__init__(self._snapshots, hot._runner, parts)
        place_at(self, f"{hot!r} with {archive!r}")


class AsyncTieredCheckpointer(AsyncSnapshotStore[E, S]):
    """A Redis store for asyncio and the archive that a drain worker writes from it, as one store.

    There is no gap and no duplicate. Writes go to Redis. A read goes to the archive for what has left Redis, and
    on in Redis, also while a worker trims; the archive's calls are made in threads. Missing events are an
    ArchiveGap, which names both ends, never a shorter list; an archive that is ahead of Redis raises
    AcknowledgedWritesLost, one with another history HistoryDiverged. A run that only the archive has is read and
    recovered from there; what would begin it anew in Redis raises EventsArchived. Closing the store closes neither
    of the two, unless ``connect_async`` opened them.

    Args:
        hot: The Redis store.
        archive: The archive: a sync one, such as :class:`~runstream.SQLiteCheckpointer`, opened with the same
            types and upcasts.

    Raises:
        ConfigurationError: One of the two is no such store, or they were opened with different upcasts.
    """

    def __init__(
        self, hot: AsyncRedisCheckpointer[E, S], archive: ArchiveStore[E, S] | ArchiveToCome[E, S]
    ) -> None:
        _check_parts(hot, archive, facade=AsyncStore, named="AsyncRedisCheckpointer")
        self._snapshots, parts = _joined(hot, archive)
        super().__init__(self._snapshots, hot._runner, parts)
        place_at(self, f"{hot!r} with {archive!r}")

    async def open(self) -> None:
        """Check the server and the namespace, once; every other call does so too.

        Raises:
            ConfigurationError: The server or the namespace does not fit.
            StoreUnavailable: The server cannot be reached.
        """
        await self._runner.prepare()


def with_archive_to_come(hot: RedisCheckpointer[E, S], archive: ArchiveToCome[E, S]) -> TieredCheckpointer[E, S]:
    """Make a Redis store and an archive that may come yet one store, which closes both."""
    store = TieredCheckpointer(hot, archive)

    def close() -> None:
        archive.close()
        hot.close()

    own(store, close)
    return store


def with_archive_to_come_async(
    hot: AsyncRedisCheckpointer[E, S], archive: ArchiveToCome[E, S]
) -> AsyncTieredCheckpointer[E, S]:
    """The same for asyncio."""
    store = AsyncTieredCheckpointer(hot, archive)

    async def close() -> None:
        await asyncio.to_thread(archive.close)
        await hot.close()

    own_async(store, close)
    return store


def _joined(hot: Any, archive: Any) -> tuple[TieredOperations[Any, Any], tuple[object, ...]]:
    """The operations over both, and the parts of both; one that may come yet stands for those of the archive."""
    if isinstance(archive, ArchiveToCome):
        late: LateArchive[Any, Any] = LateArchive(archive, hot._operations.codec)
        return TieredOperations(hot._operations, late), (*hot._parts, archive)
    return TieredOperations(hot._operations, archive._operations), (*hot._parts, *archive._parts)


def _check_parts(hot: Any, archive: Any, *, facade: type[Any], named: str) -> None:
    """Raise ConfigurationError for stores that are no two parts of a tiered one: by what they do themselves."""
    if not isinstance(hot, facade) or not isinstance(hot._operations, HotOperations):
        raise ConfigurationError(
            f"a tiered store writes to a {named}, and {one_of_kind(hot)} is none: pass one first, and the"
            " archive second; runstream.connect(url, archive=url) opens both"
        )
    if isinstance(archive, ArchiveToCome):
        return
    if not isinstance(archive, Store) or part_of(archive._operations, Archive) is None:
        raise ConfigurationError(
            f"{one_of_kind(archive)} is no archive: pass a SQLiteCheckpointer or a JSONLCheckpointer after the"
            " Redis store"
        )
