"""What is to be erased of a run that an archive has not is noted there, and is no run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runstream.model.archive_records import RunBatch, RunHeader
from runstream.model.erasures import ErasureNote, spans_of
from runstream.model.results import Cursor
from tests.stores.archive.sqlite.database import CODEC, START, chained
from tests.stores.archive.test_erasing import dying, eraser_of, is_sound, open_again, open_at, planted
from tests.support.archive_check import Archive
from tests.support.mortal import Killed
from tests.support.operations import operations_of
from tests.support.samples import make_event, make_events


@pytest.fixture(params=["sqlite", "jsonl"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    """An archive of either kind."""
    with closing(open_at(request.param, tmp_path / "archive")) as archive:
        yield archive


def test_what_is_noted_of_a_run_that_never_came_makes_no_run(archive: Archive) -> None:
    """A failover may have lost that run whole: the next one of its name is archived, and has what it has."""
    lost, run = RunHeader("r", START, identity=5), RunHeader("r", Cursor(0, 77))
    for note in (ErasureNote(5.0, spans_of([2])), ErasureNote(6.0, spans_of([3]))):
        eraser_of(archive).erase_offsets(lost, note)
    assert [note.text for note in eraser_of(archive).erasure_notes("r")] == ["2", "3"]
    assert (archive.position("r"), archive.run_info("r"), archive.load_latest("r")) == (None, None, None)
    assert (archive.list_runs(), list(operations_of(archive).run_ids())) == ([], [])
    assert operations_of(archive).header("r") is None
    is_sound(archive)
    records = [CODEC.encode_events("r", [make_event("r", seq)])[0].record for seq in (1, 2)]
    entries = chained("r", records, run.start)
    archive.write([RunBatch(run, run.start, entries, erasures_seen=0)])
    with closing(open_again(archive)) as again:
        assert [item.offset for item in again.read("r")] == [1, 2]
        assert eraser_of(again).erasure_notes("r") == []
        assert operations_of(again).header("r").start == run.start
        is_sound(again, "r")


def test_a_run_may_be_begun_by_hand_where_one_of_its_name_was_to_be_erased(archive: Archive) -> None:
    eraser_of(archive).erase_offsets(RunHeader("r", START), ErasureNote(5.0, spans_of([1])))
    archive.append("r", make_events("r", 2))
    with closing(open_again(archive)) as again:
        assert [item.offset for item in again.read("r")] == [1, 2]
        is_sound(again, "r")


def test_a_crash_as_the_run_begins_loses_nothing_of_what_was_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker brings that had loaded it before is written as erased, whoever was killed at what."""
    header = RunHeader("r", START)
    records = [CODEC.encode_events("r", [planted(seq)])[0].record for seq in (1, 2, 3)]
    batch = RunBatch(header, START, chained("r", records, START), erasures_seen=0)
    point, died, seen = 0, True, set()
    while died:
        point += 1
        directory, died = tmp_path / str(point), False
        with closing(open_at("jsonl", directory)) as archive:
            eraser_of(archive).erase_offsets(header, ErasureNote(5.0, spans_of([1, 3])))
            with monkeypatch.context() as patched:
                dying(patched, point)
                try:
                    archive.write([batch])
                except Killed:
                    died = True
        with closing(open_at("jsonl", directory)) as again:
            seen.add(again.position("r") is None)
            assert [note.text for note in eraser_of(again).erasure_notes("r")] == ["1,3"]
            assert [item.offset for item in again.read("r")] in ([], [2])
            again.write([batch])
            assert [item.offset for item in again.read("r")] == [2]
            is_sound(again, "r")
    assert seen == {True, False}
    assert point > 4
