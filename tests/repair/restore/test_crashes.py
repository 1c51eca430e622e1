"""Restoring is killed at any exchange and repeated; and the command that does it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runstream import (
    DrainWorker,
    RunStatus,
    connect,
)
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from tests.repair.restore.restoring_tools import come_back, drain, dumps, write_one
from tests.support.archive_check import Archive, check_drained
from tests.support.backends import FakeBackend, RedisBackend
from tests.support.commands import run, spawn
from tests.support.drain_tools import Hot, open_hot
from tests.support.mortal import Killed, Mortal
from tests.support.random_runs import lose_redis, one_archive
from tests.support.samples import make_events, make_state
from tests.support.servers import needs_server


@pytest.mark.one_in(4, exhaustively=2)
@pytest.mark.parametrize("shape", ["lost", "retired", "behind"])
@pytest.mark.parametrize("whole", [False, True])
def test_killed_at_every_exchange_and_repeated_it_ends_the_same(tmp_path: Path, shape: str, whole: bool) -> None:
    """Before and after each; a worker drains in between. What is half done is never seen."""
    point, died = 0, True
    while died:
        point += 1
        backend = FakeBackend("n")
        (tmp_path / f"{point}").mkdir()
        with one_archive("sqlite", tmp_path / f"{point}") as archive:
            hot = open_hot(backend)
            _bring_into(shape, backend, hot, archive)
            left = dumps(backend)
            died = _restore_and_die(backend, archive, point, whole=whole)
            if died and point % 2 and open_hot(backend).run_info("r") is not None:
                DrainWorker(open_hot(backend), [archive]).drain_once()
            elif died:
                there = dumps(backend)
                assert {name: there.get(name) for name in left} == left or _is_whole(backend, archive)
            hot = open_hot(backend)
            put_back(hot, archive, "r", whole=whole)
            assert _is_whole(backend, archive)
            drain(hot, archive)
            check_drained(hot, [archive])
            assert verify_run("r", hot=hot, sinks=[archive]).difference is None
        backend.close()
    print(f"{point} points, {shape}")
    assert point > 10


def _bring_into(shape: str, backend: RedisBackend, hot: Hot, archive: Archive) -> None:
    """Redis has lost the run, has retired it, or has lost the end of it."""
    write_one(hot)
    hot.save_snapshot("r", make_state("r"), lane_id="side")
    drain(hot, archive)
    behind = dumps(backend)
    hot.recover("r")
    hot.append("r", make_events("r", 2), keys=["k3", None])
    hot.save_snapshot("r", make_state("r", status=RunStatus.COMPLETED, current_step=19))
    drain(hot, archive, retire_after_seconds=0.0 if shape == "retired" else None)
    if shape == "lost":
        lose_redis(backend)
    if shape == "behind":
        come_back(backend, behind)


def _is_whole(backend: RedisBackend, archive: Archive) -> bool:
    hot = open_hot(backend)
    info, state, position = hot.run_info("r"), hot.load_latest("r"), archive.position("r")
    assert info is not None
    assert state is not None
    assert position is not None
    return (info.last_offset, state.current_step) == (position.cursor.offset, 19)


def _restore_and_die(backend: RedisBackend, archive: Archive, at: int, *, whole: bool) -> bool:
    """Whether it came to that point: before an exchange, or after one."""
    hot = open_hot(backend)
    Mortal(at).exchanges_of(hot)
    try:
        put_back(hot, archive, "r", whole=whole)
    except Killed:
        return True
    return False


# -- the command line ----------------------------------------------------------------------------------


@needs_server
def test_the_command_restores_what_it_may_and_says_what_it_did(tmp_path: Path) -> None:
    """Runs that are refused do not hold up the others; repeated, what is done is passed over."""
    source, url = f"sqlite:{tmp_path}/a.db", f"embedded:{tmp_path}/server"
    with EmbeddedServer(tmp_path / "server"), connect(url) as hot, connect(source) as archive:
        for run_id in ("lost", "other", "there"):
            write_one(hot, run_id)  # type: ignore[arg-type]  # connect gives any store
        drain(hot, archive)  # type: ignore[arg-type]  # connect gives any store
        for run_id in ("lost", "other"):
            hot.delete_run(run_id)
        hot.save_events(make_events("other", 2))
        said = run("restore", "--from", source, "--to", url, "--json")
        assert (said.code, said.err) == (1, "")
        outcomes = {one["run_id"]: one["outcome"] for one in said.document["runs"]}
        assert outcomes == {"lost": "restored", "other": "refused", "there": "there already"}
        assert (said.document["restored"], said.document["refused"], said.document["there_already"]) == (1, 1, 1)
        assert "runstream resolve other" in str(said.document["runs"])
        said = spawn("restore", "--from", source, "--to", url)
        assert said.code == 1
        rows = [line.split() for line in said.out.splitlines()]
        assert ["lost", "there", "already"] in [row[:3] for row in rows]
        assert ["other", "refused"] in [row[:2] for row in rows]
        assert said.err.startswith("runstream: refused: Redis has run 'other' up to 2-")
        said = run("restore", "lost", "there", "--from", source, "--to", url)
        assert (said.code, said.err) == (0, "")
        assert hot.delete_run("lost")
        assert run("restore", "lost", "--whole", "--from", source, RUNSTREAM_URL=url).code == 0
        assert len(hot.list_events("lost")) == 17


@pytest.mark.exhaustive
@needs_server
def test_the_command_restores_an_embedded_server_that_is_gone(tmp_path: Path) -> None:
    """The directory need not be there; and all runs of many are put back."""
    source, url = f"jsonl:{tmp_path}/j", f"embedded:{tmp_path}/new"
    backend = FakeBackend("n")
    with connect(source) as archive:
        hot = open_hot(backend)
        for number in range(30):
            write_one(hot, f"run-{number}")
        drain(hot, archive)  # type: ignore[arg-type]  # connect gives any store
    backend.close()
    said = run("restore", "--from", source, "--to", url, "--json")
    assert (said.code, said.document["restored"]) == (0, 30)
    facts = run("status", "--url", url, "--json").document
    assert (facts["runs"], facts["due"], facts["parked"], facts["archives"]) == (30, 30, {}, {})
    assert run("drain", "--url", url, "--to", source, "--once").code == 0
    facts = run("status", "--url", url, "--json").document
    assert (facts["due"] + facts["later"], facts["parked"]) == (0, {})


def test_the_command_says_what_it_cannot_do(tmp_path: Path) -> None:
    source = f"sqlite:{tmp_path}/a.db"
    connect(source).close()
    assert run("restore", "--from", f"sqlite:{tmp_path}/none.db", "--to", "fake:").code == 2
    assert run("restore", "--from", "memory:", "--to", "fake:").code == 2
    assert run("restore", "--from", source, "--to", source).code == 2
    assert run("restore", "--from", source).code == 2
    assert run("restore", "--to", "fake:").code == 2
    said = run("restore", "nobody", "--from", source, "--to", "fake:")
    assert (said.code, "nobody" in said.err) == (4, True)
    assert run("restore", "--from", source, "--to", "fake:", "--json").document["runs"] == []
