"""What is special to the JSONL archive: its files, its file names, and what is left when somebody is killed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.codec.archive_entries import archive_entry
from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.record import record_crc
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunBatch, RunHeader
from runstream.model.errors import (
    ArchiveGap,
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    HistoryDiverged,
    StoreUnavailable,
    UnsupportedVersion,
)
from runstream.model.events import PAEvent, create_event
from runstream.model.protocols import RunStore, Sink
from runstream.model.results import Cursor
from runstream.model.state import RunState
from runstream.stores.archive.jsonl import JSONLCheckpointer, file_names
from runstream.stores.archive.jsonl.file_locks import Locks
from runstream.stores.archive.jsonl.line_format import Mark, batch_text, facts_of, own_entry
from tests.support.servers import eventually

theirs = pytest.importorskip("purpose_agent.runtime.checkpoint")
their_events = pytest.importorskip("purpose_agent.runtime.events")
their_state = pytest.importorskip("purpose_agent.runtime.state")

Store = JSONLCheckpointer[PAEvent, RunState]
CODEC: Codec[PAEvent, RunState] = Codec()
DEADLINE_SECONDS = 30.0


def event(run_id: str, number: int, kind: str = "text.delta", **payload: Any) -> PAEvent:
    return create_event(run_id, kind, seq=number, number=number, **payload)


def state(run_id: str, step: int, **values: Any) -> RunState:
    return RunState(run_id=run_id, status="running", current_step=step, **values)


def numbers(store: Store, run_id: str) -> list[int]:
    """What is in the run, checked on the way: offsets are dense and each chain follows from the one before."""
    found = list(store.read(run_id))
    bounds = store._bounds(run_id)
    if bounds is None:
        assert not found
        return []
    chain = bounds[0].chain
    for offset, item in enumerate(found, bounds[0].offset + 1):
        (encoded,) = CODEC.encode_events(run_id, [item.event])
        chain = next_chain(chain, record_crc(encoded.record))
        assert item.cursor == f"{offset}-{chain}"
    assert str(bounds[1]) == (found[-1].cursor if found else str(bounds[0]))
    return [item.event.payload["number"] for item in found]


def log_of(directory: Path, run_id: str = "r") -> Path:
    return directory / file_names.encoded(run_id) / "events.jsonl"


def history(run_id: str, start: Cursor, events: list[PAEvent]) -> list[ArchiveEntry]:
    """The entries of these events after a place, as a drain worker makes them."""
    entries, place = [], start
    for encoded in CODEC.encode_events(run_id, events):
        place = Cursor(place.offset + 1, next_chain(place.chain, record_crc(encoded.record)))
        entries.append(archive_entry(run_id, place.offset, place.chain, encoded.record))
    return entries


def batch(
    run_id: str, start: Cursor, entries: list[ArchiveEntry], *snapshots: ArchiveSnapshot, status: str = "running"
) -> RunBatch:
    after = entries[0].offset - 1 if entries else start.offset
    assert after == start.offset
    return RunBatch(RunHeader(run_id, start, "s", status, 1.5, 2.5), start, entries, snapshots)


def files_below(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.parent.name != ".locks"
    }


# -- the files, and purpose-agent's own reader


def test_it_is_a_store_and_a_sink(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        assert isinstance(store, RunStore)
        assert isinstance(store, Sink)
        assert store.location == f"jsonl:{tmp_path}"


def test_purpose_agent_reads_what_was_written_here(tmp_path: Path) -> None:
    written = [event("r", 1, "run.started", text='a "quoted" ,"$offset":7} é\n'), event("r", 2), event("r", 3)]
    with JSONLCheckpointer(tmp_path) as store:
        store.save_events(written[:2])
        store.append("r", written[2:], snapshot=state("r", 7, data={"a": [1, {"b": None}]}))
        store.save_snapshot("r", state("r", 8), lane_id="side")
    reader = theirs.JSONLCheckpointer(str(tmp_path))
    assert [found.to_dict() for found in reader.list_events("r")] == [each.to_dict() for each in written]
    latest = reader.load_latest("r")
    assert (latest.current_step, latest.data, latest.status.value) == (7, {"a": [1, {"b": None}]}, "running")


def test_purpose_agents_directory_is_read_appended_to_and_still_read_by_it(tmp_path: Path) -> None:
    writer = theirs.JSONLCheckpointer(str(tmp_path))
    kind = their_events.EventKind
    for number in (1, 2):
        writer.save_event(their_events.create_event("Run1", kind.RUN_STARTED, seq=number, number=number))
    writer.save_snapshot("Run1", their_state.RunState(run_id="Run1", session_id="s", current_step=4))
    with JSONLCheckpointer(tmp_path) as store:
        assert numbers(store, "Run1") == [1, 2]
        assert store.list_runs() == ["Run1"]
        snapshot = store.load_snapshot("Run1")
        assert snapshot is not None
        assert (snapshot.state.current_step, snapshot.offset, snapshot.revision) == (4, 0, 1)
        appended = store.append("Run1", [event("Run1", 3), event("Run1", 4)], snapshot=state("Run1", 5))
        assert (appended.first_offset, appended.last_offset) == (3, 4)
        writer.save_event(their_events.create_event("Run1", kind.RUN_FINISHED, seq=5, number=5))
        assert numbers(store, "Run1") == [1, 2, 3, 4, 5]
        store.save_event(event("Run1", 6, "text.delta"))
    with JSONLCheckpointer(tmp_path) as store:
        assert numbers(store, "Run1") == [1, 2, 3, 4, 5, 6]
        info = store.run_info("Run1")
        assert info is not None
        assert (info.status, info.last_offset, info.first_hot, info.archived_offset) == ("completed", 6, 1, 6)
        recovered = store.recover("Run1")
        assert recovered.state is not None
        assert recovered.state.current_step == 5
    assert [found.payload["number"] for found in writer.list_events("Run1")] == [1, 2, 3, 4, 5, 6]
    assert writer.load_latest("Run1").current_step == 5
    assert {path.name for path in tmp_path.iterdir()} == {"Run1", ".locks", ".runstream.json"}


def test_the_last_word_of_purpose_agents_run_is_its_status(tmp_path: Path) -> None:
    writer = theirs.JSONLCheckpointer(str(tmp_path))
    writer.save_event(their_events.PAEvent("r", kind=their_events.EventKind.RUN_STARTED, session_id="s"))
    done = their_state.RunState(run_id="r", status=their_state.RunStatus.COMPLETED)
    writer.save_snapshot("r", done)
    writer.save_snapshot("only", done)
    for path, moment in ((log_of(tmp_path), 100), (tmp_path / "r" / "snapshot.json", 200)):
        os.utime(path, (moment, moment))
    with JSONLCheckpointer(tmp_path) as store:
        found = {info.run_id: info for info in store.runs()}
        assert (found["r"].status, found["r"].session_id, found["r"].updated_at) == ("completed", "s", 200.0)
        assert (found["only"].status, found["only"].last_offset) == ("completed", 0)
        os.utime(log_of(tmp_path), (300, 300))
        again = store.run_info("r")
        assert again is not None
        assert (again.status, again.updated_at) == ("running", 300.0)
        store.save_event(event("only", 1))
        assert numbers(store, "only") == [1]


def test_what_looks_like_a_tag_in_a_plain_line_comes_out_as_it_is(tmp_path: Path) -> None:
    payload = {"number": 1, "a": {"$set": [1]}, "$offset": 5, "b": {"$dict": [[1, 2]]}, "c": {"$tuple": "x"}}
    writer = theirs.JSONLCheckpointer(str(tmp_path))
    writer.save_event(their_events.PAEvent("r", payload=payload))
    compact = {"run_id": "r", "kind": "x", "payload": {"$offset": 5, "$chain": 6}}
    with log_of(tmp_path).open("a") as file:
        file.write(json.dumps(compact, separators=(",", ":")) + "\n")
    with JSONLCheckpointer(tmp_path) as store:
        assert [found.payload for found in store.list_events("r")] == [payload, compact["payload"]]


def test_a_plain_line_that_does_not_read_is_corrupt_and_its_neighbours_are_not(tmp_path: Path) -> None:
    writer = theirs.JSONLCheckpointer(str(tmp_path))

    def save(number: int) -> None:
        writer.save_event(their_events.PAEvent("r", seq=number, payload={"number": number}))

    save(1)
    with log_of(tmp_path).open("ab") as file:
        file.write(b'not \xff JSON\n\n{"run_id": "other", "kind": "x"}\n[1]\n')
    save(5)
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 6))
        with pytest.raises(CorruptRecordError) as caught:
            list(store.read("r"))
        assert (caught.value.offset, caught.value.raw) == (2, b"not \xff JSON")
        assert [item.offset for item in store.read("r", on_corrupt="skip")] == [1, 5, 6]
        assert [(found.offset, found.raw) for _, found in store.quarantine()] == [
            (2, b"not \xff JSON"),
            (3, b'{"run_id": "other", "kind": "x"}'),
            (4, b"[1]"),
        ]


def test_a_plain_last_line_without_a_line_break_counts_and_is_not_glued_to_ours(tmp_path: Path) -> None:
    writer = theirs.JSONLCheckpointer(str(tmp_path))
    for number in (1, 2):
        writer.save_event(their_events.PAEvent("r", seq=number, payload={"number": number}))
    log_of(tmp_path).write_bytes(log_of(tmp_path).read_bytes()[:-1])
    with JSONLCheckpointer(tmp_path) as store:
        assert numbers(store, "r") == [1, 2]
        store.save_event(event("r", 3))
        assert numbers(store, "r") == [1, 2, 3]
    with JSONLCheckpointer(tmp_path) as store:
        assert numbers(store, "r") == [1, 2, 3]
    assert len(writer.list_events("r")) == 3


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


# -- file names

HOSTILE = [
    "../../x", "a/b", ".", "..", ".hidden", "a\0b", "a\nb", "a:b", 'a"<>|?*\\', "A", "a", "RUN", "run", "Run",
    "x" * 500, "x" * 499 + "y", "é" * 250, "trailing.", "trailing ", "%41", "%2525", "%-" + "0" * 64, "con", "NUL",
    "com1.txt", "50%", "\u202e", "\U0001f600", "snapshot.json", ".locks", ".runstream.json", "é", "e\u0301", " ",
]  # fmt: skip


def test_hostile_run_ids_stay_inside_and_apart_and_are_listed(tmp_path: Path) -> None:
    inside = tmp_path / "deep" / "inside"
    with JSONLCheckpointer(inside) as store:
        for number, run_id in enumerate(HOSTILE):
            store.append(run_id, [event(run_id, number)], snapshot=state(run_id, number), lane_id=run_id)
    with JSONLCheckpointer(inside) as store:
        assert sorted(store.list_runs()) == sorted(HOSTILE)
        for number, run_id in enumerate(HOSTILE):
            assert numbers(store, run_id) == [number]
            snapshot = store.load_snapshot(run_id, lane_id=run_id)
            assert snapshot is not None
            assert snapshot.state.current_step == number
            position = store.position(run_id)
            assert position is not None
            assert list(position.snapshots) == [run_id]
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["inside"]
    assert all(len(path.relative_to(inside).parts) <= 2 for path in inside.rglob("*"))


def _is_run_id(text: str) -> bool:
    try:
        return 1 <= len(text.encode()) <= 512
    except UnicodeEncodeError:
        return False


run_ids = st.text(min_size=1, max_size=300).filter(_is_run_id)


@given(run_ids)
@settings(max_examples=500)
def test_a_name_is_safe_and_tells_its_id(run_id: str) -> None:
    name = file_names.encoded(run_id)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-.%")
    assert len(name) <= 200
    assert not name.startswith(".")
    assert not name.endswith(".")
    assert file_names.is_hashed(name) or file_names.named(name) == run_id


@given(run_ids, run_ids)
@settings(max_examples=500)
def test_different_ids_never_share_a_directory(one: str, other: str) -> None:
    if one != other:
        assert file_names.encoded(one) != file_names.encoded(other)
        if file_names.may_be_raw(one):
            assert file_names.encoded(other) != one


def test_a_symbolic_link_to_elsewhere_is_refused_and_not_listed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with JSONLCheckpointer(tmp_path / "in") as store:
        (tmp_path / "in" / "r").symlink_to(outside)
        with pytest.raises(ConfigurationError):
            store.save_event(event("r", 1))
        (tmp_path / "in" / "q").mkdir()
        (tmp_path / "in" / "q" / "events.jsonl").symlink_to(outside / "target")
        with pytest.raises(StoreUnavailable):
            store.save_event(event("q", 1))
        assert store.list_runs() == []
    assert list(outside.iterdir()) == []


def test_an_empty_directory_that_a_foreign_reader_made_hides_nothing(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("Run", 1))
        assert theirs.JSONLCheckpointer(str(tmp_path)).list_events("Run") == []  # and makes Run/
        store.save_event(event("Run", 2))
        assert numbers(store, "Run") == [1, 2]
        assert store.list_runs() == ["Run"]


# -- torn tails


def test_after_a_cut_at_any_byte_of_the_last_batch_just_the_committed_prefix_is_read(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with JSONLCheckpointer(whole) as store:
        store.save_events([event("r", 1), event("r", 2)])
        committed = log_of(whole).stat().st_size
        store.save_events([event("r", 3, text="é"), event("r", 4)])
    content = log_of(whole).read_bytes()
    for size in range(committed, len(content)):
        directory = tmp_path / "cut"
        shutil.copytree(whole, directory)
        log_of(directory).write_bytes(content[:size])
        with JSONLCheckpointer(directory) as store:
            assert numbers(store, "r") == [1, 2]
            position = store.position("r")
            assert position is not None
            assert position.cursor.offset == 2
            assert log_of(directory).read_bytes() == content[:size]  # a read changes nothing
            assert store.append("r", [event("r", 9)], expected_offset=2).last_offset == 3
            assert numbers(store, "r") == [1, 2, 9]
        with JSONLCheckpointer(directory) as store:
            assert numbers(store, "r") == [1, 2, 9]
        torn = sorted(directory.glob("r/events.jsonl.torn-*"))
        assert [path.read_bytes() for path in torn] == ([content[committed:size]] if size > committed else [])
        shutil.rmtree(directory)


def test_a_block_of_a_torn_batch_that_reads_as_zeros_tears_the_whole_batch(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_events([event("r", 1), event("r", 2)])
        committed = log_of(tmp_path).stat().st_size
        store.save_events([event("r", 3), event("r", 4), event("r", 5)])
    content = bytearray(log_of(tmp_path).read_bytes())
    content[committed + 40 : committed + 300] = bytes(260)
    log_of(tmp_path).write_bytes(content)
    with JSONLCheckpointer(tmp_path) as store:
        assert numbers(store, "r") == [1, 2]
        store.save_event(event("r", 3))
        assert numbers(store, "r") == [1, 2, 3]


def test_another_program_going_on_after_a_torn_batch_keeps_both_its_event_and_the_order(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
        committed = log_of(tmp_path).stat().st_size
        store.save_events([event("r", 2), event("r", 3)])
    first_line = log_of(tmp_path).read_bytes()[committed:].splitlines(keepends=True)[0]
    log_of(tmp_path).write_bytes(log_of(tmp_path).read_bytes()[:committed] + first_line)
    theirs.JSONLCheckpointer(str(tmp_path)).save_event(their_events.PAEvent("r", payload={"number": 7}))
    for expected in ([1, 7], [1, 7, 8], [1, 7, 8, 8]):
        with JSONLCheckpointer(tmp_path) as store:
            assert numbers(store, "r") == expected
            store.save_event(event("r", 8))


# -- crashes


class Killed(BaseException):
    """What a process does not live to see."""


CALLS = ("write", "fsync", "replace", "ftruncate", "unlink", "mkdir")


def break_call(
    monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException, calls: tuple[str, ...] = CALLS
) -> Callable[[], bool]:
    """Raise at the number-th of these calls to the system. Gives a function that says whether it came to that."""
    count = 0

    def breaking(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                raise error
            return call(*args, **options)

        return counted

    for name in calls:
        monkeypatch.setattr(os, name, breaking(getattr(os, name)))
    return lambda: count >= number


def every_crash(
    tmp_path: Path,
    before: Callable[[Store], object],
    act: Callable[[Store], object],
    error: BaseException | None = None,
) -> Iterator[tuple[Path, int]]:
    """The directory as each call to the system that ``act`` makes leaves it when it is the last."""
    whole = tmp_path / "before"
    with JSONLCheckpointer(whole) as store:
        before(store)
    for number in range(1, 1000):
        directory = tmp_path / f"crash-{number}"
        shutil.copytree(whole, directory)
        store = JSONLCheckpointer(directory)
        with pytest.MonkeyPatch.context() as patch:
            came_to_it = break_call(patch, number, error or Killed())
            try:
                act(store)
            except (Killed, StoreUnavailable):
                assert came_to_it()
        yield directory, number
        if not came_to_it():
            assert number > 3, "the act makes calls that are not broken"
            return


def test_a_crash_at_any_step_leaves_both_events_and_snapshot_or_neither(tmp_path: Path) -> None:
    def before(store: Store) -> None:
        store.append("r", [event("r", 1)], snapshot=state("r", 1))

    def act(store: Store) -> None:
        store.recover("r")
        store.append("r", [event("r", 2), event("r", 3)], snapshot=state("r", 3))

    seen = set()
    for directory, _ in every_crash(tmp_path, before, act):
        for _ in range(2):  # as a reader finds it, and as another does after a writer has tidied up
            with JSONLCheckpointer(directory) as store:
                recovery = store.recover("r")
                assert recovery.state is not None
                step = recovery.state.current_step
                assert [number for number in numbers(store, "r") if number] == list(range(1, step + 1))
                assert recovery.offset == step
                seen.add(step)
                position = store.position("r")
                assert position is not None
                assert position.snapshots == {None: store.read_back_snapshots("r")[0].token}
                store.save_event(event("r", 0))
        assert not list(directory.glob("r/*.prepared-*"))
        assert json.loads((directory / "r" / "snapshot.json").read_text())["current_step"] in (1, 3)
    assert seen == {1, 3}


def test_each_step_is_on_the_disk_before_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of calls of a first batch: what a crash of the machine may keep of it follows from that."""
    calls: list[tuple[str, int]] = []
    fsync, write, replace = os.fsync, os.write, os.replace

    def noted(name: str, call: Callable[..., Any], inode: Callable[[Any], int]) -> None:
        def noting(first: Any, *rest: Any) -> Any:
            calls.append((name, inode(first)))
            return call(first, *rest)

        monkeypatch.setattr(os, name, noting)

    with JSONLCheckpointer(tmp_path) as store:
        assert store.archive_id
        noted("fsync", fsync, lambda handle: os.fstat(handle).st_ino)
        noted("write", write, lambda handle: os.fstat(handle).st_ino)
        noted("replace", replace, lambda path: Path(path).stat().st_ino)
        store.append("r", [event("r", 1), event("r", 2)], snapshot=state("r", 2))
    base, run = tmp_path.stat().st_ino, (tmp_path / "r").stat().st_ino
    log, snapshot = log_of(tmp_path).stat().st_ino, (tmp_path / "r" / "snapshot.json").stat().st_ino
    order = [("fsync", base), ("write", snapshot), ("fsync", snapshot), ("fsync", run), ("write", log)]
    order += [("fsync", log), ("fsync", run), ("replace", snapshot), ("fsync", run)]
    assert [call for call in calls if call in order][-len(order) :] == order
    assert calls.count(("write", log)) == 1


def test_a_crash_in_the_first_write_of_a_run_leaves_all_or_nothing(tmp_path: Path) -> None:
    def act(store: Store) -> None:
        store.append("r", [event("r", 1)], snapshot=state("r", 1))

    seen = set()
    for directory, _ in every_crash(tmp_path, lambda store: store.archive_id, act):
        with JSONLCheckpointer(directory) as store:
            recovery = store.recover("r")
            seen.add((recovery.state is not None, len(recovery.events) + recovery.offset))
            assert store.list_runs() == (["r"] if recovery.state is not None else [])
            last = store.append("r", [event("r", 2)]).last_offset
            assert numbers(store, "r") == [1, 2][-last:]
    assert seen == {(False, 0), (True, 1)}


def test_a_crash_while_a_torn_tail_is_set_aside_loses_none_of_it(tmp_path: Path) -> None:
    tail = b'{"run_id":"r","torn'

    def before(store: Store) -> None:
        store.save_event(event("r", 1))
        with log_of(store.base_dir).open("ab") as file:
            file.write(tail)

    for directory, _ in every_crash(tmp_path, before, lambda store: store.save_event(event("r", 2))):
        with JSONLCheckpointer(directory) as store:
            store.save_event(event("r", 3))
            assert numbers(store, "r") in ([1, 3], [1, 2, 3])
        assert tail in [path.read_bytes() for path in directory.glob("r/events.jsonl.torn-*")]


def test_a_crash_while_a_run_is_deleted_leaves_it_whole_or_gone(tmp_path: Path) -> None:
    def before(store: Store) -> None:
        store.append("r", [event("r", 1)], snapshot=state("r", 1))
        store.save_snapshot("r", state("r", 1), lane_id="side")

    seen = set()
    for directory, _ in every_crash(tmp_path, before, lambda store: store.delete_run("r")):
        with JSONLCheckpointer(directory) as store:
            is_there = store.list_runs() == ["r"]
            seen.add(is_there)
            assert numbers(store, "r") == ([1] if is_there else [])
            assert (store.load_latest("r") is not None) is is_there
            store.save_event(event("r", 2))
            assert store.delete_run("r")
            assert store.list_runs() == []
        assert {path.name for path in directory.iterdir()} == {".locks", ".runstream.json"}
    assert seen == {True, False}


def test_a_failing_disk_writes_all_or_nothing_and_the_same_call_again_writes_once(tmp_path: Path) -> None:
    """At each call, with an error the process lives to see: from the same object and from another."""

    def before(store: Store) -> None:
        store.append("r", [event("r", 1)], snapshot=state("r", 1))

    for fresh in (False, True):
        stores: list[Store] = []
        failed: list[bool] = []

        def act(store: Store, stores: list[Store] = stores, failed: list[bool] = failed) -> None:
            stores.append(store)
            failed.append(True)
            store.recover("r")
            store.append("r", [event("r", 2), event("r", 3)], snapshot=state("r", 3))
            failed[-1] = False

        error = OSError(errno.EIO, "the disk fails")
        for directory, _ in every_crash(tmp_path / str(fresh), before, act, error):
            with JSONLCheckpointer(directory) if fresh else stores[-1] as store:
                assert numbers(store, "r") == ([1] if failed[-1] else [1, 2, 3])
                recovered = store.recover("r")
                assert recovered.state is not None
                assert recovered.state.current_step == (1 if failed[-1] else 3)
                if failed[-1]:
                    store.append("r", [event("r", 2), event("r", 3)], snapshot=state("r", 3))
                assert numbers(store, "r") == [1, 2, 3]
            with JSONLCheckpointer(directory) as store:
                assert numbers(store, "r") == [1, 2, 3]
                loaded = store.load_latest("r")
                assert loaded is not None
                assert loaded.current_step == 3
        assert {True, False} == set(failed)


def test_a_full_disk_in_the_middle_of_a_write_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_events([event("r", 1), event("q", 1)])
        content = files_below(tmp_path)
        write = os.write

        def short_write(handle: int, data: bytes) -> int:
            if len(data) < 2000:
                return write(handle, data)
            write(handle, data[:1000])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", short_write)
        with pytest.raises(StoreUnavailable) as caught:
            store.save_events([event("q", 2), event("r", 2, text="x" * 5000)])
        assert isinstance(caught.value.__cause__, OSError)
        assert files_below(tmp_path) == content
        monkeypatch.undo()
        store.save_events([event("q", 2), event("r", 2, text="x" * 5000)])
        assert numbers(store, "r") == numbers(store, "q") == [1, 2]


def test_what_could_not_be_cut_back_is_cut_back_before_anything_else_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "the disk fails")

    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
        monkeypatch.setattr(os, "fsync", fail)
        monkeypatch.setattr(os, "ftruncate", fail)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                store.save_event(event("r", 2))
            assert numbers(store, "r") == [1]  # and what was proven can still be read
        monkeypatch.undo()
        store.save_event(event("r", 2))
        assert numbers(store, "r") == [1, 2]
    with JSONLCheckpointer(tmp_path) as store:
        assert numbers(store, "r") == [1, 2]


def test_a_directory_that_cannot_be_written_is_unavailable_to_writers_and_open_to_readers(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
        with pytest.MonkeyPatch.context() as patch:
            open_ = os.open

            def read_only(path: Any, flags: int, *args: Any, **options: Any) -> int:
                if flags & (os.O_WRONLY | os.O_RDWR):
                    raise OSError(errno.EROFS, "Read-only file system")
                return open_(path, flags, *args, **options)

            patch.setattr(os, "open", read_only)
            with pytest.raises(StoreUnavailable):
                store.save_event(event("r", 2))
            assert numbers(store, "r") == [1]


def test_a_failed_batch_is_not_taken_back_from_under_somebody_who_went_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two runs' batches the second fails; another writer goes on from the first before it is taken back."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "the disk fails")

    write = os.write

    def fail_second(handle: int, data: bytes) -> int:
        if b'"run_id":"q"' in bytes(data):
            fail()
        return write(handle, data)

    with JSONLCheckpointer(tmp_path) as store, JSONLCheckpointer(tmp_path) as another:
        store.save_events([event("r", 1), event("q", 1)])
        monkeypatch.setattr(os, "write", fail_second)
        monkeypatch.setattr(os, "ftruncate", fail)
        with pytest.raises(StoreUnavailable):
            store.save_events([event("r", 2), event("q", 2)])
        monkeypatch.undo()
        another.save_event(event("r", 3))
        assert numbers(another, "r") == [1, 2, 3]
        for use in (store.position, store.run_info, lambda run_id: store.save_event(event(run_id, 4))):
            use("r")
            assert numbers(another, "r")[:3] == [1, 2, 3]
        assert numbers(store, "r") == [1, 2, 3, 4]
        assert numbers(store, "q") == [1]


def test_a_failed_batch_is_taken_back_only_by_who_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader leaves it alone: another writer may be in the middle of going on from it."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "the disk fails")

    with JSONLCheckpointer(tmp_path, busy_timeout_seconds=0.05) as store:
        store.save_event(event("r", 1))
        monkeypatch.setattr(os, "fsync", fail)
        monkeypatch.setattr(os, "ftruncate", fail)
        with pytest.raises(StoreUnavailable):
            store.save_event(event("r", 2))
        monkeypatch.undo()
        content = log_of(tmp_path).read_bytes()
        with Locks(tmp_path, 0.0).held(["r"]):
            assert numbers(store, "r") == [1]
            for use in (store.position, store.read_back_snapshots, lambda run_id: store.read_back(run_id, 1, 1)):
                with pytest.raises(StoreUnavailable, match="another process has held"):
                    use("r")
            assert log_of(tmp_path).read_bytes() == content
        position = store.position("r")
        assert position is not None
        assert position.cursor.offset == 1
        assert len(log_of(tmp_path).read_bytes()) < len(content)


def test_who_waits_for_a_lock_whose_file_is_removed_takes_the_one_that_others_take(tmp_path: Path) -> None:
    first, second, third = (Locks(tmp_path, seconds) for seconds in (0.0, 1.0, 0.0))
    entered: list[str] = []

    def wait() -> None:
        try:
            with second.held(["r"]):
                entered.append("the second, beside the third")
        except StoreUnavailable:
            entered.append("nobody")

    waiter = threading.Thread(target=wait)
    with ExitStack() as former:
        former.enter_context(first.held(["r"]))
        waiter.start()
        (lock,) = (tmp_path / ".locks").iterdir()
        eventually(lambda: len(handles_of(lock)) == 2)  # the second has opened it too
        lock.unlink()
        with third.held(["r"]):
            former.close()
            waiter.join(DEADLINE_SECONDS)
    assert entered == ["nobody"]


def handles_of(path: Path) -> list[str]:
    """The handles that this process has on a file."""
    found = []
    for handle in Path("/dev/fd").iterdir():
        with suppress(OSError):  # one that is closed by now
            if os.path.samestat(os.fstat(int(handle.name)), path.stat()):
                found.append(handle.name)
    return found


def test_a_new_runs_name_is_on_the_disk_even_if_another_made_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody was killed between making the directory and its fsync."""
    synced: list[int] = []
    fsync = os.fsync

    def noted_fsync(handle: int) -> None:
        fsync(handle)
        synced.append(os.fstat(handle).st_ino)

    with JSONLCheckpointer(tmp_path) as store:
        assert store.archive_id
        (tmp_path / "r").mkdir()
        monkeypatch.setattr(os, "fsync", noted_fsync)
        store.save_event(event("r", 1))
    log, run, base = log_of(tmp_path).stat().st_ino, (tmp_path / "r").stat().st_ino, tmp_path.stat().st_ino
    assert synced.index(base) < synced.index(log)
    assert run in synced[synced.index(log) :]


def test_all_directories_that_a_new_archive_lies_in_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def noted_fsync(handle: int) -> None:
        fsync(handle)
        synced.add(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    with JSONLCheckpointer(tmp_path / "a" / "b" / "c") as store:
        assert store.archive_id
    places = [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"]
    assert {place.stat().st_ino for place in places} <= synced


def test_the_integrity_of_lines_and_snapshots_is_checked(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        entries = history("r", START, [event("r", number, text="plain") for number in range(1, 6)])
        entries.append(ArchiveEntry(6, 77, None, None, b"\x01\xff raw", "it was broken when it came"))
        store.write([batch("r", START, entries, ArchiveSnapshot(None, 6, 1, "t", '{"a":1}'))])
        store.save_events([event("q", 1), event("q", 2)])
        assert store.check_integrity() == []
        content = log_of(tmp_path).read_bytes().split(b"\n")
        content[2] = content[2].replace(b"plain", b"p\xffain")
        log_of(tmp_path).write_bytes(b"\n".join(content))
        (tmp_path / "r" / "snapshot.json").write_text("{")
        log_of(tmp_path, "q").write_bytes(log_of(tmp_path, "q").read_bytes() + b"nonsense\n")
        found = store.check_integrity()
    assert len(found) == 3
    assert "run 'q', event 3: not an event of this run" in found[0]
    assert "run 'r', event 2: its line was damaged" in found[1]
    assert "the snapshot of run 'r' does not read" in found[2]


WRITER = """
import sys
from runstream.stores.archive.jsonl import JSONLCheckpointer
from runstream.model.events import create_event
from runstream.model.state import RunState
directory, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = JSONLCheckpointer(directory)
for number in range(1, count + 1):
    events = [create_event("r", "text.delta", lane_id=name, seq=number, number=number, part=p) for p in (1, 2)]
    snapshot = RunState(run_id="r", current_step=number) if number % 3 == 0 else None
    made = store.append("r", events, snapshot=snapshot, lane_id=name if snapshot else None)
    print(number, made.last_offset, flush=True)
"""


def start_writer(directory: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(directory), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_append_to_one_run_without_a_gap_or_a_mix(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path, name, 60) for name in ("a", "b")]
    for writer in writers:
        output, _ = writer.communicate(timeout=DEADLINE_SECONDS)
        assert writer.returncode == 0
        assert len(output.splitlines()) == 60
    with JSONLCheckpointer(tmp_path) as store:
        assert len(numbers(store, "r")) == 240
        events = store.list_events("r")
        for name in ("a", "b"):
            mine = [(each.payload["number"], each.payload["part"]) for each in events if each.lane_id == name]
            assert mine == [(number, part) for number in range(1, 61) for part in (1, 2)]
        lanes = [each.lane_id for each in events]
        assert lanes[::2] == lanes[1::2]  # batches do not run into each other
        for name in ("a", "b"):
            snapshot = store.load_snapshot("r", lane_id=name)
            assert snapshot is not None
            assert (snapshot.state.current_step, snapshot.revision) == (60, 20)


def test_a_writer_killed_again_and_again_keeps_all_that_it_was_told_is_kept(tmp_path: Path) -> None:
    kept = 0
    for turn in range(8):
        with start_writer(tmp_path, f"turn-{turn}", 100_000) as writer:
            assert writer.stdout is not None
            for _ in range(5 + turn * 7):
                kept = int(writer.stdout.readline().split()[1])
            writer.send_signal(signal.SIGKILL)
            writer.wait(DEADLINE_SECONDS)
            for line in writer.stdout.read().splitlines():
                kept = int(line.split()[1])
        with JSONLCheckpointer(tmp_path) as store:
            found = numbers(store, "r")
            assert kept <= len(found) <= kept + 2
            assert len(found) % 2 == 0  # batches are whole
            events = [each for each in store.list_events("r") if each.lane_id == f"turn-{turn}"]
            snapshot = store.load_snapshot("r", lane_id=f"turn-{turn}")
            step = 0 if snapshot is None else snapshot.state.current_step
            assert step == len(events) // 2 // 3 * 3  # the snapshot is there just as far as its events


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


def test_threads_share_one_object(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:

        def work(thread: int) -> None:
            for number in range(20):
                store.save_event(event("r", thread * 100 + number))

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        assert sorted(numbers(store, "r")) == [
            thread * 100 + number for thread in range(4) for number in range(20)
        ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # pytest-timeout has a thread
def test_a_forked_child_writes_on_even_if_a_thread_of_the_parent_held_the_mutex(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
        held, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with store._mutex:
                held.set()
                go_on.wait(DEADLINE_SECONDS)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(DEADLINE_SECONDS)
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # a child that waits for the mutex waits for ever
            code = 1
            try:
                store.save_event(event("r", 2))
                code = 0
            finally:
                os._exit(code)
        go_on.set()
        thread.join(DEADLINE_SECONDS)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        store.save_event(event("r", 3))
        assert numbers(store, "r") == [1, 2, 3]


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
    def handles() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    before = handles()
    with JSONLCheckpointer(tmp_path) as store:
        for number in range(40):
            store.save_event(event(f"r{number}", 1))
        store.save_events([event(f"r{number}", 2) for number in range(40)])
        assert handles() == before


def test_a_newer_format_and_a_file_in_its_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".runstream.json").write_text('{"format": 2, "archive_id": "x"}')
    with pytest.raises(UnsupportedVersion) as caught:
        JSONLCheckpointer(tmp_path / "new")
    assert (caught.value.found, caught.value.supported) == (2, 1)
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


# -- as a sink


START = Cursor(0, 12345)


def test_what_is_written_reads_back_the_same_byte_for_byte(tmp_path: Path) -> None:
    events = [
        event("r", 1, text='"$offset":1,"$chain":2}', nested={"$offset": 1, "$chain": 2}),
        event("r", 2, value=(1, {2: b"x"}, {"$set": [1]}, float("nan"), "\ud800", "\u2028\x85\r")),
    ]
    entries = history("r", START, events)
    hard = '"$offset":7,"$chain":8,"$commit":{"status":""}}'
    entries.append(ArchiveEntry(3, 77, None, None, b"\x01\xff raw", f"because {hard}"))
    entries.append(ArchiveEntry(4, 78, None, None))
    entries.append(entries[0]._replace(offset=5, chain=79, key=f'a key, "quoted" {hard} é\ud800'))
    snapshots = [
        ArchiveSnapshot(None, 5, 3, "token-1", '{"a":1}'),
        ArchiveSnapshot("$offset", 5, 1, hard, '{"a":{"$offset":1}}'),
        ArchiveSnapshot("", 5, 1, "t", "{}"),
    ]
    for _ in range(2):
        with JSONLCheckpointer(tmp_path) as store:
            store.write([batch("r", START, entries, *snapshots, status="paused")])
            assert [found.content for found in store.read_back("r", 1, 5)] == [each.content for each in entries]
            assert [found.content for found in store.read_back("r", 3, 3)] == [entries[2].content]
            assert sorted(store.read_back_snapshots("r"), key=str) == sorted(snapshots, key=str)
            position = store.position("r")
            assert position is not None
            assert position.cursor == entries[-1].cursor
            assert position.snapshots == {each.lane_id: each.token for each in snapshots}
            ((run_id, kept),) = store.quarantine()
            assert (run_id, kept._replace(quarantined_at=0.0)) == ("r", entries[2])
            assert time.time() - 60 < kept.quarantined_at <= time.time()
            info = store.run_info("r")
            assert info is not None
            assert (info.status, info.session_id, info.created_at, info.updated_at) == ("paused", "s", 1.5, 2.5)
    assert theirs.JSONLCheckpointer(str(tmp_path)).list_events("r")[0].payload == events[0].payload


def test_the_same_batch_again_and_an_overlapping_one_add_only_what_is_new(tmp_path: Path) -> None:
    entries = history("r", START, [event("r", number) for number in range(1, 7)])
    with JSONLCheckpointer(tmp_path) as store:
        one, two = (ArchiveSnapshot(None, 3, number, f"token-{number}", "{}") for number in (1, 2))
        store.write([batch("r", START, entries[:3], one)])
        content = files_below(tmp_path)
        store.write([batch("r", START, entries[:3], one), batch("r", START, entries[:2])])
        assert files_below(tmp_path) == content
        store.write([batch("r", START, entries[:3], two)])
        assert store.read_back_snapshots("r") == [two]
        store.write([batch("r", START, entries[:5]), batch("r", START, entries)])
        assert numbers(store, "r") == [1, 2, 3, 4, 5, 6]
    with JSONLCheckpointer(tmp_path) as store:
        assert numbers(store, "r") == [1, 2, 3, 4, 5, 6]


def test_a_gap_or_another_history_in_one_run_writes_nothing_of_any(tmp_path: Path) -> None:
    entries = history("r", START, [event("r", number) for number in range(1, 5)])
    others = history("r", START, [event("r", number + 10) for number in range(1, 5)])
    good = batch("q", START, history("q", START, [event("q", 1)]), ArchiveSnapshot(None, 1, 1, "t", "{}"))
    with JSONLCheckpointer(tmp_path) as store:
        store.write([batch("r", START, entries[:2])])
        content = files_below(tmp_path)
        with pytest.raises(ArchiveGap) as gap:
            store.write([good, batch("r", entries[2].cursor, entries[3:])])
        assert (gap.value.expected, gap.value.found) == (3, 4)
        with pytest.raises(HistoryDiverged):
            store.write([good, batch("r", START, others)])
        with pytest.raises(HistoryDiverged):
            store.write([good, batch("r", others[1].cursor, others[2:])])
        assert files_below(tmp_path) == content
        assert store.position("q") is None
        store.write([good, batch("r", entries[1].cursor, entries[2:])])
        assert numbers(store, "r") == [1, 2, 3, 4]


def test_a_history_that_starts_after_a_base_is_kept_from_there(tmp_path: Path) -> None:
    start = Cursor(40, 999)
    entries = history("r", start, [event("r", 41), event("r", 42)])
    for _ in range(2):
        with JSONLCheckpointer(tmp_path) as store:
            store.write([batch("r", start, []), batch("r", start, entries)])
            assert numbers(store, "r") == [41, 42]
            info = store.run_info("r")
            assert info is not None
            assert (info.first_hot, info.last_offset) == (41, 42)
            assert [item.offset for item in store.read("r", str(entries[0].cursor))] == [42]


def test_a_position_is_on_the_disk_even_if_its_writer_was_killed_before_its_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
    synced: list[int] = []
    fsync = os.fsync

    def noted_fsync(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    with JSONLCheckpointer(tmp_path) as store:
        store.position("r")
        assert log_of(tmp_path).stat().st_ino in synced
        synced.clear()
        store.position("r")
        assert synced == []


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
