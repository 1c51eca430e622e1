"""A log that is read while others append to it, and while a line in it is being blanked."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from purpose_agent.runtime import checkpoint

from runstream.model.errors import ConcurrencyConflict
from runstream.model.results import Cursor
from runstream.stores.archive.jsonl import JSONLCheckpointer, file_names, run_log
from runstream.stores.archive.jsonl.growing_files import stable_lines, until_cut
from runstream.stores.archive.jsonl.log_index import LogIndex
from runstream.stores.archive.jsonl.overtaking import blank, let_finish
from runstream.stores.archive.jsonl.snapshot_history_file import SnapshotHistoryFile
from tests.stores.archive.jsonl.lines import event, log_of, numbers, state
from tests.stores.archive.jsonl.test_foreign_writers import save

JSONL = "runstream.stores.archive.jsonl"


@pytest.fixture
def theirs(tmp_path: Path) -> checkpoint.JSONLCheckpointer:
    return checkpoint.JSONLCheckpointer(str(tmp_path))


def their_line(directory: Path, number: int) -> bytes:
    """A line as their store writes it."""
    save(checkpoint.JSONLCheckpointer(str(directory / "aside")), number)
    return log_of(directory / "aside").read_bytes().splitlines(keepends=True)[-1]


def add(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


def test_a_line_that_is_read_in_two_halves_counts_when_it_is_whole(tmp_path: Path) -> None:
    line, index = their_line(tmp_path, 1), LogIndex("r")
    index.scan([line[:50], line[50:]])
    assert (index.last, index.end) == (Cursor(0, 0), 0)
    index.scan([line, line[:50]])
    assert (index.last.offset, index.end, index.damage.lines) == (1, len(line), {})


def test_what_is_added_to_a_cut_line_is_no_line() -> None:
    assert list(until_cut([b"a\n", b"b", b"c\n", b"d\n"])) == [b"a\n", b"b"]


def test_a_snapshot_that_is_renamed_while_it_is_looked_for_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its own name or the prepared one, though the one before has that name at first, or does not read."""
    with JSONLCheckpointer(tmp_path) as writer, JSONLCheckpointer(tmp_path) as store:
        writer.save_snapshot("r", state("r", 1))
        path = log_of(tmp_path).with_name("snapshot.json")
        first = path.read_bytes()
        writer.save_snapshot("r", state("r", 2))
        second = path.read_bytes()
        for former in (first, first[:40] + b"?" + first[41:], None):
            for is_renamed in (False, True):

                def prepared_name(lane_id: str | None, token: str, *, is_renamed: bool = is_renamed) -> str:
                    prepared = path.with_name(file_names.prepared_name(lane_id, token))
                    prepared.write_bytes(second)
                    if is_renamed:
                        prepared.replace(path)
                    return prepared.name

                path.unlink(missing_ok=True)
                if former is not None:
                    path.write_bytes(former)
                monkeypatch.setattr(f"{JSONL}.snapshot_files.prepared_name", prepared_name)
                found = store.load_latest("r")
                assert found is not None
                assert found.current_step == 2


def test_a_history_of_snapshots_is_read_up_to_what_is_being_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        for step in (1, 2):
            store.save_snapshot("r", state("r", step))
        path = log_of(tmp_path).with_name("snapshots.jsonl")
        whole = path.read_bytes()
        first, second = whole.splitlines(keepends=True)
        halves = [first, second[:40], second[40:]]
        monkeypatch.setattr(Path, "open", lambda *_: Lines(halves))
        history = SnapshotHistoryFile(path.parent, "r")
        assert [kept.head.revision for kept in history.kept(lambda _: True)] == [1]


class Lines(io.BytesIO):
    """A file that gives these lines."""

    def __init__(self, lines: list[bytes]) -> None:
        super().__init__(b"".join(lines))
        self._lines = iter(lines)

    def __next__(self) -> bytes:
        return next(self._lines)


class Blanked(io.FileIO):
    """A file in which a stretch is blanked once its first bytes have been read."""

    def __init__(self, path: Path, begin: int, length: int) -> None:
        super().__init__(path)
        self._todo = [(path, begin, length)]

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # of any buffer, there
        count = super().readinto(buffer)
        while self._todo and self.tell() > self._todo[0][1]:
            blank(*self._todo.pop())
        return count


def test_a_line_that_is_blanked_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    """Half of it as it was and half blank it would pass for one that was damaged."""
    with JSONLCheckpointer(tmp_path) as store:
        for number in (1, 2, 3):
            store.save_event(event("r", number))
    path = log_of(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    before = sum(map(len, lines[:2]))
    with io.BufferedReader(Blanked(path, before, len(lines[2])), before + 100) as file:
        found = list(stable_lines(file))
    assert found == [*lines[:2], b" " * (len(lines[2]) - 1) + b"\n", lines[3]][: len(found)]
    assert len(found) == len(lines)


@pytest.mark.parametrize("begins_blank", [True, False])
def test_a_line_whose_blanking_was_cut_off_is_blank(
    tmp_path: Path, theirs: checkpoint.JSONLCheckpointer, begins_blank: bool
) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        for number in (1, 2):
            store.save_event(event("r", number))
        path = log_of(tmp_path)
        line = path.read_bytes().splitlines()[-1]
        path.write_bytes(path.read_bytes()[: -len(line) - 1])
        save(theirs, 101)
        half = 60
        add(path, (b" " * half + line[half:] if begins_blank else line[:half] + b" " * (len(line) - half)) + b"\n")
        for each in (store, JSONLCheckpointer(tmp_path)):
            assert numbers(each, "r") == [1, 101]
            assert list(each.quarantine()) == []
        store.save_event(event("r", 3))
        for each in (store, JSONLCheckpointer(tmp_path)):
            assert numbers(each, "r") == [1, 101, 3]


@pytest.mark.parametrize("has_expected", [True, False])
def test_a_line_that_is_half_written_is_waited_for(
    tmp_path: Path, theirs: checkpoint.JSONLCheckpointer, has_expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = their_line(tmp_path, 101)

    def finished_meanwhile(path: Path, begin: int) -> None:
        add(path, line[60:])
        monkeypatch.setattr(run_log, "let_finish", let_finish)
        let_finish(path, begin)

    monkeypatch.setattr(run_log, "let_finish", finished_meanwhile)
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
        add(log_of(tmp_path), line[:60])
        if has_expected:
            with pytest.raises(ConcurrencyConflict):
                store.append("r", [event("r", 2)], expected_offset=1)
        else:
            store.append("r", [event("r", 2)], snapshot=state("r", 2))
        for each in (store, JSONLCheckpointer(tmp_path)):
            assert numbers(each, "r") == ([1, 101] if has_expected else [1, 101, 2])
        assert not list(log_of(tmp_path).parent.glob("*.torn-*"))


def test_a_list_of_runs_does_not_count_what_was_overtaken(
    tmp_path: Path, theirs: checkpoint.JSONLCheckpointer
) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        for number in (1, 2):
            store.save_event(event("r", number))
        line = log_of(tmp_path).read_bytes().splitlines(keepends=True)[-1]
        log_of(tmp_path).write_bytes(log_of(tmp_path).read_bytes()[: -len(line)])
        save(theirs, 101)
        add(log_of(tmp_path), line)
    with JSONLCheckpointer(tmp_path) as store:
        (listed,) = store.runs()
        info = store.run_info("r")
        assert info is not None
        assert (
            (listed.last_offset, listed.updated_at) == (info.last_offset, info.updated_at) == (2, info.updated_at)
        )
        assert listed.updated_at == log_of(tmp_path).stat().st_mtime
