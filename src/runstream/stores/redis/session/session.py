"""The session: what the operations of one store object share: codec, options, and what it remembers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic

from runstream.codec.event_codec import Codec
from runstream.model.clock import monotonic_seconds
from runstream.model.durability import PRIMARY, Durability
from runstream.model.errors import ConfigurationError
from runstream.model.results import E, S
from runstream.operations.arguments import check_count
from runstream.operations.coverage import CoverageBook
from runstream.operations.operation import Command
from runstream.stores.redis.keys import Keys, check_namespace
from runstream.stores.redis.session.in_flight import InFlight
from runstream.stores.redis.session.largest_records import LargestRecords
from runstream.stores.redis.session.producers import ProducerPool
from runstream.stores.redis.session.recent_appends import RecentAppends
from runstream.stores.redis.session.seen import SeenBook, ServerClock
from runstream.stores.redis.session.snapshot_cache import SnapshotCache

__all__ = ["Session"]


@dataclass(slots=True, weakref_slot=True, eq=False)
class Session(Generic[E, S]):
    """The first argument of every operation of a store object: its codec, its options, and what it remembers.

    What a snapshot covers, and which one it is made from, depends on the writer: each Run has a session with
    coverage and snapshots of its own, and shares all the rest with the store that opened it.

    Attributes:
        codec: Encodes and decodes events and states.
        namespace: The namespace's name.
        partitions: The number of partitions that the caller asked for; None for what the namespace has.
        require_lease: Whether an append without a lease is refused.
        recent: The events appended last, to be resent if the server loses them; None if it resends nothing.
        max_hot_events: How many entries a run may have in Redis; None for any number.
        durability: How durable a write is when its call returns.
        longest_wait: How long the server may be asked to wait until it is, in seconds.
        clock: The time in seconds by which followers measure how long they have waited.
        producers: The free producers.
        coverage: What this writer knows of each run without a gap, which its next snapshot covers.
        snapshots: The snapshots that this writer saved or loaded last.
        seen: The last cursor seen of each run.
        largest: How large each run's records are.
        in_flight: What was sent and got no reply.
        server_clock: The server's time.
        confirmations: By durability, the commands that tell how far a write has got, as far as that was asked.
        opened: The key names, once the namespace is open.
        siblings: The sessions of one store object: its own, and those of its Runs.
        gives_any: Whether any durability is taken as given: fakeredis keeps nothing beyond its process.
        allows_fast_path: Whether the store's options allow the fast path of an append: no limit, no required
            lease, and nothing to be resent.
        was_full: Whether the server had no room for what this writer sent last: it may evict keys since.
        reads_by_script: Whether the store's user may call scripts to read, as far as is known.
    """

    codec: Codec[E, S]
    namespace: str = "runstream"
    partitions: int | None = None
    require_lease: bool = False
    recent: RecentAppends | None = None
    max_hot_events: int | None = None
    durability: Durability = PRIMARY
    longest_wait: float = 5.0
    clock: Callable[[], float] = monotonic_seconds
    producers: ProducerPool = field(default_factory=ProducerPool)
    coverage: CoverageBook = field(default_factory=CoverageBook)
    snapshots: SnapshotCache = field(default_factory=SnapshotCache)
    seen: SeenBook = field(default_factory=SeenBook)
    largest: LargestRecords = field(default_factory=LargestRecords)
    in_flight: InFlight[Session[E, S]] = field(default_factory=InFlight)
    server_clock: ServerClock = field(default_factory=ServerClock)
    confirmations: dict[Durability, Sequence[Command]] = field(default_factory=dict)
    opened: Keys | None = None
    gives_any: bool = False
    siblings: list[weakref.ref[Session[E, S]]] = field(default_factory=list)
    allows_fast_path: bool = field(init=False)
    was_full: bool = field(init=False, default=False)
    reads_by_script: bool = True

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        self.allows_fast_path = self.recent is None and self.max_hot_events is None and not self.require_lease
        self.siblings.append(weakref.ref(self, self.siblings.remove))

    def for_one_writer(self) -> Session[E, S]:
        """A session that shares all but coverage and snapshots with this one."""
        return replace(self, coverage=CoverageBook(), snapshots=SnapshotCache())

    def open(self, keys: Keys, *, gives_any: bool = False) -> None:
        """Note the key names once the namespace is open, in every sibling."""
        for session in self._living():
            session.opened, session.gives_any = keys, gives_any

    def forget(self, run_id: str) -> None:
        """Forget a run: what was seen and appended last, and every sibling's coverage and snapshots."""
        self.forget_history(run_id)
        if self.recent is not None:
            self.recent.forget(run_id)
        for session in self._living():
            session.snapshots.forget(run_id)

    def forget_history(self, run_id: str) -> None:
        """Forget a run's history: what was seen of it, and every sibling's coverage."""
        self.seen.forget(run_id)
        for session in self._living():
            session.coverage.forget(run_id)

    def _living(self) -> list[Session[E, S]]:
        """The siblings that are still in use, this session among them."""
        return [session for sibling in tuple(self.siblings) if (session := sibling()) is not None]

    @classmethod
    def make(
        cls,
        codec: Codec[E, S],
        namespace: str,
        partitions: int | None,
        durability: str,
        *,
        require_lease: bool,
        resend_lost: bool,
        max_hot_events: int | None = None,
        longest_wait: float,
    ) -> Session[E, S]:
        """The session of a store with these options. Raises ConfigurationError for options it cannot have."""
        check_count("max_hot_events", max_hot_events)
        if max_hot_events == 0:
            raise ConfigurationError(
                "max_hot_events=0: a run needs room for at least one event; None for no limit"
            )
        recent = RecentAppends() if resend_lost else None
        level = Durability.parse(durability)
        return cls(codec, namespace, partitions, require_lease, recent, max_hot_events, level, longest_wait)

    @property
    def keys(self) -> Keys:
        """The key names. Raises ConfigurationError before the store is open."""
        if self.opened is None:
            raise ConfigurationError("the store is not open: use `await connect_async(...)` or `async with`")
        return self.opened
