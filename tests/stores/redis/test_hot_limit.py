"""``max_hot_events``: an append that would leave too much of a run in Redis is refused, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    ConcurrencyConflict,
    ConfigurationError,
    DrainWorker,
    EventKind,
    LeaseHeld,
    RedisCheckpointer,
    SQLiteCheckpointer,
    StoreUnavailable,
    TooManyHotEvents,
    connect,
)
from runstream.operations.operation import Exchange, Replies
from tests.support.backends import Backend, RedisBackend
from tests.support.kinds import REDIS, short
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import Server

LIMIT = 5
KINDS = [*REDIS, *(f"async-{name}" for name in REDIS if "resp" not in name)]


@pytest.fixture(params=short(KINDS))
def place(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> Backend:
    """A namespace of every kind of server, sync and async."""
    return make_backend(request.param)


@pytest.fixture
def limited(place: Backend) -> Any:
    """A store that lets a run have five events in Redis."""
    return place.open(max_hot_events=LIMIT)


def refused(call: Callable[[], Any], hot_events: int = LIMIT) -> TooManyHotEvents:
    with pytest.raises(TooManyHotEvents) as caught:
        call()
    assert (caught.value.run_id, caught.value.hot_events, caught.value.limit) == ("r", hot_events, LIMIT)
    return caught.value


def test_an_append_beyond_the_limit_is_refused_and_writes_nothing(place: Backend, limited: Any) -> None:
    """Up to the limit it is taken; the error says what to look at, and the run is as it was."""
    limited.append("r", make_events("r", 4))
    assert limited.append("r", make_events("r", 1, first=5))[:2] == (5, 5)
    before = place.footprint()
    writes: list[Callable[[], Any]] = [
        lambda: limited.save_event(make_event("r", 6)),
        lambda: limited.save_events([make_event("r", 6)]),
        lambda: limited.append("r", [make_event("r", 6)]),
        lambda: limited.append("r", [make_event("r", 6)], expected_offset=5, keys=["k"]),
        lambda: limited.append("r", [make_event("r", 6)], snapshot=make_state("r")),
        lambda: limited.append("r", make_events("r", LIMIT)),
    ]
    for write in writes:
        error = refused(write)
        assert "drain worker" in str(error)
        assert "snapshot" in str(error)
        assert "nothing was written" in str(error)
    assert place.footprint() == before
    assert limited.append("other", make_events("other", LIMIT))[:2] == (1, LIMIT)
    assert place.open().append("r", [make_event("r", 6)])[:2] == (6, 6), "it is the store's own limit"


def test_a_batch_that_never_fits_is_to_be_split(limited: Any) -> None:
    error = refused(lambda: limited.append("r", make_events("r", LIMIT + 1)), hot_events=0)
    assert "split it" in str(error)
    assert limited.list_runs() == []


def test_what_writes_nothing_new_gets_its_reply(place: Backend, limited: Any) -> None:
    """Events whose keys are known; of a batch with some of them, only the new ones count."""
    limited.append("r", make_events("r", 4), keys=["a", "b", "c", "d"])
    mixed = limited.append("r", make_events("r", 5), keys=["a", "b", "c", "d", "e"])
    assert mixed[:2] == (1, 5)
    assert limited.append("r", make_events("r", 2), keys=["e", "a"])[:2] == (5, 1)
    refused(lambda: limited.append("r", make_events("r", 2), keys=["a", "f"]))
    assert limited.append("r", [], expected_offset=5)[:2] == (6, 5)


def test_other_refusals_come_first(place: Backend, limited: Any) -> None:
    limited.append("r", make_events("r", 5))
    with pytest.raises(ConcurrencyConflict):
        limited.append("r", [make_event("r", 6)], expected_offset=4)
    with place.open().lease("r", owner="them") as lease:
        with pytest.raises(LeaseHeld):
            limited.append("r", [make_event("r", 6)])
        refused(lambda: limited.append("r", [make_event("r", 6)], lease=lease))


def test_a_snapshot_and_a_drain_are_the_way_out(redis_backend: RedisBackend, tmp_path: Path) -> None:
    """A snapshot alone is never refused; what it covers is archived and trimmed, and the append is taken."""
    limited: Any = redis_backend.open(max_hot_events=LIMIT)
    limited.append("r", make_events("r", 5))
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive:
        worker = DrainWorker(limited, [archive])
        worker.drain_once()
        refused(lambda: limited.save_event(make_event("r", 6)))
        limited.save_snapshot("r", make_state("r"))
        limited.append("r", [], snapshot=make_state("r"), lane_id="main")
        limited.update_state("r", lambda state: state)
        assert worker.drain_once().trimmed == 5
        assert limited.append("r", make_events("r", 5, first=6))[:2] == (6, 10)
        refused(lambda: limited.save_event(make_event("r", 11)))


def test_a_snapshot_alone_is_taken_also_of_a_run_that_has_too_much_already(place: Backend, limited: Any) -> None:
    """A store without a limit has filled it, or the limit was lowered."""
    limited.append("r", make_events("r", 5))
    place.open().append("r", make_events("r", 5, first=6))
    refused(lambda: limited.save_event(make_event("r", 11)), hot_events=10)
    limited.save_snapshot("r", make_state("r", purpose="out"))
    assert limited.load_latest("r").purpose == "out"


class _Line:
    """Loses the reply to the next exchange."""

    def __init__(self, store: Any) -> None:
        driver = store._driver
        self._exchange = driver.exchange_once
        driver.exchange_once = self._lose

    def _lose(self, exchange: Exchange) -> Replies:
        self._exchange(exchange)
        raise StoreUnavailable("the reply was lost")

    def mend(self, store: Any) -> None:
        store._driver.exchange_once = self._exchange


def test_what_was_applied_and_is_sent_again_gets_its_reply(redis_backend: RedisBackend) -> None:
    """Also where the run has all that it may have by now."""
    limited: Any = redis_backend.open(max_hot_events=LIMIT, retry_seconds=0)
    events = make_events("r", 5)
    line = _Line(limited)
    with pytest.raises(StoreUnavailable):
        limited.append("r", events)
    line.mend(limited)
    assert limited.append("r", events)[:2] == (1, 5)
    assert limited.list_events("r") == events


def test_of_a_call_over_several_runs_only_the_one_is_refused(place: Backend, limited: Any) -> None:
    """What was applied is not applied again when the caller repeats the call."""
    limited.append("r", make_events("r", 5))
    events = [make_event("a", 1), make_event("r", 6), make_event("b", 1)]
    for _ in range(2):
        refused(lambda: limited.save_events(events))
    for run_id in "ab":
        assert limited.list_events(run_id) == [event for event in events if event.run_id == run_id]


def test_a_run_and_a_lease_carry_the_refusal_to_their_callers(place: Backend, limited: Any) -> None:
    limited.append("r", make_events("r", 4, lane_id="other"))
    with limited.open_run("r", lease_ttl=30.0) as run:
        run.emit(EventKind.AGENT_PROGRESS)
        refused(lambda: run.emit(EventKind.AGENT_PROGRESS))
        refused(run.finish)
        run.checkpoint()
    with limited.lease("r", owner="us", lane_id="x") as lease:
        refused(lambda: lease.save_event(make_event("r", 1, lane_id="x")))
    assert len(place.open().list_events("r")) == LIMIT


def test_threads_together_stay_within_it(redis_backend: RedisBackend) -> None:
    limited: Any = redis_backend.open(max_hot_events=LIMIT)

    def write(seq: int) -> bool:
        try:
            limited.save_event(make_event("r", seq))
        except TooManyHotEvents:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(write, range(1, 21)))
    assert sum(taken) == len(limited.list_events("r")) == LIMIT


def test_it_costs_nothing_where_nobody_asks_for_it(server: Server, make_backend: Callable[[str], Backend]) -> None:
    """Not even the question how many there are."""
    backend = make_backend(server.name)

    def asked() -> int:
        stats: Any = server.raw.info("commandstats")
        return int(stats.get("cmdstat_xlen", {"calls": 0})["calls"])

    plain, limited = backend.open(), backend.open(max_hot_events=LIMIT)
    plain.save_event(make_event("other", 1))  # before the first write the rights are asked for
    limited.save_snapshot("other", make_state("other"))
    before = asked()
    plain.save_event(make_event("r", 1))
    assert asked() == before
    limited.save_event(make_event("r", 2))
    limited.save_snapshot("r", make_state("r"))
    assert asked() == before + 1


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "10"])
def test_a_limit_that_means_nothing_is_refused(make_backend: Callable[[str], Backend], limit: Any) -> None:
    for name in ("fake", "async-fake"):
        with pytest.raises(ConfigurationError, match="max_hot_events="):
            make_backend(name).open(max_hot_events=limit)


def test_it_stands_in_the_url_of_a_redis_store_and_of_no_other(tmp_path: Path) -> None:
    with connect("fake:?max_hot_events=2") as store:
        assert isinstance(store, RedisCheckpointer)
        store.append("r", make_events("r", 2))
        with pytest.raises(TooManyHotEvents):
            store.append("r", make_events("r", 1))
    with pytest.raises(ConfigurationError, match="whole number"):
        connect("fake:?max_hot_events=many")
    for url in ("memory:", f"sqlite:{tmp_path}/a.db", f"jsonl:{tmp_path}/a"):
        with pytest.raises(ConfigurationError, match="has no option"):
            connect(f"{url}?max_hot_events=2")
        with pytest.raises(ConfigurationError, match="has no option"):
            connect(url, max_hot_events=2)
