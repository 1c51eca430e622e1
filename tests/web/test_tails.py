"""Streams of one run share what is read and encoded of it, and each gets every event once, in order."""

from __future__ import annotations

import asyncio
import random
import uuid
from contextlib import aclosing
from typing import Any

import pytest

import runstream
from runstream import PAEvent, create_event
from runstream.web import tails
from runstream.web.tails import Framed, Tails


def events(count: int, first: int = 1) -> list[PAEvent]:
    return [create_event("r", "tool.result", seq=seq) for seq in range(first, first + count)]


async def take(items: Any, *, pause: float | None = None) -> list[int]:
    """The offsets that a stream gives until its run has ended."""
    found = []
    async with aclosing(items):
        async for item in items:
            if item is not None:
                found.append(item.offset)
            if pause is not None:
                await asyncio.sleep(pause)
    return found


class Watched:
    """A store whose followers are counted."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.followers = 0
        self.followed = asyncio.Event()

    def read(self, run_id: str, after: int | str) -> Any:
        return self._store.read(run_id, after)

    def follow(self, run_id: str, after: int | str) -> Any:
        self.followers += 1
        self.followed.set()
        return self._store.follow(run_id, after)


async def test_what_comes_is_followed_and_encoded_once_for_all_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, make = list[int](), Framed.of

    def of(item: Any) -> Framed:
        encoded.append(item.offset)
        return make(item)

    monkeypatch.setattr(Framed, "of", of)
    async with runstream.connect_async(f"fake:{uuid.uuid4().hex}") as store:
        await store.append("r", events(5))
        shared, watched = Tails(), Watched(store)
        streams = [asyncio.create_task(take(shared.follow(watched, "r", after, 9.0))) for after in (0, 0, 3, 5)]
        await watched.followed.wait()
        for first in range(6, 26, 4):
            await store.append("r", events(4, first))
        late = asyncio.create_task(take(shared.follow(watched, "r", 2, 9.0)))
        await store.append("r", [create_event("r", "run.finished", seq=99)])
        assert await asyncio.gather(*streams, late) == [list(range(after + 1, 27)) for after in (0, 0, 3, 5, 2)]
        assert encoded == sorted(set(encoded))
        assert watched.followers <= 2  # the late one may come when the run has ended
        assert not shared._tails  # nobody is left


async def test_a_stream_that_falls_behind_reads_by_itself_and_misses_nothing() -> None:
    async with runstream.connect_async(f"fake:{uuid.uuid4().hex}") as store:
        await store.append("r", events(1))
        shared, watched = Tails(), Watched(store)
        slow = shared.follow(watched, "r", 0, 9.0)
        first = await anext(slow)
        assert first is not None
        quick_one = asyncio.create_task(take(shared.follow(watched, "r", 0, 9.0)))
        waiting = asyncio.create_task(anext(slow))
        await watched.followed.wait()
        for number in range(10):
            await store.append("r", events(50, 2 + 50 * number))
        second = await waiting
        assert second is not None
        await store.append("r", [create_event("r", "run.finished", seq=999)])
        assert await quick_one == list(range(1, 503))
        (tail,) = shared._tails.values()
        assert len(tail._kept) <= tails._MOST_EVENTS
        assert [first.offset, second.offset, *await take(slow)] == list(range(1, 503))


async def test_a_tail_waits_while_all_its_streams_are_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "_MOST_EVENTS", 3)
    async with runstream.connect_async(f"fake:{uuid.uuid4().hex}") as store:
        await store.append("r", events(1))
        shared, watched = Tails(), Watched(store)
        slow = shared.follow(watched, "r", 0, 9.0)
        first, waiting = await anext(slow), asyncio.create_task(anext(slow))
        await watched.followed.wait()
        (tail,) = shared._tails.values()
        await store.append("r", events(60, 2))
        second = await waiting
        assert first is not None
        assert second is not None
        last = await anext(aiter(store.read("r", reverse=True)))
        assert tail._count <= 5 < last.offset  # what was given, what is kept, and the one that leaves it behind
        quick = asyncio.create_task(take(shared.follow(watched, "r", 61, 9.0)))
        await store.append("r", [create_event("r", "run.finished", seq=999)])
        assert await quick == [62]
        assert [first.offset, second.offset, *await take(slow)] == list(range(1, 63))


async def test_who_waits_ahead_of_a_tail_is_told_that_it_lives() -> None:
    async with runstream.connect_async(f"fake:{uuid.uuid4().hex}") as store:
        await store.append("r", events(1))
        shared, watched = Tails(), Watched(store)
        there = shared.follow(watched, "r", 1, 0.01)
        assert await anext(there) is None
        ahead = shared.follow(watched, "r", 500, 0.01)
        assert await anext(ahead) is None
        for stream in (ahead, there):
            await stream.aclose()


async def test_what_a_tail_keeps_has_its_bytes_in_both_forms() -> None:
    async with runstream.connect_async(f"fake:{uuid.uuid4().hex}") as store:
        writes = [[0, "said", b"\xa1a"]]
        wrote = create_event("r", "checkpoint.writes", checkpoint="x", task="t", writes=writes)
        await store.append("r", [*events(1), wrote])
        tail = tails._Tail(store, "r", 0, 9.0)
        tail.streams += 1
        async with aclosing(tail.after(0)) as items:
            same, other = await anext(items), await anext(items)
        assert same is not None
        assert other is not None
        assert same.readable is same.frame
        assert other.readable != other.frame
        assert tail._kept_bytes == len(same.frame) + len(other.frame) + len(other.readable)
        await tail.end()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in (1, 2, 3))])
async def test_streams_that_come_and_go_at_any_time_get_each_event_once(seed: int) -> None:
    chance = random.Random(seed)
    async with runstream.connect_async(f"fake:{uuid.uuid4().hex}") as store:
        shared = Tails()
        last = 0
        streams: list[tuple[int, asyncio.Task[list[int]]]] = []
        for _ in range(40):
            match chance.randrange(4):
                case 0 | 1:
                    await store.append("r", events(count := chance.choice([1, 3, 90]), last + 1))
                    last += count
                case 2 if last > 2:
                    after = chance.randrange(last + 1)
                    (item,) = [item async for item in store.read("r", after - 1, limit=1)] if after else [None]
                    begin: int | str = after if item is None or chance.random() < 0.5 else item.cursor
                    offset = after if isinstance(begin, int) else int(begin.partition("-")[0])
                    pause = chance.choice([None, None, 0.0, 0.0001])
                    made = shared.follow(store, "r", begin, 9.0)
                    streams.append((offset, asyncio.create_task(take(made, pause=pause))))
                case 3:
                    await asyncio.sleep(chance.choice([0, 0.002, 0.02]))
        await store.append("r", [create_event("r", "run.finished", seq=last + 1)])
        for offset, stream in streams:
            assert await stream == list(range(offset + 1, last + 2))
        assert not shared._tails
