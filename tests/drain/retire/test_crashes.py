"""Workers that die while they retire, and all that may happen to a run in any order."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    DrainReport,
    DrainWorker,
    EventsArchived,
    StoreUnavailable,
)
from runstream.stores.redis.namespace import namespace_of
from tests.drain.retire.retiring_tools import Hot, ended, open_hot, retire_all
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import Backend, FakeBackend, RedisBackend
from tests.support.drain_tools import open_archives
from tests.support.line import Line
from tests.support.mortal import Killed, Mortal
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import eventually


@pytest.mark.exhaustive
@pytest.mark.one_in(6)
@pytest.mark.parametrize("first", range(1, 7))
def test_a_worker_that_dies_at_any_point_of_retiring_loses_nothing(
    make_backend: Callable[[str], Backend], tmp_path: Path, first: int
) -> None:
    """Every exchange, before and after; then another worker finishes: all is archived once, and retired."""
    point, died = first - 6, True
    while died:
        point += 6
        backend = make_backend("fake")
        assert isinstance(backend, RedisBackend)
        hot, victim = open_hot(backend, partitions=2), open_hot(backend)
        acknowledged = {"a": ended("a"), "b": ended("b", 3), "c": make_events("c", 2)}
        for run_id, events in acknowledged.items():
            hot.append(run_id, events, snapshot=make_state(run_id, status=None), keys=[None] * len(events))
        directory = tmp_path / str(point)
        directory.mkdir()
        archives = open_archives(directory)
        Mortal(point).exchanges_of(victim)
        died = False
        try:
            DrainWorker(victim, archives, claim_seconds=0.05, retire_after_seconds=0).drain_once()
        except Killed:
            died = True
        late = make_event("b", 4)
        hot.save_event(late)
        acknowledged["b"].append(late)
        worker = DrainWorker(hot, archives, retire_after_seconds=0)
        eventually(partial(_finish, worker, hot, ["a", "b"]))
        check_archives(archives, acknowledged)
        assert hot.recover("c").offset == 2
        for archive in archives:
            archive.close()
    print(f"every third of {point} points")
    assert point > 15


def _finish(worker: DrainWorker, hot: Hot, run_ids: list[str]) -> bool:
    """Whether nothing is left to do, and these runs are retired."""
    if worker.drain_once() != DrainReport():
        return False
    infos = [hot.run_info(run_id) for run_id in run_ids]
    runs = namespace_of(hot).load_runs(run_ids)
    return all(info is not None and info.first_hot == info.last_offset + 1 for info in infos) and not any(
        run is None or run.head.tokens for run in runs
    )


@pytest.mark.exhaustive
@pytest.mark.one_in(12, exhaustively=5)
@pytest.mark.parametrize("seed", range(12))
def test_whatever_comes_in_whatever_order_is_archived_once(  # noqa: C901 - one branch for each of what comes
    fake: FakeBackend, archives: list[Archive], seed: int
) -> None:
    """Appends by two writers, snapshots, drains, retirements and resends, at random."""
    choose = random.Random(seed)
    writers, hot = [open_hot(fake), open_hot(fake)], open_hot(fake)
    lines = [Line(writer) for writer in writers]
    acknowledged: dict[str, list[Any]] = {"a": [], "b": []}
    for _ in range(120):
        run_id = choose.choice("ab")
        at = choose.randrange(2)
        writer, line = writers[at], lines[at]
        known = acknowledged[run_id]
        what = choose.choice(["append", "append", "end", "lost", "snapshot", "lane", "drain", "retire", "retire"])
        new = ended(run_id, choose.randint(2, 4), first=len(known) + 1)
        if what == "append":
            new = new[:-1]
        if what in {"append", "end"}:
            assert writer.append(run_id, new)[:2] == (len(known) + 1, len(known) + len(new))
            known += new
        elif what == "lost":
            line.cut(choose.choice(["request", "reply"]))
            with pytest.raises(StoreUnavailable):
                writer.append(run_id, new)
            if choose.random() < 0.5:
                retire_all(hot, archives)
            assert writer.append(run_id, new)[:2] == (len(known) + 1, len(known) + len(new))
            known += new
        elif what in {"snapshot", "lane"}:
            try:
                status = choose.choice([None, "running", "completed"])
                state = make_state(run_id, status=status, current_step=len(known))
                writer.save_snapshot(run_id, state, lane_id="main" if what == "lane" else None)
            except EventsArchived:
                pass
        elif what == "drain":
            trim: Any = choose.choice(["covered", "archived", "never"])
            assert DrainWorker(hot, archives, trim=trim).drain_once().parked == 0
        else:
            assert retire_all(hot, archives).parked == 0
    for run_id, events in acknowledged.items():
        hot.append(run_id, ended(run_id, 2, first=len(events) + 1)[1:])
    assert retire_all(hot, archives).parked == 0
    for run_id, events in acknowledged.items():
        for archive in archives:
            assert [item.event for item in archive.read(run_id)][:-1] == events
        info = hot.run_info(run_id)
        assert info is not None
        assert info.first_hot == info.last_offset + 1
