"""What every store does with events: save, append, read, list, follow."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runstream.model.errors import (
    AcknowledgedWritesLost,
    ConcurrencyConflict,
    ConfigurationError,
    EncodingError,
    HistoryDiverged,
)
from runstream.model.events import EventKind, PAEvent, Visibility
from runstream.model.results import Appended, Cursor, Recorded
from tests.support.backends import Backend, Store, latest
from tests.support.decoding import note_decoded
from tests.support.kinds import on_every_backend, on_every_pair_of_stores
from tests.support.samples import make_event, make_events, make_state

JOIN_SECONDS = 20.0


def offsets(recorded: Iterator[Recorded[Any]]) -> list[int]:
    return [item.offset for item in recorded]


# -- saving ----------------------------------------------------------------------------------------------


def test_a_saved_event_comes_back_equal(store: Store) -> None:
    event = PAEvent(
        "r",
        session_id="s",
        lane_id="lane",
        span_id="span",
        parent_span_id="parent",
        seq=7,
        ts=1234.5678901,
        kind=EventKind.TOOL_RESULT,
        visibility=Visibility.DEBUG,
        payload={"nested": {"deep": [1, 2.5, None, "text"]}},
    )
    store.save_event(event)
    (loaded,) = store.list_events("r")
    assert loaded == event
    assert type(loaded) is PAEvent
    assert (type(loaded.kind), type(loaded.visibility)) == (EventKind, Visibility)


def test_a_loaded_event_is_never_the_object_that_was_saved(store: Store) -> None:
    payload: dict[str, Any] = {"items": [1]}
    event = make_event("r", payload=payload)
    store.save_event(event)
    payload["items"].append(2)
    (loaded,) = store.list_events("r")
    assert loaded.payload == {"items": [1]}
    loaded.payload["items"].append(3)
    assert store.list_events("r")[0].payload == {"items": [1]}


@on_every_backend
def test_events_of_several_runs_land_each_in_their_run_in_order(store: Store) -> None:
    first, second, third = make_events("a", 3), make_events("b", 2), make_events("c", 1)
    store.save_events(iter([first[0], second[0], first[1], third[0], second[1], first[2]]))
    assert [store.list_events(run_id) for run_id in "abc"] == [first, second, third]


def test_saving_no_events_does_nothing(store: Store) -> None:
    store.save_events([])
    store.save_events(iter(()))
    assert store.list_runs() == []


def test_nothing_is_written_if_one_event_of_many_is_bad(store: Store) -> None:
    store.save_event(make_event("a", 1))
    with pytest.raises(EncodingError):
        store.save_events([make_event("a", 2), make_event("b", 1), make_event("c", 1, payload={"x": object()})])
    assert store.list_runs() == ["a"]
    assert [event.seq for event in store.list_events("a")] == [1]


def test_what_is_saved_is_there_for_another_store(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    events = make_events("r", 3)
    store.save_events(events)
    assert other.list_events("r") == events


@pytest.mark.parametrize("kind", ["my.own.kind", "agent", ""])
def test_an_unknown_kind_is_kept_as_a_plain_string(store: Store, kind: str) -> None:
    store.save_event(make_event("r", kind=kind, visibility="confidential"))
    (loaded,) = store.list_events("r")
    assert (loaded.kind, loaded.visibility) == (kind, "confidential")
    assert type(loaded.kind) is type(loaded.visibility) is str


# -- append ----------------------------------------------------------------------------------------------


@on_every_backend
def test_offsets_are_dense_from_one(store: Store) -> None:
    """Every append tells its first and last offset and the last event's cursor."""
    events = make_events("r", 6)
    appended = [
        store.append("r", events[:3]),
        store.append("r", iter(events[3:4])),
        store.append("r", events[4:]),
    ]
    recorded = list(store.read("r"))
    assert [tuple(place[:2]) for place in appended] == [(1, 3), (4, 4), (5, 6)]
    assert [place.cursor for place in appended] == [recorded[n - 1].cursor for n in (3, 4, 6)]
    assert [item.offset for item in recorded] == [1, 2, 3, 4, 5, 6]
    assert [item.event for item in recorded] == events
    assert [Cursor.parse(item.cursor).offset for item in recorded] == [1, 2, 3, 4, 5, 6]


def test_appending_where_it_is_expected_lands_there(store: Store) -> None:
    assert store.append("r", make_events("r", 2), expected_offset=0)[:2] == (1, 2)
    assert store.append("r", make_events("r", 1), expected_offset=2)[:2] == (3, 3)


@pytest.mark.one_in(4)
@on_every_backend
@pytest.mark.parametrize(("there", "expected"), [(0, 1), (3, 0), (3, 2), (3, 4), (3, 10**15)])
def test_appending_elsewhere_than_expected_writes_nothing(
    backend: Backend, store: Store, there: int, expected: int
) -> None:
    if there:
        store.save_events(make_events("r", there))
    before = backend.footprint()
    with pytest.raises(ConcurrencyConflict) as caught:
        store.append("r", make_events("r", 2), expected_offset=expected, snapshot=make_state("r"))
    assert (caught.value.expected, caught.value.actual) == (expected, there)
    assert backend.footprint() == before
    assert len(store.list_events("r")) == there
    assert store.load_latest("r") is None


@on_every_pair_of_stores
def test_of_two_writers_that_expect_the_same_offset_one_wins(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    store.append("r", make_events("r", 1), expected_offset=0)
    other.append("r", make_events("r", 1, first=2), expected_offset=1)
    with pytest.raises(ConcurrencyConflict):
        store.append("r", make_events("r", 1, first=3), expected_offset=1)
    assert [event.seq for event in store.list_events("r")] == [1, 2]


def test_an_append_of_nothing_tells_where_the_run_stands_and_creates_nothing(
    backend: Backend, store: Store
) -> None:
    before = backend.footprint()
    assert store.append("r", [])[:2] == (1, 0)
    assert store.append("r", iter(()), expected_offset=0)[:2] == (1, 0)
    assert backend.footprint() == before
    appended = store.append("r", make_events("r", 3))
    assert store.append("r", []) == Appended(4, 3, appended.cursor)
    with pytest.raises(ConcurrencyConflict) as caught:
        store.append("r", [], expected_offset=2)
    assert (caught.value.expected, caught.value.actual) == (2, 3)


@on_every_backend
def test_events_and_their_snapshot_are_kept_together(store: Store) -> None:
    state = make_state("r", current_step=1)
    assert store.append("r", make_events("r", 2), snapshot=state)[:2] == (1, 2)
    recovery = store.recover("r")
    assert (recovery.state, recovery.offset, recovery.events) == (state, 2, [])


def test_an_append_of_nothing_but_a_snapshot_has_no_offset_of_its_own(store: Store) -> None:
    store.save_events(make_events("r", 2))
    assert store.append("r", [], snapshot=make_state("r"))[:2] == (3, 2)
    assert store.append("new", [], snapshot=make_state("new"))[:2] == (1, 0)
    assert store.load_latest("new") is not None


@on_every_pair_of_stores
def test_a_snapshot_that_another_has_saved_since_refuses_the_whole_append(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    other.save_snapshot("r", make_state("r", purpose="theirs"))
    with pytest.raises(ConcurrencyConflict) as caught:
        store.append("r", make_events("r", 2), snapshot=make_state("r", purpose="ours"))
    assert (caught.value.expected, caught.value.actual) == (0, 1)
    assert store.list_events("r") == []
    loaded = latest(store, "r")
    assert loaded.purpose == "theirs"
    # now that it is known, it may be replaced
    store.append("r", make_events("r", 2), snapshot=make_state("r", purpose="ours"))
    other.save_snapshot("r", make_state("r", purpose="theirs again"))
    with pytest.raises(ConcurrencyConflict) as caught:
        store.append("r", [], snapshot=make_state("r"))
    assert (caught.value.expected, caught.value.actual) == (2, 3)


def test_threads_may_share_a_store(store: Store) -> None:
    """Appends of several threads never share an offset and each thread's own keep their order."""
    appended: list[list[Appended]] = [[] for _ in range(4)]

    def work(lane: int) -> None:
        appended[lane] += [store.append("r", [make_event("r", n, lane_id=str(lane))]) for n in range(1, 11)]

    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(JOIN_SECONDS)
    recorded = list(store.read("r"))
    assert [item.offset for item in recorded] == list(range(1, 41))
    for lane, places in enumerate(appended):
        own = [item for item in recorded if item.event.lane_id == str(lane)]
        assert [item.event.seq for item in own] == list(range(1, 11))
        assert [item.cursor for item in own] == [place.cursor for place in places]


# -- read ------------------------------------------------------------------------------------------------


def test_reading_gives_the_window_that_was_asked_for(store: Store) -> None:
    """``after < offset < before``, newest first in reverse, and at most ``limit`` of them."""
    store.save_events(make_events("r", 6))
    for after, before, limit, reverse in itertools.product(
        (0, 2, 6, 9), (None, 0, -3, 1, 4, 7, 20), (None, 0, 1, 3, 50), (False, True)
    ):
        expected = [n for n in range(1, 7) if n > after and (before is None or n < before)]
        expected = (expected[::-1] if reverse else expected)[:limit]
        found = list(store.read("r", after, before=before, limit=limit, reverse=reverse))
        assert [item.offset for item in found] == expected, (after, before, limit, reverse)
        assert [item.event.seq for item in found] == expected


@pytest.mark.exhaustive
@pytest.mark.one_in(4)
def test_a_long_run_is_read_whole(store: Store) -> None:
    """More events than one round trip takes, in both directions and from the middle."""
    store.save_events(make_events("r", 2345))
    everything = list(range(1, 2346))
    assert [item.event.seq for item in store.read("r")] == everything
    assert offsets(store.read("r", reverse=True)) == everything[::-1]
    assert offsets(store.read("r", 1170, limit=1100)) == everything[1170:2270]
    assert offsets(store.read("r", reverse=True, before=2000, limit=1500)) == everything[499:1999][::-1]
    assert len(store.list_events("r")) == 2345


def test_a_cursor_goes_on_where_it_was_taken(store: Store) -> None:
    store.save_events(make_events("r", 5))
    cursors = [item.cursor for item in store.read("r")]
    assert [offsets(store.read("r", cursor)) for cursor in cursors] == [
        [2, 3, 4, 5],
        [3, 4, 5],
        [4, 5],
        [5],
        [],
    ]
    store.save_event(make_event("r", 6))
    assert offsets(store.read("r", cursors[-1])) == [6]


@pytest.mark.one_in(2)
@on_every_backend
@pytest.mark.parametrize("offset", [1, 3, 5])
def test_a_cursor_of_another_history_is_refused(store: Store, offset: int) -> None:
    store.save_events(make_events("r", 5))
    cursor = Cursor.parse(list(store.read("r"))[offset - 1].cursor)
    with pytest.raises(HistoryDiverged) as caught:
        list(store.read("r", str(Cursor(offset, cursor.chain + 1))))
    assert (caught.value.run_id, caught.value.offset) == ("r", offset)


@pytest.mark.parametrize("there", [0, 3])
def test_a_cursor_beyond_the_end_says_that_events_are_lost(store: Store, there: int) -> None:
    store.save_events(make_events("r", there))
    with pytest.raises(AcknowledgedWritesLost) as caught:
        list(store.read("r", "7-123"))
    assert (caught.value.run_id, caught.value.last_seen, caught.value.last_present) == ("r", 7, there)


def test_a_run_that_was_deleted_and_created_anew_refuses_old_cursors(store: Store) -> None:
    store.save_events(make_events("r", 2))
    cursor = next(iter(store.read("r"))).cursor
    assert store.delete_run("r")
    store.save_events(make_events("r", 2))
    with pytest.raises(HistoryDiverged):
        list(store.read("r", cursor))


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"after": -1}, "after=-1"),
        ({"after": True}, "after=True"),
        ({"after": 1.5}, "after=1.5"),
        ({"after": None}, "after=None"),
        ({"after": "3"}, "'3' is not a cursor"),
        ({"after": "x-1"}, "'x-1' is not a cursor"),
        ({"after": ""}, "'' is not a cursor"),
        ({"after": "1-2-3"}, "'1-2-3' is not a cursor"),
        ({"limit": -1}, "limit=-1"),
        ({"on_corrupt": "ignore"}, "on_corrupt='ignore'"),
    ],
    ids=str,
)
def test_bad_arguments_of_read_are_refused(store: Store, arguments: dict[str, Any], named: str) -> None:
    store.save_event(make_event("r"))
    with pytest.raises(ConfigurationError, match=named):
        list(store.read("r", **arguments))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("reverse", [False, True])
def test_reading_gives_the_run_as_it_stood_when_it_began(store: Store, reverse: bool) -> None:
    """What others append while somebody iterates is not part of what he sees."""
    store.save_events(make_events("r", 5))
    reading = store.read("r", reverse=reverse)
    first = next(reading)
    store.save_events(make_events("r", 1500, first=6))
    rest = list(reading)
    expected = [1, 2, 3, 4, 5]
    assert [item.offset for item in (first, *rest)] == (expected[::-1] if reverse else expected)


def test_reading_can_be_broken_off(store: Store) -> None:
    store.save_events(make_events("r", 5))
    for item in store.read("r"):
        assert item.offset == 1
        break
    store.save_event(make_event("r", 6))
    assert len(store.list_events("r")) == 6


# -- list_events -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("since_seq", [0, -1, -(10**9)])
def test_since_nothing_gives_everything(store: Store, since_seq: int) -> None:
    """Events with seq 0, the default of create_event, and below are among them."""
    events = [make_event("r", seq) for seq in (0, 1, -5, 0, 2)]
    store.save_events(events)
    assert store.list_events("r", since_seq) == events
    assert store.list_events("r") == events


def test_since_a_seq_gives_what_has_a_greater_one_in_log_order(store: Store) -> None:
    events = [
        make_event("r", seq, lane_id=lane) for seq, lane in [(1, "a"), (1, "b"), (3, "a"), (2, "b"), (2, "a")]
    ]
    store.save_events(events)
    assert store.list_events("r") == events
    assert store.list_events("r", 1) == events[2:]
    assert store.list_events("r", since_seq=2) == [events[2]]
    assert store.list_events("r", 3) == []


def test_two_lanes_that_both_count_from_one_stay_in_the_order_of_writing(store: Store) -> None:
    events = [make_event("r", seq, lane_id=lane) for seq in range(1, 6) for lane in ("b", "a")]
    for event in events:
        store.save_event(event)
    assert store.list_events("r") == events


def test_a_run_that_is_not_there_has_no_events(store: Store) -> None:
    assert store.list_events("nobody") == []
    assert list(store.read("nobody")) == []
    assert list(store.read("nobody", 5, reverse=True)) == []


# -- follow ----------------------------------------------------------------------------------------------


@on_every_backend
def test_a_follower_gets_history_then_what_comes_until_the_run_has_ended(store: Store) -> None:
    events = [
        make_event("r", 1, kind=EventKind.RUN_STARTED),
        *make_events("r", 3, first=2),
        make_event("r", 5, kind=EventKind.AGENT_FINISHED),
        make_event("r", 6, kind=EventKind.RUN_FINISHED),
    ]
    store.save_events(events[:2])
    has_history = threading.Event()

    def write() -> None:
        assert has_history.wait(JOIN_SECONDS)
        for event in events[2:]:
            store.save_event(event)

    writer = threading.Thread(target=write)
    writer.start()
    followed = []
    for item in store.follow("r", idle_timeout=JOIN_SECONDS):
        followed.append(item)
        if item.offset == 2:
            has_history.set()
    writer.join(JOIN_SECONDS)
    assert [item.event for item in followed] == events
    assert followed == list(store.read("r"))


def test_a_run_may_be_followed_before_it_is_there(store: Store) -> None:
    followed: list[int] = []

    def follow() -> None:
        followed.extend(item.offset for item in store.follow("r", idle_timeout=JOIN_SECONDS))

    follower = threading.Thread(target=follow)
    follower.start()
    store.save_events([make_event("r", 1), make_event("r", 2, kind=EventKind.RUN_ERROR)])
    follower.join(JOIN_SECONDS)
    assert followed == [1, 2]


@pytest.mark.parametrize("how", ["event", "snapshot"])
def test_following_a_run_that_has_ended_ends(store: Store, how: str) -> None:
    store.save_events(make_events("r", 2))
    if how == "event":
        store.save_event(make_event("r", 3, kind=EventKind.RUN_FINISHED))
    else:
        store.save_snapshot("r", make_state("r", status="cancelled"))
    count = 3 if how == "event" else 2
    assert offsets(store.follow("r")) == list(range(1, count + 1))
    assert offsets(store.follow("r", 1)) == list(range(2, count + 1))
    assert offsets(store.follow("r", count)) == []


def test_a_snapshot_that_ends_the_run_ends_a_follower_that_waits(store: Store) -> None:
    store.save_event(make_event("r", 1))
    following = store.follow("r", idle_timeout=JOIN_SECONDS)
    assert next(following).offset == 1
    store.save_snapshot("r", make_state("r", status="completed"))
    assert list(following) == []


def test_a_follower_goes_on_from_a_cursor(store: Store) -> None:
    store.save_events([*make_events("r", 3), make_event("r", 4, kind=EventKind.RUN_FINISHED)])
    cursor = list(store.read("r"))[1].cursor
    assert offsets(store.follow("r", cursor)) == [3, 4]
    with pytest.raises(HistoryDiverged):
        list(store.follow("r", "2-1"))


@pytest.mark.one_in(4)
def test_a_follower_is_told_that_the_run_was_deleted_and_made_anew(store: Store) -> None:
    """Also where the new one has less than was given."""
    store.save_events(make_events("r", 3))
    following = store.follow("r", idle_timeout=JOIN_SECONDS)
    assert [next(following).offset for _ in range(3)] == [1, 2, 3]
    store.delete_run("r")
    store.save_event(make_event("r", 9))
    with pytest.raises((AcknowledgedWritesLost, HistoryDiverged)):
        list(following)


def test_a_follower_whose_patience_ends_gets_a_timeout(store: Store) -> None:
    with pytest.raises(TimeoutError):
        next(iter(store.follow("nobody", idle_timeout=0.02)))
    store.save_events(make_events("r", 2))
    following = store.follow("r", idle_timeout=0.02)
    assert [next(following).offset, next(following).offset] == [1, 2]
    with pytest.raises(TimeoutError):
        next(following)


def test_only_events_that_a_follower_wants_keep_him_waiting(store: Store) -> None:
    store.save_events(make_events("r", 2))
    with pytest.raises(TimeoutError):
        list(store.follow("r", lane_id="another", idle_timeout=0.02))


def test_events_that_a_follower_does_not_want_do_not_keep_it_waiting(store: Store) -> None:
    """Its time ends while others go on writing; what it was given begins it anew."""
    store.save_event(make_event("r", 1, lane_id="wanted"))
    is_over = threading.Event()

    def write() -> None:
        for seq in range(2, 1000):
            if is_over.wait(0.01):
                return
            store.save_event(make_event("r", seq))

    writer = threading.Thread(target=write)
    writer.start()
    following = store.follow("r", lane_id="wanted", idle_timeout=0.2)
    try:
        assert next(following).offset == 1
        with pytest.raises(TimeoutError):
            next(following)
        assert writer.is_alive()
    finally:
        is_over.set()
        writer.join(JOIN_SECONDS)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"lane_id": "a"}, [1, 3, 5]),
        ({"kinds": [EventKind.TOOL_RESULT]}, [2]),
        ({"kinds": ("tool.result", EventKind.RUN_FINISHED)}, [2, 5]),
        ({"kinds": ["my.kind"]}, [4]),
        ({"kinds": []}, []),
        ({"visibility": Visibility.PUBLIC}, [1, 2, 5]),
        ({"visibility": "internal"}, [1, 2, 4, 5]),
        ({"visibility": Visibility.DEBUG}, [1, 2, 3, 4, 5]),
        ({"visibility": "debug", "lane_id": "b"}, [2, 4]),
    ],
    ids=str,
)
def test_a_follower_gets_what_he_asked_for(store: Store, wanted: dict[str, Any], expected: list[int]) -> None:
    store.save_events(
        [
            make_event("r", 1, lane_id="a"),
            make_event("r", 1, lane_id="b", kind=EventKind.TOOL_RESULT),
            make_event("r", 2, lane_id="a", visibility=Visibility.DEBUG),
            make_event("r", 2, lane_id="b", kind="my.kind", visibility=Visibility.INTERNAL),
            make_event("r", 3, lane_id="a", kind=EventKind.RUN_FINISHED),
        ]
    )
    assert offsets(store.follow("r", **wanted)) == expected


@pytest.mark.parametrize(
    "asked",
    [{"kinds": EventKind.TOOL_RESULT}, {"kinds": 5}, {"kinds": [5]}, {"lane_id": 5}, {"visibility": ["public"]}],
    ids=str,
)
def test_a_filter_that_fits_no_event_is_refused_by_name(store: Store, asked: dict[str, Any]) -> None:
    store.save_event(make_event("r", kind=EventKind.RUN_FINISHED))
    with pytest.raises(ConfigurationError, match=next(iter(asked))):
        list(store.follow("r", **asked))


@pytest.mark.parametrize(
    ("viewer", "expected"),
    [("public", [1, 4]), ("internal", [1, 2, 4]), ("debug", [1, 2, 4]), ("team", [1, 3, 4]), ("others", [1, 4])],
)
def test_a_visibility_that_nobody_knows_is_seen_under_its_own_name_alone(
    store: Store, viewer: str, expected: list[int]
) -> None:
    seen = ["public", "internal", "team", "public"]
    kinds = ["one", "one", "one", "run.finished"]
    store.save_events(
        [make_event("r", n, kind=kinds[n], visibility=visibility) for n, visibility in enumerate(seen)]
    )
    assert offsets(store.follow("r", visibility=viewer)) == expected


@pytest.mark.parametrize("kind", ["memory", "sqlite", "jsonl"])
def test_a_reader_of_the_first_event_waits_for_no_other(
    kind: str, make_backend: Callable[[str], Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events may be large, and whoever wants one is given one."""
    store = make_backend(kind).open()
    store.save_events(make_events("r", 100))
    decoded = note_decoded(monkeypatch)
    assert next(iter(store.read("r"))).offset == 1
    assert set(decoded) == {1}
    assert len(list(store.read("r"))) == 100
