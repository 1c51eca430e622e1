"""A server executes the commands of an exchange that is not atomic one by one, and others go on in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from runstream.model.archive_records import ArchiveSnapshot
from runstream.model.errors import StoreUnavailable
from runstream.operations.operation import Exchange
from runstream.stores.redis.connection.slots import slot_of_key
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.operations.admin.restore import put_snapshot
from runstream.stores.redis.scripts.library import SCRIPT
from runstream.stores.redis.scripts.script import script_call
from runstream.testing.simulation.async_server import AsyncOneByOneTransport
from runstream.testing.simulation.choices import Choices
from runstream.testing.simulation.clock import Clock
from runstream.testing.simulation.cluster import SimulatedCluster, SimulatedClusterTransport
from runstream.testing.simulation.loop import Loop
from runstream.testing.simulation.scheduler import Process, Scheduler
from runstream.testing.simulation.server import Done, SimulatedServer, SimulatedTransport

ALWAYS_GOES_ON = (1,)
IS_RESET, IS_KILLED = (0, 1), (0, 0, 1)
RAISES = [(b"INCR", "a"), (b"INCR", "b"), (b"INCR", "c")]
READS = [(b"GET", name) for name in "abc"]


class Play:
    """Exchanges of several processes with one server, or with a cluster, each sent once."""

    def __init__(self, seed: int, interludes: Sequence[int], servers: int = 1) -> None:
        self.scheduler = Scheduler(Clock(), Choices(seed))
        self.server = SimulatedServer(self.scheduler)
        self.server.courses.weights = lambda: interludes
        self.cluster = SimulatedCluster(self.server, servers)
        self.done: list[Done] = []
        self.server.notes.append(self.done.append)
        self.given: dict[str, Any] = {}

    def send(self, name: str, exchange: Exchange) -> None:
        """Let a process send an exchange."""
        process = Process(name)
        way: Any = SimulatedTransport(self.server, process, lambda: [1])
        if len(self.cluster.addresses) > 1:
            way = SimulatedClusterTransport(self.cluster, process, lambda: [1])

        def body() -> None:
            try:
                self.given[name] = way.exchange(exchange)
            except StoreUnavailable as error:
                self.given[name] = error

        self.scheduler.spawn(process, name, body)

    def send_async(self, name: str, exchange: Exchange, seconds: float | None = None) -> None:
        """Let a process send an exchange in an event loop, and cancel it after so many seconds."""
        process = Process(name)
        way = AsyncOneByOneTransport(self.server, SimulatedTransport(self.server, process, lambda: [1]))
        loop = Loop(self.scheduler, process)

        async def sent() -> Any:
            async with asyncio.timeout(seconds):
                return await way.exchange(exchange)

        def body() -> None:
            try:
                self.given[name] = loop.call(sent, name)
            except (StoreUnavailable, TimeoutError) as error:
                self.given[name] = error
            loop.end()

        self.scheduler.spawn(process, name, body)

    def end(self) -> dict[str, Any]:
        """What each got."""
        self.scheduler.run(lambda: False, 1_000)
        self.scheduler.close()
        return self.given

    def values(self) -> list[bytes | None]:
        """What there is in the end."""
        client: Any = self.server.primary.client()
        return list(client.mget("a", "b", "c"))


@pytest.mark.parametrize(("interludes", "atomic"), [(ALWAYS_GOES_ON, False), (ALWAYS_GOES_ON, True), ((), False)])
def test_others_go_on_between_commands_that_are_not_atomic(interludes: Sequence[int], atomic: bool) -> None:
    seen = set()
    for seed in range(40):
        play = Play(seed, interludes)
        play.send("writer", Exchange(RAISES))
        play.send("reader", Exchange(READS, atomic=atomic))
        seen.add(tuple(reply is not None for reply in play.end()["reader"]))
    writes_at_once = not interludes
    in_part = {one for one in seen if len(set(one)) > 1}
    assert {(False,) * 3, (True,) * 3} <= seen
    assert bool(in_part) is not writes_at_once
    if atomic:  # in the order in which they were written, at one moment
        assert in_part <= {(True, False, False), (True, True, False)}
    elif interludes:
        assert (False, True, True) in in_part


@pytest.mark.parametrize("interludes", [IS_RESET, IS_KILLED])
def test_a_part_was_executed_where_the_connection_or_the_process_ends(interludes: Sequence[int]) -> None:
    play = Play(1, interludes)
    play.send("writer", Exchange(RAISES))
    given = play.end()
    assert isinstance(given.get("writer"), StoreUnavailable) is (interludes is IS_RESET)
    assert play.values() == [b"1", None, None]
    assert [done.exchange.commands for done in play.done] == [RAISES[:1]]


def test_a_state_that_was_put_back_in_part_expires() -> None:
    """Nobody knows its key but whoever broke off."""
    snapshot = ArchiveSnapshot(None, 3, 1, "token", '{"a": 1}')
    exchange: Any = next(put_snapshot(Keys("ns", 1), "r", "refilled", snapshot))
    for seed in range(10):
        play = Play(seed, (1, 1))
        play.send("restorer", exchange)
        play.end()
        client: Any = play.server.primary.client()
        assert all(client.pttl(name) > 0 for name in client.scan_iter())


@pytest.mark.parametrize("befall", [SimulatedServer.restart, SimulatedServer.promote])
def test_what_befalls_the_server_in_between_ends_the_connection(befall: Callable[[SimulatedServer], Any]) -> None:
    play = Play(1, ALWAYS_GOES_ON)
    play.server.replicate()
    play.send("writer", Exchange(RAISES))
    play.scheduler.run(lambda: bool(play.done), 1_000)
    befall(play.server)
    assert isinstance(play.end()["writer"], StoreUnavailable)
    assert play.values() == [b"1", None, None]


def test_a_script_that_is_not_known_is_executed_after_the_commands_that_came_behind_it() -> None:
    """They are one exchange: it is made known, and called again, once all the others were executed."""
    play = Play(1, ALWAYS_GOES_ON)
    call = script_call(SCRIPT["report"], ["{x}:workers"], ["a worker", "{}"])
    play.send("writer", Exchange([call, (b"SET", "{x}:a", "1")]))
    assert play.end()["writer"][1] is not None
    assert [done.exchange.commands[0][0] for done in play.done] == [b"SET", b"EVALSHA"]


def test_a_task_of_asyncio_sends_as_a_process_does() -> None:
    """Others go on between its commands, each of which is told to those who judge."""
    play = Play(1, ALWAYS_GOES_ON)
    play.send_async("writer", Exchange(RAISES))
    play.send("reader", Exchange(READS * 20))
    given = play.end()
    assert given["writer"] == [1, 1, 1]
    assert [done.exchange.commands[0] for done in play.done if done.process.name == "writer"] == RAISES
    values = given["reader"]
    assert any(len(set(values[at : at + 3])) > 1 for at in range(0, len(values), 3))


def test_a_part_was_executed_of_what_is_cancelled() -> None:
    executed = set()
    for ticks in (8, *range(26, 56, 2)):
        play = Play(1, ALWAYS_GOES_ON)
        play.send_async("writer", Exchange(RAISES), 0.0001 * ticks)
        play.end()
        executed.add(sum(value is not None for value in play.values()))
    assert executed == {0, 1, 2, 3}


def test_a_slot_that_moves_in_between_takes_the_rest_to_another_server() -> None:
    play = Play(1, ALWAYS_GOES_ON, servers=2)
    names = ["{x}a", "{x}b", "{x}c"]
    slot = slot_of_key(names[0])
    play.send("writer", Exchange([(b"INCR", name) for name in names]))
    play.scheduler.run(lambda: bool(play.done), 1_000)
    owner = play.cluster.owner(slot)
    (other,) = set(play.cluster.addresses) - {owner}
    play.cluster.move(slot, other)
    assert play.end()["writer"] == [1, 1, 1]
