"""The connection that the tasks of an event loop share: whose reply is whose, whatever becomes of it."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import redis.asyncio

from runstream import StoreUnavailable, connect_async
from runstream.operations.operation import Exchange, Replies
from runstream.stores.redis.connection import shared_connection
from runstream.testing import Fault, FaultProxy
from tests.support.samples import make_event
from tests.support.servers import Server

MANY = 24


@pytest.fixture(autouse=True)
def leave_nothing(server: Server) -> Iterator[None]:
    yield
    server.raw.flushall()


@asynccontextmanager
async def opened(server: Server, namespace: str, more: str = "", **options: Any) -> AsyncIterator[Any]:
    """An async store that a URL has opened, whose connections have the namespace's name."""
    url = f"{server.url}?namespace={namespace}&client_name={namespace}{more}"
    async with connect_async(url, **options) as store:
        yield store


def of_loop(store: Any) -> Any:
    """What the transport has in the loop that runs."""
    return store._driver._transport._clients.found()


def ask(store: Any, *commands: tuple[Any, ...], **kind: Any) -> Awaitable[Replies]:
    replies: Awaitable[Replies] = store._driver.exchange_once(Exchange(commands, **kind))
    return replies


def clients(server: Server, name: str) -> dict[str, int]:
    """How many commands each connection of that name has sent, by the connection's id."""
    listed: Any = server.raw.client_list()
    return {one["id"]: int(one.get("tot-cmds", 0)) for one in listed if one["name"] == name}


def kill(server: Server, name: str) -> None:
    for number in clients(server, name):
        server.raw.client_kill_filter(_id=number)


def count_writes(store: Any) -> list[int]:
    """The sizes of what is written from now on."""
    transport, sizes = of_loop(store).shared._link._transport, []

    class Counted:
        def write(self, content: bytes) -> None:
            sizes.append(len(content))
            transport.write(content)

    of_loop(store).shared._link._transport = Counted()
    return sizes


def has_ended(link: Any) -> bool:
    return not link.is_taking


async def turn_until(condition: Callable[[], object]) -> None:
    """Let the loop run until that holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nothing else tells of it
            await asyncio.sleep(0)


async def test_what_tasks_ask_at_once_goes_together_and_each_gets_its_own_reply(
    server: Server, namespace: str
) -> None:
    """Of one command or of several, in a transaction or not, taken or refused."""
    async with opened(server, namespace) as store:
        await ask(store, (b"PING",))
        sizes = count_writes(store)

        async def talk(number: int) -> None:
            word = b"%d" % number
            for _ in range(10):
                assert await ask(store, (b"ECHO", word)) == [word]
                assert await ask(store, (b"ECHO", word), (b"ECHO", b"-" + word)) == [word, b"-" + word]
                assert await ask(store, (b"ECHO", word), (b"ECHO", word), atomic=True) == [word, word]
                (refused,) = await ask(store, (b"HGET", f"{{{namespace}}}"), permissive=True)
                assert "wrong number" in str(refused.error)

        await asyncio.gather(*map(talk, range(MANY)))
        assert len(clients(server, namespace)) == 1
        assert len(sizes) < MANY * 40 / 3


async def test_events_of_many_tasks_are_each_there_once(server: Server, namespace: str) -> None:
    """In the order of each task."""
    async with opened(server, namespace) as store:

        async def work(number: int) -> None:
            for seq in range(1, 11):
                await store.append("r", [make_event("r", seq, lane_id=f"{number}")])

        await asyncio.gather(*map(work, range(MANY)))
        found = [item.event async for item in store.read("r")]
        assert len(found) == 10 * MANY
        for number in range(MANY):
            assert [event.seq for event in found if event.lane_id == f"{number}"] == list(range(1, 11))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_who_is_cancelled_takes_nothing_from_others(server: Server, namespace: str, turns: int) -> None:
    """Before anything was written, or while the replies are on their way; what was sent is there once."""
    async with opened(server, namespace) as store:
        events = [make_event("r", seq, lane_id=f"{seq}") for seq in range(MANY)]
        await store.append("r", [make_event("r", 0)])
        link = of_loop(store).shared._link
        tasks = [asyncio.create_task(store.append("r", [event])) for event in events]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() for task in tasks[::3])
        kept = [one for one in done if not isinstance(one, BaseException)]
        assert len({one.first_offset for one in kept}) == len(kept) == MANY - len(tasks[::3])
        for event in events[::3]:
            await store.append("r", [event])  # the same again, as after an error
        lanes = [item.event.lane_id async for item in store.read("r", after=1)]
        assert sorted(lanes, key=int) == [f"{seq}" for seq in range(MANY)]
        assert of_loop(store).shared._link is link
        assert link.bytes_under_way == 0


async def test_a_script_that_the_server_has_forgotten_is_loaded_once(server: Server, namespace: str) -> None:
    """However many tasks need it at the time; so is that of appends that go together. Nothing is applied twice."""
    async with opened(server, namespace) as store:
        await store.append("r", [make_event("r", 0)])
        server.raw.script_flush()
        server.raw.config_resetstat()
        await asyncio.gather(*(store.append("r", [make_event("r", seq)]) for seq in range(1, MANY)))
        stats: Any = server.raw.info("commandstats")
        loads = [one["calls"] for name, one in stats.items() if name in ("cmdstat_script|load", "cmdstat_script")]
        assert loads == [2]
        assert len([item async for item in store.read("r")]) == MANY


@pytest.mark.one_in(3)
@pytest.mark.parametrize("fault", [Fault.DROP_REPLY, Fault.DROP_REQUEST, Fault.CUT_REPLY, Fault.CUT_REQUEST])
async def test_all_that_were_under_way_when_it_breaks_are_sent_again(
    server: Server, namespace: str, fault: Fault
) -> None:
    """Each by its own number: every event is there once, and those of a task are in its order."""
    with FaultProxy(server.url) as proxy:
        async with connect_async(f"{proxy.url}?namespace={namespace}", retry_seconds=20) as store:
            await store.append("r0", [make_event("r0", 0)])

            async def work(number: int) -> None:
                for seq in range(1, 6):
                    await store.append(f"r{number}", [make_event(f"r{number}", seq)])

            proxy.arm(fault, at=3, times=4)
            await asyncio.gather(*map(work, range(MANY)))
            assert proxy.struck >= 2
            for number in range(MANY):
                seqs = [item.event.seq async for item in store.read(f"r{number}")]
                assert seqs == [*([0] if number == 0 else []), 1, 2, 3, 4, 5]


async def test_one_that_the_server_has_closed_is_opened_again_unnoticed(server: Server, namespace: str) -> None:
    """Where nothing was under way: no call fails, be none of them repeated."""
    async with opened(server, namespace, retry_seconds=0) as store:
        for _ in range(5):
            await asyncio.gather(*(ask(store, (b"PING",)) for _ in range(3)))
            kill(server, namespace)
            link = of_loop(store).shared._link
            await turn_until(partial(has_ended, link))
        await ask(store, (b"PING",))
        assert len(clients(server, namespace)) == 1


async def test_what_was_not_written_when_it_closed_is_sent_over_the_next(server: Server, namespace: str) -> None:
    """The server closes what is idle, and its word may come just as something is asked."""
    async with opened(server, namespace, retry_seconds=0) as store:
        await ask(store, (b"PING",))
        asking = asyncio.ensure_future(ask(store, (b"ECHO", b"asked")))
        await asyncio.sleep(0)
        link = of_loop(store).shared._link
        assert link._unwritten
        link.end()
        assert await asking == [b"asked"]


async def test_a_server_that_is_gone_is_told_to_each(server: Server, namespace: str) -> None:
    """Where it cannot be opened, and where it breaks; a server that is back is found again."""
    with FaultProxy(server.url) as proxy:
        async with connect_async(f"{proxy.url}?namespace={namespace}", retry_seconds=0) as store:
            await ask(store, (b"PING",))
            proxy.refuse()
            proxy.cut()
            for _ in range(2):
                failed = await asyncio.gather(*(ask(store, (b"PING",)) for _ in range(5)), return_exceptions=True)
                assert [type(error) for error in failed] == [StoreUnavailable] * 5
            proxy.restore()
            assert await ask(store, (b"PING",)) == [b"PONG"]


async def test_a_silent_server_is_given_up_after_the_timeout(server: Server, namespace: str) -> None:
    """And what it says later is nobody's reply."""
    with FaultProxy(server.url) as proxy:
        url = f"{proxy.url}?namespace={namespace}&socket_timeout=0.2"
        async with connect_async(url, retry_seconds=0) as store:
            await ask(store, (b"PING",))
            proxy.arm(Fault.DELAY, commands=["ECHO"], delay_seconds=60)
            with pytest.raises(StoreUnavailable, match="Timeout"):
                await ask(store, (b"ECHO", b"late"))
            proxy.disarm()
            assert await ask(store, (b"ECHO", b"mine")) == [b"mine"]


async def test_what_is_long_goes_over_connections_of_its_own(
    server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large write, a page of events, and what comes while many bytes are under way."""
    async with opened(server, namespace) as store:
        await store.append("r", [make_event("r", seq, payload={"text": "x" * 2000}) for seq in range(20)])
        link = of_loop(store).shared._link
        asked: list[int] = []
        take = link.ask

        def note(packed: Any) -> Any:
            asked.append(len(packed.content))
            return take(packed)

        monkeypatch.setattr(link, "ask", note)
        await store.append("r", [make_event("r", 20, payload={"text": "x" * 100_000})])
        assert asked == []
        assert len([item async for item in store.read("r", after=10)]) == 11
        pages = len(asked)
        assert pages <= 1  # the first few entries, which tell how large those are that follow
        await ask(store, (b"PING",))
        assert len(asked) == pages + 1
        monkeypatch.setattr(shared_connection, "_MOST_BYTES", 1000)
        replies = await asyncio.gather(*(ask(store, (b"ECHO", b"%0300d" % number)) for number in range(10)))
        assert replies == [[b"%0300d" % number] for number in range(10)]
        assert 1 <= len(asked) - pages - 1 < 10
        assert link.bytes_under_way == 0


async def test_a_server_that_says_something_unasked_is_connected_to_anew(server: Server, namespace: str) -> None:
    """As one that is about to move does: what was asked before gets its reply, the next finds the new place."""
    async with opened(server, namespace, "&protocol=3") as store:
        await ask(store, (b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"NOLOOP"))
        before = of_loop(store).shared._link
        server.raw.set(f"{{{namespace}}}:there", "1")
        await turn_until(partial(has_ended, before))
        replies = await asyncio.gather(*(ask(store, (b"ECHO", b"%d" % number)) for number in range(10)))
        assert replies == [[b"%d" % number] for number in range(10)]
        assert of_loop(store).shared._link is not before
        assert len(clients(server, namespace)) == 1


async def test_where_that_cannot_be_told_from_a_reply_all_goes_over_the_pool(
    server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a hiredis of before 3.2."""
    monkeypatch.setattr(shared_connection, "UNASKED", None)
    async with opened(server, namespace) as store:
        assert await ask(store, (b"PING",)) == [b"PONG"]
        assert of_loop(store).shared is None


async def test_what_is_no_reply_breaks_it(server: Server, namespace: str) -> None:
    """Whoever waits is told, and it is opened anew."""
    async with opened(server, namespace, retry_seconds=0) as store:
        await ask(store, (b"PING",))
        link = of_loop(store).shared._link
        waits = asyncio.ensure_future(ask(store, (b"BLPOP", f"{{{namespace}}}", 5)))
        await turn_until(lambda: link._unanswered)
        for content in (b"?what\r\n",):
            link._buffer[: len(content)] = content
            link.buffer_updated(len(content))
        with pytest.raises(StoreUnavailable, match="no reply"):
            await waits
        assert await ask(store, (b"PING",)) == [b"PONG"]


@pytest.mark.parametrize("moment", ["opening", "asked"])
async def test_closing_the_store_ends_all_that_waits(server: Server, namespace: str, moment: str) -> None:
    """While it is being opened, or while a reply is awaited: nobody waits for ever, and no connection is left."""
    async with opened(server, namespace, retry_seconds=0) as store:
        shared = of_loop(store).shared
        if moment == "opening":
            shared._link.end()
        waits = asyncio.ensure_future(ask(store, (b"BLPOP", f"{{{namespace}}}", 5)))
        await turn_until(lambda: shared._opening if moment == "opening" else shared._link._unanswered)
        await store.close()
        with pytest.raises(StoreUnavailable):
            await waits
        await turn_until(lambda: not clients(server, namespace))


async def test_nobody_complains_of_an_opening_that_nobody_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    """Those who did were cancelled, and then it failed."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = redis.asyncio.Redis(port=silent.getsockname()[1], socket_timeout=0.05)
        shared = shared_connection.SharedConnection(client)
        packed = shared.pack(Exchange([(b"PING",)]))
        assert packed is not None
        asking = asyncio.create_task(shared.ask(packed))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await turn_until(lambda: shared._opening is None)
        gc.collect()
        await shared.close()
        await client.aclose()
    assert not caplog.records


@pytest.mark.parametrize(
    "options", ["max_connections=4", "health_check_interval=1"], ids=["few connections", "health checks"]
)
async def test_a_pool_that_is_to_do_more_keeps_all_to_itself(server: Server, namespace: str, options: str) -> None:
    """Each exchange takes one of its connections."""
    async with opened(server, namespace, f"&{options}") as store:
        assert await ask(store, (b"PING",)) == [b"PONG"]
        assert of_loop(store).shared is None
