"""How little a retired run leaves behind, and that a full server is drained and retired from."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    DrainReport,
    DrainWorker,
    SQLiteCheckpointer,
    StoreUnavailable,
)
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.scripts.calls import PRODUCER_WINDOW_SECONDS
from tests.drain.retire.retiring_tools import (
    CHUNK_BYTES,
    TOMBSTONE_BYTES,
    ended,
    fit_of,
    open_hot,
    retire_all,
    retire_now,
    retiring_of,
)
from tests.support.archive_check import check_archives
from tests.support.backends import ServerBackend
from tests.support.exhaustive import ROUNDS
from tests.support.kinds import REAL, short
from tests.support.samples import make_event, make_state
from tests.support.servers import Servers

LANE_BYTES = 48
"""What a tombstone may take for each lane that has a snapshot."""
RUN_BYTES = 700
"""What a short run may take for good: its tombstone, and its places in three sorted sets."""


@pytest.fixture(params=short(REAL))
def own_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerBackend]:
    """A server that nobody else uses: its memory is measured, or bounded."""
    directory = tmp_path_factory.mktemp("server")
    with Servers() as servers:
        server = servers.get(request.param)
        backend = ServerBackend(server, "runstream")
        yield backend
        backend.close()
        assert directory


def amounts() -> list[object]:
    """A few runs on every server, very many on one; where more rounds are played on each."""
    few = [(name, 1_200) for name in REAL]
    many = [(name, 10_000) for name in (REAL if ROUNDS > 1 else REAL[:1])]
    exhaustive = [pytest.param(*each, marks=pytest.mark.exhaustive) for each in [*few[1:], *many]]
    return [*few[:1], *exhaustive]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("own_server", "short_runs"), amounts(), indirect=["own_server"])
@pytest.mark.timeout(300)
def test_ten_thousand_short_runs_leave_little_behind(
    own_server: ServerBackend, tmp_path: Path, short_runs: int
) -> None:
    """A day of short runs, drained and retired: bytes per run, before and after their producers are forgotten."""
    raw, hot = own_server.raw, open_hot(own_server)
    run_ids = [str(uuid.UUID(int=number)) for number in range(short_runs)]

    def used() -> int:
        return int(raw.info("memory")["used_memory"])

    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive:
        worker = DrainWorker(hot, [archive], batch=5000, trim="archived", retire_after_seconds=0)
        worker.drain_once()
        empty = used()
        for at in range(0, short_runs, 100):
            hot.save_events([event for run_id in run_ids[at : at + 100] for event in ended(run_id, 10)])
        full = used()
        report = worker.drain_once()
    assert (report.retired, report.events) == (short_runs, short_runs * 10)
    retired = used()
    keys = namespace_of(hot).keys
    tombstones = [raw.memory_usage(keys.run(run_id).meta) for run_id in run_ids[::97]]
    for partition in keys.partitions:  # as if the window had passed
        scores = {
            run_id: at - PRODUCER_WINDOW_SECONDS * 1e6
            for run_id, at in raw.zrange(partition.leftovers, 0, -1, withscores=True)
        }
        if scores:
            raw.zadd(partition.leftovers, scores)
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive:
        DrainWorker(hot, [archive]).drain_once()
    assert not any(raw.exists(keys.run(run_id).producers) for run_id in run_ids[::97])
    quiet = used()
    per_run = [(at - empty) / short_runs for at in (full, retired, quiet)]
    print(
        f"{own_server.server.name}: bytes per run: {per_run[0]:.0f} before, {per_run[1]:.0f} retired,"
        f" {per_run[2]:.0f} without producers; a tombstone {min(tombstones)} to {max(tombstones)}"
    )
    assert max(tombstones) <= tombstone_bytes(raw)
    assert per_run[2] <= RUN_BYTES
    assert per_run[2] < per_run[1] < per_run[0] / 4


def tombstone_bytes(raw: Any, lanes: int = 0) -> int:
    """How much a tombstone may take here, of a run with snapshots of so many lanes."""
    chunk = CHUNK_BYTES if raw.info("memory")["mem_allocator"] == "libc" else 0
    return TOMBSTONE_BYTES + lanes * LANE_BYTES + chunk


def test_a_tombstone_is_small_whatever_the_run_was(own_server: ServerBackend, tmp_path: Path) -> None:
    """Many lanes, leases and snapshots, long: its hash had another form by then, and gets its small one back."""
    raw, hot = own_server.raw, open_hot(own_server)
    run_id = str(uuid.uuid4())
    events = [make_event(run_id, seq, lane_id=f"lane-{seq % 300}") for seq in range(1, 2000)]
    for lane in range(5):
        hot.append(run_id, events[lane::5], snapshot=make_state(run_id), lane_id=f"lane-{lane}")
        long = f"{lane}" * 500
        hot.append(run_id, [make_event(run_id, lane_id=long)], snapshot=make_state(run_id), lane_id=long)
        with hot.lease(run_id, owner="o" * 100, lane_id=f"lane-{lane}"):
            pass
    hot.append(run_id, ended(run_id, 2), snapshot=make_state(run_id, status="cancelled"))
    meta = namespace_of(hot).keys.run(run_id).meta
    assert raw.memory_usage(meta) > 10_000
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive:
        assert retire_all(hot, [archive]).retired == 1
        assert raw.memory_usage(meta) <= tombstone_bytes(raw, 10)
        hot.save_event(make_event(run_id, 5))
        assert retire_all(hot, [archive]).retired == 1
    assert raw.memory_usage(meta) <= tombstone_bytes(raw, 10)


def test_a_full_server_refuses_neither_to_retire_nor_to_forget(own_server: ServerBackend, tmp_path: Path) -> None:
    """Not one byte is free, and nothing was trimmed before: each script begins with what makes room."""
    raw, hot = own_server.raw, open_hot(own_server)
    hot.append("r", ended("r"), snapshot=make_state("r", status="completed"))
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive:
        DrainWorker(hot, [archive], trim="never").drain_once()
        fit = fit_of(hot)
        raw.config_set("maxmemory", 1)
        assert retire_now(hot, [archive], fit, quiet=60)[0].name == "later"
        assert retiring_of(hot, [archive]).all_due() == DrainReport(retired=1, trimmed=4)
        tombstone = fit_of(hot)
        raw.config_set("maxmemory", 0)
        with hot.lease("r", owner="us"):
            raw.config_set("maxmemory", 1)
            assert namespace_of(hot).forget([tombstone], 0)[0].name == "later"
        raw.config_set("maxmemory", 0)
        raw.zadd(namespace_of(hot).keys.run("r").partition.retired, {"r": 5})  # when the lease would have run out
        raw.config_set("maxmemory", 1)
        assert namespace_of(hot).forget([tombstone], 0)[0].name == "ok"
        assert hot.list_runs() == []


def test_a_full_server_is_drained_and_takes_writes_again(own_server: ServerBackend, tmp_path: Path) -> None:
    """It refuses appends; draining, retiring and forgetting are not refused, and make room."""
    raw, hot = own_server.raw, open_hot(own_server)
    acknowledged: dict[str, list[Any]] = {}
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive:
        worker = DrainWorker(hot, [archive], trim="archived", retire_after_seconds=0)
        worker.drain_once()
        raw.config_set("maxmemory", int(raw.info("memory")["used_memory"]) + 1_500_000)
        refused: list[Any] = []

        def fill() -> None:
            for number in range(100_000):
                refused[:] = ended(f"r{number}", 10, payload={"text": "x" * 100})
                hot.append(refused[0].run_id, refused)
                acknowledged[refused[0].run_id] = list(refused)

        with pytest.raises(StoreUnavailable, match="full"):
            fill()
        assert len(acknowledged) > 100
        report = worker.drain_once()
        assert (report.retired, report.parked) == (len(acknowledged), 0)
        hot.append(refused[0].run_id, refused)
        acknowledged[refused[0].run_id] = refused
        forgetful = DrainWorker(hot, [archive], retire_after_seconds=0, forget_after_seconds=0)
        forgetful.drain_once()
        assert hot.list_runs() == []
        check_archives([archive], acknowledged)
