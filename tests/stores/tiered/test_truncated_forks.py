"""Forks of truncated runs: what went is in the states alone, and no fork begins without those that there are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from runstream import CorruptRecordError, DrainWorker, EventKind, EventsArchived
from runstream.stores.tiered import TieredCheckpointer
from tests.stores.redis.forks.forking_tools import Stepped, forking
from tests.stores.tiered.tiers import Hot, Tiered, drain
from tests.support.backends import FakeBackend
from tests.support.drain_tools import open_hot
from tests.support.operations import hooked, session_of
from tests.support.samples import make_event, make_events, make_state


@pytest.fixture
def hot(fake: FakeBackend) -> Hot:
    return open_hot(fake, partitions=2)


@pytest.fixture
def archive(archives: list[Any]) -> Any:
    return archives[0]


def retire(hot: Hot, archive: Any, **forget: float) -> None:
    worker = DrainWorker(hot, [archive], retire_idle_seconds=0.0, retire_after_seconds=0.0, **forget)  # type: ignore[arg-type]
    for _ in range(3):
        assert worker.drain_once().parked == 0


def begun(store: Any, run_id: str, lane_id: str | None = None) -> tuple[int, int, list[int]]:
    """What is recovered: the step of the state, up to where that goes, and the offsets of the events after it."""
    found = store.recover(run_id, lane_id=lane_id)
    assert found.state is not None
    return found.state.current_step, found.offset, [item.offset for item in found.events]


@pytest.mark.parametrize("goes_on", [False, True], ids=["retired", "back again"])
def test_redis_alone_forks_no_truncated_run_without_a_state_that_has_left_it(
    hot: Hot, archive: Any, tiered: Tiered, goes_on: bool
) -> None:
    hot.append("r", [make_event("r", seq, lane_id="a") for seq in (1, 2, 3)])
    hot.recover("r")
    states = {None: make_state("r", current_step=7), "a": make_state("r", current_step=8)}
    hot.append("r", (), snapshots=states)
    hot.truncate("r", before=4)
    retire(hot, archive)
    if goes_on:
        tiered.append("r", [make_event("r", 4, lane_id="a")])
    for at in (None, 3):
        with pytest.raises(EventsArchived, match="was truncated"):
            hot.fork("r", "f", at=at)
    tiered.fork("r", "f")
    for store in (hot, tiered):
        assert begun(store, "f") == (7, 3, [4] if goes_on else [])
        assert begun(store, "f", "a") == (8, 3, [4] if goes_on else [])
    retire(hot, archive)
    with pytest.raises(EventsArchived, match="was truncated"):  # the run that it comes from was
        hot.fork("f", "g")
    tiered.fork("f", "g")
    assert begun(tiered, "g")[:2] == (7, 3)


def test_nor_without_an_earlier_state_which_a_later_one_has_replaced(
    hot: Hot, archive: Any, tiered: Tiered
) -> None:
    hot.append("r", make_events("r", 2), snapshot=make_state("r", current_step=2))
    hot.truncate("r", before=3)
    hot.append("r", make_events("r", 1, first=3))
    drain(hot, archive, "covered")
    hot.append("r", make_events("r", 1, first=4), snapshot=make_state("r", current_step=4))
    with pytest.raises(EventsArchived, match="was truncated"):
        hot.fork("r", "f", at=3)
    tiered.fork("r", "f", at=3)
    assert begun(hot, "f") == (2, 2, [3])


def test_a_fork_takes_the_state_of_what_the_run_has_from_another_one(hot: Hot) -> None:
    hot.append("r", make_events("r", 2), snapshot=make_state("r", current_step=2))
    hot.truncate("r", before=3)
    hot.append("r", make_events("r", 3, first=3))
    hot.fork("r", "f")
    hot.recover("f")
    hot.append("f", make_events("f", 1, first=6), snapshot=make_state("f", current_step=6))
    hot.fork("f", "g", at=4)
    assert begun(hot, "g") == (2, 2, [3, 4])


def _saved_again(hot: Hot, archive: Any) -> None:
    drain(hot, archive, "never")
    hot.append("r", make_events("r", 1, first=5), snapshot=make_state("r", current_step=5))


def _made_anew(hot: Hot, archive: Any) -> None:
    TieredCheckpointer(hot, archive).delete_run("r")
    hot.append("r", make_events("r", 4), snapshot=make_state("r", current_step=40))


@pytest.mark.parametrize(
    ("change", "step"),
    [
        pytest.param(_saved_again, 3, id="saved again"),
        pytest.param(partial(retire, forget_after_seconds=0.0), None, id="forgotten"),
        pytest.param(_made_anew, 40, id="made anew"),
    ],
)
def test_what_becomes_of_a_run_while_it_is_forked_is_seen(
    hot: Hot, archive: Any, change: Callable[[Hot, Any], None], step: int | None
) -> None:
    """The archive was asked before that: it had nothing of the state then, or that of a run that is gone."""
    hot.append("r", make_events("r", 3), snapshot=make_state("r", current_step=3))
    hot.truncate("r", before=4)
    hot.append("r", [make_event("r", 4, kind=EventKind.RUN_FINISHED)])
    if change is _made_anew:
        drain(hot, archive, "never")
    changes = iter([change])

    def once(*_: Any) -> None:
        for each in changes:
            each(hot, archive)

    tiered = TieredCheckpointer(hooked(hot, fork_brought=once), archive)
    if step is None:
        with pytest.raises(EventsArchived, match="runstream restore"):
            tiered.fork("r", "f")
        assert tiered.run_info("f") is None
    else:
        tiered.fork("r", "f", at=4)
        assert begun(tiered, "f")[0] == step


def test_a_fork_at_the_end_of_a_run_has_the_state_that_is_saved_as_it_is_made(hot: Hot) -> None:
    for count in range(5):
        run_id, fork = f"r{count}", f"f{count}"
        hot.append(run_id, make_events(run_id, 3), snapshot=make_state(run_id, current_step=3))
        hot.truncate(run_id, before=4)
        stepped = Stepped(hot, forking(hot, run_id, fork))
        for _ in range(count):
            stepped.step()
        hot.append(run_id, make_events(run_id, 1, first=4), snapshot=make_state(run_id, current_step=4))
        stepped.finish()
        assert stepped.error is None
        assert begun(hot, fork)[0] in (3, 4)


def test_a_run_whose_snapshot_was_removed_is_not_forked_without_it(
    fake: FakeBackend, hot: Hot, tiered: Tiered
) -> None:
    hot.append("r", make_events("r", 3), snapshot=make_state("r"))
    fake.raw.delete(session_of(hot).keys.run("r").snapshot(None))
    for store in (hot, tiered):
        with pytest.raises(CorruptRecordError, match="the snapshot was removed"):
            store.fork("r", "f")
