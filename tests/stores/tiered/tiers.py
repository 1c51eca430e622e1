"""A store in Redis, an archive and the view over both, and what moves runs between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from runstream import (
    DrainWorker,
    JSONLCheckpointer,
    RedisCheckpointer,
    SQLiteCheckpointer,
)
from runstream.stores.archive.facade import ArchiveStore
from runstream.stores.redis.operations.redis_operations import RedisOperations
from runstream.stores.redis.session.seen import SeenBook
from runstream.stores.tiered import TieredCheckpointer
from tests.support.operations import session_of, with_operations

Hot = RedisCheckpointer[Any, Any]
Tiered = TieredCheckpointer[Any, Any]
ARCHIVES: dict[str, Callable[[Path], ArchiveStore[Any, Any]]] = {
    "sqlite": lambda directory: SQLiteCheckpointer(directory / "archive.db"),
    "jsonl": lambda directory: JSONLCheckpointer(directory / "archive"),
}


def drain(hot: Hot, archive: Any, trim: Any = "archived") -> None:
    assert DrainWorker(hot, [archive], trim=trim).drain_once().parked == 0


def stranger(hot: Hot) -> Hot:
    """A store that has seen nothing yet."""
    session = session_of(hot).for_one_writer()
    twin: Hot = with_operations(hot, RedisOperations(replace(session, seen=SeenBook())))
    return twin
