"""The Redis store and the one in memory, side by side: the same random calls have the same outcomes.

Three clients share runs. On Redis each is a store object of its own over one namespace. In memory they cannot
all be the one object that holds the runs: which snapshot a writer knows, and which history it knows without a
hole, is a matter of each store object, and P7 hangs on it. So each client there is what ``for_one_writer`` gives,
as it does for every ``Run``: an object that shares runs, keys and leases with the others and has such knowledge
of its own.

What is compared: results and errors with their facts, after every call. What the two sides give out by chance or
by their clocks (chains, tokens, epochs, times) is compared by what it is good for: a cursor by its offset and, as
each side is given its own back, by what is read from there; a lease by what can be written under it; times by the
order of the runs. What Redis knows and memory does not, that is, what was seen of a history that could be lost,
must show in nothing, as nothing is lost here: an alarm would be a false one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    multiple,
    rule,
    run_state_machine_as_test,
)

from runstream import (
    Appended,
    EventKind,
    InMemoryCheckpointer,
    LeaseHeld,
    PAEvent,
    Recorded,
    RunState,
    RunstreamError,
)
from runstream.model.results import Cursor, Placement
from tests.support.backends import FakeBackend, RedisBackend, ServerBackend
from tests.support.operations import append_each, last_seq, operations_of, with_operations
from tests.support.servers import PROGRAMS, Servers

Both: TypeAlias = tuple[Any, Any]
"""What the call gave on Redis, and in memory."""

CLIENTS = 3
TTL_SECONDS = 100_000.0  # time plays no part


# -- what can be compared of an outcome


def comparable(result: Any) -> Any:
    """A result without what each side gives out by chance."""
    match result:
        case Cursor():
            return result.offset
        case Appended():
            return result._replace(cursor=str(Cursor.parse(result.cursor).offset))
        case Recorded():
            return result._replace(cursor=str(Cursor.parse(result.cursor).offset))
        case Placement():
            return comparable(result.appended), comparable(list(result.cursors)), result.known
        case list():
            return [comparable(item) for item in result]
    return result


# -- what the calls are made with

RUNS = ("r", "run:%t")
runs = st.sampled_from(RUNS)
LANES = ("main", "a", "b")
lanes = st.sampled_from(("main", "a", "a", "b"))
snapshot_lanes = st.sampled_from((None, "a", "a", "main"))
clients = st.integers(0, CLIENTS - 1)
owners = st.sampled_from(["ada", "ben"])
keys = st.sampled_from([None, "k1", "k2", "k3"])
offsets = st.integers(0, 12)
kinds = st.sampled_from(
    [EventKind.AGENT_PROGRESS] * 6
    + [EventKind.RUN_STARTED, EventKind.RUN_FINISHED, EventKind.RUN_ERROR, "own.kind"]
)
sessions = st.sampled_from(["", "", "s1", "s2"])
numbers = itertools.count()


class EventDraft(NamedTuple):
    """An event that does not know its run yet."""

    lane_id: str
    kind: EventKind | str = EventKind.AGENT_PROGRESS
    seq: int = 0
    session_id: str = ""

    def of(self, run_id: str) -> PAEvent:
        """A new event of that run, which no other is equal to."""
        return PAEvent(run_id, ts=1.5, span_id=f"span-{next(numbers)}", payload={"n": self.seq}, **self._asdict())


class StateDraft(NamedTuple):
    """A state that does not know its run yet."""

    status: str
    purpose: str
    data: dict[str, Any]
    session_id: str

    def of(self, run_id: str) -> RunState:
        """The state of that run."""
        return RunState(run_id, started_at=1.5, updated_at=1.5, **self._asdict())


OTHER_STATE = StateDraft("running", "another's", {}, "")

events = st.builds(EventDraft, lanes, kinds, st.integers(0, 6), sessions)
states = st.builds(
    StateDraft,
    st.sampled_from(["running", "running", "paused", "completed"]),
    st.sampled_from(["", "p1", "p2"]),
    st.dictionaries(
        st.sampled_from("xyz"), st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2), max_size=3
    ),
    sessions,
)


class StoreMachine(RuleBasedStateMachine):
    """Calls both sides, each time as the same client, and compares."""

    leases = Bundle("leases")
    cursors = Bundle("cursors")

    def __init__(self, open_backend: Callable[[], RedisBackend]) -> None:
        super().__init__()
        self._opened = ExitStack()
        self.backend = open_backend()
        self._opened.callback(self.backend.close)
        clock = itertools.count(1_700_000_000).__next__  # no two calls at the same time
        memory: InMemoryCheckpointer[Any, Any] = InMemoryCheckpointer(clock=lambda: float(clock()))
        redis_side = [self.backend.open(partitions=2) for _ in range(CLIENTS)]
        self.sides: Sequence[Sequence[Any]] = (
            redis_side,
            [with_operations(memory, operations_of(memory).for_one_writer()) for _ in range(CLIENTS)],
        )
        self.taken: list[Both] = []
        self.last_keys: dict[str, list[str | None]] = {}
        self.holds: dict[tuple[str, str | None], Both] = {}
        self.agree = True

    def both(self, client: int, call: Callable[[Any, int], Any]) -> Both | None:
        """Make a call (of a store and its side's number) on both sides: its results, or None for an error."""
        results, outcomes = [], []
        for number, stores in enumerate(self.sides):
            try:
                result = call(stores[client], number)
                result = list(result) if isinstance(result, Iterator) else result
                results.append(result)
                outcomes.append(("gives", comparable(result)))
            except RunstreamError as error:
                outcomes.append(("raises", self.facts_of(error)))
        self.agree = outcomes[0] == outcomes[1]
        assert self.agree, f"on Redis {outcomes[0]}, in memory {outcomes[1]}"
        return (results[0], results[1]) if results else None

    def facts_of(self, error: RunstreamError) -> Any:
        """An error by its type and facts.

        How long a lease lasts differs by the time between the two calls, and of several leases that are in
        the way either may be named.
        """
        facts = dict(vars(error))
        if isinstance(error, LeaseHeld):
            assert 0 < facts.pop("expires_in") <= TTL_SECONDS
            assert facts.pop("owner") in {lease[0].owner for lease in self.holds.values()}
        return type(error), facts

    # -- writing

    @rule(client=clients, drafted=st.lists(st.tuples(runs, events), max_size=6))
    def save_events(self, client: int, drafted: list[tuple[str, EventDraft]]) -> None:
        """Over several runs; where leases are, over one: Redis takes each run's by itself, memory all or none."""
        if self.taken:
            drafted = [(drafted[0][0], draft) for _, draft in drafted]
        made = [draft.of(run_id) for run_id, draft in drafted]
        if len(made) == 1:
            self.both(client, lambda store, _: store.save_event(made[0]))
        else:
            self.both(client, lambda store, _: store.save_events(made))

    def append(
        self,
        client: int,
        run_id: str,
        drafted: list[tuple[EventDraft, str | None]],
        keyed: bool,
        again: bool,
        expected: str,
        wrong: int,
        state: StateDraft | None,
        lane_id: str | None,
        each: bool,
        lease: Both | None,
    ) -> Any:
        """In every way, also again: under the keys of the run's last append that had some."""
        if lease is not None and wrong:  # mostly to its run
            run_id = lease[1].run_id
        made = [draft.of(run_id) for draft, _ in drafted]
        batch_keys = [key for _, key in drafted]
        if again and run_id in self.last_keys:
            batch_keys = self.last_keys[run_id][: len(made)]
            made = made[: len(batch_keys)]
        if keyed:
            self.last_keys[run_id] = batch_keys
        expected_offset = None
        if expected != "any":
            expected_offset = wrong if expected == "wrong" else len(self.sides[1][0].list_events(run_id))
        options = {
            "expected_offset": expected_offset,
            "keys": batch_keys if keyed else None,
            "snapshot": None if state is None else state.of(run_id),
            "lane_id": lane_id,
        }

        def call(store: Any, side: int) -> Any:
            carried = None if lease is None else lease[side]
            if each:
                return append_each(store, run_id, made, lease=carried, **options)
            return store.append(run_id, made, lease=carried, **options)

        appended = self.both(client, call)
        if appended is None:
            return multiple()
        if each:
            appended = appended[0].appended, appended[1].appended
        return appended[0].cursor, appended[1].cursor

    appends = rule(
        target=cursors,
        client=clients,
        run_id=runs,
        drafted=st.lists(st.tuples(events, keys), max_size=4),
        keyed=st.booleans(),
        again=st.booleans(),
        expected=st.sampled_from(["any", "any", "right", "wrong"]),
        wrong=offsets,
        state=st.none() | states,
        lane_id=snapshot_lanes,
        each=st.booleans(),
        lease=st.none() | leases,
    )
    append_1, append_2, append_3 = appends(append), appends(append), appends(append)  # as often as three others

    # -- states

    @rule(client=clients, run_id=runs, state=states, lane_id=snapshot_lanes, lease=st.none() | leases)
    def save_snapshot(
        self, client: int, run_id: str, state: StateDraft, lane_id: str | None, lease: Both | None
    ) -> None:
        if lease is None:
            options: Sequence[dict[str, Any]] = ({}, {})
        else:
            run_id = lease[1].run_id
            options = {"lease": lease[0]}, {"lease": lease[1]}
        self.both(
            client,
            lambda store, side: store.save_snapshot(run_id, state.of(run_id), lane_id=lane_id, **options[side]),
        )

    @rule(
        client=clients,
        run_id=runs,
        value=st.integers(),
        attempts=st.integers(1, 3),
        other=clients,
        overtaken=st.integers(0, 3),
        lease=st.none() | leases,
    )
    def update_state(
        self, client: int, run_id: str, value: int, attempts: int, other: int, overtaken: int, lease: Both | None
    ) -> None:
        """While somebody else saves other snapshots, so many times."""

        def update(store: Any, side: int) -> Any:
            left = overtaken

            def change(state: RunState) -> RunState | None:
                nonlocal left
                if left:
                    left -= 1
                    self.sides[side][other].save_snapshot(run_id, OTHER_STATE.of(run_id))
                state.data["value"] = value
                state.started_at = state.updated_at = 1.5  # of a new one, when it was made
                return state if value % 2 else None

            return store.update_state(
                run_id, change, attempts=attempts, lease=None if lease is None else lease[side]
            )

        self.both(client, update)

    @rule(client=clients, run_id=runs, lane_id=snapshot_lanes, how=st.sampled_from(["recover", "load", "latest"]))
    def load(self, client: int, run_id: str, lane_id: str | None, how: str) -> None:
        """What a client has loaded, it can go on from."""

        def call(store: Any, _: int) -> Any:
            if how == "recover":
                recovery = store.recover(run_id, lane_id=lane_id)
                return [recovery.state, recovery.offset, recovery.events]
            return store.load_latest(run_id) if how == "latest" else store.load_snapshot(run_id, lane_id=lane_id)

        self.both(client, call)

    # -- reading

    @rule(
        client=clients,
        run_id=runs,
        after=offsets | cursors,
        before=st.none() | offsets,
        limit=st.none() | st.integers(0, 5),
        reverse=st.booleans(),
        lane_id=lanes,
        of_kinds=st.none() | st.lists(kinds, max_size=2),
        since_seq=st.integers(-1, 5),
    )
    def read(
        self,
        client: int,
        run_id: str,
        after: int | Both,
        before: int | None,
        limit: int | None,
        reverse: bool,
        lane_id: str,
        of_kinds: list[Any] | None,
        since_seq: int,
    ) -> None:
        """In every way; also from a cursor of another run, or of one that was deleted since."""

        def place(side: int) -> Any:
            return after[side] if isinstance(after, tuple) else after

        def follow(store: Any, side: int) -> Any:
            """To the end of a run that has ended, to a timeout at once in all others."""
            given = []
            with suppress(TimeoutError):
                for item in store.follow(run_id, place(side), idle_timeout=0, lane_id=lane_id, kinds=of_kinds):
                    given.append(item)  # noqa: PERF402  what came before the timeout counts
                return ["ended", given]
            return ["goes on", given]

        def run_info(store: Any, _: int) -> Any:
            info = store.run_info(run_id)
            return info and replace(info, created_at=0, updated_at=0)

        options = {"before": before, "limit": limit, "reverse": reverse}
        self.both(client, lambda store, side: store.read(run_id, place(side), **options))
        self.both(client, follow)
        self.both(client, run_info)
        self.both(client, lambda store, _: store.list_events(run_id, since_seq))
        self.both(client, lambda store, _: last_seq(store, run_id, lane_id))

    # -- runs

    @rule(
        client=clients,
        session_id=st.none() | sessions,
        status=st.sampled_from([None, "running", "completed"]),
        limit=st.none() | st.integers(0, 3),
    )
    def list_runs(self, client: int, session_id: str | None, status: str | None, limit: int | None) -> None:
        """The most recently updated first; those that one call wrote have no order among themselves."""
        options = {"session_id": session_id, "status": status, "limit": limit}
        here, there = ([info.run_id for info in stores[client].runs(**options)] for stores in self.sides)
        updated_at = {info.run_id: info.updated_at for info in self.sides[1][client].runs()}
        listed = self.sides[0][client].list_runs()
        self.agree = (
            [updated_at.get(run_id) for run_id in here] == [updated_at[run_id] for run_id in there]
            and len(set(here)) == len(here)
            and (limit is not None or set(here) == set(there))
            and listed == [info.run_id for info in self.sides[0][client].runs()]
            and set(listed) == set(updated_at)
        )
        assert self.agree, f"on Redis {here} of {listed}, in memory {there} of {updated_at}"

    @rule(client=clients, run_id=runs, really=st.sampled_from([False, False, True]), anew=st.integers(0, 4))
    def delete_run(self, client: int, run_id: str, really: bool, anew: int) -> None:
        """And perhaps create it anew. Not too often, so that runs have a life."""
        if really or self.is_leased(run_id):
            self.both(client, lambda store, _: store.delete_run(run_id))
            made = [EventDraft("a", seq=seq).of(run_id) for seq in range(anew)]
            self.both(client, lambda store, _: store.save_events(made))

    # -- leases

    @rule(target=leases, client=clients, run_id=runs, lane_id=st.none() | lanes, owner=owners)
    def take_lease(self, client: int, run_id: str, lane_id: str | None, owner: str) -> Any:
        return self._take_lease(client, run_id, lane_id, owner)

    @rule(target=leases, client=clients, former=leases)
    def take_lease_again(self, client: int, former: Both) -> Any:
        """By the same owner, who gets it; the former one is lost."""
        return self._take_lease(client, former[1].run_id, former[1].lane_id, former[1].owner)

    def _take_lease(self, client: int, run_id: str, lane_id: str | None, owner: str) -> Any:
        taken: list[Any] = []

        def call(store: Any, _: int) -> Any:
            lease = store.lease(run_id, owner=owner, lane_id=lane_id, ttl=TTL_SECONDS)
            taken.append(lease)
            return [lease.run_id, lease.lane_id, lease.owner, lease.lost]

        if self.both(client, call) is None:
            return multiple()
        lease = taken[0], taken[1]
        for side in (0, 1):
            of_run = [former[side].epoch for former in self.taken if former[side].run_id == run_id]
            assert all(lease[side].epoch > epoch for epoch in of_run)
        self.taken.append(lease)
        self.holds[run_id, lane_id] = lease
        return lease

    def is_leased(self, run_id: str) -> bool:
        return any(run_id == of_run for of_run, _ in self.holds)

    @rule(lease=leases, ends=st.booleans())
    def check_lease(self, lease: Both, ends: bool) -> None:
        """Or release it, also one that has passed on. What is written under it then is refused."""

        def check(_: Any, side: int) -> Any:
            lease[side].check()

        def release(_: Any, side: int) -> Any:
            lease[side].release()

        self.both(0, release if ends else check)
        place = lease[1].run_id, lease[1].lane_id
        if ends and self.holds.get(place) is lease:
            del self.holds[place]
        event = EventDraft(lease[1].lane_id or "main").of(lease[1].run_id)
        self.both(0, lambda _, side: lease[side].save_event(event))

    # -- the end

    def teardown(self) -> None:
        try:
            if self.agree:
                for (client, lane_id), run_id in itertools.product(enumerate(LANES), RUNS):
                    self.read(client, run_id, 0, None, None, False, lane_id, None, 0)
                    self.load(client, run_id, None, "recover")
                    self.load(client, run_id, lane_id, "recover")
        finally:
            for lease in itertools.chain(*self.taken):
                lease.release()
        try:
            if self.agree:
                for run_id in RUNS:
                    self.delete_run(0, run_id, really=True, anew=0)
                self.assert_nothing_left()
        finally:
            self._opened.close()

    def assert_nothing_left(self) -> None:
        """Of runs that were deleted, nothing but that they were; of others, what leases noted, until cleared."""
        for key in self.backend.key_names():
            assert key.endswith((":config", ":deleted", ":leftovers", ":meta"))
            if key.endswith(":meta"):
                assert self.backend.raw.hget(key, "start") is None


@pytest.mark.one_in(2)
@pytest.mark.timeout(3600)  # a failure is made small before it is shown, and the deep profile takes its time
@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("fake", 0.3),
        pytest.param("fake", 1, marks=pytest.mark.exhaustive),
        *(
            [("valkey", 0.3), pytest.param("valkey", 1.5, marks=pytest.mark.exhaustive)]
            if "valkey" in PROGRAMS
            else []
        ),
    ],
)
def test_redis_and_memory_do_the_same(name: str, share: float, servers: Servers, namespace: str) -> None:
    """Whatever the clients do to the runs, so many times as often as other properties are tried."""
    count = itertools.count()

    def open_backend() -> RedisBackend:
        if name == "fake":
            return FakeBackend(namespace)
        return ServerBackend(servers.get(name), f"{namespace}-{next(count)}")

    class OnServer(StoreMachine):
        def __init__(self) -> None:
            super().__init__(open_backend)

    profile = settings(max_examples=round(share * settings().max_examples), stateful_step_count=50)
    run_state_machine_as_test(OnServer, settings=profile)
