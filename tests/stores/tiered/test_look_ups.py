"""P10 of look-ups: keys and offsets of one run, wherever its events are and while they move."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import (
    AcknowledgedWritesLost,
    ArchiveGap,
    ConfigurationError,
    DrainWorker,
    EventKind,
    SQLiteCheckpointer,
    TieredCheckpointer,
)
from tests.stores.tiered.tiers import Hot, Tiered, drain
from tests.support.operations import hooked
from tests.support.samples import make_event, make_events


def offsets_at(store: Any, offsets: list[int]) -> list[int]:
    """The offsets of what is given, each with the event that was appended there."""
    found = store.read_at("r", offsets)
    assert [item.event.seq for item in found] == offsets
    return [item.offset for item in found]


@pytest.fixture
def run(hot: Hot, archive: Any) -> None:
    """A run of ten events, of which Redis has the last four, and the archive all but the last two."""
    hot.append("r", make_events("r", 6), keys=["1", *[None] * 5])
    drain(hot, archive)
    hot.append("r", make_events("r", 2, first=7), keys=["7", None])
    drain(hot, archive, "never")
    hot.append("r", make_events("r", 2, first=9), keys=["9", None])


@pytest.mark.usefixtures("run")
def test_events_of_both_come_in_the_order_asked_for(tiered: Tiered) -> None:
    for offsets in ([9, 2, 7, 2], [1, 2], [10, 8], [*range(10, 0, -1)], []):
        assert offsets_at(tiered, offsets) == offsets
    assert tiered.find("r", ["9", "x", "1", "7"]) == [9, None, 1, 7]
    with pytest.raises(ConfigurationError, match="no event at offset 11: it has 1 to 10"):
        tiered.read_at("r", [2, 11])


@pytest.mark.usefixtures("run")
def test_events_that_leave_redis_meanwhile_come_from_the_archive(tiered: Tiered, hot: Hot, archive: Any) -> None:
    tiered = type(tiered)(hooked(hot, read_at=lambda *_: drain(hot, archive)), archive)
    assert offsets_at(tiered, [3, 8, 10]) == [3, 8, 10]


@pytest.mark.usefixtures("run")
def test_a_run_that_only_the_archive_has_is_looked_up_there(tiered: Tiered, hot: Hot, archive: Any) -> None:
    hot.save_event(make_event("r", 11, kind=EventKind.RUN_FINISHED))
    DrainWorker(hot, [archive], retire_after_seconds=0, forget_after_seconds=0).drain_once()
    assert hot.run_info("r") is None
    assert tiered.find("r", ["1", "x", "9"]) == [1, None, 9]
    assert offsets_at(tiered, [11, 1]) == [11, 1]
    assert tiered.find("nowhere", ["1"]) == [None]
    with pytest.raises(ConfigurationError, match="'nowhere' has no event"):
        tiered.read_at("nowhere", [1])


@pytest.mark.usefixtures("run")
def test_keys_that_redis_has_lost_with_their_events_are_not_taken_for_new(
    tiered: Tiered, hot: Hot, archive: Any
) -> None:
    """The archive has them: a step that was recorded is not made again."""
    drain(hot, archive, "never")
    hot.delete_run("r")
    hot.append("r", make_events("r", 1))
    with pytest.raises(AcknowledgedWritesLost):
        tiered.find("r", ["9"])


@pytest.mark.usefixtures("run")
def test_an_archive_that_lacks_what_left_redis_is_told_so(hot: Hot, tmp_path: Any) -> None:
    with SQLiteCheckpointer[Any, Any](tmp_path / "other.db") as other:
        tiered = TieredCheckpointer(hot, other)
        assert tiered.find("r", ["1", "9"]) == [1, 9]
        with pytest.raises(ArchiveGap):
            tiered.read_at("r", [2, 9])
        assert offsets_at(tiered, [9, 8]) == [9, 8]
