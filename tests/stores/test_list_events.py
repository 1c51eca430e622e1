"""``list_events`` since a ``seq``: exactly the events whose seq is over it, however the seqs of the lanes go.

``seq`` is the producer's: lanes count for themselves, begin again, stand still. However little of the run a store
reads, its answer is that of a plain list.
"""

from __future__ import annotations

import itertools
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from purpose_agent.runtime.checkpoint import SQLiteCheckpointer as PurposeAgentStore

from runstream import (
    ConfigurationError,
    CorruptRecordError,
    DrainWorker,
    EventsArchived,
    PAEvent,
    SQLiteCheckpointer,
    TieredCheckpointer,
    connect,
)
from runstream.model.events import HIGHEST_SEQ
from runstream.repair.restore import put_back
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend, Store
from tests.support.decoding import note_decoded
from tests.support.drain_tools import Hot, first_hot, open_hot, put_raw
from tests.support.exhaustive import ROUNDS
from tests.support.kinds import on_every_backend
from tests.support.random_runs import lose_redis
from tests.support.samples import make_event, make_events, make_state

LANES = ("main", "a", "b")
numbers = itertools.count(1)
lanes = st.sampled_from(LANES)
seqs = st.integers(-3, 30) | st.sampled_from([2**53, 2**53 + 1, 10**15 - 1, 10**15, HIGHEST_SEQ, -(2**63)])
steps_up = st.integers(0, 3)
# the seq of each event: any, or so much over that of its lane before, as it is with most producers
drafts = st.lists(st.tuples(lanes, steps_up | st.tuples(seqs)), min_size=1, max_size=12)


def written(run_id: str, batch: list[Any], lasts: dict[str, int]) -> list[PAEvent]:
    """The events of a batch, whose seqs go on from ``lasts``."""
    events = []
    for lane, seq in batch:
        lasts[lane] = seq[0] if isinstance(seq, tuple) else min(lasts.get(lane, 0) + seq, HIGHEST_SEQ)
        events.append(make_event(run_id, lasts[lane], lane_id=lane))
    return events


def asked(events: list[PAEvent]) -> list[int]:
    """Numbers to ask for: those of the events, those around them, and some others."""
    near = {event.seq + step for event in events for step in (-1, 0, 1)}
    return sorted({-1, 0, 1, 10**30, *near})


def over(events: list[PAEvent], since_seq: int) -> list[PAEvent]:
    """The contract, word for word."""
    return [event for event in events if since_seq <= 0 or event.seq > since_seq]


@pytest.mark.exhaustive
@pytest.mark.one_in(4)
@given(batches=st.lists(drafts, min_size=1, max_size=4), how=st.sampled_from(["one", "many", "keys"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_the_answer_is_that_of_a_plain_list(store: Store, batches: list[Any], how: str) -> None:
    run_id = f"r{next(numbers)}"
    events: list[PAEvent] = []
    lasts: dict[str, int] = {}
    for batch in batches:
        new = written(run_id, batch, lasts)
        events += new
        if how == "many":
            store.save_events(new)
        elif how == "one":
            for event in new:
                store.save_event(event)
        else:  # some of which are known, when they come again with others
            keys = [f"k{next(numbers)}" for _ in new]
            store.append(run_id, new[:3], keys=keys[:3])
            store.append(run_id, new, keys=keys)
    for since_seq in asked(events):
        assert store.list_events(run_id, since_seq) == over(events, since_seq), since_seq


@pytest.mark.exhaustive
@pytest.mark.one_in(12)
@on_every_backend
def test_a_long_run_is_read_over_many_pages(store: Store) -> None:
    """A lane that ended long ago, one that began late, one that began again."""
    early = make_events("r", 700, lane_id="early")
    middle = make_events("r", 900)
    late = make_events("r", 600, first=100, lane_id="late")
    again = make_events("r", 50)
    for events in (early, middle, late):
        store.save_events(events)
    for since_seq in (1, 99, 650, 699, 700, 899, 900):
        assert store.list_events("r", since_seq) == over(early + middle + late, since_seq)
    store.save_events(again)
    for since_seq in (1, 45, 99, 650, 900):
        assert store.list_events("r", since_seq) == over(early + middle + late + again, since_seq)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seqs of the events that are decoded."""
    return note_decoded(monkeypatch)


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
def test_of_a_long_run_only_what_is_asked_for_is_decoded(store: Store, decoded: list[int]) -> None:
    """What a JSONL archive reads begins at one of every 64 offsets."""
    for first in range(1, 10_000, 1000):
        store.save_events(make_events("r", 1000, first=first))
    decoded.clear()
    assert [event.seq for event in store.list_events("r", 9_990)] == list(range(9_991, 10_001))
    assert 10 <= len(decoded) <= 10 + 64


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_an_archive_reports_a_record_that_may_be_of_any_seq(
    redis_backend: RedisBackend, archives: list[Archive], kind: str
) -> None:
    """As long as it is kept aside, only what comes before is known not to be over the number."""
    hot, archive = open_hot(redis_backend), archives[kind == "jsonl"]
    hot.save_events(make_events("r", 3))
    put_raw(hot, "r", lambda record: record[:-1])
    hot.save_events(make_events("r", 200, first=4))
    DrainWorker(hot, [archive]).drain_once()
    for since_seq in (1, 3, 150, 300):
        with pytest.raises(CorruptRecordError) as caught:
            archive.list_events("r", since_seq)
        assert caught.value.offset == 4


@pytest.mark.parametrize("by", ["us", "purpose-agent"])
def test_a_file_without_the_index_gets_it(tmp_path: Path, by: str) -> None:
    """One of version 0.1.0. purpose-agent has the same index."""
    path = tmp_path / "a.db"
    with SQLiteCheckpointer[Any, Any](path) as store:
        store.save_events(make_events("r", 5))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP INDEX idx_events_run")
    if by == "purpose-agent":
        PurposeAgentStore(str(path))
    with SQLiteCheckpointer[Any, Any](path) as store:
        assert [event.seq for event in store.list_events("r", 3)] == [4, 5]
    assert [event.seq for event in PurposeAgentStore(str(path)).list_events("r", 3)] == [4, 5]


# -- in Redis, an archive and both, while a drain trims

moves = st.lists(
    st.one_of(
        st.tuples(st.just("append"), drafts),
        st.tuples(st.just("append"), drafts),
        st.tuples(st.just("snapshot"), st.sampled_from([None, None, *LANES])),
        st.tuples(st.just("drain"), st.sampled_from(["covered", "covered", "archived", "never"])),
        st.tuples(st.just("lose"), st.booleans()),
    ),
    min_size=1,
    max_size=10,
)


class Tiers:
    """One run in Redis and an archive, and the plain list of its events."""

    def __init__(self, backend: RedisBackend, archive: Archive) -> None:
        self.run_id = f"r{next(numbers)}"
        self.backend, self.archive = backend, archive
        self.hot: Hot = open_hot(backend)
        self.events: list[PAEvent] = []
        self.lasts: dict[str, int] = {}

    def append(self, batch: list[Any]) -> None:
        new = written(self.run_id, batch, self.lasts)
        self.hot.save_events(new)
        self.events += new

    def snapshot(self, lane_id: str | None) -> None:
        tiered = TieredCheckpointer(self.hot, self.archive)
        if self.events:
            tiered.recover(self.run_id, lane_id=lane_id)
            tiered.save_snapshot(self.run_id, make_state(self.run_id), lane_id=lane_id)

    def drain(self, trim: Any) -> None:
        report = DrainWorker(self.hot, [self.archive], trim=trim, batch=5).drain_once()
        assert report.parked == 0

    def lose(self, whole: bool) -> None:
        if self.events:
            self.drain("never")
            self.hot = lose_redis(self.backend)
            put_back(self.hot, self.archive, self.run_id, whole=whole)

    def check(self) -> None:
        """Redis alone answers exactly where nothing of the answer has left it."""
        events, run_id = self.events, self.run_id
        if not events:
            return
        tiered = TieredCheckpointer(self.hot, self.archive)
        gone = events[: first_hot(self.hot, run_id) - 1]
        for since_seq in asked(events):
            expected = over(events, since_seq)
            assert tiered.list_events(run_id, since_seq) == expected
            if over(gone, since_seq):
                with pytest.raises(EventsArchived) as caught:
                    self.hot.list_events(run_id, since_seq)
                assert caught.value.first_hot == len(gone) + 1
            else:
                assert self.hot.list_events(run_id, since_seq) == expected


def check_script(redis_backend: RedisBackend, archive: Archive, script: list[Any]) -> None:
    tiers = Tiers(redis_backend, archive)
    for move, argument in script:
        getattr(tiers, move)(argument)
        tiers.check()
    tiers.drain("never")
    for since_seq in asked(tiers.events):
        assert tiers.archive.list_events(tiers.run_id, since_seq) == over(tiers.events, since_seq)
    tiers.hot = lose_redis(redis_backend)  # the archive keeps what it has of this run


_FUNCTION_SCOPED = [HealthCheck.function_scoped_fixture]


@pytest.mark.exhaustive
@given(script=moves)
@settings(suppress_health_check=_FUNCTION_SCOPED, max_examples=5)
def test_redis_answers_exactly_where_it_has_all_of_the_answer(
    redis_backend: RedisBackend, archives: list[Archive], script: list[Any]
) -> None:
    check_script(redis_backend, archives[0], script)


@pytest.mark.exhaustive
@pytest.mark.one_in(1, exhaustively=2)
@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
@given(script=moves)
@settings(suppress_health_check=_FUNCTION_SCOPED, max_examples=20 * ROUNDS)
def test_redis_answers_exactly_where_it_has_all_of_many_answers(
    redis_backend: RedisBackend, archives: list[Archive], kind: str, script: list[Any]
) -> None:
    check_script(redis_backend, archives[kind == "jsonl"], script)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("since_seq", ["x", 1.5, None, b"1"])
@on_every_backend
def test_a_number_to_ask_for_is_a_whole_one(store: Store, since_seq: Any) -> None:
    store.save_events(make_events("r", 2))
    with pytest.raises(ConfigurationError, match=r"since_seq=.*: pass a whole number"):
        store.list_events("r", since_seq)


class Sparse:
    """An event class that keeps all but its run to itself."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields
        self.run_id = fields["run_id"]

    def to_dict(self) -> dict[str, Any]:
        return dict(self._fields)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Sparse:
        return cls(fields)


@pytest.mark.parametrize("url", ["memory:", "fake:", "sqlite:x.db", "jsonl:x"])
def test_an_event_class_may_have_its_fields_in_its_dict_alone(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with connect(url, event_type=Sparse) as store:
        store.save_events([Sparse(event.to_dict()) for event in make_events("r", 3)])
        assert [event.to_dict()["seq"] for event in store.list_events("r", 1)] == [2, 3]


def test_an_event_class_without_a_seq_is_refused_by_name(tmp_path: Path) -> None:
    class Without(Sparse):
        def to_dict(self) -> dict[str, Any]:
            return {name: value for name, value in self._fields.items() if name != "seq"}

    with SQLiteCheckpointer[Any, Any](tmp_path / "x.db") as store:
        store.save_events(make_events("r", 3))
    with (
        SQLiteCheckpointer[Any, Any](tmp_path / "x.db", event_type=Without) as other,
        pytest.raises(ConfigurationError, match="Without has no seq"),
    ):
        other.list_events("r", 1)
