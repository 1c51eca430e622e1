"""What the drain leaves verifies, also while the run goes on."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import uuid
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream import DrainWorker, EventKind, connect
from runstream.history.archived import ArchivedHistory
from runstream.model.archive_records import RunBatch
from runstream.operations.operation import Exchange, Replies
from runstream.repair.archive_checker import ArchiveChecker
from runstream.repair.resolve import load_histories, resolve
from runstream.repair.restore import put_back
from runstream.repair.verify import Verdict, verify_run
from runstream.stores import capabilities
from runstream.stores.capabilities import archive_of
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from tests.repair.verify.world import KINDS, World, open_archives_named
from tests.support.archive_check import Archive
from tests.support.backends import Backend, FakeBackend, RedisBackend
from tests.support.commands import run, spawn
from tests.support.drain_tools import Hot, open_hot, running
from tests.support.random_runs import Author, damage, lose_redis, one_archive
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import needs_server

# -- what is left by what we do, verifies --------------------------------------------------------------


def all_sound(hot: Hot | None, archives: list[Archive]) -> None:
    run_ids = {run_id for store in [*archives, *([hot] if hot else [])] for run_id in store.list_runs()}
    verdicts = [verify_run(run_id, hot=hot, sinks=archives) for run_id in run_ids]
    assert [verdict for verdict in verdicts if not verdict.is_sound] == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("examples", [3, pytest.param(8, marks=pytest.mark.exhaustive)])
def test_whatever_was_written_drained_retired_and_restored_verifies(tmp_path: Path, examples: int) -> None:
    """At every stage, with undrained ends too: Redis alone, each archive alone, and all together."""

    @settings(max_examples=examples)
    @given(seed=st.integers(0, 2**32), parts=st.lists(st.integers(1, 20), min_size=1, max_size=3))
    def verifies(seed: int, parts: list[int]) -> None:
        check_that_it_verifies(tmp_path, seed, parts)

    verifies()


@pytest.mark.exhaustive
def test_a_writer_whose_last_event_does_not_read_goes_on_after_its_run_was_put_back(tmp_path: Path) -> None:
    """Nobody knows that event's lane any more: that the lane has no such event is no loss."""
    check_that_it_verifies(tmp_path, 1999288, [1, 16, 3])


def check_that_it_verifies(tmp_path: Path, seed: int, parts: list[int]) -> None:
    directory = tmp_path / uuid.uuid4().hex
    directory.mkdir()
    backend = FakeBackend("n")
    archives = open_archives_named(directory)
    author = Author(backend, archives, seed)
    hot = author.stores[0]
    for steps in parts:
        author.write(steps)
        all_sound(hot, archives)
        all_sound(hot, [])
        all_sound(None, archives)
        for run_id in hot.list_runs():
            damage(hot, run_id, b"no record")
        author.drain(author.random.choice(["covered", "archived", "never"]))
        all_sound(hot, archives)
        assert DrainWorker(hot, archives, retire_after_seconds=0.0).drain_once().parked == 0
        all_sound(hot, archives)
        what = author.random.choice(["nothing", "delete", "drain"])
        if what == "delete":
            hot.delete_run("r")
        elif what == "drain":
            author.drain()
        for run_id in author.run_ids:
            if archives[0].run_info(run_id) is not None and run_id != "r":
                put_back(hot, archives[0], run_id, whole=author.random.random() < 0.5)
                all_sound(hot, archives)
        for archive in archives if hot.run_info("r") is None else []:
            archive.delete_run("r")
    for archive in archives:
        archive.close()
    backend.close()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kind", KINDS)
def test_branches_verify(make_backend: Callable[[str], Backend], tmp_path: Path, kind: str) -> None:
    """Their chains are of the name that the run had."""
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    with one_archive(kind, tmp_path) as archive:
        hot = open_hot(backend)
        hot.append("r", make_events("r", 5), keys=["a", None, None, "b", None])
        damage(hot, "r", b"no record")
        hot.save_snapshot("r", make_state("r"))
        DrainWorker(hot, [archive]).drain_once()
        hot = lose_redis(backend)
        hot.save_events(make_events("r", 2))
        assert DrainWorker(hot, [archive]).drain_once().parked == 1
        before = verify_run("r", hot=hot, sinks=[archive]).difference
        assert before is not None
        assert "different histories" in before.what
        found = load_histories(hot, [archive], "r")
        assert found is not None
        (branch,) = resolve(hot, [archive], found, "redis").branches
        DrainWorker(hot, [archive]).drain_once()
        all_sound(hot, [archive])
        (checked,) = verify_run(branch, sinks=[archive]).checked
        assert (checked.events, checked.quarantined) == (6, 1)


def test_a_file_of_purpose_agents_verifies(tmp_path: Path) -> None:
    """Its rows are adopted when the file is opened; lines of its own in a log count as they stand."""
    with closing(sqlite3.connect(tmp_path / "a.db")) as file, file:
        file.execute(
            "CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL,"
            " seq INTEGER NOT NULL, ts REAL NOT NULL, kind TEXT NOT NULL, lane_id TEXT DEFAULT 'main',"
            " data TEXT NOT NULL, created_at REAL)"
        )
        file.execute("CREATE TABLE snapshots (run_id TEXT PRIMARY KEY, state TEXT NOT NULL, updated_at REAL)")
        for event in make_events("r", 3, payload={"$tuple": [1]}):
            file.execute(
                "INSERT INTO events (run_id, seq, ts, kind, lane_id, data) VALUES (?, ?, ?, ?, ?, ?)",
                ("r", event.seq, event.ts, event.kind, event.lane_id, json.dumps(event.to_dict())),
            )
        file.execute("INSERT INTO events (run_id, seq, ts, kind, data) VALUES ('r', 9, 0, 'x', '{')")
        file.execute("INSERT INTO snapshots VALUES ('r', ?, 5.0)", (json.dumps(make_state("r").to_dict()),))
    log = tmp_path / "j" / "r"
    log.mkdir(parents=True)
    lines = [json.dumps(event.to_dict()) for event in make_events("r", 3)]
    (log / "events.jsonl").write_text("\n".join(lines) + "\n")
    for archive in open_archives_named(tmp_path):
        archive.append("r", [make_event("r", 7)])
        verdict = verify_run("r", sinks=[archive])
        assert verdict.difference is None
        position = archive.position("r")
        assert position is not None
        assert verdict.checked[0].events == position.cursor.offset
        archive.close()


def test_a_run_that_nobody_has_is_sound(world: World) -> None:
    assert verify_run("nobody", hot=world.hot, sinks=world.archives).is_sound


def test_an_archive_that_is_behind_another_is_sound(world: World, tmp_path: Path) -> None:
    """Whichever of them is read first."""
    ahead = world.archives[0]
    source = ArchivedHistory.load(archive_of(ahead), "r")
    assert source is not None
    (tmp_path / "behind").mkdir()
    with one_archive("sqlite", tmp_path / "behind") as behind:
        behind.write([RunBatch(source.header, source.header.start, source.page(1, 3))])
        for sinks in ([behind, ahead], [ahead, behind]):
            assert verify_run("r", sinks=sinks).difference is None


def test_archives_are_compared_with_each_other(world: World) -> None:
    """Each of them may be sound by itself."""
    other = World(world.backend, lose_redis(world.backend), world.archives)
    other.hot.save_events(make_events("r", 3))
    with one_archive("jsonl", world.sqlite.parent) as jsonl:
        assert jsonl.delete_run("r")
        DrainWorker(other.hot, [jsonl]).drain_once()
    difference = world.verify(hot=False).difference
    assert difference is not None
    assert "different histories" in difference.what
    assert world.verify(hot=False, archives="jsonl").is_sound
    assert world.verify(hot=False, archives="sqlite").is_sound


def test_a_record_of_a_newer_version_cannot_be_vouched_for(world: World) -> None:
    body = b"\x90"
    record = b"\x02" + zlib.crc32(body, zlib.crc32(b"\x02", zlib.crc32(b"r"))).to_bytes(4, "big") + body
    damage(world.hot, "r", record)
    difference = world.verify(archives="none").difference
    assert difference is not None
    assert "newer version" in difference.what


# -- while the run goes on -----------------------------------------------------------------------------


@pytest.mark.one_in(2)
@pytest.mark.parametrize("trim", ["covered", "archived"])
def test_a_run_that_goes_on_meanwhile_is_no_difference(
    redis_backend: RedisBackend, tmp_path: Path, trim: Any
) -> None:
    """Agents write, workers archive and trim it, it is retired and goes on: on every kind of server."""
    archives = open_archives_named(tmp_path)
    hot = open_hot(redis_backend)
    written = threading.Event()

    def write() -> None:
        for number in range(30):
            hot.save_events(make_events("r", 10, first=10 * number))
            hot.save_snapshot("r", make_state("r", current_step=number))
            if number % 10 == 9:
                hot.append("r", [make_event("r", kind=EventKind.RUN_FINISHED)])
        written.set()

    worker = DrainWorker(
        open_hot(redis_backend), archives, trim=trim, batch=50, poll_seconds=0.01, retire_after_seconds=0.0
    )
    writer = threading.Thread(target=write)
    verdicts: list[Verdict] = []
    with running(worker):
        writer.start()
        while not written.is_set() or len(verdicts) < 5:
            verdicts.append(verify_run("r", hot=open_hot(redis_backend), sinks=archives))
        writer.join()
    assert [verdict for verdict in verdicts if not verdict.is_sound] == []
    DrainWorker(hot, archives).drain_once()
    assert verify_run("r", hot=hot, sinks=archives).checked[1].events == 303
    for archive in archives:
        archive.close()


def test_what_is_archived_just_after_a_copy_was_loaded_is_no_difference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The copy is the one before, and what Redis notes as archived is of afterwards."""
    backend = FakeBackend("verify")
    hot, archives = open_hot(backend), open_archives_named(tmp_path)
    worker = DrainWorker(open_hot(backend), archives, trim="never")
    hot.save_events(make_events("r", 3))
    worker.drain_once()
    hot.append("r", make_events("r", 2, first=4), snapshot=make_state("r"), lane_id="main")
    load = ArchiveChecker.load

    def load_and_drain(archive: capabilities.Archive, run_id: str) -> ArchiveChecker | None:
        checker = load(archive, run_id)
        worker.drain_once()
        return checker

    monkeypatch.setattr(ArchiveChecker, "load", load_and_drain)
    assert verify_run("r", hot=hot, sinks=archives).difference is None
    for archive in archives:
        archive.close()


@pytest.mark.exhaustive
def test_no_more_than_a_page_is_held(make_backend: Callable[[str], Backend]) -> None:
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    hot = open_hot(backend)
    hot.save_events(make_events("r", 5000))
    driver: Any = hot._driver
    exchange, most = driver.exchange_once, 0
    told: list[int] = []

    def counting(one: Exchange) -> Replies:
        nonlocal most
        replies: Replies = exchange(one)
        most = max([most, *(len(reply) for reply in replies if isinstance(reply, list))])
        return replies

    driver.exchange_once = counting
    assert verify_run("r", hot=hot, on_progress=told.append).checked[0].events == 5000
    assert most <= 1000
    assert sum(told) == 5000


# -- the command line ----------------------------------------------------------------------------------


@pytest.mark.exhaustive
@needs_server
def test_the_command_prints_what_it_found(tmp_path: Path) -> None:
    url, source, other = f"embedded:{tmp_path}/server", f"sqlite:{tmp_path}/a.db", f"jsonl:{tmp_path}/j"
    with EmbeddedServer(tmp_path / "server"), connect(url) as hot, connect(source) as a, connect(other) as b:
        for run_id in ("good", "bad"):
            hot.save_events(make_events(run_id, 5))
        DrainWorker(hot, [a, b], trim="never").drain_once()  # type: ignore[list-item]  # connect gives any store
        both = ("--url", url, "--archive", source, "--archive", other)
        said = run("verify", *both, "--json")
        assert (said.code, said.err, said.document["is_sound"]) == (0, "", True)
        assert said.document["events"] == 30
        assert said.document["events_per_second"] > 0
        said = spawn("verify", *both)
        assert said.code == 0
        rows = [line.split() for line in said.out.splitlines()]
        assert rows[0] == ["run", "where", "events", "quarantined", "verdict"]
        assert ["good", "Redis", "5", "0", "sound"] in rows
        assert re.fullmatch(r"runstream: 2 runs, 30 events in [\d.]+ s: \d+ events/s\n", said.err)
        with closing(sqlite3.connect(tmp_path / "a.db")) as file, file:
            file.execute("UPDATE events SET data = replace(data, '\"n\":3', '\"n\":4') WHERE run_id = 'bad'")
        said = run("verify", *both)
        assert said.code == 1
        assert "3: it does not read" in said.out
        assert "run 'bad': at offset 3" in said.err
        said = run("verify", *both, "--json")
        facts = {one["run_id"]: one for one in said.document["runs"]}
        assert (said.code, facts["good"]["is_sound"], facts["bad"]["is_sound"]) == (1, True, False)
        assert facts["bad"]["difference"]["offset"] == 3
        assert facts["bad"]["difference"]["sides"][0]["who"] == source
        assert run("verify", "good", *both).code == 0
        assert run("verify", "good", "bad", "--archive", source).code == 1
        assert run("verify", "--archive", other, RUNSTREAM_URL=url).code == 0
        assert run("verify", "--url", url).code == 0
        assert run("verify", "nobody", *both).code == 4
        assert run("verify").code == 2
        assert run("verify", "--url", source).code == 2
        assert run("verify", "--archive", "memory:").code == 2
        assert run("verify", "--archive", f"sqlite:{tmp_path}/none.db").code == 2
