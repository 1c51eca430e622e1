"""What the drain leaves verifies; whatever is changed behind its back is found, and named with its offset."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream import DrainWorker, EventKind, connect
from runstream.repair.resolve import look, resolve
from runstream.repair.restore import put_back
from runstream.repair.verify import Verdict, verify_run
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from runstream.stores.redis.exchange import Exchange, Replies
from tests.support.archive_check import Archive
from tests.support.backends import Backend, FakeBackend, RedisBackend
from tests.support.commands import run, spawn
from tests.support.drain_tools import Hot, open_hot, running
from tests.support.random_runs import Author, damage, lose_redis, one_archive
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import PROGRAMS

KINDS = ("sqlite", "jsonl")
needs_server = pytest.mark.skipif(not PROGRAMS, reason="needs a server program")


@dataclass
class World:
    """Run ``r`` in Redis, of which events 1 to 10 have left it, and in one archive of each kind."""

    backend: RedisBackend
    hot: Hot
    archives: list[Archive]

    @property
    def keys(self) -> Any:
        return self.hot.context.keys.run("r")

    @property
    def sqlite(self) -> Path:
        return Path(self.archives[0].location.partition(":")[2])

    @property
    def jsonl(self) -> Path:
        return Path(self.archives[1].location.partition(":")[2]) / "r"

    def verify(self, *, hot: bool = True, archives: str = "both") -> Verdict:
        chosen = {"both": [0, 1], "sqlite": [0], "jsonl": [1], "none": []}[archives]
        # opened anew: a store may know what it has written
        sinks = [one_archive(KINDS[at], self.sqlite.parent) for at in chosen]
        try:
            return verify_run("r", hot=open_hot(self.backend) if hot else None, sinks=sinks)
        finally:
            for sink in sinks:
                sink.close()


@pytest.fixture
def world(make_backend: Callable[[str], Backend], tmp_path: Path) -> Iterator[World]:
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    archives = open_archives_named(tmp_path)
    hot = open_hot(backend)
    hot.save_events(make_events("r", 10, session_id="s"))
    hot.save_snapshot("r", make_state("r", current_step=10))
    hot.append("r", make_events("r", 4, lane_id="side"), keys=["k1", None, "k2", None])
    hot.save_snapshot("r", make_state("r"), lane_id="side")
    hot.save_events(make_events("r", 6, first=11))
    assert DrainWorker(hot, archives).drain_once().parked == 0
    world = World(backend, hot, archives)
    verdict = world.verify()
    assert verdict.difference is None
    assert [(one.first, one.events) for one in verdict.checked] == [(11, 10), (1, 20), (1, 20)]
    yield world
    for archive in archives:
        archive.close()


def open_archives_named(directory: Path) -> list[Archive]:
    return [one_archive(kind, directory) for kind in KINDS]


# -- what is left by what we do, verifies --------------------------------------------------------------


def all_sound(hot: Hot | None, archives: list[Archive]) -> None:
    run_ids = {run_id for store in [*archives, *([hot] if hot else [])] for run_id in store.list_runs()}
    verdicts = [verify_run(run_id, hot=hot, sinks=archives) for run_id in run_ids]
    assert [verdict for verdict in verdicts if not verdict.is_sound] == []


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32), parts=st.lists(st.integers(1, 20), min_size=1, max_size=3))
def test_whatever_was_written_drained_retired_and_restored_verifies(
    tmp_path: Path, seed: int, parts: list[int]
) -> None:
    """At every stage, with undrained ends too: Redis alone, each archive alone, and all together."""
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
        found = look(hot, [archive], "r")
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


# -- what was changed in SQLite ------------------------------------------------------------------------

R = "run_id = 'r'"
LAST = "(last_offset, last_chain) = (SELECT offset, chain FROM events WHERE run_id = 'r' AND offset ="
SQLITE = {
    "a row removed": (f"DELETE FROM events WHERE {R} AND offset = 5", 5, "missing"),
    "the first row removed": (f"DELETE FROM events WHERE {R} AND offset = 1", 1, "missing"),
    "the last row removed": (f"DELETE FROM events WHERE {R} AND offset = 20", 20, "missing"),
    "a row doubled": (
        (
            "DROP INDEX events_by_offset; INSERT INTO events (run_id, seq, ts, kind, lane_id, data, offset, chain)"
            f" SELECT run_id, seq, ts, kind, lane_id, data, offset, chain FROM events WHERE {R} AND offset = 5"
        ),
        5,
        "twice",
    ),
    "a row in two places": (
        (
            "INSERT INTO quarantine SELECT run_id, offset, chain, NULL, x'00', '', 0 FROM events"
            f" WHERE {R} AND offset = 5"
        ),
        5,
        "",
    ),
    "rows swapped": (
        (
            f"UPDATE events SET offset = -offset WHERE {R} AND offset IN (5, 6);"
            f"UPDATE events SET offset = 11 + offset WHERE {R} AND offset < 0"
        ),
        5,
        "its chain is of",
    ),
    "text changed": (
        f"UPDATE events SET data = replace(data, '\"n\":5', '\"n\":6') WHERE {R} AND offset = 5",
        5,
        "",
    ),
    "text of another event": (
        f"UPDATE events SET data = (SELECT data FROM events WHERE {R} AND offset = 6) WHERE {R} AND offset = 5",
        5,
        "its chain is of",
    ),
    "text of another run": (
        f"UPDATE events SET data = replace(data, '\"r\"', '\"q\"') WHERE {R} AND offset = 5",
        5,
        "",
    ),
    "no text": (f"UPDATE events SET data = '' WHERE {R} AND offset = 5", 5, "does not read"),
    "bytes": (f"UPDATE events SET data = x'ff00' WHERE {R} AND offset = 5", 5, ""),
    "no JSON": (f"UPDATE events SET data = '[1, 2' WHERE {R} AND offset = 5", 5, "does not read"),
    "no event": (f"UPDATE events SET data = '[1, 2]' WHERE {R} AND offset = 5", 5, "does not read"),
    "the kind": (f"UPDATE events SET kind = 'other' WHERE {R} AND offset = 5", 5, "columns"),
    "the seq": (f"UPDATE events SET seq = 99 WHERE {R} AND offset = 5", 5, "columns"),
    "the time": (f"UPDATE events SET ts = ts + 1 WHERE {R} AND offset = 5", 5, "columns"),
    "the lane": (f"UPDATE events SET lane_id = 'x' WHERE {R} AND offset = 5", 5, "columns"),
    "the key": (f"UPDATE events SET key = 'other' WHERE {R} AND offset = 11", 11, "its chain is of"),
    "no key": (f"UPDATE events SET key = NULL WHERE {R} AND offset = 13", 13, "its chain is of"),
    "a chain": (f"UPDATE events SET chain = chain + 1 WHERE {R} AND offset = 5", 5, "its chain is of"),
    "the last chain": (f"UPDATE events SET chain = chain + 1 WHERE {R} AND offset = 20", 20, "its chain is of"),
    "the start": (f"UPDATE runs SET start_chain = start_chain + 1 WHERE {R}", 1, "its chain is of"),
    "a later start": (f"UPDATE runs SET start_offset = 4 WHERE {R}", 5, "its chain is of"),
    "the end": (f"UPDATE runs SET last_chain = last_chain + 1 WHERE {R}", 20, "ends elsewhere"),
    "an earlier end": (f"UPDATE runs SET last_offset = 15 WHERE {R}", 15, "ends elsewhere"),
    "a true earlier end": (
        (
            f"UPDATE runs SET last_offset = 15, last_chain = (SELECT chain FROM events WHERE {R} AND offset = 15)"
            f" WHERE {R}"
        ),
        16,
        "outside",
    ),
    "a later end": (f"UPDATE runs SET last_offset = 25 WHERE {R}", 21, "missing"),
    "not in the list": (f"DELETE FROM runs WHERE {R}", 1, "not noted"),
    "a lane's end": ("UPDATE lanes SET last_offset = 3 WHERE lane_id = 'side'", 14, "lane 'side'"),
    "a lane that is not": ("INSERT INTO lanes VALUES ('r', 'more', 7)", 7, "lane 'more'"),
    "no lane": ("DELETE FROM lanes WHERE lane_id = 'main'", 20, "lane 'main'"),
    "a snapshot of the future": (f"UPDATE snapshots SET offset = 21 WHERE {R}", 21, "snapshot of the run"),
    "a snapshot that is none": (f"UPDATE snapshots SET state = '[1]' WHERE {R}", 10, "does not read"),
    "a snapshot cut": (f"UPDATE snapshots SET state = substr(state, 1, 20) WHERE {R}", 10, "does not read"),
    "a lane's snapshot of the future": (
        f"UPDATE lane_snapshots SET offset = 99 WHERE {R}",
        99,
        "snapshot of lane 'side'",
    ),
}


def change(world: World, script: str) -> None:
    with closing(sqlite3.connect(world.sqlite)) as file:
        file.executescript(script)


@pytest.mark.parametrize("hot", [False, True])
@pytest.mark.parametrize("name", SQLITE)
def test_what_was_changed_in_sqlite_is_found(world: World, name: str, hot: bool) -> None:
    """By the archive alone, and against Redis."""
    script, offset, what = SQLITE[name]
    change(world, script)
    difference = world.verify(hot=hot, archives="sqlite").difference
    assert difference is not None
    if not hot:
        assert (difference.offset, what in difference.what) == (offset, True), difference
    assert world.sqlite.name in str(difference)
    assert world.verify(archives="jsonl").is_sound
    assert not world.verify(hot=hot).is_sound


ONLY_AGAINST_REDIS = {
    "cut": (
        (
            f"DELETE FROM events WHERE {R} AND offset > 18; UPDATE runs SET {LAST} 18);"
            "UPDATE lanes SET last_offset = 18 WHERE lane_id = 'main'"
        ),
        19,
        "lacks what is noted as archived",
    ),
    "cut before what Redis has": (
        (
            f"DELETE FROM events WHERE {R} AND offset > 8; DELETE FROM lanes WHERE lane_id = 'side';"
            "UPDATE lanes SET last_offset = 8; DELETE FROM snapshots; DELETE FROM lane_snapshots;"
            f"UPDATE runs SET {LAST} 8)"
        ),
        9,
        "in neither",
    ),
    "all gone": (
        "".join(f"DELETE FROM {table};" for table in ("events", "runs", "lanes", "snapshots", "lane_snapshots")),
        1,
        "in neither",
    ),
    "another status": ("UPDATE runs SET status = 'failed'", 20, "status"),
    "another session": ("UPDATE runs SET session_id = 'x'", 20, "session"),
    "another state": ("UPDATE snapshots SET state = replace(state, '10', '11')", 10, "snapshot of the run"),
    "another revision": ("UPDATE snapshots SET revision = 7", 10, "snapshot of the run"),
    "a snapshot gone": ("DELETE FROM lane_snapshots", 14, "snapshot of lane 'side'"),
    "another start": ("UPDATE runs SET start_offset = 1, start_chain = 7", 0, "from the start"),
}


@pytest.mark.parametrize("name", ONLY_AGAINST_REDIS)
def test_what_an_archive_cannot_know_redis_tells(world: World, name: str) -> None:
    script, offset, what = ONLY_AGAINST_REDIS[name]
    change(world, script)
    difference = world.verify(archives="sqlite").difference
    assert difference is not None
    assert (difference.offset, what in difference.what) == (offset, True), difference
    assert not world.verify(hot=False).is_sound or name in {
        "cut",
        "cut before what Redis has",
        "all gone",
        *STATES,
    }


STATES = {"another status", "another session", "a snapshot gone"}


# -- what was changed in JSON lines --------------------------------------------------------------------


def line_of(lines: list[str], offset: int) -> int:
    return next(at for at, line in enumerate(lines) if f'"$offset":{offset},' in line and "$run" not in line)


def edit(pattern: str, by: str, offset: int = 5) -> Callable[[list[str]], None]:
    def act(lines: list[str]) -> None:
        at = line_of(lines, offset)
        changed = re.sub(pattern, by, lines[at], count=1)
        assert changed != lines[at]
        lines[at] = changed

    return act


def remove(offset: int) -> Callable[[list[str]], None]:
    def act(lines: list[str]) -> None:
        del lines[line_of(lines, offset)]

    return act


def double(offset: int) -> Callable[[list[str]], None]:
    return lambda lines: lines.insert(line_of(lines, offset), lines[line_of(lines, offset)])


def swap(offset: int) -> Callable[[list[str]], None]:
    def act(lines: list[str]) -> None:
        at = line_of(lines, offset)
        lines[at], lines[at + 1] = lines[at + 1], lines[at]

    return act


JSONL: dict[str, tuple[Callable[[list[str]], None], int | None, str]] = {
    "a line removed": (remove(5), 5, "missing"),
    "the first line removed": (remove(1), 1, "missing"),
    "a line doubled": (double(5), 5, "twice"),
    "lines swapped": (swap(5), 5, ""),
    "text changed": (edit('"n":5', '"n":6'), 5, "its chain is of"),
    "the run's name": (edit('"run_id":"r"', '"run_id":"q"'), 5, ""),
    "a brace less": (edit(r'"payload":\{', '"payload":'), 5, "does not read"),
    "no JSON": (edit(r"^.{30}", "junk"), 5, ""),
    "the offset": (edit(r'"\$offset":5,', '"$offset":50,'), 5, ""),
    "the chain": (edit(r'"\$chain":\d', '"$chain":'), 5, "its chain is of"),
    "the key": (edit('"k1"', '"kx"', 11), 11, "its chain is of"),
    "no key": (edit(r',"\$key":"k2"', "", 13), 13, "its chain is of"),
    "a line of another program between": (
        lambda lines: lines.insert(line_of(lines, 5), json.dumps(make_event("r", 99).to_dict()) + "\n"),
        None,
        "",
    ),
}


@pytest.mark.parametrize("hot", [False, True])
@pytest.mark.parametrize("name", JSONL)
def test_what_was_changed_in_json_lines_is_found(world: World, name: str, hot: bool) -> None:
    act, offset, what = JSONL[name]
    log = world.jsonl / "events.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    act(lines)
    log.write_text("".join(lines))
    difference = world.verify(hot=hot, archives="jsonl").difference
    assert difference is not None
    assert what in difference.what, difference
    assert offset is None or difference.offset == offset, difference
    assert world.verify(archives="sqlite").is_sound
    assert not world.verify(hot=hot).is_sound


@pytest.mark.parametrize(
    ("pattern", "by"),
    [('"\\$offset":10', '"$offset":99'), ('"run_id"', '"run_id'), ('"current_step":10', '"current_step":11')],
)
def test_a_changed_snapshot_file_is_found(world: World, pattern: str, by: str) -> None:
    path = world.jsonl / "snapshot.json"
    text = path.read_text()
    changed = re.sub(pattern, by, text, count=1)
    assert changed != text
    path.write_text(changed)
    difference = world.verify(archives="jsonl").difference
    assert difference is not None
    assert "snapshot" in difference.what
    assert world.verify(archives="sqlite").is_sound


def test_a_log_that_was_cut_or_removed_is_found(world: World) -> None:
    """An archive alone cannot know what it had; Redis does, and the other archive."""
    log = world.jsonl / "events.jsonl"
    text = log.read_text().splitlines(keepends=True)
    log.write_text("".join(text[:-3]))
    difference = world.verify(archives="jsonl").difference
    assert difference is not None
    log.unlink()
    difference = world.verify(hot=False, archives="jsonl").difference
    assert difference is not None
    assert "no history" in difference.what
    assert not world.verify(archives="jsonl").is_sound


# -- what was changed in Redis -------------------------------------------------------------------------


def replace_stream(world: World, change_entries: Callable[[list[Any]], None]) -> None:
    entries = world.backend.raw.xrange(world.keys.events)
    change_entries(entries)
    world.backend.raw.delete(world.keys.events)
    for entry_id, fields in entries:
        world.backend.raw.xadd(world.keys.events, fields, id=entry_id)


def flip(at: int) -> Callable[[list[Any]], None]:
    def act(entries: list[Any]) -> None:
        entry_id, fields = entries[4]
        record = bytearray(fields[b"e"])
        record[at] ^= 1
        entries[4] = (entry_id, {b"e": bytes(record)})

    return act


def other_chain(entries: list[Any]) -> None:
    entries[4] = (entries[4][0] + b"1", entries[4][1])


def other_record(entries: list[Any]) -> None:
    entries[4] = (entries[4][0], entries[5][1])


def meta(field: str, value: str | None) -> Callable[[World], object]:
    if value is None:
        return lambda world: world.backend.raw.hdel(world.keys.meta, field)
    return lambda world: world.backend.raw.hset(world.keys.meta, field, value)


def of_snapshot(field: str, value: str) -> Callable[[World], object]:
    return lambda world: world.backend.raw.hset(world.keys.run_snapshot, field, value)


def forget_that_it_is_due(world: World) -> None:
    world.hot.save_event(make_event("r", 17))
    world.backend.raw.delete(world.keys.partition.due)


def cover_too_much(world: World) -> None:
    of_snapshot("offset", "30")(world)
    token = world.backend.raw.hget(world.keys.run_snapshot, "token").decode()
    world.backend.raw.hset(world.keys.meta, "snapshot", f"30 1 {token}")


# Redis begins at 11, and its fifth entry is 15
REDIS: dict[str, tuple[Callable[[World], object], int | None, str]] = {
    "an entry removed": (lambda world: replace_stream(world, lambda entries: entries.pop(4)), 15, "missing"),
    "the last removed": (lambda world: replace_stream(world, lambda entries: entries.pop()), 20, "missing"),
    "another record": (lambda world: replace_stream(world, other_record), 15, "its chain is of"),
    "a bit of the checksum": (lambda world: replace_stream(world, flip(2)), 15, "its chain is of"),
    "another chain": (lambda world: replace_stream(world, other_chain), 15, "its chain is of"),
    "one too many": (
        lambda world: world.backend.raw.xadd(world.keys.events, {"e": b"x"}, id="21-5"),
        20,
        "more or fewer",
    ),
    "last": (meta("last", "20-5"), 20, ""),
    "an earlier last": (meta("last", "15-5"), None, ""),
    "a later last": (meta("last", "25-5"), 21, "missing"),
    "start": (meta("start", "0-5"), 0, "from the start"),
    "mark": (meta("mark", "20-5"), 20, "mark"),
    "an earlier mark": (meta("mark", "5-5"), 5, "mark"),
    "no mark": (meta("mark", None), 0, "mark"),
    "a mark of the future": (meta("mark", "25-5"), None, ""),
    "nonsense": (meta("last", "nonsense"), 0, "form"),
    "no status": (meta("status", None), 0, "form"),
    "another status": (meta("status", "failed"), 20, "status"),
    "a lane's end": (meta("lane:side", "13 3"), 14, "lane 'side'"),
    "a lane's seq": (meta("lane:main", "20 99"), 20, "lane 'main'"),
    "no lane": (meta("lane:main", None), 20, "lane 'main'"),
    "a lane that is not": (meta("lane:more", "17 3"), 17, "lane 'more'"),
    "a lane of the future": (meta("lane:more", "27 3"), 27, "lane 'more'"),
    "from where to recover": (meta("since:main", "18"), 15, "would be trimmed"),
    "nothing to recover": (meta("since:main", None), 15, "would be trimmed"),
    "trimmed": (meta("trimmed", "13"), 11, "noted as trimmed"),
    "a snapshot's note": (meta("snapshot", "10 1 other"), 10, "snapshot of the run"),
    "a snapshot's offset": (of_snapshot("offset", "11"), 11, "snapshot of the run"),
    "a snapshot of the future": (
        cover_too_much,
        30,
        "covers what is not there",
    ),
    "a state": (of_snapshot("=current_step", "x"), 20, "does not read"),
    "no snapshot": (lambda world: world.backend.raw.delete(world.keys.run_snapshot), 20, "does not read"),
    "a key": (lambda world: world.backend.raw.hset(world.keys.keys, "k1", "13-5"), 11, "key 'k1'"),
    "no keys": (lambda world: world.backend.raw.delete(world.keys.keys), 11, "key 'k1'"),
    "not listed": (lambda world: world.backend.raw.zrem(world.keys.partition.runs, "r"), 20, "list of runs"),
    "not in its session": (
        lambda world: world.backend.raw.zrem(world.keys.partition.session("s"), "r"),
        20,
        "its session",
    ),
    "not due": (
        forget_that_it_is_due,
        21,
        "not due",
    ),
}


@pytest.mark.parametrize("name", REDIS)
def test_what_was_changed_in_redis_is_found(world: World, name: str) -> None:
    act, offset, what = REDIS[name]
    act(world)
    verdict = world.verify()
    difference = verdict.difference
    assert difference is not None
    assert what in difference.what, difference
    assert offset is None or difference.offset == offset, difference
    assert world.verify(hot=False).is_sound


def test_a_flipped_bit_in_redis_is_a_difference_where_an_archive_has_the_event(world: World) -> None:
    """Alone it is a record that does not read, and counted; both sides are named."""
    replace_stream(world, flip(-1))
    (alone,) = world.verify(archives="none").checked
    assert (alone.events, alone.quarantined) == (10, 1)
    assert world.verify(archives="none").is_sound
    for archives in KINDS:
        difference = world.verify(archives=archives).difference
        assert difference is not None
        assert (difference.offset, difference.what) == (15, "the event is not the same")
        sides = dict(difference.sides)
        assert "do not read" in sides["Redis"]
        assert '"n":11' in next(has for who, has in sides.items() if who != "Redis")


def test_the_first_difference_is_the_one_with_the_lowest_offset(world: World) -> None:
    """Whoever has it."""
    replace_stream(world, flip(2))
    change(world, f"UPDATE events SET chain = 1 WHERE {R} AND offset = 17")
    difference = world.verify().difference
    assert difference is not None
    assert (difference.offset, difference.sides[0][0]) == (15, "Redis")
    change(world, f"UPDATE events SET chain = 1 WHERE {R} AND offset = 12")
    difference = world.verify().difference
    assert difference is not None
    assert (difference.offset, difference.sides[0][0]) == (12, world.archives[0].location)


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


def test_no_more_than_a_page_is_held(make_backend: Callable[[str], Backend]) -> None:
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    hot = open_hot(backend)
    hot.save_events(make_events("r", 5000))
    driver: Any = hot._driver
    exchange, most = driver.exchange, 0
    told: list[int] = []

    def counting(one: Exchange) -> Replies:
        nonlocal most
        replies: Replies = exchange(one)
        most = max([most, *(len(reply) for reply in replies if isinstance(reply, list))])
        return replies

    driver.exchange = counting
    assert verify_run("r", hot=hot, on_events=told.append).checked[0].events == 5000
    assert most <= 1000
    assert sum(told) == 5000


# -- the command line ----------------------------------------------------------------------------------


@needs_server
def test_the_command_prints_what_it_found(tmp_path: Path) -> None:
    url, source, other = f"embedded:{tmp_path}/server", f"sqlite:{tmp_path}/a.db", f"jsonl:{tmp_path}/j"
    with EmbeddedServer(tmp_path / "server"), connect(url) as hot, connect(source) as a, connect(other) as b:
        for run_id in ("good", "bad"):
            hot.save_events(make_events(run_id, 5))
        DrainWorker(hot, [a, b], trim="never").drain_once()  # type: ignore[arg-type,list-item]  # connect gives any store
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
        assert "3: the event is not the one that its chain is of" in said.out
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


@pytest.mark.parametrize("how", ["a page", "not in the list"])
def test_a_damaged_file_is_a_difference(world: World, how: str) -> None:
    """SQLite's own check of the file; what is sound is looked into all the same."""
    for archive in world.archives:
        archive.close()
    if how == "a page":
        with closing(sqlite3.connect(world.sqlite)) as file:
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            root = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events_by_offset'").fetchone()[0]
            size = file.execute("PRAGMA page_size").fetchone()[0]
        with world.sqlite.open("r+b") as raw:
            raw.seek((root - 1) * size + size // 2)
            raw.write(bytes(range(256)) * (size // 512))
    else:
        change(world, "DELETE FROM runs")
    said = run(
        "verify", "--archive", f"sqlite:{world.sqlite}", "--archive", f"jsonl:{world.jsonl.parent}", "--json"
    )
    assert said.code == 1
    assert list(said.document["damaged"]) == [f"sqlite:{world.sqlite}"]
    assert [one["is_sound"] for one in said.document["runs"]] == [True]
