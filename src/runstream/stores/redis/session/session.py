"""What the operations of one store object share: how it encodes, and what it remembers."""

from __future__ import annotations

import os
import secrets
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Generic

from runstream.codec.event_codec import Codec
from runstream.codec.snapshot_fields import PackedState
from runstream.model.errors import ConfigurationError
from runstream.model.results import E, S
from runstream.operations.coverage import CoverageBook
from runstream.operations.filters import check_count
from runstream.stores.redis.keys import Keys, check_namespace
from runstream.stores.redis.scripts.calls import Seen
from runstream.stores.redis.session.in_flight import UnsettledBook
from runstream.stores.redis.session.recent_appends import RecentBook

__all__ = ["Context", "Producer", "ProducerPool", "SeenBook", "ServerClock", "SnapshotMemory"]

_MAX_SNAPSHOT_BYTES = 64 * 2**20
_MAX_SEEN = 16_384

DEFAULT_RETRY_SECONDS = 5.0


class Producer:
    """The identity under which one call at a time appends. It numbers its batches."""

    __slots__ = ("name", "number")

    def __init__(self) -> None:
        self.name = secrets.token_hex(9)
        self.number = 0


class ProducerPool:
    """The producers of one store object that are free.

    A call that fails without a reply does not give its producer back: its batch goes out again under that
    number (see :mod:`~runstream.stores.redis.session.in_flight`), and no other one does. A fork draws new ones.
    """

    def __init__(self) -> None:
        self._free: list[Producer] = []
        self._process = os.getpid()

    def take(self) -> Producer:
        """A producer for one call, with the number of its next batch."""
        if os.getpid() != self._process:
            self._free, self._process = [], os.getpid()
        try:
            producer = self._free.pop()  # one step, so threads need no lock
        except IndexError:
            producer = Producer()
        producer.number += 1
        return producer

    def give_back(self, producer: Producer) -> None:
        """End a call whose outcome is known."""
        self._free.append(producer)


class SnapshotMemory:
    """The snapshots that this store object saved or loaded last, by their tokens, to send differences.

    It holds so many bytes and no more; what is forgotten is sent whole the next time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str | None], tuple[str, int, PackedState | None]] = OrderedDict()
        self._bytes = 0

    def get(self, run_id: str, lane_id: str | None) -> tuple[str, int, PackedState | None]:
        """Token, revision and packed state of the snapshot that is known, or ``("", 0, None)``."""
        with self._lock:
            return self._known.get((run_id, lane_id), ("", 0, None))

    def put(self, run_id: str, lane_id: str | None, token: str, revision: int, state: PackedState | None) -> None:
        """Remember a snapshot; without its state the next is sent whole."""
        with self._lock:
            self._drop((run_id, lane_id))
            self._known[run_id, lane_id] = (token, revision, state)
            self._bytes += 0 if state is None else state.size
            while self._bytes > _MAX_SNAPSHOT_BYTES:
                self._drop(next(iter(self._known)))

    def drop(self, run_id: str, lane_id: str | None) -> None:
        """Know of no snapshot of a run or lane: there was none to load, so the next one follows none."""
        with self._lock:
            self._drop((run_id, lane_id))

    def forget(self, run_id: str) -> None:
        """Know nothing of a run any more."""
        with self._lock:
            for place in [place for place in self._known if place[0] == run_id]:
                self._drop(place)

    def _drop(self, place: tuple[str, str | None]) -> None:
        known = self._known.pop(place, None)
        if known is not None and known[2] is not None:
            self._bytes -= known[2].size


class SeenBook:
    """The last place that this store object saw of each run, to notice that the server has lost it since."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, Seen] = OrderedDict()

    def get(self, run_id: str) -> Seen | None:
        """What was seen last of a run."""
        return self._seen.get(run_id)

    def note(self, run_id: str, start: bytes, place: bytes, offset: int) -> None:
        """Note a place that was seen; of one history, only what is further on."""
        with self._lock:
            known = self._seen.get(run_id)
            if known is not None and known.start == start and known.offset >= offset:
                return
            self._seen[run_id] = Seen(start, place, offset)
            self._seen.move_to_end(run_id)
            if known is None and len(self._seen) > _MAX_SEEN:
                self._seen.popitem(last=False)

    def forget(self, run_id: str) -> None:
        """Take the run's present as it is."""
        with self._lock:
            self._seen.pop(run_id, None)


class ServerClock:
    """The server's time, as its replies tell it: microseconds, never behind by more than a round trip."""

    def __init__(self) -> None:
        self._ahead: int | None = None
        self._second: bytes | None = None

    def now(self) -> int | None:
        """The server's time by this process's clock, or None before any reply has told it."""
        return None if self._ahead is None else self._ahead + time.monotonic_ns() // 1000

    def heard(self, server_time: bytes, *, reset: bool = False) -> None:
        """Note a time that a reply told; of each second, the first that tells it is enough.

        ``reset`` believes it even if it is earlier than what was known.
        """
        second = server_time[:-6]
        if second == self._second and not reset:
            return
        self._second = second
        ahead = int(server_time) - time.monotonic_ns() // 1000
        if self._ahead is None or reset or ahead > self._ahead:
            self._ahead = ahead


@dataclass(slots=True, weakref_slot=True, eq=False)
class Context(Generic[E, S]):
    """What every operation gets. ``partitions`` is what was asked for; ``keys`` are there once it is open.

    What a snapshot covers, and what it is made from, is a matter of who writes: each Run has a context of its
    own for that, and shares the rest with the store that opened it.
    """

    codec: Codec[E, S]
    namespace: str = "runstream"
    partitions: int | None = None
    max_block_seconds: float = 1.0
    require_lease: bool = False
    recent: RecentBook | None = None
    max_hot_events: int | None = None
    clock: Callable[[], float] = time.monotonic
    producers: ProducerPool = field(default_factory=ProducerPool)
    coverage: CoverageBook = field(default_factory=CoverageBook)
    snapshots: SnapshotMemory = field(default_factory=SnapshotMemory)
    seen: SeenBook = field(default_factory=SeenBook)
    unsettled: UnsettledBook = field(default_factory=UnsettledBook)
    server_clock: ServerClock = field(default_factory=ServerClock)
    opened: Keys | None = None
    sharing: list[weakref.ref[Context[E, S]]] = field(default_factory=list)
    """The contexts of one store object: its own, and those of its Runs."""

    asks_nothing: bool = field(init=False)
    """Whether an append of this store is no more than that: no limit, no lease, nothing to hold for a resend."""

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        self.asks_nothing = self.recent is None and self.max_hot_events is None and not self.require_lease
        self.sharing.append(weakref.ref(self, self.sharing.remove))

    def for_one_writer(self) -> Context[E, S]:
        """A context that knows of snapshots only what its own writer does."""
        return replace(self, coverage=CoverageBook(), snapshots=SnapshotMemory())

    def forget(self, run_id: str) -> None:
        """Know nothing of a run any more: neither what was seen nor what anybody's snapshots would cover."""
        self.forget_history(run_id)
        if self.recent is not None:
            self.recent.forget(run_id)
        for context in self._all_sharing():
            context.snapshots.forget(run_id)

    def forget_history(self, run_id: str) -> None:
        """Know no more what was seen of a run, nor what of it anybody's snapshots would cover."""
        self.seen.forget(run_id)
        for context in self._all_sharing():
            context.coverage.forget(run_id)

    def _all_sharing(self) -> list[Context[E, S]]:
        return [context for sharing in tuple(self.sharing) if (context := sharing()) is not None]

    @classmethod
    def make(
        cls,
        codec: Codec[E, S],
        namespace: str,
        partitions: int | None,
        durability: str,
        max_block_seconds: float,
        *,
        require_lease: bool,
        resend_lost: bool,
        max_hot_events: int | None = None,
    ) -> Context[E, S]:
        """The context of a store with these options. Raises ConfigurationError for what there is not."""
        if durability != "primary":
            raise ConfigurationError(f"durability={durability!r}: this version gives 'primary' and nothing else")
        check_count("max_hot_events", max_hot_events)
        if max_hot_events == 0:
            raise ConfigurationError(
                "max_hot_events=0: a run needs room for at least one event; None for no limit"
            )
        recent = RecentBook() if resend_lost else None
        return cls(codec, namespace, partitions, max_block_seconds, require_lease, recent, max_hot_events)

    @property
    def keys(self) -> Keys:
        """The key names. Raises ConfigurationError before the store is open."""
        if self.opened is None:
            raise ConfigurationError("the store is not open: use `await connect_async(...)` or `async with`")
        return self.opened
