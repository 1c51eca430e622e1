"""Whatever is changed in a SQLite archive is found, and named with its offset."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.repair.verify.world import STATES, R, World, change
from tests.support.commands import run

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
            "INSERT INTO quarantine SELECT run_id, offset, chain, NULL, x'00', '', 0, 0 FROM events"
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
    "not in the list": (f"DELETE FROM runs WHERE {R}", 0, "what is noted of the run"),
    "a lane's end": ("UPDATE lanes SET last_offset = 3 WHERE lane_id = 'side'", 14, "lane 'side'"),
    "a lane that is not": ("INSERT INTO lanes VALUES ('r', 'more', 7, 0)", 7, "lane 'more'"),
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


@pytest.mark.one_in(20)
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


@pytest.mark.one_in(4)
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
