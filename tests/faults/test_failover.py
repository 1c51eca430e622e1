"""A real primary and its real replica: what a failover has lost is seen, and no lease comes back to life.

The link between the two is cut when the replica has all that came before; what the primary acknowledges after
that is lost with it. Clients reach whichever is the primary at one address.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    AcknowledgedWritesLost,
    AsyncRunStore,
    DrainWorker,
    HistoryDiverged,
    LeaseLost,
    RedisCheckpointer,
    RunStore,
    SQLiteCheckpointer,
    StoreUnavailable,
    connect,
    connect_async,
)
from runstream.testing import Fault, FaultProxy
from tests.support.process_worlds import Child
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import DEADLINE_SECONDS, PROGRAMS, Pair, eventually, primary_and_replica

pytestmark = pytest.mark.skipif(not PROGRAMS, reason="needs a real server")

Hot = RedisCheckpointer[Any, Any]
LONG_SECONDS = 600.0


@pytest.fixture(params=PROGRAMS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A primary and a replica, of every server that there is."""
    with primary_and_replica(request.param) as pair:
        yield pair


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What is closed when the test is over."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def open_hot(pair: Pair, opened: ExitStack) -> Callable[..., Hot]:
    """Open stores at the primary: each is another process, for all that it knows."""

    def open_one(**options: Any) -> Hot:
        store = opened.enter_context(connect(pair.url, partitions=1, **options))
        assert isinstance(store, RedisCheckpointer)
        return store

    return open_one


@pytest.fixture
def hot(open_hot: Callable[..., Hot]) -> Hot:
    return open_hot()


def assert_lost(call: Callable[[], Any], last_seen: int, last_present: int) -> None:
    """The call raises AcknowledgedWritesLost with these offsets of run r."""
    with pytest.raises(AcknowledgedWritesLost) as caught:
        call()
    error = caught.value
    assert (error.run_id, error.last_seen, error.last_present) == ("r", last_seen, last_present)


def assert_diverged(call: Callable[[], Any], offset: int) -> None:
    """The call raises HistoryDiverged for run r."""
    with pytest.raises(HistoryDiverged) as caught:
        call()
    assert (caught.value.run_id, caught.value.offset) == ("r", offset)


def often(url: str) -> str:
    """The URL, for a follower that looks up every half second and not every few: it waits for half its timeout."""
    return f"{url}?socket_timeout=1"


def spans_of(events: Iterable[Any]) -> list[str]:
    """What tells the events apart."""
    return [event.span_id for event in events]


def spans(store: RunStore[Any, Any]) -> list[str]:
    """The events of run r, by what tells them apart."""
    return spans_of(store.list_events("r"))


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


def test_a_replica_that_lags_has_lost_nothing(pair: Pair, hot: Hot, opened: ExitStack) -> None:
    """Who reads there at a place that it does not have yet is not told of a loss."""
    hot.append("r", make_events("r", 3))
    pair.replicate()
    pair.cut()
    cursor = hot.append("r", make_events("r", 4)).cursor
    assert len(spans(hot)) == 7
    behind: Hot = RedisCheckpointer(pair.replica_client(), retry_seconds=0.1)
    assert len(spans(behind)) == 3
    with pytest.raises(StoreUnavailable):
        list(behind.read("r", cursor))
    assert hot.append("r", make_events("r", 1)).first_offset == 8


# -- in the middle of it


def test_a_writer_waits_for_the_promotion(pair: Pair, hot: Hot) -> None:
    """What it sends to a replica is refused, and sent again until there is a primary."""
    hot.append("r", make_events("r", 3))
    pair.replicate()
    pair.cut()
    pair.lose_primary()
    refused = pair.primary.raw.info("stats")["total_error_replies"]
    with ThreadPoolExecutor(1) as thread:
        appending = thread.submit(hot.append, "r", make_events("r", 2))
        eventually(lambda: pair.primary.raw.info("stats")["total_error_replies"] > refused)
        pair.promote()
        assert appending.result(DEADLINE_SECONDS)[:2] == (4, 5)
    assert len(spans(hot)) == 5


def test_a_writer_waits_for_a_server_that_serves_nothing_yet(pair: Pair, hot: Hot) -> None:
    """A replica without its primary that answers MASTERDOWN to everything, until it is promoted."""
    hot.append("r", make_events("r", 3))
    pair.replicate()
    pair.replica.raw.config_set("replica-serve-stale-data", "no")
    pair.cut()
    pair.lose_primary()
    with ThreadPoolExecutor(1) as thread:
        appending = thread.submit(hot.append, "r", make_events("r", 2))
        eventually(lambda: "errorstat_MASTERDOWN" in pair.primary.raw.info("errorstats"))
        pair.promote()
        assert appending.result(DEADLINE_SECONDS)[:2] == (4, 5)
    assert len(spans(hot)) == 5


def test_a_writer_waits_no_longer_than_it_was_told(pair: Pair, opened: ExitStack) -> None:
    """Then it says that it may be tried again."""
    store: Hot = RedisCheckpointer(pair.client(), retry_seconds=0.5)
    store.append("r", make_events("r", 1))
    pair.replicate()
    pair.cut()
    pair.lose_primary()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        store.append("r", make_events("r", 1))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("replicated", [True, False], ids=["replicated", "lost"])
def test_what_got_no_reply_before_the_failover_is_applied_once_after_it(
    pair: Pair, opened: ExitStack, replicated: bool
) -> None:
    """Whether the replica has it or not: it was not acknowledged, so its loss is none."""
    proxy = opened.enter_context(FaultProxy(pair.url))
    hot = opened.enter_context(connect(proxy.url, partitions=1, retry_seconds=0))
    first, second = make_events("r", 3), make_events("r", 2)
    hot.append("r", first)
    pair.replicate()
    if not replicated:
        pair.cut()
    proxy.arm(Fault.DROP_REPLY)
    with pytest.raises(StoreUnavailable):
        hot.append("r", second)
    if replicated:
        pair.replicate()
    pair.promote()
    # connections to the old primary end one by one
    assert until_taken(lambda: hot.append("r", second))[:2] == (4, 5)
    assert spans(hot) == spans_of(first + second)


# -- what a store puts back


@pytest.fixture
def giver(open_hot: Callable[..., Hot]) -> Hot:
    """A store that puts back what was lost of what it appended."""
    return open_hot(resend_lost=True)


@pytest.mark.parametrize("others", [0, 2, 4, 9], ids="{} of others".format)
def test_what_was_lost_is_put_back_once_and_in_order(
    pair: Pair, giver: Hot, open_hot: Callable[..., Hot], others: int
) -> None:
    """Before the next append, as new offsets, behind what others have written by then; under its keys."""
    kept, lost, between, after = (
        make_events("r", 3),
        make_events("r", 4),
        make_events("r", others),
        make_events("r", 2),
    )
    giver.append("r", kept)
    with pair.losing():
        giver.append("r", lost[:2], keys=[None, "k"])
        giver.save_event(lost[2])
        giver.save_events(lost[3:])
    other = open_hot()
    other.append("r", between)
    assert giver.append("r", after)[:2] == (8 + others, 9 + others)
    giver.save_event(make_event("r", span_id="last"))
    assert spans(other) == [*spans_of(kept + between + lost + after), "last"]
    assert other.append("r", make_events("r", 1), keys=["k"])[:2] == (5 + others, 5 + others)
    assert spans(giver) == spans(other)
    assert giver.list_events("r") == other.list_events("r")


def test_whatever_is_written_next_puts_back_what_was_lost(
    pair: Pair, giver: Hot, open_hot: Callable[..., Hot]
) -> None:
    """Each run's by itself: by events, batches over several runs, snapshots and updates of the state.

    A snapshot covers nothing of what others wrote meanwhile, nor what came after it.
    """
    run_ids = ["a", "b", "c", "d", "e"]
    for run_id in run_ids:
        giver.append(run_id, make_events(run_id, 2))
    with pair.losing():
        for run_id in run_ids:
            giver.append(run_id, make_events(run_id, 2, first=3))
    other = open_hot()
    for run_id in run_ids:
        other.append(run_id, make_events(run_id, 2, first=10))
    giver.save_events([make_event("a", 5), make_event("b", 5)])
    giver.save_snapshot("c", make_state("c"))
    giver.update_state("d", lambda state: state)
    giver.append("e", [make_event("e", 5)], expected_offset=6, snapshot=make_state("e"))
    for run_id in run_ids:
        seqs = [event.seq for event in other.list_events(run_id)]
        assert seqs == [1, 2, 10, 11, 3, 4] + ([] if run_id in "cd" else [5])
        recovery = other.recover(run_id)
        assert recovery.offset <= 2
        assert len(recovery.events) == len(seqs) - recovery.offset


def test_a_key_that_others_have_used_meanwhile_is_not_written_again(
    pair: Pair, giver: Hot, open_hot: Callable[..., Hot]
) -> None:
    """The step was done again by somebody else, so it was recorded once."""
    giver.append("r", make_events("r", 1))
    with pair.losing():
        lost = make_events("r", 3)
        giver.append("r", lost, keys=["k1", "k2", None])
    other, theirs = open_hot(), make_events("r", 1)
    other.append("r", theirs, keys=["k1"])
    last = make_event("r")
    giver.save_event(last)
    (kept, *rest) = spans(other)
    assert kept
    assert rest == [theirs[0].span_id, lost[1].span_id, lost[2].span_id, last.span_id]


def test_what_others_have_lost_is_not_made_up_for(pair: Pair, giver: Hot, open_hot: Callable[..., Hot]) -> None:
    """A store that had seen it is told; one that had not puts back its own."""
    other = open_hot()
    giver.append("r", make_events("r", 2))
    giver.append("s", make_events("s", 2))
    with pair.losing():
        giver.append("r", make_events("r", 1))
        other.append("r", make_events("r", 2))
        assert len(spans(giver)) == 5
        other.append("s", make_events("s", 2))
    with pytest.raises(AcknowledgedWritesLost):
        giver.save_event(make_event("r"))
    assert giver.append("s", make_events("s", 1)).first_offset == 3
    with pytest.raises((AcknowledgedWritesLost, HistoryDiverged)):
        other.save_event(make_event("s"))


def test_what_is_lost_again_is_put_back_again(pair: Pair, giver: Hot, open_hot: Callable[..., Hot]) -> None:
    """After each failover, all that is missing then and nothing else: not what was put back and is there."""
    events, theirs = make_events("r", 6), make_events("r", 2)
    giver.append("r", events[:1])
    with pair.losing():
        giver.append("r", events[1:3])
    open_hot().append("r", theirs[:1])
    giver.save_snapshot("r", make_state("r"))
    pair.renew()
    with pair.losing():
        giver.append("r", events[3:4])
    open_hot().append("r", theirs[1:])
    pair.renew()
    with pair.losing():
        giver.append("r", events[4:5])
    giver.append("r", events[5:])
    wanted = [events[0], theirs[0], events[1], events[2], theirs[1], *events[3:]]
    assert spans(open_hot()) == spans_of(wanted)


def test_what_has_been_trimmed_is_not_put_back(
    pair: Pair, giver: Hot, open_hot: Callable[..., Hot], tmp_path: Path
) -> None:
    """It is in the archive, and not lost."""
    events = make_events("r", 9)
    giver.append("r", events[:5])
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        DrainWorker(open_hot(), [archive], trim="archived").drain_once()
        with pair.losing():
            giver.append("r", events[5:7])
        giver.append("r", events[7:])
        DrainWorker(open_hot(), [archive], trim="archived").drain_once()
        assert spans(archive) == [event.span_id for event in events]


def test_a_run_that_is_lost_as_a_whole_is_put_back(pair: Pair, giver: Hot, open_hot: Callable[..., Hot]) -> None:
    """All of it, if all of it was this store's."""
    events = make_events("r", 5)
    with pair.losing():
        giver.append("r", events[:4])
    giver.append("r", events[4:])
    assert spans(open_hot()) == [event.span_id for event in events]


def test_a_run_that_was_taken_as_it_is_gets_nothing_back(
    pair: Pair, giver: Hot, open_hot: Callable[..., Hot]
) -> None:
    """What was lost before it was forgotten is nobody's any more, also after another failover."""
    giver.append("r", make_events("r", 2))
    with pair.losing():
        giver.append("r", make_events("r", 2, first=3))
    giver.forget("r")
    giver.append("r", make_events("r", 1, first=5))
    pair.renew()
    with pair.losing():
        giver.append("r", make_events("r", 1, first=6))
    giver.append("r", make_events("r", 1, first=7))
    assert [event.seq for event in open_hot().list_events("r")] == [1, 2, 5, 6, 7]


@pytest.mark.parametrize("former", [1, 2, 3, 9])
def test_a_run_that_was_deleted_gets_nothing_back(
    pair: Pair, giver: Hot, open_hot: Callable[..., Hot], former: int
) -> None:
    """What another has deleted does not come back in the run of that name that was created after it."""
    giver.append("r", make_events("r", former))
    assert open_hot().delete_run("r")
    giver.append("r", make_events("r", 2, first=21))
    with pair.losing():
        giver.append("r", make_events("r", 1, first=23))
    giver.append("r", make_events("r", 1, first=24))
    assert [event.seq for event in open_hot().list_events("r")] == [21, 22, 23, 24]


def test_more_than_is_held_is_not_made_up_for(pair: Pair, giver: Hot, open_hot: Callable[..., Hot]) -> None:
    """What is held comes back; that it is not all is told."""
    large = [make_event("r", seq, payload={"text": "x" * 7_000_000}) for seq in range(4)]
    giver.append("r", large[:1])
    with pair.losing():
        for event in large[1:]:
            giver.save_event(event)
    with pytest.raises(AcknowledgedWritesLost):
        giver.save_event(make_event("r"))
    there = spans(open_hot())
    assert there[0] == large[0].span_id
    assert set(there[1:]) <= {event.span_id for event in large[2:]}
    assert len(set(there)) == len(there)


def lose_in_many_runs(pair: Pair, giver: RunStore[Any, Any], other: Hot) -> dict[str, list[Any]]:
    """Runs of which the third and fourth of six events are lost, and have another's in their place."""
    sent = {f"r{number}": make_events(f"r{number}", 6) for number in range(1, 16)}
    for run_id, events in sent.items():
        giver.append(run_id, events[:2])
    with pair.losing():
        for run_id, events in sent.items():
            giver.append(run_id, events[2:4], keys=["k", None])
    for run_id in sent:
        other.save_event(make_event(run_id, span_id="another's"))
    until_taken(lambda: giver.run_info("r1"))  # connections to the old primary end one by one
    return sent


@pytest.mark.parametrize(
    "fault", [Fault.DROP_REQUEST, Fault.DROP_REPLY, Fault.CUT_REPLY], ids=lambda fault: fault.value
)
def test_putting_back_is_done_once_whichever_of_its_round_trips_is_struck(
    pair: Pair, opened: ExitStack, open_hot: Callable[..., Hot], fault: Fault
) -> None:
    """The first, the second, and so on to the last; the caller repeats its append until it is told."""
    proxy = opened.enter_context(FaultProxy(pair.url))
    giver = opened.enter_context(connect(proxy.url, partitions=1, retry_seconds=0, resend_lost=True))
    struck = []
    for at, (run_id, events) in enumerate(lose_in_many_runs(pair, giver, open_hot()).items(), 1):
        proxy.reset()
        proxy.arm(fault, at=at)
        until_taken(partial(giver.append, run_id, events[4:]))
        proxy.disarm()
        struck.append(proxy.struck)
        there = spans_of(open_hot().list_events(run_id))
        assert there == [*spans_of(events[:2]), "another's", *spans_of(events[2:])]
    assert struck[:3] == [1, 1, 1]
    assert struck[-1] == 0


def test_two_who_find_the_loss_at_once_put_it_back_once(
    pair: Pair, opened: ExitStack, open_hot: Callable[..., Hot]
) -> None:
    """One of them is held up at the first, the second, and so on of their round trips."""
    proxy = opened.enter_context(FaultProxy(pair.url))
    giver = opened.enter_context(connect(proxy.url, partitions=1, resend_lost=True))
    threads = opened.enter_context(ThreadPoolExecutor(2))
    for at, (run_id, events) in enumerate(lose_in_many_runs(pair, giver, open_hot()).items(), 1):
        proxy.arm(Fault.DELAY, at=at, delay_seconds=0.05)
        for done in [threads.submit(giver.save_event, event) for event in events[4:]]:
            done.result(DEADLINE_SECONDS)
        proxy.disarm()
        there = spans_of(open_hot().list_events(run_id))
        assert there[:5] == [*spans_of(events[:2]), "another's", *spans_of(events[2:4])]
        assert sorted(there[5:]) == sorted(spans_of(events[4:]))


def until_taken(call: Callable[[], Any]) -> Any:
    """Repeat a call until it gets its reply."""
    for _ in range(50):
        try:
            return call()
        except StoreUnavailable:
            continue
    raise AssertionError("it never got a reply")


def test_threads_that_write_through_a_failover_lose_nothing(pair: Pair, open_hot: Callable[..., Hot]) -> None:
    """What each was acknowledged is there once, each lane in its order, whatever was on its way just then."""
    giver = open_hot(resend_lost=True, retry_seconds=DEADLINE_SECONDS)
    lanes = ["a", "b", "c", "d"]
    written: dict[str, list[int]] = {lane_id: [] for lane_id in lanes}
    done = threading.Event()

    def write(lane_id: str) -> None:
        for seq in itertools.count(1):
            if done.is_set():
                return
            giver.save_event(make_event("r", seq, lane_id=lane_id))
            written[lane_id].append(seq)

    def await_events(count: int) -> None:
        """Until so many more were acknowledged to every thread."""
        wanted = {lane_id: len(seqs) + count for lane_id, seqs in written.items()}
        eventually(
            lambda: (
                all(len(written[lane_id]) >= count for lane_id, count in wanted.items())
                or any(writer.done() for writer in writers)
            )
        )

    with ThreadPoolExecutor(len(lanes)) as threads:
        writers = [threads.submit(write, lane_id) for lane_id in lanes]
        try:
            await_events(20)
            pair.cut()
            await_events(20)
            pair.promote()
            await_events(20)
        finally:
            done.set()
        for writer in writers:
            writer.result(DEADLINE_SECONDS)
    there: dict[str, list[int]] = {lane_id: [] for lane_id in lanes}
    for event in open_hot().list_events("r"):
        there[event.lane_id].append(event.seq)
    assert there == written


def test_a_lost_lease_does_not_keep_back_what_was_lost(
    pair: Pair, giver: Hot, open_hot: Callable[..., Hot]
) -> None:
    """Under the lost one nothing is written; under the next one, all."""
    events = make_events("r", 5, lane_id="a")
    lease = giver.lease("r", owner="a", lane_id="a", ttl=LONG_SECONDS)
    lease.append("r", events[:2])
    with pair.losing():
        lease.append("r", events[2:4])
    with pytest.raises(LeaseLost):
        lease.append("r", events[4:])
    assert len(spans(open_hot())) == 2
    with giver.lease("r", owner="a", lane_id="a", ttl=LONG_SECONDS) as new:
        new.append("r", events[4:])
    assert spans(open_hot()) == spans_of(events)


# -- leases


@pytest.fixture(params=["a", None], ids=["lane", "run"])
def lane_id(request: pytest.FixtureRequest) -> str | None:
    """What is leased: a lane, or the whole run."""
    return request.param  # type: ignore[no-any-return]  # pytest does not say what its parameters are


def assert_dead(lease: Any, store: Hot) -> None:
    """Nothing is applied under this lease."""
    lane_id = lease.lane_id or "main"
    before = len(store.list_events("r"))
    for call in (
        lambda: lease.save_event(make_event("r", lane_id=lane_id)),
        lambda: lease.save_snapshot("r", make_state("r")),
        lease.check,
    ):
        with pytest.raises(LeaseLost):
            call()
    assert lease.lost
    assert len(store.list_events("r")) == before


def test_a_lease_does_not_survive_a_failover(
    pair: Pair, hot: Hot, open_hot: Callable[..., Hot], lane_id: str | None
) -> None:
    """Although its time has not passed and the replica knew it: another one may have followed it meanwhile."""
    lease = hot.lease("r", owner="a", lane_id=lane_id, ttl=LONG_SECONDS)
    lease.save_event(make_event("r", lane_id=lane_id or "main"))
    with pair.losing():
        pass
    other = open_hot()
    assert_dead(lease, other)
    other.save_event(make_event("r", lane_id=lane_id or "main"))  # nor is it in anybody's way
    with other.lease("r", owner="b", lane_id=lane_id, ttl=LONG_SECONDS) as new:
        assert new.epoch > lease.epoch
        new.save_event(make_event("r", lane_id=lane_id or "main"))
        with pytest.raises(LeaseLost):
            lease.save_event(make_event("r", lane_id=lane_id or "main"))
    assert len(spans(other)) == 3


def test_a_lease_that_was_superseded_does_not_come_back(
    pair: Pair, hot: Hot, open_hot: Callable[..., Hot], lane_id: str | None
) -> None:
    """The replica knew the former lease and not the latter: it is neither the one nor the other."""
    former = hot.lease("r", owner="a", lane_id=lane_id, ttl=LONG_SECONDS)
    former.save_event(make_event("r", lane_id=lane_id or "main"))
    with pair.losing():
        latter = open_hot().lease("r", owner="a", lane_id=lane_id, ttl=LONG_SECONDS)
        latter.save_event(make_event("r", lane_id=lane_id or "main"))
    other = open_hot()
    assert_dead(former, other)
    assert_dead(latter, other)
    with other.lease("r", owner="a", lane_id=lane_id, ttl=LONG_SECONDS) as new:
        assert new.epoch > latter.epoch > former.epoch
        new.save_event(make_event("r", lane_id=lane_id or "main"))
    assert len(spans(other)) == 2


def test_a_lease_that_was_lost_is_no_lease(
    pair: Pair, hot: Hot, open_hot: Callable[..., Hot], lane_id: str | None
) -> None:
    """The replica never heard of it, nor, perhaps, of its run."""
    with pair.losing():
        lease = hot.lease("r", owner="a", lane_id=lane_id, ttl=LONG_SECONDS)
        lease.save_event(make_event("r", lane_id=lane_id or "main"))
    assert_dead(lease, open_hot())


def test_a_lease_given_back_to_the_promoted_one_harms_nobody(
    pair: Pair, hot: Hot, open_hot: Callable[..., Hot]
) -> None:
    """Releasing what a failover has ended leaves the lease alone that came after it."""
    lease = hot.lease("r", owner="a", ttl=LONG_SECONDS)
    with pair.losing():
        pass
    with open_hot().lease("r", owner="b", ttl=LONG_SECONDS) as new:
        lease.release()
        new.save_event(make_event("r"))
        new.check()
