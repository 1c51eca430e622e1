"""What lies beyond the archive's end takes one exchange with Redis, and moves no event out of sight meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runstream import AcknowledgedWritesLost, DrainWorker, EventKind, HistoryDiverged, TieredCheckpointer
from runstream.operations.arguments import ReadQuery
from runstream.operations.operation import collect
from tests.stores.tiered.tiers import Hot, Tiered, drain, stranger
from tests.support.operations import exchanges_in, hooked, operations_of, perform
from tests.support.samples import make_event, make_events, make_state


def offsets(recorded: Any) -> list[int]:
    return [item.offset for item in recorded]


ASKS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], Any]] = {
    "recover": (lambda ops: ops.recover("r", None), lambda found: (found.offset, offsets(found.events)), (8, [9])),
    "find": (lambda ops: ops.find("r", ["1", "9", "none"]), list, [1, 9, None]),
    "read_at": (lambda ops: ops.read_at("r", [9, 7]), offsets, [9, 7]),
    "read": (lambda ops: collect(ops.read("r", ReadQuery(6))), offsets, [7, 8, 9]),
    "read the last": (lambda ops: collect(ops.read("r", ReadQuery(6, limit=2, reverse=True))), offsets, [9, 8]),
    "list_events": (lambda ops: ops.list_events("r", 6), lambda found: [event.seq for event in found], [7, 8, 9]),
}
"""What is asked of the operations, what of the result is compared, and what that must be."""


@pytest.fixture
def run(hot: Hot, archive: Any) -> None:
    """A run of nine events, of which the archive alone has the first six, and Redis alone the others."""
    hot.append("r", make_events("r", 6), keys=["1", *[None] * 5])
    drain(hot, archive)
    hot.append("r", make_events("r", 2, first=7), snapshot=make_state("r"))
    hot.append("r", [make_event("r", 9, kind=EventKind.RUN_FINISHED)], keys=["9"])


@pytest.mark.parametrize("what", ASKS)
@pytest.mark.usefixtures("run")
def test_it_takes_one_exchange(tiered: Tiered, hot: Hot, archive: Any, what: str) -> None:
    ask, shown, expected = ASKS[what]
    for store in (tiered, TieredCheckpointer(stranger(hot), archive)):
        found, sent = exchanges_in(store, ask(operations_of(store)))
        assert (shown(found), len(sent)) == (expected, 1)


@pytest.mark.usefixtures("run")
def test_a_page_of_events_beyond_it_comes_with_the_snapshot_in_one_exchange(hot: Hot, archive: Any) -> None:
    hot.save_events([make_event("r", number, lane_id=f"lane-{number % 2}") for number in range(100)])
    store = TieredCheckpointer(stranger(hot), archive)
    for lane_id, expected in ((None, range(9, 110)), ("lane-1", range(11, 110, 2))):
        found, sent = exchanges_in(store, operations_of(store).recover("r", lane_id))
        assert (offsets(found.events), len(sent)) == ([*expected], 1)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("what", ASKS)
@pytest.mark.parametrize("is_forgotten", [False, True])
@pytest.mark.usefixtures("run")
def test_what_moves_between_the_two_looks_is_found_where_it_is(
    hot: Hot, archive: Any, what: str, *, is_forgotten: bool
) -> None:
    def move(*_: Any) -> None:
        if is_forgotten:
            DrainWorker(hot, [archive], retire_after_seconds=0, forget_after_seconds=0).drain_once()
        else:
            drain(hot, archive)

    ask, shown, expected = ASKS[what]
    store = TieredCheckpointer(hooked(stranger(hot), continuing=move), archive)
    assert shown(perform(store, ask(operations_of(store)))) == expected
    assert (hot.run_info("r") is None) == is_forgotten


@pytest.mark.parametrize("what", ASKS)
@pytest.mark.usefixtures("run")
def test_a_run_that_goes_on_elsewhere_than_the_archive_ends_is_refused(hot: Hot, archive: Any, what: str) -> None:
    """Made anew, as long as the archive's or shorter."""
    for count, error in ((9, HistoryDiverged), (3, AcknowledgedWritesLost)):
        hot.delete_run("r")
        hot.append("r", make_events("r", count))
        store = TieredCheckpointer(stranger(hot), archive)
        with pytest.raises(error):
            perform(store, ASKS[what][0](operations_of(store)))


def test_a_new_run_is_looked_for_once_in_redis(hot: Hot, archive: Any) -> None:
    """And whether anything of it is there all the same."""
    store = TieredCheckpointer(stranger(hot), archive)
    found, sent = exchanges_in(store, operations_of(store).recover("none", None))
    assert (found.state, found.events, len(sent)) == (None, [], 2)
    hot.append("none", [make_event("none", 1, kind=EventKind.RUN_STARTED)])
    assert offsets(perform(store, operations_of(store).recover("none", None)).events) == [1]
