"""P8, P4: a page of entries is bounded by bytes before it is asked for, whatever a run's events are."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import runstream
from runstream import DrainWorker, JSONLCheckpointer, SQLiteCheckpointer
from runstream.codec.pages import PAGE_BYTES
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.page_size import PageSize, size_bound
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import Server, needs_server

ARCHIVES: dict[str, Any] = {"sqlite": SQLiteCheckpointer, "jsonl": JSONLCheckpointer}
LIMIT = 200_000
"""What a client's replies may have together; a little more than two pages of the small budget."""


def test_a_page_is_of_no_more_entries_than_have_its_bytes() -> None:
    """By the size of the largest record; where that is not told, of a few, and each at most twice as long."""
    assert PageSize(1000, 300).count == 1000
    assert PageSize(1000, 7 * 2**20).count == 2
    assert PageSize(1000, PAGE_BYTES + 1).count == 1
    untold = PageSize(1000)
    counts = []
    for _ in range(4):
        counts.append(untold.count)
        untold.adapt([300] * untold.count)
    assert counts == [8, 16, 32, 64]
    untold.adapt([7 * 2**20] * 2)
    assert untold.count == 2
    assert [size_bound(size) for size in (0, 4096, 4097, 7 * 2**20)] == [4096, 4096, 8192, 8 * 2**20]


def test_a_page_that_fails_is_asked_for_at_half_its_length() -> None:
    """Until it is a single entry, which is asked for again as it is."""
    pages = PageSize(1000, 2**20)
    exchange = pages.exchange(lambda: [(pages.count,)])
    counts = []
    for _ in range(6):
        counts.append(exchange.commands[0][0])
        assert exchange.smaller is not None
        exchange = exchange.smaller()
    assert counts == [16, 8, 4, 2, 1, 1]


@pytest.fixture
def small_replies(server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that closes a connection whose replies are too large, and pages of 64 KiB."""
    for module in (
        "stores.redis.page_size",
        "stores.redis.operations.worker.load",
        "stores.archive.integrity",
        "stores.archive.sqlite.connection",
    ):
        monkeypatch.setattr(f"runstream.{module}.PAGE_BYTES", 2**16)
    server.raw.config_set("client-output-buffer-limit", f"normal {LIMIT} 0 0")
    yield server
    for key in server.raw.scan_iter(f"{{{namespace}*"):
        server.raw.delete(key)
    server.raw.config_set("client-output-buffer-limit", "normal 0 0 0")


@pytest.mark.one_in(6)
@pytest.mark.parametrize("is_told", [True, False])
@needs_server
def test_small_events_before_large_ones_are_read_and_drained(
    small_replies: Server, namespace: str, tmp_path: Path, is_told: bool
) -> None:
    """Every reader of entries gets them, also those of a run whose meta does not tell how large they are."""
    with runstream.connect(f"{small_replies.url}?namespace={namespace}&retry_seconds=3") as hot:
        events = make_events("r", 64) + [
            make_event("r", seq, payload={"page": "z" * 30_000}) for seq in range(65, 105)
        ]
        hot.append("r", events[:64])
        for event in events[64:]:
            hot.append("r", [event])
        keys = namespace_of(hot).keys.run("r")
        assert small_replies.raw.hget(keys.meta, "largest") == b"32768"
        if not is_told:
            small_replies.raw.hdel(keys.meta, "largest")

        assert [item.event for item in hot.read("r")] == events
        assert [item.event for item in hot.read("r", reverse=True)] == events[::-1]
        assert hot.list_events("r") == events
        assert hot.list_events("r", since_seq=3) == events[3:]
        assert [item.event for item in hot.recover("r").events] == events
        hot.update_state("r", lambda state: replace(state, status="completed"))
        assert [item.event for item in hot.follow("r")] == events
        with SQLiteCheckpointer(tmp_path / "a.db") as archive:
            report = DrainWorker(hot, [archive], trim="never").drain_once()
            assert (report.events, report.parked) == (104, 0)
            assert archive.list_events("r") == events
            assert verify_run("r", hot=hot, sinks=[archive]).is_sound
            assert DrainWorker(hot, [archive], trim="archived").drain_once().parked == 0
            assert [item.event for item in archive.read("r", reverse=True)] == events[::-1]
            hot.delete_run("r")
            put_back(hot, archive, "r", whole=True)
            assert small_replies.raw.hget(keys.meta, "largest") == b"32768"
            assert hot.list_events("r") == events


@pytest.mark.one_in(3)
@needs_server
def test_runs_and_snapshots_come_in_pages_too(small_replies: Server, namespace: str, tmp_path: Path) -> None:
    """A list of runs needs the first entry of each, and a drain the snapshots of all lanes."""
    large = {"page": "z" * 30_000}
    with runstream.connect(f"{small_replies.url}?namespace={namespace}&retry_seconds=3") as hot:
        for number in range(12):
            hot.append(f"r{number}", [make_event(f"r{number}", 1, payload=large)])
        lanes = [f"lane {number}" for number in range(12)]
        for lane_id in lanes:
            hot.append("r0", [], snapshot=make_state("r0", data=large), lane_id=lane_id)
        assert {info.run_id for info in hot.runs()} == {f"r{number}" for number in range(12)}
        assert hot.list_runs()[0] == "r0"
        with SQLiteCheckpointer(tmp_path / "a.db") as archive:
            report = DrainWorker(hot, [archive]).drain_once()
            assert (report.runs, report.events, report.snapshots, report.parked) == (12, 12, 12, 0)
            assert {one.lane_id for one in archive.read_back_snapshots("r0")} == {*lanes}


@pytest.mark.one_in(3)
@needs_server
def test_a_run_with_nothing_but_a_snapshot_waits_behind_large_ones(
    small_replies: Server, namespace: str, tmp_path: Path
) -> None:
    """What is not loaded, as others were enough for one batch, is loaded with the next."""
    with (
        runstream.connect(f"{small_replies.url}?namespace={namespace}&retry_seconds=3") as hot,
        SQLiteCheckpointer(tmp_path / "a.db") as archive,
    ):
        worker = DrainWorker(hot, [archive])
        hot.append("s", [make_event("s", 1)])
        worker.drain_once()
        for number in range(4):
            hot.append(f"r{number}", make_events(f"r{number}", 3, payload={"page": "z" * 30_000}))
        hot.save_snapshot("s", make_state("s"))
        report = worker.drain_once()
        assert (report.runs, report.events, report.snapshots, report.parked) == (5, 12, 1, 0)


@pytest.mark.exhaustive
@pytest.mark.one_in(6)
@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
@needs_server
def test_the_memory_of_a_drain_does_not_grow_with_the_run(
    small_replies: Server, namespace: str, tmp_path: Path, kind: str
) -> None:
    """Nothing of a batch is held after it, not even until Python's collector comes by."""
    with (
        runstream.connect(f"{small_replies.url}?namespace={namespace}&retry_seconds=3") as hot,
        ARCHIVES[kind](tmp_path / "archive") as archive,
    ):
        peaks = []
        for run_id, length in ("warm", 10), ("short", 20), ("long", 100):
            for seq in range(1, length + 1):
                hot.append(run_id, [make_event(run_id, seq, payload={"page": "z" * 30_000})])
            gc.collect()
            gc.disable()
            tracemalloc.start()
            try:
                report = DrainWorker(hot, [archive], trim="never").drain_once()
                verdict = verify_run(run_id, hot=hot, sinks=[archive])
                count = sum(1 for store in (hot, archive) for _ in store.read(run_id, reverse=True))
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
                gc.enable()
            assert (report.events, verdict.is_sound, count) == (length, True, 2 * length)
        assert peaks[2] - peaks[1] < 300_000, "of 2.4 MB more"
