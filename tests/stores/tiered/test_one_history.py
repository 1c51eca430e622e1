"""The two stores of a tiered one hold one history of a run, or the reader and the writer are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runstream import (
    DrainWorker,
    EventKind,
    EventsArchived,
    HistoryDiverged,
    RunState,
    StoreUnavailable,
    TieredCheckpointer,
)
from runstream.operations.operation import Exchange
from runstream.repair.restore import put_back
from runstream.stores.tiered import recent_runs
from tests.stores.tiered.tiers import Hot, Tiered, drain, stranger
from tests.support.operations import hooked, operations_of, perform, session_of
from tests.support.samples import make_event, make_events

WAYS: dict[str, Callable[[Any], Any]] = {
    "read": lambda store: list(store.read("r")),
    "read on": lambda store: next(store.read("r", 11), None),
    "read nothing": lambda store: list(store.read("r", limit=0)),
    "backwards": lambda store: next(store.read("r", reverse=True), None),
    "follow": lambda store: next(store.follow("r", idle_timeout=5)),
    "follow on": lambda store: next(store.follow("r", 11, idle_timeout=5)),
    "recover": lambda store: store.recover("r"),
    "recover a lane": lambda store: store.recover("r", lane_id="main"),
    "open": lambda store: store.open_run("r"),
    "list_events": lambda store: store.list_events("r"),
    "list_events since": lambda store: store.list_events("r", 3),
}


def lose(hot: Hot, archive: Any) -> None:
    """Ten events are archived, the server loses all, and others fill their offsets again, and more."""
    hot.append("r", make_events("r", 10))
    drain(hot, archive, "never")
    hot.delete_run("r")
    stranger(hot).append("r", make_events("r", 13, first=100))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("way", WAYS)
def test_a_history_that_was_lost_and_filled_again_is_no_longer_run(hot: Hot, archive: Any, way: str) -> None:
    lose(hot, archive)
    with pytest.raises(HistoryDiverged, match="runstream resolve r") as caught:
        WAYS[way](TieredCheckpointer(stranger(hot), archive))
    assert caught.value.offset == 10


@pytest.mark.parametrize("is_other", [False, True])
def test_an_archive_that_ends_where_redis_begins_is_compared_by_the_entry_after_that(
    hot: Hot, archive: Any, is_other: bool
) -> None:
    """An older copy: what it ends with is trimmed, and the mark is further on."""
    hot.append("r", make_events("r", 6))
    drain(hot, archive, "never")
    if is_other:
        hot.delete_run("r")
        hot.append("r", make_events("r", 6, first=100))
    hot.append("r", make_events("r", 3, first=7))
    run = session_of(hot).keys.run("r")

    def trimmed() -> Any:
        (last,) = yield Exchange([(b"HGET", run.meta, "last")])
        yield Exchange([(b"XTRIM", run.events, b"MINID", "7"), (b"HSET", run.meta, "mark", last)])

    perform(hot, trimmed())
    reader = TieredCheckpointer(stranger(hot), archive)
    if is_other:
        with pytest.raises(HistoryDiverged):
            next(reader.read("r", 6), None)
    else:
        assert [event.seq for event in reader.list_events("r")] == list(range(1, 10))


def forget(hot: Hot, archive: Any) -> None:
    """A run of ten events has ended, is archived and forgotten on purpose."""
    hot.append("r", make_events("r", 9), snapshot=RunState("r", purpose="kept", status="completed"))
    hot.append("r", [make_event("r", 10, kind=EventKind.RUN_FINISHED)])
    report = DrainWorker(hot, [archive], retire_after_seconds=0, forget_after_seconds=0).drain_once()
    assert report.forgotten == 1


def test_a_forgotten_run_is_recovered_from_the_archive(hot: Hot, archive: Any, tiered: Tiered) -> None:
    forget(hot, archive)
    for store in (tiered, TieredCheckpointer(stranger(hot), archive)):
        recovery = store.recover("r")
        assert recovery.state is not None
        assert (recovery.state.purpose, recovery.offset) == ("kept", 9)
        assert [item.offset for item in recovery.events] == [10]


WRITES: dict[str, Callable[[Any], Any]] = {
    "save_event": lambda store: store.save_event(make_event("r", 11)),
    "save_events": lambda store: store.save_events(make_events("r", 2, first=11)),
    "append": lambda store: store.append("r", make_events("r", 1, first=11)),
    "with a state": lambda store: store.append("r", make_events("r", 1, first=11), snapshot=RunState("r")),
    "save_snapshot": lambda store: store.save_snapshot("r", RunState("r")),
    "update_state": lambda store: store.update_state("r", lambda state: state),
    "emit": lambda store: store.open_run("r").emit(EventKind.AGENT_PROGRESS),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("way", WRITES)
def test_nothing_begins_a_run_anew_that_the_archive_has(
    hot: Hot, archive: Any, tiered: Tiered, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a store that never saw it, nor one that wrote to it before it was forgotten."""
    monkeypatch.setattr(recent_runs, "_SECONDS", 0.0)
    tiered.save_event(make_event("other", 1))
    forget(hot, archive)
    for store in (tiered, TieredCheckpointer(stranger(hot), archive)):
        with pytest.raises(EventsArchived, match="runstream restore r --from") as caught:
            WRITES[way](store)
        assert caught.value.archives == (archive.location,)
    assert hot.run_info("r") is None


def test_a_run_that_was_put_back_goes_on(hot: Hot, archive: Any) -> None:
    forget(hot, archive)
    store = TieredCheckpointer(stranger(hot), archive)
    with pytest.raises(EventsArchived):
        store.append("r", make_events("r", 1, first=11))
    put_back(hot, archive, "r")
    assert store.append("r", make_events("r", 1, first=11)).first_offset == 11


def test_a_run_in_redis_is_written_to_without_the_archive(hot: Hot, archive: Any) -> None:
    def fail(*_: Any) -> None:
        raise StoreUnavailable("the archive is away")

    hot.append("r", make_events("r", 1))
    store = TieredCheckpointer(stranger(hot), archive)
    operations_of(store).archive = operations_of(hooked(archive, end_of=fail))
    assert store.append("r", make_events("r", 1, first=2)).first_offset == 2
    with pytest.raises(StoreUnavailable):  # whether the archive has it is not known
        store.append("new", make_events("new", 1))
