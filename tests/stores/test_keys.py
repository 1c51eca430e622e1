"""What every store does with callers' keys: an event whose key the run knows is not written again."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.codec.archive_entries import archive_entry
from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.record import record_crc
from runstream.model.archive_records import ArchiveEntry, RunBatch, RunHeader
from runstream.model.errors import (
    ConcurrencyConflict,
    ConfigurationError,
    EncodingError,
    PayloadTooLarge,
    StoreUnavailable,
)
from runstream.model.events import EventKind, PAEvent
from runstream.model.identifiers import MAX_NAME_BYTES
from runstream.model.protocols import Sink
from runstream.model.results import Appended, Cursor, Placement
from runstream.stores.archive.jsonl import JSONLCheckpointer, run_log
from runstream.stores.archive.sqlite import SQLiteCheckpointer, queries
from tests.support.backends import Backend, Store
from tests.support.kinds import on_every_backend, on_every_pair_of_stores
from tests.support.operations import append_each, last_seq
from tests.support.samples import make_event, make_events, make_state

START = Cursor(0, 77)
DAMAGE = "it breaks"

_numbers = itertools.count()


def seqs(store: Store, run_id: str = "r") -> list[int]:
    """What a run holds: its events tell themselves apart by their seq."""
    return [event.seq for event in store.list_events(run_id)]


def offsets(placement: Placement) -> list[int]:
    return [cursor.offset for cursor in placement.cursors]


# -- known keys ------------------------------------------------------------------------------------------


def test_an_event_whose_key_is_known_is_not_written_again(store: Store) -> None:
    """The caller gets the first reply, and the first event stays, whatever the second one says."""
    store.save_events(make_events("r", 2))
    first = store.append("r", [make_event("r", 3)], keys=["k"])
    assert first[:2] == (3, 3)
    store.save_event(make_event("r", 4))
    assert store.append("r", [make_event("r", 99)], keys=["k"]) == first
    assert seqs(store) == [1, 2, 3, 4]


@on_every_backend
def test_a_batch_that_is_sent_again_gets_its_first_places(store: Store) -> None:
    keys = ["a", "b", "c"]
    first = store.append("r", make_events("r", 3), keys=keys)
    store.save_event(make_event("r", 4))
    assert store.append("r", make_events("r", 3), keys=keys) == first
    assert first == Appended(1, 3, [item.cursor for item in store.read("r")][2])
    assert seqs(store) == [1, 2, 3, 4]


def test_of_a_batch_only_what_is_new_is_written(store: Store) -> None:
    store.append("r", make_events("r", 3), keys=["a", None, "b"])
    events = make_events("r", 6, first=11)
    placement = append_each(store, "r", events, keys=["x", "b", None, "a", "y", "b"])
    assert offsets(placement) == [4, 3, 5, 1, 6, 3]
    assert placement.known == {1, 3, 5}
    assert seqs(store) == [1, 2, 3, 11, 13, 15]
    recorded = [Cursor.parse(item.cursor) for item in store.read("r")]
    assert list(placement.cursors) == [recorded[offset - 1] for offset in offsets(placement)]


def test_the_reply_has_the_offsets_of_the_first_and_of_the_last_event(store: Store) -> None:
    """They need not rise: each lies where it lies since its first append."""
    store.append("r", make_events("r", 2), keys=["a", "b"])
    appended = store.append("r", make_events("r", 3, first=11), keys=["b", None, "a"])
    assert appended == Appended(2, 1, next(item.cursor for item in store.read("r")))
    assert store.append("r", make_events("r", 2, first=21), keys=["b", "n"])[:2] == (2, 4)
    assert store.append("r", make_events("r", 2, first=31), keys=["m", "a"])[:2] == (5, 1)
    assert seqs(store) == [1, 2, 12, 22, 31]


def test_a_key_that_is_twice_in_a_batch_is_written_once(store: Store) -> None:
    placement = append_each(store, "r", make_events("r", 4), keys=["k", "other", "k", "k"])
    assert offsets(placement) == [1, 2, 1, 1]
    assert placement.known == {2, 3}
    assert placement.appended[:2] == (1, 1)
    assert seqs(store) == [1, 2]
    assert append_each(store, "r", make_events("r", 1), keys=["k"]).known == {0}


def test_events_without_a_key_are_always_written(store: Store) -> None:
    for number in range(3):
        assert append_each(store, "r", make_events("r", 2), keys=[None, None]).known == frozenset(), number
    store.append("r", make_events("r", 2))
    assert seqs(store) == [1, 2] * 4


def test_an_append_that_knows_no_keys_says_where_each_event_lies(store: Store) -> None:
    placement = append_each(store, "r", make_events("r", 3))
    assert [str(cursor) for cursor in placement.cursors] == [item.cursor for item in store.read("r")]
    assert placement.appended == Appended(1, 3, str(placement.cursors[-1]))
    nothing = append_each(store, "r", [], keys=[])
    assert (nothing.appended, list(nothing.cursors)) == (Appended(4, 3, str(placement.cursors[-1])), [])


def test_a_key_is_known_to_its_own_run_only(store: Store) -> None:
    for run_id in ("r", "s", "r"):
        assert store.append(run_id, [make_event(run_id, 1)], keys=["k"])[:2] == (1, 1)
    assert (seqs(store, "r"), seqs(store, "s")) == ([1], [1])


def test_a_deleted_runs_keys_are_gone_with_it(store: Store) -> None:
    store.append("r", make_events("r", 2), keys=["a", "b"])
    assert store.delete_run("r")
    assert append_each(store, "r", make_events("r", 2, first=5), keys=["c", "b"]).known == frozenset()
    assert seqs(store) == [5, 6]


@on_every_pair_of_stores
def test_a_key_is_known_to_every_other_store(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    first = store.append("r", make_events("r", 2), keys=["a", "b"])
    assert other.append("r", make_events("r", 2), keys=["a", "b"]) == first
    # and what came since the other one looked
    third = other.append("r", [make_event("r", 3)], keys=["c"])
    assert store.append("r", [make_event("r", 3)], keys=["c"]) == third
    assert offsets(append_each(other, "r", make_events("r", 3, first=7), keys=["c", "d", "a"])) == [3, 4, 1]
    assert seqs(store) == seqs(other) == [1, 2, 3, 8]


def test_of_writers_with_the_same_keys_each_event_is_there_once(store: Store) -> None:
    keys = [f"k{number}" for number in range(20)]

    def write(writer: int) -> list[int]:
        ordered = keys[writer:] + keys[:writer]  # each begins elsewhere
        events = [make_event("r", keys.index(key)) for key in ordered]
        one_by_one = [store.append("r", [event], keys=[key]) for event, key in zip(events, ordered, strict=True)]
        return [place.first_offset for place in one_by_one[-writer:] + one_by_one[:-writer]]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(write, range(1, 5)))
    assert all(places == found[0] for places in found), "all of them were told the same places"
    assert sorted(seqs(store)) == list(range(20))


# -- what is not written counts for nothing --------------------------------------------------------------


def test_nothing_is_written_where_all_keys_are_known(store: Store) -> None:
    """Neither a snapshot that goes with them, nor does the expected offset matter: the answer was given before."""
    first = store.append("r", make_events("r", 2), keys=["a", "b"], snapshot=make_state("r", current_step=1))
    before = store.run_info("r")
    again = store.append(
        "r",
        make_events("r", 2),
        keys=["a", "b"],
        snapshot=make_state("r", current_step=2, status="completed"),
        expected_offset=17,
    )
    assert again == first
    snapshot = store.load_snapshot("r")
    assert snapshot is not None
    assert (snapshot.state.current_step, snapshot.revision) == (1, 1)
    assert store.run_info("r") == before


def test_where_something_is_new_the_expected_offset_applies(store: Store) -> None:
    store.append("r", make_events("r", 2), keys=["a", "b"])
    for expected in (0, 1, 3):
        with pytest.raises(ConcurrencyConflict) as refused:
            store.append("r", make_events("r", 2), keys=["b", "new"], expected_offset=expected)
        assert (refused.value.expected, refused.value.actual) == (expected, 2)
    assert seqs(store) == [1, 2]
    placement = append_each(store, "r", make_events("r", 2, first=5), keys=["b", "new"], expected_offset=2)
    assert offsets(placement) == [2, 3], "what was refused before had left no key behind"


def test_what_is_new_goes_with_its_snapshot(store: Store) -> None:
    store.append("r", make_events("r", 2), keys=["a", "b"])
    state = make_state("r", current_step=3)
    store.append("r", make_events("r", 3, first=2), keys=["b", "c", "a"], snapshot=state)
    snapshot = store.load_snapshot("r")
    assert snapshot is not None
    assert (snapshot.offset, snapshot.state.current_step) == (3, 3), "of the three events one was new"
    assert store.recover("r").events == []


def test_to_know_a_key_is_not_to_know_what_was_written(two_stores: tuple[Store, Store]) -> None:
    """A writer whose events others have written already has not made its state from what else they wrote."""
    ours, theirs = two_stores
    theirs.append("r", make_events("r", 3), keys=["a", None, "b"])
    ours.append("r", make_events("r", 2), keys=["b", "c"], snapshot=make_state("r"))
    snapshot = ours.load_snapshot("r")
    assert snapshot is not None
    assert snapshot.offset == 0
    assert [item.event.seq for item in ours.recover("r").events] == [1, 2, 3, 2]


def test_known_events_do_not_hide_what_others_wrote_in_between(two_stores: tuple[Store, Store]) -> None:
    """What a writer covers ends before the event that it does not know, however many it repeats after it."""
    ours, theirs = two_stores
    ours.append("r", make_events("r", 2), keys=["a", "b"])
    theirs.save_event(make_event("r", 3))
    ours.append("r", make_events("r", 3, first=4), keys=["a", "b", "c"])
    ours.save_snapshot("r", make_state("r"))
    snapshot = ours.load_snapshot("r")
    assert snapshot is not None
    assert snapshot.offset == 2
    assert [item.event.seq for item in ours.recover("r").events] == [3, 6]


def test_a_known_event_does_not_end_a_run_again(store: Store) -> None:
    finished = make_event("r", 2, kind=EventKind.RUN_FINISHED)
    store.append("r", [finished], keys=["end"])
    store.append("r", [make_event("r", 3, kind=EventKind.RUN_STARTED)])
    store.append("r", [make_event("r", 4), finished], keys=["more", "end"])
    info = store.run_info("r")
    assert info is not None
    assert (info.status, info.last_offset) == ("running", 3)


def test_a_known_event_is_not_the_last_of_its_lane(store: Store) -> None:
    store.append("r", [make_event("r", 1, lane_id="b")], keys=["k"])
    store.append("r", [make_event("r", 5, lane_id="b"), make_event("r", 1)], keys=[None, "m"])
    store.append("r", [make_event("r", 9, lane_id="b"), make_event("r", 2)], keys=["k", "n"])
    assert (last_seq(store, "r", "b"), last_seq(store, "r", "main")) == (5, 2)


# -- the seq of a lane's last event ----------------------------------------------------------------------


def test_the_last_seq_of_each_lane_is_told(store: Store) -> None:
    assert last_seq(store, "nobody", "main") == 0
    numbers = {"main": [7, 8], "b": [3], "": [2]}
    store.save_events([make_event("r", seq, lane_id=lane) for lane, seqs in numbers.items() for seq in seqs])
    assert [last_seq(store, "r", lane) for lane in ("main", "b", "", "none")] == [8, 3, 2, 0]
    store.append("r", [make_event("r", 1, lane_id="b")], snapshot=make_state("r"))
    assert [last_seq(store, "r", lane) for lane in ("main", "b")] == [8, 1], "the last one, not the highest"
    store.save_event(make_event("r", 2**63 - 1))
    assert last_seq(store, "r", "main") == 2**63 - 1


def test_the_last_seq_is_known_to_every_other_store(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    store.save_events(make_events("r", 3))
    assert last_seq(other, "r", "main") == 3
    store.save_events(make_events("r", 1, first=4))
    assert last_seq(other, "r", "main") == 4


# -- what a key may be -----------------------------------------------------------------------------------


KEYS = ["", " ", "a b", "ünï日本🎉", "\"\\'", "\x00\n", "x" * MAX_NAME_BYTES, "1-1", "%s{}", "A", "a"]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("key", KEYS)
def test_any_text_of_up_to_512_bytes_is_a_key(store: Store, key: str) -> None:
    """Told apart from every other one."""
    others = [other for other in KEYS if other != key]
    store.append("r", make_events("r", len(others)), keys=others)
    placement = append_each(store, "r", make_events("r", 1, first=77), keys=[key])
    assert (offsets(placement), placement.known) == ([len(KEYS)], frozenset())
    assert append_each(store, "r", make_events("r", 1), keys=[key]).cursors == placement.cursors


@pytest.mark.parametrize("keys", [[], ["a"], ["a", "b", "c"], "ab", 5, iter(["a", "b"])])
def test_another_number_of_keys_than_of_events_is_refused(store: Store, keys: Any) -> None:
    with pytest.raises(ConfigurationError, match="keys"):
        store.append("r", make_events("r", 2), keys=keys)
    assert store.run_info("r") is None


@pytest.mark.parametrize("key", [1, b"k", True, ("k",), "x" * (MAX_NAME_BYTES + 1), "ü" * 257, "\ud800"])
def test_what_cannot_be_a_key_is_refused(store: Store, key: Any) -> None:
    with pytest.raises(EncodingError) as refused:
        store.append("r", make_events("r", 2), keys=["fine", key])
    assert refused.value.path == "key"
    assert store.run_info("r") is None


def test_a_key_counts_to_the_size_of_its_event(backend: Backend) -> None:
    store = backend.open(max_event_bytes=300)
    store.append("r", [make_event("r", 1)], keys=["short"])
    with pytest.raises(PayloadTooLarge):
        store.append("r", [make_event("r", 1)], keys=["x" * 300])


@dataclass
class Marked:
    """An event with a field that a PAEvent has not."""

    fields: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return dict(self.fields)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Marked:
        return cls(fields)


def test_a_key_is_no_part_of_the_event(backend: Backend) -> None:
    """It comes back as it went in, with the fields that only its own class knows, and without the key."""
    store = backend.open(event_type=Marked)
    plain = make_event("r", 1).to_dict()
    events = [Marked(plain), Marked({**plain, "mark": "x"})]
    store.append("r", [*events, *events], keys=["a", "b", None, None])
    assert store.list_events("r") == [*events, *events]


# -- any batches -----------------------------------------------------------------------------------------


class Model:
    """What a run should do with keys: a list of events, and where each key lies in it."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.places: dict[str, int] = {}

    def append(self, numbers: Sequence[int], keys: Sequence[str | None]) -> list[int]:
        """The offset of each event."""
        found = []
        for number, key in zip(numbers, keys, strict=True):
            place = self.places.get(key) if key is not None else None
            if place is None:
                self.seqs.append(number)
                place = len(self.seqs)
                if key is not None:
                    self.places[key] = place
            found.append(place)
        return found


_keys = st.none() | st.sampled_from(["a", "b", "c", "d", "", "e f"])


@pytest.mark.one_in(2)
@settings(max_examples=15)
@given(batches=st.lists(st.lists(_keys, min_size=1, max_size=6), min_size=1, max_size=6))
def test_whatever_batches_are_sent_each_key_is_there_once(store: Store, batches: list[list[str | None]]) -> None:
    run_id, model, number = f"run-{next(_numbers)}", Model(), 0
    for keys in batches:
        events = make_events(run_id, len(keys), first=number + 1)
        before = len(model.seqs)
        expected = model.append([event.seq for event in events], keys)
        placement = append_each(store, run_id, events, keys=keys)
        number += len(keys)
        assert offsets(placement) == expected
        new = {place: index for index, place in reversed(list(enumerate(expected))) if place > before}
        assert placement.known == set(range(len(keys))) - set(new.values())
        assert placement.appended == Appended(expected[0], expected[-1], str(placement.cursors[-1]))
    assert seqs(store, run_id) == model.seqs


# -- archives --------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "jsonl"])
def archive_backend(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> Backend:
    """A store that is an archive as well."""
    return make_backend(request.param)


def entries_of(events: Sequence[PAEvent], keys: Sequence[str | None]) -> list[ArchiveEntry]:
    """What a drain worker makes of these events of run "r"."""
    entries, last = [], START
    for encoded in Codec[Any, Any]().encode_events("r", events, keys):
        last = Cursor(last.offset + 1, next_chain(last.chain, record_crc(encoded.record)))
        entries.append(archive_entry("r", *last, encoded.record))
    return entries


def test_the_keys_that_a_drain_worker_has_archived_are_known(archive_backend: Backend) -> None:
    store = archive_backend.open()
    sink = cast("Sink", store)
    entries = entries_of(make_events("r", 3), ["a", None, "b"])
    sink.write([RunBatch(RunHeader("r", START), START, entries)])
    placement = append_each(store, "r", make_events("r", 3, first=7), keys=["b", "c", "a"])
    assert list(placement.cursors) == [entries[2].cursor, Cursor(4, placement.cursors[1].chain), entries[0].cursor]
    assert seqs(store) == [1, 2, 3, 8]
    assert last_seq(store, "r", "main") == 8


def test_a_key_is_kept_with_its_event_in_the_archive(archive_backend: Backend) -> None:
    store = archive_backend.open()
    keys = ["a", None, 'q"\\ü']
    store.append("r", make_events("r", 3), keys=keys)
    again = cast("Sink", archive_backend.open())
    assert [entry.key for entry in again.read_back("r", 1, 3)] == keys


def test_the_key_is_a_column_and_a_member_of_the_line(tmp_path: Path) -> None:
    with SQLiteCheckpointer[Any, Any](tmp_path / "x.db") as archive:
        archive.append("r", make_events("r", 2), keys=["k", None])
        with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
            rows = connection.execute("SELECT key, data LIKE '%\"k\"%' FROM events ORDER BY offset").fetchall()
    assert rows == [("k", 0), (None, 0)]
    with JSONLCheckpointer[Any, Any](tmp_path / "x") as lines:
        lines.append("r", make_events("r", 2), keys=["k", None])
        texts = (tmp_path / "x" / "r" / "events.jsonl").read_text().splitlines()
    header, *events = [json.loads(text) for text in texts]
    assert "$run" in header
    assert [event.get("$key") for event in events] == ["k", None]


def test_keys_are_found_by_an_index(tmp_path: Path) -> None:
    """An append with keys does not go through the run."""
    with SQLiteCheckpointer[Any, Any](tmp_path / "x.db") as archive:
        archive.append("r", make_events("r", 3), keys=["a", "b", None])
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        (query, _), parameters = queries.entries_with("key", "r", ["a", "b"])
        plan = connection.execute(f"EXPLAIN QUERY PLAN {query}", parameters).fetchall()
    assert [row[3] for row in plan] == ["SEARCH events USING INDEX events_by_key (run_id=? AND key=?)"]


def test_a_file_from_before_there_were_keys_and_leases_gets_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with SQLiteCheckpointer[Any, Any](path) as archive:
        archive.append("r", make_events("r", 2), keys=["a", "b"])
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP INDEX events_by_key; DROP TABLE leases")
    with SQLiteCheckpointer[Any, Any](path) as archive:
        assert archive.append("r", make_events("r", 1), keys=["b"])[:2] == (2, 2)
        with archive.lease("r", owner="a") as lease:
            lease.check()
    with closing(sqlite3.connect(path)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert names >= {"events_by_key", "leases", "leases_by_run"}


def test_a_batch_that_was_taken_back_leaves_no_key_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails after the lines were written: the same batch is sent again, and is there once."""
    with JSONLCheckpointer[Any, Any](tmp_path) as store:
        store.save_event(make_event("r", 1))

        def fail(handle: int) -> None:
            raise OSError(5, DAMAGE)

        with monkeypatch.context() as broken:
            broken.setattr(run_log, "sync", fail)
            with pytest.raises(StoreUnavailable):
                store.append("r", [make_event("r", 2)], keys=["k"])
        assert append_each(store, "r", [make_event("r", 2)], keys=["k"]).known == frozenset()
        assert append_each(store, "r", [make_event("r", 2)], keys=["k"]).known == {0}
        assert seqs(store) == [1, 2]


def test_a_key_that_was_damaged_spoils_only_its_own_line(tmp_path: Path) -> None:
    with JSONLCheckpointer[Any, Any](tmp_path) as store:
        store.append("r", make_events("r", 2), keys=["one", "two"])
    log = tmp_path / "r" / "events.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"$key":"one"', b'"$key":"\\xe"'))
    with JSONLCheckpointer[Any, Any](tmp_path) as store:
        assert [item.event.seq for item in store.read("r", on_corrupt="skip")] == [2]
        assert append_each(store, "r", make_events("r", 1), keys=["two"]).known == {0}
