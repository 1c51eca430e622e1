"""A JSONL directory as a sink: whole batches, once each, with the chain that they came with."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from purpose_agent.runtime import checkpoint as theirs

from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot
from runstream.model.errors import (
    ArchiveGap,
    HistoryDiverged,
)
from runstream.model.results import Cursor
from runstream.stores.archive.jsonl import JSONLCheckpointer
from tests.stores.archive.jsonl.lines import START, batch, event, files_below, history, log_of, numbers


def test_what_is_written_reads_back_the_same_byte_for_byte(tmp_path: Path) -> None:
    events = [
        event("r", 1, text='"$offset":1,"$chain":2}', nested={"$offset": 1, "$chain": 2}),
        event("r", 2, value=(1, {2: b"x"}, {"$set": [1]}, float("nan"), "\ud800", "\u2028\x85\r")),
    ]
    entries = history("r", START, events)
    hard = '"$offset":7,"$chain":8,"$commit":{"status":""}}'
    entries.append(ArchiveEntry(3, 77, None, None, b"\x01\xff raw", f"because {hard}"))
    entries.append(ArchiveEntry(4, 78, None, None))
    entries.append(entries[0]._replace(offset=5, chain=79, key=f'a key, "quoted" {hard} é\ud800'))
    snapshots = [
        ArchiveSnapshot(None, 5, 3, "token-1", '{"a":1}'),
        ArchiveSnapshot("$offset", 5, 1, hard, '{"a":{"$offset":1}}'),
        ArchiveSnapshot("", 5, 1, "t", "{}"),
    ]
    for _ in range(2):
        with JSONLCheckpointer(tmp_path) as store:
            store.write([batch("r", START, entries, *snapshots, status="paused")])
            assert [found.content for found in store.read_back("r", 1, 5)] == [each.content for each in entries]
            assert [found.content for found in store.read_back("r", 3, 3)] == [entries[2].content]
            assert sorted(store.read_back_snapshots("r"), key=str) == sorted(snapshots, key=str)
            position = store.position("r")
            assert position is not None
            assert position.cursor == entries[-1].cursor
            assert position.snapshots == {each.lane_id: each.token for each in snapshots}
            ((run_id, kept),) = store.quarantine()
            assert (run_id, kept._replace(quarantined_at=0.0)) == ("r", entries[2])
            assert time.time() - 60 < kept.quarantined_at <= time.time()
            info = store.run_info("r")
            assert info is not None
            assert (info.status, info.session_id, info.created_at, info.updated_at) == ("paused", "s", 1.5, 2.5)
    assert theirs.JSONLCheckpointer(str(tmp_path)).list_events("r")[0].payload == events[0].payload


def test_the_same_batch_again_and_an_overlapping_one_add_only_what_is_new(tmp_path: Path) -> None:
    entries = history("r", START, [event("r", number) for number in range(1, 7)])
    with JSONLCheckpointer(tmp_path) as store:
        one, two = (ArchiveSnapshot(None, 3, number, f"token-{number}", "{}") for number in (1, 2))
        store.write([batch("r", START, entries[:3], one)])
        content = files_below(tmp_path)
        store.write([batch("r", START, entries[:3], one), batch("r", START, entries[:2])])
        assert files_below(tmp_path) == content
        store.write([batch("r", START, entries[:3], two)])
        assert store.read_back_snapshots("r") == [two]
        store.write([batch("r", START, entries[:5]), batch("r", START, entries)])
        assert numbers(store, "r") == [1, 2, 3, 4, 5, 6]
    with JSONLCheckpointer(tmp_path) as store:
        assert numbers(store, "r") == [1, 2, 3, 4, 5, 6]


def test_a_gap_or_another_history_in_one_run_writes_nothing_of_any(tmp_path: Path) -> None:
    entries = history("r", START, [event("r", number) for number in range(1, 5)])
    others = history("r", START, [event("r", number + 10) for number in range(1, 5)])
    good = batch("q", START, history("q", START, [event("q", 1)]), ArchiveSnapshot(None, 1, 1, "t", "{}"))
    with JSONLCheckpointer(tmp_path) as store:
        store.write([batch("r", START, entries[:2])])
        content = files_below(tmp_path)
        with pytest.raises(ArchiveGap) as gap:
            store.write([good, batch("r", entries[2].cursor, entries[3:])])
        assert (gap.value.expected, gap.value.found) == (3, 4)
        with pytest.raises(HistoryDiverged):
            store.write([good, batch("r", START, others)])
        with pytest.raises(HistoryDiverged):
            store.write([good, batch("r", others[1].cursor, others[2:])])
        assert files_below(tmp_path) == content
        assert store.position("q") is None
        store.write([good, batch("r", entries[1].cursor, entries[2:])])
        assert numbers(store, "r") == [1, 2, 3, 4]


def test_a_history_that_starts_after_a_base_is_kept_from_there(tmp_path: Path) -> None:
    start = Cursor(40, 999)
    entries = history("r", start, [event("r", 41), event("r", 42)])
    for _ in range(2):
        with JSONLCheckpointer(tmp_path) as store:
            store.write([batch("r", start, []), batch("r", start, entries)])
            assert numbers(store, "r") == [41, 42]
            info = store.run_info("r")
            assert info is not None
            assert (info.first_hot, info.last_offset) == (41, 42)
            assert [item.offset for item in store.read("r", str(entries[0].cursor))] == [42]


def test_a_position_is_on_the_disk_even_if_its_writer_was_killed_before_its_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
    synced: list[int] = []
    fsync = os.fsync

    def noted_fsync(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    with JSONLCheckpointer(tmp_path) as store:
        store.position("r")
        assert log_of(tmp_path).stat().st_ino in synced
        synced.clear()
        store.position("r")
        assert synced == []
