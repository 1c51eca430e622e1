"""A lost Redis comes back from an archive as it was; and nothing that Redis has is overwritten."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream import (
    AcknowledgedWritesLost,
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    DrainWorker,
    EventKind,
    EventsArchived,
    HistoryDiverged,
    RunStatus,
    connect,
)
from runstream.codec.record import ERASED
from runstream.repair.resolve import look, resolve
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from runstream.stores.redis.exchange import Exchange, Replies, script_of
from runstream.stores.tiered import TieredCheckpointer
from tests.support.archive_check import Archive, check_drained
from tests.support.backends import Backend, FakeBackend, RedisBackend
from tests.support.commands import run, spawn
from tests.support.drain_tools import Hot, open_archives, open_hot
from tests.support.random_runs import Author, check_is_as_before, damage, erase, lose_redis, one_archive, picture
from tests.support.samples import make_event, make_events, make_state, same
from tests.support.servers import PROGRAMS

KINDS = ("sqlite", "jsonl")
needs_server = pytest.mark.skipif(not PROGRAMS, reason="needs a server program")


@pytest.fixture
def backend(make_backend: Callable[[str], Backend]) -> RedisBackend:
    """fakeredis."""
    made = make_backend("fake")
    assert isinstance(made, RedisBackend)
    return made


@pytest.fixture(params=KINDS)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    """An archive of each kind."""
    with one_archive(request.param, tmp_path) as archive:
        yield archive


def drain(hot: Hot, *archives: Archive, **options: Any) -> Any:
    report = DrainWorker(hot, archives, **options).drain_once()
    assert report.parked == 0
    return report


def write_one(hot: Hot, run_id: str = "r") -> None:
    """Two lanes, a snapshot that covers some of it, keys, a session."""
    hot.save_events(make_events(run_id, 10, session_id="s"))
    hot.append(run_id, make_events(run_id, 3, lane_id="side"), keys=["k1", None, "k2"])
    hot.save_snapshot(run_id, make_state(run_id, current_step=13))
    hot.save_events(make_events(run_id, 4, first=11))


def restore_all(hot: Hot, archive: Archive, *, whole: bool = False) -> list[str]:
    return [put_back(hot, archive, run_id, whole=whole).outcome for run_id in archive.list_runs()]


# -- a lost Redis --------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
def test_a_lost_redis_comes_back_as_it_was(redis_backend: RedisBackend, tmp_path: Path, whole: bool) -> None:
    """On every kind of server, from both kinds of archive: every key of every run, not only what readers show."""
    archives = open_archives(tmp_path)
    author = Author(redis_backend, archives, seed=7)
    author.write(60, trims=["never"] if whole else ["covered"])
    author.drain("never" if whole else "covered")
    before = picture(redis_backend, author.stores[0])
    assert len(before) == len(author.run_ids)
    for archive in archives:
        hot = lose_redis(redis_backend)
        assert set(restore_all(hot, archive, whole=whole)) == {"restored"}
        check_is_as_before(before, picture(redis_backend, hot), whole=whole)
        assert set(restore_all(hot, archive, whole=whole)) == {"there already"}
        drain(hot, *archives, trim="never" if whole else "covered")
        check_drained(hot, archives)
        check_is_as_before(before, picture(redis_backend, hot), whole=whole)
        assert [run_id for run_id in before if not verify_run(run_id, hot=hot, sinks=archives).is_sound] == []
    for opened in archives:
        opened.close()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 80), whole=st.booleans(), kind=st.sampled_from(KINDS))
def test_any_history_comes_back(tmp_path: Path, seed: int, steps: int, whole: bool, kind: str) -> None:
    """Whatever was written, drained and trimmed on the way: what is restored reads as before, and can go on."""
    directory = tmp_path / uuid.uuid4().hex
    directory.mkdir()
    backend = FakeBackend("n")
    with one_archive(kind, directory) as archive:
        author = Author(backend, [archive], seed)
        author.write(steps)
        author.drain()
        hot = author.stores[0]
        before = {info.run_id: info for info in hot.runs()}
        views = {run_id: _reads(TieredCheckpointer(hot, archive), run_id) for run_id in before}
        pictures = picture(backend, hot)
        hot = lose_redis(backend)
        restore_all(hot, archive, whole=whole)
        drain(hot, archive, trim="never" if whole else "covered")
        check_drained(hot, [archive])
        tiered = TieredCheckpointer(hot, archive)
        after = picture(backend, hot)
        for run_id, info in before.items():
            found = hot.run_info(run_id)
            assert found is not None
            # Redis may have had less, by a worker that trims all, or more, by one that trims nothing
            assert found == _with_first(info, found.first_hot)
            assert whole is False or found.first_hot == 1
            assert same(_reads(tiered, run_id), views[run_id])
            now, former = ({**each[run_id], "events": []} for each in (after, pictures))
            check_is_as_before({run_id: former}, {run_id: now}, whole=False)
            if hot.load_snapshot(run_id) is not None:
                hot.recover(run_id)
            if whole:
                assert [item.cursor for item in hot.read(run_id)] == [item.cursor for item in archive.read(run_id)]
            hot.append(run_id, [make_event(run_id, 1)], expected_offset=info.last_offset)
        drain(hot, archive)
        check_drained(hot, [archive])
    backend.close()


def _with_first(info: Any, first_hot: int) -> Any:
    return type(info)(
        info.run_id, info.session_id, info.status, info.last_offset, info.archived_offset, first_hot,
        info.created_at, info.updated_at, info.parent,
    )  # fmt: skip


def _reads(tiered: Any, run_id: str) -> Any:
    recovery = tiered.recover(run_id)
    return (
        list(tiered.read(run_id)),
        tiered.load_snapshot(run_id),
        [tiered.load_snapshot(run_id, lane_id=lane) for lane in ("main", "side", "a:b %")],
        (recovery.state, recovery.offset, recovery.events),
    )


def test_agents_go_on_where_the_archive_ends(redis_backend: RedisBackend, archive: Archive) -> None:
    """Seq, offset, keys, revisions and leases: on every kind of server."""
    hot = open_hot(redis_backend)
    write_one(hot)
    former = hot.load_snapshot("r")
    assert former is not None
    drain(hot, archive)
    hot = lose_redis(redis_backend)
    put_back(hot, archive, "r")
    with pytest.raises(ConcurrencyConflict):
        hot.append("r", [make_event("r")], expected_offset=16)
    known = hot.append("r", make_events("r", 2, lane_id="side"), keys=["k2", "k1"])
    assert (known.first_offset, known.last_offset) == (13, 11)
    with hot.open_run("r", lease_ttl=30) as agent:
        assert agent.state.current_step == 13
        assert agent.emit(EventKind.TOOL_RESULT).offset == 18
        agent.checkpoint()
    assert [item.event.seq for item in hot.read("r", 17)] == [15]
    lane = TieredCheckpointer(hot, archive).open_run("r", lane_id="side")
    assert lane.emit("x").event.seq == 4
    hot.recover("r")
    hot.save_snapshot("r", make_state("r"))
    saved = hot.load_snapshot("r")
    assert saved is not None
    assert saved.revision == former.revision + 2  # of the agent, and this one
    drain(hot, archive)
    check_drained(hot, [archive])


def test_redis_alone_says_what_stays_in_the_archive(backend: RedisBackend, archive: Archive) -> None:
    """What recover needs is there; the tiered view has all; nothing is taken to be archived that is not proven."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    hot = lose_redis(backend)
    done = put_back(hot, archive, "r")
    assert (done.first_hot, done.last.offset) == (14, 17)
    info = hot.run_info("r")
    assert info is not None
    assert (info.first_hot, info.archived_offset) == (14, 13)
    assert [item.offset for item in hot.read("r", 13)] == [14, 15, 16, 17]
    with pytest.raises(EventsArchived) as gone:
        list(hot.read("r"))
    assert gone.value.first_hot == 14
    assert [item.offset for item in TieredCheckpointer(hot, archive).read("r")] == list(range(1, 18))
    hot = lose_redis(backend)
    assert put_back(hot, archive, "r", whole=True).first_hot == 1
    assert len(hot.list_events("r")) == 17


def test_what_was_put_back_is_proven_before_it_is_trimmed(backend: RedisBackend, archive: Archive) -> None:
    """The archive loses an event after it was restored: the worker sees it, and Redis keeps its own."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    hot = lose_redis(backend)
    put_back(hot, archive, "r", whole=True)
    _spoil(archive, 4)
    report = DrainWorker(hot, [archive], trim="archived").drain_once()
    assert (report.parked, report.trimmed) == (1, 0)
    assert len(hot.list_events("r")) == 17


def _spoil(archive: Archive, offset: int) -> None:
    """Change an event's text behind the archive's back."""
    scheme, _, path = archive.location.partition(":")
    if scheme == "sqlite":
        with closing(sqlite3.connect(path)) as file, file:
            file.execute("UPDATE events SET data = replace(data, '\"n\":', '\"N\":') WHERE offset = ?", (offset,))
        return
    log = Path(path) / "r" / "events.jsonl"
    text = log.read_text().splitlines(keepends=True)
    at = next(number for number, line in enumerate(text) if f'"$offset":{offset},' in line and "$run" not in line)
    text[at] = text[at].replace('"n":', '"N":')
    log.write_text("".join(text))


def test_what_the_archive_cannot_prove_is_not_put_back(backend: RedisBackend, archive: Archive) -> None:
    """Nothing of the run is there then."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    hot = lose_redis(backend)
    _spoil(archive, 16)
    with pytest.raises(CorruptRecordError, match="does not give the chain") as refused:
        put_back(hot, archive, "r")
    assert refused.value.offset == 16
    assert hot.list_runs() == []


@pytest.mark.parametrize("whole", [False, True])
def test_poison_and_erased_events_come_back_as_they_were(
    redis_backend: RedisBackend, archive: Archive, whole: bool
) -> None:
    """Raw bytes at their offsets; they are kept aside in the next archive too."""
    hot = open_hot(redis_backend)
    hot.save_events(make_events("r", 3))
    damage(hot, "r", b"no record at all")
    hot.save_events(make_events("r", 3, first=4))
    erase(redis_backend, hot.context.keys.run("r"), 6)
    before = redis_backend.raw.xrange(hot.context.keys.run("r").events)
    assert [fields[b"e"] for _, fields in before][3:6:2] == [b"no record at all", ERASED]
    drain(hot, archive, trim="never")
    hot = lose_redis(redis_backend)
    put_back(hot, archive, "r", whole=whole)
    assert redis_backend.raw.xrange(hot.context.keys.run("r").events) == before
    assert [item.offset for item in hot.read("r", on_corrupt="skip")] == [1, 2, 3, 5, 7]
    verdict = verify_run("r", hot=hot, sinks=[archive])
    assert verdict.difference is None
    assert [one.quarantined for one in verdict.checked] == [1, 1]
    drain(hot, archive)
    assert [(run_id, entry.offset, entry.raw) for run_id, entry in archive.quarantine()] == [
        ("r", 4, b"no record at all")
    ]


# -- nothing is overwritten ----------------------------------------------------------------------------


def test_what_redis_has_further_is_left_alone(backend: RedisBackend, archive: Archive) -> None:
    """Leases too: the run is not touched."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    with hot.lease("r", owner="me"):
        hot_again = open_hot(backend)
        before = backend.footprint()
        assert put_back(hot_again, archive, "r").outcome == "there already"
        assert put_back(hot_again, archive, "r", whole=True).outcome == "there already"
        assert backend.footprint() == before
    hot.recover("r")
    hot.save_snapshot("r", make_state("r", current_step=99))
    assert put_back(hot, archive, "r").outcome == "there already"
    hot.save_events(make_events("r", 3, first=15))
    assert put_back(hot, archive, "r").outcome == "there already"
    info = hot.run_info("r")
    assert info is not None
    assert info.last_offset == 20


def test_another_history_is_not_overwritten(backend: RedisBackend, archive: Archive) -> None:
    """The run was made anew, or its events were lost and others have come: a person decides."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    hot = lose_redis(backend)
    hot.save_events(make_events("r", 2))
    with pytest.raises(HistoryDiverged, match="runstream resolve r"):
        put_back(hot, archive, "r")
    assert len(hot.list_events("r")) == 2


def _come_back(backend: RedisBackend, contents: dict[str, Any]) -> Hot:
    """Redis has what it had before."""
    hot = lose_redis(backend)
    for name, dump in contents.items():
        backend.raw.delete(name)
        backend.raw.restore(name, 0, dump)
    return hot


def _dumps(backend: RedisBackend) -> dict[str, Any]:
    return {name: backend.raw.dump(name) for name in backend.key_names()}


def test_a_redis_that_is_merely_behind_gets_the_rest(backend: RedisBackend, archive: Archive) -> None:
    """A failover lost the last events and snapshot; nothing came after it. Writers of before go on."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    behind = _dumps(backend)
    hot.recover("r")
    hot.append("r", make_events("r", 2, first=15), snapshot=make_state("r", current_step=15))
    drain(hot, archive)
    _come_back(backend, behind)
    with pytest.raises(AcknowledgedWritesLost):
        hot.save_events(make_events("r", 1, first=17))
    done = put_back(open_hot(backend), archive, "r")
    assert (done.outcome, done.last.offset) == ("restored", 19)
    hot.save_events(make_events("r", 1, first=17))
    drain(hot, archive)
    check_drained(hot, [archive])
    state = hot.load_latest("r")
    assert state is not None
    assert state.current_step == 15


def test_a_snapshot_that_only_redis_has_is_not_overwritten(backend: RedisBackend, archive: Archive) -> None:
    """It was saved after the failover that lost the events."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    behind = _dumps(backend)
    hot.save_events(make_events("r", 2, first=15))
    drain(hot, archive)
    other = _come_back(backend, behind)
    other.recover("r")
    other.save_snapshot("r", make_state("r", current_step=77))
    before = backend.footprint()
    with pytest.raises(HistoryDiverged, match="runstream resolve r"):
        put_back(other, archive, "r")
    assert backend.footprint() == before


def test_events_that_only_redis_has_are_not_overwritten(backend: RedisBackend, archive: Archive) -> None:
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    behind = _dumps(backend)
    hot.save_events(make_events("r", 5, first=15))
    drain(hot, archive)
    for new in (1, 9):
        other = _come_back(backend, behind)
        other.save_events(make_events("r", new, first=100))
        before = backend.footprint()
        with pytest.raises(HistoryDiverged, match="runstream resolve r") as refused:
            put_back(other, archive, "r")
        assert refused.value.offset == 18
        assert backend.footprint() == before


def test_what_is_written_meanwhile_is_not_overwritten(backend: RedisBackend, archive: Archive) -> None:
    """A writer makes the run while it is put back: in one step, or not at all."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    hot = lose_redis(backend)
    other = open_hot(backend)
    _before_each(hot, lambda one: other.save_events(make_events("r", 2)) if "SWITCH" in _names(one) else None)
    with pytest.raises(ConcurrencyConflict, match="look again"):
        put_back(hot, archive, "r")
    assert len(other.list_events("r")) == 2


def _names(one: Exchange) -> str:
    return " ".join(script.name.upper() for command in one.commands if (script := script_of(command)))


def _before_each(hot: Hot, hook: Callable[[Exchange], object]) -> None:
    driver: Any = hot._driver
    exchange = driver.exchange

    def hooked(one: Exchange) -> Replies:
        hook(one)
        replies: Replies = exchange(one)
        return replies

    driver.exchange = hooked


def test_a_retired_run_is_made_hot_again(redis_backend: RedisBackend, archive: Archive) -> None:
    """What a tombstone knows goes on: a writer of before resends, and gets its first reply."""
    hot = open_hot(redis_backend)
    write_one(hot)
    hot.recover("r")
    hot.save_snapshot("r", make_state("r", status=RunStatus.COMPLETED, current_step=17))
    before = picture(redis_backend, hot)
    drain(hot, archive, retire_after_seconds=0.0)
    with pytest.raises(EventsArchived):
        hot.load_latest("r")
    done = put_back(open_hot(redis_backend), archive, "r")
    assert (done.outcome, done.first_hot) == ("restored", 18)
    found = picture(redis_backend, hot)
    assert {**found["r"], "events": []} == {**before["r"], "events": []}
    state = hot.load_latest("r")
    assert state is not None
    assert state.current_step == 17
    with hot.open_run("r") as agent:
        assert agent.emit(EventKind.RUN_STARTED).offset == 18
    drain(hot, archive, retire_after_seconds=0.0)
    check_drained(hot, [archive])
    info = hot.run_info("r")
    assert info is not None
    assert (info.status, info.last_offset) == ("running", 18)


def test_a_retired_run_is_not_put_back_from_an_archive_that_is_behind(
    backend: RedisBackend, tmp_path: Path
) -> None:
    """The tombstone knows that there was more."""
    ahead, behind = open_archives(tmp_path)
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, ahead, behind)
    backend.raw.delete(*[partition.archives for partition in hot.context.keys.partitions])
    hot.recover("r")
    hot.append("r", make_events("r", 2), snapshot=make_state("r", status=RunStatus.COMPLETED))
    drain(hot, ahead, retire_after_seconds=0.0)
    with pytest.raises(ConcurrencyConflict, match="restore it from the archive that has all of it"):
        put_back(hot, behind, "r")
    assert put_back(hot, ahead, "r").outcome == "restored"
    for archive in (ahead, behind):
        archive.close()


def test_a_namespace_that_requires_other_archives_gets_all_or_nothing(
    backend: RedisBackend, tmp_path: Path
) -> None:
    """What stays in this one would be missing in those; whole, it goes into them."""
    old, new = open_archives(tmp_path)
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, old)
    hot = lose_redis(backend)
    drain(hot, new)
    with pytest.raises(ConfigurationError, match="--whole"):
        put_back(hot, old, "r")
    assert hot.list_runs() == []
    put_back(hot, old, "r", whole=True)
    drain(hot, new)
    check_drained(hot, [new])
    assert [item.cursor for item in new.read("r")] == [item.cursor for item in old.read("r")]
    for archive in (old, new):
        archive.close()


def test_an_archive_that_is_behind_catches_up_from_a_whole_run(backend: RedisBackend, tmp_path: Path) -> None:
    ahead, behind = open_archives(tmp_path)
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, ahead, behind)
    backend.raw.delete(*[partition.archives for partition in hot.context.keys.partitions])
    hot.recover("r")
    hot.append("r", make_events("r", 5, first=15), snapshot=make_state("r"))
    drain(hot, ahead)
    hot = lose_redis(backend)
    put_back(hot, ahead, "r", whole=True)
    drain(hot, ahead, behind)
    check_drained(hot, [ahead, behind])
    for archive in (ahead, behind):
        archive.close()


def test_a_branch_stays_in_the_archive(backend: RedisBackend, archive: Archive) -> None:
    """Its chains are of the name that it had."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    hot = lose_redis(backend)
    hot.save_events(make_events("r", 2))
    assert DrainWorker(hot, [archive]).drain_once().parked == 1
    found = look(hot, [archive], "r")
    assert found is not None
    (branch,) = resolve(hot, [archive], found, "redis").branches
    with pytest.raises(ConfigurationError, match="branch"):
        put_back(hot, archive, branch)
    with pytest.raises(ConfigurationError, match="no events"):
        put_back(hot, archive, "nobody")


# -- killed and repeated -------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a command at once: nothing of ours catches it."""


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
            left = _dumps(backend)
            died = _restore_and_die(backend, archive, point, whole=whole)
            if died and point % 2 and open_hot(backend).run_info("r") is not None:
                DrainWorker(open_hot(backend), [archive]).drain_once()
            elif died:
                there = _dumps(backend)
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
    behind = _dumps(backend)
    hot.recover("r")
    hot.append("r", make_events("r", 2), keys=["k3", None])
    hot.save_snapshot("r", make_state("r", status=RunStatus.COMPLETED, current_step=19))
    drain(hot, archive, retire_after_seconds=0.0 if shape == "retired" else None)
    if shape == "lost":
        lose_redis(backend)
    if shape == "behind":
        _come_back(backend, behind)


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
    driver: Any = hot._driver
    exchange, steps = driver.exchange, 0

    def dying(one: Exchange) -> Replies:
        nonlocal steps
        steps += 1
        if steps == at:
            raise Killed
        replies: Replies = exchange(one)
        steps += 1
        if steps == at:
            raise Killed
        return replies

    driver.exchange = dying
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
