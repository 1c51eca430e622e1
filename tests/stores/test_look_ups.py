"""What every store does with look-ups: offsets by the callers' keys, events by their offsets."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.model.archive_records import ArchiveEntry, RunBatch, RunHeader
from runstream.model.errors import ConfigurationError, CorruptRecordError, EncodingError, InvalidRunId
from runstream.model.results import Cursor
from runstream.operations.look_ups import spans_of
from tests.support.archive_check import Archive
from tests.support.backends import Store
from tests.support.kinds import on_every_backend
from tests.support.samples import make_event, make_events


@on_every_backend
def test_find_gives_the_offset_of_each_key(store: Store) -> None:
    """In the order of the keys, one as often as it is asked for; None for one that the run does not know."""
    store.append("r", make_events("r", 3), keys=["a", None, "c"])
    store.append("other", make_events("other", 1), keys=["b"])
    assert store.find("r", ["c", "b", "a", "c"]) == [3, None, 1, 3]
    assert store.find("r", iter(["a"])) == [1]
    assert store.find("r", []) == []
    assert store.find("nowhere", ["a", "b"]) == [None, None]
    assert store.run_info("nowhere") is None


def test_the_first_event_with_a_key_is_found(store: Store) -> None:
    store.append("r", make_events("r", 2), keys=["k", "k"])
    store.append("r", make_events("r", 1), keys=["k"])
    assert store.find("r", ["k"]) == [1]


def test_a_reader_finds_keys_while_another_holds_the_lease(live: Store) -> None:
    live.append("r", make_events("r", 1), keys=["a"])
    with live.lease("r", owner="writer") as lease:
        lease.append("r", make_events("r", 1, first=2), keys=["b"])
        assert live.find("r", ["b", "a"]) == [2, 1]


def test_what_can_be_no_key_is_refused(store: Store) -> None:
    no_keys: list[Any] = ["abc", [1], [None], ["x" * 513], 7]
    for keys in no_keys:
        with pytest.raises(EncodingError):
            store.find("r", keys)


def test_read_at_gives_the_events_in_the_order_asked_for(store: Store) -> None:
    store.save_events(make_events("r", 30))
    by_offset = {item.offset: item for item in store.read("r")}
    for offsets in ([7], [30, 1, 2, 2, 29], [*range(1, 31)], [*range(30, 0, -2)], []):
        assert store.read_at("r", iter(offsets)) == [by_offset[offset] for offset in offsets]


@settings(max_examples=30)
@given(offsets=st.lists(st.integers(1, 40)))
def test_spans_are_of_these_offsets_alone(offsets: list[int]) -> None:
    spans = spans_of(offsets)
    assert [offset for low, high in spans for offset in range(low + 1, high + 1)] == sorted(set(offsets))
    assert all(former[1] < later[0] for former, later in pairwise(spans))


def test_an_offset_without_an_event_is_named(store: Store) -> None:
    """All of them are, and where the run ends; nothing is given in their place."""
    store.save_events(make_events("r", 3))
    with pytest.raises(ConfigurationError, match=r"'r' has no event at offsets 4, 9: it has 1 to 3"):
        store.read_at("r", [9, 2, 4])
    with pytest.raises(ConfigurationError, match=r"'nowhere' has no event at offset 1: it has none"):
        store.read_at("nowhere", [1])
    assert store.run_info("nowhere") is None


def test_what_can_be_no_offset_is_refused(store: Store) -> None:
    no_offsets: list[Any] = [[0], [-1], [True], ["1-2"], [1.0]]
    one: Any = 3
    for offsets in no_offsets:
        with pytest.raises(ConfigurationError, match="offsets"):
            store.read_at("r", offsets)
    with pytest.raises(EncodingError, match="pass a list"):
        store.read_at("r", one)
    for ask in (store.find, store.read_at):
        with pytest.raises(InvalidRunId):
            ask("", [])


def test_an_archive_knows_the_keys_of_what_it_keeps_aside(archives: list[Archive]) -> None:
    """The run knows them: whoever repeats that step is not to record it again."""
    start = Cursor(0, 7)
    aside = ArchiveEntry(1, 8, "k", None, b"no event", "it is not an event")
    for archive in archives:
        archive.write([RunBatch(RunHeader("r", start), start, (aside,), ())])
        assert archive.find("r", ["k", "x"]) == [1, None]
        with pytest.raises(CorruptRecordError):
            archive.read_at("r", [1])


def test_a_key_and_its_event_are_one(store: Store) -> None:
    """What find tells, read_at gives."""
    store.append("r", [make_event("r", seq) for seq in range(1, 4)], keys=["a", "b", "c"])
    found = [offset for offset in store.find("r", ["c", "a"]) if offset is not None]
    assert [item.event.seq for item in store.read_at("r", found)] == [3, 1]
