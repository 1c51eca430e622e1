"""An archive knows a fork by its identity: forks at one offset have their start in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runstream.model.archive_records import RunBatch, RunHeader
from runstream.model.errors import CorruptRecordError, HistoryDiverged, RunHasForks
from runstream.model.results import Cursor
from runstream.stores.archive.jsonl import JSONLCheckpointer
from runstream.stores.capabilities import MakesWhole, archive_of, part_of
from tests.support.archive_check import Archive
from tests.support.samples import make_events


@pytest.fixture(params=[0, 1], ids=["sqlite", "jsonl"])
def archive(request: pytest.FixtureRequest, archives: list[Archive]) -> Any:
    """An archive of each kind, with a run ``r`` of three events and a fork ``f`` of it at 2."""
    archive: Any = archives[request.param]
    archive.append("r", make_events("r", 3))
    archive.fork("r", "f", at=2)
    return archive


def header_of(archive: Any, run_id: str = "f") -> RunHeader:
    header = archive_of(archive).header(run_id)
    assert header is not None
    return header


def batch(header: RunHeader) -> RunBatch:
    return RunBatch(header, header.start, (), ())


def test_another_fork_of_that_name_at_the_same_offset_is_refused(archive: Any) -> None:
    header = header_of(archive)
    archive.write([batch(header)])
    for other in (replace(header, identity=header.identity + 1), replace(header, identity=0, parent_identity=0)):
        with pytest.raises(HistoryDiverged, match="another run of the name"):
            archive.write([batch(other)])
    assert header_of(archive) == header


def test_a_fork_gets_no_copy_for_another_run_of_its_name(archive: Archive) -> None:
    """That one was detached, in Redis, and has that name since this one was deleted there."""
    header, whole = header_of(archive), part_of(archive, MakesWhole)
    assert whole is not None
    base = Cursor(0, 0)
    other = replace(header, identity=header.identity + 1, parent=None, parent_identity=0, base=base)
    assert whole.lacks_shared(other) is None
    whole.make_whole(other, ())
    assert header_of(archive) == header
    mine = replace(header, parent=None, parent_identity=0, base=header_of(archive, "r").before_first)
    assert whole.lacks_shared(mine) is not None
    whole.make_whole(mine, ())
    assert header_of(archive).parent is None


def test_a_fork_that_was_deleted_does_not_come_back_by_a_drain_and_one_that_was_made_anew_comes(
    archive: Any,
) -> None:
    header = header_of(archive)
    assert archive_of(archive).delete_history("f", header.creation)
    with pytest.raises(HistoryDiverged, match="deleted"):
        archive.write([batch(header)])
    anew = replace(header, identity=header.identity + 1)
    archive.write([batch(anew)])
    assert header_of(archive).identity == anew.identity
    assert [item.event.seq for item in archive.read("f")] == [1, 2]


def test_a_fork_of_a_run_that_was_deleted_and_made_anew_is_not_read_as_one_of_that(archive: Any) -> None:
    header = header_of(archive)
    archive.write([batch(replace(header, run_id="g", parent_identity=header.parent_identity + 1))])
    with pytest.raises(HistoryDiverged, match="made anew"):
        list(archive.read("g"))
    assert [fork.run_id for fork in archive_of(archive).forks_of("r")] == ["f"]
    assert [fork.run_id for fork in archive_of(archive).forks_of("r", header.parent_identity + 1)] == ["g"]


def test_a_run_is_not_deleted_from_an_archive_that_has_a_fork_of_it(archive: Any) -> None:
    with pytest.raises(RunHasForks):
        archive_of(archive).delete_history("r", None)
    assert archive_of(archive).delete_history("f", None)
    assert archive_of(archive).delete_history("r", None)


def test_a_log_whose_header_was_damaged_is_not_read_without_what_it_shares(tmp_path: Path) -> None:
    """A row of SQLite has its own checksum."""
    with JSONLCheckpointer[Any, Any](tmp_path) as store:
        store.append("r", make_events("r", 3))
        store.fork("r", "f", at=2)
        store.append("f", make_events("f", 1, first=9))
    path = tmp_path / "f" / "events.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"parent_identity"', b'"parent_identitz"', 1))
    with JSONLCheckpointer[Any, Any](tmp_path) as again, pytest.raises(CorruptRecordError):
        list(again.read("f"))


def test_a_cursor_at_the_offset_of_the_fork_is_the_parent_s(archive: Any) -> None:
    start = header_of(archive).start
    assert list(archive.read("f", str(start))) == []
    with pytest.raises(HistoryDiverged):
        list(archive.read("f", str(Cursor(start.offset, start.chain + 1))))
