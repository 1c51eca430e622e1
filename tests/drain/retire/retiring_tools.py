"""Runs that have ended, and what retires them."""

from __future__ import annotations

from typing import Any

from runstream import (
    DrainReport,
    DrainWorker,
    EventKind,
    RedisCheckpointer,
)
from runstream.drain.parts import WorkerParts
from runstream.drain.retire import Retirement
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker import retire
from runstream.stores.redis.operations.worker.retire import RetireCandidate
from tests.support.archive_check import Archive
from tests.support.backends import Backend
from tests.support.drain_tools import locations
from tests.support.samples import make_event, make_events, make_state

Hot = RedisCheckpointer[Any, Any]
TOMBSTONE_BYTES = 250
CHUNK_BYTES = 16
"""What glibc gives on top where what is left of a free piece is too small to be one."""


def open_hot(backend: Backend, **options: Any) -> Hot:
    store = backend.open(retry_seconds=0, **options)
    assert isinstance(store, RedisCheckpointer)
    return store


def retire_all(hot: Hot, archives: list[Archive], **options: Any) -> DrainReport:
    """Drain what is due, and retire all that has ended."""
    return DrainWorker(hot, archives, **{"retire_after_seconds": 0, **options}).drain_once()


def ended(run_id: str, count: int = 4, *, first: int = 1, **fields: Any) -> list[Any]:
    """Events of which the last ends the run."""
    events = make_events(run_id, count - 1, first=first, **fields)
    return [*events, make_event(run_id, first + count - 1, kind=EventKind.RUN_FINISHED, **fields)]


def members(raw: Any, key: str) -> list[str]:
    return [member.decode() for member in raw.zrange(key, 0, -1)]


def unended(hot: Hot, raw: Any) -> None:
    hot.save_event(make_event("r", 5, kind=EventKind.RUN_STARTED))


def appended_since(hot: Hot, raw: Any) -> None:
    hot.save_event(make_event("r", 5))


def lane_saved_since(hot: Hot, raw: Any) -> None:
    hot.append("r", [], snapshot=make_state("r"), lane_id="main")


def retire_now(
    hot: Hot, archives: list[Archive], fit: RetireCandidate, quiet: float = 0, idle: float | None = None
) -> list[retire.RetireOutcome]:
    return namespace_of(hot).retire([fit], retire.Quiet(quiet, idle), locations(archives))


def fit_of(hot: Hot, run_id: str = "r") -> RetireCandidate:
    (run,) = namespace_of(hot).load_runs([run_id])
    assert run is not None
    return RetireCandidate(run_id, run.header, run.head.tokens)


def retiring_of(hot: Hot, archives: list[Archive], forget_after: float | None = None) -> Retirement:
    return Retirement(WorkerParts(namespace_of(hot), archives, park_seconds=60), 0, forget_after)
