"""Adding and dropping a required archive: P9 holds for one that comes late, and for what left Redis before."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    ArchiveGap,
    ConfigurationError,
    CorruptRecordError,
    DrainReport,
    DrainWorker,
    EventKind,
    HistoryDiverged,
    PAEvent,
    RunState,
    StoreUnavailable,
)
from runstream.drain import worker as worker_module
from runstream.model.archive_records import ArchiveEntry, RunBatch, RunHeader
from runstream.model.results import Cursor
from runstream.repair.required_archives import add_archive, copy_run, drop_archive
from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import Namespace, namespace_of
from runstream.stores.redis.operations.worker import drain
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hot, due, emit, first_hot, locations, open_archives, open_hot, running
from tests.support.kinds import on_every_server
from tests.support.other_texts import rewrite
from tests.support.samples import make_event, make_events
from tests.support.servers import eventually


@pytest.fixture
def hot(fake: RedisBackend) -> Hot:
    return open_hot(fake, partitions=4)


@pytest.fixture
def archives(tmp_path: Path) -> Iterator[list[Archive]]:
    """Two that hold what is drained, and two that come late."""
    made = open_archives(tmp_path)
    (tmp_path / "late").mkdir()
    made += open_archives(tmp_path / "late")
    yield made
    for archive in made:
        archive.close()


def reopened(archive: Archive) -> Archive:
    """The archive as another process finds it."""
    return type(archive)(archive.location.partition(":")[2])


def required(hot: Hot) -> list[set[str]]:
    return [set(of_partition) for of_partition in namespace_of(hot).required_archives()]


def ids(*archives: Archive) -> set[str]:
    return {archive.archive_id for archive in archives}


# -- adding ------------------------------------------------------------------------------------------


@pytest.mark.one_in(8)
@on_every_server
@pytest.mark.parametrize("late", [2, 3])
def test_an_archive_that_is_added_gets_every_run_that_is_in_redis(
    redis_backend: RedisBackend, archives: list[Archive], late: int
) -> None:
    """Also of runs that are archived and never get another event; it is required in every partition."""
    hot = open_hot(redis_backend, partitions=4)
    acknowledged = {f"r{n}": emit(hot, f"r{n}", 5) for n in range(20)}
    hot.save_snapshot("r1", RunState(run_id="r1", current_step=5))
    DrainWorker(hot, archives[:2], trim="never").drain_once()
    assert due(hot) == {}
    add_archive(hot, archives[late])
    assert required(hot) == [ids(*archives[:2], archives[late])] * 4
    DrainWorker(hot, [*archives[:2], archives[late]]).drain_once()
    assert due(hot) == {}
    check_archives([*archives[:2], archives[late]], acknowledged)
    assert archives[late].load_snapshot("r1") == hot.load_snapshot("r1")


def test_an_archive_that_would_have_holes_is_refused(hot: Hot, archives: list[Archive]) -> None:
    """Nothing is required that was not; the error names a run, and the way on."""
    emit(hot, "whole", 5)
    emit(hot, "cut", 5)
    hot.save_snapshot("cut", RunState(run_id="cut"))
    DrainWorker(hot, archives[:2]).drain_once()
    emit(hot, "cut", 2, first=6)
    with pytest.raises(ConfigurationError, match=r"of 1 run .*'cut' up to offset 5.*--copy-from"):
        add_archive(hot, archives[2])
    assert required(hot) == [ids(*archives[:2])] * 4


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("source", "late"), [(0, 2), (0, 3), (1, 2), (1, 3)])
def test_what_has_left_redis_is_copied_from_an_archive_that_has_it(
    hot: Hot, archives: list[Archive], source: int, late: int
) -> None:
    """Also a run that Redis has nothing of any more; from every kind of archive into every kind."""
    acknowledged = {f"r{n}": emit(hot, f"r{n}", 7) for n in range(6)}
    acknowledged["long"] = emit(hot, "long", 300)
    for run_id in ("r0", "r1"):
        hot.save_snapshot(run_id, RunState(run_id=run_id, current_step=7))
    hot.save_snapshot("r1", RunState(run_id="r1", current_step=3), lane_id="side")
    DrainWorker(hot, archives[:2], trim="archived").drain_once()
    hot.delete_run("r0")
    acknowledged["r2"] += emit(hot, "r2", 2, first=8)
    copied: dict[str, int] = {}

    def note(run_id: str, count: int) -> None:
        copied[run_id] = count

    add_archive(hot, archives[late], archives[source], note)
    assert copied == {**{f"r{n}": 7 for n in range(6)}, "long": 300}
    everything = [*archives[:2], archives[late]]
    DrainWorker(hot, everything, trim="archived").drain_once()
    assert due(hot) == {}
    check_archives(everything, acknowledged)
    for lane_id in (None, "side"):
        assert archives[late].load_snapshot("r1", lane_id=lane_id) == archives[source].load_snapshot(
            "r1", lane_id=lane_id
        )
    for run_id in ("r0", "r1"):
        assert archives[late].run_info(run_id) == archives[source].run_info(run_id)
    state = archives[late].load_latest("r0")
    assert state is not None
    assert state.current_step == 7


def test_a_copy_has_the_quarantine_too(archives: list[Archive]) -> None:
    """What does not read keeps its offset, its bytes and the reason."""
    start = Cursor(0, 5)
    entry = ArchiveEntry(1, 77, None, None, b"\x01damaged", "checksum")
    archives[0].write([RunBatch(RunHeader("r", start), start, [entry])])
    assert copy_run(archives[0], archives[3], "r") == 1
    ((run_id, kept),) = archives[3].quarantine()
    assert (run_id, kept.content, kept.reason) == ("r", entry.content, entry.reason)


def test_copying_goes_on_where_it_was_broken_off_and_may_be_repeated(
    hot: Hot, archives: list[Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late archive's own commit tells how far it is."""
    monkeypatch.setattr("runstream.repair.required_archives._BATCH", 100)
    acknowledged = {"long": emit(hot, "long", 300), "r": emit(hot, "r", 3)}
    DrainWorker(hot, archives[:2], trim="archived").drain_once()
    late = archives[2]
    write, left = late.write, iter(range(2))

    def write_twice(batches: Any) -> None:
        if next(left, None) is None:
            raise StoreUnavailable("full")
        write(batches)

    late.write = write_twice  # type: ignore[method-assign] # a disk that fills up
    with pytest.raises(StoreUnavailable):
        add_archive(hot, late, archives[0])
    del late.write
    position = late.position("long")
    assert position is not None
    assert 0 < position.cursor.offset < 300
    assert required(hot) == [ids(*archives[:2])] * 4
    assert copy_run(archives[0], late, "long") == 300 - position.cursor.offset
    for _ in range(2):
        add_archive(hot, late, archives[0])
        assert required(hot) == [ids(*archives[:3])] * 4
    check_archives(archives[:3], acknowledged)


def test_a_copy_goes_only_onto_the_same_history(hot: Hot, archives: list[Archive]) -> None:
    """An archive that holds another run of that name keeps it, and is not added."""
    emit(hot, "r", 5)
    DrainWorker(hot, archives[:2], trim="archived").drain_once()
    other = archives[2]
    other.save_events([PAEvent("r", seq=n) for n in range(1, 4)])
    with pytest.raises(HistoryDiverged, match="'r'"):
        add_archive(hot, other, archives[0])
    assert required(hot) == [ids(*archives[:2])] * 4
    assert len(other.list_events("r")) == 3


def test_an_archive_is_added_while_another_one_is_yet_to_get_the_copy_of_a_detached_fork(
    hot: Hot, archives: list[Archive]
) -> None:
    """It has it as a fork, as that one has, until a worker has made the copy in both."""
    hot.append("r", make_events("r", 3))
    hot.fork("r", "f", at=2)
    hot.append("f", make_events("f", 1, first=9))
    DrainWorker(hot, archives[:1], trim="never").drain_once()
    assert hot.delete_run("r", detach=True)
    add_archive(hot, archives[1], archives[0])
    assert DrainWorker(hot, archives[:2], trim="archived").drain_once().parked == 0
    for archive in archives[:2]:
        archive.delete_run("r")
        assert [item.offset for item in archive.read("f")] == [1, 2, 3]
    assert verify_run("f", hot=hot, sinks=archives[:2]).is_sound


def test_a_copy_comes_from_an_archive_that_is_required(hot: Hot, archives: list[Archive]) -> None:
    """Any other may lack what was trimmed."""
    DrainWorker(hot, archives[:1]).drain_once()
    with pytest.raises(ConfigurationError, match="is not required here"):
        add_archive(hot, archives[2], archives[1])


def test_what_a_worker_trims_while_an_archive_is_added_is_copied_too(
    hot: Hot, archives: list[Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It settled after the copy and before the archive was required: without a copy, the archive is not added."""
    acknowledged = {"r": emit(hot, "r", 5)}
    worker = DrainWorker(hot, archives[:2], trim="archived")
    worker.drain_once()
    require = Namespace.require_archives

    def trim_first(*args: Any) -> Any:
        acknowledged["r"] += emit(hot, "r", 5, first=len(acknowledged["r"]) + 1)
        worker.drain_once()
        return require(*args)

    monkeypatch.setattr(Namespace, "require_archives", trim_first)
    add_archive(hot, archives[2], archives[0])
    assert required(hot) == [ids(*archives[:3])] * 4
    monkeypatch.undo()
    with pytest.raises(ConfigurationError, match="required since"):
        worker.drain_once()
    DrainWorker(hot, archives[:3], trim="archived").drain_once()
    check_archives(archives[:3], acknowledged)

    fresh = archives[3]
    copy_run(archives[0], fresh, "r")  # so that it lacks nothing at first
    monkeypatch.setattr(Namespace, "require_archives", trim_first)
    worker = DrainWorker(hot, archives[:3], trim="archived")
    with pytest.raises(ConfigurationError, match=r"lacks events .* of 1 run "):
        add_archive(hot, fresh)
    assert required(hot) == [ids(*archives[:3])] * 4


def test_nothing_is_trimmed_that_an_archive_which_came_late_does_not_have_yet(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """The mark is far ahead of it, and what it lacks is covered by now: each batch trims what it has proven."""
    hot = open_hot(redis_backend, partitions=4)
    acknowledged = {"r": emit(hot, "r", 300)}
    DrainWorker(hot, archives[:2]).drain_once()
    assert first_hot(hot, "r") == 1
    add_archive(hot, archives[2])
    hot.save_snapshot("r", RunState(run_id="r"))
    seen: list[tuple[int, int]] = []
    worker = DrainWorker(hot, archives[:3], batch=50)
    settle = worker._batches._note_settled

    def watched(*args: Any) -> Any:
        position = archives[2].position("r")
        assert position is not None
        seen.append((first_hot(hot, "r") - 1, position.cursor.offset))
        return settle(*args)

    worker._batches._note_settled = watched  # type: ignore[method-assign,assignment] # after each settling
    report = worker.drain_once()
    assert report.parked == 0
    assert len(seen) == 6
    assert all(trimmed <= archived for trimmed, archived in seen)
    check_archives(archives[:3], acknowledged)
    assert first_hot(hot, "r") == 301


def test_a_settling_trims_no_further_than_the_place_that_it_proves(hot: Hot, archives: list[Archive]) -> None:
    """Also where the mark lies beyond it."""
    emit(hot, "r", 10)
    DrainWorker(hot, archives[:2], trim="never").drain_once()
    (run,) = namespace_of(hot).load_runs(["r"])
    assert run is not None
    third = next(entry.cursor for entry in archives[0].read_back("r", 3, 3))
    proven = drain.Proven(run.header, third, run.head.tokens, "archived", None)
    (settled,) = namespace_of(hot).settle([proven], locations(archives[:2]))
    assert (settled.outcome, settled.trimmed) == ("ok", 3)
    info = hot.run_info("r")
    assert info is not None
    assert (info.archived_offset, info.first_hot) == (10, 4)


def test_a_partition_that_requires_none_yet_gets_the_whole_set(hot: Hot, archives: list[Archive]) -> None:
    """A worker that is limited to some partitions has enlisted its archives there only."""
    DrainWorker(hot, archives[:2], partitions=[0]).drain_once()
    add_archive(hot, archives[2])
    assert required(hot) == [ids(*archives[:3])] * 4


def test_a_deleted_run_does_not_come_back_into_the_queue(hot: Hot) -> None:
    """It was listed before it was deleted."""
    namespace_of(hot).make_due(["never-was"])
    assert due(hot) == {}


def waits(worker: DrainWorker) -> bool:
    """Whether it waits until its archives are those that are required."""
    return "archives" in worker.progress.failing


def test_an_archive_is_added_and_one_dropped_while_archiving_goes_on(
    hot: Hot, archives: list[Archive], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers that are to come wait from their start, the former ones once they lack one, or are stopped."""
    monkeypatch.setattr(worker_module, "_SECONDS_BETWEEN_QUESTIONS", 0.02)
    caplog.set_level(logging.INFO, "runstream.drain")
    acknowledged = {"r": emit(hot, "r", 5)}
    old, both, new = (
        DrainWorker(hot, some, trim="archived", poll_seconds=0.01, name=name)
        for name, some in (("old", archives[:1]), ("both", [archives[0], archives[2]]), ("new", archives[2:3]))
    )

    def go_on() -> None:
        acknowledged["r"] += emit(hot, "r", 5, first=len(acknowledged["r"]) + 1)
        eventually(lambda: due(hot) == {})

    old.drain_once()
    with running(old), running(both):
        eventually(lambda: waits(both))
        go_on()
        assert required(hot) == [ids(archives[0])] * 4
        add_archive(hot, archives[2], archives[0])
        go_on()
        assert not waits(both)
        eventually(lambda: waits(old) or due(hot) == {})
        check_archives([archives[0], archives[2]], acknowledged)
        with running(new):
            eventually(lambda: waits(new))
            drop_archive(hot, archives[0].archive_id)
            eventually(lambda: not waits(new))
            for _ in range(10):  # one drains what the other then lacks in the archive that was dropped
                go_on()
    check_archives(archives[2:3], acknowledged)
    assert namespace_of(hot).status().parked == {}
    assert (old.progress.report.parked, both.progress.report.parked, new.progress.report.parked) == (0, 0, 0)
    said = [record.getMessage() for record in caplog.records if record.name == "runstream.drain"]
    assert [line for line in said if line.startswith("drain both")][:2] == [
        next(line for line in said if line.startswith("drain both waits until its archives are those")),
        next(line for line in said if line.startswith("drain both goes on")),
    ]


def test_a_running_worker_without_the_new_archive_waits_and_has_trimmed_nothing(
    hot: Hot, archives: list[Archive]
) -> None:
    """It says what is missing, to its log and its report, and leaves the work to those who have it."""
    acknowledged = {"r": emit(hot, "r", 5)}
    worker = DrainWorker(hot, archives[:2], trim="archived", poll_seconds=0.01)
    with running(worker):
        eventually(lambda: due(hot) == {})
        add_archive(hot, archives[2], archives[0])
        eventually(lambda: waits(worker))
        assert "late/archive.db" in worker.progress.failing["archives"].error
        acknowledged["r"] += emit(hot, "r", 5, first=6)
        DrainWorker(hot, archives[:3]).drain_once()
        check_archives(archives[:3], acknowledged)
        assert archives[0].position("r") == archives[2].position("r")
        drop_archive(hot, archives[2].archive_id)
        eventually(lambda: not waits(worker))


def test_a_worker_with_the_archives_of_another_namespace_ends(hot: Hot, archives: list[Archive]) -> None:
    """One that is missing and one too many are no archives on their way: somebody has mistaken them."""
    DrainWorker(hot, archives[:1]).drain_once()
    with pytest.raises(ConfigurationError, match="requires the archives"):
        DrainWorker(hot, archives[1:2]).run()


@pytest.mark.parametrize("late", [2, 3])
def test_an_archive_is_added_while_workers_trim_all_the_time(hot: Hot, archives: list[Archive], late: int) -> None:
    """What leaves Redis between the copying and the requiring is copied once nothing leaves it any more."""
    acknowledged = {run_id: emit(hot, run_id, 5) for run_id in ("a", "b")}
    worker = DrainWorker(hot, archives[:1], trim="archived")
    worker.drain_once()
    busy = iter(range(2))

    def go_on(run_id: str, count: int) -> None:
        if next(busy, None) is not None:
            for known, events in acknowledged.items():
                events.extend(emit(hot, known, 5, first=len(events) + 1))
            worker.drain_once()

    add_archive(hot, archives[late], archives[0], go_on)
    assert next(busy, None) is None
    DrainWorker(hot, [archives[0], archives[late]], trim="archived").drain_once()
    check_archives([archives[0], archives[late]], acknowledged)


def test_runs_that_an_added_archive_is_about_to_get_are_not_parked(hot: Hot, archives: list[Archive]) -> None:
    """A worker that retires may look at them before it has drained them, however many there are."""
    for n in range(20):
        hot.save_events([*make_events(f"r{n}", 2), make_event(f"r{n}", 3, kind=EventKind.RUN_FINISHED)])
    DrainWorker(hot, archives[:1], trim="never").drain_once()
    add_archive(hot, archives[2])
    worker = DrainWorker(hot, [archives[0], archives[2]], retire_after_seconds=0)
    assert worker._retirement.all_due() == DrainReport()
    assert namespace_of(hot).status().parked == {}
    report = worker.drain_once()
    assert (report.runs, report.retired, report.parked) == (20, 20, 0)


@pytest.mark.parametrize("what", ["event", "snapshot"])
def test_an_archive_that_holds_other_than_redis_before_the_mark_is_refused(
    hot: Hot, archives: list[Archive], what: str
) -> None:
    """Workers compare what comes after the mark: what it brings along nobody would ever have proven."""
    emit(hot, "r", 5)
    hot.save_snapshot("r", RunState(run_id="r", current_step=5))
    DrainWorker(hot, [archives[0], archives[2]], trim="never").drain_once()
    drop_archive(hot, archives[2].archive_id)
    statement = {
        "event": """UPDATE events SET data = replace(data, '"n":3', '"n":33') WHERE offset = 3""",
        "snapshot": "UPDATE snapshots SET state = replace(state, ':5', ':55')",
    }[what]
    with closing(sqlite3.connect(archives[2].location.removeprefix("sqlite:"))) as connection, connection:
        assert connection.execute(statement).rowcount == 1
    with pytest.raises(ConfigurationError, match="does not hold"):
        add_archive(hot, archives[2])
    assert required(hot) == [ids(archives[0])] * 4
    with pytest.raises((ConfigurationError, ArchiveGap), match="does not hold"):
        add_archive(hot, archives[2], archives[0])
    assert required(hot) == [ids(archives[0])] * 4
    add_archive(hot, archives[3])
    DrainWorker(hot, [archives[0], archives[3]], trim="archived").drain_once()
    assert first_hot(hot, "r") == 6


@pytest.mark.one_in(2)
@pytest.mark.parametrize("late", [2, 3])
@pytest.mark.parametrize("source", [0, 1])
def test_a_copy_of_texts_that_another_process_wrote_is_sound(
    hot: Hot, archives: list[Archive], source: int, late: int
) -> None:
    """Sets in another order, spaces: the same values, so it is taken and gives every record again."""
    events = [make_event("r", seq, payload={"tags": {f"tag {n}" for n in range(9)}, "n": seq}) for seq in range(5)]
    hot.save_events(events[:3])
    state = RunState(run_id="r", data={"tags": events[0].payload["tags"]})
    hot.save_snapshot("r", state)
    DrainWorker(hot, archives[:2], trim="covered").drain_once()
    assert first_hot(hot, "r") == 4
    hot.save_events(events[3:])
    DrainWorker(hot, archives[:2], trim="never").drain_once()
    for archive in archives[:2]:
        rewrite(archive)
    with reopened(archives[source]) as copied, closing(archives[late]):
        add_archive(hot, archives[late], copied)
    found = [reopened(archive) for archive in (*archives[:2], archives[late])]
    assert DrainWorker(hot, found, trim="archived").drain_once().parked == 0
    check_archives(found, {"r": events})
    for archive in found:
        archive.close()


@pytest.mark.parametrize("source", [0, 1])
def test_what_does_not_give_its_chains_is_neither_copied_nor_taken(
    hot: Hot, archives: list[Archive], source: int
) -> None:
    """Redis has it no more, so nobody but the chain can tell that it was changed."""
    emit(hot, "r", 5)
    DrainWorker(hot, archives[:2], trim="archived").drain_once()
    rewrite(archives[source], lambda text: text.replace('"n":3', '"n":33'))
    with reopened(archives[source]) as changed, pytest.raises(CorruptRecordError, match="event 3") as refused:
        add_archive(hot, archives[2], changed)
    assert refused.value.offset == 3
    assert archives[2].position("r") is None
    drop_archive(hot, archives[source].archive_id)
    with reopened(archives[source]) as changed, pytest.raises(ConfigurationError, match="event 3"):
        add_archive(hot, changed)
    assert required(hot) == [ids(archives[1 - source])] * 4


def test_an_archive_with_another_history_is_added_and_the_run_is_parked(hot: Hot, archives: list[Archive]) -> None:
    """That the workers see: it holds up neither the other runs nor the adding."""
    emit(hot, "r", 5)
    DrainWorker(hot, [archives[2]], trim="never").drain_once()
    add_archive(hot, archives[0])
    drop_archive(hot, archives[2].archive_id)
    hot.delete_run("r")
    emit(hot, "r", 7)
    emit(hot, "other", 3)
    DrainWorker(hot, archives[:1], trim="never").drain_once()
    add_archive(hot, archives[2])
    report = DrainWorker(hot, [archives[0], archives[2]], trim="archived").drain_once()
    assert (report.parked, first_hot(hot, "r"), first_hot(hot, "other")) == (1, 1, 4)


# -- dropping ----------------------------------------------------------------------------------------


def test_an_archive_that_is_dropped_holds_up_nothing_and_keeps_what_it_holds(
    hot: Hot, archives: list[Archive]
) -> None:
    """A worker that still writes to it goes on; one that starts with it is refused; one without it is fine."""
    acknowledged = {"r": emit(hot, "r", 5)}
    worker = DrainWorker(hot, archives[:2])
    worker.drain_once()
    drop_archive(hot, archives[1].archive_id)
    acknowledged["r"] += emit(hot, "r", 5, first=6)
    assert worker.drain_once().events == 5
    check_archives(archives[:2], acknowledged)
    with pytest.raises(ConfigurationError, match="requires the archives"):
        DrainWorker(hot, archives[:2]).drain_once()
    acknowledged["r"] += emit(hot, "r", 5, first=11)
    DrainWorker(hot, archives[:1], trim="archived").drain_once()
    check_archives(archives[:1], acknowledged)
    assert len(archives[1].list_events("r")) == 10
    with pytest.raises(ConfigurationError, match="lacks"):
        add_archive(hot, archives[1])
    add_archive(hot, archives[1], archives[0])
    check_archives(archives[:2], acknowledged)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("dropped", [0, 1])
@pytest.mark.parametrize("ends", [False, True])
def test_what_a_dropped_archive_lacks_parks_no_run(
    hot: Hot, archives: list[Archive], dropped: int, ends: bool
) -> None:
    """A worker that was not restarted is told that it must be, once others have trimmed without that archive."""
    worker = DrainWorker(hot, archives[:2], trim="archived", retire_after_seconds=0)
    worker.drain_once()
    drop_archive(hot, archives[dropped].archive_id)
    acknowledged = {"r": emit(hot, "r", 5)}
    DrainWorker(hot, [archives[1 - dropped]], trim="archived").drain_once()
    more = [make_event("r", 6, kind=EventKind.RUN_FINISHED)] if ends else make_events("r", 1, first=6)
    hot.save_events(more)
    acknowledged["r"] += more
    if ends:
        DrainWorker(hot, [archives[1 - dropped]], trim="never").drain_once()
    with pytest.raises(ConfigurationError, match="was dropped"):
        worker.drain_once()
    assert namespace_of(hot).status().parked == {}
    DrainWorker(hot, [archives[1 - dropped]], trim="archived").drain_once()
    check_archives([archives[1 - dropped]], acknowledged)


def test_the_last_archive_cannot_be_dropped(redis_backend: RedisBackend, archives: list[Archive]) -> None:
    """Nor the last one of a single partition; then it stays in all of them."""
    hot = open_hot(redis_backend, partitions=4)
    DrainWorker(hot, archives[:1]).drain_once()
    with pytest.raises(ConfigurationError, match="no other archive"):
        drop_archive(hot, archives[0].archive_id)
    namespace_of(hot).require_archives([{"other": "sqlite:other"}] * 3 + [{"x": "sqlite:x"}])
    namespace_of(hot).drop_archive("x")
    with pytest.raises(ConfigurationError, match="partition 3 requires no other"):
        drop_archive(hot, archives[0].archive_id)
    assert all(archives[0].archive_id in of_partition for of_partition in required(hot))
    assert namespace_of(hot).drop_archive(archives[0].archive_id) == [3]
