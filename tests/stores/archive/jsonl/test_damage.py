"""P12: what is damaged in one line, or one file, of a JSONL archive holds up no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import CorruptRecordError, JSONLCheckpointer
from runstream.repair.verify import verify_run
from runstream.stores.archive.jsonl.line_format import Mark, facts_of, load_header
from tests.support.operations import last_seq
from tests.support.samples import make_event, make_state

Store = JSONLCheckpointer[Any, Any]


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
            at_2 = store.snapshot_at("r", 2)
            assert at_2 is not None
            assert at_2.state.current_step == 2
            for offset in (4, 5, 6):
                at = store.snapshot_at("r", offset)
                assert at is not None
                assert at.state.current_step == offset
        else:
            with pytest.raises(CorruptRecordError):
                store.load_snapshot("r")
        store.save_snapshot("r", make_state("r", current_step=8))
        assert store.load_latest("r").current_step == 8  # type: ignore[union-attr] # it was saved


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
