"""P2 and P4: what a caller sends again after a failover is put back once, in order, or not at all."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    AcknowledgedWritesLost,
    DrainWorker,
    HistoryDiverged,
    LeaseLost,
    RunStore,
    SQLiteCheckpointer,
    StoreUnavailable,
    connect,
)
from runstream.drain.seq_spans import Trim
from runstream.repair.resolve import load_histories, resolve
from runstream.testing import Fault, FaultProxy
from tests.faults.failover.failover_tools import LONG_SECONDS, Hot, assert_lost, spans, spans_of, until_taken
from tests.support.operations import session_of
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import DEADLINE_SECONDS, Pair, eventually, needs_server

pytestmark = needs_server


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


@pytest.mark.parametrize("trim", ["never", "archived"])
def test_what_a_person_lets_the_run_have_again_is_not_put_back_once_more(
    pair: Pair, giver: Hot, open_hot: Callable[..., Hot], tmp_path: Path, trim: Trim
) -> None:
    """The archive has what was lost; where the store has put it back is a branch now."""
    events, theirs, after = make_events("r", 5), make_events("r", 2), make_events("r", 2)
    giver.append("r", events[:2])
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        with pair.losing():
            giver.append("r", events[2:])
            DrainWorker(open_hot(), [archive], trim="never").drain_once()
        other = open_hot()
        other.append("r", theirs)
        giver.append("r", after[:1])
        assert spans(open_hot()) == spans_of([*events[:2], *theirs, *events[2:], *after[:1]])
        seen = load_histories(other, [archive], "r")
        assert seen is not None
        resolve(other, [archive], seen, "archive")
        DrainWorker(open_hot(), [archive], trim=trim).drain_once()
        wanted = [*events, *after]
        if trim == "archived":  # what would tell is not in Redis any more
            assert_lost(partial(giver.save_event, make_event("r")), 8, 5)
            giver.forget("r")
            wanted.remove(after[0])
        giver.append("r", after[1:])
        DrainWorker(open_hot(), [archive]).drain_once()
        assert spans(archive) == spans_of(wanted)


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


def test_what_is_trimmed_while_the_lost_ones_are_looked_for_is_not_put_back(
    pair: Pair, giver: Hot, open_hot: Callable[..., Hot]
) -> None:
    """Between any two of the questions, all that is there leaves Redis for the archive."""
    run_ids = [f"r{number}" for number in range(16)]
    for run_id in run_ids:
        for event in make_events(run_id, 9):
            giver.save_event(event)
    with pair.losing():
        for run_id in run_ids:
            giver.append(run_id, make_events(run_id, 2, first=10))
    until_taken(lambda: giver.run_info("r0"))
    driver: Any = giver._driver
    exchange_once, raw = driver.exchange_once, pair.client()
    trimmed = []
    for at, run_id in enumerate(run_ids, 1):
        keys, left = session_of(giver).keys.run(run_id), itertools.count(at, -1)

        def trim_at(exchange: Any, keys: Any = keys, left: Any = left) -> Any:
            if next(left) == 0:
                entries: Any = raw.xrange(keys.events, 9, 9)
                trimmed.append(raw.xtrim(keys.events, minid=10))
                raw.hset(keys.meta, "mark", entries[0][0])
            return exchange_once(exchange)

        driver.exchange_once = trim_at
        giver.append(run_id, make_events(run_id, 1, first=12))
        assert [item.event.seq for item in giver.read(run_id, 9)] == [10, 11, 12], at
        driver.exchange_once = exchange_once
    assert trimmed[0] == 9
    assert len(trimmed) < len(run_ids), "all of its questions were interrupted"


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


@pytest.mark.one_in(4)
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


@pytest.mark.exhaustive
@pytest.mark.one_in(3)
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


def test_where_nobody_can_tell_whether_it_was_put_back_the_loss_is_told(
    pair: Pair, opened: ExitStack, open_hot: Callable[..., Hot]
) -> None:
    """The reply is lost, and the server forgets the producer: the former appends are in doubt, not the next."""
    proxy = opened.enter_context(FaultProxy(pair.url))
    giver = opened.enter_context(connect(proxy.url, partitions=1, retry_seconds=0, resend_lost=True))
    giver.append("r", make_events("r", 2))
    with pair.losing():
        giver.append("r", make_events("r", 2))
    until_taken(lambda: giver.append("another", make_events("another", 1)))  # so that the server has the script
    proxy.arm(Fault.DROP_REPLY, at=2, commands=["EVALSHA"])  # the one that tells that they are back
    with pytest.raises(StoreUnavailable):
        giver.append("r", make_events("r", 1))
    proxy.disarm()
    assert session_of(giver).recent.lost("r")
    keys, raw = session_of(giver).keys.run("r"), pair.client()
    raw.delete(keys.producers)
    raw.hdel(keys.meta, "by")
    seconds, microseconds = raw.time()
    raw.hset(keys.meta, "forgotten", seconds * 1_000_000 + microseconds)
    for _ in range(3):
        assert_lost(lambda: giver.append("r", make_events("r", 1)), 4, 2)
    giver.forget("r")
    there = len(spans(open_hot()))
    assert giver.append("r", make_events("r", 1)).first_offset == there + 1


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


def test_what_another_lease_keeps_out_is_put_back_after_it_though_others_were_trimmed(
    pair: Pair, giver: Hot, open_hot: Callable[..., Hot], tmp_path: Path
) -> None:
    """Where the last event of this store shows that nobody has let the run have its former history again."""
    kept, lost = make_events("r", 2), make_events("r", 3, lane_id="a")
    theirs, after = make_events("r", 6, lane_id="a"), make_events("r", 2)
    giver.append("r", kept)
    with pair.losing():
        giver.append("r", lost)
    other = open_hot()
    with other.lease("r", owner="b", lane_id="a", ttl=LONG_SECONDS) as lease:
        lease.append("r", theirs)
        giver.append("r", after[:1])
        with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
            DrainWorker(other, [archive], trim="archived").drain_once()
    giver.append("r", after[1:])
    assert [item.event.span_id for item in giver.read("r", 9)] == spans_of([*lost, *after[1:]])
