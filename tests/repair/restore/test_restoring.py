"""A lost Redis comes back from an archive as it was."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream import (
    ConcurrencyConflict,
    CorruptRecordError,
    DrainWorker,
    EventKind,
    EventsArchived,
)
from runstream.codec.record import ERASED
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.tiered import TieredCheckpointer
from tests.repair.restore.restoring_tools import KINDS, drain, write_one
from tests.support.archive_check import Archive, check_drained
from tests.support.backends import FakeBackend, RedisBackend
from tests.support.drain_tools import Hot, open_archives, open_hot
from tests.support.kinds import on_every_server
from tests.support.operations import hooked
from tests.support.random_runs import Author, check_is_as_before, damage, erase, lose_redis, one_archive, picture
from tests.support.samples import make_event, make_events, make_state, same


def restore_all(hot: Hot, archive: Archive, *, whole: bool = False) -> list[str]:
    return [put_back(hot, archive, run_id, whole=whole).outcome for run_id in archive.list_runs()]


def test_a_run_is_put_back_that_a_worker_archives_meanwhile(fake: FakeBackend, tmp_path: Path) -> None:
    """It stood still while Redis was lost: what is put back is of one time."""
    hot, lost, archives = open_hot(fake), open_hot(FakeBackend("lost")), open_archives(tmp_path)

    def write(run_id: str) -> None:
        lost.append(run_id, make_events(run_id, 3))
        lost.save_snapshot(run_id, make_state(run_id))
        DrainWorker(lost, archives).drain_runs([run_id])

    def grow(*_: Any) -> None:
        while late:
            write(late.pop())

    late: list[str] = []
    for run_id, archive in zip("ab", archives, strict=True):
        write(run_id)
        late.append(run_id)
        growing = hooked(archive, read_back_snapshots=grow)
        assert put_back(hot, growing, run_id, whole=True).last.offset == 6
        assert verify_run(run_id, hot=hot, sinks=archives).is_sound


# -- a lost Redis --------------------------------------------------------------------------------------


@on_every_server
@pytest.mark.one_in(8)
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


@pytest.mark.parametrize("examples", [3, pytest.param(12, marks=pytest.mark.exhaustive)])
def test_any_history_comes_back(tmp_path: Path, examples: int) -> None:
    """Whatever was written, drained and trimmed on the way: what is restored reads as before, and can go on."""

    @settings(max_examples=examples)
    @given(seed=st.integers(0, 2**32), steps=st.integers(1, 80), whole=st.booleans(), kind=st.sampled_from(KINDS))
    def comes_back(seed: int, steps: int, whole: bool, kind: str) -> None:
        check_that_it_comes_back(tmp_path, seed, steps, whole=whole, kind=kind)

    comes_back()


def check_that_it_comes_back(tmp_path: Path, seed: int, steps: int, *, whole: bool, kind: str) -> None:
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
        info.created_at, info.updated_at, info.parent, tags=info.tags,
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
    erase(redis_backend, namespace_of(hot).keys.run("r"), 6)
    before = redis_backend.raw.xrange(namespace_of(hot).keys.run("r").events)
    assert [fields[b"e"] for _, fields in before][3:6:2] == [b"no record at all", ERASED]
    drain(hot, archive, trim="never")
    hot = lose_redis(redis_backend)
    put_back(hot, archive, "r", whole=whole)
    assert redis_backend.raw.xrange(namespace_of(hot).keys.run("r").events) == before
    assert [item.offset for item in hot.read("r", on_corrupt="skip")] == [1, 2, 3, 5, 7]
    verdict = verify_run("r", hot=hot, sinks=[archive])
    assert verdict.difference is None
    assert [one.quarantined for one in verdict.checked] == [1, 1]
    drain(hot, archive)
    assert [(run_id, entry.offset, entry.raw) for run_id, entry in archive.quarantine()] == [
        ("r", 4, b"no record at all")
    ]
