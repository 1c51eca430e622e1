"""What Redis does with look-ups: how often it is asked, and what it says of what has left it or is damaged."""

from __future__ import annotations

import pytest

from runstream import AcknowledgedWritesLost, CorruptRecordError, DrainWorker, EventsArchived
from runstream.stores.redis import page_size
from tests.drain.retire.retiring_tools import ended, retire_all
from tests.stores.redis.layout.raw_keys import key_of
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hot, open_hot, put_raw
from tests.support.operations import entries_in, exchanges_in, operations_of
from tests.support.samples import make_event, make_events, make_state
from tests.support.unfinished import leave_entries


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    """A store with a run of 30 events, each with its number as its key."""
    store = open_hot(redis_backend)
    store.append("r", make_events("r", 30), keys=[str(offset) for offset in range(1, 31)])
    return store


def test_few_offsets_take_one_round_trip_and_more_one_for_each_page(hot: Hot, redis_backend: RedisBackend) -> None:
    """Or one for all that fits a page, once it was told how large events may be; nothing between is fetched."""
    many = [*range(2, 31, 2)]
    for store in (hot, open_hot(redis_backend)):
        for offsets, trips in ((many, 2), ([3, 9, 27], 1), (many, 1)):
            found, sent = exchanges_in(store, store._operations.read_at("r", offsets))
            assert [item.offset for item in found] == offsets
            assert len(sent) == trips
            # one more in each may be the one that was seen last
            assert len(offsets) <= sum(map(len, entries_in(sent))) <= len(offsets) + trips
        _, sent = exchanges_in(store, store._operations.find("r", ["4", "none"]))
        assert len(sent) == 1


def test_large_events_come_a_few_at_a_time(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_size, "PAGE_BYTES", 5 * 4096)
    found, sent = exchanges_in(hot, hot._operations.read_at("r", range(30, 0, -1)))
    assert [item.offset for item in found] == [*range(30, 0, -1)]
    assert max(sum(map(len, entries_in([one]))) for one in sent) <= 9


def test_what_has_left_redis_is_named_and_its_keys_stay(hot: Hot, archives: list[Archive]) -> None:
    """Trimmed, retired, and after it was retired and goes on; only a run that is forgotten knows nothing."""
    hot.append("r", ended("r", first=31), keys=["k", None, None, None])
    DrainWorker(hot, archives, trim="archived").drain_once()
    for _ in range(2):
        assert hot.find("r", ["1", "none", "k"]) == [1, None, 31]
        with pytest.raises(EventsArchived, match="events 3 to 34 of run 'r' have left Redis") as caught:
            hot.read_at("r", [34, 3])
        assert caught.value.first_hot == 35
        retire_all(hot, archives)
    hot.append("r", make_events("r", 2, first=35), keys=["late", None])
    assert hot.find("r", ["30", "late"]) == [30, 35]
    assert [item.offset for item in hot.read_at("r", [36, 35])] == [36, 35]
    hot.append("r", ended("r", first=37))
    assert retire_all(hot, archives, forget_after_seconds=0).forgotten == 1
    assert hot.find("r", ["1"]) == [None]
    for archive in archives:
        assert archive.find("r", ["1", "none", "late"]) == [1, None, 35]


def test_what_was_lost_is_not_taken_for_never_appended(hot: Hot, redis_backend: RedisBackend) -> None:
    redis_backend.raw.delete(*redis_backend.raw.keys(key_of(redis_backend, "r", "*")))
    with pytest.raises(AcknowledgedWritesLost):
        hot.find("r", ["1"])
    with pytest.raises(AcknowledgedWritesLost):
        hot.read_at("r", [1])


def test_a_trimmed_event_that_nobody_archived_is_lost(hot: Hot, redis_backend: RedisBackend) -> None:
    redis_backend.raw.xtrim(key_of(redis_backend, "r", "events"), minid="20", approximate=False)
    with pytest.raises(AcknowledgedWritesLost):
        open_hot(redis_backend).read_at("r", [21, 3])


def test_keys_that_were_removed_or_damaged_are_reported(hot: Hot, redis_backend: RedisBackend) -> None:
    """None would say that a step was not recorded."""
    keys = key_of(redis_backend, "r", "keys")
    redis_backend.raw.hset(keys, "3", "no cursor")
    with pytest.raises(CorruptRecordError, match="no cursor") as caught:
        hot.find("r", ["2", "3"])
    assert caught.value.key == keys
    redis_backend.raw.delete(keys)
    with pytest.raises(CorruptRecordError, match="it was removed"):
        hot.find("r", ["2"])


def test_a_damaged_event_is_raised(hot: Hot) -> None:
    put_raw(hot, "r", lambda record: record[:-1] + b"!")
    with pytest.raises(CorruptRecordError, match="event 31"):
        hot.read_at("r", [1, 31])
    assert [item.offset for item in hot.read_at("r", [1])] == [1]


def test_what_a_refused_append_has_left_does_not_count(hot: Hot, redis_backend: RedisBackend) -> None:
    """Nobody was told that it is there; once it is adopted it counts."""
    at = leave_entries(hot, redis_backend.raw, make_events("r", 1, first=31), ["left"])
    redis_backend.raw.hset(key_of(redis_backend, "r", "keys"), "left", str(at))
    reader_of = open_hot(redis_backend)
    assert reader_of.find("r", ["left"]) == [None]
    with pytest.raises(Exception, match="no event at offset 31"):
        reader_of.read_at("r", [31])
    hot.save_event(make_event("r", 32))
    assert reader_of.find("r", ["left"]) == [31]


def test_large_events_that_a_snapshot_covers_do_not_come_with_it(redis_backend: RedisBackend) -> None:
    """Whether it was told that they are large or not; what comes after it does."""
    store = open_hot(redis_backend)
    events = [make_event("large", offset, payload={"text": "x" * 70_000}) for offset in range(1, 6)]
    store.append("large", events[:3], snapshot=make_state("large"))
    sizes = []
    for each in (store, store, open_hot(redis_backend)):
        found, sent = exchanges_in(each, operations_of(each).recover("large", None))
        assert (found.offset, found.events) == (3, [])
        sizes.append(sum(len(repr(replies)) for _, replies in sent))
    assert max(sizes) < 2 * 70_000  # one may be what was seen last
    store.append("large", events[3:])
    for each in (store, open_hot(redis_backend)):
        assert [item.offset for item in each.recover("large").events] == [4, 5]
