"""P10: the tiered view beside plain lists, whatever is appended, drained, trimmed, retired, deleted and restored.

Two clients, the Runs that they open and the workers of a drain do as they like with a few runs. What the runs
have is kept in plain lists as well, and after every step an observer, which never writes, must see just that:
forwards and backwards, from any offset or cursor, with bounds and limits, also where it follows or recovers.

A snapshot may cover less than its writer knew, never more: each one is checked against the offsets that its writer
had recovered, or appended itself. What a recovery gives must be all that comes after it.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from runstream import (
    AsyncTieredCheckpointer,
    ConcurrencyConflict,
    DrainWorker,
    EventKind,
    EventsArchived,
    PAEvent,
    RedisCheckpointer,
    RunState,
    TieredCheckpointer,
)
from runstream.history.archived import ArchivedHistory
from runstream.history.hot import HotHistory
from runstream.model.state import ENDED_STATUSES, status_after
from runstream.repair.restore import restore_run
from runstream.stores.archive.facade import ArchiveStore
from runstream.stores.capabilities import archive_of
from runstream.stores.redis.namespace import namespace_of
from tests.stores.tiered.tiers import ARCHIVES
from tests.support.backends import AsyncRedisBackend, Blocking, FakeBackend, LoopThread, ServerBackend
from tests.support.operations import last_seq
from tests.support.servers import PROGRAMS, Servers

Tiered: TypeAlias = Any  # TieredCheckpointer, or its async form behind a sync face

CLIENTS = 2
RUNS = ("r", "run:%t")
LANES = ("main", "a", "b")
runs = st.sampled_from(RUNS)
lanes = st.sampled_from(LANES)
clients = st.integers(0, CLIENTS - 1)
writers = st.integers(0, 3)
bounds = st.integers(0, 14)
limits = st.none() | st.integers(0, 6)
trims = st.sampled_from(["covered", "archived", "archived", "never"])
keys = st.sampled_from([None, None, "k1", "k2"])
ENDS = (EventKind.RUN_FINISHED, EventKind.RUN_ERROR)
kinds = st.sampled_from([EventKind.AGENT_PROGRESS] * 6 + [EventKind.RUN_STARTED, *ENDS, "own.kind"])
drafts = st.lists(st.tuples(lanes, kinds, keys), min_size=1, max_size=5)
numbers = itertools.count(1)


@dataclass
class Saved:
    """A snapshot, with the offsets that its writer may let it cover."""

    purpose: str
    known: frozenset[int]
    number: int = field(default_factory=numbers.__next__)


@dataclass
class Model:
    """A run in plain lists."""

    events: list[PAEvent] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)
    states: dict[str | None, Saved] = field(default_factory=dict)
    status: str = "running"

    @property
    def exists(self) -> bool:
        """Whether there is anything of it."""
        return bool(self.events or self.states)

    def offsets(self, lane_id: str | None) -> list[int]:
        """The offsets of a lane, or of all."""
        return [n for n, event in enumerate(self.events, 1) if lane_id in (None, event.lane_id)]


@dataclass
class Writer:
    """A Run, with the offsets and the snapshot that it knows."""

    run: Any
    run_id: str
    lane_id: str
    client: int
    known: set[int]
    saved: int | None

    @property
    def scope(self) -> str | None:
        """Whose snapshot it saves: the main lane's is the run's."""
        return None if self.lane_id == "main" else self.lane_id


class TieredMachine(RuleBasedStateMachine):
    """Does the same to the stores and to the lists, and compares."""

    def __init__(self, open_world: Callable[[ExitStack], World]) -> None:
        super().__init__()
        self._opened = ExitStack()
        self.world = open_world(self._opened)
        self.clients = [self.world.open_tiered() for _ in range(CLIENTS)]
        self.observer = self.world.open_tiered()
        self.hot, self.archive = self.world.hot, self.world.archive
        self.models = {run_id: Model() for run_id in RUNS}
        self.known: dict[tuple[int, str], set[int]] = {}
        self.forgotten: set[str] = set()
        self.writers: dict[int, Writer] = {}

    def teardown(self) -> None:
        self._opened.close()

    # -- writing

    def make(self, run_id: str, drafted: list[tuple[Any, Any, Any]]) -> list[PAEvent]:
        """Events that no other is equal to."""
        return [PAEvent(run_id, seq=next(numbers), lane_id=lane, kind=kind) for lane, kind, _ in drafted]

    def note(self, model: Model, made: list[PAEvent], made_keys: list[str | None], known: set[int]) -> int:
        """Append to the list what is not there under its key; so many are new."""
        count = 0
        for event, key in zip(made, made_keys, strict=True):
            if key is not None and key in model.keys:
                continue
            model.events.append(event)
            known.add(len(model.events))
            count += 1
            if key is not None:
                model.keys[key] = len(model.events)
            model.status = status_after((event.kind,)) or model.status
        return count

    def known_by(self, client: int, run_id: str) -> set[int]:
        """The offsets that a client knows of a run."""
        return self.known.setdefault((client, run_id), set())

    @rule(client=clients, run_id=runs, drafted=drafts, way=st.sampled_from(["one", "many", "keys", "state"]))
    def append(self, client: int, run_id: str, drafted: list[tuple[Any, Any, Any]], way: str) -> None:
        """In every way; with a state, as somebody who has just recovered the run."""
        if run_id in self.forgotten:
            return  # refused: see test_one_history
        store, model, known = self.clients[client], self.models[run_id], self.known_by(client, run_id)
        made = self.make(run_id, drafted)
        if way in ("one", "many"):
            for event in made if way == "one" else ():
                store.save_event(event)
            if way == "many":
                store.save_events(made)
            self.note(model, made, [None] * len(made), known)
            return
        made_keys = [key for _, _, key in drafted]
        options: dict[str, Any] = {}
        if way == "state":
            store.recover(run_id)
            known.update(model.offsets(None))
            options["snapshot"] = state = self.state(run_id, model.status)
        store.append(run_id, made, keys=made_keys, **options)
        count = self.note(model, made, made_keys, known)
        if way == "state" and count:
            self.saved(model, None, state, known)

    def state(self, run_id: str, status: str = "running") -> RunState:
        """A state that no other is equal to."""
        return RunState(run_id, status=status, purpose=f"purpose {next(numbers)}")

    def saved(self, model: Model, lane_id: str | None, state: RunState, known: set[int]) -> int:
        """Note a snapshot."""
        saved = model.states[lane_id] = Saved(state.purpose, frozenset(known))
        if lane_id is None:
            model.status = str(getattr(state.status, "value", state.status))
        return saved.number

    @rule(client=clients, run_id=runs, lane_id=st.none() | lanes, status=st.sampled_from(["running", "completed"]))
    def save_snapshot(self, client: int, run_id: str, lane_id: str | None, status: str) -> None:
        """Whatever was there; where it would not cover what has left Redis, after a recovery."""
        if run_id in self.forgotten:
            return
        store, model, known = self.clients[client], self.models[run_id], self.known_by(client, run_id)
        state = self.state(run_id, status)
        try:
            store.save_snapshot(run_id, state, lane_id=lane_id)
        except EventsArchived:
            store.recover(run_id, lane_id=lane_id)
            known.update(model.offsets(lane_id))
            store.save_snapshot(run_id, state, lane_id=lane_id)
        self.saved(model, lane_id, state, known)

    @rule(client=clients, run_id=runs)
    def update_state(self, client: int, run_id: str) -> None:
        """A change to a state covers what that one covered, and no more."""
        if run_id in self.forgotten:
            return
        model = self.models[run_id]
        purposes: list[str] = []

        def change(state: RunState) -> None:
            purposes.append(state.purpose)
            state.purpose = f"purpose {next(numbers)}"

        former = model.states.get(None)
        state = self.clients[client].update_state(run_id, change)
        assert purposes[-1] == ("" if former is None else former.purpose)
        self.saved(model, None, state, set() if former is None else set(former.known))

    # -- Runs

    @rule(slot=writers, client=clients, run_id=runs, lane_id=lanes)
    def open_run(self, slot: int, client: int, run_id: str, lane_id: str) -> None:
        """In the place of another, which is closed."""
        former = self.writers.pop(slot, None)
        if former is not None:
            former.run.close()
        if run_id in self.forgotten:
            with self.clients[client].open_run(run_id, lane_id=lane_id) as archived:
                scope = None if lane_id == "main" else lane_id
                self.check_recovery(archived.recovered, self.models[run_id], scope)
            return
        model = self.models[run_id]
        run = self.clients[client].open_run(run_id, lane_id=lane_id)
        scope = None if lane_id == "main" else lane_id
        saved = model.states.get(scope)
        writer = Writer(
            run, run_id, lane_id, client, set(model.offsets(scope)), None if saved is None else saved.number
        )
        self.check_recovery(run.recovered, model, scope)
        self.writers[slot] = writer

    def writer(self, slot: int) -> Writer | None:
        """The Run in that place, unless its run has left Redis for good."""
        writer = self.writers.get(slot)
        return None if writer is None or writer.run_id in self.forgotten else writer

    @rule(slot=writers, drafted=st.lists(kinds, min_size=1, max_size=3))
    def emit(self, slot: int, drafted: list[Any]) -> None:
        """One or several."""
        writer = self.writer(slot)
        if writer is not None:
            emitted = writer.run.emit_many(drafted)
            model = self.models[writer.run_id]
            assert [item.offset for item in emitted] == list(
                range(len(model.events) + 1, len(model.events) + 1 + len(drafted))
            )
            self.note(model, [item.event for item in emitted], [None] * len(drafted), writer.known)

    @rule(slot=writers, ends=st.booleans())
    def checkpoint(self, slot: int, ends: bool) -> None:
        """It, or the end of the run, is refused if another snapshot was saved since, and for no other reason."""
        writer = self.writer(slot)
        if writer is None:
            return
        model, run = self.models[writer.run_id], writer.run
        saved = model.states.get(writer.scope)
        run.state.purpose = f"purpose {next(numbers)}"
        try:
            if ends:
                finished = run.finish()
            else:
                run.checkpoint()
        except ConcurrencyConflict:
            assert (saved and saved.number) != writer.saved
        except EventsArchived:  # of others, and they are where a Redis store alone could not recover from
            assert (saved and saved.number) == writer.saved
            assert not set(model.offsets(writer.scope)) <= writer.known
        else:
            assert (saved and saved.number) == writer.saved
            if ends:
                self.note(model, [finished.event], [None], writer.known)
            writer.saved = self.saved(model, writer.scope, run.state, writer.known)
            return
        del self.writers[slot]
        run.close()

    # -- what moves the boundary

    def drain(self, workers: int = 1, **options: Any) -> None:
        """By so many workers at once."""
        made = [DrainWorker(self.hot, [self.archive], name=f"w{n}", **options) for n in range(workers)]
        if workers == 1:
            reports = [made[0].drain_once()]
        else:
            with ThreadPoolExecutor(workers) as threads:
                reports = list(threads.map(lambda worker: worker.drain_once(), made))
        assert not any(report.parked or report.quarantined for report in reports)

    @rule(workers=st.integers(1, 2), trim=trims, batch=st.sampled_from([1, 2, 1000]))
    def drain_due(self, workers: int, trim: str, batch: int) -> None:
        """All runs."""
        self.drain(workers, trim=trim, batch=batch)

    @rule(forgets=st.booleans())
    def retire(self, forgets: bool) -> None:
        """All that have ended, and perhaps forget them at once."""
        self.drain(retire_after_seconds=0, forget_after_seconds=0 if forgets else None)
        listed = self.hot.list_runs()
        for run_id, model in self.models.items():
            if model.exists and run_id not in listed:
                assert model.status in ENDED_STATUSES
                self.forgotten.add(run_id)

    @rule(run_id=runs, keep=st.none() | bounds)
    def restore(self, run_id: str, keep: int | None) -> None:
        """Put back what the archive has, when it has all of it."""
        self.drain(trim="never")
        source = ArchivedHistory.load(archive_of(self.archive), run_id)
        if source is None:
            return
        redis = HotHistory.load(namespace_of(self.hot), run_id)
        restore_run(
            self.hot,
            source,
            seen=None if redis is None else redis.run,
            common=source.last.offset,
            keep_from=keep,
        )
        self.forgotten.discard(run_id)

    @rule(client=clients, run_id=runs, really=st.sampled_from([False, True]), anew=st.integers(0, 3))
    def delete(self, client: int, run_id: str, really: bool, anew: int) -> None:
        """And perhaps make it anew."""
        if not really and run_id not in self.forgotten:
            return
        assert self.clients[client].delete_run(run_id) is self.models[run_id].exists
        self.models[run_id] = model = Model()
        self.forgotten.discard(run_id)
        for other in range(CLIENTS):
            self.known.pop((other, run_id), None)
        for writer in self.writers.values():
            if writer.run_id == run_id:
                writer.known.clear()
                if writer.client == client:
                    writer.saved = None
        made = self.make(run_id, [("a", EventKind.AGENT_PROGRESS, None)] * anew)
        self.clients[client].save_events(made)
        self.note(model, made, [None] * anew, self.known_by(client, run_id))

    # -- what is seen of it

    @rule(run_id=runs, after=bounds, before=st.none() | bounds, limit=limits, reverse=st.booleans())
    def read(self, run_id: str, after: int, before: int | None, limit: int | None, reverse: bool) -> None:
        """Any stretch, from an offset and from the cursor at it."""
        model, store = self.models[run_id], self.observer
        last = len(model.events)
        offsets = range(after + 1, (last + 1) if before is None else min(before, last + 1))
        wanted = [*(reversed(offsets) if reverse else offsets)][:limit]
        places: list[int | str] = [after]
        if 0 < after <= last:
            (item,) = store.read(run_id, after - 1, limit=1)
            places.append(item.cursor)
        for place in places:
            found = list(store.read(run_id, place, before=before, limit=limit, reverse=reverse))
            assert [item.offset for item in found] == wanted
            assert [item.event for item in found] == [model.events[n - 1] for n in wanted]

    @precondition(lambda self: any(model.status in ENDED_STATUSES for model in self.models.values()))
    @rule(
        after=bounds,
        lane_id=st.none() | lanes,
        of_kinds=st.none() | st.just([EventKind.RUN_FINISHED]),
        visibility=st.sampled_from([None, "public"]),
    )
    def follow(self, after: int, lane_id: str | None, of_kinds: Any, visibility: str | None) -> None:
        """What has ended, to its end."""
        for run_id, model in self.models.items():
            if model.status in ENDED_STATUSES:
                followed = self.observer.follow(
                    run_id, after, idle_timeout=20, lane_id=lane_id, kinds=of_kinds, visibility=visibility
                )
                wanted = [
                    (n, event)
                    for n, event in enumerate(model.events, 1)
                    if n > after
                    and lane_id in (None, event.lane_id)
                    and (of_kinds is None or event.kind in of_kinds)
                ]
                assert [(item.offset, item.event) for item in followed] == wanted

    @rule(run_id=runs, lane_id=st.none() | lanes)
    def recover(self, run_id: str, lane_id: str | None) -> None:
        """The latest state, and all that comes after what it covers."""
        self.check_recovery(self.observer.recover(run_id, lane_id=lane_id), self.models[run_id], lane_id)

    def check_recovery(self, recovery: Any, model: Model, scope: str | None) -> None:
        """Against what is in the lists."""
        saved = model.states.get(scope)
        assert (recovery.state and recovery.state.purpose) == (saved and saved.purpose)
        covered = [n for n in model.offsets(scope) if n <= recovery.offset]
        assert saved is not None or not covered
        assert saved is None or set(covered) <= saved.known
        found = [(item.offset, item.event) for item in recovery.events]
        assert found == [(n, model.events[n - 1]) for n in model.offsets(scope) if n > recovery.offset]

    @invariant()
    def shows_what_there_is(self) -> None:
        """Everything that does not need drawing."""
        store = self.observer
        infos = {info.run_id: info for info in store.runs()}
        assert set(infos) == {run_id for run_id, model in self.models.items() if model.exists}
        for run_id, model in self.models.items():
            assert store.list_events(run_id) == model.events
            backwards = [item.offset for item in store.read(run_id, reverse=True)]
            assert backwards == list(range(len(model.events), 0, -1))
            info = store.run_info(run_id)
            assert info == infos.get(run_id)
            if info is not None:
                assert (info.last_offset, info.status) == (len(model.events), model.status)
                assert info.archived_offset <= info.last_offset
                assert run_id in [found.run_id for found in store.runs(status=model.status)]
            for lane_id in (None, *LANES):
                snapshot, saved = store.load_snapshot(run_id, lane_id=lane_id), model.states.get(lane_id)
                assert (snapshot and snapshot.state.purpose) == (saved and saved.purpose)
                if snapshot is not None and saved is not None:
                    assert {n for n in model.offsets(lane_id) if n <= snapshot.offset} <= saved.known
            for lane_id in LANES:
                last = next((event.seq for event in reversed(model.events) if event.lane_id == lane_id), 0)
                assert last_seq(store, run_id, lane_id) == last
        assert set(store.list_runs()) == set(infos)


# -- where it all lies


class World:
    """A namespace and an archive, and the tiered stores over them."""

    def __init__(
        self,
        opened: ExitStack,
        backend: FakeBackend | ServerBackend,
        archive: Callable[[Path], ArchiveStore[Any, Any]],
        loop: LoopThread | None,
    ) -> None:
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        opened.callback(backend.close)
        self._backend = backend
        self._loop = loop
        self._own = AsyncRedisBackend(backend, loop) if loop is not None else backend
        if loop is not None:
            opened.callback(self._own._opened.close)
        self.archive = opened.enter_context(closing(archive(directory)))
        hot = backend.open(partitions=2)
        assert isinstance(hot, RedisCheckpointer)
        self.hot = hot

    def open_tiered(self) -> Tiered:
        """A tiered store with a Redis store of its own."""
        hot: Any = self._own.open()
        if self._loop is None:
            return TieredCheckpointer(hot, self.archive)
        return Blocking(self._loop, AsyncTieredCheckpointer(hot._store, self.archive))


SERVERS = ["fake", *(["valkey"] if "valkey" in PROGRAMS else [])]


@pytest.mark.one_in(6, exhaustively=2)
@pytest.mark.timeout(3600)  # a failure is made small before it is shown, and the deep profile takes its time
@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("archive", ARCHIVES)
@pytest.mark.parametrize("form", ["sync", "async"])
def test_the_tiered_view_is_a_plain_list(
    form: str, archive: str, name: str, servers: Servers, namespace: str, loop_thread: LoopThread
) -> None:
    """Whatever is done to the runs."""
    count = itertools.count()

    def open_world(opened: ExitStack) -> World:
        backend: FakeBackend | ServerBackend
        own = f"{namespace}-{next(count)}"
        backend = FakeBackend(own) if name == "fake" else ServerBackend(servers.get(name), own)
        return World(opened, backend, ARCHIVES[archive], loop_thread if form == "async" else None)

    class OverArchive(TieredMachine):
        def __init__(self) -> None:
            super().__init__(open_world)

    # a step looks at everything there is, so a few examples are many looks; `--hypothesis-profile deep` has more
    share = settings().max_examples // (8 if name == "fake" and form == "sync" else 25)
    profile = settings(max_examples=share, stateful_step_count=40)
    run_state_machine_as_test(OverArchive, settings=profile)
