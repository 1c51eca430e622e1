"""Forks in Redis and what a worker does with them and their parents: archive, trim, retire, forget, come back."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import DrainWorker, EventKind, EventsArchived, RunHasForks
from runstream.drain.erasing import Erasing
from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker.drain import Proven
from tests.drain.retire.retiring_tools import ended, open_hot, retire_all
from tests.support.archive_check import Archive, check_drained
from tests.support.backends import FakeBackend, info_of
from tests.support.drain_tools import Hot, locations
from tests.support.samples import make_event, make_events, make_state


@pytest.fixture
def hot(fake: FakeBackend) -> Hot:
    """A store with a run ``p`` of five events, a snapshot that covers three, and a fork ``f`` of it at four."""
    store = open_hot(fake, partitions=2)
    store.append("p", make_events("p", 3))
    store.save_snapshot("p", make_state("p"))
    store.append("p", make_events("p", 2, first=4))
    store.fork("p", "f", at=4)
    return store


def drain(hot: Hot, archives: list[Archive], **options: Any) -> Any:
    return DrainWorker(hot, archives, **options).drain_once()


def offsets(store: Any, run_id: str) -> list[int]:
    items = list(store.read(run_id))
    assert all(item.event.run_id == run_id for item in items)
    return [item.offset for item in items]


@pytest.mark.parametrize("trim", ["covered", "archived"])
def test_a_fork_is_archived_with_its_own_events_alone(hot: Hot, archives: list[Archive], trim: Any) -> None:
    """Its header and snapshots first, at once; then what it gets. Each archive gives the whole of it."""
    assert drain(hot, archives, trim=trim).snapshots == 2
    check_drained(hot, archives)
    hot.append("f", make_events("f", 3, first=50), keys=["a", "b", "c"])
    drain(hot, archives, trim=trim)
    check_drained(hot, archives)
    for archive in archives:
        assert offsets(archive, "f") == list(range(1, 8))
        assert info_of(archive, "f").parent == ("p", 4)
    assert verify_run("f", hot=hot, sinks=archives).difference is None


def test_what_a_fork_shares_is_archived_with_its_parent(hot: Hot, archives: list[Archive]) -> None:
    """Redis alone says so, with the first offset that it has of the fork; the archives have all of it."""
    hot.append("f", make_events("f", 2, first=50))
    drain(hot, archives, trim="archived")
    for read in (lambda: list(hot.read("f")), lambda: hot.recover("f"), lambda: hot.read_at("f", [2])):
        with pytest.raises(EventsArchived) as raised:
            read()
        assert raised.value.run_id == "f"
    hot.append("f", make_events("f", 1, first=60))
    assert [item.offset for item in hot.read("f", after=6)] == [7]
    assert hot.find("f", ["none"]) == [None]


def test_a_parent_is_retired_and_not_forgotten_as_long_as_it_has_forks(hot: Hot, archives: list[Archive]) -> None:
    """Its tombstone stays, and what says that it has forks; when they are gone, it goes."""
    hot.append("p", ended("p", 1, first=9))
    options: dict[str, Any] = {"retire_after_seconds": 0, "forget_after_seconds": 0}
    report = drain(hot, archives, **options)
    assert (report.retired, report.forgotten) == (1, 0)
    with pytest.raises(RunHasForks):
        hot.delete_run("p")
    assert drain(hot, archives, **options).forgotten == 0
    hot.append("f", make_events("f", 2, first=50))
    assert info_of(hot, "f").last_offset == 6
    assert hot.fork("p", "g").parent == ("p", 6)  # of a tombstone, at its end
    assert hot.delete_run("f")
    assert hot.delete_run("g")
    drain(hot, archives, **options)
    assert drain(hot, archives, **options).forgotten + info_gone(hot, "p") >= 1
    assert hot.run_info("p") is None


def info_gone(hot: Hot, run_id: str) -> int:
    return int(hot.run_info(run_id) is None)


def test_a_fork_is_retired_and_comes_back(hot: Hot, archives: list[Archive]) -> None:
    """With its own offsets, and as the fork that it was."""
    hot.append("f", ended("f", 2, first=50))
    assert retire_all(hot, archives).retired == 1
    assert info_of(hot, "f").parent == ("p", 4)
    hot.append("f", [make_event("f", 52, kind=EventKind.RUN_STARTED)])
    drain(hot, archives)
    assert verify_run("f", hot=hot, sinks=archives).difference is None
    assert offsets(archives[0], "f") == list(range(1, 8))
    with pytest.raises(RunHasForks):
        hot.delete_run("p")


def test_a_fork_that_is_forgotten_no_longer_holds_its_parent(hot: Hot, archives: list[Archive]) -> None:
    """It is in its archives then, which know themselves whose fork it is."""
    hot.append("f", ended("f", 2, first=50))
    options: dict[str, Any] = {"retire_after_seconds": 0, "forget_after_seconds": 0}
    drain(hot, archives, **options)
    drain(hot, archives, **options)
    assert hot.run_info("f") is None
    assert hot.delete_run("p")


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_truncated_stays_until_those_have_it_that_are_no_forks_any_more(
    hot: Hot, archives: list[Archive], order: int
) -> None:
    """In the archives ``f`` is a fork still, as the worker comes to ``p`` first."""
    drain(hot, archives, trim="never")
    hot.save_snapshot("p", hot.recover("p").state)
    hot.truncate("p", before=3, detach=True)
    parts = DrainWorker(hot, archives[::order])._parts
    (erased,) = Erasing(parts).carry_out(["p"]).values()
    assert (erased.refusal, erased.hindrance, erased.number) == ("", "", 1)
    for archive in archives:
        assert (offsets(archive, "p"), offsets(archive, "f")) == ([3, 4, 5], [1, 2, 3, 4])
        assert info_of(archive, "f").parent is None
    drain(hot, archives)
    check_drained(hot, archives)


def test_a_late_worker_never_settles_another_fork_of_the_same_name_and_offset(
    fake: FakeBackend, hot: Hot, archives: list[Archive]
) -> None:
    """Forked, deleted and forked again: the starts are equal, the identities are not."""
    (first,) = namespace_of(hot).load_runs(["f"])
    assert first is not None
    assert hot.delete_run("f")
    hot.fork("p", "f", at=4)
    before = fake.footprint()
    late = Proven(first.header, first.head.last, first.head.tokens, "archived", None)
    (settled,) = namespace_of(hot).settle([late], locations(archives))
    assert settled.outcome == "gone"
    namespace_of(hot).park(first.header, "late", 60)
    assert fake.footprint() == before


def test_what_was_seen_and_covered_of_a_fork_is_nothing_of_the_next_one(fake: FakeBackend, hot: Hot) -> None:
    """A writer that knew the first one covers nothing of the second, and a snapshot of its says so."""
    hot.append("f", make_events("f", 2, first=50))
    assert hot.recover("f").offset == 3
    other = open_hot(fake, partitions=2)
    assert other.delete_run("f")
    other.fork("p", "f", at=4)
    other.append("f", make_events("f", 3, first=70))
    hot.save_snapshot("f", make_state("f"))
    recovered = open_hot(fake, partitions=2).recover("f")
    assert [item.event.seq for item in recovered.events] == [1, 2, 3, 4, 70, 71, 72]
    assert [item.event.seq for item in hot.read("f")] == [1, 2, 3, 4, 70, 71, 72]
