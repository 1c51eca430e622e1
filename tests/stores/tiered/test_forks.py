"""A fork reads, follows and recovers as one run, wherever it lies and the runs that it comes from."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import DrainWorker, EventKind, EventsArchived, HistoryDiverged, PAEvent, RunHasForks
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.tiered import TieredCheckpointer
from tests.stores.tiered.tiers import Hot, Tiered, drain, stranger
from tests.support.backends import info_of
from tests.support.operations import hooked
from tests.support.samples import make_event, make_events, make_state

ALL = [(1, 1), (2, 2), (3, 3), (4, 50), (5, 51), (6, 70), (7, 71)]
"""Offset and seq of what ``g`` has: three events of ``r``, two of its fork ``f``, two of its own."""

PLACES = ("hot", "archived", "trimmed", "retired", "forgotten")


def move(hot: Hot, archive: Any, place: str, leaf: str) -> None:
    """Bring what is in Redis to another place; what runs others need is not forgotten."""
    if place == "hot":
        return
    trim: Any = {"archived": "never"}.get(place, "archived")
    retire = {"retire_idle_seconds": 0.0} if place == "retired" else {}
    forget = {"retire_after_seconds": 0.0, "forget_after_seconds": 0.0} if place == "forgotten" else {}
    worker = DrainWorker(hot, [archive], trim=trim, **retire, **forget)  # type: ignore[arg-type]
    for _ in range(3):
        assert worker.drain_once().parked == 0
    info = hot.run_info(leaf)
    assert (info is None) == (place == "forgotten")
    if info is not None:
        assert (info.first_hot > info.last_offset) == (place != "archived")


def seqs(store: Any, run_id: str, **asked: Any) -> list[tuple[int, int]]:
    items = list(store.read(run_id, **asked))
    assert {item.event.run_id for item in items} <= {run_id}
    return [(item.offset, item.event.seq) for item in items]


def make_family(tiered: Tiered, hot: Hot, archive: Any, parent: str, *, ends: bool = False) -> None:
    """``r``, at that place, then a fork ``f`` of it, and ``g`` of that, which are hot; ``g`` may have ended."""
    tiered.append("r", make_events("r", 2), keys=["a", "b"], snapshot=make_state("r", purpose="of r"))
    tiered.append("r", [*make_events("r", 2, first=3), _finished("r", 5)], keys=["c", "d", "e"])
    move(hot, archive, parent, "r")
    tiered.fork("r", "f", at=3)
    tiered.append("f", make_events("f", 3, first=50), keys=["k", "l", "m"])
    tiered.fork("f", "g", at=5)
    tiered.append("g", [make_event("g", 70), _finished("g", 71) if ends else make_event("g", 71)])


def _finished(run_id: str, seq: int) -> PAEvent:
    return make_event(run_id, seq, kind=EventKind.RUN_FINISHED)


@pytest.fixture(params=PLACES[:-1])
def parent(request: pytest.FixtureRequest) -> str:
    """Where the parent is when it is forked."""
    place: str = request.param
    return place


def check_g(store: Any) -> None:
    """That all of ``g`` is read, in whole and in part, forwards and backwards, and looked up."""
    assert seqs(store, "g") == ALL
    assert seqs(store, "g", reverse=True) == ALL[::-1]
    for low, high, limit in ((0, 4, None), (2, 6, None), (3, None, 3), (4, 7, 1), (5, None, None), (1, 3, 2)):
        part = [item for item in ALL if low < item[0] and (high is None or item[0] < high)]
        assert seqs(store, "g", after=low, before=high, limit=limit) == part[:limit]
        assert seqs(store, "g", after=low, before=high, limit=limit, reverse=True) == part[::-1][:limit]
    items = list(store.read("g"))
    for item in items:
        assert seqs(store, "g", after=item.cursor) == ALL[item.offset :]
        with pytest.raises(HistoryDiverged):
            seqs(store, "g", after=f"{item.offset}-7")
    assert store.read_at("g", [7, 2, 4, 5]) == [items[6], items[1], items[3], items[4]]
    assert store.find("g", ["a", "c", "d", "l", "m"]) == [1, 3, None, 5, None]
    assert [event.seq for event in store.list_events("g", 50)] == [51, 70, 71]
    assert [event.seq for event in store.list_events("g")] == [seq for _, seq in ALL]
    recovery = store.recover("g")
    assert (recovery.state.purpose, recovery.state.run_id, recovery.offset) == ("of r", "g", 2)
    assert [item.offset for item in recovery.events] == [3, 4, 5, 6, 7]
    assert [(one.lane_id, one.last_offset, one.last_seq) for one in store.lanes("g")] == [("main", 7, 71)]
    assert info_of(store, "g").parent == ("f", 5)


@pytest.mark.one_in(16, exhaustively=5)
@pytest.mark.parametrize("forks", PLACES)
def test_a_fork_is_one_run_wherever_it_lies_and_its_parent_was_when_it_was_forked(
    tiered: Tiered, hot: Hot, archive: Any, parent: str, forks: str
) -> None:
    make_family(tiered, hot, archive, parent, ends=forks == "forgotten")
    check_g(tiered)
    move(hot, archive, forks, "g")
    check_g(tiered)
    check_g(TieredCheckpointer(stranger(hot), archive))


def test_a_lane_goes_on_and_a_key_is_known_wherever_they_were(
    tiered: Tiered, hot: Hot, archive: Any, parent: str
) -> None:
    make_family(tiered, hot, archive, parent)
    assert tiered.append("g", make_events("g", 1), keys=["b"]).last_offset == 2
    with tiered.open_run("g") as run:
        assert run.emit("agent.progress").event.seq == 72


@pytest.mark.one_in(4)
@pytest.mark.parametrize("forks", PLACES[:-1])
def test_a_fork_has_the_lanes_of_what_it_shares_as_they_were_then_wherever_they_are(
    tiered: Tiered, hot: Hot, archive: Any, parent: str, forks: str
) -> None:
    """Ended with a state, ended without one, never ended, opened again before the fork, or after it."""
    for lane in ("done", "again", "later", "going"):
        tiered.append("r", make_events("r", 1, lane_id=lane), snapshots={lane: make_state("r")})
    tiered.append("r", make_events("r", 1, lane_id="bare"), end_lanes=["done", "again", "later", "bare"])
    move(hot, archive, parent, "r")
    tiered.append("r", make_events("r", 1, first=2, lane_id="again"))
    tiered.fork("r", "f", at=6)
    tiered.append("r", make_events("r", 1, first=2, lane_id="later"), end_lanes=["going"])
    tiered.append("f", make_events("f", 1, first=2, lane_id="going"))
    expected = [("again", 6, 2, False), ("bare", 5, 1, True), ("done", 1, 1, True)]
    expected += [("going", 7, 2, False), ("later", 3, 1, True)]

    def of_f(store: Any) -> list[tuple[str, int, int, bool]]:
        return [(one.lane_id, one.last_offset, one.last_seq, one.ended) for one in store.lanes("f")]

    assert of_f(tiered) == expected
    move(hot, archive, forks, "f")
    assert of_f(tiered) == of_f(TieredCheckpointer(stranger(hot), archive)) == expected
    if forks != "hot":
        assert of_f(archive) == expected
    if forks != "archived":  # what trims has taken them out of Redis: a fork keeps no more of them than its parent
        assert ("done" in namespace_of(hot).snapshot_lanes("f")) == (forks == "hot")
    with tiered.open_run("f", lane_id="done") as run:
        assert run.emit("agent.progress").event.seq == 2
    assert [one.lane_id for one in tiered.lanes("f") if one.ended] == ["bare", "later"]


def test_a_lane_that_has_left_a_fork_is_ended_there_though_its_last_event_is_still_in_redis(
    tiered: Tiered, hot: Hot, archive: Any
) -> None:
    """The parent holds the event for another lane of it."""
    tiered.append("r", [make_event("r", 1, lane_id="going")], snapshots={"going": make_state("r")})
    tiered.append("r", [make_event("r", 2, lane_id="going"), make_event("r", 1, lane_id="done")])
    tiered.append("r", [], snapshots={"done": make_state("r")}, end_lanes=["done"])
    tiered.fork("r", "f")
    for _ in range(2):
        drain(hot, archive, "covered")
    assert info_of(hot, "r").first_hot == 2
    assert {one.lane_id: one.ended for one in tiered.lanes("f")} == {"done": True, "going": False}


@pytest.mark.parametrize("is_drained", [False, True])
def test_a_lane_of_a_fork_is_ended_and_opened_again_wherever_it_is(
    tiered: Tiered, hot: Hot, archive: Any, *, is_drained: bool
) -> None:
    """Also one that Redis does not know any more, or never has; and its last event is told wherever that is."""

    def move_on() -> list[tuple[str, int, bool]]:
        if is_drained:
            DrainWorker(hot, [archive], trim="archived").drain_once()
        return [(one.lane_id, one.last_offset, one.ended) for one in tiered.lanes("f")]

    states: dict[str | None, Any] = {"state": make_state("r")}
    tiered.append("r", [*make_events("r", 1, lane_id="a"), *make_events("r", 1, lane_id="b")], snapshots=states)
    tiered.append("r", (), end_lanes=["a", "state"])
    tiered.fork("r", "f")
    assert move_on() == [("a", 1, True), ("b", 2, False), ("state", 0, True)]
    tiered.append("f", (), end_lanes=["a", "b", "state"])
    assert move_on() == [("a", 1, True), ("b", 2, True), ("state", 0, True)]
    tiered.append("f", make_events("f", 1, first=2, lane_id="b"), end_lanes=["b"])
    assert move_on() == move_on() == [("a", 1, True), ("b", 3, True), ("state", 0, True)]
    tiered.append("f", make_events("f", 1, first=2, lane_id="a"))
    tiered.append("f", make_events("f", 1, first=3, lane_id="b"))
    assert move_on() == [("a", 4, False), ("b", 5, False), ("state", 0, True)]
    tiered.fork("f", "g", at=3)
    assert [one.lane_id for one in tiered.lanes("g") if one.ended] == ["a", "b", "state"]


def test_a_fork_at_an_offset_that_has_left_redis_takes_the_snapshot_that_the_archive_has(
    tiered: Tiered, hot: Hot, archive: Any
) -> None:
    for number in range(1, 5):
        tiered.append(
            "r", make_events("r", 2, first=2 * number - 1), snapshot=make_state("r", current_step=number)
        )
        drain(hot, archive)
    with pytest.raises(EventsArchived):
        hot.fork("r", "x", at=5)
    tiered.fork("r", "f", at=5)
    found = tiered.load_snapshot("f")
    assert found is not None
    assert (found.state.current_step, found.offset) == (2, 4)
    assert seqs(tiered, "f") == [(number, number) for number in range(1, 6)]


@pytest.mark.one_in(2)
def test_a_fork_takes_the_snapshot_that_leaves_redis_while_it_is_made(hot: Hot, archive: Any) -> None:
    """The archive was asked before it had it; the events that it covers are gone."""
    tiered = TieredCheckpointer(hot, archive)
    tiered.append("r", make_events("r", 3), snapshot=make_state("r", current_step=7))
    tiered.truncate("r", before=4)
    worker = DrainWorker(hot, [archive], trim="never", retire_idle_seconds=0.0)

    def leave(*_: Any) -> None:
        worker.drain_once()

    TieredCheckpointer(hooked(hot, fork_brought=leave), archive).fork("r", "f")
    found = tiered.recover("f")
    assert found.state is not None
    assert (found.state.current_step, found.offset) == (7, 3)


def test_a_follower_of_a_fork_gets_what_it_shares_from_the_archive_and_then_what_comes(
    tiered: Tiered, hot: Hot, archive: Any, parent: str
) -> None:
    make_family(tiered, hot, archive, parent)
    found = []
    for item in tiered.follow("g", idle_timeout=30):
        found.append((item.offset, item.event.seq))
        if item.offset == 7:
            tiered.save_event(make_event("g", 72, kind="run.finished"))
    assert found == [*ALL, (8, 72)]
    cursor = list(tiered.read("g"))[2].cursor
    assert [item.offset for item in tiered.follow("g", cursor, idle_timeout=30)] == [4, 5, 6, 7, 8]


@pytest.mark.one_in(2)
def test_a_run_is_not_deleted_for_a_fork_that_only_the_archive_has(tiered: Tiered, hot: Hot, archive: Any) -> None:
    make_family(tiered, hot, archive, "hot", ends=True)
    move(hot, archive, "forgotten", "g")
    for run_id in ("r", "f"):
        with pytest.raises(RunHasForks):
            tiered.delete_run(run_id)
        assert hot.run_info(run_id) is not None
    check_g(tiered)
    for run_id in ("g", "f", "r"):
        assert tiered.delete_run(run_id)
    assert tiered.list_runs() == []


def test_all_forks_of_a_run_are_named_wherever_they_are(tiered: Tiered, hot: Hot, archive: Any) -> None:
    """One is in the archive alone, one in both, and one in Redis alone."""
    tiered.append("r", make_events("r", 3))
    tiered.fork("r", "c", at=1)
    tiered.append("c", [_finished("c", 2)])
    tiered.fork("r", "b", at=2)
    move(hot, archive, "forgotten", "c")
    tiered.fork("r", "a", at=2)
    for refuse in (lambda: tiered.truncate("r", before=2), lambda: tiered.delete_run("r")):
        with pytest.raises(RunHasForks) as refused:
            refuse()
        assert refused.value.forks == ("c", "a", "b")


def test_a_run_that_only_the_archive_has_is_to_be_put_back_before_it_is_forked(
    tiered: Tiered, hot: Hot, archive: Any
) -> None:
    tiered.append("r", [*make_events("r", 2), _finished("r", 3)])
    move(hot, archive, "forgotten", "r")
    with pytest.raises(EventsArchived, match="runstream restore"):
        tiered.fork("r", "f")
    assert tiered.run_info("f") is None


@pytest.mark.one_in(2)
def test_what_a_fork_shares_is_forked_where_only_the_archive_has_it_and_the_fork_is_not_archived(
    tiered: Tiered, hot: Hot, archive: Any, parent: str
) -> None:
    tiered.append("r", make_events("r", 4))
    tiered.fork("r", "f", at=3)
    move(hot, archive, parent, "r")
    tiered.append("r", make_events("r", 1, first=5))
    tiered.append("f", make_events("f", 1, first=50))
    for at, seq in ((0, 0), (2, 2), (3, 3), (4, 50)):
        tiered.fork("f", f"x{at}", at=at)
        expected = [(1, 1), (2, 2), (3, 3), (4, 50)][:at]
        assert seqs(tiered, f"x{at}") == expected
        lanes = [(one.last_offset, one.last_seq) for one in tiered.lanes(f"x{at}")]
        assert lanes == ([(at, seq)] if at else [])
