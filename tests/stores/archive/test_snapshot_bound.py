"""An archive keeps a stated number of the snapshots that it saw."""

from __future__ import annotations

import json
import pickle
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import ConfigurationError, JSONLCheckpointer, connect
from tests.stores.archive.snapshot_tools import (
    KINDS,
    checkpoint,
    checkpoint_after,
    history,
    open_at,
    opened_again,
    step_of,
)
from tests.support.operations import operations_of


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def steps_kept(archive: Any, lane_id: str | None = None) -> list[int]:
    """The steps of the snapshots that it keeps of the run, or of a lane."""
    return [step for _, _, step in history(archive, lane_id=lane_id)]


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_no_more_than_the_latest_are_kept(kind: str, tmp_path: Path, keep: int) -> None:
    with closing(open_at(kind, tmp_path / "archive", keep_snapshots=keep)) as archive:
        checkpoint(archive, 20, lane_id="a")
        checkpoint(archive, 2, first=21, lane_id="b")
        left = list(range(21 - max(keep, 1), 21))  # the latest is there in any case
        for opened in (archive, pickle.loads(pickle.dumps(archive))):
            assert steps_kept(opened, "a") == left
            assert [step_of(opened.snapshot_at("r", at, lane_id="a")) for at in left] == left
            assert opened.snapshot_at("r", left[0] - 1, lane_id="a") is None
        assert steps_kept(archive, "b") == [21, 22][-max(keep, 1) :]
        assert step_of(archive.load_snapshot("r", lane_id="a")) == 20
        if isinstance(archive, JSONLCheckpointer):
            path = operations_of(archive)._logs.path / "r" / "snapshots.jsonl"
            count = path.read_bytes().count(b"\n") if path.exists() else 0
            assert count <= 2 * keep * 2  # of two lanes, twice as many


def test_an_archive_may_be_opened_with_another_bound(kind: str, tmp_path: Path) -> None:
    with closing(open_at(kind, tmp_path / "archive")) as archive:
        checkpoint(archive, 10)
        with closing(opened_again(archive, keep_snapshots=2)) as bounded:
            checkpoint_after(bounded, 11)
            assert steps_kept(bounded) == [10, 11]
        assert steps_kept(archive) == [10, 11]


def test_the_bound_is_an_option_of_the_urls_of_archives(kind: str, tmp_path: Path) -> None:
    url = f"{kind}:{tmp_path}/archive?keep_snapshots=2"
    with connect(url) as store:
        checkpoint(store, 5)
        assert steps_kept(store) == [4, 5]
    for wrong in (f"{kind}:{tmp_path}/archive?keep_snapshots=-1", f"{kind}:{tmp_path}/a?keep_snapshots=some"):
        with pytest.raises(ConfigurationError):
            connect(wrong)
    with pytest.raises(ConfigurationError, match="keep_snapshots"):
        connect("memory:?keep_snapshots=2")


def test_a_new_archive_keeps_a_stated_number(kind: str, tmp_path: Path) -> None:
    """Unless another was asked for when it was made: that one holds for whoever opens it and does not ask."""
    place = tmp_path / "archive"
    with closing(open_at(kind, place)) as archive:
        checkpoint(archive, 25)
        assert steps_kept(archive) == [*range(6, 26)]
        with closing(opened_again(archive, keep_snapshots="all")) as other:
            checkpoint_after(other, 26)
            assert steps_kept(other)[-21:] == [*range(6, 27)]
    for keep, left in ((3, 3), ("all", 25)):
        made = tmp_path / f"made-{keep}"
        with closing(open_at(kind, made, keep_snapshots=keep)) as archive:
            checkpoint(archive, 24)
            with closing(open_at(kind, made)) as other:
                checkpoint_after(other, 25)
                assert len(steps_kept(other)) == left


def test_an_archive_that_was_made_before_there_was_a_number_keeps_all(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "archive"
    open_at(kind, place).close()
    if kind == "sqlite":
        with closing(sqlite3.connect(place.with_suffix(".db"))) as connection, connection:
            for column in ("keep_snapshots", "checksum"):
                connection.execute(f"ALTER TABLE archive DROP COLUMN {column}")
    else:
        with closing(open_at(kind, place)) as archive:
            assert archive.archive_id
        about = json.loads((place / ".runstream.json").read_text())
        assert about.pop("keep_snapshots") == 20
        (place / ".runstream.json").write_text(json.dumps(about))
    for first in (1, 15):
        with closing(open_at(kind, place)) as archive:
            archive.recover("r")
            checkpoint(archive, 14, first=first)
            assert steps_kept(archive) == [*range(1, first + 14)]
    with closing(open_at(kind, place, keep_snapshots=2)) as archive:
        checkpoint_after(archive, 29)
        assert steps_kept(archive) == [28, 29]


def test_a_number_that_was_damaged_drops_nothing(tmp_path: Path) -> None:
    with closing(open_at("sqlite", tmp_path / "archive")) as archive:
        checkpoint(archive, 10)
    with closing(sqlite3.connect(tmp_path / "archive.db")) as connection, connection:
        connection.execute("UPDATE archive SET keep_snapshots = 4")
    with closing(open_at("sqlite", tmp_path / "archive")) as archive:
        checkpoint_after(archive, 11)
        assert steps_kept(archive) == [*range(1, 12)]
