"""A busy process that forks: ``python -m tests.support.processes.forking HOW URL ARCHIVE FORKS``.

The URL is one of runstream's, or ``client:SOCKET?NAMESPACE`` for a client of redis-py that a caller passes in.

Threads of the parent, or tasks of an event loop in a thread, use one store all the while, so that any lock may be
held at a fork. Each child uses the same store object, and all that hangs on it. Nobody may hang, and everybody
gets the replies to what he sent himself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio

from runstream import (
    AsyncRedisCheckpointer,
    DeltaBuffer,
    LeaseLost,
    PAEvent,
    RedisCheckpointer,
    RunState,
    connect,
    connect_async,
)

_DEADLINE_SECONDS = 20
_AT_ONCE = 4
_FOR_EVER = DeltaBuffer(max_milliseconds=10_000_000)
_CLIENT = "client:"


def in_children(forks: int, child: Callable[[int], None]) -> None:
    """Fork so often, at moments of all kinds; each child does its part within the deadline."""
    for number in range(forks):
        time.sleep(0.0007 * (number % 13))
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(_DEADLINE_SECONDS)
                child(number)
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert ended != -signal.SIGALRM, f"child {number} hung"
        assert ended == 0, f"child {number} ended with {ended}"


def event(run_id: str, number: int) -> PAEvent:
    """An event of that number."""
    return PAEvent(run_id, lane_id="main", seq=number, payload={"n": number})


def state(run_id: str, number: int) -> RunState:
    """A state that says that number."""
    return RunState(run_id, data={"n": number})


class Busy(ABC):
    """A process whose threads or tasks use one store, a lease and a run, and which forks meanwhile."""

    def __init__(self, url: str) -> None:
        self.store: Any = None
        self.run: Any = None
        self.lease: Any = None
        self.has_leases = not url.startswith("jsonl:")
        self.is_shared = not url.startswith(("fake:", "memory:"))  # or each child has a copy of its own
        self.ended = False
        self.failures: list[BaseException] = []

    @abstractmethod
    def begin(self, url: str, archive: str | None) -> None:
        """Open the store, take the lease, open the run, and let it hold text back."""

    @abstractmethod
    def start(self) -> None:
        """Start what uses the store until the end."""

    @abstractmethod
    def child(self, number: int) -> None:
        """What a child does."""

    @abstractmethod
    def end(self) -> list[PAEvent]:
        """End all that was begun; what the run has by then."""

    def check(self, found: list[PAEvent], forks: int) -> None:
        """Check what parent and children have written through the same Run."""
        assert not self.failures, self.failures
        assert sum("text" in one.payload for one in found) == 1, "what the parent held back is there once"
        if self.is_shared:
            assert [one.payload["by"] for one in found[:-1]] == list(range(forks))
            assert [one.seq for one in found[:-1]] == list(range(1, forks + 1)), "each goes on where the lane ends"


def _over_a_client(url: str) -> Any:
    path, _, namespace = url.removeprefix(_CLIENT).partition("?")
    return RedisCheckpointer(redis.Redis(unix_socket_path=path), namespace=namespace)


def _over_an_async_client(url: str) -> Any:
    path, _, namespace = url.removeprefix(_CLIENT).partition("?")
    return AsyncRedisCheckpointer(redis.asyncio.Redis(unix_socket_path=path), namespace=namespace)


class Threads(Busy):
    """One sync store, in threads and in children."""

    def begin(self, url: str, archive: str | None) -> None:
        """Open the store, take the lease, open the run."""
        self.store = _over_a_client(url) if url.startswith(_CLIENT) else connect(url, archive=archive)
        if self.has_leases:
            self.lease = self.store.lease("leased", owner="parent")
        self.run = self.store.open_run("shared", deltas=_FOR_EVER)
        self.run.emit_delta("held back by the parent")

    def start(self) -> None:
        """Start the threads."""
        self.threads = [threading.Thread(target=self._work, args=(f"parent{at}",)) for at in range(_AT_ONCE)]
        for thread in self.threads:
            thread.start()

    def _work(self, run_id: str) -> None:
        written = 0
        try:
            while not self.ended:
                written += 1
                assert self.store.append(run_id, [event(run_id, written)]).first_offset == written
                self.store.save_snapshot(run_id, state(run_id, written))
                if written % 20 == 0:
                    assert sum(1 for _ in self.store.read(run_id)) == written
        except BaseException as error:  # noqa: BLE001 - whatever it is, the process fails by it
            self.failures.append(error)

    def child(self, number: int) -> None:
        """Use all that the parent has."""
        store, run_id = self.store, f"child{number}"
        for offset in (1, 2, 3):
            assert store.append(run_id, [event(run_id, offset)]).first_offset == offset
        store.save_snapshot(run_id, state(run_id, 3))
        assert store.load_latest(run_id).data == {"n": 3}
        assert [found.event.seq for found in store.read(run_id)] == [1, 2, 3]
        if self.lease is not None:
            assert self.lease.lost
            with pytest.raises(LeaseLost):
                self.lease.append("leased", [event("leased", 1)])
            self.lease.release()
            with store.open_run(run_id, lane_id="other", lease_ttl=5) as own:
                assert own.emit("tool.result").offset == 4
        self.run.emit("tool.result", {"by": number})
        self.run.close()
        store.close()

    def end(self) -> list[PAEvent]:
        """End the threads, and give the lease back."""
        self.ended = True
        for thread in self.threads:
            thread.join(_DEADLINE_SECONDS)
            assert not thread.is_alive()
        if self.lease is not None:
            self.lease.check()
            self.lease.release()
        self.run.flush()
        found = [one.event for one in self.store.read("shared")]
        self.store.close()
        return found


class Tasks(Busy):
    """One async store, in the tasks of a loop in a thread, and in children with a loop of their own."""

    def begin(self, url: str, archive: str | None) -> None:
        """Open the store, take the lease, open the run, in the loop."""
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self._there(self._begin(url, archive))

    def _there(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(_DEADLINE_SECONDS)

    async def _begin(self, url: str, archive: str | None) -> None:
        if url.startswith(_CLIENT):
            self.store = _over_an_async_client(url)
        else:
            self.store = await connect_async(url, archive=archive)
        if self.has_leases:
            self.lease = await self.store.lease("leased", owner="parent")
        self.run = await self.store.open_run("shared", deltas=_FOR_EVER)
        await self.run.emit_delta("held back by the parent")

    def start(self) -> None:
        """Start the tasks."""
        works = [self._work(f"parent{at}") for at in range(_AT_ONCE)]
        self.works = [asyncio.run_coroutine_threadsafe(work, self.loop) for work in works]

    async def _work(self, run_id: str) -> None:
        written = 0
        while not self.ended:
            written += 1
            assert (await self.store.append(run_id, [event(run_id, written)])).first_offset == written
            await self.store.save_snapshot(run_id, state(run_id, written))

    def child(self, number: int) -> None:
        """Use all that the parent has, in a loop of its own."""
        asyncio.run(self._child(number))

    async def _child(self, number: int) -> None:
        store, run_id = self.store, f"child{number}"
        for offset in (1, 2, 3):
            assert (await store.append(run_id, [event(run_id, offset)])).first_offset == offset
        await store.save_snapshot(run_id, state(run_id, 3))
        assert [found.event.seq async for found in store.read(run_id)] == [1, 2, 3]
        if self.lease is not None:
            assert self.lease.lost
            with pytest.raises(LeaseLost):
                await self.lease.append("leased", [event("leased", 1)])
            await self.lease.release()
            async with await store.open_run(run_id, lane_id="other", lease_ttl=5) as own:
                assert (await own.emit("tool.result")).offset == 4
        await self.run.emit("tool.result", {"by": number})
        await self.run.close()
        await store.close()

    def end(self) -> list[PAEvent]:
        """End the tasks, give the lease back, and end the loop."""
        self.ended = True
        for work in self.works:
            work.result(_DEADLINE_SECONDS)
        found: list[PAEvent] = self._there(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        return found

    async def _end(self) -> list[PAEvent]:
        if self.lease is not None:
            await self.lease.check()
            await self.lease.release()
        await self.run.flush()
        found = [one.event async for one in self.store.read("shared")]
        await self.store.close()
        return found


def main(how: str, url: str, archive: str, forks: str) -> None:
    """Be busy, and fork."""
    busy = {"threads": Threads, "tasks": Tasks}[how](url)
    busy.begin(url, archive or None)
    busy.start()
    try:
        in_children(int(forks), busy.child)
    finally:
        found = busy.end()
    busy.check(found, int(forks))


if __name__ == "__main__":
    main(*sys.argv[1:])
