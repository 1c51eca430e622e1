"""Follow many runs at once: each run's events in order, each once; new runs join; cursors go on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from runstream import (
    AcknowledgedWritesLost,
    ConfigurationError,
    CorruptRecordError,
    DrainWorker,
    EncodingError,
    EventsArchived,
    HistoryDiverged,
    InvalidRunId,
    TieredCheckpointer,
)
from tests.support.archive_check import Archive
from tests.support.backends import Backend, RedisBackend, Store
from tests.support.drain_tools import open_hot
from tests.support.handles import restarted
from tests.support.kinds import BACKENDS, short
from tests.support.samples import make_event, make_events
from tests.support.servers import DEADLINE_SECONDS


@pytest.fixture(params=short(BACKENDS))
def backend(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> Backend:
    return make_backend(request.param)


class Following:
    """What one follower was given, by run: offsets, and the last cursor."""

    def __init__(self, stream: Iterator[Any]) -> None:
        self.stream = stream
        self.offsets: dict[str, list[int]] = {}
        self.cursors: dict[str, int | str] = {}

    def take(self, count: int) -> None:
        """Take so many more."""
        for _ in range(count):
            run_id, item = next(self.stream)
            assert item.event.run_id == run_id
            self.offsets.setdefault(run_id, []).append(item.offset)
            self.cursors[run_id] = item.cursor

    def take_all(self) -> None:
        """Take what there is, until nothing comes any more, or it ends."""
        with suppress(TimeoutError, StopIteration):
            while True:
                self.take(1)


def end(store: Store, run_id: str, seq: int) -> None:
    store.save_event(make_event(run_id, seq, kind="run.finished"))


# -- named runs ----------------------------------------------------------------------------------------------


def test_named_runs_are_followed_until_all_have_ended(backend: Backend) -> None:
    """One of them begins later; another run is none of these."""
    store = backend.open()
    store.save_events([*make_events("a", 3), *make_events("other", 2)])
    following = Following(store.follow_runs(["a", "b", "a"], idle_timeout=DEADLINE_SECONDS))
    following.take(3)
    writer = restarted(backend, store)
    end(writer, "a", 4)
    writer.save_events(make_events("b", 2))
    following.take(3)
    end(writer, "b", 3)
    following.take(1)
    assert next(following.stream, None) is None
    assert following.offsets == {"a": [1, 2, 3, 4], "b": [1, 2, 3]}
    assert list(store.follow_runs([])) == []


def test_it_goes_on_from_offsets_and_cursors(backend: Backend) -> None:
    store = backend.open()
    store.save_events([*make_events("a", 5), *make_events("b", 5), *make_events("c", 2)])
    end(store, "c", 3)
    cursor = [item.cursor for item in store.read("b")][1]
    following = Following(store.follow_runs(["a", "b", "c"], after={"a": 3, "b": cursor}, idle_timeout=0.05))
    following.take_all()
    assert following.offsets == {"a": [4, 5], "b": [3, 4, 5], "c": [1, 2, 3]}
    again = Following(store.follow_runs(after=following.cursors, idle_timeout=0.05))
    again.take_all()
    assert again.offsets == {}


def test_nobody_can_follow_what_is_none(backend: Backend) -> None:
    store = backend.open()
    calls: list[tuple[Any, dict[str, Any], type[Exception]]] = [
        ("run", {}, ConfigurationError),
        (7, {}, ConfigurationError),
        ([""], {}, InvalidRunId),
        (["a"], {"session_id": "s"}, ConfigurationError),
        (["a"], {"tags": {"user": "42"}}, ConfigurationError),
        (None, {"tags": {"user": 42}}, EncodingError),
        (None, {"after": ["a"]}, ConfigurationError),
        (None, {"after": {"a": -1}}, ConfigurationError),
        (None, {"after": {"a": "x"}}, ConfigurationError),
        (None, {"idle_timeout": -1}, ConfigurationError),
    ]
    for run_ids, options, refused in calls:
        with pytest.raises(refused):
            next(iter(store.follow_runs(run_ids, **options)))


# -- all runs, and those of a session --------------------------------------------------------------------------


@pytest.mark.one_in(3)
def test_new_runs_join_within_a_second(backend: Backend) -> None:
    store = backend.open()
    store.save_events(make_events("a", 2))
    following = Following(store.follow_runs(idle_timeout=DEADLINE_SECONDS))
    following.take(2)
    writer = restarted(backend, store)
    for run_id in ("b", "c"):
        began = time.monotonic()
        writer.save_events([*make_events(run_id, 2), make_event("a", 3)])
        following.take(3)
        assert time.monotonic() - began < 1.5  # of which half a second is a slow machine's
    assert following.offsets == {"a": [1, 2, 3, 4], "b": [1, 2], "c": [1, 2]}


@pytest.mark.one_in(3)
def test_a_run_that_has_ended_comes_again_when_it_goes_on(backend: Backend) -> None:
    store = backend.open()
    end(store, "a", 1)
    following = Following(store.follow_runs(idle_timeout=DEADLINE_SECONDS))
    following.take(1)
    store.save_event(make_event("a", 2))
    following.take(1)
    assert following.offsets == {"a": [1, 2]}


@pytest.mark.one_in(3)
def test_of_a_tag_there_are_the_runs_that_have_it_or_get_it(backend: Backend) -> None:
    """One that gets it late is given from its beginning."""
    store = backend.open()
    store.append("a", make_events("a", 1), tags={"user": "42"})
    store.append("b", make_events("b", 2), tags={"user": "43"})
    following = Following(store.follow_runs(tags={"user": "42"}, idle_timeout=0.7))
    following.take(1)
    store.append("b", (), tags={"user": "42"})
    following.take_all()
    assert following.offsets == {"a": [1], "b": [1, 2]}


@pytest.mark.one_in(3)
def test_of_a_session_there_are_its_runs_alone(backend: Backend) -> None:
    store = backend.open()
    store.save_events([make_event("a", 1, session_id="s"), make_event("b", 1, session_id="t")])
    following = Following(store.follow_runs(session_id="s", idle_timeout=0.7))
    following.take(1)
    store.save_events([make_event("c", 1, session_id="s"), make_event("d", 1)])
    following.take_all()
    assert following.offsets == {"a": [1], "c": [1]}


def test_one_that_has_much_to_give_holds_up_no_other(redis_backend: RedisBackend) -> None:
    store = redis_backend.open()
    for first in range(1, 3001, 1000):
        store.save_events(make_events("long", 1000, first=first))
    store.save_events(make_events("short", 1))
    following = Following(store.follow_runs(["long", "short"]))
    while "short" not in following.offsets:
        following.take(1)
    assert len(following.offsets["long"]) <= 2000


@pytest.mark.exhaustive
def test_many_runs_that_many_write_come_in_order_each_once(redis_backend: RedisBackend) -> None:
    """Two followers of one client, one of them broken off and gone on with, over and over."""
    store, runs = redis_backend.open(), [f"run-{number}" for number in range(60)]

    def write(number: int) -> None:
        writer = redis_backend.open()
        for seq in range(1, 31):
            for run_id in runs[number::4]:
                writer.save_event(make_event(run_id, seq))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    whole = Following(store.follow_runs(idle_timeout=DEADLINE_SECONDS))
    parts = Following(iter(()))
    for _ in range(18):
        whole.take(100)
        parts.stream = iter(store.follow_runs(after=parts.cursors, idle_timeout=DEADLINE_SECONDS))
        parts.take(100)
    for writer in writers:
        writer.join()
    wanted = {run_id: list(range(1, 31)) for run_id in runs}
    assert whole.offsets == parts.offsets == wanted


# -- what moves, is lost, and does not read --------------------------------------------------------------------


@pytest.mark.exhaustive
def test_through_the_archive_nothing_is_missing(redis_backend: RedisBackend, archives: list[Archive]) -> None:
    """Of runs that have left Redis, in part or whole; Redis alone says that something is missing."""
    hot = open_hot(redis_backend)
    hot.save_events([*make_events("a", 3), *make_events("gone", 2)])
    end(hot, "gone", 3)
    DrainWorker(hot, archives, trim="archived", retire_after_seconds=0).drain_once()
    hot.save_event(make_event("a", 4))
    with pytest.raises(EventsArchived):
        Following(open_hot(redis_backend).follow_runs(idle_timeout=1.0)).take(9)
    for archive in archives:
        following = Following(TieredCheckpointer(hot, archive).follow_runs(idle_timeout=DEADLINE_SECONDS))
        following.take(7)
        hot.save_event(make_event("b", 1))
        following.take(1)
        hot.delete_run("b")
        assert following.offsets == {"a": [1, 2, 3, 4], "gone": [1, 2, 3], "b": [1]}


def test_a_run_that_does_not_read_holds_up_no_other(
    redis_backend: RedisBackend, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_hot(redis_backend)
    store.save_events([*make_events("a", 1), *make_events("broken", 1)])
    key = next(name for name in redis_backend.key_names() if name.endswith("broken:events"))
    redis_backend.raw.xadd(key, {b"e": b"nonsense"}, id=b"2-7")
    meta = key.removesuffix("events") + "meta"
    redis_backend.raw.hset(meta, "last", "2-7")
    following = Following(open_hot(redis_backend).follow_runs(idle_timeout=DEADLINE_SECONDS))
    with caplog.at_level(logging.ERROR, "runstream.followers"):
        following.take(2)
        store.save_event(make_event("a", 2))
        following.take(1)
    assert following.offsets == {"a": [1, 2], "broken": [1]}
    assert "a run is left out: " in caplog.text
    with pytest.raises(CorruptRecordError):
        Following(open_hot(redis_backend).follow_runs(["a", "broken"])).take(9)


@pytest.mark.one_in(4, exhaustively=3)
@pytest.mark.parametrize("how", ["from the beginning", "from its end"])
def test_a_run_that_is_deleted_ends_nothing(backend: Backend, how: str) -> None:
    """Another one of its name is given from its beginning."""
    store = backend.open()
    store.save_events([*make_events("a", 1), *make_events("b", 3)])
    following = Following(store.follow_runs(idle_timeout=DEADLINE_SECONDS))
    following.take(4)
    if how == "from its end":
        following.stream = iter(restarted(backend, store).follow_runs(after=following.cursors, idle_timeout=0.3))
        following.take_all()
        following.stream = iter(restarted(backend, store).follow_runs(after=following.cursors, idle_timeout=8.0))
        store.save_event(make_event("a", 2))
        following.take(1)
    writer = restarted(backend, store)
    writer.delete_run("b")
    writer.save_event(make_event("a", 3))
    following.take(1)
    writer.save_events(make_events("b", 2))
    following.take(2)
    assert following.offsets["b"] == [1, 2, 3, 1, 2]


def test_a_loss_is_told_with_the_run(redis_backend: RedisBackend) -> None:
    store = open_hot(redis_backend)
    store.save_events([*make_events("a", 2), *make_events("b", 2)])
    following = Following(store.follow_runs(idle_timeout=DEADLINE_SECONDS))
    following.take(4)
    other = open_hot(redis_backend)
    other.delete_run("b")
    other.save_event(make_event("b", 1))
    with pytest.raises((AcknowledgedWritesLost, HistoryDiverged)) as caught:
        Following(open_hot(redis_backend).follow_runs(after=following.cursors, idle_timeout=2.0)).take(1)
    assert vars(caught.value)["run_id"] == "b"
    del following.cursors["b"]
    again = Following(open_hot(redis_backend).follow_runs(after=following.cursors, idle_timeout=2.0))
    again.take(1)
    assert again.offsets == {"b": [1]}
