"""P10: a reader over hot and archive sees one run, wherever the boundary lies."""

from __future__ import annotations

import asyncio
import pickle
import threading
from contextlib import aclosing, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

import runstream
from runstream import (
    AcknowledgedWritesLost,
    ArchiveGap,
    AsyncRedisCheckpointer,
    ConfigurationError,
    DrainWorker,
    EventKind,
    EventsArchived,
    HistoryDiverged,
    InMemoryCheckpointer,
    RedisCheckpointer,
    SQLiteCheckpointer,
    StoreUnavailable,
)
from runstream.model.archive_records import RunBatch, RunHeader
from runstream.model.results import Cursor
from runstream.operations.operation import Exchange
from runstream.stores.tiered import AsyncTieredCheckpointer, TieredCheckpointer
from tests.stores.tiered.tiers import Hot, Tiered, drain, stranger
from tests.support.operations import exchanges_in, operations_of, perform, session_of
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import eventually


@pytest.fixture
def split(hot: Hot, archive: Any, tiered: Tiered) -> Tiered:
    """A run of nine events, of which the first five are in the archive alone."""
    tiered.append("r", make_events("r", 5))
    drain(hot, archive)
    tiered.append("r", make_events("r", 4, first=6))
    return tiered


@pytest.mark.one_in(10, exhaustively=3)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [None, 0, 1, 4, 5, 6, 20])
def test_every_stretch_of_a_run_is_read_as_from_a_list(split: Tiered, reverse: bool, limit: int | None) -> None:
    for after in range(11):
        for before in (None, *range(1, 12)):
            offsets = list(range(after + 1, 10 if before is None else min(before, 10)))
            wanted = (offsets[::-1] if reverse else offsets)[:limit]
            found = list(split.read("r", after, before=before, limit=limit, reverse=reverse))
            assert [item.offset for item in found] == wanted
            assert [item.event.seq for item in found] == wanted


def test_a_cursor_is_checked_in_whichever_tier_it_lies(split: Tiered) -> None:
    for item in split.read("r"):
        assert [later.offset for later in split.read("r", item.cursor)] == list(range(item.offset + 1, 10))
        offset, _, chain = item.cursor.partition("-")
        with pytest.raises(HistoryDiverged):
            list(split.read("r", f"{offset}-{int(chain) + 1}"))


def test_a_redis_store_alone_says_that_the_rest_has_moved(split: Tiered, hot: Hot) -> None:
    with pytest.raises(EventsArchived):
        hot.list_events("r")
    assert [event.seq for event in split.list_events("r")] == list(range(1, 10))
    assert [event.seq for event in split.list_events("r", 7)] == [8, 9]


def test_a_gap_is_an_error_that_says_where_was_looked(split: Tiered, hot: Hot, tmp_path: Path) -> None:
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "other.db")) as other:
        blind = TieredCheckpointer(hot, other)
        with pytest.raises(ArchiveGap, match="1 to 5") as caught:
            blind.list_events("r")
        assert (caught.value.expected, caught.value.found) == (1, 6)
        for reverse in (False, True):
            with pytest.raises(ArchiveGap):
                list(blind.read("r", reverse=reverse))


def test_an_archive_with_another_history_is_never_mixed_in(split: Tiered, hot: Hot, archive: Any) -> None:
    """The run was lost, and others have made it anew."""
    hot.delete_run("r")
    hot.append("r", make_events("r", 3))
    with pytest.raises(AcknowledgedWritesLost):
        split.list_events("r")
    hot.append("r", make_events("r", 6, first=4))
    perform(hot, _trimmed(hot, "r", 4))
    for reverse in (False, True):
        with pytest.raises(HistoryDiverged):
            list(split.read("r", reverse=reverse))


def _trimmed(hot: Hot, run_id: str, first: int) -> Any:
    """As by a drain: the mark moves, and what lies before it goes."""
    run = session_of(hot).keys.run(run_id)
    ((entries),) = yield Exchange([(b"XRANGE", run.events, str(first - 1), str(first - 1))])
    yield Exchange([(b"HSET", run.meta, "mark", entries[0][0]), (b"XTRIM", run.events, b"MINID", str(first))])


def test_a_run_that_left_redis_altogether_is_read_from_the_archive(split: Tiered, hot: Hot, archive: Any) -> None:
    drain(hot, archive)
    forgetful = TieredCheckpointer(stranger(hot), archive)
    _vanish(hot, "r")
    assert [item.offset for item in forgetful.read("r")] == list(range(1, 10))
    assert [item.offset for item in forgetful.read("r", 3, limit=2, reverse=True)] == [9, 8]
    info = forgetful.run_info("r")
    assert info is not None
    assert (info.last_offset, info.first_hot, info.archived_offset) == (9, 10, 9)
    assert forgetful.list_runs() == ["r"]
    assert [item.offset for item in forgetful.recover("r").events] == list(range(1, 10))
    with pytest.raises(EventsArchived, match="runstream restore"):
        forgetful.append("r", make_events("r", 1))
    with pytest.raises(AcknowledgedWritesLost):  # this one had seen it
        split.list_events("r")


def _vanish(hot: Hot, run_id: str) -> None:
    """As in a restart without persistence."""
    run = session_of(hot).keys.run(run_id)

    def gone() -> Any:
        yield Exchange([(b"DEL", run.events, run.meta, run.producers), (b"ZREM", run.partition.runs, run_id)])

    perform(hot, gone())


def test_snapshots_and_recovery_come_from_where_they_are(hot: Hot, archive: Any, tiered: Tiered) -> None:
    tiered.append("r", make_events("r", 3))
    tiered.append("r", make_events("r", 2, lane_id="side"))
    drain(hot, archive)
    tiered.append("r", make_events("r", 2, first=4))
    recovery = TieredCheckpointer(stranger(hot), archive).recover("r")
    assert (recovery.state, recovery.offset) == (None, 0)
    assert [item.offset for item in recovery.events] == list(range(1, 8))
    side = tiered.recover("r", lane_id="side")
    assert [item.offset for item in side.events] == [4, 5]
    assert tiered.load_latest("r") is None


def test_a_writer_that_recovered_from_both_covers_all_of_it(hot: Hot, archive: Any, tiered: Tiered) -> None:
    tiered.append("r", make_events("r", 5))
    drain(hot, archive)
    tiered.append("r", make_events("r", 2, first=6))
    other = TieredCheckpointer(stranger(hot), archive)
    other.recover("r")
    other.save_snapshot("r", make_state("r"))
    snapshot = tiered.load_snapshot("r")
    assert snapshot is not None
    assert snapshot.offset == 7


def test_a_run_is_opened_and_gone_on_with_across_the_tiers(hot: Hot, archive: Any, tiered: Tiered) -> None:
    with tiered.open_run("r", lane_id="a") as run:
        run.emit(EventKind.AGENT_PROGRESS, n=1)
    drain(hot, archive)
    with tiered.open_run("r", lane_id="a", lease_ttl=5, owner="me") as run:
        assert [item.offset for item in run.recovered.events] == [1]
        assert run.emit(EventKind.AGENT_PROGRESS, n=2).event.seq == 2
        run.checkpoint()
        run.finish()
    assert [event.seq for event in tiered.list_events("r")][:2] == [1, 2]


def test_a_run_that_begins_is_asked_about_once(tiered: Tiered) -> None:
    """Whether Redis has it, and whether anything is left of it there; from then on each write is one exchange."""
    save = operations_of(tiered).save_snapshot
    sent = [exchanges_in(tiered, save("new", make_state("new"), None, None))[1] for _ in range(2)]
    assert [len(exchanges) for exchanges in sent] == [3, 1]


def test_runs_of_both_are_listed_once_the_newest_first(hot: Hot, archive: Any, tiered: Tiered) -> None:
    for name in "abc":
        tiered.append(name, [make_event(name, session_id="s")])
    drain(hot, archive)
    _vanish(hot, "b")
    assert set(tiered.list_runs()) == {"a", "b", "c"}
    assert tiered.list_runs()[0] == "c"
    assert [info.run_id for info in tiered.runs(limit=1)] == ["c"]
    assert sorted(info.run_id for info in tiered.runs(session_id="s")) == ["a", "b", "c"]
    tiered.append("a", [make_event("a", kind=EventKind.RUN_FINISHED)])
    assert [info.run_id for info in tiered.runs(status="completed")] == ["a"]
    assert sorted(info.run_id for info in tiered.runs(status="running")) == ["b", "c"]


def test_a_deleted_run_is_not_brought_back_by_a_drain_in_flight(hot: Hot, archive: Any, tiered: Tiered) -> None:
    """The worker has its events in hand, and writes them after that; another run of that name is welcome."""
    tiered.append("r", make_events("r", 3))

    class Late:
        """The archive as a slow worker sees it: the run is deleted before its first write."""

        def __getattr__(self, name: str) -> Any:
            return getattr(archive, name)

        def write(self, batches: Any) -> None:
            if not deleted:
                deleted.append(tiered.delete_run("r"))
            archive.write(batches)

    deleted: list[bool] = []
    DrainWorker(hot, [Late()]).drain_once()
    assert deleted == [True]
    assert archive.position("r") is None
    assert tiered.run_info("r") is None
    assert tiered.delete_run("r") is False
    tiered.append("r", make_events("r", 2))
    drain(hot, archive)
    assert len(tiered.list_events("r")) == 2
    assert tiered.delete_run("r") is True
    assert archive.position("r") is None


@pytest.mark.parametrize("of_another", [False, True])
def test_a_deletion_that_is_repeated_names_the_same_history(
    hot: Hot, archive: Any, tiered: Tiered, tmp_path: Path, *, of_another: bool
) -> None:
    """As its archive failed when Redis had done its part, or for another archive of the same store in Redis."""
    tiered.append("r", make_events("r", 3))

    class Late:
        """The archive as a slow worker sees it: the run is deleted before its first write."""

        def __getattr__(self, name: str) -> Any:
            return getattr(archive, name)

        def write(self, batches: Any) -> None:
            if of_another:
                with closing(SQLiteCheckpointer(tmp_path / "another.db")) as another:
                    assert TieredCheckpointer(hot, another).delete_run("r")
            else:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(operations_of(archive), "delete_history", _unavailable)
                    with pytest.raises(StoreUnavailable):
                        tiered.delete_run("r")
            tiered.delete_run("r")
            archive.write(batches)

    DrainWorker(hot, [Late()]).drain_once()
    assert archive.position("r") is None
    tiered.append("r", make_events("r", 2))
    drain(hot, archive)
    assert len(tiered.list_events("r")) == 2


def _unavailable(*_: Any) -> None:
    raise StoreUnavailable("the archive is away")


def test_what_was_deleted_is_remembered_for_a_week(archive: Any) -> None:
    """So that an archive of which runs are deleted every day does not grow by that for ever."""
    now = 1_700_000_000.0
    operations = operations_of(archive)
    operations._clock = lambda: now
    start = Cursor(0, 5)
    batch = RunBatch(RunHeader("r", start, "", "running", 1.0, 1.0), start)
    operations.delete_history("r", start.chain)
    for days in (0, 6):
        now += days * 86_400
        operations.delete_history(f"other {days}", start.chain)
        with pytest.raises(HistoryDiverged, match="deleted"):
            archive.write([batch])
    now += 2 * 86_400
    operations.delete_history("another", start.chain)
    archive.write([batch])
    assert archive.position("r") is not None
    with pytest.raises(HistoryDiverged, match="deleted"):
        archive.write([replace(batch, header=replace(batch.header, run_id="other 6"))])


def test_a_follower_goes_from_the_archive_through_redis_to_the_live_end(
    split: Tiered, hot: Hot, archive: Any
) -> None:
    following = split.follow("r", idle_timeout=20)
    assert [next(following).offset for _ in range(7)] == list(range(1, 8))
    split.append("r", [make_event("r", 10), make_event("r", 11, lane_id="side")])
    drain(hot, archive)
    split.append("r", [make_event("r", 12, kind=EventKind.RUN_FINISHED)])
    assert [item.offset for item in following] == [8, 9, 10, 11, 12]
    assert [item.offset for item in split.follow("r", lane_id="side")] == [11]
    third = list(split.read("r", limit=3))[-1].cursor
    assert [item.offset for item in split.follow("r", third, kinds=[EventKind.RUN_FINISHED])] == [12]


def test_connect_opens_both_and_the_store_goes_to_another_process_by_its_urls(tmp_path: Path) -> None:
    urls = {"url": f"embedded:{tmp_path / 'state'}", "archive": f"sqlite:{tmp_path / 'runs.db'}"}
    with runstream.connect(urls["url"], archive=urls["archive"]) as store:
        assert isinstance(store, TieredCheckpointer)
        store.append("r", make_events("r", 3))
        with runstream.connect(urls["url"]) as hot, runstream.connect(urls["archive"]) as archive:
            drain(hot, archive)  # type: ignore[arg-type]  # connect says no more than RunStore
        with pickle.loads(pickle.dumps(store)) as other:
            assert len(other.list_events("r")) == 3


@pytest.mark.parametrize("archive", ["memory:", "redis://localhost"])
def test_an_archive_that_is_none_is_refused(archive: str) -> None:
    with pytest.raises(ConfigurationError, match="tiered"):
        runstream.connect("fake:", archive=archive)
    with pytest.raises(ConfigurationError, match="tiered"):
        runstream.connect("memory:", archive="sqlite:x.db")


async def test_the_async_view_reads_the_same(tmp_path: Path) -> None:
    urls = {"url": f"embedded:{tmp_path / 'state'}", "archive": f"sqlite:{tmp_path / 'runs.db'}"}
    async with runstream.connect_async(urls["url"], archive=urls["archive"]) as store:
        await store.append("r", make_events("r", 5))
        with runstream.connect(urls["url"]) as hot, runstream.connect(urls["archive"]) as archive:
            drain(hot, archive)  # type: ignore[arg-type]  # connect says no more than RunStore
        async with store.open_run("r", lane_id="a", lease_ttl=5, owner="me") as run:
            await run.emit(EventKind.AGENT_PROGRESS, n=6)
            await run.checkpoint()
            await run.finish()
        assert len(await store.list_events("r")) == 7
        assert [item.offset async for item in store.read("r", reverse=True, limit=3)] == [7, 6, 5]
        assert [item.offset async for item in store.follow("r", 3)] == [4, 5, 6, 7]
        assert (await store.recover("r")).offset == 0
        assert [info.run_id async for info in store.runs()] == ["r"]
        assert await store.list_runs() == ["r"]
        async with store.lease("r", owner="you") as lease:
            assert len(await lease.list_events("r")) == 7
        assert await store.delete_run("r") is True
        assert await store.run_info("r") is None


async def test_an_async_reader_that_stops_gives_its_thread_back(tmp_path: Path) -> None:
    """Closed in the middle of the archive, and cancelled while it follows."""
    urls = {"url": f"embedded:{tmp_path / 'state'}", "archive": f"sqlite:{tmp_path / 'runs.db'}"}

    def reading() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("runstream-pages")]

    async with runstream.connect_async(urls["url"], archive=urls["archive"]) as store:
        await store.append("r", make_events("r", 5))
        with runstream.connect(urls["url"]) as hot, runstream.connect(urls["archive"]) as archive:
            drain(hot, archive)  # type: ignore[arg-type]  # connect says no more than RunStore
        async with aclosing(cast("Any", store.read("r"))) as stream:
            assert (await anext(stream)).offset == 1
            assert reading()
        await asyncio.to_thread(eventually, lambda: not reading())
        has_come = asyncio.Event()

        async def follow() -> None:
            async for item in store.follow("r"):
                if item.offset == 5:
                    has_come.set()

        following = asyncio.create_task(follow())
        await has_come.wait()
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        await asyncio.to_thread(eventually, lambda: not reading())
        await store.append("r", [make_event("r", 6)])
        assert len(await store.list_events("r")) == 6


@pytest.mark.parametrize("wrapper", [TieredCheckpointer, AsyncTieredCheckpointer])
def test_what_cannot_be_a_part_is_refused_at_once(wrapper: Any, make_backend: Any, tmp_path: Path) -> None:
    """By name, and not when it is first read."""
    is_async = wrapper is AsyncTieredCheckpointer
    fake: Any = make_backend("async-fake" if is_async else "fake").open()
    hot = fake._store if is_async else fake
    other = AsyncRedisCheckpointer if not is_async else RedisCheckpointer
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "a.db")) as archive:
        tiered = wrapper(hot, archive)
        for no_archive in (
            None,
            "sqlite:a.db",
            object(),
            InMemoryCheckpointer(),
            hot,
            tiered,
            operations_of(archive),
        ):
            with pytest.raises(ConfigurationError, match=f"an? {type(no_archive).__name__} is no archive"):
                wrapper(hot, no_archive)
        for not_hot in (None, "redis://localhost", InMemoryCheckpointer(), archive, tiered, object.__new__(other)):
            with pytest.raises(ConfigurationError, match=f"an? {type(not_hot).__name__} is none"):
                wrapper(not_hot, archive)
