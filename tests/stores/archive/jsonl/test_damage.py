"""P12: what is damaged in one line, or one file, of a JSONL archive holds up no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import CorruptRecordError, JSONLCheckpointer, UnsupportedVersion
from runstream.repair.verify import verify_run
from runstream.stores.archive.jsonl import directory
from runstream.stores.archive.jsonl.commit_marks import Mark
from runstream.stores.archive.jsonl.line_format import facts_of, load_header
from tests.support.operations import last_seq
from tests.support.samples import make_event, make_state

Store = JSONLCheckpointer[Any, Any]
KEPT = Path(__file__).parents[3] / "kept" / "v0_1_0" / "archive_jsonl"


def opened(path: Path) -> Store:
    return JSONLCheckpointer(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of six events in two lanes, each event with a key and a snapshot."""
    path = tmp_path_factory.mktemp("sound")
    with closing(opened(path)) as store:
        for run_id in ("r", "other"):
            for seq in range(1, 7):
                event = make_event(run_id, seq, lane_id=f"lane{seq % 2}")
                store.append(run_id, [event], keys=[f"k{seq}"], snapshot=make_state(run_id, current_step=seq))
    return path


@pytest.fixture
def archive(sound: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(sound, tmp_path / "archive"))


def change(path: Path, line: int, old: bytes, new: bytes) -> None:
    """Change the last of these bytes in a line (0: the first)."""
    lines = path.read_bytes().splitlines(keepends=True)
    assert old in lines[line]
    before, _, after = lines[line].rpartition(old)
    lines[line] = before + new + after
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"lane_id":"lane', b'"lane_id":"l\xffne'),
        (b'"lane_id":"lane', b'"lane_id":"\0\0\0\0'),
        (b'"lane_id":"lane1"', b'"lane_id":["l1"]'),
        (b'"lane_id":"lane1"', b'"lane_id":12'),
        (b'"kind":"agent.progress"', b'"kind":["x"]'),
        (b'"seq":3', b'"seq":"three"'),
        (b'"ts":', b'"ts":1e999,"x":'),
        (b'"run_id":"r"', b'"run_id":"q"'),
        (b'"$key":"k3"', b'"$key":"k\xff"'),
        (b'"payload":', b'"payload":\xc3'),
        (b'"span_id":', b'"$own":1,"span_id":'),
        (b'"payload":{"n":3}', b'"payload":' + b"[" * 3000),
    ],
    ids=[
        *("byte in lane", "zeros in lane", "lane a list", "lane a number", "kind", "seq", "ts", "run", "key"),
        *("payload", "reserved name", "deep"),
    ],
)
def test_a_damaged_line_is_reported_with_its_place_and_its_neighbours_are_read(
    archive: Path, old: bytes, new: bytes
) -> None:
    change(archive / "r" / "events.jsonl", 3, old, new)  # after the header
    with closing(opened(archive)) as store:
        with pytest.raises(CorruptRecordError) as caught:
            store.list_events("r")
        assert (caught.value.run_id, caught.value.offset) == ("r", 3)
        assert [item.offset for item in store.read("r", on_corrupt="skip")] == [1, 2, 4, 5, 6]
        given: list[Any] = list(store.read("r", on_corrupt="raw"))
        assert [item.offset for item in given] == [1, 2, 3, 4, 5, 6]
        assert new in given[2].event
        difference = verify_run("r", sinks=[store]).difference
        assert difference is not None
        assert difference.offset == 3
        assert verify_run("other", sinks=[store]).is_sound
        assert last_seq(store, "r", "lane0") == 6
        assert {info.run_id for info in store.runs()} == {"r", "other"}
        assert store.append("r", [make_event("r", 7)]).last_offset == 7


@pytest.mark.parametrize("of_history", [False, True], ids=["the latest", "in the history"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"$token":"', b'"$token":"\xff'),
        (b'"$token":"', b'"$token":"\\x'),
        (b'"$offset":', b'"$offset":99999999999999999999'),
        (b'"$offset":', b'"$offset":"1"'),
        (b'"$revision":', b'"$revision":-'),
        (b'"$lane":null', b'"$lane":"\xff"'),
        (b'"current_step":', b'"current_step":\xff'),
    ],
)
def test_a_damaged_snapshot_is_reported_and_no_other_is(
    archive: Path, old: bytes, new: bytes, of_history: bool
) -> None:
    path = archive / "r" / ("snapshots.jsonl" if of_history else "snapshot.json")
    change(path, 2 if of_history else 0, old, new)
    with closing(opened(archive)) as store:
        assert len(store.list_events("r")) == 6
        assert store.position("r") is not None
        if of_history:
            assert len(list(store.snapshot_history("other"))) == 6
            if old != b'"current_step":':  # it was saved later: it may be the one that fits
                with pytest.raises(CorruptRecordError):
                    store.snapshot_at("r", 2)
            for offset in (4, 5, 6):
                at = store.snapshot_at("r", offset)
                assert at is not None
                assert at.state.current_step == offset
        else:
            with pytest.raises(CorruptRecordError):
                store.load_snapshot("r")
        store.save_snapshot("r", make_state("r", current_step=8))
        assert store.load_latest("r").current_step == 8  # type: ignore[union-attr] # it was saved


@pytest.mark.parametrize("digit", [b"7", b"0"])
def test_a_damaged_digit_of_an_offset_spoils_its_own_line_alone(archive: Path, digit: bytes) -> None:
    change(archive / "r" / "events.jsonl", 3, b'"$offset":3', b'"$offset":' + digit)
    with closing(opened(archive)) as store:
        assert [item.offset for item in store.read("r", on_corrupt="skip")] == [1, 2, 4, 5, 6]
        with pytest.raises(CorruptRecordError) as caught:
            store.list_events("r")
        assert caught.value.offset == 3


@pytest.mark.parametrize("events", [1, 3])
def test_a_batch_whose_commit_mark_was_damaged_is_there_and_reported(archive: Path, events: int) -> None:
    """It came whole, as its checksum shows: it was acknowledged, and is not taken for a torn one."""
    path = archive / "r" / "events.jsonl"
    with closing(opened(archive)) as store:
        store.append("r", [make_event("r", seq) for seq in range(7, 7 + events)])
    change(path, -1, b'"status":"r', b'"stat5s":"r')
    last = 6 + events
    with closing(opened(archive)) as store:
        assert [item.offset for item in store.read("r", on_corrupt="skip")] == list(range(1, last))
        for read in (store.list_events, store.run_info):
            with pytest.raises(CorruptRecordError) as caught:
                read("r")
            assert (caught.value.run_id, caught.value.offset) == ("r", last)
        assert store.list_runs() == ["other"]
        assert [problem for problem in store.check_integrity() if f"after event {last}" in problem]
        assert verify_run("r", sinks=[store]).difference is not None
        with pytest.raises(CorruptRecordError, match="restore the directory"):
            store.append("r", [make_event("r", 9)])
    assert not list(path.parent.glob("*torn*"))


def test_a_damaged_line_break_at_the_end_is_reported_and_hides_nothing(archive: Path) -> None:
    path = archive / "r" / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-1] + b"J")
    with closing(opened(archive)) as store:
        assert [item.offset for item in store.read("r", on_corrupt="skip")] == [1, 2, 3, 4, 5]
        for read in (store.list_events, store.run_info):
            with pytest.raises(CorruptRecordError) as caught:
                read("r")
            assert caught.value.offset == 6
        with pytest.raises(CorruptRecordError, match="restore the directory"):
            store.append("r", [make_event("r", 7)])
    assert not list(path.parent.glob("*torn*"))


def test_what_a_damaged_line_may_have_had_is_in_doubt(archive: Path) -> None:
    """The key of the event, so that it is not recorded twice; the lane, so that its count does not begin again."""
    change(archive / "r" / "events.jsonl", 5, b'"$key":"k5"', b'"$key":"k4"')
    with closing(opened(archive)) as store:
        with pytest.raises(CorruptRecordError, match="one of these keys"):
            store.append("r", [make_event("r", 5, lane_id="lane1")], keys=["k5"])
        assert store.append("r", [make_event("r", 6)], keys=["k6"]).last_offset == 6
        assert last_seq(store, "r", "lane0") == 6
        with pytest.raises(CorruptRecordError, match="the last of lane 'lane1'"):
            last_seq(store, "r", "lane1")


def test_a_directory_of_format_1_is_read_as_it_is_and_goes_on_with_checksums(tmp_path: Path) -> None:
    archive = Path(shutil.copytree(KEPT, tmp_path / "archive"))
    log, about = archive / "lanes" / "events.jsonl", archive / ".runstream.json"
    before = log.read_bytes()
    assert b"$checksum" not in before
    with closing(opened(archive)) as store:
        assert store.check_integrity() == []
        events = store.list_events("lanes")
        assert json.loads(about.read_text())["format"] == 1
        archive_id = store.archive_id
        store.append("lanes", [make_event("lanes", 99)], snapshot=make_state("lanes"))
        assert json.loads(about.read_text())["format"] == 4
        assert store.archive_id == archive_id
        assert store.list_events("lanes")[:-1] == events
        assert store.check_integrity() == []
    added = log.read_bytes().removeprefix(before)
    facts = facts_of(added.strip())
    assert facts is not None
    assert facts[5] is not None


def test_a_process_that_has_the_directory_open_sees_its_format_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of an older version is refused from then on."""
    archive = Path(shutil.copytree(KEPT, tmp_path / "archive"))
    with closing(opened(archive)) as older, closing(opened(archive)) as store:
        assert older.archive_id == store.archive_id
        store.append("lanes", [make_event("lanes", 99)])
        monkeypatch.setattr(directory, "_FORMAT", 1)
        with pytest.raises(UnsupportedVersion):
            older.append("lanes", [make_event("lanes", 100)])


@pytest.mark.parametrize(
    "payload",
    [
        {"$offset": 1, "$chain": 2},
        {"$offset": 4, "$chain": 2, "$commit": {"status": "running", "updated_at": 1.0}},
        {"line": {"n": 1, "$offset": 4, "$chain": 2, "$key": "k", "$commit": {"status": "failed"}}},
        {"$offset": 4, "$chain": 2, "$commit": {"status": 1}, "more": 2},
    ],
)
def test_a_line_of_another_program_that_looks_like_our_marks_is_its_own_event(archive: Path, payload: Any) -> None:
    """A payload may hold a copy of a line of ours, in the very spelling that we use."""
    fields = {"run_id": "r", "kind": "tool.result", "ts": 1.0, "seq": 7, "payload": payload}
    line = json.dumps(fields, separators=(",", ":")).encode()
    with (archive / "r" / "events.jsonl").open("ab") as log:
        log.write(line + b"\n")
    with closing(opened(archive)) as store:
        assert [item.offset for item in store.read("r")] == [1, 2, 3, 4, 5, 6, 7]
        assert store.list_events("r")[-1].payload == payload
        info = store.run_info("r")
        assert info is not None
        assert info.status == "running"
        assert store.append("r", [make_event("r", 8)]).last_offset == 8
        assert [event.seq for event in store.list_events("r")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert facts_of(line) is None


@pytest.mark.parametrize(
    ("load", "text"),
    [
        *((load_header, text) for text in (b'{"$run":[]}', b"[]", b"[" * 9999)),
        (load_header, b'{"$run":{"run_id":1,"created_at":2}}'),
        *((load_header, b'{"$run":{"run_id":"r","created_at":%b}}' % at) for at in (b'"x"', b"NaN", b"9" * 400)),
        (load_header, b'{"$run":{"run_id":"r","created_at":1,"parent":[]}}'),
        *((Mark.load, text) for text in (b"1", b'{"status":1}', b'{"status":"\xff"}')),
        (Mark.load, b'{"status":"x","updated_at":"y"}'),
        *((Mark.load, b'{"status":"x","%b":%b}' % pair) for pair in ((b"snapshots", b"[1]"), (b"kept", b"3"))),
        (Mark.load, b'{"status":"x","snapshots":[[1,"t"]]}'),
    ],
)
def test_what_is_noted_and_does_not_read_is_a_value_error(load: Callable[[bytes], Any], text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - what it says is not ours
        load(text)


def test_a_batch_that_was_damaged_as_a_whole_behind_another_program_s_line_is_told(tmp_path: Path) -> None:
    """Nothing of it tells whether it was made before that line came."""
    log = tmp_path / "archive" / "r" / "events.jsonl"
    with closing(opened(tmp_path / "archive")) as store:
        store.save_event(make_event("r", 1))
    with log.open("ab") as file:
        file.write(json.dumps({"run_id": "r", "seq": 2, "kind": "x", "payload": {}}).encode() + b"\n")
    with closing(opened(tmp_path / "archive")) as store:
        store.save_event(make_event("r", 3))
    change(log, 3, b'"seq":3', b'"seq":7')
    with closing(opened(tmp_path / "archive")) as store:
        assert [item.event.seq for item in store.read("r", on_corrupt="skip")] == [1, 2]
        with pytest.raises(CorruptRecordError) as caught:
            list(store.read("r"))
        assert caught.value.offset == 3
        assert "after event 3" in "".join(store.check_integrity())
