"""A JSONL directory as a store: what it keeps of runs, and what it makes of damaged lines and other objects."""

from __future__ import annotations

import json
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.codec.chain import next_chain
from runstream.codec.record import record_crc
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunHeader
from runstream.model.errors import (
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    UnsupportedVersion,
)
from runstream.model.events import PAEvent
from runstream.model.protocols import Sink
from runstream.model.state import RunState
from runstream.stores.archive.jsonl import JSONLCheckpointer
from runstream.stores.archive.jsonl.commit_marks import Mark
from runstream.stores.archive.jsonl.line_format import batch_text, facts_of, own_entry
from runstream.stores.protocol import RunStore
from tests.stores.archive.jsonl.lines import START, Store, batch, event, history, log_of, numbers, state


def test_it_is_a_store_and_a_sink(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        assert isinstance(store, RunStore)
        assert isinstance(store, Sink)
        assert store.location == f"jsonl:{tmp_path}"


@pytest.mark.parametrize("damaged", [1, 2, 3, 4, 5, 6])
def test_a_damaged_line_of_ours_is_corrupt_at_its_place_and_its_neighbours_are_not(
    tmp_path: Path, damaged: int
) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_events([event("r", number) for number in (1, 2, 3)])
        for number in (4, 5, 6):
            store.save_event(event("r", number))
    lines = log_of(tmp_path).read_bytes().splitlines(keepends=True)
    lines[damaged] = b"#" * (len(lines[damaged]) - 1) + b"\n"
    log_of(tmp_path).write_bytes(b"".join(lines))
    with JSONLCheckpointer(tmp_path) as store:
        assert [item.offset for item in store.read("r", on_corrupt="skip")] == [
            number for number in range(1, 7) if number != damaged
        ]
        with pytest.raises(CorruptRecordError) as caught:
            list(store.read("r"))
        assert caught.value.offset == damaged


def test_a_damaged_header_or_commit_mark_takes_no_place_from_an_event(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
        store.save_snapshot("r", state("r", 1))  # the line has nothing but a mark
        store.save_event(event("r", 2))
    lines = log_of(tmp_path).read_bytes().splitlines(keepends=True)
    for damaged in (0, 2):
        changed = [b"damaged\n" if place == damaged else line for place, line in enumerate(lines)]
        log_of(tmp_path).write_bytes(b"".join(changed))
        with JSONLCheckpointer(tmp_path) as store:
            for expected in ([1, 2], [1, 2, 3]):
                assert [each.payload["number"] for each in store.list_events("r")] == expected
                assert [each.payload["number"] for each in store.list_events("r", 1)] == expected[1:]
                assert [item.offset for item in store.read("r", reverse=True)] == expected[::-1]
                store.save_event(event("r", 3))


def test_a_snapshot_that_does_not_read_is_an_error_that_another_save_ends(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
        (tmp_path / "r" / "snapshot.json").write_text('{"run_id": "r", "sta')
        with pytest.raises(CorruptRecordError):
            store.load_latest("r")
        store.save_snapshot("r", state("r", 2))
        loaded = store.load_latest("r")
        assert loaded is not None
        assert loaded.current_step == 2


@pytest.mark.parametrize("fields", [{}, {"a": 1}, {"a": {"$offset": 1}}, {"é": (1, b"x", {2: {3}})}])
def test_a_state_comes_back_equal_even_if_another_program_laid_it_out_anew(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    with JSONLCheckpointer[PAEvent, Any](tmp_path, state_type=dict) as store:
        store.save_snapshot("r", fields)
        assert store.load_latest("r") == fields
        path = tmp_path / "r" / "snapshot.json"
        path.write_text(json.dumps(json.loads(path.read_text()), indent=2))
        assert store.load_latest("r") == fields


def test_a_run_of_nothing_but_a_snapshot_is_a_run(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_snapshot("r", RunState(run_id="r", status="completed", session_id="s"))
    with JSONLCheckpointer(tmp_path) as store:
        info = store.run_info("r")
        assert info is not None
        assert (info.status, info.session_id, info.last_offset) == ("completed", "s", 0)
        assert info == next(store.runs())
        assert store.append("r", [event("r", 1)]).last_offset == 1
        assert numbers(store, "r") == [1]


def test_a_read_makes_nothing(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path / "new") as store:
        assert store.load_latest("r") is None
        assert store.list_events("r") == []
        assert store.run_info("r") is None
        assert store.position("r") is None
        assert store.list_runs() == []
        assert list(store.quarantine()) == []
        assert list(store.read_back("r", 1, 5)) == []
        assert not store.delete_run("r")
        assert list((tmp_path / "new").iterdir()) == []


def test_a_long_run_is_read_from_anywhere_in_both_directions(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        for first in range(1, 400, 37):
            store.save_events([event("r", number) for number in range(first, first + 37)])
        every = numbers(store, "r")
        assert every == list(range(1, len(every) + 1))
        for after, before in ((0, 2), (63, 66), (64, 130), (100, 101), (200, 407), (406, 500)):
            expected = [number for number in every if after < number < before]
            assert [item.offset for item in store.read("r", after, before=before)] == expected
            assert [item.offset for item in store.read("r", after, before=before, reverse=True)] == expected[::-1]


def test_the_integrity_of_lines_and_snapshots_is_checked(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        entries = history("r", START, [event("r", number, text="plain") for number in range(1, 6)])
        chain = next_chain(entries[-1].chain, record_crc(b"\x01\xff raw"))
        entries.append(ArchiveEntry(6, chain, None, None, b"\x01\xff raw", "it was broken when it came"))
        store.write([batch("r", START, entries, ArchiveSnapshot(None, 6, 1, "t", '{"a":1}'))])
        store.save_events([event("q", 1), event("q", 2)])
        assert store.check_integrity() == []
        content = log_of(tmp_path).read_bytes().split(b"\n")
        content[2] = content[2].replace(b"plain", b"p\xffain")
        log_of(tmp_path).write_bytes(b"\n".join(content))
        (tmp_path / "r" / "snapshot.json").write_text("{]")
        log_of(tmp_path, "q").write_bytes(log_of(tmp_path, "q").read_bytes() + b"nonsense\n")
        found = store.check_integrity()
    assert len(found) == 3
    assert "event 3 of run 'q' does not read: not an event of this run" in found[0]
    assert "event 2 of run 'r' does not read: its line was damaged" in found[1]
    assert "the snapshot of run 'r' does not read" in found[2]


# -- processes, threads, life


def test_another_object_sees_what_was_written_and_deleted_and_written_anew(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as one, JSONLCheckpointer(tmp_path) as other:
        for number in range(1, 4):
            one.save_event(event("r", number))
            assert numbers(other, "r") == list(range(1, number + 1))
        other.delete_run("r")
        assert numbers(one, "r") == []
        for number in (7, 8, 9):  # as long as it was, and perhaps in the same inode
            other.save_event(event("r", number))
        assert numbers(one, "r") == [7, 8, 9]
        assert one.append("r", [event("r", 10)]).last_offset == 4
        with pytest.raises(ConcurrencyConflict):
            other.append("r", [event("r", 11)], expected_offset=3)
        assert one.archive_id == other.archive_id


def test_another_history_in_the_same_file_is_not_taken_for_the_one_that_was_read(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path / "one") as one, JSONLCheckpointer(tmp_path / "two") as two:
        one.save_events([event("r", 1), event("r", 2)])
        two.save_events([event("r", number, text="x" * 99) for number in (7, 8, 9)])
        inode = log_of(tmp_path / "one").stat().st_ino
        log_of(tmp_path / "one").write_bytes(log_of(tmp_path / "two").read_bytes())
        assert log_of(tmp_path / "one").stat().st_ino == inode
        assert numbers(one, "r") == [7, 8, 9]


def test_it_pickles_by_its_arguments(tmp_path: Path) -> None:
    with JSONLCheckpointer[PAEvent, Any](tmp_path, state_type=dict) as store:
        store.save_snapshot("r", {"a": 1})
        with pickle.loads(pickle.dumps(store)) as again:
            assert again.load_latest("r") == {"a": 1}
            assert again.archive_id == store.archive_id


def test_a_closed_store_is_refused_and_closing_twice_is_fine(tmp_path: Path) -> None:
    store: Store = JSONLCheckpointer(tmp_path)
    store.save_event(event("r", 1))
    store.close()
    store.close()
    for use in (lambda: store.save_event(event("r", 2)), store.list_runs, lambda: store.position("r")):
        with pytest.raises(ConfigurationError):
            use()


def test_no_handle_stays_open(tmp_path: Path) -> None:
    def handles() -> list[str]:
        open_ones = []
        for handle in Path("/dev/fd").iterdir():
            with suppress(FileNotFoundError):  # the one that lists them, and what others have closed
                open_ones.append(str(handle.readlink()))
        return [path for path in open_ones if path.startswith(str(tmp_path))]

    with JSONLCheckpointer(tmp_path) as store:
        for number in range(40):
            store.save_event(event(f"r{number}", 1))
        store.save_events([event(f"r{number}", 2) for number in range(40)])
        with (tmp_path / "r1" / "events.jsonl").open():
            assert len(handles()) == 1
        assert handles() == []


def test_a_newer_format_and_a_file_in_its_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".runstream.json").write_text('{"format": 5, "archive_id": "x"}')
    with pytest.raises(UnsupportedVersion) as caught:
        JSONLCheckpointer(tmp_path / "new")
    assert (caught.value.found, caught.value.supported) == (5, 4)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigurationError):
            JSONLCheckpointer(path)


def test_deleting_takes_what_is_the_runs_and_leaves_what_is_not(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.append("r", [event("r", 1)], snapshot=state("r", 1), lane_id="side")
        store.save_event(event("q", 1))
        (tmp_path / "r" / "notes.txt").write_text("mine")
        assert store.delete_run("r")
        assert not store.delete_run("r")
        assert store.list_runs() == ["q"]
        assert [path.name for path in (tmp_path / "r").iterdir()] == ["notes.txt"]
        assert store.append("r", [event("r", 5)]).last_offset == 1
        assert store.load_snapshot("r", lane_id="side") is None


@given(
    st.text(max_size=40),
    st.text(max_size=40),
    st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
)
def test_a_line_is_split_back_where_it_was_joined(key: str, text: str, payload: dict[str, str]) -> None:
    """For any key and payload, with the lines of a batch taken apart again without parsing JSON."""
    (entry,) = history("r", START, [event("r", 1, text=text, payload=payload)])
    entry = entry._replace(key=key)
    mark = Mark("running", 1.0, text[:5].encode(errors="replace").decode(), ((key, "$offset"),))
    header = RunHeader("r", START)
    lines = batch_text(header, START, [entry], mark).split(b"\n")
    assert len(lines) == 3
    facts = facts_of(lines[1])
    assert facts is not None
    assert own_entry(lines[1], facts).content == entry.content
    assert facts[4] is not None
    assert Mark.load(facts[4]) == mark
