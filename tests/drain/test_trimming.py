"""What is archived and still in Redis: why, and that it leaves Redis when another way to trim is chosen."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from runstream import ConfigurationError, DrainWorker, EventsArchived, RunState
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.admin.held import why_held
from runstream.stores.redis.operations.worker.held import Held
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hot, due, emit, first_hot, open_archives, open_hot, parked, running
from tests.support.kinds import on_every_server
from tests.support.samples import make_event
from tests.support.servers import eventually


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    return open_hot(redis_backend, partitions=4)


@pytest.fixture
def fake_hot(fake: RedisBackend) -> Hot:
    return open_hot(fake, partitions=4)


@contextmanager
def closing_all(archives: list[Archive]) -> Iterator[list[Archive]]:
    yield archives
    for archive in archives:
        archive.close()


@pytest.fixture
def archives(tmp_path: Path) -> Iterator[list[Archive]]:
    with closing_all(open_archives(tmp_path)) as made:
        yield made


def held(hot: Hot) -> dict[str, Held]:
    return {one.run_id: one for one in namespace_of(hot).held_runs().runs}


def why(hot: Hot, *trims: str) -> dict[str, str]:
    return {run_id: why_held(one, trims) for run_id, one in held(hot).items()}


def save(hot: Hot, run_id: str, lane_id: str | None = None) -> None:
    hot.recover(run_id, lane_id=lane_id)
    hot.append(run_id, [], snapshot=RunState(run_id=run_id), lane_id=lane_id)


def fill(hot: Hot) -> dict[str, Any]:
    """A run that a snapshot covers in part, one without any, and one of two lanes."""
    acknowledged: dict[str, Any] = {"some": emit(hot, "some", 6)}
    save(hot, "some")
    acknowledged["some"] += emit(hot, "some", 4, first=7)
    acknowledged["none"] = emit(hot, "none", 5)
    acknowledged["lanes"] = [make_event("lanes", seq, lane_id=lane) for seq in (1, 2) for lane in ("a", "b")]
    hot.save_events(acknowledged["lanes"])
    save(hot, "lanes", "a")
    return acknowledged


FIRST_HOT = {
    "never": {"some": 1, "none": 1, "lanes": 1},
    "covered": {"some": 7, "none": 1, "lanes": 2},
    "archived": {"some": 11, "none": 6, "lanes": 5},
}


# -- why ---------------------------------------------------------------------------------------------


def test_why_something_is_archived_and_still_in_redis(fake_hot: Hot, archives: list[Archive]) -> None:
    hot = fake_hot
    fill(hot)
    assert held(hot) == {}, "nothing is archived yet"
    DrainWorker(hot, archives).drain_once()
    assert {run_id: (one.events, one.covered) for run_id, one in held(hot).items()} == {
        "some": (4, 0),
        "none": (5, 0),
        "lanes": (3, 0),
    }
    reasons = {
        "some": "the run's snapshot covers it up to 6",
        "none": "no snapshot covers it",
        "lanes": "lane 'b' never checkpointed",
    }
    assert why(hot, "covered") == why(hot) == reasons
    assert set(why(hot, "archived").values()) == {"a worker is about to look at it again, and trims it"}
    save(hot, "lanes", "b")
    emit(hot, "lanes", 1, first=9)
    hot.append("lanes", [make_event("lanes", 3, lane_id="b"), make_event("lanes", 3, lane_id="a")])
    DrainWorker(hot, archives).drain_once()
    assert why(hot)["lanes"] == "lane 'main' never checkpointed"
    save(hot, "lanes", "main")
    DrainWorker(hot, archives).drain_once()
    assert why(hot)["lanes"] == "the snapshot of lane 'b' covers it up to 5"


def test_that_the_workers_trim_nothing_is_a_reason(fake_hot: Hot, archives: list[Archive]) -> None:
    hot = fake_hot
    fill(hot)
    DrainWorker(hot, archives, trim="never").drain_once()
    assert why(hot, "never")["some"] == "the workers trim nothing (--trim never)"
    assert why(hot, "never", "covered")["some"] == "a worker is about to look at it again, and trims it"
    assert why(hot)["some"] == "no worker reports that would trim it"
    assert why(hot, "never")["none"] == "no snapshot covers it"


# -- another way to trim -----------------------------------------------------------------------------


CHANGES = [("never", "covered"), ("never", "archived"), ("covered", "archived")]


@pytest.mark.one_in(5)
@on_every_server
@pytest.mark.parametrize("change", CHANGES, ids="-".join)
def test_what_was_settled_leaves_redis_by_the_trim_that_is_chosen_later(
    hot: Hot, archives: list[Archive], change: tuple[Any, Any]
) -> None:
    before, after = change
    acknowledged = fill(hot)
    DrainWorker(hot, archives, trim=before).drain_once()
    assert {run_id: first_hot(hot, run_id) for run_id in acknowledged} == FIRST_HOT[before]
    assert due(hot) == {}
    assert DrainWorker(hot, archives, trim="never").drain_once().trimmed == 0
    assert DrainWorker(hot, archives, trim=after).drain_once().parked == 0
    assert {run_id: first_hot(hot, run_id) for run_id in acknowledged} == FIRST_HOT[after]
    assert due(hot) == {}
    check_archives(archives, acknowledged)
    assert DrainWorker(hot, archives, trim=before).drain_once().trimmed == 0, "and narrower again: it is gone"


def test_a_worker_that_runs_finds_it_in_its_idle_time(fake_hot: Hot, archives: list[Archive]) -> None:
    """Beside one that trims less."""
    hot = fake_hot
    acknowledged = fill(hot)
    old = DrainWorker(hot, archives, trim="never", poll_seconds=0.01)
    old.drain_once()
    with running(old, DrainWorker(hot, archives, trim="archived", poll_seconds=0.01)):
        eventually(lambda: {run_id: first_hot(hot, run_id) for run_id in acknowledged} == FIRST_HOT["archived"])
    check_archives(archives, acknowledged)


@pytest.mark.one_in(5)
@on_every_server
def test_named_runs_are_trimmed_at_once(hot: Hot, archives: list[Archive]) -> None:
    """Others stay as they are; what was not archived yet is archived first."""
    acknowledged = fill(hot)
    DrainWorker(hot, archives, trim="never").drain_once()
    acknowledged["some"] += emit(hot, "some", 2, first=11)
    report = DrainWorker(hot, archives, trim="archived").drain_runs(["some", "none", "never-was"])
    assert (report.events, report.trimmed, report.parked) == (2, 17, 0)
    assert {run_id: first_hot(hot, run_id) for run_id in acknowledged} == {"some": 13, "none": 6, "lanes": 1}
    assert due(hot) == {}
    check_archives(archives, acknowledged)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("way", ["sweep", "named"])
@pytest.mark.parametrize("broken", [0, 1])
def test_what_an_archive_has_lost_since_is_not_trimmed(
    fake_hot: Hot, archives: list[Archive], tmp_path: Path, way: str, broken: int
) -> None:
    """It was proven once, and is looked at again: the run is parked, and Redis keeps all of it."""
    hot = fake_hot
    emit(hot, "r", 5)
    DrainWorker(hot, archives, trim="never").drain_once()
    for archive in archives:
        archive.close()
    if broken:
        path = tmp_path / "archive" / "r" / "events.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    else:
        with closing(sqlite3.connect(tmp_path / "archive.db")) as connection, connection:
            connection.execute("DELETE FROM events WHERE offset = 3")
    with closing_all(open_archives(tmp_path)) as reopened:
        worker = DrainWorker(hot, reopened, trim="archived")
        report = worker.drain_once() if way == "sweep" else worker.drain_runs(["r"])
    assert (report.trimmed, report.parked, list(parked(hot))) == (0, 1, ["r"])
    assert len(hot.list_events("r")) == 5


def test_nothing_is_trimmed_without_a_required_archive(fake_hot: Hot, archives: list[Archive]) -> None:
    hot = fake_hot
    emit(hot, "r", 5)
    DrainWorker(hot, archives, trim="never").drain_once()
    with pytest.raises(ConfigurationError, match="requires the archives"):
        DrainWorker(hot, archives[:1], trim="archived").drain_runs(["r"])
    assert first_hot(hot, "r") == 1


def test_the_last_sweep_tells_what_is_held_and_by_what(fake_hot: Hot, archives: list[Archive]) -> None:
    """What it lets leave Redis is not counted."""
    hot = fake_hot
    fill(hot)
    assert DrainWorker(hot, archives).progress.held is None
    worker = DrainWorker(hot, archives, trim="never")
    worker.drain_once()
    assert worker.progress.held == {"snapshot": 10, "no snapshot": 5, "lane": 4}
    worker = DrainWorker(hot, archives)
    worker.drain_once()
    assert worker.progress.held == {"no snapshot": 5}
    worker._sweep._next_page = 0.0
    worker.drain_once()
    assert worker.progress.held == {"snapshot": 4, "no snapshot": 5, "lane": 3}


# -- what is said is what is done --------------------------------------------------------------------


@pytest.mark.one_in(16)
@pytest.mark.parametrize("seed", range(32))
def test_what_is_said_to_be_trimmable_is_what_is_trimmed(
    fake_hot: Hot, archives: list[Archive], seed: int
) -> None:
    """Of histories of lanes and snapshots by chance, whatever was trimmed before."""
    hot, dice = fake_hot, random.Random(seed)
    before, after = dice.choice(CHANGES)
    seq = 0
    for _ in range(dice.randrange(1, 12)):
        lane = dice.choice(["a", "b", None])
        if dice.random() < 0.6:
            count = dice.randrange(1, 4)
            hot.save_events([make_event("r", seq + n, lane_id=lane or "main") for n in range(1, count + 1)])
            seq += count
        elif hot.run_info("r") is not None:
            with suppress(EventsArchived):  # a lane that is recovered from the archive alone by now
                save(hot, "r", lane)
        if dice.random() < 0.3:
            DrainWorker(hot, archives, trim=before).drain_once()  # type: ignore[arg-type] # one of them
    DrainWorker(hot, archives, trim=before).drain_once()  # type: ignore[arg-type] # one of them
    said = sum(one.trimmable(after) for one in held(hot).values())
    worker = DrainWorker(hot, archives, trim=after)  # type: ignore[arg-type] # one of them
    assert worker.drain_runs(hot.list_runs()).trimmed == said
    assert sum(one.trimmable(after) for one in held(hot).values()) == 0
