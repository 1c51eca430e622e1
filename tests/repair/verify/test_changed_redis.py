"""Whatever is changed in Redis is found, and named with its offset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.repair.verify.world import KINDS, R, World, change
from tests.support.samples import make_event


def replace_stream(world: World, change_entries: Callable[[list[Any]], None]) -> None:
    entries = world.backend.raw.xrange(world.keys.events)
    change_entries(entries)
    world.backend.raw.delete(world.keys.events)
    for entry_id, fields in entries:
        world.backend.raw.xadd(world.keys.events, fields, id=entry_id)


def flip(at: int) -> Callable[[list[Any]], None]:
    def act(entries: list[Any]) -> None:
        entry_id, fields = entries[4]
        record = bytearray(fields[b"e"])
        record[at] ^= 1
        entries[4] = (entry_id, {b"e": bytes(record)})

    return act


def other_chain(entries: list[Any]) -> None:
    entries[4] = (entries[4][0] + b"1", entries[4][1])


def other_record(entries: list[Any]) -> None:
    entries[4] = (entries[4][0], entries[5][1])


def meta(field: str, value: str | None) -> Callable[[World], object]:
    if value is None:
        return lambda world: world.backend.raw.hdel(world.keys.meta, field)
    return lambda world: world.backend.raw.hset(world.keys.meta, field, value)


def of_snapshot(field: str, value: str) -> Callable[[World], object]:
    return lambda world: world.backend.raw.hset(world.keys.run_snapshot, field, value)


def forget_that_it_is_due(world: World) -> None:
    world.hot.save_event(make_event("r", 17))
    world.backend.raw.delete(world.keys.partition.due)


def fall_unnoticed(world: World) -> None:
    world.hot.save_event(make_event("r", 2))
    world.backend.raw.hset(world.keys.meta, "lane:main", "21 +2")


def cover_too_much(world: World) -> None:
    of_snapshot("offset", "30")(world)
    token = world.backend.raw.hget(world.keys.run_snapshot, "token").decode()
    world.backend.raw.hset(world.keys.meta, "snapshot", f"30 1 {token}")


# Redis begins at 11, and its fifth entry is 15
REDIS: dict[str, tuple[Callable[[World], object], int | None, str]] = {
    "an entry removed": (lambda world: replace_stream(world, lambda entries: entries.pop(4)), 15, "missing"),
    "the last removed": (lambda world: replace_stream(world, lambda entries: entries.pop()), 20, "missing"),
    "another record": (lambda world: replace_stream(world, other_record), 15, "its chain is of"),
    "a bit of the checksum": (lambda world: replace_stream(world, flip(2)), 15, "its chain is of"),
    "another chain": (lambda world: replace_stream(world, other_chain), 15, "its chain is of"),
    "one too many": (
        lambda world: world.backend.raw.xadd(world.keys.events, {"e": b"x"}, id="21-5"),
        20,
        "more or fewer",
    ),
    "last": (meta("last", "20-5"), 20, ""),
    "an earlier last": (meta("last", "15-5"), None, ""),
    "a later last": (meta("last", "25-5"), 21, "missing"),
    "start": (meta("start", "0-5"), 0, "from the start"),
    "mark": (meta("mark", "20-5"), 20, "mark"),
    "an earlier mark": (meta("mark", "5-5"), 5, "mark"),
    "no mark": (meta("mark", None), 0, "mark"),
    "a mark of the future": (meta("mark", "25-5"), None, ""),
    "nonsense": (meta("last", "nonsense"), 0, "form"),
    "no status": (meta("status", None), 0, "form"),
    "another status": (meta("status", "failed"), 20, "status"),
    "a lane's end": (meta("lane:side", "13 3"), 14, "lane 'side'"),
    "a lane's seq": (meta("lane:main", "20 99"), 20, "lane 'main'"),
    "a lane that is noted to rise": (fall_unnoticed, 21, "noted to rise"),
    "no lane": (meta("lane:main", None), 20, "lane 'main'"),
    "a lane that is not": (meta("lane:more", "17 3"), 17, "lane 'more'"),
    "a lane of the future": (meta("lane:more", "27 3"), 27, "lane 'more'"),
    "from where to recover": (meta("since:main", "18"), 15, "would be trimmed"),
    "nothing to recover": (meta("since:main", None), 15, "would be trimmed"),
    "trimmed": (meta("trimmed", "13"), 11, "noted as trimmed"),
    "trimmed, with its highest seq": (meta("peak", "12 99"), 11, "noted as trimmed"),
    "a snapshot's note": (meta("snapshot", "10 1 other"), 10, "snapshot of the run"),
    "a snapshot's offset": (of_snapshot("offset", "11"), 11, "snapshot of the run"),
    "a snapshot of the future": (
        cover_too_much,
        30,
        "covers what is not there",
    ),
    "a state": (of_snapshot("=current_step", "x"), 20, "does not read"),
    "no snapshot": (lambda world: world.backend.raw.delete(world.keys.run_snapshot), 20, "does not read"),
    "a key": (lambda world: world.backend.raw.hset(world.keys.keys, "k1", "13-5"), 11, "key 'k1'"),
    "no keys": (lambda world: world.backend.raw.delete(world.keys.keys), 11, "key 'k1'"),
    "not listed": (lambda world: world.backend.raw.zrem(world.keys.partition.runs, "r"), 20, "list of runs"),
    "not in its session": (
        lambda world: world.backend.raw.zrem(world.keys.partition.session("s"), "r"),
        20,
        "its session",
    ),
    "not due": (
        forget_that_it_is_due,
        21,
        "not due",
    ),
}


@pytest.mark.one_in(16)
@pytest.mark.parametrize("name", REDIS)
def test_what_was_changed_in_redis_is_found(world: World, name: str) -> None:
    act, offset, what = REDIS[name]
    act(world)
    verdict = world.verify()
    difference = verdict.difference
    assert difference is not None
    assert what in difference.what, difference
    assert offset is None or difference.offset == offset, difference
    assert world.verify(hot=False).is_sound


def test_a_flipped_bit_in_redis_is_a_difference_where_an_archive_has_the_event(world: World) -> None:
    """Alone it is a record that does not read, and counted; both sides are named."""
    replace_stream(world, flip(-1))
    (alone,) = world.verify(archives="none").checked
    assert (alone.events, alone.quarantined) == (10, 1)
    assert world.verify(archives="none").is_sound
    for archives in KINDS:
        difference = world.verify(archives=archives).difference
        assert difference is not None
        assert (difference.offset, difference.what) == (15, "the event is not the same")
        sides = dict(difference.sides)
        assert "do not read" in sides["Redis"]
        assert '"n":11' in next(has for who, has in sides.items() if who != "Redis")


def test_the_first_difference_is_the_one_with_the_lowest_offset(world: World) -> None:
    """Whoever has it."""
    replace_stream(world, flip(2))
    change(world, f"UPDATE events SET chain = 1 WHERE {R} AND offset = 17")
    difference = world.verify().difference
    assert difference is not None
    assert (difference.offset, difference.sides[0][0]) == (15, "Redis")
    change(world, f"UPDATE events SET chain = 1 WHERE {R} AND offset = 12")
    difference = world.verify().difference
    assert difference is not None
    assert (difference.offset, difference.sides[0][0]) == (12, world.archives[0].location)
