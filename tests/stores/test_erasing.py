"""What every store does that erases content: it is gone, and all else stays as it was and can be proven."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from runstream.model.errors import (
    ConcurrencyConflict,
    ConfigurationError,
    EncodingError,
    LeaseHeld,
    LeaseLost,
    RunHasForks,
)
from tests.support.backends import Backend, JSONLBackend, Store, info_of, latest
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import eventually


def fill(store: Store) -> list[Any]:
    """Six events of two lanes, each with a key and with a text of its own. As they are read."""
    events = [
        make_event("r", seq, lane_id="ab"[seq % 2], kind="agent.message", payload={"text": f"text {seq}"})
        for seq in range(1, 7)
    ]
    store.append("r", events, keys=[f"k{seq}" for seq in range(1, 7)])
    return list(store.read("r"))


def is_done(store: Store) -> bool:
    """Whether all is done in the end: a server writes its own files anew after that."""
    eventually(lambda: all(erasure.done for erasure in store.erasures("r")))
    return True


def offsets(store: Store, *args: Any, **options: Any) -> list[int]:
    return [item.offset for item in store.read("r", *args, **options)]


def test_what_was_erased_is_passed_over_and_all_else_is_as_it_was(store: Store) -> None:
    """Offsets stay dense in what is counted; cursors of the others prove the same history."""
    before = fill(store)
    erasure = store.erase("r", [5, 2, 3, 3])
    assert is_done(store)
    assert (erasure.run_id, erasure.spans, list(erasure.offsets())) == ("r", ((2, 3), (5, 5)), [2, 3, 5])
    left = [item for item in before if item.offset in {1, 4, 6}]
    assert list(store.read("r")) == left
    assert list(store.read("r", reverse=True)) == left[::-1]
    assert offsets(store, 1) == offsets(store, 3) == [4, 6]
    assert offsets(store, before[2].cursor) == [4, 6], "the cursor of what was erased"
    assert offsets(store, 0, limit=2) == [1, 4]
    assert offsets(store, 0, before=6, limit=1, reverse=True) == [4]
    assert store.list_events("r", since_seq=1) == [item.event for item in left[1:]]
    assert store.read_at("r", [6, 1]) == [left[2], left[0]]
    with pytest.raises(ConfigurationError, match="offsets 2, 5: what was there has been erased"):
        store.read_at("r", [5, 1, 2])
    assert store.recover("r").events == left
    assert info_of(store).last_offset == 6
    store.append("r", make_events("r", 1, first=7), expected_offset=6)
    assert offsets(store) == [1, 4, 6, 7]
    assert store.diff("r", "r").shared_offset == 7


def test_callers_keys_stay(store: Store) -> None:
    fill(store)
    store.erase("r", [2, 3])
    assert store.find("r", ["k2", "k3", "k4"]) == [2, 3, 4]
    assert store.append("r", make_events("r", 1), keys=["k2"]).last_offset == 2
    assert offsets(store) == [1, 4, 5, 6]


def test_all_of_a_lane_is_erased(store: Store) -> None:
    fill(store)
    assert store.erase("r", lane_id="a").spans == ((2, 2), (4, 4), (6, 6))
    assert offsets(store) == [1, 3, 5]
    assert store.recover("r", lane_id="a").events == []
    assert [info.lane_id for info in store.lanes("r")] == ["a", "b"]


def test_what_a_function_says_is_erased(store: Store) -> None:
    """As it is at the call: what comes later stays, whatever the function would say of it."""
    fill(store)
    erasure = store.erase("r", where=lambda event: event.payload["text"] in {"text 1", "text 6"})
    assert erasure.spans == ((1, 1), (6, 6))
    assert store.append("r", [make_event("r", 7, payload={"text": "text 1"})]).last_offset == 7
    assert offsets(store) == [2, 3, 4, 5, 7]


def test_nothing_is_noted_where_nothing_is_meant(store: Store) -> None:
    fill(store)
    for erasure in (store.erase("r", []), store.erase("r", lane_id="c"), store.erase("r", where=lambda _: False)):
        assert is_done(store)
        assert erasure.spans == ()
    assert store.erasures("r") == []


def test_a_lane_goes_on_with_its_seq_after_its_last_event_was_erased(store: Store) -> None:
    fill(store)
    store.erase("r", [5, 6])
    assert [(info.last_offset, info.last_seq) for info in store.lanes("r")] == [(6, 6), (5, 5)]
    with store.open_run("r", lane_id="a") as run:
        assert run.emit("agent.message", {"text": "next"}).event.seq == 7


def test_a_step_that_is_repeated_after_its_event_was_erased_gets_no_other_one(store: Store) -> None:
    """It gets the offset, and what it gave itself; and so where the event was truncated."""
    with store.open_run("r") as run:
        for number in (1, 2, 3):
            run.emit("agent.message", {"text": f"of {number}"}, key=f"step-{number}")
    store.erase("r", [2])
    store.truncate("r", before=2)
    with store.open_run("r") as run:
        for number, text in ((1, "again"), (2, "again"), (3, "of 3")):
            recorded = run.emit("agent.message", {"text": "again"}, key=f"step-{number}")
            assert (recorded.offset, recorded.event.payload) == (number, {"text": text})
    assert offsets(store) == [3]


def test_a_durable_step_whose_result_was_erased_is_not_made_again(store: Store) -> None:
    made: list[int] = []

    def call() -> str:
        made.append(1)
        return "result"

    with store.open_run("r") as run:
        run.once("step", call)
    store.erase("r", [1])
    with store.open_run("r") as run, pytest.raises(ConfigurationError, match="has been erased"):
        run.once("step", call)
    assert made == [1]


def test_a_latest_snapshot_that_may_hold_it_stands_in_the_way(store: Store) -> None:
    """It is listed, and nothing is erased; one that covers less does not; one that covers nothing may hold all."""
    store.append("r", make_events("r", 2))
    store.recover("r")
    store.save_snapshot("r", make_state("r", data={"n": 1}))
    store.append("r", make_events("r", 2, first=3, lane_id="b"))
    store.append("r", [], snapshots={"b": make_state("r")})
    with pytest.raises(ConfigurationError, match=r"its own \(revision 1, covers 2\), that of lane 'b'"):
        store.erase("r", [2, 4])
    with pytest.raises(ConfigurationError, match=r"hold what is to be erased: that of lane 'b'"):
        store.erase("r", [4])
    assert offsets(store) == [1, 2, 3, 4]
    assert store.erasures("r") == []
    store.append("unread", make_events("unread", 2))
    store.save_snapshot("s", make_state("s"))
    store.append("s", make_events("s", 1))
    with pytest.raises(ConfigurationError, match=r"covers 0"):
        store.erase("s", [1])


def test_latest_snapshots_that_may_hold_it_are_dropped_if_so_asked(store: Store) -> None:
    fill(store)
    store.recover("r")
    store.append("r", [], snapshots={None: make_state("r"), "a": make_state("r", data={"lane": "a"})})
    store.erase("r", [2], drop_snapshots=True)
    assert store.load_snapshot("r") is None
    assert store.load_snapshot("r", lane_id="a") is None
    assert [item.offset for item in store.recover("r").events] == [1, 3, 4, 5, 6]
    store.append("r", [], snapshot=make_state("r", data={"new": 1}))
    assert latest(store, "r").data == {"new": 1}


def test_snapshots_that_are_given_take_the_place_of_those_that_may_hold_it(store: Store) -> None:
    fill(store)
    store.recover("r")
    store.save_snapshot("r", make_state("r", data={"text": "text 2"}))
    state = latest(store, "r")
    state.data["text"] = "gone"
    store.erase("r", [2], snapshots={None: state})
    assert is_done(store)
    assert latest(store, "r").data == {"text": "gone"}
    assert offsets(store) == [1, 3, 4, 5, 6]
    store.append("r", [], snapshot=state)


def test_a_snapshot_that_another_has_saved_meanwhile_is_not_replaced_by_one_that_is_given(
    backend: Backend,
) -> None:
    store = backend.open()
    fill(store)
    store.append("r", [], snapshot=make_state("r"))
    state = latest(store, "r")
    store.save_snapshot("r", make_state("r", data={"other": 1}))
    store.load_snapshot("r")
    store.forget("r")
    with pytest.raises(ConcurrencyConflict):
        store.erase("r", [2], snapshots={None: state})
    assert offsets(store) == [1, 2, 3, 4, 5, 6]


def test_a_lease_that_is_in_force_must_be_carried(store: Store, backend: Backend) -> None:
    fill(store)
    if isinstance(backend, JSONLBackend):
        return  # it has none
    with store.lease("r", owner="me", lane_id="a") as lease:
        with pytest.raises(LeaseHeld):
            store.erase("r", [1])
        with pytest.raises(LeaseHeld):
            store.truncate("r", before=3)
        store.erase("r", [1], lease=lease)
        assert is_done(store)
        store.truncate("r", before=3, lease=lease)
        assert is_done(store)
    with pytest.raises(LeaseLost):
        store.erase("r", [4], lease=lease)
    assert offsets(store) == [3, 4, 5, 6]
    store.erase("r", [4])
    assert is_done(store)


def test_what_is_not_there_is_not_erased(store: Store) -> None:
    fill(store)
    for wanted, shown in (([7], "offset 7"), ([6, 7], "all of the offsets 6 to 7"), (range(1, 99), "1 to 98")):
        with pytest.raises(ConfigurationError, match=shown):
            store.erase("r", wanted)
    with pytest.raises(ConfigurationError, match="no run 'nowhere'"):
        store.erase("nowhere", [1])
    with pytest.raises(ConfigurationError, match="no run 'nowhere'"):
        store.truncate("nowhere", before=1)
    assert store.erasures("nowhere") == []
    assert store.run_info("nowhere") is None
    assert offsets(store) == [1, 2, 3, 4, 5, 6]


async def says_later(event: Any) -> bool:
    return bool(event)


def test_what_is_not_said_clearly_is_refused(store: Store) -> None:
    fill(store)
    unclear: list[dict[str, Any]] = [
        {},
        {"offsets": [1], "lane_id": "a"},
        {"lane_id": "a", "where": lambda _: True},
        {"where": "everything"},
        {"where": says_later},
        {"offsets": [0]},
        {"offsets": ["1"]},
        {"offsets": [1], "lease": "mine"},
    ]
    for options in unclear:
        with pytest.raises(ConfigurationError):
            store.erase("r", **options)
    lanes: list[Any] = [1, "x" * 600]
    for lane in lanes:
        with pytest.raises(EncodingError):
            store.erase("r", lane_id=lane)
    begins: list[Any] = [0, -1, 8, True, "1", None, 2.0]
    for before in begins:
        with pytest.raises(ConfigurationError):
            store.truncate("r", before=before)
    assert offsets(store) == [1, 2, 3, 4, 5, 6]
    assert store.erasures("r") == []


def test_to_erase_the_same_again_is_fine(store: Store) -> None:
    fill(store)
    asked = [store.erase("r", [2]), store.erase("r", [2]), store.erase("r", [2, 3])]
    asked += [store.truncate("r", before=2), store.truncate("r", before=2)]
    assert is_done(store)
    assert [replace(one, places=()) for one in store.erasures("r")] == [
        replace(asked[at], places=()) for at in (0, 2, 3)
    ]


def test_a_history_begins_later_once_it_was_truncated(store: Store) -> None:
    before = fill(store)
    erasure = store.truncate("r", before=4)
    assert is_done(store)
    assert (erasure.before, erasure.spans) == (4, ())
    assert list(store.read("r")) == list(store.read("r", 2)) == before[3:]
    assert list(store.read("r", before[2].cursor)) == list(store.read("r", before[0].cursor)) == before[3:]
    assert list(store.read("r", reverse=True, limit=2)) == before[:3:-1]
    assert offsets(store, 0, before=5) == [4]
    assert store.read_at("r", [4]) == [before[3]]
    with pytest.raises(ConfigurationError, match="no event at offset 3: it has 4 to 6"):
        store.read_at("r", [3])
    assert (info_of(store).first_hot, info_of(store).last_offset) == (4, 6)
    recovered = store.recover("r")
    assert (recovered.offset, recovered.events) == (3, before[3:])
    assert [event.seq for event in store.list_events("r", 5)] == [6]
    store.append("r", make_events("r", 1, first=7), expected_offset=6)
    assert offsets(store) == [4, 5, 6, 7]
    with pytest.raises(ConfigurationError, match="it has 4 to 7"):
        store.erase("r", [3])
    store.truncate("r", before=6)
    assert is_done(store)
    assert offsets(store) == [6, 7]


def test_keys_and_lanes_of_what_was_truncated_are_known(store: Store) -> None:
    """An append that is sent again is not applied again; a lane goes on with its seq."""
    fill(store)
    store.append("r", [make_event("r", 3, lane_id="c")])
    store.append("r", make_events("r", 1, first=8, lane_id="d"))
    store.truncate("r", before=8)
    assert store.find("r", ["k1", "k6", "none"]) == [1, 6, None]
    assert store.append("r", make_events("r", 1), keys=["k6"]).last_offset == 6
    assert offsets(store) == [8]
    assert [(info.lane_id, info.last_offset, info.last_seq) for info in store.lanes("r")] == [
        ("a", 6, 6),
        ("b", 5, 5),
        ("c", 7, 3),
        ("d", 8, 8),
    ]


def test_a_fork_knows_the_keys_of_what_was_truncated_before_it(store: Store) -> None:
    """As its parent does; also as a fork of a fork, and once it has a copy of its own."""
    fill(store)
    store.truncate("r", before=4)
    store.fork("r", "f", at=5)
    assert store.append("f", make_events("f", 1), keys=["k1"]).last_offset == 1
    store.append("f", make_events("f", 1, first=9), keys=["k9"])
    store.truncate("f", before=7)
    store.fork("f", "g")
    known = [1, 5, None, 6]
    assert [store.find(run_id, ["k1", "k5", "k6", "k9"]) for run_id in "fg"] == [known] * 2
    assert store.delete_run("r", detach=True)
    assert store.delete_run("f", detach=True)
    assert store.find("g", ["k1", "k5", "k6", "k9"]) == known


def test_all_of_a_history_can_be_truncated(store: Store) -> None:
    fill(store)
    store.truncate("r", before=7)
    assert offsets(store) == []
    assert store.recover("r").offset == info_of(store).last_offset == 6
    assert info_of(store).first_hot == 7
    store.append("r", make_events("r", 1, first=7), expected_offset=6, snapshot=make_state("r"))
    assert offsets(store) == [7]
    assert store.recover("r").events == []


def test_a_latest_snapshot_that_needs_what_is_to_be_truncated_stands_in_the_way(store: Store) -> None:
    """Its own events are needed to recover from it, and those of other lanes are not."""
    store.append("r", make_events("r", 2, lane_id="a"))
    store.recover("r")
    store.append("r", [], snapshots={"a": make_state("r")})
    store.append("r", make_events("r", 2, lane_id="b"))
    store.truncate("r", before=4)
    assert is_done(store)
    store.append("r", make_events("r", 2, first=3, lane_id="a"))
    with pytest.raises(ConfigurationError, match="need events before 6: that of lane 'a'"):
        store.truncate("r", before=6)
    assert offsets(store) == [4, 5, 6]
    store.recover("r", lane_id="a")
    store.append("r", [], snapshots={"a": make_state("r")})
    store.truncate("r", before=6)
    assert is_done(store)
    assert offsets(store) == [6]
    store.save_snapshot("r", make_state("r"))
    store.append("r", make_events("r", 1))


def test_a_lane_that_needs_nothing_of_what_goes_is_in_nobodys_way(store: Store) -> None:
    """Neither one that was quiet from its snapshot on, nor one that is ended."""
    for lane in "ab":
        store.append("r", [make_event("r", 1, lane_id=lane)], snapshot=make_state("r"), lane_id=lane)
    store.append("r", [make_event("r", 2, lane_id="b")])
    store.append("r", (), end_lanes=["b"])
    store.append("r", [make_event("r", 2, lane_id="a")])
    store.truncate("r", before=4)
    assert is_done(store)
    found = store.recover("r", lane_id="a")
    assert (found.offset, [item.offset for item in found.events]) == (1, [4])


def test_a_lane_of_what_a_fork_shares_stands_in_its_way_only_where_it_went_on_there(store: Store) -> None:
    for lane in "ab":
        store.append("r", [make_event("r", 1, lane_id=lane)], snapshot=make_state("r"), lane_id=lane)
    store.append("r", [make_event("r", 2, lane_id="a")])
    store.fork("r", "f")
    store.append("f", [make_event("f", 2, lane_id="b")])
    with pytest.raises(ConfigurationError, match=r"before 4: that of lane 'a' \(revision 1, covers 1\); save"):
        store.truncate("f", before=4)
    assert [item.offset for item in store.recover("f", lane_id="a").events] == [3]
    store.append("f", (), snapshot=make_state("f"), lane_id="a")
    store.truncate("f", before=4)
    assert [item.offset for item in store.read("f")] == [4]
    found = store.recover("f", lane_id="b")
    assert (found.offset, [item.offset for item in found.events]) == (2, [4])


def test_a_run_that_is_made_anew_has_nothing_to_do_with_what_was_erased(store: Store) -> None:
    fill(store)
    store.erase("r", [2])
    store.truncate("r", before=2)
    store.delete_run("r")
    assert store.erasures("r") == []
    fill(store)
    assert offsets(store) == [1, 2, 3, 4, 5, 6]
    assert store.erasures("r") == []


def test_what_a_fork_shares_is_erased_at_its_parent_and_is_gone_in_all_forks(store: Store) -> None:
    before = fill(store)
    store.fork("r", "f", at=4)
    store.fork("f", "g", at=3)
    store.append("f", make_events("f", 1, first=9))
    with pytest.raises(ConfigurationError, match="erased there"):
        store.erase("f", [4])
    store.erase("r", [2, 5])
    assert is_done(store)
    assert [item.offset for item in store.read("f")] == [1, 3, 4, 5]
    assert [item.offset for item in store.read("g")] == [1, 3]
    assert [item.cursor for item in store.read("g")] == [before[0].cursor, before[2].cursor]
    assert store.find("g", ["k2"]) == [2]
    store.erase("f", [5])
    assert is_done(store)
    assert [item.offset for item in store.read("f")] == [1, 3, 4]
    assert offsets(store) == [1, 3, 4, 6]


def test_a_snapshot_of_a_fork_that_may_hold_what_it_shares_stands_in_the_way(store: Store) -> None:
    """It is dropped with those of the run, if so asked; one that covers less is in nobody's way."""
    fill(store)
    store.recover("r")
    for run_id in ("f", "g"):
        store.fork("r" if run_id == "f" else "f", run_id)
        store.recover(run_id)
        store.save_snapshot(run_id, make_state(run_id))
    store.fork("r", "early", at=1)
    store.recover("early")
    store.save_snapshot("early", make_state("early"))
    with pytest.raises(ConfigurationError, match="run 'f' has latest snapshots that may hold"):
        store.erase("r", [2])
    assert offsets(store) == [1, 2, 3, 4, 5, 6]
    store.erase("r", [2], drop_snapshots=True)
    assert is_done(store)
    assert [store.load_snapshot(run_id) is None for run_id in ("f", "g", "early")] == [True, True, False]
    assert [item.offset for item in store.recover("g").events] == [1, 3, 4, 5, 6]


def test_a_fork_keeps_what_it_saved_after_something_it_shares_was_erased(store: Store) -> None:
    """Whoever asks what has become of that; as does one that was made after it, of a snapshot without it."""
    fill(store)
    store.save_snapshot("r", make_state("r"))
    store.fork("r", "f")
    store.erase("r", [2], drop_snapshots=True)
    assert store.load_latest("f") is None
    store.save_snapshot("f", make_state("f", purpose="of f"))
    store.save_snapshot("r", make_state("r", purpose="of r"))
    store.fork("r", "g")
    store.erasures("r")
    assert [store.load_snapshot(run_id) is not None for run_id in "rfg"] == [True] * 3
    store.erase("r", [3], drop_snapshots=True)
    assert [store.load_snapshot(run_id) is not None for run_id in "rfg"] == [False] * 3


def test_a_lane_whose_snapshot_is_dropped_is_ended_still(store: Store) -> None:
    """And one that was opened again by that snapshot is not, whether it had ended with one or not."""
    fill(store)
    states: dict[str | None, Any] = {"a": make_state("r"), "b": make_state("r")}
    store.append("r", (), snapshots=states, end_lanes=["a", "b"])
    store.append("r", (), snapshot=make_state("r"), lane_id="b")
    store.erase("r", [1], drop_snapshots=True)
    assert [(lane.lane_id, lane.ended, lane.snapshot_offset) for lane in store.lanes("r")] == [
        ("a", True, None),
        ("b", False, None),
    ]
    store.append("r", (), snapshot=make_state("r"), lane_id="a")
    store.erase("r", [2], drop_snapshots=True)
    assert [lane.ended for lane in store.lanes("r")] == [False, False]


def test_a_truncated_run_is_saved_without_being_read(store: Store) -> None:
    """What is gone is not to be recovered; a fork of it goes on with the lanes' numbers."""
    fill(store)
    store.truncate("r", before=6)
    assert (store.recover("r").offset, [item.offset for item in store.recover("r").events]) == (5, [6])
    store.update_state("r", lambda _: make_state("r"))
    assert (store.recover("r").offset, [item.offset for item in store.recover("r").events]) == (5, [6])
    store.fork("r", "f")
    assert [(lane.lane_id, lane.last_seq) for lane in store.lanes("f")] == [("a", 6), ("b", 5)]
    with store.open_run("f", lane_id="b") as run:
        assert run.emit("agent.message").event.seq == 6
    store.truncate("f", before=1)  # it begins there already
    assert [item.offset for item in store.read("f")] == [6, 7]


def test_what_a_fork_needs_is_not_truncated(store: Store) -> None:
    fill(store)
    store.fork("r", "f", at=3)
    store.append("f", make_events("f", 2, first=9))
    with pytest.raises(RunHasForks) as caught:
        store.truncate("r", before=2)
    assert caught.value.forks == ("f",)
    with pytest.raises(ConfigurationError, match="pass 4"):
        store.truncate("f", before=3)
    assert [item.offset for item in store.read("f")] == [1, 2, 3, 4, 5]
    store.truncate("f", before=4)
    assert is_done(store)
    assert [item.offset for item in store.read("f")] == [4, 5]
    store.truncate("f", before=5)
    assert is_done(store)
    assert [item.offset for item in store.read("f")] == [5]
    assert info_of(store, "f").first_hot == 5
    store.append("f", make_events("f", 1, first=11), expected_offset=5)
    assert [item.offset for item in store.recover("f").events] == [5, 6]
    assert store.find("f", ["k1"]) == [1]
    store.delete_run("f")
    store.truncate("r", before=2)
    assert is_done(store)
    assert offsets(store) == [2, 3, 4, 5, 6]


def test_a_follower_passes_over_what_was_erased_also_at_the_end(store: Store) -> None:
    """It waits for what comes after that, and ends with the run."""
    fill(store)
    store.erase("r", [2, 5, 6])
    given: list[int] = []
    with pytest.raises(TimeoutError):
        given.extend(item.offset for item in store.follow("r", idle_timeout=0.05))
    with pytest.raises(TimeoutError):
        given.extend(item.offset for _, item in store.follow_runs(["r"], idle_timeout=0.05))
    store.append("r", [make_event("r", 7, kind="run.finished")])
    assert [item.offset for item in store.follow("r")] == [1, 3, 4, 7]
    assert [item.offset for _, item in store.follow_runs(["r"])] == [1, 3, 4, 7]
    assert given == [1, 3, 4, 1, 3, 4]


def test_a_state_by_one_who_has_read_nothing_of_a_truncated_run_may_hold_what_is_erased(store: Store) -> None:
    with store.open_run("r") as run:  # a writer of its own
        for number in range(4):
            run.emit("agent.message", n=number)
    store.truncate("r", before=3)
    store.save_snapshot("r", make_state("r"))
    with pytest.raises(ConfigurationError, match="may hold what is to be erased"):
        store.erase("r", [4])
    store.erase("r", [4], drop_snapshots=True)
    assert store.load_latest("r") is None


def test_a_fork_keeps_what_it_began_with_when_events_of_its_own_are_erased(store: Store) -> None:
    fill(store)
    store.recover("r")
    store.save_snapshot("r", make_state("r", purpose="of six"))
    store.save_events(make_events("r", 1, first=7))
    store.fork("r", "f")
    store.save_events(make_events("f", 1, first=8))
    store.erase("f", [8])
    assert latest(store, "f").purpose == "of six"


def test_a_reader_that_goes_on_in_another_thread_passes_over_what_was_erased(store: Store) -> None:
    """And holds up nobody meanwhile."""
    store.save_events(make_events("r", 399))
    store.erase("r", list(range(50, 390)))
    given, reader = [], iter(store.read("r"))
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for number, (reading, writing) in enumerate(itertools.cycle([(one, other), (other, one)])):
            item = reading.submit(next, reader, None).result(10)
            if item is None:
                break
            given.append(item.offset)
            writing.submit(store.save_events, make_events("s", 1, first=number)).result(10)
    assert given == [*range(1, 50), *range(390, 400)]
