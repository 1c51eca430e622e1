"""P9, the last copy: what leaves Redis is in every archive still, however long ago it was read back there."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import DrainWorker, EventKind, JSONLCheckpointer, RedisCheckpointer, SQLiteCheckpointer
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import RedisBackend
from tests.support.drain_tools import first_hot, open_hot, parked
from tests.support.samples import make_event, make_events, make_state

Hot = RedisCheckpointer[Any, Any]


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    return open_hot(redis_backend)


@pytest.fixture(params=["sqlite", "jsonl"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where an archive of either kind is."""
    return tmp_path / ("archive.db" if request.param == "sqlite" else "archive")


def open_archive(place: Path) -> Archive:
    return SQLiteCheckpointer(place) if place.suffix else JSONLCheckpointer(place)


def remove(place: Path, offset: int) -> None:
    """Somebody deletes an event of run ``r``, one row or line."""
    if place.suffix:
        with closing(sqlite3.connect(place)) as connection, connection:
            statement = "DELETE FROM events WHERE run_id = 'r' AND offset = ?"
            assert connection.execute(statement, (offset,)).rowcount == 1
        return
    log = place / "r" / "events.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    del lines[offset]  # the first one is the header
    log.write_bytes(b"".join(lines))


def save(hot: Hot) -> None:
    """A snapshot that covers all: the run may be trimmed."""
    hot.recover("r")
    hot.save_snapshot("r", make_state("r"))


def append(hot: Hot) -> None:
    """More events, and a snapshot that covers all."""
    hot.append("r", make_events("r", 3, first=9))
    save(hot)


LATER: dict[str, Callable[[Hot], None]] = {"a snapshot": save, "events and a snapshot": append}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("offset", [1, 4, 7])
@pytest.mark.parametrize("later", LATER)
def test_what_was_deleted_in_an_archive_is_not_trimmed(hot: Hot, place: Path, later: str, offset: int) -> None:
    hot.append("r", make_events("r", 8))
    hot.append("other", make_events("other", 8))
    with closing(open_archive(place)) as archive:
        worker = DrainWorker(hot, [archive])
        assert worker.drain_once().trimmed == 0
        remove(place, offset)
        LATER[later](hot)
        hot.recover("other")
        hot.save_snapshot("other", make_state("other"))
        assert worker.drain_once().trimmed == 8  # of the other one
        assert first_hot(hot, "r") == 1
        assert f"event {offset}" in parked(hot)["r"]
        assert "nothing was trimmed" in parked(hot)["r"]


@pytest.mark.parametrize("trim", ["covered", "archived", "never"])
def test_what_was_deleted_in_an_archive_is_not_retired(hot: Hot, place: Path, trim: Any) -> None:
    hot.append("r", [*make_events("r", 7), make_event("r", 8, kind=EventKind.RUN_FINISHED)])
    with closing(open_archive(place)) as archive:
        DrainWorker(hot, [archive], trim="never").drain_once()
        remove(place, 4)
        worker = DrainWorker(hot, [archive], trim=trim, retire_after_seconds=0)
        report = worker.drain_once()
        assert (report.retired, report.trimmed, report.parked) == (0, 0, 1)
        assert first_hot(hot, "r") == 1
        assert "event 4" in parked(hot)["r"]


def copied(place: Path, to: Path) -> None:
    if place.suffix:
        shutil.copy(place, to)
    else:
        shutil.copytree(place, to)


@pytest.mark.parametrize("ends", [False, True])
def test_an_archive_that_is_put_back_from_an_older_copy_catches_up(hot: Hot, place: Path, ends: bool) -> None:
    """All is hot; what the copy lacks is archived again before anything leaves Redis."""
    older = place.with_name("older")
    events = make_events("r", 4)
    hot.append("r", events)
    with closing(open_archive(place)) as archive:
        DrainWorker(hot, [archive]).drain_once()
    copied(place, older)
    events += [*make_events("r", 3, first=5), make_event("r", 8, kind=EventKind.RUN_FINISHED)]
    hot.append("r", events[4:])
    with closing(open_archive(place)) as archive:
        DrainWorker(hot, [archive]).drain_once()
    if place.suffix:
        place.unlink()
    else:
        shutil.rmtree(place)
    older.rename(place)
    with closing(open_archive(place)) as archive:
        if not ends:
            hot.append("r", late := make_events("r", 1, first=9))
            events += late
            save(hot)
        worker = DrainWorker(hot, [archive], retire_after_seconds=0 if ends else None, park_seconds=0)
        trimmed = sum(worker.drain_once().trimmed for _ in range(3))
        assert trimmed == len(events)
        check_archives([archive], {"r": events})
