"""A fork that is detached from its parent has all of it itself, whoever dies, writes or erases meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import DrainWorker, EventsArchived, RunHasForks
from runstream.codec.record import ERASED
from runstream.operations.erase_arguments import EraseOptions
from runstream.operations.run_forks import without_forks
from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import Namespace, namespace_of
from runstream.stores.redis.scripts import erasure_calls, fork_calls
from tests.stores.redis.forks.forking_tools import LENGTH, Stepped, fork, make_parent, noted_at
from tests.support.archive_check import Archive
from tests.support.backends import FakeBackend, info_of
from tests.support.drain_tools import Hot, open_hot
from tests.support.operations import operations_of
from tests.support.samples import make_event

AT = 4
STEPS = 24
ALL = [(offset, offset) for offset in range(1, AT + 1)] + [(AT + 1, 21), (AT + 2, 22)]


@pytest.fixture
def hot(fake: FakeBackend) -> Hot:
    """``p``, and a fork ``f`` of it with two events of its own."""
    store = open_hot(fake, partitions=2)
    make_parent(store)
    fork(store, "p", "f", AT)
    store.append("f", [make_event("f", 21), make_event("f", 22)], keys=["own", None])
    return store


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the fork has itself is copied entry by entry."""
    monkeypatch.setattr(fork_calls, "MOST_ENTRIES", 1)


def deleting(store: Hot) -> Stepped:
    """The deletion of ``p``, from which its forks are detached first."""
    operations = operations_of(store)
    return Stepped(store, without_forks(lambda: operations.delete_run("p"), operations.detach))


def stop(stepped: Stepped, count: int) -> None:
    for _ in range(count):
        if not stepped.is_over:
            stepped.step()


def check(store: Hot, more: list[tuple[int, int]] | None = None, erased: int = 0) -> None:
    """That the fork is what it was, as a run of its own, and proven."""
    found = [item for item in [*ALL, *(more or [])] if item[0] != erased]
    assert [(item.offset, item.event.seq) for item in store.read("f")] == found
    assert {item.event.run_id for item in store.read("f")} == {"f"}
    assert store.find("f", ["key-1", "key-3", "own", "new"]) == [1, 3, AT + 1, None]
    (lane,) = store.lanes("f")
    assert (lane.last_offset, lane.last_seq) == found[-1]
    if info_of(store, "f").parent is None:
        assert verify_run("f", hot=store).difference is None


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.one_in(6)
@pytest.mark.parametrize("count", range(STEPS))
def test_who_dies_while_detaching_leaves_a_fork_or_a_run_of_its_own(
    fake: FakeBackend, hot: Hot, count: int, is_lost: bool
) -> None:
    """And whoever deletes the parent again finishes it."""
    stepped = deleting(hot)
    stop(stepped, count)
    if is_lost and not stepped.is_over:
        stepped.request()
    other = open_hot(fake, partitions=2)
    check(other)
    other.delete_run("p", detach=True)
    check(other)
    assert info_of(other, "f").parent is None
    assert other.run_info("p") is None
    assert [name for name in fake.key_names() if ":refilled:" in name and fake.raw.ttl(name) < 0] == []


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.one_in(6)
@pytest.mark.parametrize("count", range(STEPS))
def test_what_is_appended_under_a_lease_while_it_is_detached_is_there(
    fake: FakeBackend, hot: Hot, count: int
) -> None:
    with hot.lease("f", owner="agent", ttl=600) as lease:
        stepped = deleting(open_hot(fake, partitions=2))
        stop(stepped, count)
        hot.append("f", [make_event("f", 23)], keys=["late"], lease=lease)
        stepped.finish()
        assert stepped.error is None
        hot.append("f", [make_event("f", 24)], lease=lease)
        assert hot.append("f", [make_event("f", 25)], keys=["key-2"], lease=lease).last_offset == 2
    check(hot, [(AT + 3, 23), (AT + 4, 24)])


@pytest.mark.one_in(6)
@pytest.mark.parametrize("count", range(STEPS))
def test_what_is_erased_of_the_parent_while_it_is_detached_is_gone(
    fake: FakeBackend, hot: Hot, count: int
) -> None:
    """Or the run is not there any more, or it is a run of its own by then, whose content is to be erased there."""
    stepped = deleting(open_hot(fake, partitions=2))
    stop(stepped, count)
    other = open_hot(fake, partitions=2)
    was_fork = "f" in noted_at(fake.raw, other)
    if other.run_info("p") is not None:
        other.erase("p", [2], drop_snapshots=True)
    else:
        was_fork = False
    stepped.finish()
    other.erasures("f")
    check(other, erased=2 if was_fork else 0)
    ((_, fields),) = fake.raw.xrange(namespace_of(other).keys.run("f").events, "2", "2")
    assert (fields == {b"e": ERASED}) == was_fork


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.one_in(6)
@pytest.mark.parametrize("count", range(STEPS))
def test_what_is_erased_of_the_fork_itself_while_it_is_detached_is_gone(
    fake: FakeBackend, hot: Hot, count: int
) -> None:
    """And comes back with no copy that was begun before."""
    stepped = deleting(open_hot(fake, partitions=2))
    stop(stepped, count)
    other = open_hot(fake, partitions=2)
    other.erase("f", [AT + 1], drop_snapshots=True)
    stepped.finish()
    assert stepped.error is None
    other.erasures("f")
    ((_, fields),) = fake.raw.xrange(namespace_of(other).keys.run("f").events, str(AT + 1), str(AT + 1))
    assert fields == {b"e": ERASED}
    check(other, erased=AT + 1)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("count", range(8))
def test_what_is_being_erased_of_the_fork_as_it_is_detached_is_gone_and_nothing_else(
    fake: FakeBackend, hot: Hot, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The copy without it that was begun before has not what is put in front of the fork."""
    monkeypatch.setattr(erasure_calls, "MOST_ENTRIES", 1)
    options = EraseOptions(drop_snapshots=True)
    other = open_hot(fake, partitions=2)
    stepped = Stepped(other, operations_of(other).erase("f", ((AT + 1, AT + 1),), options))
    stop(stepped, count)
    hot.delete_run("p", detach=True)
    stepped.finish()
    assert stepped.error is None
    ((_, fields),) = fake.raw.xrange(namespace_of(hot).keys.run("f").events, str(AT + 1), str(AT + 1))
    assert fields == {b"e": ERASED}
    check(open_hot(fake, partitions=2), erased=AT + 1)


def test_a_worker_that_archived_the_fork_before_trims_nothing_of_what_it_got(
    fake: FakeBackend, hot: Hot, archives: list[Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows the fork alone: what had been shared is archived by nobody yet."""
    worker = DrainWorker(hot, archives, trim="archived")
    namespace, settle = namespace_of(hot), Namespace.settle

    def settle_late(*args: Any) -> Any:
        monkeypatch.undo()
        open_hot(fake, partitions=2).delete_run("p", detach=True)
        return settle(*args)

    monkeypatch.setattr(Namespace, "settle", settle_late)
    worker.drain_once()
    check(hot)
    for _ in range(2):
        fake.raw.zadd(namespace.keys.run("f").partition.due, {"f": 0})
        assert worker.drain_once().parked == 0
    for archive in archives:
        assert [entry.offset for entry in archive.read_back("f", 1, AT + 2)] == list(range(1, AT + 3))
        assert archive.check_integrity() == []


def test_of_what_has_left_redis_only_a_store_with_the_archive_makes_a_copy(
    hot: Hot, archives: list[Archive]
) -> None:
    assert DrainWorker(hot, archives[:1], trim="archived").drain_once().parked == 0
    with pytest.raises(EventsArchived, match="use a tiered store"):
        hot.delete_run("p", detach=True)
    with pytest.raises(RunHasForks, match="detach=True"):
        hot.delete_run("p")
    assert info_of(hot, "f").parent == ("p", AT)


def test_what_is_put_in_front_of_a_fork_counts_as_trimmed_no_more(fake: FakeBackend, hot: Hot) -> None:
    """Where a worker has noted that nothing before its start is here."""
    fake.raw.hset(namespace_of(hot).keys.run("f").meta, "trimmed", AT)
    hot.delete_run("p", detach=True)
    check(hot)


def test_a_truncated_parent_goes_on_without_its_forks(hot: Hot) -> None:
    hot.save_snapshot("p", hot.recover("p").state)
    with pytest.raises(RunHasForks):
        hot.truncate("p", before=LENGTH)
    hot.truncate("p", before=LENGTH, detach=True)
    assert [item.offset for item in hot.read("p")] == [LENGTH]
    check(hot)


def test_a_detached_fork_is_forked_truncated_and_leased_like_any_run(hot: Hot) -> None:
    hot.delete_run("p", detach=True)
    for at in range(AT + 3):
        hot.fork("f", f"g{at}", at=at)
        assert [item.offset for item in hot.read(f"g{at}")] == list(range(1, at + 1))
        hot.delete_run(f"g{at}")
    hot.erase("f", [3], drop_snapshots=True)
    hot.truncate("f", before=3)
    assert [item.offset for item in hot.read("f")] == [4, 5, 6]
    assert hot.find("f", ["key-1"]) == [1]
    assert verify_run("f", hot=hot).difference is None
