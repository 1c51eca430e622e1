"""An append that was refused in its midst is finished by the next one: what it was to add is there once."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    Appended,
    AsyncRedisCheckpointer,
    ConfigurationError,
    DrainWorker,
    EventKind,
    EventsArchived,
    LeaseHeld,
    PAEvent,
    SQLiteCheckpointer,
    TieredCheckpointer,
    connect,
)
from runstream.repair.verify import verify_run
from runstream.stores.redis.append_batch import Sending
from runstream.stores.redis.scripts import library
from runstream.stores.redis.scripts.calls import PRODUCER_WINDOW_SECONDS, revoke_call
from tests.support.backends import FakeBackend, RedisBackend, ServerBackend
from tests.support.drain_tools import Hot, ask, open_hot
from tests.support.kinds import REAL, on_every_server, short
from tests.support.line import Line
from tests.support.operations import session_of
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import Server, needs_server
from tests.support.unfinished import leave_entries

NEEDED = sorted(library.SCRIPT["append"].needs)


class User:
    """A user whose rights come and go while a store of theirs is open."""

    def __init__(self, backend: ServerBackend, name: str) -> None:
        self.name = name
        self._raw: Any = backend.raw
        self.backend = backend
        self.may("+@all")

    def may(self, *rules: str) -> None:
        self._raw.execute_command("ACL", "SETUSER", self.name, "on", ">p", "~*", "&*", *rules)

    @property
    def url(self) -> str:
        return f"unix://{self.name}:p@{self.backend.server.socket_path}?namespace={self.backend.namespace}"


@pytest.fixture
def user(server: Server, make_backend: Callable[[str], Any], namespace: str) -> Iterator[User]:
    backend: ServerBackend = make_backend(server.name)
    yield User(backend, f"u{namespace}")
    backend.raw.execute_command("ACL", "DELUSER", f"u{namespace}")


@pytest.fixture
def healthy(user: User) -> Hot:
    """The store of a user who may do all."""
    return open_hot(user.backend)


def batches() -> dict[str, tuple[list[PAEvent], dict[str, Any]]]:
    """What one may append: events of a run, and what goes with them."""
    return {
        "one event": ([make_event("r", 4)], {}),
        "several": (make_events("r", 3, first=4), {}),
        "keys": (make_events("r", 2, first=4), {"keys": ["a", "b"]}),
        "the run's snapshot": ([make_event("r", 4)], {"snapshot": make_state("r")}),
        "a lane's snapshot": ([make_event("r", 4)], {"snapshot": make_state("r"), "lane_id": "main"}),
        "the end": ([make_event("r", 4, kind=EventKind.RUN_FINISHED)], {}),
        "another lane": ([make_event("r", 1, lane_id="other", session_id="s")], {"expected_offset": 3}),
        "a new run": (make_events("new", 2, session_id="s"), {"keys": ["a", None], "snapshot": make_state("new")}),
    }


BEFORE = make_events("r", 3)
ANOTHER = {run_id: make_event(run_id, 9, lane_id="z") for run_id in ("r", "new")}
SHORT = ("DEL", "HDEL", "HLEN", "HSET", "PERSIST", "ZADD")
"""Those that a script is refused after its first write."""


@needs_server
@pytest.mark.one_in(4, exhaustively=3)
@pytest.mark.parametrize("server", short(REAL), indirect=True)
@pytest.mark.parametrize(
    "commands", [SHORT, pytest.param(NEEDED, marks=pytest.mark.exhaustive)], ids=["short", "all"]
)
@pytest.mark.parametrize("others_first", [False, True])
@pytest.mark.parametrize("what", batches())
def test_an_append_that_lost_a_right_is_finished_by_the_next(
    user: User, healthy: Hot, what: str, commands: Sequence[str], *, others_first: bool
) -> None:
    """Whatever right it is, and whoever comes next; it is repeated, and is there once, with all that it had."""
    left = sum(lose_a_right(user, healthy, command, what, others_first=others_first) for command in commands)
    assert left, "some are refused in their midst"


def lose_a_right(user: User, healthy: Hot, command: str, what: str, *, others_first: bool) -> bool:
    """Take one right away between two appends. Returns whether the second was refused in its midst."""
    run_id = "new" if what == "a new run" else "r"
    before = [] if run_id == "new" else BEFORE
    events, options = batches()[what]
    healthy.delete_run("new")
    healthy.delete_run("r")
    healthy.forget("new")
    healthy.forget("r")
    with connect(user.url) as store:
        store.append("r", BEFORE)
        user.may(f"-{command.lower()}")
        try:
            store.append(run_id, events, **options)
        except ConfigurationError:
            is_refused = True
        else:  # it does without
            is_refused = False
        left = user.backend.raw.xlen(session_of(healthy).keys.run(run_id).events) > len(before)
        if is_refused:
            with pytest.raises(ConfigurationError, match=f"(?i){command}"):
                store.append(run_id, events, **options)
        user.may("+@all")
        if is_refused and others_first:
            healthy.append(run_id, [ANOTHER[run_id]])
            left = left and healthy.list_events(run_id)[-1].lane_id == "z"
            options.pop("expected_offset", None)
        if is_refused:
            check_reply(store.append(run_id, events, **options), len(before), len(events))
        expected = [*before, *events, *([ANOTHER[run_id]] if is_refused and others_first else [])]
        assert sorted(map(seq_of, store.list_events(run_id))) == sorted(map(seq_of, expected))
        if "snapshot" in options:
            saved = healthy.load_snapshot(run_id, lane_id=options.get("lane_id"))
            assert saved is not None
            assert saved.revision == 1
        if "keys" in options:
            again = store.append(run_id, [make_event(run_id, 50)], keys=options["keys"][:1])
            assert store.list_events(run_id)[again.first_offset - 1] == events[0]
        assert store.append(run_id, [make_event(run_id, 10)]).last_offset == len(expected) + 1
    verdict = verify_run(run_id, hot=healthy)
    assert verdict.is_sound, verdict
    return is_refused and left


def seq_of(event: PAEvent) -> tuple[str, int]:
    return event.lane_id, event.seq


def check_reply(appended: Appended, before: int, count: int) -> None:
    assert appended.last_offset - appended.first_offset == count - 1
    assert appended.first_offset in (before + 1, before + 2)


# -- what another program, or an older version, has left -----------------------------------------------


def seqs(store: Any, run_id: str = "r") -> list[int]:
    return [event.seq for event in store.list_events(run_id)]


@pytest.mark.one_in(2)
@on_every_server
def test_what_is_left_keeps_its_offset_whoever_comes_next(redis_backend: RedisBackend) -> None:
    """Also by the short way of a writer that has seen the run's end; no offset is there twice."""
    hot, other = open_hot(redis_backend), open_hot(redis_backend)
    for number in range(12):  # of two chains either may be the higher
        run_id = f"r{number}"
        hot.append(run_id, make_events(run_id, 2))
        hot.save_event(make_event(run_id, 3))
        left = make_event(run_id, 4)
        leave_entries(hot, redis_backend.raw, [left])
        assert seqs(other, run_id) == [1, 2, 3], "nobody was told that it is there"
        writer = hot if number % 2 else other
        assert writer.append(run_id, [make_event(run_id, 5)]).first_offset == 5
        assert seqs(other, run_id) == [1, 2, 3, 4, 5]
        assert hot.append(run_id, [left]).first_offset == 4, "it is sent again"
        assert hot.append(run_id, [make_event(run_id, 6)]).first_offset == 6
        assert verify_run(run_id, hot=other).is_sound


def test_what_is_sent_again_in_pieces_is_there_once(redis_backend: RedisBackend) -> None:
    hot, events = open_hot(redis_backend), make_events("r", 4)
    leave_entries(hot, redis_backend.raw, events, [None, None, None, "a"])
    for seq, event in enumerate(events[:2], 1):
        assert hot.append("r", [event]).first_offset == seq
    assert hot.append("r", events[2:], keys=[None, "a"])[:2] == (3, 4)
    assert seqs(hot) == [1, 2, 3, 4]
    # each counts once: an equal one is a new one then
    assert hot.append("r", events[2:]).first_offset == 5
    assert hot.append("r", [make_event("r", 9)], keys=["a"]).first_offset == 4
    assert verify_run("r", hot=hot).is_sound


def test_a_run_that_knows_only_what_was_revoked_has_not_begun(redis_backend: RedisBackend) -> None:
    """The beginning that was refused in its midst is its own."""
    hot, events = open_hot(redis_backend), make_events("r", 2)
    session = session_of(hot)
    producer = session.producers.take("r")
    call = revoke_call(session.keys, "r", Sending(producer.name, producer.number, None, None))
    assert ask(hot, *call) == [b"revoked"]
    leave_entries(hot, redis_backend.raw, events)
    assert hot.append("r", [make_event("r", 3)]).first_offset == 3
    assert hot.append("r", events)[:2] == (1, 2)
    assert verify_run("r", hot=hot).is_sound


def test_each_that_was_left_is_known(redis_backend: RedisBackend) -> None:
    """In whatever order they are sent again."""
    hot, rest = open_hot(redis_backend), [make_events("r", 2, first=10 * at) for at in range(1, 5)]
    for at, left in enumerate(rest):
        leave_entries(hot, redis_backend.raw, left)
        hot.append("r", [make_event("r", 100 + at)])
    for at in (2, 0, 3, 1):
        assert hot.append("r", rest[at])[:2] == (3 * at + 1, 3 * at + 2)
    assert len(seqs(hot)) == 12
    assert not redis_backend.raw.hexists(session_of(hot).keys.run("r").meta, "adopted")
    assert hot.append("r", rest[0]).first_offset == 13
    assert verify_run("r", hot=hot).is_sound


def test_it_is_known_for_as_long_as_a_producer(redis_backend: RedisBackend) -> None:
    """After that the short way is open again."""
    hot = open_hot(redis_backend)
    hot.append("r", make_events("r", 2))
    left = make_event("r", 3)
    leave_entries(hot, redis_backend.raw, [left])
    hot.append("r", [make_event("r", 4)])
    meta = session_of(hot).keys.run("r").meta
    after, upto, at = redis_backend.raw.hget(meta, "adopted").decode().split()
    long_ago = int(at) - (PRODUCER_WINDOW_SECONDS + 1) * 1_000_000
    redis_backend.raw.hset(meta, "adopted", f"{after} {upto} {long_ago}")
    assert hot.append("r", [left]).first_offset == 5
    assert redis_backend.raw.hget(meta, "adopted") is None
    assert hot.append("r", [make_event("r", 5)]).first_offset == 6
    assert redis_backend.raw.hexists(meta, "by")


def test_runs_are_finished_under_a_lease_behind_a_tombstone_and_beside_others(
    redis_backend: RedisBackend, tmp_path: Path
) -> None:
    hot = open_hot(redis_backend)
    with hot.lease("leased", owner="o") as lease:
        leave_entries(hot, redis_backend.raw, make_events("leased", 2))
        assert lease.append("leased", [make_event("leased", 3)]).first_offset == 3
        with pytest.raises(LeaseHeld):
            hot.append("leased", [make_event("leased", 4)])
    hot.append("gone", [make_event("gone", 1), make_event("gone", 2, kind=EventKind.RUN_FINISHED)])
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "a.db")) as archive:
        DrainWorker(hot, [archive], retire_after_seconds=0).drain_once()
        leave_entries(hot, redis_backend.raw, [make_event("gone", 3), make_event("gone", 4, lane_id="new")])
        leave_entries(hot, redis_backend.raw, make_events("begun", 2, session_id="s"))
        hot.append("whole", make_events("whole", 1))
        hot.save_events([make_event(run_id, 7) for run_id in ("gone", "begun", "whole", "fresh")])
        ends = {info.run_id: (info.first_hot, info.last_offset) for info in hot.runs()}
        assert ends == {"leased": (1, 3), "gone": (3, 5), "begun": (1, 3), "whole": (1, 2), "fresh": (1, 1)}
        DrainWorker(hot, [archive]).drain_once()
        assert len(archive.list_events("gone")) == 5
        assert all(verify_run(run_id, hot=hot, sinks=[archive]).is_sound for run_id in ends)
        assert [info.run_id for info in hot.runs(session_id="s")] == ["begun"]


def test_a_follower_waits_until_it_is_finished(redis_backend: RedisBackend) -> None:
    """It does not ask all the while, though the entry that nobody was told of wakes it."""
    hot, follower = open_hot(redis_backend), open_hot(redis_backend)
    hot.append("r", make_events("r", 1))
    leave_entries(hot, redis_backend.raw, [make_event("r", 2)])
    line = Line(follower)
    with pytest.raises(TimeoutError):
        list(follower.follow("r", 1, idle_timeout=0.3))
    assert line.sent < 40
    hot.append("r", [make_event("r", 3)])
    live = follower.follow("r", 1)
    assert [next(live).event.seq for _ in range(2)] == [2, 3]


def test_many_who_find_it_at_once_finish_it_once(redis_backend: RedisBackend) -> None:
    stores = [open_hot(redis_backend) for _ in range(4)]
    stores[0].append("r", make_events("r", 1))
    with ThreadPoolExecutor(4) as threads:
        for first in range(2, 42, 5):
            leave_entries(stores[0], redis_backend.raw, [make_event("r", first)])
            calls = [
                threads.submit(store.append, "r", [make_event("r", first + at)])
                for at, store in enumerate(stores, 1)
            ]
            assert sorted(call.result().first_offset for call in calls) == list(range(first + 1, first + 5))
    assert sorted(seqs(stores[0])) == list(range(1, 42))
    assert verify_run("r", hot=stores[0]).is_sound


async def test_an_async_store_finishes_it_too(fake: FakeBackend) -> None:
    hot = open_hot(fake)
    hot.append("r", make_events("r", 1))
    left = make_event("r", 2)
    leave_entries(hot, fake.raw, [left])
    async with AsyncRedisCheckpointer[Any, Any](fake.async_client(), namespace=fake.namespace) as store:
        await store.append("r", [make_event("r", 3)])
        assert (await store.append("r", [left])).first_offset == 2
    assert seqs(hot) == [1, 2, 3]


LONG = [pytest.param(range(first, first + 10), marks=pytest.mark.exhaustive) for first in range(3, 83, 10)]


@pytest.mark.exhaustive
@pytest.mark.one_in(1, exhaustively=4)
@pytest.mark.parametrize("seeds", [range(3), *LONG], ids=str)
def test_each_event_is_there_once_whatever_is_left_and_sent_again(
    fake: FakeBackend, tmp_path: Path, seeds: range
) -> None:
    """Appends with keys, snapshots, of several lanes, that come to their end or do not; drains and retirements."""
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "a.db")) as archive:
        for seed in seeds:
            try_at_random(fake, archive, f"r{seed}", random.Random(seed))


def try_at_random(fake: FakeBackend, archive: Any, run_id: str, chance: random.Random) -> None:
    stores = [open_hot(fake) for _ in range(3)]
    numbers = itertools.count(1)
    pending: list[tuple[list[PAEvent], list[str | None] | None]] = []
    acknowledged: list[PAEvent] = []
    for _ in range(40):
        store, what = chance.choice(stores), chance.random()
        lanes = [chance.choice(("main", "side")) for _ in range(chance.choice((1, 1, 1, 3)))]
        events = [make_event(run_id, next(numbers), lane_id=lane, session_id="s") for lane in lanes]
        if chance.random() < 0.1:
            events.append(make_event(run_id, next(numbers), kind=EventKind.RUN_FINISHED))
        keys: list[str | None] | None = [f"k{one.seq}" for one in events] if chance.random() < 0.3 else None
        if what < 0.2:
            if left_nothing(store, fake, run_id):
                leave_entries(store, fake.raw, events, keys)
                pending.append((events, keys))
        elif what < 0.4 and pending:
            events, keys = pending.pop(chance.randrange(len(pending)))
            store.append(run_id, events, keys=keys)
            acknowledged += events
        elif what < 0.5:
            retire = 0 if chance.random() < 0.3 else None
            DrainWorker(stores[0], [archive], retire_after_seconds=retire).drain_once()
        elif what < 0.6:
            with suppress(EventsArchived):  # it would cover less than what has left Redis
                store.save_snapshot(run_id, make_state(run_id))
        else:
            store.append(run_id, events, keys=keys)
            acknowledged += events
    for events, keys in pending:
        chance.choice(stores).append(run_id, events, keys=keys)
        acknowledged += events
    found = [item.event.seq for item in TieredCheckpointer(stores[0], archive).read(run_id)]
    assert sorted(found) == sorted(event.seq for event in acknowledged)
    DrainWorker(stores[0], [archive]).drain_once()
    verdict = verify_run(run_id, hot=open_hot(fake), sinks=[archive])
    assert verdict.is_sound, verdict


def left_nothing(store: Any, fake: FakeBackend, run_id: str) -> bool:
    """Whether the run is whole: a script of this version leaves no second append behind a first one."""
    run = session_of(store).keys.run(run_id)
    last = fake.raw.hget(run.meta, "last")
    return not fake.raw.xrange(run.events, "-" if last is None else f"({last.decode()}")
