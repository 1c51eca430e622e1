"""P9 at the server: settling moves nothing but what was proven, of this run, in every required archive."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from runstream import (
    ConfigurationError,
    DrainWorker,
    SQLiteCheckpointer,
)
from runstream.model.results import Cursor
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker import drain
from tests.drain.watched_sink import emit, hot_from
from tests.support.archive_check import Archive
from tests.support.drain_tools import Hot, ask, due, locations
from tests.support.kinds import on_every_server


def proven(hot: Hot, run_id: str, cursor: Cursor, trim: str = "archived") -> drain.Proven:
    (run,) = namespace_of(hot).load_runs([run_id])
    assert run is not None
    return drain.Proven(run.header, cursor, run.head.tokens, trim, None)


@on_every_server
def test_settling_does_nothing_where_redis_has_another_history(hot: Hot) -> None:
    """A place whose chain Redis does not have is not settled: nothing trimmed, mark and due as before."""
    emit(hot, "r", 10)
    last = Cursor.parse([item.cursor for item in hot.read("r")][-1])
    other = Cursor(last.offset - 2, last.chain)
    (settled,) = namespace_of(hot).settle([proven(hot, "r", other)], {})
    assert settled.outcome == "diverged"
    assert (hot_from(hot, "r"), list(due(hot))) == (1, ["r"])


@on_every_server
def test_settling_does_not_touch_another_run_of_the_same_name(hot: Hot) -> None:
    """A worker that proved a run which was deleted and made anew since then settles nothing."""
    emit(hot, "r", 10)
    stale = proven(hot, "r", Cursor.parse([item.cursor for item in hot.read("r")][-1]))
    hot.delete_run("r")
    emit(hot, "r", 10)
    (settled,) = namespace_of(hot).settle([stale], {})
    assert settled.outcome == "gone"
    assert (hot_from(hot, "r"), list(due(hot))) == (1, ["r"])


@on_every_server
def test_settling_an_old_place_again_moves_nothing_back(hot: Hot, archives: list[Archive]) -> None:
    """A repeated settle of a place before the mark leaves the mark where it is."""
    emit(hot, "r", 10)
    fifth = Cursor.parse([item.cursor for item in hot.read("r")][4])
    DrainWorker(hot, archives, trim="archived").drain_once()
    emit(hot, "r", 2, first=11)
    (settled,) = namespace_of(hot).settle([proven(hot, "r", fifth)], locations(archives))
    assert settled.outcome == "ok"
    info = hot.run_info("r")
    assert info is not None
    assert (info.archived_offset, info.first_hot, list(due(hot))) == (10, 11, ["r"])


@on_every_server
def test_settling_without_a_required_archive_is_refused(hot: Hot, archives: list[Archive]) -> None:
    """The partition's own set decides, whatever a worker believes."""
    emit(hot, "r", 4)
    DrainWorker(hot, archives).drain_once()
    emit(hot, "r", 4, first=5)
    last = Cursor.parse([item.cursor for item in hot.read("r")][-1])
    (settled,) = namespace_of(hot).settle([proven(hot, "r", last)], locations(archives[:1]))
    assert (settled.outcome, settled.detail) == ("archives", archives[1].location)
    assert hot_from(hot, "r") == 1


@on_every_server
def test_what_a_failover_forgot_is_required_again_before_anything_is_trimmed(
    hot: Hot, archives: list[Archive]
) -> None:
    """A worker whose requests go on over a failover does not learn that the new primary requires no archive."""
    emit(hot, "r", 4)
    worker = DrainWorker(hot, archives, trim="archived")
    worker.drain_once()
    emit(hot, "r", 4, first=5)
    ask(hot, "DEL", namespace_of(hot).keys.run("r").partition.archives)
    assert worker.drain_once().trimmed == 4
    assert namespace_of(hot).archives_of_run("r") == locations(archives)
    with pytest.raises(ConfigurationError, match="requires the archives"):
        DrainWorker(hot, archives[:1]).drain_once()


def test_a_worker_whose_archive_was_replaced_is_told_so(hot: Hot, tmp_path: Path) -> None:
    for path in (tmp_path / "a.db", tmp_path / "b.db"):
        with closing(SQLiteCheckpointer(path)) as archive:
            assert archive.archive_id
            if path.stem == "a":
                DrainWorker(hot, [archive]).drain_once()
    for path in tmp_path.glob("a.db*"):
        path.unlink()
    (tmp_path / "b.db").rename(tmp_path / "a.db")
    with (
        closing(SQLiteCheckpointer(tmp_path / "a.db")) as archive,
        pytest.raises(ConfigurationError, match=r"what is at sqlite:.*a\.db now is another archive"),
    ):
        DrainWorker(hot, [archive]).drain_once()


def test_a_worker_with_other_archives_is_refused(hot: Hot, archives: list[Archive], tmp_path: Path) -> None:
    """The first worker's archives are required from then on."""
    DrainWorker(hot, archives).drain_once()
    with closing(SQLiteCheckpointer(tmp_path / "another.db")) as another:
        for sinks in ([archives[0]], [another], [*archives, another]):
            with pytest.raises(ConfigurationError, match="requires the archives"):
                DrainWorker(hot, sinks).drain_once()
