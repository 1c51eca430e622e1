"""The simulated server: the scripts as they are, over the data structures of fakeredis, and the way to it.

A replica is what the server held a while ago: when it is promoted, what was written since is lost.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext, suppress
from enum import Enum
from functools import partial
from typing import Any, ClassVar

import fakeredis

from runstream.model.errors import StoreUnavailable
from runstream.operations.operation import Exchange, Replies, Wait
from runstream.stores.redis.connection.single import SingleServerTransport
from runstream.stores.redis.scripts.library import SCRIPT
from runstream.testing.simulation.scheduler import Process, Scheduler
from runstream.testing.simulation.story import answered, told

__all__ = ["AsyncSimulatedTransport", "Fate", "SimulatedServer", "SimulatedTransport"]

_BLOCK_SECONDS = 5.0
_LOOK_SECONDS = 0.25


class Fate(Enum):
    """What becomes of a round trip."""

    ARRIVES = "arrives"
    REQUEST_LOST = "its request is lost"
    REPLY_LOST = "its reply is lost"
    KILLED_BEFORE = "the process is killed before it is sent"
    KILLED_AFTER = "the process is killed before the reply comes"
    STOPPED_BEFORE = "the process is stopped before it is sent"
    STOPPED_AFTER = "the process is stopped before the reply comes"
    REQUEST_LATE = "its request comes late"


FATES = list(Fate)
STOPS_SECONDS = (1.0, 40.0, 3600.0)
LATE_SECONDS = (0.02, 1.0, 40.0)


class SimulatedServer:
    """One server, and the replica that follows it."""

    broken: ClassVar[Mapping[str, str]] = {}
    """By the name of a script, what the server has in its place: for tests of whether that is found."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.is_away = False
        self.is_executing = False
        self.is_calm = False  # nobody stands still any more
        self.skew_seconds = 0.0
        self.fake = fakeredis.FakeServer()
        self._replica: Any = None
        self.losses = 0
        self._forget_scripts()

    def execute(self, send: Callable[[], Replies]) -> Replies:
        """Make an exchange, which happens at one moment by the server's clock."""
        if self.is_away:
            raise StoreUnavailable("the simulated server is away")
        self.is_executing = True
        try:
            return send()
        finally:
            self.is_executing = False

    def replicate(self) -> None:
        """Let the replica have all that there is."""
        self._replica = {
            number: copy.deepcopy((database._dict, database._expiry_heap))
            for number, database in self.fake.dbs.items()
        }

    def promote(self) -> None:
        """Let the replica take the server's place."""
        if self._replica is not None:
            for number, (values, heap) in copy.deepcopy(self._replica).items():
                self.fake.dbs[number]._dict, self.fake.dbs[number]._expiry_heap = values, heap
        self._forget_scripts()
        self.losses += 1

    def restart(self) -> None:
        """Let the server come back with its data, and without its scripts."""
        self._forget_scripts()

    def _forget_scripts(self) -> None:
        self.fake.script_cache.clear()
        for name, source in self.broken.items():
            self.fake.script_cache[SCRIPT[name].encode()] = source.encode()


class SimulatedTransport(SingleServerTransport):
    """The way of one process to the server: each round trip has two steps, and a fate.

    Args:
        server: The server.
        process: Whose way it is.
        fates: The weights of the fates, in their order.
    """

    max_block_seconds = _BLOCK_SECONDS

    def __init__(self, server: SimulatedServer, process: Process, fates: Callable[[], list[int]]) -> None:
        super().__init__(fakeredis.FakeRedis(server=server.fake))
        self._server, self._process, self._fates = server, process, fates

    def exchange(self, exchange: Exchange) -> Replies:
        """Send an exchange once, if chance lets it arrive."""
        scheduler = self._server.scheduler
        if not scheduler.is_simulated():
            return self._server.execute(lambda: super(SimulatedTransport, self).exchange(exchange))
        scheduler.step()
        fate = FATES[scheduler.choices.among(self._fates())]
        what = told(exchange)
        scheduler.note(what if fate is Fate.ARRIVES else f"{what}: {fate.value}")
        if fate is Fate.REQUEST_LOST:
            raise StoreUnavailable("the simulated request was lost")
        if fate is Fate.KILLED_BEFORE:
            scheduler.kill(self._process)
        if fate is Fate.STOPPED_BEFORE:
            self._stop()
        if fate is Fate.REQUEST_LATE:
            scheduler.spawn(Process("the network"), "the network", partial(self._deliver_late, exchange, what))
            raise StoreUnavailable("the simulated request is on its way still")
        scheduler.step()
        replies = self._server.execute(lambda: super(SimulatedTransport, self).exchange(exchange))
        if (answer := answered(replies)) and fate is not Fate.REPLY_LOST:
            scheduler.note(answer)
        if fate is Fate.KILLED_AFTER:
            scheduler.kill(self._process)
        if fate is Fate.STOPPED_AFTER:
            self._stop()
        scheduler.step()
        if fate is Fate.REPLY_LOST:
            raise StoreUnavailable("the simulated reply was lost")
        return replies

    def wait(self, wait: Wait) -> bool:
        """Wait a little: whoever waits looks then."""
        self._server.scheduler.wait(min(_LOOK_SECONDS, wait.seconds or _LOOK_SECONDS))
        return True

    def turn(self) -> AbstractContextManager[object]:
        """A simulated server has connections for all."""
        return nullcontext()

    def close(self) -> None:
        """Nothing is open."""

    def _deliver_late(self, exchange: Exchange, what: str) -> None:
        scheduler = self._server.scheduler
        seconds = LATE_SECONDS[scheduler.choices.below(len(LATE_SECONDS))]
        scheduler.wait(seconds, lambda: self._server.is_calm)
        scheduler.note(f"brings what {self._process.name} had sent: {what}")
        with suppress(StoreUnavailable):
            self._server.execute(lambda: super(SimulatedTransport, self).exchange(exchange))

    def _stop(self) -> None:
        scheduler = self._server.scheduler
        seconds = STOPS_SECONDS[scheduler.choices.below(len(STOPS_SECONDS))]
        scheduler.note(f"stands still for {seconds:g} s")
        scheduler.wait(seconds, lambda: self._server.is_calm)


class AsyncSimulatedTransport:
    """The way of an event loop to the server: that of its process, each round trip of which a thread makes.

    Whoever awaits one may be cancelled meanwhile; what was sent arrives all the same, early or late.

    Args:
        way: The way of the process.
    """

    is_fake = True
    max_block_seconds = _BLOCK_SECONDS

    def __init__(self, way: SimulatedTransport) -> None:
        self._way = way

    async def exchange(self, exchange: Exchange) -> Replies:
        """Send an exchange once, if chance lets it arrive."""
        return await asyncio.to_thread(self._way.exchange, exchange)

    async def wait(self, wait: Wait) -> bool:
        """Wait a little: whoever waits looks then."""
        return await asyncio.to_thread(self._way.wait, wait)

    async def turn(self) -> AbstractAsyncContextManager[object]:
        """A simulated server has connections for all."""
        return nullcontext()

    async def close(self) -> None:
        """Nothing is open."""
