"""purpose-agent's own writer at work on the archive of a drain: reported, and added through Redis."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.runtime import checkpoint as theirs
from purpose_agent.runtime.state import RunState as TheirState

from runstream import (
    ConfigurationError,
    DrainWorker,
    JSONLCheckpointer,
    RedisCheckpointer,
    SQLiteCheckpointer,
    TieredCheckpointer,
    connect,
)
from runstream.integrations.imported import Imported
from runstream.integrations.purpose_agent.additions import Additions
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from tests.integrations.purpose_agent.sources import their_event
from tests.support.backends import RedisBackend
from tests.support.commands import run
from tests.support.drain_tools import open_hot, parked
from tests.support.samples import make_event, make_events, make_state


@dataclass
class World:
    """Redis, an archive that a worker drains to, and purpose-agent's own store over that archive."""

    path: Path
    hot: RedisCheckpointer[Any, Any]
    archive: Any
    theirs: Any
    worker: DrainWorker

    @property
    def is_database(self) -> bool:
        return isinstance(self.archive, SQLiteCheckpointer)

    @property
    def both(self) -> Any:
        return TieredCheckpointer(self.hot, self.archive)

    def seqs(self) -> list[int]:
        assert verify_run("r", hot=self.hot, sinks=[self.archive]).difference is None
        return [event.seq for event in self.archive.list_events("r")]

    def add(self, **options: Any) -> list[Imported]:
        additions = Additions(self.hot, self.archive, **options)
        return [additions.run(run_id) for run_id in additions.run_ids()]

    def status(self) -> list[dict[str, Any]]:
        said = run("status", "--url", self.archive.location, "--json")
        assert said.code == 0
        found: list[dict[str, Any]] = said.document["foreign"]
        return found


@pytest.fixture(params=["sqlite", "jsonl"])
def world(request: pytest.FixtureRequest, redis_backend: RedisBackend, tmp_path: Path) -> Iterator[World]:
    """Run ``r`` has three events, in Redis and in the archive."""
    hot: Any = open_hot(redis_backend, state_type=dict)
    kinds: dict[str, Any] = {
        "sqlite": (SQLiteCheckpointer, theirs.SQLiteCheckpointer, "runs.db"),
        "jsonl": (JSONLCheckpointer, theirs.JSONLCheckpointer, "runs"),
    }
    ours, of_theirs, name = kinds[request.param]
    path = tmp_path / name
    with closing(ours(path)) as archive:
        worker = DrainWorker(hot, [archive])
        hot.append("r", make_events("r", 3), snapshot=make_state("r").to_dict())
        worker.drain_once()
        yield World(path, hot, archive, of_theirs(str(path)), worker)


def put(world: World, *seqs: int) -> None:
    for seq in seqs:
        world.theirs.save_event(their_event("r", seq))


def test_what_they_add_is_reported_and_added_through_redis_once(world: World) -> None:
    put(world, 101, 102)
    assert world.seqs() == [1, 2, 3]
    world.hot.append("r", make_events("r", 2, first=4))
    world.worker.drain_once()
    assert parked(world.hot) == {}
    assert world.seqs() == [1, 2, 3, 4, 5]
    assert sorted(event.seq for event in world.theirs.list_events("r")) == [1, 2, 3, 4, 5, 101, 102]
    reported = {"run_id": "r", "events": 2, "has_state": False, "has_deleted": False}
    assert world.status() == [reported]

    (planned,) = world.add(dry_run=True)
    assert (planned.events, planned.there, planned.added) == (2, 0, 2)
    (added,) = world.add()
    assert (added.events, added.there, added.added, added.refused) == (2, 0, 2, "")
    assert [event.seq for event in world.both.list_events("r")][-4:] == [4, 5, 101, 102]
    assert world.status() == [reported]  # until the archive has them
    for again in (*world.add(), *world.add(dry_run=True)):
        assert (again.there, again.added) == (2, 0)
    put(world, 103)
    (more,) = world.add()
    assert (more.there, more.added) == (2, 1)

    world.worker.drain_once()
    assert world.seqs() == [1, 2, 3, 4, 5, 101, 102, 103]
    assert (world.status(), world.add()) == ([], [])
    seen = [event.seq for event in world.theirs.list_events("r")]
    assert sorted(set(seen)) == [1, 2, 3, 4, 5, 101, 102, 103]
    if world.is_database:
        assert len(seen) == 8
    put(world, 104)
    assert [one["events"] for one in world.status()] == [1]


def test_two_events_of_theirs_that_are_equal_are_two(world: World) -> None:
    for _ in range(2):
        world.theirs.save_event(their_event("r", 101, ts=1.0, span_id="s"))
    (added,) = world.add()
    assert (added.added, added.there) == (2, 0)
    world.worker.drain_once()
    world.theirs.save_event(their_event("r", 101, ts=1.0, span_id="s"))
    (added,) = world.add()
    assert (added.added, added.there) == (1, 0)
    assert [event.seq for event in world.both.list_events("r")][-3:] == [101, 101, 101]


def test_a_state_of_theirs_is_saved_if_nothing_came_after_it(world: World) -> None:
    world.theirs.save_snapshot("r", TheirState("r", data={"n": 1}))
    assert [one["has_state"] for one in world.status()] == [True]
    world.hot.append("r", make_events("r", 1, first=4))
    past = [one.snapshots for one in world.add()]
    time.sleep(0.01)
    world.theirs.save_snapshot("r", TheirState("r", data={"n": 2}))
    assert (past, [one.snapshots for one in world.add()]) == ([0], [1])
    latest = world.hot.load_latest("r")
    assert latest is not None
    assert latest["data"] == {"n": 2}
    assert [one.snapshots for one in world.add()] == [0]
    world.worker.drain_once()
    assert world.status() == []
    assert world.archive.load_latest("r").data == {"n": 2}
    assert world.seqs() == [1, 2, 3, 4]


def test_a_run_that_redis_has_not_or_has_anew_is_refused_until_it_is_put_back(world: World) -> None:
    put(world, 101)
    world.hot.delete_run("r")
    (refused,) = world.add()
    assert (refused.added, "restore" in refused.refused) == (0, True)
    world.hot.append("r", make_events("r", 1))
    (refused,) = world.add()
    assert "another run" in refused.refused
    world.hot.delete_run("r")
    put_back(world.hot, world.archive, "r")
    (added,) = world.add()
    assert (added.added, added.refused) == (1, "")
    world.worker.drain_once()
    assert world.seqs() == [1, 2, 3, 101]


def test_a_run_of_the_archive_alone_that_is_put_into_redis_becomes_the_drains(world: World) -> None:
    world.archive.save_events(make_events("own", 2))
    put_back(world.hot, world.archive, "own")
    world.worker.drain_once()
    world.theirs.save_event(their_event("own", 101))
    world.hot.append("own", make_events("own", 1, first=3))
    world.worker.drain_once()
    assert parked(world.hot) == {}
    assert [event.seq for event in world.archive.list_events("own")] == [1, 2, 3]
    assert [one["run_id"] for one in world.status()] == ["own"]


@pytest.mark.parametrize("world", ["jsonl"], indirect=True)  # a database has one place for a run
def test_a_run_that_the_archive_refuses_is_told(world: World) -> None:
    world.hot.append("Run", make_events("Run", 1))
    world.worker.drain_once()
    put(world, 101)
    world.theirs.save_event(their_event("Run", 101))
    added, refused = world.add()
    assert (added.run_id, added.added, added.refused) == ("r", 1, "")
    assert (refused.run_id, refused.added, "two directories" in refused.refused) == ("Run", 0, True)


def test_what_does_not_read_is_named_and_left(world: World) -> None:
    put(world, 101)
    if world.is_database:
        with closing(theirs.sqlite3.connect(world.path)) as connection, connection:
            connection.execute("INSERT INTO events (run_id, seq, ts, kind, data) VALUES ('r', 1, 1, 'x', '[1]')")
    else:
        with (world.path / "r" / "events.jsonl").open("a") as file:
            file.write("[1]\n")
    said: list[Any] = []
    (added,) = world.add(on_unreadable=said.append)
    assert (added.added, added.unreadable, added.is_complete, len(said)) == (1, 1, False, 1)
    world.worker.drain_once()
    assert world.seqs() == [1, 2, 3, 101]
    assert [one["events"] for one in world.status()] == [1]


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)  # their JSONL store deletes nothing
def test_rows_of_a_drains_run_that_they_delete_are_reported(world: World) -> None:
    world.theirs.delete_run("r")
    assert world.status() == [{"run_id": "r", "events": 0, "has_state": False, "has_deleted": True}]
    assert "rows deleted" in run("status", "--url", world.archive.location).out
    assert not verify_run("r", hot=world.hot, sinks=[world.archive]).is_sound


def test_an_import_without_the_option_takes_the_history_alone(world: World, tmp_path: Path) -> None:
    put(world, 101)
    world.theirs.save_snapshot("r", TheirState("r", data={"by": "them"}))
    said = run("import", str(world.path), "--url", f"sqlite:{tmp_path}/other.db", "--json")
    assert (said.code, said.document["runs"][0]["added"]) == (0, 3)
    with connect(f"sqlite:{tmp_path}/other.db") as other:
        assert [event.seq for event in other.list_events("r")] == [1, 2, 3]
        state = other.load_latest("r")
        assert state is not None
        assert state.data == {}


def test_it_is_for_an_archive_and_through_redis(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="goes through Redis"):
        Additions(world.archive, world.archive)
    with pytest.raises(ConfigurationError, match="no archive"):
        Additions(world.hot, world.hot)
    theirs.SQLiteCheckpointer(str(tmp_path / "their.db"))
    said = run("import", "--append", str(tmp_path / "their.db"), "--url", f"sqlite:{tmp_path}/x.db")
    assert (said.code, "no archive of a drain" in said.err) == (2, True)


_THEIR_PROCESS = """
import sys, time
from purpose_agent.runtime import checkpoint
from purpose_agent.runtime.events import EventKind, PAEvent
path, kind, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = getattr(checkpoint, kind)(path)
for n in range(1, count + 1):
    for run_id in ("r", "own"):
        store.save_event(PAEvent(run_id, seq=1000 + n, kind=EventKind.TOOL_RESULT, payload={"by": "them"}))
"""


@pytest.mark.exhaustive
def test_a_drain_and_writers_of_both_kinds_at_once(world: World) -> None:
    """In a run of the drain, and in one of the archive alone: every event once, each writer's in its order."""
    count = 200
    kind = type(world.theirs).__name__
    process = subprocess.Popen([sys.executable, "-c", _THEIR_PROCESS, str(world.path), kind, str(count)])
    hot_seq, own_seq = 3, 0
    while process.poll() is None:
        hot_seq, own_seq = hot_seq + 1, own_seq + 1
        world.hot.save_event(make_event("r", hot_seq))
        world.archive.save_event(make_event("own", own_seq))
        if own_seq % 5 == 0:
            world.worker.drain_once()
    assert process.returncode == 0
    world.worker.drain_once()
    assert parked(world.hot) == {}
    assert world.seqs() == list(range(1, hot_seq + 1))
    own = [event.seq for event in world.archive.list_events("own")]
    assert [seq for seq in own if seq < 1000] == list(range(1, own_seq + 1))
    assert [seq for seq in own if seq > 1000] == list(range(1001, 1001 + count))
    assert verify_run("own", sinks=[world.archive]).is_sound
    (added,) = world.add()
    assert (added.added, added.refused) == (count, "")
    world.worker.drain_once()
    assert world.seqs() == [*range(1, hot_seq + 1), *range(1001, 1001 + count)]
    assert world.status() == []
