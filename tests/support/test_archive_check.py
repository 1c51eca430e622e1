"""The checker of archives is checked: whatever is wrong with an archive, it finds it.

In two ways: archives that never were right, each one step away from the right one, with offsets and chains made
to fit; and files that were right and were changed by another program.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    DrainWorker,
    EventKind,
    JSONLCheckpointer,
    PAEvent,
    RedisCheckpointer,
    RunState,
    SQLiteCheckpointer,
)
from runstream.codec.archive_entries import entry_fields
from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.record import record_crc
from runstream.model.archive_records import ArchiveEntry, RunBatch, RunHeader
from runstream.model.results import Cursor
from runstream.stores.capabilities import archive_of
from tests.support.archive_check import (
    Archive,
    archive_faults,
    check_archives,
    check_drained,
    drained_faults,
)
from tests.support.backends import Backend

Hot = RedisCheckpointer[Any, Any]


def event(lane_id: str, seq: int) -> PAEvent:
    return PAEvent("r", lane_id=lane_id, span_id=f"{lane_id}/{seq}", seq=seq, ts=1.0, kind=EventKind.TOOL_RESULT)


A1, A2, A3, B1, B2, B3 = (event(lane_id, seq) for lane_id in "ab" for seq in (1, 2, 3))
EVENTS = [A1, B1, A2, B2, B3, A3]
"""Of two lanes; B2 and B3 are a batch that got no reply, and A3 has a key."""

UNANSWERED = [{"b/2", "b/3"}]


@pytest.fixture
def hot(make_backend: Callable[[str], Backend]) -> Hot:
    """Redis with one run of all these events, and two snapshots."""
    store = make_backend("fake").open()
    assert isinstance(store, RedisCheckpointer)
    store.save_events(EVENTS[:-1])
    store.append("r", [A3], keys=["key"], snapshot=RunState("r", purpose="p"))
    store.save_snapshot("r", RunState("r", purpose="q"), lane_id="b")
    return store


@pytest.fixture(params=["sqlite", "jsonl"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    """An archive of either kind."""
    archive: Archive = (
        SQLiteCheckpointer(tmp_path / "a.db") if request.param == "sqlite" else JSONLCheckpointer(tmp_path / "a")
    )
    with archive:
        yield archive


@pytest.fixture
def archive(empty: Archive, hot: Hot) -> Archive:
    """An archive that is right."""
    DrainWorker(hot, [empty]).drain_once()
    return empty


def faults(archive: Archive) -> list[str]:
    return list(archive_faults(archive, "r", EVENTS, unanswered=UNANSWERED))


def test_what_is_right_is_taken(archive: Archive, hot: Hot) -> None:
    """Also where an acknowledgement of what is there never came."""
    check_archives([archive], {"r": EVENTS})
    check_archives([archive], {"r": EVENTS}, unanswered=UNANSWERED)
    check_archives([archive], {"r": EVENTS[1:]}, or_more=True)
    check_drained(hot, [archive])


def test_what_was_told_to_the_writers_counts(archive: Archive) -> None:
    """Events that nobody was acknowledged, that are missing, that are others, and another order in a lane."""
    for events in (EVENTS[1:], [*EVENTS, event("c", 1)], [*EVENTS[:-1], event("a", 4)]):
        assert list(archive_faults(archive, "r", events))
    for events in ([A2, A1, *EVENTS[2:]], [*EVENTS[:-1], PAEvent(**{**vars(A3), "ts": 2.0})]):
        assert list(archive_faults(archive, "r", events, or_more=True))
    assert list(archive_faults(archive, "other", EVENTS))
    assert list(archive_faults(archive, "r", EVENTS, kept_aside=1))


# -- archives that never were right ------------------------------------------------------------------


def one_step_away(entries: Sequence[ArchiveEntry]) -> Iterator[tuple[str, list[ArchiveEntry]]]:
    """All histories that differ from this one by one event that is missing, doubled, moved or changed."""
    for at, entry in enumerate(entries):
        yield f"without {at}", [*entries[:at], *entries[at + 1 :]]
        assert entry.data is not None
        changed = entry._replace(data=entry.data.replace('"ts":1.0', '"ts":1.5'))
        assert changed != entry
        yield f"{at} changed", [*entries[:at], changed, *entries[at + 1 :]]
        for other in range(len(entries) + 1):
            yield f"{at} again at {other}", [*entries[:other], entry, *entries[other:]]
        for other in range(at):
            if entries[other].data != entry.data:
                swapped = list(entries)
                swapped[at], swapped[other] = entries[other], entry
                yield f"{at} and {other} swapped", swapped


def chained(entries: Sequence[ArchiveEntry], start: Cursor) -> list[ArchiveEntry]:
    """The same entries at dense offsets, along one chain."""
    made, at = [], start
    for entry in entries:
        fields = entry_fields("r", entry)
        assert fields is not None
        (encoded,) = Codec[Any, Any]().encode_events("r", [PAEvent.from_dict(fields)], [entry.key])
        at = Cursor(at.offset + 1, next_chain(at.chain, record_crc(encoded.record)))
        made.append(entry._replace(offset=at.offset, chain=at.chain))
    return made


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
def test_a_history_that_is_not_the_one_is_found_though_its_chain_fits(archive: Archive, hot: Hot) -> None:
    """One event missing, doubled, moved or changed; what two lanes wrote in which order, only Redis knows."""
    noted = archive_of(archive).header("r")
    assert noted is not None
    header = RunHeader("r", noted.start)
    snapshots = archive.read_back_snapshots("r")
    entries = list(archive.read_back("r", 1, len(EVENTS)))
    assert chained(entries, header.start) == entries
    tried = 0
    for name, history in one_step_away(entries):
        archive.delete_run("r")
        archive.write([RunBatch(header, header.start, chained(history, header.start), snapshots)])
        assert list(drained_faults(hot, [archive])), name
        assert faults(archive) or is_of_two_lanes(name), name
        tried += 1
    assert tried > 60


def is_of_two_lanes(name: str) -> bool:
    """Whether the only step is that two events of different lanes have changed places, side by side."""
    at, _, rest = name.partition(" and ")
    other, _, what = rest.partition(" ")
    if what != "swapped":
        return False
    stretch = EVENTS[int(other) : int(at) + 1]
    # nobody of a lane that is moved is passed by
    return all(
        event.lane_id != moved.lane_id
        for moved in (stretch[0], stretch[-1])
        for event in stretch
        if event != moved
    )


# -- files that another program has changed ----------------------------------------------------------


_IN_SQLITE = {
    "a missing row": "DELETE FROM events WHERE offset = 3",
    "a missing first row": "DELETE FROM events WHERE offset = 1",
    "a cut tail": "DELETE FROM events WHERE offset >= 5",
    "a cut tail that nobody misses": "DELETE FROM events WHERE offset >= 4;"
    "UPDATE runs SET last_offset = 3, last_chain = (SELECT chain FROM events WHERE offset = 3)",
    "a doubled row": "DROP INDEX events_by_offset;"
    "INSERT INTO events (run_id, seq, ts, kind, lane_id, data, offset, chain)"
    " SELECT run_id, seq, ts, kind, lane_id, data, offset, chain FROM events WHERE offset = 3",
    "a doubled row at the end": "INSERT INTO events (run_id, seq, ts, kind, lane_id, data, offset, chain)"
    " SELECT run_id, seq, ts, kind, lane_id, data, 7, chain FROM events WHERE offset = 6",
    "a changed row": """UPDATE events SET data = replace(data, '"ts":1.0', '"ts":1.5') WHERE offset = 3""",
    "a changed key": "UPDATE events SET key = 'another' WHERE offset = 6",
    "a swapped pair": "CREATE TABLE old AS SELECT * FROM events;"
    "UPDATE events SET data = (SELECT data FROM old WHERE old.offset = 4 - events.offset) WHERE offset IN (1, 3)",
    "a swapped pair, places and all": "UPDATE events SET offset = -offset WHERE offset IN (1, 3);"
    "UPDATE events SET offset = 4 + offset WHERE offset < 0",
    "a wrong chain": "UPDATE events SET chain = chain + 1 WHERE offset = 3",
    "a wrong first chain": "UPDATE events SET chain = chain + 1 WHERE offset = 1",
    "a wrong last chain": "UPDATE events SET chain = chain + 1 WHERE offset = 6",
    "another start": "UPDATE runs SET start_chain = start_chain + 1",
    "an event in the quarantine": "INSERT INTO quarantine"
    " SELECT run_id, offset, chain, key, CAST(data AS BLOB), 'x', 0, NULL FROM events WHERE offset = 6;"
    "DELETE FROM events WHERE offset = 6",
}


@pytest.mark.one_in(8)
@pytest.mark.parametrize("change", _IN_SQLITE)
def test_a_changed_sqlite_file_is_found(hot: Hot, tmp_path: Path, change: str) -> None:
    """Rows lost, doubled, changed and swapped by another connection."""
    with SQLiteCheckpointer(tmp_path / "a.db") as archive:
        DrainWorker(hot, [archive]).drain_once()
        assert faults(archive) == []
        with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
            connection.executescript(_IN_SQLITE[change])
        assert faults(archive), change


Lines = list[bytes]
"""Of the log: first the run's header, then one for each event."""


def _swapped(lines: Lines) -> Lines:
    return [lines[0], lines[3], lines[2], lines[1], *lines[4:]]


def _contents_swapped(lines: Lines) -> Lines:
    one, three = (lines[at].partition(b'"$offset"') for at in (1, 3))
    lines[1], lines[3] = three[0] + one[1] + one[2], one[0] + three[1] + three[2]
    return lines


_IN_JSONL: dict[str, Callable[[Lines], Lines]] = {
    "a missing line": lambda lines: [*lines[:3], *lines[4:]],
    "a missing first line": lambda lines: [lines[0], *lines[2:]],
    "a cut tail": lambda lines: lines[:-1],
    "a tail cut within a line": lambda lines: [*lines[:-1], lines[-1][:40]],
    "a doubled line": lambda lines: [*lines[:3], lines[3], *lines[3:]],
    "a doubled last line": lambda lines: [*lines, lines[-1]],
    "a changed line": lambda lines: [*lines[:3], lines[3].replace(b'"ts":1.0', b'"ts":1.5'), *lines[4:]],
    "a changed key": lambda lines: [*lines[:-1], lines[-1].replace(b'"key"', b'"another"')],
    "a swapped pair": _contents_swapped,
    "a swapped pair, places and all": _swapped,
    "a wrong chain": lambda lines: [*lines[:3], lines[3].replace(b'"$chain":', b'"$chain":1'), *lines[4:]],
    "a wrong last chain": lambda lines: [*lines[:-1], lines[-1].replace(b'"$chain":', b'"$chain":1')],
    "another start": lambda lines: [lines[0].replace(b'"$chain":', b'"$chain":1'), *lines[1:]],
    "a line that does not read": lambda lines: [*lines[:3], b"{" + lines[3], *lines[4:]],
}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("change", _IN_JSONL)
def test_a_changed_jsonl_file_is_found(hot: Hot, tmp_path: Path, change: str) -> None:
    """Lines lost, doubled, changed and swapped by an editor."""
    with JSONLCheckpointer(tmp_path / "a") as archive:
        DrainWorker(hot, [archive]).drain_once()
        assert faults(archive) == []
    log = tmp_path / "a" / "r" / "events.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + len(EVENTS)
    log.write_bytes(b"".join(_IN_JSONL[change](list(lines))))
    assert log.read_bytes().splitlines(keepends=True) != lines
    with JSONLCheckpointer(tmp_path / "a") as archive:
        assert faults(archive), change


# -- against Redis -----------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
def test_what_redis_has_beyond_the_archive_is_found(archive: Archive, hot: Hot) -> None:
    """An event, a run and a snapshot that came after, and a run that is parked."""
    additions: list[Callable[[], object]] = [
        lambda: hot.save_event(event("a", 4)),
        lambda: hot.save_snapshot("r", RunState("r", purpose="z")),
        lambda: hot.save_event(PAEvent("another")),
    ]
    for add in additions:
        add()
        assert list(drained_faults(hot, [archive]))
        DrainWorker(hot, [archive]).drain_once()
        check_drained(hot, [archive])
    archive.delete_run("another")
    assert list(drained_faults(hot, [archive]))
    hot.save_event(PAEvent("another", seq=2))
    assert DrainWorker(hot, [archive], trim="archived").drain_once().parked == 0
    assert hot.delete_run("another")
    assert list(drained_faults(hot, [archive]))
