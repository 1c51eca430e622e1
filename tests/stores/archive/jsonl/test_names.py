"""The directories of runs: any run id gets a safe name of its own, and nothing is written elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from purpose_agent.runtime import checkpoint as theirs

from runstream.model.errors import (
    ConfigurationError,
    StoreUnavailable,
)
from runstream.stores.archive.jsonl import JSONLCheckpointer, file_names
from tests.stores.archive.jsonl.lines import event, numbers, state

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
