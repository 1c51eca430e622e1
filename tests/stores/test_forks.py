"""What every store does with forks: a run that shares its parent's history up to an offset reads as one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runstream.model.errors import (
    AcknowledgedWritesLost,
    ConfigurationError,
    EncodingError,
    HistoryDiverged,
    InvalidRunId,
    LeaseHeld,
    RunHasForks,
)
from runstream.model.events import PAEvent
from tests.support.backends import Backend, Store, info_of, latest
from tests.support.operations import operations_of, perform
from tests.support.samples import make_event, make_events, make_state


def seqs(store: Store, run_id: str, **asked: Any) -> list[tuple[int, int]]:
    """Offset and seq of what is read; all of it are events of the run."""
    items = list(store.read(run_id, **asked))
    assert {item.event.run_id for item in items} <= {run_id}
    assert [item.cursor.partition("-")[0] for item in items] == [str(item.offset) for item in items]
    return [(item.offset, item.event.seq) for item in items]


def fork_family(store: Store) -> list[tuple[int, int]]:
    """A run ``r``, a fork ``f`` of it at 4, ``g`` of that at 6, and ``h`` of that at 2; what ``g`` has."""
    store.save_events(make_events("r", 4))
    store.fork("r", "f")
    store.save_events(make_events("r", 3, first=5))
    store.save_events(make_events("f", 4, first=50))
    store.fork("f", "g", at=6)
    store.save_events(make_events("g", 3, first=70))
    store.fork("g", "h", at=2)
    store.save_events(make_events("h", 1, first=90))
    return [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50), (6, 51), (7, 70), (8, 71), (9, 72)]


def test_a_store_tells_where_a_run_comes_from_and_what_was_forked_from_it(store: Store) -> None:
    fork_family(store)
    store.fork("r", "e", at=4)
    assert store.forks("r") == [("e", 4), ("f", 4)]
    assert [store.forks(run_id) for run_id in ("f", "g", "h", "nowhere")] == [[("g", 6)], [("h", 2)], [], []]
    assert store.ancestors("h") == [("g", 2), ("f", 6), ("r", 4)]
    assert [store.ancestors(run_id) for run_id in ("e", "r", "nowhere")] == [[("r", 4)], [], []]
    store.delete_run("h")
    assert store.forks("g") == []
    for ask in (store.forks, store.ancestors):
        with pytest.raises(InvalidRunId):
            ask("")


# -- reading -----------------------------------------------------------------------------------------------


@pytest.mark.one_in(2)
def test_a_fork_reads_as_one_run_and_neither_has_what_the_other_appends_since(store: Store) -> None:
    all_of_g = fork_family(store)
    assert seqs(store, "g") == all_of_g
    assert seqs(store, "f") == [*all_of_g[:6], (7, 52), (8, 53)]
    assert seqs(store, "h") == [(1, 1), (2, 2), (3, 90)]
    assert seqs(store, "r") == [(seq, seq) for seq in range(1, 8)]
    assert [event.seq for event in store.list_events("g")] == [seq for _, seq in all_of_g]
    for since in range(75):
        assert [event.seq for event in store.list_events("g", since)] == [
            seq for _, seq in all_of_g if seq > since
        ]


@pytest.mark.one_in(2)
def test_every_part_of_a_fork_is_read_over_the_borders_in_either_direction(store: Store) -> None:
    all_of_g = fork_family(store)
    for low in range(10):
        for high in (1, 4, 5, 7, 9, 10, None):
            part = [item for item in all_of_g if low < item[0] and (high is None or item[0] < high)]
            for limit in (None, 0, 3):
                assert seqs(store, "g", after=low, before=high, limit=limit) == part[:limit]
                found = seqs(store, "g", after=low, before=high, limit=limit, reverse=True)
                assert found == part[::-1][:limit]
    assert seqs(store, "g", after=99) == []
    items = {item.offset: item for item in store.read("g")}
    assert store.read_at("g", [9, 4, 5, 1]) == [items[9], items[4], items[5], items[1]]
    with pytest.raises(ConfigurationError, match="it has 1 to 9"):
        store.read_at("g", [10])


def test_cursors_go_on_from_the_parent_s_and_are_checked_wherever_they_lie(store: Store) -> None:
    all_of_g = fork_family(store)
    cursors = [item.cursor for item in store.read("g")]
    assert cursors[:4] == [item.cursor for item in store.read("r", limit=4)]
    for cursor, offset in zip(cursors, range(1, 10), strict=True):
        assert seqs(store, "g", after=cursor) == all_of_g[offset:]
    beyond = [item.cursor for item in store.read("r", after=4)]
    for reverse in (False, True):
        for cursor in beyond:
            with pytest.raises(HistoryDiverged):
                seqs(store, "g", after=cursor, reverse=reverse)
    with pytest.raises(AcknowledgedWritesLost):
        seqs(store, "g", after="10-5")


def test_a_fork_of_a_run_without_events_and_one_at_offset_0_share_nothing(store: Store) -> None:
    store.save_snapshot("r", make_state("r"))
    assert store.fork("r", "f").parent == ("r", 0)
    store.save_events(make_events("r", 2))
    store.fork("r", "g", at=0)
    store.save_events(make_events("f", 1, first=7))
    assert (seqs(store, "f"), seqs(store, "g")) == ([(1, 7)], [])
    assert latest(store, "f").run_id == "f"


def test_events_of_another_class_come_with_the_id_of_the_fork(backend: Backend) -> None:
    class Own(PAEvent):
        pass

    store = backend.open(event_type=Own)
    store.append("r", [Own("r", seq=1, kind="own.kind", payload={"set": {1, 2}})])
    store.fork("r", "f")
    (found,) = store.list_events("f")
    assert (type(found), found.run_id, found.payload) == (Own, "f", {"set": {1, 2}})


def test_another_store_over_the_place_sees_the_fork(make_backend: Callable[[str], Backend]) -> None:
    for kind in ("sqlite", "jsonl"):
        backend = make_backend(kind)
        all_of_g = fork_family(backend.open())
        assert seqs(backend.open(), "g") == all_of_g
        break


# -- writing -----------------------------------------------------------------------------------------------


def test_a_key_of_the_shared_part_is_known_and_one_the_parent_got_later_is_not(store: Store) -> None:
    store.append("r", make_events("r", 3), keys=["a", "b", "c"])
    store.fork("r", "f", at=2)
    store.append("f", make_events("f", 1, first=9), keys=["d"])
    store.fork("f", "g")
    for run_id in ("f", "g"):
        assert store.find(run_id, ["a", "b", "c", "d"]) == [1, 2, None, 3]
        assert store.append(run_id, make_events(run_id, 1), keys=["b"]).last_offset == 2
        assert info_of(store, run_id).last_offset == 3
    assert store.append("g", make_events("g", 2), keys=["c", "a"]).first_offset == 4
    assert info_of(store, "g").last_offset == 4
    assert store.find("r", ["d"]) == [None]


def test_a_step_that_was_done_before_the_fork_is_not_made_again_in_it(store: Store) -> None:
    made: list[str] = []

    def call(name: str) -> str:
        made.append(name)
        return f"result of {name}"

    with store.open_run("r") as run:
        assert run.once("first", call, "first") == "result of first"
    store.fork("r", "f")
    with store.open_run("f") as run:
        assert run.once("first", call, "again") == "result of first"
        assert run.once("second", call, "second") == "result of second"
    assert made == ["first", "second"]


def test_an_expected_offset_is_the_one_at_which_the_fork_stands(store: Store) -> None:
    store.save_events(make_events("r", 3))
    store.fork("r", "f", at=2)
    assert store.append("f", make_events("f", 1), expected_offset=2).first_offset == 3


# -- states ------------------------------------------------------------------------------------------------


def test_a_fork_has_the_newest_snapshots_that_cover_no_more_than_it_shares(store: Store) -> None:
    store.append("r", make_events("r", 2), snapshot=make_state("r", purpose="two"))
    store.append("r", make_events("r", 1, lane_id="a"), snapshots={"a": make_state("r", purpose="lane")})
    store.append("r", make_events("r", 2), snapshots={"b": make_state("r", purpose="late")})
    store.fork("r", "f", at=4)
    found = store.load_snapshot("f")
    assert found is not None
    assert (found.state.purpose, found.state.run_id, found.offset) == ("two", "f", 2)
    of_lane = store.load_snapshot("f", lane_id="a")
    assert of_lane is not None
    assert (of_lane.state.purpose, of_lane.offset) == ("lane", 3)
    assert store.load_snapshot("f", lane_id="b") is None
    recovery = store.recover("f")
    assert (recovery.offset, [item.offset for item in recovery.events]) == (2, [3, 4])


def test_a_snapshot_of_the_fork_follows_the_one_it_began_with_and_leaves_the_parent_s(store: Store) -> None:
    store.append("r", make_events("r", 1), snapshot=make_state("r", purpose="parent"))
    store.fork("r", "f")
    store.update_state("f", lambda state: setattr(state, "purpose", "fork"))
    assert (latest(store, "f").purpose, latest(store, "r").purpose) == ("fork", "parent")
    assert [change.path for change in store.diff("r", "f").state] == ["purpose"]


def test_without_a_snapshot_a_fork_is_recovered_from_its_events_and_then_covers_them(store: Store) -> None:
    store.save_events(make_events("r", 3))
    store.fork("r", "f", at=2)
    store.save_events(make_events("f", 1, first=8))
    assert [item.event.seq for item in store.recover("f").events] == [1, 2, 8]
    store.save_snapshot("f", make_state("f"))
    found = store.load_snapshot("f")
    assert found is not None
    assert found.offset == 3


def test_a_snapshot_by_one_who_knows_nothing_of_the_shared_part_does_not_cover_it(backend: Backend) -> None:
    first = backend.open()
    first.save_events(make_events("r", 2))
    first.fork("r", "f")
    first.forget("f")
    first.append("f", make_events("f", 1), snapshots={"main": make_state("f"), None: make_state("f")})
    for lane_id in (None, "main"):
        found = first.load_snapshot("f", lane_id=lane_id)
        assert found is not None
        assert found.offset == 0


def test_lanes_go_on_where_the_shared_part_leaves_off(store: Store) -> None:
    for first, lane in ((1, "a"), (1, "b"), (2, "a"), (3, "a"), (1, "late")):
        store.save_event(make_event("r", first, lane_id=lane))
    store.append("r", [], end_lanes=["b"])
    store.fork("r", "f", at=3)
    store.fork("r", "g", at=5)
    store.fork("f", "h", at=1)
    known = {
        run_id: [(one.lane_id, one.last_offset, one.last_seq) for one in store.lanes(run_id)] for run_id in "fgh"
    }
    assert known["f"] == [("a", 3, 2), ("b", 2, 1)]
    assert known["g"] == [("a", 4, 3), ("b", 2, 1), ("late", 5, 1)]
    assert known["h"] == [("a", 1, 1)]
    assert [one.ended for one in store.lanes("g")] == [False, True, False]
    with store.open_run("f", lane_id="a") as run:
        assert run.emit("agent.progress").event.seq == 3
    with store.open_run("f", lane_id="late") as run:
        assert run.emit("agent.progress").event.seq == 1


def test_a_run_on_a_fork_recovers_and_its_checkpoint_covers_all_of_it(store: Store) -> None:
    with store.open_run("r") as run:
        run.emit("agent.progress")
        run.checkpoint()
        run.emit("agent.progress")
    store.fork("r", "f")
    with store.open_run("f") as run:
        assert [item.offset for item in run.recovered.events] == [2]
        run.emit("agent.progress")
        run.checkpoint()
    found = store.load_snapshot("f")
    assert found is not None
    assert found.offset == 3


# -- what is known of it -----------------------------------------------------------------------------------


def test_a_fork_takes_after_its_parent(store: Store) -> None:
    store.append("r", make_events("r", 2, session_id="s"), tags={"user": "42", "kind": "chat"})
    info = store.fork("r", "f")
    assert (info.parent, info.session_id, info.last_offset) == (("r", 2), "s", 2)
    assert info.tags == {"user": "42", "kind": "chat"}
    assert info == info_of(store, "f")
    assert store.fork("r", "g", at=1, tags={"user": "7"}).tags == {"user": "7"}
    assert {one.run_id for one in store.runs(tags={"user": "42"})} == {"r", "f"}
    assert {one.run_id for one in store.runs(session_id="s")} == {"r", "f", "g"}
    assert info_of(store, "r").parent is None


def test_a_fork_at_an_earlier_offset_is_open_and_one_at_the_end_is_as_the_run_is(store: Store) -> None:
    with store.open_run("r") as run:
        run.emit("agent.progress")
        run.finish()
    assert store.fork("r", "f").status == "completed"
    assert store.fork("r", "g", at=1).status == "running"


def test_what_differs_between_forks_is_what_they_have_themselves(store: Store) -> None:
    store.save_events(make_events("r", 3))
    store.fork("r", "f", at=2)
    store.save_events(make_events("f", 2, first=8))
    store.fork("f", "g", at=3)
    store.save_events(make_events("g", 1, first=9))
    assert [store.diff(*pair).shared_offset for pair in (("r", "f"), ("f", "g"), ("r", "g"))] == [2, 3, 2]


def test_the_same_fork_made_again_is_the_one_that_was_made(store: Store) -> None:
    store.save_events(make_events("r", 3))
    made = store.fork("r", "f", at=2)
    store.save_events(make_events("f", 1))
    again = [store.fork("r", "f", at=2), store.fork("r", "f")]
    assert [(one.parent, one.last_offset, one.created_at) for one in again] == [(("r", 2), 3, made.created_at)] * 2


def test_what_cannot_be_forked_is_refused_and_nothing_is_made(store: Store) -> None:
    store.save_events(make_events("r", 3))
    store.save_events(make_events("other", 1))
    store.fork("r", "f", at=1)
    refused: Sequence[tuple[str, str, dict[str, Any]]] = (
        ("nowhere", "n", {}),
        ("r", "n", {"at": 4}),
        ("r", "n", {"at": -1}),
        ("r", "r", {}),
        ("r", "other", {}),
        ("r", "f", {"at": 2}),
        ("other", "f", {}),
    )
    for run_id, new_run_id, asked in refused:
        with pytest.raises(ConfigurationError):
            store.fork(run_id, new_run_id, **asked)
    with pytest.raises(EncodingError):
        store.fork("r", "n", tags={"user": None})  # type: ignore[dict-item]
    with pytest.raises(InvalidRunId):
        store.fork("r", "")
    assert sorted(store.list_runs()) == ["f", "other", "r"]


# -- deleting ----------------------------------------------------------------------------------------------


def test_a_run_is_not_deleted_while_there_are_forks_of_it(store: Store) -> None:
    all_of_g = fork_family(store)
    with pytest.raises(RunHasForks, match=r"'g' at 6") as refused:
        store.delete_run("f")
    assert (refused.value.run_id, refused.value.forks) == ("f", ("g",))
    assert seqs(store, "g") == all_of_g
    for run_id in ("h", "g", "f", "r"):
        assert store.delete_run(run_id)
    assert store.list_runs() == []


def test_a_run_that_was_made_anew_is_not_the_parent_of_former_forks(store: Store) -> None:
    store.save_events(make_events("r", 2))
    store.fork("r", "f")
    store.delete_run("f")
    store.delete_run("r")
    store.save_events(make_events("r", 1))
    store.save_events(make_events("f", 1))
    assert store.delete_run("r")
    assert info_of(store, "f").parent is None


def test_a_fork_that_is_made_while_its_parent_is_deleted_wins_or_is_not_made(store: Store) -> None:
    for number in range(8):
        parent, fork = f"r{number}", f"f{number}"
        store.save_events(make_events(parent, 3))
        with ThreadPoolExecutor() as pool:
            forked = pool.submit(store.fork, parent, fork, at=2)
            deleted = pool.submit(store.delete_run, parent)
            errors = [task.exception() for task in (forked, deleted)]
        assert [type(error) for error in errors if error is not None] in ([ConfigurationError], [RunHasForks])
        if errors[0] is None:
            assert seqs(store, fork) == [(1, 1), (2, 2)]
        else:
            assert store.run_info(fork) is None


def test_a_fork_that_is_made_while_those_of_its_parent_are_detached_has_all_of_it_or_is_not_made(
    store: Store,
) -> None:
    for number in range(8):
        parent, fork = f"r{number}", f"f{number}"
        store.save_events(make_events(parent, 3))
        with ThreadPoolExecutor() as pool:
            forked = pool.submit(store.fork, parent, fork, at=2)
            deleted = pool.submit(store.delete_run, parent, detach=True)
            is_made = forked.exception() is None
            assert isinstance(deleted.exception(), RunHasForks | None)
        assert (store.run_info(fork) is not None) == is_made
        if is_made:
            assert seqs(store, fork) == [(1, 1), (2, 2)]


def test_a_fork_is_detached_from_its_own_parent_only(store: Store) -> None:
    """Whose name a run had that is to go: it may be another run's fork by then."""
    store.save_events(make_events("r", 2))
    store.fork("r", "f")
    perform(store, operations_of(store).detach("f", "other"))
    assert info_of(store, "f").parent == ("r", 2)
    perform(store, operations_of(store).detach("f", "r"))
    assert info_of(store, "f").parent is None


# -- live --------------------------------------------------------------------------------------------------


def test_a_follower_of_a_fork_gets_what_it_shares_and_then_what_comes(store: Store) -> None:
    store.save_events(make_events("r", 3))
    store.fork("r", "f", at=2)
    found = []
    for item in store.follow("f", idle_timeout=30):
        found.append((item.offset, item.event.seq, item.event.run_id))
        if item.offset == 2:
            store.save_event(make_event("r", 77))
            store.save_event(make_event("f", 8))
        elif item.offset == 3:
            store.save_event(make_event("f", 9, kind="run.finished"))
    assert found == [(1, 1, "f"), (2, 2, "f"), (3, 8, "f"), (4, 9, "f")]


def test_a_lease_on_the_parent_is_none_on_the_fork(live: Store) -> None:
    live.save_events(make_events("r", 1))
    with live.lease("r", owner="one"):
        live.fork("r", "f")
        live.save_events(make_events("f", 1, first=5))
        with pytest.raises(LeaseHeld):
            live.save_events(make_events("r", 1, first=5))


def test_a_question_that_waited_at_the_fork_waits_in_it_and_each_is_answered_by_itself(live: Store) -> None:
    with live.open_run("r") as run:
        run.emit("agent.progress")
        question = run.pause("go on?").event.payload["question_id"]
    live.fork("r", "f")
    assert [one.question_id for one in info_of(live, "f").waiting_for] == [question]
    live.answer("f", "yes")
    live.fork("f", "g", at=info_of(live, "r").last_offset)
    waiting = {run_id: bool(info_of(live, run_id).waiting_for) for run_id in "rfg"}
    assert waiting == {"r": True, "f": False, "g": True}
