"""``verify --repair`` makes runs whole whose events are all there, and leaves the others as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    CorruptRecordError,
    DrainWorker,
    EventKind,
    RunHasForks,
    SQLiteCheckpointer,
    TieredCheckpointer,
)
from runstream.cli.support.exit_codes import ExitCode
from runstream.model.erasures import ErasureNote
from runstream.repair.mend import mend_run
from runstream.repair.verify import verify_run
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.namespace import namespace_of
from tests.support.backends import RedisBackend, ServerBackend
from tests.support.commands import run as command_line
from tests.support.drain_tools import Hot, open_hot, parked
from tests.support.kinds import REAL
from tests.support.operations import session_of
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import needs_server
from tests.support.unfinished import leave_entries


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[SQLiteCheckpointer[Any, Any]]:
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive:
        yield archive


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    """A run with a session, keys, lanes, snapshots and an end."""
    hot = open_hot(redis_backend)
    hot.append("r", make_events("r", 3, session_id="s"), keys=["a", None, "c"], snapshot=make_state("r"))
    hot.append("r", make_events("r", 2, lane_id="side"), snapshot=make_state("r"), lane_id="side")
    hot.append("r", [make_event("r", 2), make_event("r", 1, lane_id="late")])
    hot.append("r", [make_event("r", 9, kind=EventKind.RUN_FINISHED)])
    return hot


@pytest.fixture
def run(hot: Hot) -> RunKeys:
    keys: RunKeys = session_of(hot).keys.run("r")
    return keys


def facts_of(hot: Hot) -> Any:
    info = hot.run_info("r")
    assert info is not None
    return info.session_id, info.status, info.last_offset, info.first_hot, info.created_at, info.parent


def of_run(hot: Hot) -> Any:
    info = hot.run_info("r")
    assert info is not None
    recovered = [hot.recover("r", lane_id=lane) for lane in (None, "main", "side", "late")]
    facts = (info.session_id, info.status, info.last_offset, info.first_hot)
    return facts, list(hot.read("r")), [(one.offset, one.events) for one in recovered], hot.list_events("r", 2)


def test_a_meta_that_was_removed_is_made_anew(
    redis_backend: RedisBackend, hot: Hot, run: RunKeys, archive: Any
) -> None:
    """From the stream and the snapshots: the run reads, goes on, and is archived as if nothing had been."""
    expected = of_run(open_hot(redis_backend))
    before = {name: redis_backend.raw.hget(run.meta, name) for name in redis_backend.raw.hkeys(run.meta)}
    redis_backend.raw.delete(run.meta)
    assert DrainWorker(hot, [archive]).drain_once().parked == 1
    assert not verify_run("r", hot=hot).is_sound
    assert mend_run(hot, "r") == ["took offsets 1 to 8 from its stream into its history"]
    assert verify_run("r", hot=hot).is_sound
    assert of_run(open_hot(redis_backend)) == expected
    after = {name: redis_backend.raw.hget(run.meta, name) for name in redis_backend.raw.hkeys(run.meta)}
    strays = {b"created", b"updated", b"by"}
    assert {k: v for k, v in after.items() if k not in strays} == {
        k: v for k, v in before.items() if k not in strays
    }
    assert hot.append("r", [make_event("r", 10)], keys=["a"]).last_offset == 1
    assert hot.append("r", [make_event("r", 10)]).last_offset == 9
    DrainWorker(hot, [archive]).drain_once()
    assert parked(hot) == {}
    assert verify_run("r", hot=hot, sinks=[archive]).is_sound
    assert mend_run(hot, "r") == []


def test_a_meta_is_made_anew_with_what_an_archive_has_of_the_run(
    redis_backend: RedisBackend, hot: Hot, run: RunKeys, archive: Any, tmp_path: Path
) -> None:
    """What has left Redis: its lanes, its keys, its start. The archive's chain shows that it is the same run."""
    DrainWorker(hot, [archive], trim="archived").drain_once()
    hot.append("r", [make_event("r", 10), make_event("r", 2, lane_id="side")], keys=["x", None])
    DrainWorker(hot, [archive], trim="never").drain_once()
    hot.append("r", [make_event("r", 11), make_event("r", 12, lane_id="new")])
    info = facts_of(hot)
    before = {name: redis_backend.raw.hget(run.meta, name) for name in redis_backend.raw.hkeys(run.meta)}
    redis_backend.raw.delete(run.meta, run.keys)
    with pytest.raises(CorruptRecordError, match="no archive at hand has what came before"):
        mend_run(hot, "r")
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "other.db")) as other:
        other.append("r", make_events("r", 9))
        with pytest.raises(CorruptRecordError, match="no archive at hand has what came before"):
            mend_run(hot, "r", [other])
    assert mend_run(hot, "r", [archive]) == ["took offsets 9 to 12 from its stream into its history"]
    after = {name: redis_backend.raw.hget(run.meta, name) for name in redis_backend.raw.hkeys(run.meta)}
    strays = {b"updated", b"by", b"mark", b"trimmed", b"proven", b"proven:side"}
    assert {k: v for k, v in after.items() if k not in strays} == {
        k: v for k, v in before.items() if k not in strays
    }
    assert facts_of(hot) == info
    assert hot.append("r", make_events("r", 2), keys=["a", "x"]).last_offset == 9
    DrainWorker(hot, [archive]).drain_once()
    assert parked(hot) == {}
    assert len(archive.list_events("r")) == 12
    assert verify_run("r", hot=hot, sinks=[archive]).is_sound


@pytest.mark.parametrize("done", ["nowhere", "in Redis", "everywhere"])
def test_a_meta_is_made_anew_with_what_was_erased_and_truncated(
    redis_backend: RedisBackend, hot: Hot, run: RunKeys, archive: Any, done: str
) -> None:
    """What was asked for is noted beside it, and is carried out again; the history begins where it is to begin."""
    DrainWorker(hot, [archive], trim="never").drain_once()
    namespace = namespace_of(hot)
    (there,) = namespace.load_runs(["r"])
    assert there is not None
    before = namespace.cursor_at("r", 2)
    for note in (ErasureNote(0.0, ((6, 6),)), ErasureNote(0.0, (), 3)):
        cursor = None if note.before is None else before
        assert not namespace.ask_again(there.header, note, there.head.last, there.head.tokens, cursor)
    if done != "nowhere":
        hot.erasures("r")
    if done == "everywhere":
        DrainWorker(hot, [archive], trim="archived").drain_once()
    hot.append("r", make_events("r", 1, first=10))
    redis_backend.raw.delete(run.meta)
    assert mend_run(hot, "r", [archive])
    again = open_hot(redis_backend)
    assert [(one.spans, one.before) for one in again.erasures("r")] == [(((6, 6),), None), ((), 3)]
    info = again.run_info("r")
    assert info is not None
    assert info.first_hot == (9 if done == "everywhere" else 3)
    DrainWorker(again, [archive]).drain_once()
    assert parked(again) == {}
    assert [item.offset for item in archive.read("r")] == [3, 4, 5, 7, 8, 9]
    assert verify_run("r", hot=again, sinks=[archive]).is_sound


@pytest.mark.parametrize("kind", [0, 1], ids=["sqlite", "jsonl"])
@pytest.mark.parametrize("trim", ["never", "archived"])
def test_a_meta_of_a_run_that_was_a_fork_is_made_anew(
    redis_backend: RedisBackend, hot: Hot, archives: list[Any], kind: int, trim: Any
) -> None:
    """What it had shared was recorded as another run's: an archive tells as whose, and which fork it was."""
    hot.fork("r", "f", at=4, tags={"user": "42"})
    hot.append("f", make_events("f", 2, first=50), keys=["k", None])
    hot.delete_run("r", detach=True)
    DrainWorker(hot, archives, trim=trim).drain_once()
    hot.append("f", make_events("f", 1, first=52))
    run = session_of(hot).keys.run("f")
    (before,) = namespace_of(hot).load_runs(["f"])
    items = list(TieredCheckpointer(hot, archives[kind]).read("f"))
    redis_backend.raw.delete(run.meta)
    with pytest.raises(CorruptRecordError):
        mend_run(open_hot(redis_backend), "f")
    again = open_hot(redis_backend)
    assert len(mend_run(again, "f", [archives[kind]])) == 1
    (after,) = namespace_of(again).load_runs(["f"])
    assert before is not None
    assert after is not None
    assert replace(after.head, mark=before.head.mark, updated_at=before.head.updated_at) == before.head
    assert list(TieredCheckpointer(again, archives[kind]).read("f")) == items
    assert again.append("f", make_events("f", 1), keys=["a"]).last_offset == 1
    assert again.append("f", make_events("f", 1, first=53)).last_offset == 8
    assert DrainWorker(again, archives).drain_once().parked == 0
    assert verify_run("f", hot=again, sinks=archives).is_sound


def test_a_meta_of_a_fork_that_shares_no_event_is_made_anew(
    redis_backend: RedisBackend, hot: Hot, archive: Any
) -> None:
    """Its stream alone looks like that of a run of its own: the archive tells which fork it was, and whose."""
    hot.fork("r", "f", at=0)
    hot.append("f", make_events("f", 2), keys=["k", None])
    DrainWorker(hot, [archive], trim="never").drain_once()
    hot.append("f", make_events("f", 1, first=3))
    (before,) = namespace_of(hot).load_runs(["f"])
    redis_backend.raw.delete(session_of(hot).keys.run("f").meta)
    again = open_hot(redis_backend)
    assert mend_run(again, "f", [archive]) == ["took offsets 1 to 3 from its stream into its history"]
    (after,) = namespace_of(again).load_runs(["f"])
    assert before is not None
    assert after is not None
    assert replace(after.head, mark=before.head.mark, updated_at=before.head.updated_at) == before.head
    assert again.append("f", make_events("f", 1), keys=["k"]).last_offset == 1
    with pytest.raises(RunHasForks):
        again.delete_run("r")
    assert DrainWorker(again, [archive]).drain_once().parked == 0
    assert verify_run("f", hot=again, sinks=[archive]).is_sound


def test_an_unfinished_append_is_finished(redis_backend: RedisBackend, hot: Hot, run: RunKeys) -> None:
    leave_entries(hot, redis_backend.raw, [make_event("r", 10), make_event("r", 1, lane_id="new")], ["k", None])
    leave_entries(hot, redis_backend.raw, make_events("begun", 2, session_id="s"))
    assert [info.run_id for info in hot.runs()] == ["r"]
    for run_id, last in (("r", 10), ("begun", 2)):
        assert not verify_run(run_id, hot=hot).is_sound
        assert len(mend_run(hot, run_id)) == 1
        assert verify_run(run_id, hot=hot).is_sound
        assert len(hot.list_events(run_id)) == last
    assert {info.run_id for info in hot.runs(session_id="s")} == {"r", "begun"}
    assert hot.append("r", [make_event("r", 11)], keys=["k"]).last_offset == 9


def test_a_run_that_is_not_listed_is(redis_backend: RedisBackend, hot: Hot, run: RunKeys) -> None:
    redis_backend.raw.delete(run.partition.runs, run.partition.due)
    assert mend_run(hot, "r") == ["put it back into the sets that it belongs to"]
    assert verify_run("r", hot=hot).is_sound


def test_what_the_stream_does_not_prove_is_left_as_it_is(
    redis_backend: RedisBackend, hot: Hot, run: RunKeys, archive: Any
) -> None:
    """Its end was lost with its meta; its beginning has left Redis; an entry is another program's, or changed."""
    saved = {name: redis_backend.raw.dump(name) for name in redis_backend.raw.keys(f"{run.partition.tag}:run:*")}

    def refused(why: str) -> None:
        before = redis_backend.footprint()
        with pytest.raises(CorruptRecordError, match=why):
            mend_run(open_hot(redis_backend), "r")
        assert redis_backend.footprint() == before
        for name, content in saved.items():
            redis_backend.raw.restore(name, 0, content, replace=True)

    (last,) = redis_backend.raw.xrevrange(run.events, count=1)
    redis_backend.raw.delete(run.meta)
    redis_backend.raw.xdel(run.events, last[0])
    refused("it ends at 7-.*events of it are lost")
    redis_backend.raw.delete(run.meta)
    redis_backend.raw.xtrim(run.events, minid="3-0", approximate=False)
    refused("no archive at hand has what came before")
    redis_backend.raw.xadd(run.events, {"x": "y"}, id="9-1")
    refused("9-1 is not one that an append adds after 8-")
    leave_entries(hot, redis_backend.raw, [make_event("r", 10)])
    redis_backend.raw.hset(run.meta, "last", "8-77")
    refused("is not one that an append adds after 8-77")
    redis_backend.raw.xadd(run.events, {"x": "y"}, id="9-1")
    with pytest.raises(CorruptRecordError, match="9-1 is not one that an append adds"):
        hot.append("r", [make_event("r", 10)])


@needs_server
@pytest.mark.parametrize("redis_backend", REAL[:1], indirect=True)
def test_the_command_repairs_and_verifies_again(redis_backend: ServerBackend, hot: Hot, run: RunKeys) -> None:
    redis_backend.raw.delete(run.meta)
    leave_entries(hot, redis_backend.raw, make_events("half", 2))
    hot.append("sound", make_events("sound", 2))
    url = f"unix://{redis_backend.server.socket_path}?namespace={redis_backend.namespace}"
    said = command_line("verify", "--url", url)
    assert said.code == ExitCode.DOES_NOT_HOLD
    assert "`runstream verify r`, which puts right what it can with --repair" in said.out + said.err
    before = redis_backend.footprint()
    assert command_line("verify", "--url", url).code == ExitCode.DOES_NOT_HOLD
    assert redis_backend.footprint() == before
    said = command_line("verify", "--url", url, "--repair", "--json")
    assert said.code == ExitCode.FINE
    repaired = {one["run_id"]: one["repaired"] for one in said.document["runs"]}
    assert repaired == {
        "half": ["took offsets 1 to 2 from its stream into its history"],
        "r": ["took offsets 1 to 8 from its stream into its history"],
        "sound": [],
    }
    redis_backend.raw.zrem(run.partition.runs, "r")
    said = command_line("verify", "r", "--url", url, "--repair")
    assert said.code == ExitCode.FINE
    assert "run 'r' was repaired: put it back into the sets" in said.out + said.err
    redis_backend.raw.delete(run.meta)
    redis_backend.raw.xtrim(run.events, minid="3-0", approximate=False)
    said = command_line("verify", "r", "--url", url, "--repair")
    assert said.code == ExitCode.DOES_NOT_HOLD
    assert "run 'r' was not repaired" in said.out + said.err


def test_only_runs_in_redis_are_repaired(tmp_path: Path) -> None:
    SQLiteCheckpointer[Any, Any](tmp_path / "a.db").close()
    said = command_line("verify", "--archive", f"sqlite:{tmp_path}/a.db", "--repair")
    assert said.code == ExitCode.USAGE
    assert "--repair is for runs in Redis: give --url" in said.err
