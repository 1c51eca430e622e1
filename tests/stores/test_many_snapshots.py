"""Several snapshots in the step that appends events: the run's and its lanes', all of them or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream import DrainWorker, RedisCheckpointer, SQLiteCheckpointer, TieredCheckpointer
from runstream.codec.snapshot_fields import pack_state
from runstream.codec.stored import STORED_PACKER
from runstream.model.errors import (
    ConcurrencyConflict,
    ConfigurationError,
    EncodingError,
    EventsArchived,
    LeaseHeld,
    StoreUnavailable,
)
from runstream.model.events import EventKind
from runstream.model.results import Snapshot
from runstream.model.state import RunStatus
from runstream.stores.redis.append_batch import copies_of
from tests.support.backends import RedisBackend, Store, info_of
from tests.support.kinds import REAL, on_every_backend
from tests.support.line import Line
from tests.support.samples import make_event, make_events, make_state

LANES = (None, "a", "b")


def of_lane(store: Store, lane_id: str | None) -> Snapshot[Any]:
    snapshot = store.load_snapshot("r", lane_id=lane_id)
    assert snapshot is not None
    return snapshot


def states(purpose: str, lanes: Any = LANES, **fields: Any) -> dict[str | None, Any]:
    return {lane_id: make_state("r", purpose=f"{purpose} {lane_id}", **fields) for lane_id in lanes}


@on_every_backend
def test_a_run_and_its_lanes_are_saved_with_events_in_one_step(store: Store) -> None:
    """Each covers what is before it and in the batch, and each follows the one of its own lane."""
    for revision in (1, 2):
        events = [make_event("r", revision, lane_id=lane_id) for lane_id in ("a", "main")]
        appended = store.append("r", events, snapshots=states(f"{revision}"))
        for lane_id in LANES:
            saved = of_lane(store, lane_id)
            assert saved.state.purpose == f"{revision} {lane_id}"
            assert (saved.offset, saved.revision) == (appended.last_offset, revision)
    store.append("r", (), snapshots=states("alone", ["b"]))
    assert [of_lane(store, lane_id).revision for lane_id in LANES] == [2, 2, 3]


def test_an_append_without_events_saves_them_too(store: Store) -> None:
    store.append("r", (), snapshots=states("alone"))
    assert [of_lane(store, lane_id).offset for lane_id in LANES] == [0, 0, 0]
    assert store.append("r", (), snapshots={}).last_offset == 0
    assert [of_lane(store, lane_id).revision for lane_id in LANES] == [1, 1, 1]


@on_every_backend
def test_keys_of_no_events_do_not_stand_in_the_way(store: Store) -> None:
    """Of a run that has keys, and of one that has none yet."""
    for run_id, events in (("r", make_events("r", 1)), ("new", [])):
        store.append(run_id, events, keys=["a"] * len(events), snapshot=make_state(run_id, purpose="first"))
        store.append(run_id, (), keys=(), snapshots={None: make_state(run_id, purpose="second")})
        found = store.load_snapshot(run_id)
        assert found is not None
        assert (found.state.purpose, found.revision) == ("second", 2)
    assert store.append("r", make_events("r", 1), keys=["a"]).last_offset == 1


def test_the_status_and_the_session_are_those_of_the_states(store: Store) -> None:
    """Only the run's own state says how the run stands."""
    lane = make_state("r", session_id="s", status=RunStatus.COMPLETED)
    store.append("r", make_events("r", 1), snapshots={"a": lane})
    assert (info_of(store).status, info_of(store).session_id) == ("running", "s")
    store.append("r", (), snapshots={"a": lane, None: make_state("r", status=RunStatus.FAILED)})
    assert info_of(store).status == "failed"


@pytest.mark.parametrize("lane_id", [None, "b"])
def test_one_that_another_has_saved_since_refuses_all(
    two_stores: tuple[Store, Store], lane_id: str | None
) -> None:
    """And the error names the lane."""
    store, other = two_stores
    store.append("r", make_events("r", 1), snapshots=states("first"))
    other.save_snapshot("r", make_state("r", purpose="another"), lane_id=lane_id)
    with pytest.raises(
        ConcurrencyConflict, match="run 'r': snapshot" if lane_id is None else f"lane '{lane_id}'"
    ) as caught:
        store.append("r", make_events("r", 2), snapshots=states("late"))
    assert (caught.value.expected, caught.value.actual) == (1, 2)
    assert [item.offset for item in store.read("r")] == [1]
    purposes = [of_lane(store, lane).state.purpose for lane in LANES]
    assert purposes == ["another" if lane == lane_id else f"first {lane}" for lane in LANES]


def test_known_keys_leave_all_as_they_are(store: Store) -> None:
    store.append("r", make_events("r", 1), keys=["k"], snapshots=states("first"))
    store.append("r", make_events("r", 1), keys=["k"], snapshots=states("again"))
    assert [of_lane(store, lane).state.purpose for lane in LANES] == [f"first {lane}" for lane in LANES]
    store.append("r", make_events("r", 2), keys=["k", None], snapshots=states("third"))
    assert [(of_lane(store, lane).offset, of_lane(store, lane).revision) for lane in LANES] == [(2, 2)] * 3


def test_what_is_no_dict_of_states_by_lane_is_refused(store: Store) -> None:
    state, bad = make_state("r"), make_state("r", data={"x": object()})
    wrong: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"snapshot": state, "snapshots": {}}, ConfigurationError),
        ({"lane_id": "a", "snapshots": {}}, ConfigurationError),
        ({"snapshots": state}, ConfigurationError),
        ({"snapshots": [state]}, ConfigurationError),
        ({"snapshots": {5: state}}, EncodingError),
        ({"snapshots": {"x" * 513: state}}, EncodingError),
        ({"snapshots": {"a": state, None: None}}, EncodingError),
        ({"snapshots": {"a": state, "b": bad}}, EncodingError),
    ]
    for options, error in wrong:
        with pytest.raises(error):
            store.append("r", make_events("r", 1), **options)
    assert store.run_info("r") is None


@pytest.mark.parametrize("backend", ["memory", "sqlite", *REAL[:1]], indirect=True)
def test_a_lease_on_a_lane_saves_others_that_nobody_holds(store: Store) -> None:
    with store.lease("r", owner="me", lane_id="a") as mine:
        mine.append("r", [make_event("r", 1, lane_id="a")], snapshots=states("mine"))
        with store.lease("r", owner="you", lane_id="b"):
            with pytest.raises(LeaseHeld, match="'you'"):
                mine.append("r", [make_event("r", 2, lane_id="a")], snapshots=states("late"))
            mine.append("r", [make_event("r", 2, lane_id="a")], snapshots=states("with", ["a", None]))
    assert [of_lane(store, lane).revision for lane in LANES] == [2, 2, 1]


# -- sent again, and after others have gone


@pytest.mark.parametrize("redis_backend", ["fake", *REAL[:1]], indirect=True)
@pytest.mark.parametrize("lost_part", ["request", "reply"])
def test_they_are_saved_once_however_often_they_are_sent(redis_backend: RedisBackend, lost_part: str) -> None:
    store = redis_backend.open(retry_seconds=0)
    assert isinstance(store, RedisCheckpointer)
    line, events, saves = Line(store), make_events("r", 2, payload={"text": "x" * 5000}), states("once")
    for save in saves.values():
        save.data["text"] = "x" * 5000
    for revision in (1, 2):
        for state in saves.values():
            state.data["revision"] = revision
        line.cut(lost_part)
        with pytest.raises(StoreUnavailable):
            store.append("r", events, snapshots=saves)
        last = store.append("r", events, snapshots=saves).last_offset
        assert last == 2 * revision
        for reader in (store, redis_backend.open()):
            for lane in LANES:
                saved = of_lane(reader, lane)
                assert (saved.revision, saved.offset) == (revision, last)
                assert saved.state.data == {"text": "x" * 5000, "revision": revision}


@pytest.mark.parametrize("redis_backend", ["fake"], indirect=True)
def test_what_is_repeated_after_one_of_them_was_replaced_is_saved_again(redis_backend: RedisBackend) -> None:
    """Its reply is for who repeats it, and a newer state of one of its lanes makes it another call."""
    store = redis_backend.open(retry_seconds=0)
    assert isinstance(store, RedisCheckpointer)
    line = Line(store)
    line.cut("reply")
    with pytest.raises(StoreUnavailable):
        store.append("r", (), snapshots=states("first"))
    store.save_snapshot("r", make_state("r", purpose="newer"), lane_id="b")
    store.append("r", (), snapshots=states("first"))
    assert [of_lane(store, lane).state.purpose for lane in LANES] == [f"first {lane}" for lane in LANES]
    assert [of_lane(store, lane).revision for lane in LANES] == [2, 2, 3]


@pytest.mark.parametrize("redis_backend", ["fake"], indirect=True)
def test_they_follow_those_that_were_retired_since(redis_backend: RedisBackend, tmp_path: Path) -> None:
    """Through the tiered store: those that are there, those that left Redis, and those of new lanes."""
    hot, another = redis_backend.open(), redis_backend.open()
    assert isinstance(hot, RedisCheckpointer)
    assert isinstance(another, RedisCheckpointer)
    with SQLiteCheckpointer(tmp_path / "a.db") as archive:
        tiered = TieredCheckpointer(hot, archive)
        end = make_event("r", 1, kind=EventKind.RUN_FINISHED, lane_id="a")
        tiered.append("r", [end], snapshots=states("first", [None, "a"], status=RunStatus.COMPLETED))
        worker = DrainWorker(hot, [archive], retire_after_seconds=0)
        assert worker.drain_once().retired == 1
        with pytest.raises(EventsArchived):
            hot.append("r", (), snapshots=states("late"))
        tiered.append("r", (), snapshots=states("second"))
        assert [of_lane(tiered, lane).revision for lane in LANES] == [2, 2, 1]
        other = TieredCheckpointer(another, archive)
        with pytest.raises(ConcurrencyConflict):
            other.append("r", (), snapshots=states("late", ["a"]))
        assert [of_lane(tiered, lane).state.purpose for lane in LANES] == [f"second {lane}" for lane in LANES]


# -- what a batch has twice travels once


VALUES = {
    "text": "é" * 40_000,
    "bytes": bytes(range(256)) * 100,
    "nested": {"list": [{"n": n, "tuple": (n, None)} for n in range(800)]},
    "short": "x" * 40,
    **{f"number {n}": n for n in range(300)},
    "after many": "z" * 3000,
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("redis_backend", REAL, indirect=True)
def test_a_value_that_an_event_has_too_travels_once(redis_backend: RedisBackend) -> None:
    """In whole snapshots and in differences; of the run, and of a lane."""
    store, raw = redis_backend.open(), redis_backend.raw
    store.append("r", make_events("r", 1))

    def sent_by(append: Any) -> int:
        before: int = raw.info("stats")["total_net_input_bytes"]
        append()
        after: int = raw.info("stats")["total_net_input_bytes"]
        return after - before

    for marker in ("1", "2"):
        values = {name: value + marker if isinstance(value, str) else value for name, value in VALUES.items()}
        values["bytes"] = marker.encode() * 25_600
        event = make_event("r", 2, lane_id="a", payload={"channels": values})
        alone = sent_by(lambda event=event: store.append("r", [event]))
        saves = {lane: make_state("r", data=values) for lane in (None, "a")}
        together = sent_by(lambda event=event, saves=saves: store.append("r", [event], snapshots=saves))
        assert alone > 100_000
        assert together < alone + 25_000  # names, numbers and short values, of two snapshots
        for reader in (store, redis_backend.open()):
            for lane in (None, "a"):
                assert of_lane(reader, lane).state.data == values
                assert list(of_lane(reader, lane).state.data) == list(values)


@settings(max_examples=15)
@given(
    count=st.integers(1, 80),
    sizes=st.lists(st.sampled_from([0, 10, 400, 600, 5000]), min_size=1, max_size=30),
    has=st.sets(st.integers(0, 29)),
)
def test_copies_are_what_the_fields_have(count: int, sizes: list[int], has: set[int]) -> None:
    """Whatever their ranks; and no others are said to be there."""
    state: dict[str, Any] = {f"key {n}": n for n in range(count)}
    state |= {f"value {n}": [n, "x" * size] for n, size in enumerate(sizes)}
    before = pack_state(STORED_PACKER, {"first": 1, **{f"former {n}": n for n in range(2**8)}})
    packed = pack_state(STORED_PACKER, {**dict.fromkeys([f"former {n}" for n in range(2**8)]), **state}, before)
    values = [STORED_PACKER.pack(state[f"value {n}"]) for n in sorted(has) if n < len(sizes)]
    records = [b"record", b"\x00".join([b"begin", *values, b"end"])]
    copies = copies_of(packed.fields, records)
    for name, copy in copies.items():
        record = records[copy.record - 1]
        assert copy.head + record[copy.begin - 1 : copy.begin - 1 + copy.length] == packed.fields[name]
    large = {n for n in has if n < len(sizes) and sizes[n] >= 600}
    expected = {f"=value {n}".encode() for n in large}
    assert copies.keys() <= expected
    assert len(copies) == min(len(expected), 16)
