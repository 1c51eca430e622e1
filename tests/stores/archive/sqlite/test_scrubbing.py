"""What was erased leaves a SQLite file once there is room for it: until then it is pending, all else is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runstream import SQLiteCheckpointer
from runstream.repair.verify import verify_run
from tests.support.disks import DISKS, SmallDisk, small_disk
from tests.support.samples import make_event, make_state

PLANTED = "wound-7f3a"
ROOM_BYTES = 60_000  # for the step that erases, and not for the file a second time
EVENTS = 400


@pytest.fixture(params=DISKS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(request.param, tmp_path / "small") as disk:
        yield disk


def opened(disk: SmallDisk) -> SQLiteCheckpointer[Any, Any]:
    return SQLiteCheckpointer(disk.path / "runs.db")


def is_held(disk: SmallDisk) -> bool:
    return any(PLANTED.encode() in path.read_bytes() for path in disk.path.glob("runs.db*"))


def check(store: SQLiteCheckpointer[Any, Any], last: int) -> None:
    """Everything is there but for what was erased."""
    assert [item.offset for item in store.read("r", on_corrupt="skip")] == [*range(1, 5), *range(6, last + 1)]
    loaded = store.load_latest("other")
    assert loaded is not None
    assert loaded.current_step == 7
    assert store.check_integrity() == []
    assert verify_run("r", sinks=[store]).difference is None


@pytest.mark.one_in(2)
def test_on_a_full_disk_nothing_is_lost_and_the_erasure_is_pending_until_there_is_room(disk: SmallDisk) -> None:
    """Erased it is at once; what the file has left of it goes as the file is written anew."""
    with opened(disk) as store:
        texts = [f"It was {PLANTED}. " if seq == 5 else "x" * 4000 for seq in range(1, EVENTS + 1)]
        store.save_events([make_event("r", seq, payload={"text": text}) for seq, text in enumerate(texts, 1)])
        store.save_snapshot("other", make_state("other", current_step=7))
    with opened(disk) as store:
        disk.fill(but=ROOM_BYTES)
        erasure = store.erase("r", [5])
        for each in (erasure, *store.erasures("r")):
            (place,) = each.places
            assert not place.done
            assert "room" in place.reason
            assert place.command.startswith("make room, then")
        check(store, EVENTS)
        store.save_event(make_event("r", EVENTS + 1))
    with opened(disk) as store:  # as another process finds it
        check(store, EVENTS + 1)
        assert not store.erasures("r")[0].places[0].done
        disk.make_room()
        assert store.erasures("r")[0].places[0].done
        assert not is_held(disk)
        check(store, EVENTS + 1)
