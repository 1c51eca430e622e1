"""Forks are verified, put back and exported: what they share lies in the runs that they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runstream import DrainWorker, SQLiteCheckpointer, connect
from runstream.model.archive_records import RunBatch
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from runstream.stores.capabilities import archive_of
from runstream.stores.tiered import TieredCheckpointer
from tests.support.archive_check import Archive
from tests.support.backends import FakeBackend, info_of
from tests.support.commands import run
from tests.support.drain_tools import Hot
from tests.support.samples import make_events, make_state

ALL = [1, 2, 3, 50, 51, 70]


@pytest.fixture
def hot(fake: FakeBackend) -> Hot:
    """``r``, a fork ``f`` of it at 3, and ``g`` of that at 5, as they are in a Redis that is archived."""
    store: Any = fake.open()
    store.append("r", make_events("r", 2), keys=["a", "b"], snapshot=make_state("r"))
    store.append("r", make_events("r", 3, first=3))
    store.fork("r", "f", at=3)
    store.append("f", make_events("f", 3, first=50), keys=["k", None, None])
    store.fork("f", "g", at=5)
    store.append("g", make_events("g", 1, first=70))
    hot: Hot = store
    return hot


def drain(hot: Hot, archives: list[Archive]) -> None:
    assert DrainWorker(hot, archives, trim="archived").drain_once().parked == 0


def seqs(store: Any, run_id: str = "g") -> list[int]:
    items = list(store.read(run_id))
    assert {item.event.run_id for item in items} == {run_id}
    return [item.event.seq for item in items]


def test_forks_are_sound_in_every_store_and_in_each_archive_as_such(hot: Hot, archives: list[Archive]) -> None:
    drain(hot, archives)
    for run_id in ("r", "f", "g"):
        assert verify_run(run_id, hot=hot, sinks=archives).difference is None
    for archive in archives:
        assert archive.check_integrity() == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("is_anew", [False, True])
def test_a_fork_whose_parent_has_another_history_in_an_archive_is_found(
    hot: Hot, archives: list[Archive], tmp_path: Path, is_anew: bool
) -> None:
    """Of the same run, or since it was deleted and made anew."""
    drain(hot, archives)
    headers = {run_id: archive_of(archives[0]).header(run_id) for run_id in ("r", "f")}
    of_parent, of_fork = headers["r"], headers["f"]
    assert of_parent is not None
    assert of_fork is not None
    with SQLiteCheckpointer[Any, Any](tmp_path / "other.db") as other:
        if not is_anew:
            other.write([RunBatch(of_parent, of_parent.start, (), ())])
        other.append("r", make_events("r", 5, first=90))
        other.write([RunBatch(of_fork, of_fork.start, list(archives[0].read_back("f", 4, 6)))])
        found = verify_run("f", sinks=[other]).difference
        assert found is not None
        assert "does not go on from its parent" in found.what


def test_a_lost_redis_gets_its_forks_back_and_they_go_on(
    hot: Hot, archives: list[Archive], fake: FakeBackend
) -> None:
    drain(hot, archives)
    fake.raw.flushall()
    again: Any = fake.open()
    for run_id in ("g", "r", "f"):  # in any order
        assert put_back(again, archives[0], run_id, whole=True).outcome == "restored"
    assert seqs(again) == ALL
    assert info_of(again, "g").parent == ("f", 5)
    assert again.append("g", make_events("g", 1), keys=["k"]).last_offset == 4
    again.append("g", make_events("g", 1, first=71))
    drain(again, archives)
    for archive in archives:
        assert seqs(archive) == [*ALL, 71]
    assert verify_run("g", hot=again, sinks=archives).difference is None


def test_a_fork_that_is_put_back_alone_is_read_with_what_the_archive_has(
    hot: Hot, archives: list[Archive], fake: FakeBackend
) -> None:
    drain(hot, archives)
    fake.raw.flushall()
    again: Any = fake.open()
    assert put_back(again, archives[0], "g").outcome == "restored"
    assert seqs(TieredCheckpointer(again, archives[0])) == ALL


def test_a_fork_is_exported_whole_as_its_own_events_and_as_an_archive_that_proves_it(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/runs.db"
    with connect(url) as store:
        store.append("r", make_events("r", 5), keys=["a", "b", "c", "d", "e"], snapshot=make_state("r"))
        store.fork("r", "f", at=3)
        store.append("f", make_events("f", 2, first=50))
        store.fork("f", "g", at=4)
        store.append("g", make_events("g", 1, first=70))
    for name in ("g.jsonl", "g.csv", "g.db"):
        said = run("export", "g", "--url", url, "--to", str(tmp_path / name))
        assert said.code == 0, said.err
        assert "5 events" in said.err
    lines = [json.loads(line) for line in (tmp_path / "g.jsonl").read_text().splitlines()]
    assert [line["event"]["seq"] for line in lines] == [1, 2, 3, 50, 70]
    assert {line["event"]["run_id"] for line in lines} == {"g"}
    assert [line["key"] for line in lines] == ["a", "b", "c", None, None]
    assert len((tmp_path / "g.csv").read_text().splitlines()) == 6
    with SQLiteCheckpointer[Any, Any](tmp_path / "g.db") as exported:
        assert seqs(exported) == [1, 2, 3, 50, 70]
        assert sorted(exported.list_runs()) == ["f", "g", "r"]
        assert [info_of(exported, run_id).last_offset for run_id in ("r", "f", "g")] == [3, 4, 5]
        assert verify_run("g", sinks=[exported]).difference is None
        assert exported.check_integrity() == []
