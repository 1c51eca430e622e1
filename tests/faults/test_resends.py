"""P2 on a real server: every mutating call, under every fault at every round trip, is applied exactly once.

Each test goes through the fault proxy, with a fresh store and fresh runs for every round trip that is struck, and
ends in the same checker, which reads the server directly and not through a store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from runstream import AsyncRedisCheckpointer, RedisCheckpointer, StoreUnavailable
from runstream.codec.chain import next_chain
from runstream.codec.record import record_crc
from runstream.codec.snapshot_fields import read_saved
from runstream.model.state import RunState
from runstream.stores.redis.operations.worker.drain import Proven, settle
from runstream.stores.redis.operations.worker.load import load_runs
from runstream.stores.redis.operations.worker.retire import Quiet, RetireCandidate, retire
from runstream.stores.redis.scripts import library
from runstream.testing import Fault, FaultProxy
from tests.support.backends import Blocking, LoopThread, kept_replies
from tests.support.operations import perform, session_of
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import Server, Servers, eventually, needs_valkey

pytestmark = needs_valkey

PATIENT_SECONDS = 20.0
IMPATIENT_SECONDS = 0.2
MOST_CALLS = 50
LEASE_SECONDS = 2.0
SCRIPTS = [script.source for script in library.SCRIPTS]

SENDERS = ["caller", "store", "redis-py"]
"""Who sends again: the caller after StoreUnavailable, the store, or a caller's client as redis-py makes it."""


# -- what is called, and what must hold then


@dataclass
class Step:
    """One mutating call, which may be repeated, and what the server must hold after it."""

    call: Callable[[], Any]
    events: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """All events of each run."""
    state: RunState | None = None
    """The run's snapshot; None: there is none."""
    revision: int = 0
    covers: int = 0
    reply: tuple[int, int] | None = None
    """First and last offset, of an append."""
    deleted: str = ""
    """A run of which nothing may be left."""
    keys: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    """The keys of the events of a run."""
    leased: Callable[[Any], Any] | None = None
    """From what the call gave: the lease that is in force on the main lane, or None."""
    is_silent: bool = False
    """The caller is not told of a failure."""
    retired: int = 0
    """How many events have left Redis with all else that it held of the run."""
    counts: bool = False
    """The state counts in ``current_step`` how often it was changed: once, however often the call was made."""


Open = Callable[[], Any]  # another store, of the same kind and through the same proxy
Operation = Callable[[Any, str, Open], Step]


def begin(store: Any, run: str) -> list[Any]:
    """A run of two events."""
    events = make_events(run, 2)
    store.append(run, events)
    return events


def save_event(store: Any, run: str, _: Open) -> Step:
    before, event = begin(store, run), make_event(run, 3)
    return Step(partial(store.save_event, event), {run: [*before, event]})


def save_event_first(store: Any, run: str, _: Open) -> Step:
    event = make_event(run, 1, session_id="s")
    return Step(partial(store.save_event, event), {run: [event]})


def save_events(store: Any, run: str, _: Open) -> Step:
    """Over three runs, of which two are new, and in several partitions."""
    runs = [run, f"{run}-b", f"{run}-c"]
    before = begin(store, run)
    events = [make_event(name, seq) for seq in range(3, 6) for name in runs]
    all_of = {name: [event for event in events if event.run_id == name] for name in runs}
    return Step(partial(store.save_events, events), {**all_of, run: before + all_of[run]})


def append(store: Any, run: str, _: Open) -> Step:
    before, events = begin(store, run), make_events(run, 5, first=3)
    return Step(partial(store.append, run, events, expected_offset=2), {run: before + events}, reply=(3, 7))


def append_with_first_snapshot(store: Any, run: str, _: Open) -> Step:
    events, state = make_events(run, 3), make_state(run, purpose="first")
    call = partial(store.append, run, events, snapshot=state)
    return Step(call, {run: events}, state, revision=1, covers=3, reply=(1, 3))


def append_with_snapshot(store: Any, run: str, _: Open) -> Step:
    """The snapshot is a difference, and is compared."""
    before = begin(store, run)
    store.save_snapshot(run, make_state(run, purpose="old", data={"kept": 1, "gone": 2}))
    events, state = make_events(run, 3, first=3), make_state(run, purpose="new", data={"kept": 1, "come": 3})
    call = partial(store.append, run, events, snapshot=state)
    return Step(call, {run: before + events}, state, revision=2, covers=5, reply=(3, 5))


def save_snapshot_whole(store: Any, run: str, _: Open) -> Step:
    before, state = begin(store, run), make_state(run, data={"a": 1, "b": 2})
    return Step(partial(store.save_snapshot, run, state), {run: before}, state, revision=1, covers=2)


def save_snapshot_difference(store: Any, run: str, _: Open) -> Step:
    before = begin(store, run)
    store.save_snapshot(run, make_state(run, data={"kept": 1, "gone": 2}))
    state = make_state(run, data={"kept": 1, "come": 3})
    return Step(partial(store.save_snapshot, run, state), {run: before}, state, revision=2, covers=2)


def save_snapshot_over_another(store: Any, run: str, other: Open) -> Step:
    """The difference is refused, since another store has saved in between; the whole is sent."""
    step = save_snapshot_difference(store, run, other)
    other().save_snapshot(run, make_state(run, data={"other": 9}))
    step.revision = 3
    return step


def update_state(store: Any, run: str, _: Open) -> Step:
    before, state = begin(store, run), make_state(run)
    store.save_snapshot(run, state)

    def count(state: RunState) -> None:
        state.current_step += 1

    return Step(partial(store.update_state, run, count), {run: before}, state, revision=2, covers=2, counts=True)


def append_with_keys(store: Any, run: str, _: Open) -> Step:
    """One of the keys is known."""
    before, events = make_events(run, 2), make_events(run, 3, first=3)
    store.append(run, before, keys=["a", "b"])
    call = partial(store.append, run, events, keys=["c", "a", "d"])
    return Step(call, {run: [*before, events[0], events[2]]}, reply=(3, 4), keys={run: ["a", "b", "c", "d"]})


def append_with_key_and_snapshot(store: Any, run: str, _: Open) -> Step:
    """One event, and the snapshot of its lane, as an agent saves a checkpoint."""
    before, event = make_events(run, 2), make_event(run, 3)
    save = partial(store.append, run, snapshot=make_state(run), lane_id=event.lane_id)
    save(events=before, keys=["a", "b"])
    call = partial(save, events=[event], keys=["c"])
    return Step(call, {run: [*before, event]}, reply=(3, 3), keys={run: ["a", "b", "c"]})


def append_to_a_retired_run(store: Any, run: str, other: Open) -> Step:
    """By one that has not written before, and does not know how old its batch is by the server's time."""
    before, events = make_events(run, 2), make_events(run, 2, first=3)
    another = other()
    another.append(run, before, snapshot=make_state(run, status="completed"))
    keys = session_of(another).keys
    (found,) = perform(another, load_runs(keys, [run]))
    proven = Proven(found.header, found.head.last, found.head.tokens, "archived", None)
    perform(another, settle(keys, [proven], {}))
    candidate = RetireCandidate(run, found.header, found.head.tokens)
    (outcome,) = perform(another, retire(keys, [candidate], Quiet(0), {}))
    assert outcome.name == "ok"
    call = partial(store.append, run, events, expected_offset=2)
    return Step(call, {run: before + events}, reply=(3, 4), retired=2)


def append_under_a_lease(store: Any, run: str, _: Open) -> Step:
    before, events = begin(store, run), make_events(run, 2, first=3)
    lease = store.lease(run, owner="us", lane_id="main")
    call = partial(store.append, run, events, lease=lease)
    return Step(call, {run: before + events}, reply=(3, 4), leased=lambda _: lease)


def take_lease(store: Any, run: str, _: Open) -> Step:
    call = partial(store.lease, run, owner="us", lane_id="main")
    return Step(call, {run: begin(store, run)}, leased=lambda lease: lease)


def renew_lease(store: Any, run: str, _: Open) -> Step:
    before, lease = begin(store, run), store.lease(run, owner="us", lane_id="main")
    return Step(lease.check, {run: before}, leased=lambda _: lease)


def release_lease(store: Any, run: str, _: Open) -> Step:
    """Whoever gives it back is not told of a failure: it runs out by itself."""
    before, lease = begin(store, run), store.lease(run, owner="us", lane_id="main", ttl=LEASE_SECONDS)
    return Step(lease.release, {run: before}, leased=lambda _: None, is_silent=True)


def delete_run(store: Any, run: str, _: Open) -> Step:
    before = make_events(run, 3, session_id="s")
    store.append(run, before, snapshot=make_state(run, session_id="s"))
    store.save_snapshot(run, make_state(run), lane_id="main")
    return Step(partial(store.delete_run, run), deleted=run)


OPERATIONS: list[Operation] = [
    save_event_first,
    save_event,
    save_events,
    append,
    append_with_first_snapshot,
    append_with_snapshot,
    save_snapshot_whole,
    save_snapshot_difference,
    save_snapshot_over_another,
    update_state,
    append_with_keys,
    append_with_key_and_snapshot,
    append_to_a_retired_run,
    append_under_a_lease,
    take_lease,
    renew_lease,
    release_lease,
    delete_run,
]


# -- the checker


def check(raw: Any, session: Any, step: Step) -> None:
    """The server holds what the step says, once."""
    for run, events in step.events.items():
        check_events(raw, session, run, events, step.keys.get(run), step.retired)
    if step.deleted:
        check_deleted(raw, session, step.deleted)
        return
    for run in step.events:
        saved = raw.hgetall(session.keys.run(run).snapshot(None))
        if step.state is None:
            assert not saved
            assert raw.hget(session.keys.run(run).meta, "snapshot") is None
        else:
            check_snapshot(raw, session, step, saved)


def check_events(
    raw: Any,
    session: Any,
    run: str,
    events: Sequence[Any],
    event_keys: Sequence[str | None] | None,
    retired: int,
) -> None:
    """Each event once, in order, at offsets without a hole, along one chain; meta and the indexes agree."""
    keys = session.keys.run(run)
    entries = raw.xrange(keys.events)
    records = [encoded.record for encoded in session.codec.encode_events(run, events, event_keys)]
    assert [entry[b"e"] for _, entry in entries] == records[retired:]
    meta = raw.hgetall(keys.meta)
    base, chain = map(int, meta[b"start"].split(b"-"))
    for record in records[:retired]:
        base, chain = base + 1, next_chain(chain, record_crc(record))
    for offset, (entry_id, entry) in enumerate(entries, base + 1):
        chain = next_chain(chain, record_crc(entry[b"e"]))
        assert entry_id == b"%d-%d" % (offset, chain)
    assert meta[b"last"] == entries[-1][0]
    places = {
        (key or "").encode(): entry_id for key, (entry_id, _) in zip(event_keys or (), entries, strict=False)
    }
    assert raw.hgetall(keys.keys) == places
    for index in (keys.partition.runs, keys.partition.due):
        assert raw.zscore(index, run) is not None
    # what a resend would be told lies within what is there
    for batch in kept_replies(raw, keys.meta, keys.producers).values():
        _, _, last, *_ = batch.split(b" ")
        assert int(last.split(b"-")[0]) <= len(records)


def check_snapshot(raw: Any, session: Any, step: Step, saved: dict[bytes, bytes]) -> None:
    """The one that was saved, whole, with the revision after the one before; meta agrees."""
    assert step.state is not None
    _, revision, _, values, _ = read_saved(saved)
    wanted = step.state.to_dict()
    if step.counts:
        wanted["current_step"] = 1
    assert revision == step.revision
    assert values == wanted
    assert int(saved[b"offset"]) == step.covers
    noted = raw.hget(session.keys.run(step.state.run_id).meta, "snapshot")
    assert noted == b"%d %d %s" % (step.covers, revision, saved[b"token"])


def check_lease(raw: Any, session: Any, run: str, lease: Any) -> None:
    """The lane's lease is this one, or, in time, none."""
    place = session.keys.run(run).meta, "lease:main"
    if lease is None:
        eventually(lambda: not raw.hexists(*place) or is_over(raw, raw.hget(*place)))
    else:
        epoch, _, token, *_ = raw.hget(*place).split(b" ")
        assert (int(epoch), token.decode()) == (lease.epoch, lease.grant.token)


def is_over(raw: Any, lease: bytes) -> bool:
    seconds, microseconds = raw.time()
    return bool(int(lease.split(b" ")[1]) <= seconds * 1_000_000 + microseconds)


def check_deleted(raw: Any, session: Any, run: str) -> None:
    """No key of the run, no place in an index; that it was deleted is remembered."""
    partition = session.keys.run(run).partition
    assert list(raw.scan_iter(f"{partition.tag}:run:{run}:*", count=1000)) == []
    for index in (partition.runs, partition.due, partition.session("s")):
        assert raw.zscore(index, run) is None
    assert raw.zcard(partition.deleted) >= 1


# -- the stores under test

Counted = dict[tuple[Operation, bool, bool], int]


class Rig:
    """Stores of one kind that go through a proxy to a real server, in one namespace."""

    def __init__(
        self, server: Server, namespace: str, loop: LoopThread | None, sender: str, counted: Counted
    ) -> None:
        self.raw: Any = server.raw
        self.namespace = namespace
        self._loop = loop
        self._sender = sender
        self._counted = counted
        self._runs = 0
        # none of these commands is sent in pieces, so a client that is quiet at all waits
        self.proxy = FaultProxy(server.url, quiet_seconds=0.001)

    def round_trips(self, operation: Operation, *, new_scripts: bool) -> int:
        """How many round trips a call takes that nothing happens to."""
        place = (operation, self._loop is None, new_scripts)
        if place not in self._counted:
            self._counted[place] = self.try_once(operation, None, 1, new_scripts=new_scripts)
        return self._counted[place]

    def try_once(self, operation: Operation, fault: Fault | None, at: int, *, new_scripts: bool) -> int:
        """Strike one round trip of a call on new runs, and check the outcome; how many round trips it took."""
        self._runs += 1
        timeout_seconds = IMPATIENT_SECONDS if fault is Fault.DELAY else PATIENT_SECONDS
        with ExitStack() as stack:
            open_store = partial(self._open, stack, timeout_seconds)
            store = until_taken(open_store)[0]
            session = session_of(store)
            step = operation(store, f"r{self._runs}", open_store)
            if new_scripts:
                self.raw.script_flush()
            else:
                for script in SCRIPTS:
                    self.raw.script_load(script)
            self.proxy.reset()
            if fault is not None:
                self.proxy.arm(fault, at=at, delay_seconds=PATIENT_SECONDS)
            try:
                reply, calls = until_taken(step.call)
                trips = self.proxy.round_trips
                assert self.proxy.struck == (fault is not None)
            finally:
                self.proxy.disarm()
            if self._sender != "caller":
                assert calls == 1, "it must succeed by itself"
            elif fault is not None and not step.is_silent:
                assert calls > 1, "the caller must be told"
            if step.reply is not None:
                assert reply[:2] == step.reply
            check(self.raw, session, step)
            if step.leased is not None:
                check_lease(self.raw, session, next(iter(step.events)), step.leased(reply))
            return trips

    def _open(self, stack: ExitStack, timeout_seconds: float) -> Any:
        options: dict[str, Any] = {"socket_timeout": timeout_seconds}
        if self._sender != "redis-py":
            options["retry"] = (Retry if self._loop is None else AsyncRetry)(NoBackoff(), 0)
        retry_seconds = 0.0 if self._sender == "caller" else 5.0
        url = self.proxy.url
        if self._loop is None:
            client = stack.enter_context(redis.Redis.from_url(url, **options))
            return RedisCheckpointer[Any, Any](client, namespace=self.namespace, retry_seconds=retry_seconds)
        async_client = redis.asyncio.Redis.from_url(url, **options)
        stack.callback(lambda: self._loop and self._loop.run(async_client.aclose()))
        store: Any = AsyncRedisCheckpointer(async_client, namespace=self.namespace, retry_seconds=retry_seconds)
        return Blocking(self._loop, self._loop.run(store.open()))


def until_taken(call: Callable[[], Any]) -> tuple[Any, int]:
    """Repeat a call until it gets its reply: that, and how many calls it took."""
    for count in range(1, MOST_CALLS + 1):
        try:
            return call(), count
        except StoreUnavailable:
            continue
    raise AssertionError("it never got a reply")


@pytest.fixture(params=SENDERS)
def sender(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who sends again. redis-py's default pauses last seconds and are not what is tested."""

    async def no_pause(_: float) -> None:
        pass

    monkeypatch.setattr("redis.retry.sleep", lambda _: None)
    monkeypatch.setattr("redis.asyncio.retry.sleep", no_pause)
    return str(request.param)


@pytest.fixture(scope="module")
def counted() -> Counted:
    """How many round trips a call takes, once it has been counted: by the kind of store, not by who sends."""
    return {}


@pytest.fixture(params=["sync", "async"])
def rig(
    request: pytest.FixtureRequest,
    servers: Servers,
    loop_thread: LoopThread,
    namespace: str,
    sender: str,
    counted: Counted,
) -> Iterator[Rig]:
    """Stores of each kind; what they leave on the server is removed."""
    server = servers.get("valkey")
    rig = Rig(server, namespace, loop_thread if request.param == "async" else None, sender, counted)
    with rig.proxy:
        yield rig
    if left := list(server.raw.scan_iter(f"{{{namespace}*", count=1000)):
        server.raw.delete(*left)


# -- P2


@pytest.mark.one_in(24, exhaustively=5)
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_a_call_is_applied_once_whichever_of_its_round_trips_is_struck(
    operation: Operation, fault: Fault, rig: Rig
) -> None:
    """Each event once at dense offsets, one revision more, nothing left of a deleted run."""
    for at in range(1, rig.round_trips(operation, new_scripts=False) + 1):
        rig.try_once(operation, fault, at, new_scripts=False)


@pytest.mark.one_in(12)
@pytest.mark.parametrize(
    "fault", [Fault.DROP_REPLY, Fault.DROP_REQUEST, Fault.CUT_REQUEST], ids=lambda fault: fault.value
)
@pytest.mark.parametrize("operation", [save_event, save_events, append_with_snapshot, delete_run])
def test_a_call_is_applied_once_also_while_the_server_is_told_its_script(
    operation: Operation, fault: Fault, rig: Rig
) -> None:
    """A server that was restarted knows no scripts: the refusal, the loading and the second try are struck too."""
    trips = rig.round_trips(operation, new_scripts=True)
    assert trips >= 3
    for at in range(1, trips + 1):
        rig.try_once(operation, fault, at, new_scripts=True)
