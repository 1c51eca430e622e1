"""What is erased is in no file of an archive, comes back with no worker, and is finished after any crash."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runstream import HistoryDiverged, JSONLCheckpointer, SQLiteCheckpointer
from runstream.codec.archive_entries import archive_entry
from runstream.model.archive_records import ArchiveSnapshot, Position, RunBatch, RunHeader
from runstream.model.erasures import ErasureNote, spans_of
from runstream.model.results import Cursor
from runstream.repair.verify import verify_run
from runstream.stores.archive.durable_files import sync_directory
from runstream.stores.archive.jsonl import replaced_log
from runstream.stores.archive.sqlite import erasing
from runstream.stores.capabilities import ErasesContent, HoldsForeign, part_of
from runstream.testing.simulation.durable_files import DurableFiles
from tests.stores.archive.sqlite.database import CODEC, START, chained
from tests.support.archive_check import Archive
from tests.support.backends import latest
from tests.support.mortal import Killed
from tests.support.operations import operations_of
from tests.support.samples import make_event, make_events, make_state

PLANTED = "wound-7f3a"
TEXT = f"It was {PLANTED} that nobody is to read. "


@pytest.fixture(params=["sqlite", "jsonl"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    """An archive of either kind."""
    with closing(open_at(request.param, tmp_path / "archive")) as archive:
        yield archive


def open_at(kind: str, path: Path) -> Archive:
    return SQLiteCheckpointer[Any, Any](path) if kind == "sqlite" else JSONLCheckpointer[Any, Any](path)


def place_of(archive: Archive) -> Path:
    return Path(archive.location.partition(":")[2])


def open_again(archive: Archive) -> Archive:
    return open_at(archive.location.partition(":")[0], place_of(archive))


def files_of(archive: Archive) -> list[Path]:
    place = place_of(archive)
    found = place.rglob("*") if place.is_dir() else place.parent.glob(f"{place.name}*")
    return sorted(path for path in found if path.is_file())


def holding(archive: Archive, text: str = PLANTED) -> list[str]:
    """The names of the archive's files that have a text in them, in any of their bytes."""
    return [path.name for path in files_of(archive) if text.encode() in path.read_bytes()]


def eraser_of(archive: Archive) -> ErasesContent:
    eraser = part_of(archive, ErasesContent)
    assert eraser is not None
    return eraser


def is_sound(archive: Archive, *run_ids: str) -> None:
    assert archive.check_integrity() == []
    for run_id in run_ids:
        assert verify_run(run_id, sinks=[archive]).difference is None


def planted(seq: int, size: int = 1, **fields: Any) -> Any:
    return make_event("r", seq, payload={"text": TEXT * size}, **fields)


@pytest.mark.parametrize("size", [1, 300], ids=["in a page", "over many pages"])
def test_no_byte_of_it_is_left_in_any_file(archive: Archive, size: int) -> None:
    """Nor in what was freed or moved before, in earlier and latest snapshots, and in the log."""
    for seq in range(1, 41):
        archive.append("r", [planted(seq, size) if seq in {7, 20, 40} else make_event("r", seq)], keys=[f"k{seq}"])
        if seq in {8, 9, 30}:
            archive.recover("r")
            archive.save_snapshot("r", make_state("r", data={"seen": TEXT * size, "n": seq}))
            archive.append("r", [], snapshots={"main": make_state("r", data={"lane": TEXT * size, "n": seq})})
    archive.append("other", make_events("other", 50))
    archive.recover("r")
    assert holding(archive)
    erasure = archive.erase(
        "r",
        where=lambda event: PLANTED in str(event.payload),
        snapshots={None: make_state("r", data={"n": 1}), "main": make_state("r", data={"n": 2})},
    )
    assert (erasure.done, erasure.spans) == (True, ((7, 7), (20, 20), (40, 40)))
    assert holding(archive) == []
    with closing(open_again(archive)) as again:
        assert [item.offset for item in again.read("r")] == [*range(1, 7), *range(8, 20), *range(21, 40)]
        assert again.find("r", ["k7", "k40"]) == [7, 40]
        assert [len(list(again.snapshot_history("r", lane_id=lane))) for lane in (None, "main")] == [1, 1]
        assert (latest(again, "r").data, len(list(again.read("other")))) == ({"n": 1}, 50)
        is_sound(again, "r", "other")
        assert again.erasures("r") == [erasure]
    assert holding(archive) == []


def test_no_byte_of_what_was_truncated_is_left(archive: Archive) -> None:
    for seq in range(1, 31):
        archive.append("r", [planted(seq) if seq < 20 else make_event("r", seq)], keys=["k" if seq == 3 else None])
        if seq in {5, 25}:
            archive.recover("r")
            archive.save_snapshot("r", make_state("r", data={"n": seq, "seen": TEXT if seq == 5 else ""}))
    assert archive.truncate("r", before=20).done
    assert holding(archive) == []
    with closing(open_again(archive)) as again:
        assert [item.offset for item in again.read("r")] == list(range(20, 31))
        assert again.find("r", ["k"]) == [3]
        assert [one.offset for one in again.snapshot_history("r")] == [25]
        assert again.snapshot_at("r", 24) is None
        assert again.append("r", make_events("r", 1, first=31)).first_offset == 31
        is_sound(again, "r")
        again.erase("r", [22], drop_snapshots=True)
        is_sound(again, "r")


def test_a_record_that_does_not_read_is_erased_from_the_quarantine(archive: Archive) -> None:
    records = [CODEC.encode_events("r", make_events("r", 1))[0].record, f"\x01{TEXT}".encode()]
    entries = chained("r", [*records, records[0]], START)
    archive.write([RunBatch(RunHeader("r", START), START, entries)])
    assert archive.erase("r", [2]).done
    assert list(archive.quarantine()) == []
    assert holding(archive) == []
    assert [item.offset for item in archive.read("r")] == [1, 3]
    is_sound(archive, "r")


def test_an_event_that_a_branch_has_as_well_is_erased_there(archive: Archive) -> None:
    """It was appended to the run again: there it has another offset, and no key."""
    events = [planted(1, lane_id="x"), make_event("r", 2), make_event("r", 3)]
    archive.append("r", [events[1], events[0], events[2]])
    entries = list(operations_of(archive).read_back("r", 1, 3))
    start = operations_of(archive).header("r").start
    name = f"r~2-{entries[1].chain}"
    theirs = [
        entry._replace(data=(entry.data or "").replace('"run_id":"r"', f'"run_id":"{name}"')) for entry in entries
    ]
    snapshots = [ArchiveSnapshot(None, 2, 1, "branch", f'{{"run_id":"{name}","data":{{"t":"{TEXT}"}}}}')]
    header = RunHeader(name, start, parent=("r", 0))
    archive.write([RunBatch(header, start, theirs[:2], snapshots)])
    archive.append("r~other", make_events("r~other", 1))
    assert archive.erase("r", [2]).done
    assert holding(archive) == []
    assert [item.offset for item in archive.read(name)] == [1]
    assert archive.load_snapshot(name) is None
    is_sound(archive, "r", name, "r~other")


def test_no_late_worker_brings_it_back(archive: Archive) -> None:
    """Neither an event nor a snapshot that it loaded before, though the archive did not have these offsets yet."""
    header = RunHeader("r", START)
    records = [
        CODEC.encode_events("r", [planted(seq) if seq in {2, 4} else make_event("r", seq)]) for seq in range(1, 6)
    ]
    entries = chained("r", [encoded[0].record for encoded in records], START)
    dirty = ArchiveSnapshot(None, 4, 1, "dirty", f'{{"run_id":"r","data":{{"t":"{TEXT}"}}}}')
    seen = archive.position("r")
    note = ErasureNote(5.0, spans_of([2, 4]))
    eraser_of(archive).erase_offsets(header, note)
    eraser_of(archive).erase_offsets(header, note)
    archive.write([RunBatch(header, START, entries[:3], [dirty], erasures_seen=seen.erasures if seen else 0)])
    position = archive.position("r")
    assert position is not None
    assert (position.cursor, position.snapshots, position.erasures) == (entries[2].cursor, {}, 1)
    archive.write([RunBatch(header, entries[2].cursor, entries[3:], erasures_seen=0)])
    clean = dirty._replace(token="clean", data='{"run_id":"r"}')
    archive.write([RunBatch(header, entries[-1].cursor, (), [clean], erasures_seen=1)])
    assert eraser_of(archive).where_erased().done
    assert holding(archive) == []
    assert [item.offset for item in archive.read("r")] == [1, 3, 5]
    assert archive.load_snapshot("r") is not None
    assert eraser_of(archive).erasure_notes("r") == [note]
    is_sound(archive, "r")


def test_a_worker_erases_what_the_archive_has_and_spares_the_snapshots_that_are_clean(archive: Archive) -> None:
    header = RunHeader("r", START)
    entries = chained("r", [CODEC.encode_events("r", [planted(seq)])[0].record for seq in range(1, 4)], START)
    dirty, clean = (
        ArchiveSnapshot(lane, 3, 1, token, '{"run_id":"r"}') for lane, token in (("a", "dirty"), ("b", "clean"))
    )
    archive.write([RunBatch(header, START, entries, [dirty, clean])])
    eraser_of(archive).erase_offsets(header, ErasureNote(1.0, spans_of([1, 2, 3])), ["clean"])
    assert archive.position("r") == Position(entries[2].cursor, {"b": "clean"}, erasures=1)
    assert eraser_of(archive).where_erased().done
    assert holding(archive) == []
    for other in (replace(header, start=Cursor(0, 7)), replace(header, identity=7)):
        with pytest.raises(HistoryDiverged):
            eraser_of(archive).erase_offsets(other, ErasureNote(1.0, spans_of([1])))
        with pytest.raises(HistoryDiverged):
            eraser_of(archive).truncate_history(other, ErasureNote(1.0, (), 2), entries[0].cursor)
    with pytest.raises(HistoryDiverged):
        eraser_of(archive).truncate_history(header, ErasureNote(1.0, (), 2), Cursor(1, 5))


@pytest.mark.parametrize("has", [0, 2, 5])
def test_a_worker_truncates_an_archive_that_is_as_far_behind_or_ahead(archive: Archive, has: int) -> None:
    """It goes on from the base, and the history before it does not come back."""
    header = RunHeader("r", START)
    entries = chained(
        "r", [CODEC.encode_events("r", [make_event("r", seq)])[0].record for seq in range(1, 8)], START
    )
    if has:
        archive.write([RunBatch(header, START, entries[:has])])
    base, note = entries[3].cursor, ErasureNote(1.0, (), 5)
    for _ in range(2):
        eraser_of(archive).truncate_history(header, note, base)
    header = replace(header, base=base)
    for after in (max(has, 4), 4, 4):
        archive.write([RunBatch(header, entries[after - 1].cursor, entries[after:])])
    archive.write([RunBatch(header, START, entries[:4])])
    assert [item.offset for item in archive.read("r")] == [5, 6, 7]
    with closing(open_again(archive)) as again:
        assert operations_of(again).header("r").base == base
        info = again.run_info("r")
        assert info is not None
        assert (info.first_hot, info.last_offset) == (5, 7)
        is_sound(again, "r")


def test_a_run_that_begins_later_is_written_to_a_new_archive(archive: Archive) -> None:
    entries = chained(
        "r", [CODEC.encode_events("r", [make_event("r", seq)])[0].record for seq in range(1, 8)], START
    )
    header = RunHeader("r", START, base=entries[3].cursor)
    archive.write([RunBatch(header, entries[3].cursor, entries[4:])])
    assert [item.offset for item in archive.read("r")] == [5, 6, 7]
    assert operations_of(archive).header("r") == replace(operations_of(archive).header("r"), base=header.base)
    is_sound(archive, "r")


def test_a_run_that_was_deleted_does_not_come_back_with_a_late_erasure(archive: Archive) -> None:
    archive.append("r", make_events("r", 2))
    header = operations_of(archive).header("r")
    operations_of(archive).delete_history("r", header.creation)
    eraser_of(archive).erase_offsets(header, ErasureNote(1.0, spans_of([1])))
    eraser_of(archive).truncate_history(header, ErasureNote(1.0, (), 2), Cursor(1, 5))
    assert archive.list_runs() == []
    assert archive.position("r") is None
    assert list(eraser_of(archive).erasure_notes("r")) == []


def test_what_was_erased_stays_so_when_a_branch_is_cut_off(archive: Archive) -> None:
    archive.append("r", [make_event("r", 1), planted(2), make_event("r", 3), make_event("r", 4)])
    archive.truncate("r", before=2)
    archive.erase("r", [2])
    archive.append("r", make_events("r", 2, first=5))
    header = operations_of(archive).header("r")
    third = next(item for item in archive.read("r") if item.offset == 3)
    last = archive.position("r")
    assert last is not None
    operations_of(archive).cut_back(header, Position(Cursor.parse(third.cursor)), last.cursor)
    assert [item.offset for item in archive.read("r")] == [3]
    assert [note.text for note in eraser_of(archive).erasure_notes("r")] == ["<2", "2"]
    assert operations_of(archive).header("r").base == header.base
    is_sound(archive, "r")


def test_a_reader_that_holds_the_log_makes_it_pending_until_it_has_finished(tmp_path: Path) -> None:
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "runs.db", busy_timeout_seconds=0.05)) as archive:
        archive.append("r", [planted(1), make_event("r", 2)])
        with closing(sqlite3.connect(archive.db_path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM events").fetchone()
            (place,) = archive.erase("r", [1]).places
            assert (place.done, bool(place.command)) == (False, True)
            assert "log" in place.reason
            assert [erasure.done for erasure in archive.erasures("r")] == [False]
            assert holding(archive)
        assert [erasure.done for erasure in archive.erasures("r")] == [True]
        assert holding(archive) == []


_STEPS = ("open", "write", "fsync", "replace", "unlink", "ftruncate")


def dying(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let the process die before the thing that it does to a file for the ``at``-th time."""
    left = [at]

    def mortal(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] <= 0:
                raise Killed
            return original(*args, **options)

        return step

    for name in _STEPS:
        monkeypatch.setattr(os, name, mortal(getattr(os, name)))


def carry_out(archive: Archive, how: str) -> Any:
    if how == "erased":
        return archive.erase("r", [1, 2], drop_snapshots=True)
    return archive.truncate("r", before=3)


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("how", ["erased", "truncated"])
def test_a_log_is_erased_from_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Where the process died, the next look finishes what is left, or the same call does it."""
    point, died, seen = 0, True, set()

    while died:
        point += 1
        directory = tmp_path / str(point)
        with closing(JSONLCheckpointer[Any, Any](directory)) as archive:
            state = make_state("r", data={"t": TEXT if how == "erased" else ""})
            archive.append("r", [planted(1), planted(2)], snapshot=state)
            archive.append("r", make_events("r", 2, first=3))
            if how == "truncated":
                archive.recover("r")
                archive.save_snapshot("r", make_state("r"))
            died = False
            with monkeypatch.context() as patched:
                dying(patched, point)
                try:
                    carry_out(archive, how)
                except Killed:
                    died = True
        with closing(JSONLCheckpointer[Any, Any](directory)) as again:
            is_gone = [item.offset for item in again.read("r")] == [3, 4]
            seen.add(is_gone)
            assert is_gone or [item.offset for item in again.read("r")] == [1, 2, 3, 4]
            is_sound(again, "r")
            assert all(erasure.done for erasure in again.erasures("r"))
            assert bool(again.erasures("r")) == is_gone
            assert bool(holding(again)) == (not is_gone)
            assert carry_out(again, how).done
            assert holding(again) == []
            again.append("r", make_events("r", 1, first=5))
            assert [item.offset for item in again.read("r")] == [3, 4, 5]
            is_sound(again, "r")
            names = sorted(path.name for path in (directory / "r").iterdir())
            assert set(names) <= {"events.jsonl", "snapshot.json", "snapshots.jsonl"}
    assert seen == {False, True}
    assert point > 8


def test_a_record_that_is_archived_as_erased_is_so_everywhere(archive: Archive) -> None:
    """Redis's own one-byte record, and an archive's row or line, are the same entry."""
    entry = archive_entry("r", 1, 5, b"\x00")
    archive.write([RunBatch(RunHeader("r", START), START, [entry])])
    assert list(operations_of(archive).read_back("r", 1, 1)) == [entry]


def plain_line(seq: int, text: str) -> str:
    """An event as another program's writer has it."""
    event = make_event("r", seq, payload={"t": text}).to_dict()
    return json.dumps(event, default=str) + "\n"


def test_lines_of_another_program_are_erased_and_others_stay_in_their_order(tmp_path: Path) -> None:
    """Between ours and at the end; what is erased of them counts as it did, and so do those after it."""
    with closing(JSONLCheckpointer[Any, Any](tmp_path)) as archive:
        archive.append("r", [make_event("r", 1)])
        log = tmp_path / "r" / "events.jsonl"
        with log.open("a") as file:
            file.write(plain_line(2, TEXT) + plain_line(3, "fine"))
        archive.append("r", [make_event("r", 4)])
        with log.open("a") as file:
            file.write(plain_line(5, "fine") + plain_line(6, TEXT))
        before = {item.offset: item for item in archive.read("r")}
        assert archive.erase("r", [2, 6]).done
        assert holding(archive) == []
        with closing(JSONLCheckpointer[Any, Any](tmp_path)) as again:
            assert list(again.read("r")) == [before[offset] for offset in (1, 3, 4, 5)]
            again.append("r", [make_event("r", 7)])
            assert [item.offset for item in again.read("r")] == [1, 3, 4, 5, 7]
            is_sound(again, "r")


def test_a_line_of_another_program_goes_on_where_a_history_was_truncated(tmp_path: Path) -> None:
    with closing(JSONLCheckpointer[Any, Any](tmp_path)) as archive:
        archive.append("r", make_events("r", 3), keys=["a", "b", None])
        archive.truncate("r", before=4)
        with (tmp_path / "r" / "events.jsonl").open("a") as file:
            file.write(plain_line(4, TEXT) + plain_line(5, "fine"))
        assert [item.offset for item in archive.read("r")] == [4, 5]
        archive.erase("r", [4])
        assert holding(archive) == []
        with closing(JSONLCheckpointer[Any, Any](tmp_path)) as again:
            assert [(item.offset, item.event.seq) for item in again.read("r")] == [(5, 5)]
            assert again.find("r", ["a", "b"]) == [1, 2]
            again.truncate("r", before=6)
            assert again.append("r", make_events("r", 1, first=6)).first_offset == 6
            assert again.find("r", ["a", "b"]) == [1, 2]
            is_sound(again, "r")


def test_a_line_that_is_appended_while_a_log_is_written_anew_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another program, which knows no locks: before the renaming, or after it by who had the log open."""
    with closing(JSONLCheckpointer[Any, Any](tmp_path)) as archive:
        archive.append("r", [planted(1), make_event("r", 2)])
        log, opened = tmp_path / "r" / "events.jsonl", list[Any]()
        rename = Path.replace

        def append_before(self: Path, target: Any) -> Any:
            if target == log:
                with log.open("a") as file:
                    file.write(plain_line(3, "before"))
                opened.append(log.open("a"))
            return rename(self, target)

        def append_after(directory: Path) -> None:
            sync_directory(directory)
            for file in opened:
                file.write(plain_line(4, "after"))
                file.close()

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", append_before)
            patched.setattr(replaced_log, "sync_directory", append_after)
            archive.erase("r", [1])
        assert [item.event.seq for item in archive.read("r")] == [2, 3, 4]
        assert holding(archive) == []
        is_sound(archive, "r")


def test_a_copy_that_was_appended_from_another_programs_line_is_erased_with_it(tmp_path: Path) -> None:
    with closing(JSONLCheckpointer[Any, Any](tmp_path)) as archive:
        header = RunHeader("r", START)
        record = CODEC.encode_events("r", make_events("r", 1))[0].record
        archive.write([RunBatch(header, START, chained("r", [record], START))])
        log = tmp_path / "r" / "events.jsonl"
        with log.open("a") as file:
            file.write(plain_line(2, TEXT) + plain_line(3, "not taken"))
        holds = part_of(archive, HoldsForeign)
        assert holds is not None
        key, _ = next(holds.foreign_events("r"))
        last = operations_of(archive).position("r").cursor
        encoded = CODEC.encode_events("r", [planted(2)], [key])[0].record
        archive.write([RunBatch(header, last, chained("r", [encoded], last))])
        archive.erase("r", [2])
        assert holding(archive) == []
        assert [json.loads(event.data)["seq"] for event in holds.foreign_events("r")] == [3]


def test_what_was_set_aside_of_a_torn_batch_goes(tmp_path: Path) -> None:
    with closing(JSONLCheckpointer[Any, Any](tmp_path)) as archive:
        archive.append("r", [planted(1), make_event("r", 2)])
        with (tmp_path / "r" / "events.jsonl").open("ab") as file:
            file.write(f'{{"run_id":"r","payload":"{PLANTED}'.encode())
        archive.append("r", [make_event("r", 3)])
        assert "events.jsonl.torn-1" in holding(archive)
        archive.erase("r", [1])
        assert holding(archive) == []


def test_also_where_nothing_of_the_run_had_been_archived_before(tmp_path: Path) -> None:
    """A worker was killed as it wrote the first batch, and another one has heard since what is to be erased."""
    with closing(JSONLCheckpointer[Any, Any](tmp_path)) as archive:
        header = RunHeader("r", START)
        record = CODEC.encode_events("r", [planted(1)])[0].record
        archive.write([RunBatch(header, START, chained("r", [record], START))])
        log = tmp_path / "r" / "events.jsonl"
        log.write_bytes(log.read_bytes()[:-20])  # its commit mark is torn
    with closing(JSONLCheckpointer[Any, Any](tmp_path)) as archive:
        assert holding(archive) == ["events.jsonl"]
        eraser_of(archive).erase_offsets(header, ErasureNote(1.0, spans_of([1])))
        assert holding(archive) == []


def test_a_file_is_scrubbed_by_the_next_look_where_the_process_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive")) as archive:
        archive.append("r", [planted(1, 300), make_event("r", 2)])

        def die(connection: sqlite3.Connection) -> str:
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(erasing, "scrub", die)
            with pytest.raises(Killed):
                archive.erase("r", [1])
        assert [item.offset for item in archive.read("r")] == [2]
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive")) as again:
        assert [erasure.done for erasure in again.erasures("r")] == [True]
        assert holding(again) == []
        assert again.erasures("none") == []


def test_what_was_deleted_before_is_out_of_the_free_pages_too(tmp_path: Path) -> None:
    """An earlier state with the text, say, that another program has replaced: SQLite leaves what it held."""
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive")) as archive:
        archive.append("r", [planted(1), make_event("r", 2)])
        with closing(sqlite3.connect(archive.db_path)) as other:
            other.execute("PRAGMA secure_delete = OFF")
            other.execute("CREATE TABLE theirs (text)")
            other.executemany("INSERT INTO theirs VALUES (?)", [(TEXT * size,) for size in (1, 2, 900)])
            other.commit()
            other.execute("DELETE FROM theirs")
            other.commit()
        assert archive.erase("r", [1]).done
        assert holding(archive) == []


@pytest.mark.exhaustive
@pytest.mark.one_in(4)
@pytest.mark.parametrize("how", ["erased", "truncated"])
@pytest.mark.parametrize("kept", [0, 1], ids=["only what was synced", "names that were not synced too"])
def test_a_machine_that_loses_power_loses_no_event_and_brings_nothing_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, kept: int
) -> None:
    """At any point; and once it is done, nothing of it is on the disk, whatever of the rest is left."""
    point, died = 0, True
    while died:
        point += 1
        directory, left = tmp_path / str(point), tmp_path / f"left-{point}"
        with closing(JSONLCheckpointer[Any, Any](directory)) as archive:
            archive.append("r", [planted(1), planted(2)], snapshot=make_state("r"))
            archive.append("r", make_events("r", 2, first=3))
            if how == "truncated":
                archive.recover("r")
                archive.save_snapshot("r", make_state("r"))
            disk, died = DurableFiles(directory), False
            with monkeypatch.context() as patched:
                watch(patched, disk)
                dying(patched, point)
                try:
                    carry_out(archive, how)
                except Killed:
                    died = True
            for name, content in sorted(disk.left(lambda _: kept).items()):
                if content is None:
                    (left / name).mkdir(parents=True)
                else:
                    (left / name).parent.mkdir(parents=True, exist_ok=True)
                    (left / name).write_bytes(content)
            disk.close()
        with closing(JSONLCheckpointer[Any, Any](left)) as again:
            if not died:
                assert holding(again) == []
            assert [item.offset for item in again.read("r")] in ([1, 2, 3, 4], [3, 4])
            is_sound(again, "r")
            assert carry_out(again, how).done
            assert holding(again) == []
            assert [item.offset for item in again.read("r")] == [3, 4]
            assert again.append("r", make_events("r", 1, first=5)).first_offset == 5
    assert point > 8


def watch(monkeypatch: pytest.MonkeyPatch, disk: DurableFiles) -> None:
    """Let what is synced be noted."""
    open_, fsync = os.open, os.fsync

    def opening(path: Any, flags: int, *args: Any, **options: Any) -> int:
        handle = open_(path, flags, *args, **options)
        if flags & os.O_CREAT:
            disk.hold(path)
        return handle

    def syncing(handle: int) -> None:
        fsync(handle)
        disk.note_sync(handle)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "fsync", syncing)
