"""Forks where an archive is required that is not at hand: it keeps what they share, until each has that itself."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import ConfigurationError, DrainWorker, EventKind, EventsArchived, RunHasForks
from runstream.repair.verify import verify_run
from runstream.stores.tiered import TieredCheckpointer
from tests.stores.tiered.tiers import Hot, Tiered
from tests.support.archive_check import Archive
from tests.support.backends import info_of
from tests.support.drain_tools import due, parked
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import eventually

FORGETS = {"retire_after_seconds": 0.0, "forget_after_seconds": 0.0}


@pytest.fixture(params=[0, 1], ids=["sqlite at hand", "jsonl at hand"])
def pair(request: pytest.FixtureRequest, archives: list[Archive]) -> list[Archive]:
    """The archive at hand, and the other one; both are required."""
    number: int = request.param
    return archives[number:] + archives[:number]


def drain(hot: Hot, archives: list[Archive], **options: Any) -> None:
    worker = DrainWorker(hot, archives, trim="archived", claim_seconds=0.01, **options)
    assert worker.drain_once().parked == 0


def offsets(store: Any, run_id: str) -> list[int]:
    return [item.offset for item in store.read(run_id)]


def make_fork(hot: Hot, pair: list[Archive], *, ends: bool) -> tuple[Tiered, Tiered]:
    """``r`` of five events and its fork ``f`` of three and two; stores with the archive at hand, and the other."""
    hot.append("r", make_events("r", 5, lane_id="early"), keys=["a", "b", "c", "d", "e"])
    hot.fork("r", "f", at=3)
    kind = EventKind.RUN_FINISHED if ends else EventKind.AGENT_PROGRESS
    hot.append("f", [make_event("f", 50), make_event("f", 51, kind=kind)])
    drain(hot, pair)
    return TieredCheckpointer(hot, pair[0]), TieredCheckpointer(hot, pair[1])


def leave_to_the_other(hot: Hot, pair: list[Archive]) -> tuple[Tiered, Tiered]:
    """``f`` is only in the other archive in the end."""
    stores = make_fork(hot, pair, ends=True)
    for _ in range(2):
        drain(hot, pair, **FORGETS)
    assert hot.run_info("f") is None
    pair[0].delete_run("f")
    return stores


def test_what_a_fork_shares_stays_in_an_archive_that_alone_has_it(hot: Hot, pair: list[Archive]) -> None:
    """The truncation is pending there, and carried out once the fork has a copy."""
    at_hand, other = leave_to_the_other(hot, pair)
    at_hand.truncate("r", before=3)
    drain(hot, pair)
    assert [offsets(archive, "r") for archive in pair] == [[3, 4, 5], [1, 2, 3, 4, 5]]
    assert offsets(pair[1], "f") == [1, 2, 3, 4, 5]
    (erasure,) = hot.erasures("r")
    (reason,) = (place.reason for place in erasure.places if place.place == pair[1].location)
    assert "'f' at 3" in reason
    assert "detach=True" in reason
    hot.append("r", make_events("r", 1, first=6))
    with pytest.raises(RunHasForks) as refused:
        other.truncate("r", before=3)
    assert refused.value.forks == ("f",)
    other.truncate("r", before=3, detach=True)

    def is_truncated() -> bool:
        drain(hot, pair)
        return offsets(pair[1], "r") == [3, 4, 5, 6]

    eventually(is_truncated)
    assert offsets(other, "f") == offsets(pair[1], "f") == [1, 2, 3, 4, 5]
    assert (parked(hot), due(hot)) == ({}, {})
    eventually(lambda: all(one.done for one in hot.erasures("r")))
    assert all(verify_run(run_id, sinks=[pair[1]]).is_sound for run_id in ("r", "f"))


def test_a_run_stays_in_an_archive_that_alone_has_a_fork_of_it(hot: Hot, pair: list[Archive]) -> None:
    at_hand, other = leave_to_the_other(hot, pair)
    assert at_hand.delete_run("r")
    assert offsets(other, "f") == [1, 2, 3, 4, 5]
    with pytest.raises(RunHasForks):
        other.delete_run("r")
    assert other.delete_run("f")
    assert other.delete_run("r")


def test_a_fork_is_detached_that_another_archive_gives_a_copy_of_its_own(hot: Hot, pair: list[Archive]) -> None:
    """What both have has left Redis; the parent stays in the other archive as long as the fork reads it there."""
    at_hand, other = make_fork(hot, pair, ends=False)
    assert at_hand.delete_run("r", detach=True)
    assert (hot.run_info("r"), info_of(hot, "f").parent) == (None, None)
    assert offsets(at_hand, "f") == offsets(other, "f") == [1, 2, 3, 4, 5]
    with pytest.raises(EventsArchived):  # nobody could recover from it
        other.append("f", (), snapshot=make_state("f"), lane_id="early")
    for tiered in (at_hand, other):
        assert [item.offset for item in tiered.recover("f", lane_id="early").events] == [1, 2, 3]
    with pytest.raises(RunHasForks):
        other.delete_run("r")
    hot.append("f", [make_event("f", 52)])
    drain(hot, pair)
    assert (parked(hot), due(hot)) == ({}, {})
    assert other.delete_run("r")
    for archive in pair:
        assert offsets(archive, "f") == [1, 2, 3, 4, 5, 6]
        assert archive.find("f", ["a", "c", "d"]) == [1, 3, None]
        assert verify_run("f", hot=hot, sinks=[archive]).is_sound


def test_a_fork_that_the_other_archive_does_not_have_is_not_detached(hot: Hot, pair: list[Archive]) -> None:
    hot.append("r", make_events("r", 5))
    drain(hot, pair)
    at_hand, other = TieredCheckpointer(hot, pair[0]), TieredCheckpointer(hot, pair[1])
    at_hand.fork("r", "f", at=3)
    at_hand.append("f", [make_event("f", 50)])
    with pytest.raises(ConfigurationError, match="let a drain worker archive it"):
        at_hand.delete_run("r", detach=True)
    assert info_of(hot, "f").parent == ("r", 3)
    drain(hot, pair)
    assert at_hand.delete_run("r", detach=True)
    drain(hot, pair)
    assert other.delete_run("r")
    assert all(offsets(store, "f") == [1, 2, 3, 4] for store in (at_hand, other, *pair))
