"""P4: what a failover lost is seen by writers, readers and followers, even if others have filled the offsets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    AcknowledgedWritesLost,
    AsyncRunStore,
    DrainWorker,
    HistoryDiverged,
    SQLiteCheckpointer,
    StoreUnavailable,
    connect,
    connect_async,
)
from tests.faults.failover.failover_tools import Hot, assert_lost, on_every_pair, spans, spans_of, until_taken
from tests.support.backends import info_of
from tests.support.operations import session_of
from tests.support.processes.child import Child
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import DEADLINE_SECONDS, Pair, eventually, needs_server

pytestmark = needs_server


def assert_diverged(call: Callable[[], Any], offset: int) -> None:
    """The call raises HistoryDiverged for run r."""
    with pytest.raises(HistoryDiverged) as caught:
        call()
    assert (caught.value.run_id, caught.value.offset) == ("r", offset)


def often(url: str) -> str:
    """The URL, for a follower that looks up every half second and not every few: it waits for half its timeout."""
    return f"{url}?socket_timeout=1"


# -- the writer


def calls_of(store: Hot) -> list[Callable[[], Any]]:
    """All that a store can be asked of a run's history."""
    return [
        lambda: store.save_event(make_event("r")),
        lambda: store.save_events(make_events("r", 3)),
        lambda: store.append("r", make_events("r", 2)),
        lambda: store.append("r", make_events("r", 2), keys=["new", None]),
        lambda: store.append("r", make_events("r", 1), expected_offset=3),
        lambda: store.append("r", make_events("r", 1), snapshot=make_state("r")),
        lambda: store.save_snapshot("r", make_state("r")),
        lambda: store.update_state("r", lambda state: state),
        lambda: store.list_events("r"),
        lambda: list(store.read("r")),
        lambda: list(store.read("r", 1, limit=1)),
        lambda: list(store.read("r", reverse=True)),
        lambda: list(store.follow("r", idle_timeout=0)),
        lambda: store.recover("r"),
    ]


def test_a_writer_is_told_what_was_lost(pair: Pair, hot: Hot, open_hot: Callable[..., Hot]) -> None:
    """With the offsets, whatever it does next; nothing is written until it takes the present as it is."""
    kept = make_events("r", 3)
    hot.append("r", kept)
    with pair.losing():
        hot.append("r", make_events("r", 4))
    for call in calls_of(hot):
        assert_lost(call, 7, 3)
    assert spans(open_hot()) == spans_of(kept)
    assert open_hot().load_snapshot("r") is None
    hot.forget("r")
    assert hot.append("r", make_events("r", 2))[:2] == (4, 5)
    assert len(spans(hot)) == 5


@on_every_pair
def test_a_writer_is_told_even_if_others_have_filled_the_offsets(
    pair: Pair, hot: Hot, open_hot: Callable[..., Hot]
) -> None:
    """Some of them, all of them, and more."""
    hot.append("r", make_events("r", 3))
    with pair.losing():
        hot.append("r", make_events("r", 4))
    other = open_hot()
    other.append("r", make_events("r", 2))
    for call in calls_of(hot):
        assert_lost(call, 7, 5)
    for more in (2, 5):
        other.append("r", make_events("r", more))
        for call in calls_of(hot):
            assert_diverged(call, 7)
    hot.forget("r")
    assert hot.append("r", make_events("r", 1)).first_offset == 13
    assert spans(hot) == spans(other)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("lane_id", ["a", "b", "x 1="])
@pytest.mark.parametrize("others", [1, 2, 7])
def test_a_writer_is_told_even_if_the_filled_offsets_are_archived_and_trimmed(
    pair: Pair, hot: Hot, open_hot: Callable[..., Hot], tmp_path: Path, others: int, lane_id: str
) -> None:
    """Nothing that Redis still has is of the history that it saw, but its lane lacks what it has written.

    Whichever lane it goes on in: its own, another's, or a new one.
    """
    other = open_hot()
    other.append("r", make_events("r", 2, lane_id="b"))
    hot.append("r", make_events("r", 3, lane_id="a"))
    kept = hot.append("s", make_events("s", 3, lane_id="a"))
    with pair.losing():
        hot.append("r", make_events("r", 1, lane_id="a"))
        hot.save_event(make_event("r", 5, lane_id="a"))
    until_taken(lambda: other.append("r", make_events("r", 1 + others, lane_id="b")))
    other.append("s", make_events("s", 3, lane_id="b"))
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        worker = DrainWorker(other, [archive], trim="archived")
        assert worker.drain_once().events == 12 + others
        other.append("r", make_events("r", 1, lane_id="b"))
        for _ in range(2):
            for call in (
                lambda: hot.save_event(make_event("r", lane_id=lane_id)),
                lambda: hot.append("r", make_events("r", 2, lane_id=lane_id), keys=["x", None]),
                lambda: hot.save_snapshot("r", make_state("r")),
            ):
                with pytest.raises((HistoryDiverged, AcknowledgedWritesLost)):
                    until_taken(call)
        assert info_of(other, "r").last_offset == 7 + others, "nothing was written"
        assert hot.append("s", make_events("s", 1, lane_id="a")).first_offset == kept.last_offset + 4
        hot.forget("r")
        assert hot.append("r", make_events("r", 1, lane_id="a")).first_offset == 8 + others


def test_a_reader_is_a_writer_that_is_told(pair: Pair, hot: Hot, open_hot: Callable[..., Hot]) -> None:
    """What it has read counts like what it has written."""
    hot.append("r", make_events("r", 3))
    reader = open_hot()
    with pair.losing():
        hot.append("r", make_events("r", 4))
        assert len(spans(reader)) == 7
    assert_lost(lambda: reader.save_event(make_event("r")), 7, 3)


@pytest.mark.parametrize("anew", [0, 3, 9])
def test_a_run_that_is_lost_as_a_whole_is_lost_and_not_new(
    pair: Pair, hot: Hot, open_hot: Callable[..., Hot], anew: int
) -> None:
    """Also where others have created it anew, with fewer events or more."""
    hot.append("other", make_events("other", 1))
    with pair.losing():
        cursor = hot.append("r", make_events("r", 4)).cursor
    if anew:
        open_hot().append("r", make_events("r", anew))
    assert_lost(lambda: hot.save_event(make_event("r")), 4, anew)
    assert_lost(lambda: hot.list_events("r"), 4, anew)
    if anew < 4:
        assert_lost(lambda: list(open_hot().read("r", cursor)), 4, anew)
    else:
        assert_diverged(lambda: list(open_hot().read("r", cursor)), 4)
    hot.save_event(make_event("other"))


async def test_an_async_writer_is_told(pair: Pair, async_hot: AsyncRunStore[Any, Any]) -> None:
    """As the sync one."""
    await async_hot.append("r", make_events("r", 3))
    with pair.losing():
        await async_hot.append("r", make_events("r", 4))
    with pytest.raises(AcknowledgedWritesLost) as caught:
        await async_hot.save_event(make_event("r"))
    assert (caught.value.last_seen, caught.value.last_present) == (7, 3)
    with pytest.raises(AcknowledgedWritesLost):
        await async_hot.list_events("r")


@pytest.fixture
async def async_hot(pair: Pair) -> AsyncIterator[AsyncRunStore[Any, Any]]:
    async with connect_async(pair.url, partitions=1) as store:
        yield store


def test_keys_are_as_lost_as_their_events(pair: Pair, hot: Hot, open_hot: Callable[..., Hot]) -> None:
    """What is lost with its key is written again under that key."""
    hot.append("r", make_events("r", 1), keys=["kept"])
    with pair.losing():
        hot.append("r", make_events("r", 1), keys=["lost"])
    other, again = open_hot(), make_events("r", 2)
    assert other.append("r", again, keys=["kept", "lost"])[:2] == (1, 2)
    assert spans(other)[1] == again[1].span_id
    assert_diverged(lambda: hot.append("r", again, keys=["kept", "lost"]), 2)


# -- the follower


def test_a_follower_is_told_while_it_waits(pair: Pair, hot: Hot, opened: ExitStack) -> None:
    """In the same process, and in another one that is at a cursor."""
    cursor = hot.append("r", make_events("r", 3)).cursor
    follower = opened.enter_context(connect(often(pair.url)))
    given: list[int] = []

    def follow() -> None:
        for item in follower.follow("r", idle_timeout=DEADLINE_SECONDS):
            given.append(item.offset)  # noqa: PERF401  the test sees each as it comes

    with Child("follow", url=often(pair.url), run_id="r", after=cursor) as child, ThreadPoolExecutor(1) as thread:
        following = thread.submit(follow)
        with pair.losing():
            hot.append("r", make_events("r", 4))
            assert [child.hear() for _ in range(4)] == ["4", "5", "6", "7"]
            eventually(lambda: len(given) == 7)
        assert_lost(lambda: following.result(DEADLINE_SECONDS), 7, 3)
        assert json.loads(child.hear()) == {
            "error": "AcknowledgedWritesLost",
            "run_id": "r",
            "last_seen": 7,
            "last_present": 3,
        }
        child.end()
    assert given == [1, 2, 3, 4, 5, 6, 7]


def test_a_follower_is_told_even_if_others_have_filled_the_offsets(
    pair: Pair, hot: Hot, open_hot: Callable[..., Hot]
) -> None:
    """Some, all, or more of them. Stopped, it has seen nothing of it, and gives nothing of the other history."""
    more = {"some": 2, "all": 4, "more": 9}
    with ExitStack() as running:
        followers = {
            run_id: running.enter_context(Child("follow", url=often(pair.url), run_id=run_id, after=0))
            for run_id in more
        }
        for run_id in more:
            hot.append(run_id, make_events(run_id, 3))
        with pair.losing():
            for run_id, follower in followers.items():
                hot.append(run_id, make_events(run_id, 4))
                assert [follower.hear() for _ in range(7)] == ["1", "2", "3", "4", "5", "6", "7"]
                follower.stop()
        said = {}
        for run_id, follower in followers.items():
            open_hot().append(run_id, make_events(run_id, more[run_id]))
            follower.go_on()
            said[run_id] = json.loads(follower.hear())
            follower.end()
    lost = {"error": "AcknowledgedWritesLost", "run_id": "some", "last_seen": 7, "last_present": 5}
    diverged = {"error": "HistoryDiverged", "offset": 7}
    assert said == {"some": lost, "all": {"run_id": "all", **diverged}, "more": {"run_id": "more", **diverged}}


def test_a_cursor_tells_in_any_process(pair: Pair, hot: Hot, open_hot: Callable[..., Hot]) -> None:
    """Given to read or follow by somebody who knows nothing else of the run."""
    kept = hot.append("r", make_events("r", 3)).cursor
    with pair.losing():
        cursor = hot.append("r", make_events("r", 4)).cursor
    readings: list[Callable[[str], Any]] = [
        lambda at: list(open_hot().read("r", at)),
        lambda at: list(open_hot().read("r", at, limit=1)),
        lambda at: list(open_hot().follow("r", at, idle_timeout=0)),
    ]
    for reading in readings:
        assert_lost(lambda reading=reading: reading(cursor), 7, 3)  # type: ignore[misc]  # bound now
    other = open_hot()
    other.append("r", make_events("r", 6))
    for reading in readings:
        assert_diverged(lambda reading=reading: reading(cursor), 7)  # type: ignore[misc]  # bound now
    # one from before the loss is a place in both histories
    assert [item.offset for item in open_hot().read("r", kept)] == [4, 5, 6, 7, 8, 9]


# -- no false alarm


def test_a_failover_that_loses_nothing_alarms_nobody(pair: Pair, hot: Hot, open_hot: Callable[..., Hot]) -> None:
    """The writer, the reader, the follower and the cursor go on as if nothing had happened."""
    reader = open_hot()
    hot.append("r", make_events("r", 3))
    hot.save_snapshot("r", make_state("r"))
    assert len(spans(reader)) == 3
    with Child("follow", url=pair.url, run_id="r", after=0) as child:
        assert [child.hear() for _ in range(3)] == ["1", "2", "3"]
        with pair.losing():
            pass
        appended = hot.append("r", make_events("r", 1), keys=["k"], snapshot=make_state("r", purpose="next"))
        assert appended.first_offset == 4
        assert child.hear() == "4"
    assert len(spans(reader)) == 4
    assert list(reader.read("r", appended.cursor)) == []
    assert reader.append("r", make_events("r", 1), keys=["k"]) == appended


def test_trimming_and_deleting_are_no_loss(
    pair: Pair, hot: Hot, open_hot: Callable[..., Hot], tmp_path: Path
) -> None:
    """Neither before a failover nor after it, whoever did it; nor is a run that was created anew."""
    other = open_hot()
    cursor = hot.append("r", make_events("r", 5)).cursor
    hot.append("gone", make_events("gone", 5))
    hot.append("anew", make_events("anew", 5))
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        DrainWorker(other, [archive], trim="archived").drain_once()
        other.delete_run("gone")
        other.delete_run("anew")
        other.append("anew", make_events("anew", 1))
        with pair.losing():
            pass
        assert hot.append("r", make_events("r", 1)).first_offset == 6
        assert [item.offset for item in open_hot().read("r", cursor)] == [6]
        assert hot.append("gone", make_events("gone", 1)).first_offset == 1
        assert hot.append("anew", make_events("anew", 1)).first_offset == 2
        assert other.append("r", make_events("r", 2)).first_offset == 7
        DrainWorker(other, [archive], trim="archived").drain_once()
    assert hot.append("r", make_events("r", 1)).first_offset == 9


def test_a_reader_is_not_told_of_an_archive_by_a_server_that_has_the_event(
    pair: Pair, hot: Hot, open_hot: Callable[..., Hot], tmp_path: Path
) -> None:
    """The first that it asked had trimmed it; the one that it asks for the archives has taken that one's place."""
    hot.append("r", make_events("r", 5))
    raw, key = pair.client(), session_of(hot).keys.run("r").events
    entries: Any = raw.dump(key)
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        DrainWorker(open_hot(), [archive], trim="archived").drain_once()
    driver: Any = hot._driver
    exchange_once = driver.exchange_once

    def fail_over_before(exchange: Any) -> Any:
        if any(command[0] == b"HGETALL" for command in exchange.commands):
            raw.restore(key, 0, entries, replace=True)
        return exchange_once(exchange)

    driver.exchange_once = fail_over_before
    with pytest.raises(StoreUnavailable, match="another server has taken the place"):
        list(hot.read("r"))
    assert len(list(hot.read("r"))) == 5
