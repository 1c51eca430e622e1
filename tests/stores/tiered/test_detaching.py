"""Forks that are detached live on, wherever they lie and the runs that they came from, which may go."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runstream import DrainWorker, SQLiteCheckpointer, StoreUnavailable
from runstream.model.archive_records import RunBatch
from runstream.operations.operation import Operation
from runstream.operations.run_forks import without_forks
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.tiered import TieredCheckpointer
from tests.stores.redis.forks.forking_tools import Stepped
from tests.stores.tiered.test_forks import ALL, PLACES, make_family, move, seqs
from tests.stores.tiered.tiers import Hot, Tiered, drain, stranger
from tests.support.backends import RedisBackend, info_of
from tests.support.drain_tools import Hooked, parked
from tests.support.operations import operations_of
from tests.support.samples import make_event, make_events


def check_alone(store: Any) -> None:
    """That ``g`` has all itself, and is read, looked up and recovered as before."""
    assert info_of(store, "g").parent is None
    assert seqs(store, "g") == ALL
    assert seqs(store, "g", reverse=True) == ALL[::-1]
    items = list(store.read("g"))
    for item in items:
        assert seqs(store, "g", after=item.cursor) == ALL[item.offset :]
    assert store.read_at("g", [7, 2, 5]) == [items[6], items[1], items[4]]
    assert store.find("g", ["a", "c", "d", "l", "m"]) == [1, 3, None, 5, None]
    assert [event.seq for event in store.list_events("g", 50)] == [51, 70, 71]
    recovery = store.recover("g")
    assert (recovery.state.purpose, recovery.state.run_id, recovery.offset) == ("of r", "g", 2)
    assert [item.offset for item in recovery.events] == [3, 4, 5, 6, 7]
    assert [(one.lane_id, one.last_offset, one.last_seq) for one in store.lanes("g")] == [("main", 7, 71)]


@pytest.mark.one_in(8)
@pytest.mark.parametrize("forks", PLACES[:-1])
@pytest.mark.parametrize("parent", PLACES[:-1])
def test_a_family_is_deleted_from_the_top_and_its_last_one_has_all_of_it(
    tiered: Tiered, hot: Hot, archive: Any, parent: str, forks: str
) -> None:
    make_family(tiered, hot, archive, parent)
    move(hot, archive, forks, "g")
    for run_id in ("r", "f"):
        assert tiered.delete_run(run_id, detach=True)
        assert seqs(tiered, "g") == ALL
    check_alone(tiered)
    check_alone(TieredCheckpointer(stranger(hot), archive))
    assert tiered.list_runs() == ["g"]
    drain(hot, archive)
    assert parked(hot) == {}
    check_alone(tiered)
    check_alone(archive)
    assert verify_run("g", hot=hot, sinks=[archive]).difference is None
    assert archive.check_integrity() == []
    assert tiered.append("g", make_events("g", 1), keys=["b"]).last_offset == 2
    with tiered.open_run("g") as run:
        assert run.emit("agent.progress").event.seq == 72


def test_a_run_that_was_a_fork_is_put_back_into_a_lost_redis(
    tiered: Tiered, hot: Hot, archive: Any, redis_backend: RedisBackend
) -> None:
    make_family(tiered, hot, archive, "hot")
    for run_id in ("r", "f"):
        tiered.delete_run(run_id, detach=True)
    drain(hot, archive)
    for name in redis_backend.key_names():
        redis_backend.raw.delete(name)
    again: Any = redis_backend.open()
    assert put_back(again, archive, "g", whole=True).outcome == "restored"
    check_alone(again)
    again.append("g", [make_event("g", 72)], keys=["new"])
    assert DrainWorker(again, [archive]).drain_once().parked == 0
    assert verify_run("g", hot=again, sinks=[archive]).difference is None


def test_a_truncated_run_lets_its_forks_go_in_redis_and_the_archive(
    tiered: Tiered, hot: Hot, archive: Any
) -> None:
    make_family(tiered, hot, archive, "hot")
    drain(hot, archive)
    tiered.save_snapshot("r", tiered.recover("r").state)
    tiered.truncate("r", before=4, detach=True)
    for _ in range(2):
        drain(hot, archive)
    assert parked(hot) == {}
    assert [item.offset for item in tiered.read("r")] == [4, 5]
    assert [item.offset for item in archive.read("r")] == [4, 5]
    assert seqs(tiered, "g") == seqs(archive, "g") == ALL
    assert info_of(tiered, "f").parent is None
    assert info_of(tiered, "g").parent == ("f", 5)
    assert archive.check_integrity() == []


def test_what_is_detached_in_redis_alone_a_worker_copies_into_every_archive(
    hot: Hot, archive: Any, tiered: Tiered
) -> None:
    make_family(tiered, hot, archive, "hot")
    assert DrainWorker(hot, [archive], trim="never").drain_once().parked == 0
    hot.append("r", make_events("r", 1, first=6))
    for run_id in ("r", "f"):
        assert hot.delete_run(run_id, detach=True)
    check_alone(hot)
    assert info_of(archive, "g").parent == ("f", 5)
    drain(hot, archive)
    check_alone(archive)
    for run_id in ("f", "r"):
        assert archive.delete_run(run_id)
    check_alone(tiered)
    assert namespace_of(hot).first_hot("g") is None


class _Forgetful(Hooked):
    """An archive to which nothing of some runs comes."""

    def __init__(self, inner: Any, run_ids: Sequence[str]) -> None:
        super().__init__(inner)
        self._run_ids = run_ids

    def write(self, batches: Sequence[RunBatch]) -> None:
        self._inner.write([batch for batch in batches if batch.header.run_id not in self._run_ids])


@pytest.mark.parametrize("parent", ["hot", "trimmed"])
def test_archives_without_the_parent_of_a_fork_have_all_of_it_by_those_from_which_that_comes(
    tiered: Tiered, hot: Hot, archive: Any, parent: str, tmp_path: Path
) -> None:
    with SQLiteCheckpointer(tmp_path / "other.db") as other:
        both = [archive, other]
        make_family(tiered, hot, archive, "hot")
        if parent == "trimmed":
            DrainWorker(hot, [_Forgetful(one, ["f", "g"]) for one in both]).drain_once()
            namespace_of(hot).unpark("g")
        away = ["f", "r"] if parent == "hot" else ["f"]
        DrainWorker(hot, [_Forgetful(one, away) for one in both], trim="never").drain_once()
        assert [one.run_info("f") for one in both] == [None, None]
        assert {info_of(one, "g").parent for one in both} == {("f", 5)}
        assert tiered.delete_run("f", detach=True)
        assert DrainWorker(hot, both).drain_once().parked == 0
        for store in (archive, other, tiered):
            check_alone(store)
        assert verify_run("g", hot=hot, sinks=both).difference is None


def test_what_a_worker_writes_late_of_a_fork_that_was_detached_holds_up_no_deletion(
    tiered: Tiered, hot: Hot, archive: Any
) -> None:
    """It had loaded the fork before, of which the archive had nothing: it shares no event, and has none itself."""
    tiered.append("r", make_events("r", 2))
    tiered.fork("r", "f", at=0)
    operations, late = operations_of(tiered), list[RunBatch]()

    def keep(batches: Sequence[RunBatch]) -> None:
        late.extend(batch for batch in batches if batch.header.run_id == "f")
        raise StoreUnavailable("the worker is slow")

    with suppress(StoreUnavailable):
        DrainWorker(hot, [Hooked(archive, write=keep)]).drain_once()
    assert late

    def detach(fork: str, of: str) -> Operation[None]:
        yield from operations.detach(fork, of)
        archive.write(late)
        late.clear()

    deleting = Stepped(tiered, without_forks(lambda: operations.delete_run("r"), detach))
    deleting.finish()
    assert deleting.error is None
    assert (archive.run_info("r"), hot.run_info("r")) == (None, None)
    namespace_of(hot).unpark(["f"])
    drain(hot, archive)
    assert info_of(archive, "f").parent is None
    assert verify_run("f", hot=hot, sinks=[archive]).is_sound


def test_a_lane_is_recovered_from_the_archive_whose_events_had_left_redis_before_its_fork_was_detached(
    tiered: Tiered, hot: Hot, archive: Any
) -> None:
    tiered.append("r", [make_event("r", 1, lane_id="a"), make_event("r", 1, lane_id="b")])
    drain(hot, archive)
    tiered.append("r", [make_event("r", 2, lane_id="a")])
    for fork, at in (("f", 2), ("g", 3)):
        tiered.fork("r", fork, at=at)
        drain(hot, archive, trim="never")
        tiered.append(fork, [make_event(fork, 9, lane_id="b")])
    assert tiered.delete_run("r", detach=True)
    for fork, offsets in (("f", [1]), ("g", [1, 3])):
        for store in (tiered, TieredCheckpointer(stranger(hot), archive)):
            assert [item.offset for item in store.recover(fork, lane_id="a").events] == offsets


def test_a_detached_fork_has_all_of_it_where_the_archive_has_yet_to_truncate_its_parent(
    tiered: Tiered, hot: Hot, archive: Any
) -> None:
    tiered.append("r", make_events("r", 4))
    drain(hot, archive)
    tiered.truncate("r", before=2)
    tiered.fork("r", "f", at=3)
    assert tiered.truncate("r", before=5, detach=True).before == 5
    assert seqs(tiered, "f") == [(2, 2), (3, 3)]
    drain(hot, archive)
    assert parked(hot) == {}
    assert seqs(archive, "f") == [(2, 2), (3, 3)]
    assert verify_run("f", hot=hot, sinks=[archive]).difference is None


def test_a_detached_fork_is_archived_though_it_was_truncated_further_than_the_archive_has_it(
    tiered: Tiered, hot: Hot, archive: Any
) -> None:
    tiered.append("r", make_events("r", 1))
    tiered.fork("r", "f")
    tiered.append("f", make_events("f", 1, first=2))
    drain(hot, archive)
    tiered.append("f", make_events("f", 3, first=3))
    tiered.truncate("f", before=5)
    assert tiered.delete_run("r", detach=True)
    drain(hot, archive)
    assert parked(hot) == {}
    assert seqs(archive, "f") == seqs(tiered, "f") == [(5, 5)]
    assert verify_run("f", hot=hot, sinks=[archive]).difference is None


def test_a_fork_of_a_fork_is_detached_where_the_archive_has_both_and_not_yet_the_run(
    tiered: Tiered, hot: Hot, archive: Any
) -> None:
    """The first fork has no event of its own: the archive has where it ends, and nothing of what leads there."""
    tiered.append("r", make_events("r", 2))
    assert namespace_of(hot).claim(None, 1, 1_000.0)
    tiered.fork("r", "f")
    tiered.fork("f", "g")
    drain(hot, archive)
    assert archive.run_info("r") is None
    assert tiered.delete_run("f", detach=True)
    assert seqs(archive, "g") == seqs(tiered, "g") == [(1, 1), (2, 2)]
    assert verify_run("g", hot=hot, sinks=[archive]).difference is None
