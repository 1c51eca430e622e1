"""The directories of runs: any run id gets a safe name of its own, and nothing is written elsewhere."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from purpose_agent.runtime import EventKind, PAEvent, RunState
from purpose_agent.runtime import checkpoint as theirs

from runstream import DrainWorker, SQLiteCheckpointer
from runstream.cli.restore import _restore, _wanted
from runstream.model.errors import (
    ConfigurationError,
    HistoryDiverged,
    StoreUnavailable,
)
from runstream.stores.archive.jsonl import JSONLCheckpointer, directory, file_names
from runstream.stores.archive.jsonl.file_locks import names_in
from runstream.stores.capabilities import archive_of
from tests.stores.archive.jsonl.lines import event, numbers, state
from tests.support.backends import FakeBackend
from tests.support.commands import run
from tests.support.drain_tools import open_hot, parked

HOSTILE = [
    "../../x", "a/b", ".", "..", ".hidden", "a\0b", "a\nb", "a:b", 'a"<>|?*\\', "A", "a", "RUN", "run", "Run",
    "x" * 500, "x" * 499 + "y", "é" * 250, "trailing.", "trailing ", "%41", "%2525", "%-" + "0" * 64, "con", "NUL",
    "com1.txt", "50%", "\u202e", "\U0001f600", "snapshot.json", ".locks", ".runstream.json", "é", "e\u0301", " ",
]  # fmt: skip


def their_event(run_id: str, number: int) -> PAEvent:
    return PAEvent(run_id, seq=number, kind=EventKind.TOOL_RESULT, payload={"number": number})


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
        if file_names.raw_parts(one):
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


@pytest.mark.parametrize("run_id", ["Run One", "team/a", "a/B c/d", ".hidden", ".a/b", "50%", "con", "é/é"])
def test_a_run_of_another_program_is_read_where_that_has_it(tmp_path: Path, run_id: str) -> None:
    """Alternately, by both, each while the other has it open."""
    writer = theirs.JSONLCheckpointer(str(tmp_path))
    with JSONLCheckpointer(tmp_path) as store:
        for number in (1, 3):
            writer.save_event(their_event(run_id, number))
            assert numbers(store, run_id) == list(range(1, number + 1))
            store.append(run_id, [event(run_id, number + 1)], snapshot=state(run_id, number))
            assert [one.seq for one in writer.list_events(run_id)] == list(range(1, number + 2))
            assert writer.load_latest(run_id).current_step == number
        writer.save_snapshot(run_id, RunState(run_id, current_step=7))
        assert [store.load_latest(run_id).current_step, store.list_runs()] == [7, [run_id]]  # type: ignore[union-attr]
        assert store.check_integrity() == []
        assert store.delete_run(run_id)
        assert (store.list_runs(), writer.list_events(run_id)) == ([], [])


def test_no_call_for_a_run_of_another_program_lists_all_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the file system may take two spellings for one: then what it finds counts where it is spelt so."""
    listed: list[Path] = []

    def noting(path: Path) -> list[str]:
        listed.append(path)
        return [name for name in names_in(path) if name not in hidden]

    writer, hidden = theirs.JSONLCheckpointer(str(tmp_path)), set[str]()
    writer.save_event(their_event("Run 1", 1))
    monkeypatch.setattr(directory, "names_in", noting)
    with JSONLCheckpointer(tmp_path) as store:
        store.append("Run 1", [event("Run 1", 2)], snapshot=state("Run 1", 1))
        assert numbers(store, "Run 1") == [1, 2]
        assert tmp_path not in listed
        writer.save_event(their_event("rUN 1", 3))
        assert [numbers(store, run_id) for run_id in ("Run 1", "rUN 1")] == [[1, 2], [3]]
        assert tmp_path in listed
        hidden.add("rUN 1")
        assert numbers(store, "rUN 1") == []


def test_a_run_in_the_directory_of_another_outlives_that(tmp_path: Path) -> None:
    writer = theirs.JSONLCheckpointer(str(tmp_path))
    for run_id in ("team/a", "team", "team/a/b", "Team/a"):
        writer.save_event(their_event(run_id, 1))
    with JSONLCheckpointer(tmp_path) as store:
        assert sorted(store.list_runs()) == ["Team/a", "team", "team/a", "team/a/b"]
        for run_id in ("team/a", "team"):
            store.append(run_id, [event(run_id, 2)], snapshot=state(run_id, 1))
            assert store.delete_run(run_id)
        assert sorted(store.list_runs()) == ["Team/a", "team/a/b"]
        assert numbers(store, "team/a/b") == [1]
    assert [path.name for path in (tmp_path / "team").iterdir()] == ["a"]


def test_a_run_in_the_directory_of_another_is_there_while_that_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process that is killed on the way; who repeats it ends it."""

    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    writer = theirs.JSONLCheckpointer(str(tmp_path))
    for run_id in ("team", "team/a"):
        writer.save_event(their_event(run_id, 1))
    with JSONLCheckpointer(tmp_path) as store:
        with monkeypatch.context() as patched:
            patched.setattr(directory, "_remove_files", killed)
            with pytest.raises(KeyboardInterrupt):
                store.delete_run("team")
        assert numbers(store, "team/a") == [1]
        assert store.delete_run("team")
        assert store.list_runs() == ["team/a"]


@pytest.mark.parametrize("run_id", ["../out", "/{dir}/out", "a/../out", "a//b", ".locks/a", ".runstream.json/a"])
def test_what_another_program_has_elsewhere_is_neither_read_nor_written(tmp_path: Path, run_id: str) -> None:
    inside, run_id = tmp_path / "inside", run_id.format(dir=tmp_path)
    with JSONLCheckpointer(inside) as store:
        store.save_event(event("r", 1))
        (inside / "a").mkdir()
        with contextlib.suppress(NotADirectoryError, FileExistsError):
            theirs.JSONLCheckpointer(str(inside)).save_event(their_event(run_id, 1))
        before = logs(tmp_path)
        assert (file_names.raw_parts(run_id), store.list_events(run_id)) == ([], [])
        store.save_event(event(run_id, 2))
        assert numbers(store, run_id) == [2]
    after = logs(tmp_path)
    assert {path: after.pop(path) for path in before} == before
    assert list(after) == [inside / file_names.encoded(run_id) / file_names.EVENTS]


def logs(path: Path) -> dict[Path, bytes]:
    return {each: each.read_bytes() for each in path.rglob(file_names.EVENTS)}


def test_a_symbolic_link_on_the_way_to_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out" / "b").mkdir(parents=True)
    with JSONLCheckpointer(tmp_path / "in") as store:
        (tmp_path / "in" / "a").symlink_to(tmp_path / "out")
        with pytest.raises(ConfigurationError, match="symbolic link"):
            store.save_event(event("a/b", 1))
        assert store.list_runs() == []
    assert list((tmp_path / "out" / "b").iterdir()) == []


def test_a_run_in_two_directories_is_refused_and_holds_up_no_other(tmp_path: Path) -> None:
    """Another program's writer makes a directory beside ours: neither is ignored."""
    with JSONLCheckpointer(tmp_path) as store:
        store.append("Run", [event("Run", 1)])
        store.append("other", [event("other", 1)])
        theirs.JSONLCheckpointer(str(tmp_path)).save_event(event("Run", 2))
        tries: list[Callable[[], object]] = [
            lambda: store.list_events("Run"),
            lambda: store.append("Run", [event("Run", 3)]),
            lambda: store.position("Run"),
            lambda: store.run_info("Run"),
            lambda: store.load_latest("Run"),
            lambda: store.delete_run("Run"),
            lambda: list(store.quarantine("Run")),
        ]
        for attempt in tries:
            with pytest.raises(HistoryDiverged, match="two directories") as caught:
                attempt()
            assert caught.value.run_id == "Run"
        assert store.list_runs() == ["other"]
        assert list(store.quarantine()) == []
        (problem,) = store.check_integrity()
        assert "two directories" in problem
        # as the message says
        ours, raw = tmp_path / file_names.encoded("Run") / file_names.EVENTS, tmp_path / "Run"
        ours.write_bytes(ours.read_bytes() + (raw / file_names.EVENTS).read_bytes())
        shutil.rmtree(raw)
        assert numbers(store, "Run") == [1, 2]
        assert store.check_integrity() == []


def test_every_command_tells_of_a_run_in_two_directories(fake: FakeBackend, tmp_path: Path) -> None:
    url = f"jsonl:{tmp_path}"
    with JSONLCheckpointer[Any, Any](tmp_path) as store:
        store.save_events([event("Run", 1), event("other", 1)])
        theirs.JSONLCheckpointer(str(tmp_path)).save_event(event("Run", 2))
        put_back = restore_all(open_hot(fake), store)
    assert put_back == {"Run": None, "other": 1}
    SQLiteCheckpointer(f"{tmp_path}.db").close()
    for arguments, code in (
        (["runs", "--url", url], 0),
        (["status", "--url", url], 0),
        (["status", "--url", f"sqlite:{tmp_path}.db", "--archive", url], 0),
        (["verify", "--archive", url], 1),
    ):
        said = run(*arguments)
        assert said.code == code
        assert "Run' is in two" in " ".join((said.out + said.err).split())
    assert run("status", "--url", url, "--json").document["refused"].keys() == {"Run"}
    verdicts = run("verify", "--archive", url, "--json").document["runs"]
    assert {one["run_id"]: one["is_sound"] for one in verdicts} == {"Run": False, "other": True}


def restore_all(hot: Any, store: Any) -> dict[str, int | None]:
    """The last offset of each run that `runstream restore` puts back; None for one that it refuses."""
    done = _restore(hot, archive_of(store), _wanted(archive_of(store), None), whole=False)
    return {one.run_id: None if one.put is None else one.put.last.offset for one in done}


def test_a_drain_parks_a_run_in_two_directories_alone(fake: FakeBackend, tmp_path: Path) -> None:
    hot = open_hot(fake)
    with JSONLCheckpointer[Any, Any](tmp_path) as store:
        worker = DrainWorker(hot, [store])
        for number in (1, 2):
            hot.save_events([event("Run", number), event("other", number)])
            worker.drain_once()
            if number == 1:
                theirs.JSONLCheckpointer(str(tmp_path)).save_event(event("Run", 2))
        assert "two directories" in parked(hot)["Run"]
        assert numbers(store, "other") == [1, 2]
