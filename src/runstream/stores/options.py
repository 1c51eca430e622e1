"""The options of a store that is opened by its URL, with their types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

from runstream.codec.upcasts import Upcasts
from runstream.model.protocols import Fallback
from runstream.stores.urls import count_or_all, flag, octal

__all__ = ["StoreOptions", "options_in_url"]


class StoreOptions(TypedDict, total=False):
    """The named options of :func:`~runstream.connect.connect`. A store refuses those that it does not have.

    All but ``fallback`` and ``upcasts`` may stand in the URL's query instead.

    Attributes:
        namespace: Redis: separates what shares a server.
        partitions: Redis: into how many parts a new namespace is divided; None: what it has, 16 when it is new.
        durability: Redis: ``"primary"``, ``"fsync"`` or ``"replicated=N"``: where what is written is when a call
            returns.
        retry_seconds: Redis: for how many seconds a call is repeated that cannot reach the server.
        resend_lost: Redis: put back what a server lost of what this store object appended.
        max_hot_events: Redis: the most events of one run in Redis; None: no limit.
        trace_context: Redis: record with each event the span of OpenTelemetry that its writer is in.
        require_lease: Redis, SQLite and memory: refuse what is written without a lease.
        keep_snapshots: SQLite and JSONL: how many snapshots to keep of each run and lane, or ``"all"``; None: as
            many as the archive keeps, 20 if it was made with nothing said.
        mode: SQLite and JSONL: the permissions of new files; None: those that the directory suggests.
        plain_names: JSONL: name the directory of a new run as its id stands, where that is safe.
        max_event_bytes: Every store: the size in bytes of the largest encoded event.
        fallback: Every store: turns a value that cannot be stored as it is into one that can; None: an
            EncodingError.
        upcasts: Every store: the program's schema version, and its rules to read what older versions of it wrote.
    """

    namespace: str
    partitions: int | None
    durability: str
    retry_seconds: float
    resend_lost: bool
    max_hot_events: int | None
    trace_context: bool
    require_lease: bool
    keep_snapshots: int | Literal["all"] | None
    mode: int | None
    plain_names: bool
    max_event_bytes: int
    fallback: Fallback | None
    upcasts: Upcasts | None


_OF_LEASES: Mapping[str, Callable[[str], Any]] = {"require_lease": flag}
_OF_ARCHIVES: Mapping[str, Callable[[str], Any]] = {"keep_snapshots": count_or_all, "mode": octal}
_OF_SERVERS: Mapping[str, Callable[[str], Any]] = {
    "namespace": str,
    "partitions": int,
    "durability": str,
    "retry_seconds": float,
    "resend_lost": flag,
    "max_hot_events": int,
    "trace_context": flag,
}
_BY_SCHEME: Mapping[str, Mapping[str, Callable[[str], Any]]] = {
    "memory": _OF_LEASES,
    "sqlite": {**_OF_LEASES, **_OF_ARCHIVES},
    "jsonl": {"plain_names": flag, **_OF_ARCHIVES},
}


def options_in_url(scheme: str) -> Mapping[str, Callable[[str], Any]]:
    """What may stand in the query of a URL of that scheme, with what reads the text; the rest is an argument."""
    return {"max_event_bytes": int, **_BY_SCHEME.get(scheme, {**_OF_LEASES, **_OF_SERVERS})}
