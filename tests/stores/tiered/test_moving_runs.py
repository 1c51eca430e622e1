"""P10 while it moves: runs that are archived, retired, forgotten or deleted while they are looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    AcknowledgedWritesLost,
    ArchiveGap,
    ConcurrencyConflict,
    DrainWorker,
    EventKind,
    EventsArchived,
    HistoryDiverged,
    RedisCheckpointer,
    RunState,
    RunStatus,
    SQLiteCheckpointer,
    StoreUnavailable,
)
from runstream.codec.archive_entries import archive_entries
from runstream.codec.chain import next_chain
from runstream.codec.record import record_crc
from runstream.history.archived import ArchivedHistory
from runstream.model.archive_records import RunBatch, RunHeader
from runstream.model.results import Cursor
from runstream.repair.restore import restore_run
from runstream.stores.capabilities import archive_of
from runstream.stores.redis.operations.client import reader
from runstream.stores.tiered import TieredCheckpointer
from tests.stores.redis.layout.raw_keys import key_of
from tests.stores.tiered.tiers import Hot, Tiered, drain, stranger
from tests.support.backends import Backend, RedisBackend, latest
from tests.support.drain_tools import Outage
from tests.support.kinds import on_every_server
from tests.support.operations import hooked, last_seq, operations_of
from tests.support.samples import make_event, make_events, make_state


def retire(hot: Hot, archive: Any) -> None:
    assert DrainWorker(hot, [archive], retire_after_seconds=0).drain_once().retired == 1


@pytest.mark.one_in(4)
@on_every_server
def test_a_retired_run_is_read_recovered_and_gone_on_with(hot: Hot, archive: Any, tiered: Tiered) -> None:
    """Its snapshots and all that was known of its lanes are in the archive, and are taken from there."""
    with tiered.open_run("r", session_id="s") as run:
        run.emit(EventKind.AGENT_PROGRESS, n=1)
        run.state.purpose = "first"
        run.finish()
    with tiered.open_run("r", lane_id="side") as side:
        side.emit(EventKind.AGENT_PROGRESS, n=1)
        side.checkpoint()
    retire(hot, archive)
    whole = tiered.list_events("r")
    assert list(tiered.follow("r"))[-1].event == whole[-1]
    other = TieredCheckpointer(stranger(hot), archive)
    assert other.load_latest("r") == tiered.load_latest("r") is not None
    for ask in (hot.recover, hot.kept_snapshots):
        with pytest.raises(EventsArchived):
            ask("r")
    assert tiered.kept_snapshots("r") == [(2, 1)]

    def change(state: Any) -> None:
        state.purpose += ", second"

    assert other.update_state("r", change).purpose == "first, second"
    with tiered.open_run("r", lane_id="side") as again:
        assert again.recovered.state is not None
        assert again.emit(EventKind.AGENT_PROGRESS, n=2).event.seq == 2
        again.checkpoint()
    with tiered.open_run("r") as late:
        assert late.state.purpose == "first, second"
        late.emit(EventKind.AGENT_PROGRESS, n=3)
        late.state.purpose = "third"
        late.checkpoint()
        late.finish()
    retire(hot, archive)
    assert tiered.list_events("r")[: len(whole)] == whole
    state = tiered.load_latest("r")
    assert state is not None
    assert state.purpose == "third"


def test_what_a_class_does_not_know_of_a_retired_state_is_kept(hot: Hot, archive: Any) -> None:
    """An older process goes on from the archive's copy: by ``update_state``, and by a checkpoint of its Run."""

    class Newer(RunState):
        def to_dict(self) -> dict[str, Any]:
            return {**super().to_dict(), "added": {"by": ("a", "newer")}}

    def added() -> Any:
        snapshot = tiered.load_snapshot("r")
        assert snapshot is not None
        return snapshot.stored.get("added")

    tiered = TieredCheckpointer(hot, archive)
    for writer in ("update_state", "checkpoint"):
        tiered.save_snapshot("r", Newer("r", status=RunStatus.COMPLETED))
        retire(hot, archive)
        if writer == "update_state":
            tiered.update_state("r", lambda state: setattr(state, "purpose", "changed"))
        else:
            run = tiered.open_run("r")
            run.state.purpose = "changed"
            run.checkpoint()
        assert latest(tiered, "r").purpose == "changed"
        assert added() == {"by": ("a", "newer")}


def test_two_that_went_on_with_a_retired_run_do_not_overwrite_each_other(
    hot: Hot, archive: Any, tiered: Tiered
) -> None:
    with tiered.open_run("r") as run:
        run.emit(EventKind.AGENT_PROGRESS)
        run.finish()
    retire(hot, archive)
    first, second = tiered.open_run("r"), tiered.open_run("r")
    first.checkpoint()
    with pytest.raises(ConcurrencyConflict):
        second.checkpoint()


@pytest.mark.parametrize("lane_id", [None, "a"])
def test_whoever_has_loaded_a_snapshot_from_the_archive_goes_on_from_it(
    hot: Hot, archive: Any, tiered: Tiered, lane_id: str | None
) -> None:
    """And no other: what was saved since is not overwritten."""
    with tiered.open_run("r", lane_id="a") as run:
        run.emit(EventKind.AGENT_PROGRESS)
        run.finish_lane()
    tiered.update_state("r", lambda state: setattr(state, "purpose", "first"))
    assert DrainWorker(hot, [archive], trim="archived", retire_idle_seconds=0).drain_once().retired == 1
    other = TieredCheckpointer(stranger(hot), archive)
    for store in (tiered, other):
        assert store.load_snapshot("r", lane_id=lane_id) is not None
    other.append("r", (), snapshot=make_state("r"), lane_id=lane_id)
    with pytest.raises(ConcurrencyConflict):
        tiered.append("r", (), snapshot=make_state("r"), lane_id=lane_id)
    with pytest.raises(ConcurrencyConflict):
        TieredCheckpointer(stranger(hot), archive).append("r", (), snapshot=make_state("r"), lane_id=lane_id)


def test_a_lane_s_snapshot_that_was_dropped_is_not_shown_though_the_archive_has_an_earlier_one(
    hot: Hot, archive: Any, tiered: Tiered
) -> None:
    tiered.append("r", [make_event("r", 1, lane_id="over")], end_lanes=["over"])
    tiered.append("r", [make_event("r", 1, lane_id="a")], snapshot=make_state("r"), lane_id="a")
    drain(hot, archive)
    tiered.append("r", [make_event("r", 2, lane_id="a")], snapshot=make_state("r"), lane_id="a")
    tiered.erase("r", [3], drop_snapshots=True)
    assert tiered.load_snapshot("r", lane_id="a") is None
    assert [lane.snapshot_offset for lane in tiered.lanes("r")] == [None, None]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("lanes", [("a", "b"), ("a" * 500, "a" * 499 + "b"), ("ü" * 13, "main")])
def test_lanes_of_a_retired_run_do_not_stand_in_each_others_way(
    hot: Hot, archive: Any, tiered: Tiered, lanes: tuple[str, str]
) -> None:
    """One goes on while the run is retired again and again: the other's snapshot is still the one it knows."""
    first, second = lanes

    def save(store: Tiered, lane_id: str, kind: EventKind = EventKind.RUN_FINISHED) -> None:
        store.append("r", [make_event("r", kind=kind, lane_id=lane_id)], snapshot=make_state("r"), lane_id=lane_id)

    save(tiered, first)
    retire(hot, archive)
    tiered.recover("r", lane_id=first)
    for _ in range(3):
        save(tiered, second)
        retire(hot, archive)
    save(tiered, first)
    saved = tiered.load_snapshot("r", lane_id=first)
    assert saved is not None
    assert saved.revision == 2
    retire(hot, archive)
    other = TieredCheckpointer(stranger(hot), archive)
    other.recover("r", lane_id=first)
    save(tiered, first)
    retire(hot, archive)
    with pytest.raises(ConcurrencyConflict):  # while somebody else's is one
        save(other, first)
    assert other.load_snapshot("r", lane_id="another") is None


# -- what happens between two steps ------------------------------------------------------------------------


def once(happens: Callable[[], Any]) -> Callable[..., None]:
    """A hook that lets something happen before the first call, and before no other."""
    left = [happens]

    def hook(*_: Any) -> None:
        if left:
            left.pop()()

    return hook


def forget(hot: Hot, archive: Any) -> None:
    """All that has ended is archived, and leaves Redis without a trace."""
    report = DrainWorker(hot, [archive], retire_after_seconds=0, forget_after_seconds=0).drain_once()
    assert report.forgotten == report.retired > 0


def end(store: Any, run_id: str, count: int, *, first: int = 1) -> None:
    """Append so many events, of which the last ends the run."""
    store.append(run_id, make_events(run_id, count - 1, first=first))
    store.append(run_id, [make_event(run_id, first + count - 1, kind=EventKind.RUN_FINISHED)])


READS: dict[str, Callable[[Any], Any]] = {
    "read": lambda store: [item.offset for item in store.read("r")],
    "backwards": lambda store: [item.offset for item in store.read("r", reverse=True)][::-1],
    "follow": lambda store: [item.offset for item in store.follow("r", idle_timeout=20)],
    "read on": lambda store: [1, 2, 3, 4, 5, *(item.offset for item in store.read("r", 5))],
    "follow on": lambda store: [1, 2, 3, 4, 5, *(item.offset for item in store.follow("r", 5, idle_timeout=20))],
    "follow the end": lambda store: [*range(1, 10), *(store.follow("r", 9, idle_timeout=20))],
}


@pytest.fixture
def fake(make_backend: Callable[[str], Backend]) -> Hot:
    store = make_backend("fake").open()
    assert isinstance(store, RedisCheckpointer)
    return store


@pytest.mark.one_in(12)
@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("moment", ["run_info", "read", "follow", "continuing"])
def test_a_run_that_is_archived_and_forgotten_while_it_is_looked_at_is_not_shorter(
    fake: Hot, archive: Any, moment: str, how: str
) -> None:
    """The archive was asked when it had half of it; by the time that Redis is asked, it is gone from there."""
    fake.append("r", make_events("r", 5))
    drain(fake, archive)
    end(fake, "r", 4, first=6)
    looking = hooked(fake, **{moment: once(lambda: forget(fake, archive))})
    assert READS[how](TieredCheckpointer(looking, archive)) == list(range(1, 10))


@pytest.mark.one_in(2)
def test_a_run_that_is_forgotten_while_runs_are_listed_is_among_them(fake: Hot, archive: Any) -> None:
    for run_id in "ab":
        end(fake, run_id, 2)
    for method in ("list_runs", "runs"):
        listing = hooked(fake, **{method: once(lambda: forget(fake, archive))})
        assert sorted(TieredCheckpointer(listing, archive).list_runs()) == ["a", "b"]
        end(fake, "c", 2)
        fake.delete_run("c")
        archive.delete_run("c")
        for run_id in "ab":
            TieredCheckpointer(fake, archive).delete_run(run_id)
            end(fake, run_id, 2)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("leave", [retire, forget])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [None, 8])
def test_a_reader_goes_on_in_the_archive_when_its_run_leaves_redis(
    fake: Hot, archive: Any, leave: Any, reverse: bool, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PAGE", 3)
    tiered = TieredCheckpointer(stranger(fake), archive)
    end(fake, "r", 10)
    wanted = [*(range(10, 0, -1) if reverse else range(1, 11))][:limit]
    found = tiered.read("r", reverse=reverse, limit=limit)
    offsets = [next(found).offset]
    leave(fake, archive)
    assert [*offsets, *(item.offset for item in found)] == wanted


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kinds", [None, [EventKind.AGENT_PROGRESS]])
@pytest.mark.parametrize("leave", [retire, forget])
def test_a_follower_goes_on_in_the_archive_when_its_run_leaves_redis(
    fake: Hot, archive: Any, leave: Any, kinds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PAGE", 3)
    tiered = TieredCheckpointer(stranger(fake), archive)
    end(fake, "r", 10)
    following = tiered.follow("r", idle_timeout=20, kinds=kinds)
    offsets = [next(following).offset]
    leave(fake, archive)
    assert [*offsets, *(item.offset for item in following)] == list(range(1, 11 if kinds is None else 10))


def test_a_follower_of_a_deleted_run_is_told(fake: Hot, archive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PAGE", 3)
    tiered = TieredCheckpointer(fake, archive)
    end(fake, "r", 10)
    following, found = tiered.follow("r"), tiered.read("r")
    next(following), next(found)
    drain(fake, archive)
    tiered.delete_run("r")
    for stream in (following, found):
        with pytest.raises(AcknowledgedWritesLost):
            list(stream)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_run_that_is_deleted_after_the_first_look_at_it_is_an_error_of_ours(fake: Hot, reverse: bool) -> None:
    """Not an IndexError, as once: what was there a moment ago is missing."""
    end(fake, "r", 20)
    store = stranger(fake)
    driver: Any = store._driver
    exchange = driver.exchange_once

    def passing(commands: Any) -> Any:
        replies = exchange(commands)
        deleting()
        return replies

    deleting = once(lambda: fake.delete_run("r"))
    driver.exchange_once = passing
    with pytest.raises(AcknowledgedWritesLost):
        list(store.read("r", reverse=reverse, limit=15))


@pytest.mark.parametrize("read", ["follow", "read", "backwards"])
def test_what_is_lost_and_put_back_while_it_is_read_is_not_passed_over(
    hot: Hot, archive: Any, redis_backend: RedisBackend, read: str
) -> None:
    """A failover loses it, and its writer puts it back before the reader asks where the run ends."""
    hot.append("r", make_events("r", 3))
    drain(hot, archive, trim="never")
    hot.append("r", make_events("r", 3, first=4))
    names = [key_of(redis_backend, "r", what) for what in ("events", "meta")]

    def lose(*_: Any) -> None:
        for name in names:
            redis_backend.raw.rename(name, f"{name}:lost")

    def put_back(*_: Any) -> None:
        for name in names:
            if redis_backend.raw.exists(f"{name}:lost"):
                redis_backend.raw.rename(f"{name}:lost", name)

    looking = hooked(stranger(hot), read=once(lose), run_info=put_back, run_info_after=put_back)
    with pytest.raises(AcknowledgedWritesLost):
        READS[read](TieredCheckpointer(looking, archive))


def test_a_cursor_just_before_the_boundary_is_checked_in_the_archive(fake: Hot, archive: Any) -> None:
    """Redis has trimmed the entry, and its mark is further on: it cannot tell."""
    tiered = TieredCheckpointer(fake, archive)
    with tiered.open_run("r") as run:
        run.emit_many([EventKind.AGENT_PROGRESS] * 3, checkpoint=True)
        run.emit_many([EventKind.AGENT_PROGRESS] * 3)
    drain(fake, archive, trim="covered")
    info = tiered.run_info("r")
    assert info is not None
    assert (info.first_hot, info.archived_offset) == (4, 6)
    offset, _, chain = next(tiered.read("r", 2)).cursor.partition("-")
    wrong = f"{offset}-{int(chain) + 1}"
    some: list[dict[str, Any]] = [{}, {"limit": 0}, {"limit": 1, "reverse": True}]
    for options in some:
        with pytest.raises(HistoryDiverged):
            list(tiered.read("r", wrong, **options))
    with pytest.raises(HistoryDiverged):
        next(tiered.follow("r", wrong))
    with pytest.raises(HistoryDiverged):
        list(tiered.read("r", "5-1", limit=0))
    assert [item.offset for item in tiered.read("r", f"{offset}-{chain}")] == [4, 5, 6]


@pytest.mark.one_in(2)
def test_a_fork_begins_after_its_base_in_either_tier(fake: Hot, archive: Any, tmp_path: Path) -> None:
    """Nothing is missing before it, also while no archive knows it yet."""
    header = RunHeader("fork", Cursor(5, 7), "", "running", 1.0, 1.0)
    events = make_events("fork", 3, first=6)
    records = [one.record for one in operations_of(fake).codec.encode_events("fork", events)]
    cursors, chain = [], 7
    for offset, record in enumerate(records, 6):
        chain = next_chain(chain, record_crc(record))
        cursors.append(Cursor(offset, chain))
    entries = list(archive_entries("fork", list(zip(cursors, records, strict=True))))
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "source.db")) as source:
        source.write([RunBatch(header, header.start, entries)])
        history = ArchivedHistory.load(archive_of(source), "fork")
        assert history is not None
        restore_run(fake, history, seen=None, common=0)
    tiered = TieredCheckpointer(fake, archive)
    for trim in ("never", "archived"):
        for _ in "12":
            assert [item.offset for item in tiered.read("fork")] == [6, 7, 8]
            assert [item.offset for item in tiered.read("fork", reverse=True)] == [8, 7, 6]
            assert [item.offset for item in tiered.read("fork", "5-7", limit=2)] == [6, 7]
            assert next(tiered.follow("fork")).offset == 6
            assert [item.offset for item in tiered.recover("fork").events] == [6, 7, 8]
            drain(fake, archive, trim=trim)


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
def test_a_follower_waits_no_longer_because_the_boundary_moves(fake: Hot, archive: Any) -> None:
    """What it does not want comes, is archived and trimmed: its patience is counted from what it was given."""
    tiered = TieredCheckpointer(fake, archive)
    tiered.append("r", make_events("r", 2))
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            fake.append("r", [make_event("r", 0, lane_id="other")])
            drain(fake, archive)

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        began = time.monotonic()
        following = tiered.follow("r", lane_id="main", idle_timeout=1)
        found: list[Any] = []
        with pytest.raises(TimeoutError, match="for 1 seconds"):
            found.extend(following)
        stop.set()
        writing.result()
    assert time.monotonic() - began < 10


def test_what_an_archive_lacks_of_a_retired_run_is_not_taken_for_nothing(
    fake: Hot, archive: Any, tmp_path: Path
) -> None:
    """Neither a state nor a number in a lane: a writer would go on from the wrong ones."""
    with TieredCheckpointer(fake, archive).open_run("r") as run:
        run.emit(EventKind.AGENT_PROGRESS)
        run.finish()
    retire(fake, archive)
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "other.db")) as other:
        blind = TieredCheckpointer(fake, other)
        for call in (
            lambda: blind.load_latest("r"),
            lambda: last_seq(blind, "r", "main"),
            lambda: blind.recover("r"),
            lambda: blind.open_run("r"),
            lambda: blind.update_state("r", lambda state: state),
        ):
            with pytest.raises(ArchiveGap, match="1 to 2"):
                call()


# -- writers whose run has left Redis ----------------------------------------------------------------------


@pytest.mark.one_in(2)
@pytest.mark.parametrize("covered", [0, 2])
def test_a_changed_state_covers_what_it_did_before(fake: Hot, archive: Any, covered: int) -> None:
    """Whoever changes the state has seen no events: those that came after it are to be recovered all the same."""
    tiered = TieredCheckpointer(fake, archive)
    if covered:
        with tiered.open_run("r") as run:
            run.emit_many([EventKind.AGENT_PROGRESS] * covered, checkpoint=True)
    end(tiered, "r", 3, first=covered + 1)
    retire(fake, archive)

    def change(state: Any) -> None:
        state.purpose = "changed"

    before = [item.offset for item in TieredCheckpointer(stranger(fake), archive).recover("r").events]
    assert TieredCheckpointer(stranger(fake), archive).update_state("r", change).purpose == "changed"
    recovery = TieredCheckpointer(stranger(fake), archive).recover("r")
    assert recovery.state is not None
    assert (recovery.state.purpose, recovery.offset) == ("changed", covered)
    assert [item.offset for item in recovery.events] == before == list(range(covered + 1, covered + 4))


def test_two_processes_change_the_state_of_a_retired_run(hot: Hot, archive: Any, tiered: Tiered) -> None:
    with tiered.open_run("r") as run:
        run.finish()
    retire(hot, archive)
    stores = [TieredCheckpointer(stranger(hot), archive) for _ in range(4)]
    together = threading.Barrier(len(stores))

    def count(store: Any) -> None:
        together.wait()
        for _ in range(5):
            store.update_state("r", lambda state: state.data.update(n=state.data.get("n", 0) + 1), attempts=100)

    with ThreadPoolExecutor(len(stores)) as threads:
        list(threads.map(count, stores))
    state = tiered.load_latest("r")
    assert state is not None
    assert state.data["n"] == 20


def test_a_run_that_is_retired_in_the_middle_of_its_work_goes_on(hot: Hot, archive: Any, tiered: Tiered) -> None:
    with tiered.open_run("r") as main, tiered.open_run("r", lane_id="side") as side:
        for run in (main, side):
            run.emit_many([EventKind.AGENT_PROGRESS] * 2, checkpoint=True)
        main.finish()
        retire(hot, archive)
        assert side.emit(EventKind.AGENT_PROGRESS).event.seq == 3
        side.checkpoint()
        main.state.purpose = "late"
        main.checkpoint()
        assert [item.offset for item in side.follow()] == list(range(1, 7))
    # what was known of the lane went with the run, but the archive shows that nobody else has written it
    assert tiered.recover("r", lane_id="side").events == []
    late = tiered.load_latest("r")
    assert late is not None
    assert late.purpose == "late"


@pytest.mark.parametrize("lane_id", ["main", "side"])
def test_a_snapshot_that_was_saved_and_retired_meanwhile_is_not_overwritten(
    hot: Hot, archive: Any, tiered: Tiered, lane_id: str
) -> None:
    """Of two that have opened a retired run one goes on, and the run is retired again before the other does."""
    with tiered.open_run("r", lane_id=lane_id) as run:
        run.checkpoint()
        run.finish()
    early = tiered.open_run("r", lane_id=lane_id)
    retire(hot, archive)
    first, second = (tiered.open_run("r", lane_id=lane_id) for _ in "12")
    first.emit(EventKind.AGENT_PROGRESS)
    first.state.purpose = "first"
    first.checkpoint()
    first.finish()
    retire(hot, archive)
    for slow in (early, second):
        with pytest.raises(ConcurrencyConflict):
            slow.checkpoint()
    snapshot = tiered.load_snapshot("r", lane_id=None if lane_id == "main" else lane_id)
    assert snapshot is not None
    assert snapshot.state.purpose == "first"


def test_an_archive_that_cannot_be_read_is_no_shorter_run(fake: Hot, archive: Any) -> None:
    """It is unavailable, at whichever call."""
    fake.append("r", make_events("r", 5))
    drain(fake, archive)
    outage = Outage(StoreUnavailable("the disk is gone"))
    whole = {
        "end_of": ("read", "backwards", "follow"),
        "read": ("read", "backwards", "follow"),
    }
    for method, hows in whole.items():
        failing = hooked(archive, **{method: outage})
        for how in hows:
            with pytest.raises(StoreUnavailable):
                READS[how](TieredCheckpointer(fake, failing))
    failing = hooked(archive, end_of=outage)
    for call in (TieredCheckpointer(fake, failing).recover, TieredCheckpointer(fake, failing).open_run):
        with pytest.raises(StoreUnavailable):
            call("r")
