"""P2 of a Run: a call that got no reply takes effect once by ``resend``, and what is called after it is new.

On a real server, through the fault proxy: the reply is lost, or the request.
"""

from __future__ import annotations

import asyncio
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from runstream import (
    ConcurrencyConflict,
    DeltaBuffer,
    LeaseLost,
    PAEvent,
    RedisCheckpointer,
    RunStatus,
    SQLiteCheckpointer,
    StoreUnavailable,
    connect,
    connect_async,
)
from runstream.testing import Fault, FaultProxy
from tests.support.backends import Blocking, LoopThread
from tests.support.handles import open_run
from tests.support.samples import make_event
from tests.support.servers import Server, Servers, needs_valkey

pytestmark = needs_valkey


class Rig:
    """A store that goes through a proxy, and one that does not, for a look at what is there."""

    def __init__(self, server: Server, namespace: str, loop: LoopThread | None) -> None:
        self.loop = loop
        self.proxy = FaultProxy(server.url, quiet_seconds=0.001)
        self.proxy.__enter__()
        options: dict[str, Any] = {"namespace": namespace, "retry_seconds": 0}
        self.store: Any
        if loop is None:
            self.store = connect(self.proxy.url, **options)
        else:
            self.store = Blocking(loop, loop.run(_opened(self.proxy.url, options)))
        self.store.save_event(make_event("other"))  # the rights are asked for
        self.plain: Any = RedisCheckpointer(server.raw, namespace=namespace)

    def events(self, run_id: str = "r") -> list[PAEvent]:
        return [item.event for item in self.plain.read(run_id)]

    def log(self, lane_id: str = "main") -> list[tuple[str, int, Any]]:
        """Kind, number and ``n`` of a lane's events."""
        return [
            (str(getattr(event.kind, "value", event.kind)), event.seq, event.payload.get("n"))
            for event in self.events()
            if event.lane_id == lane_id
        ]

    def fail(self, call: Callable[[], Any], fault: Fault, at: int = 1) -> StoreUnavailable:
        """Make a call whose request or reply is lost."""
        self.proxy.arm(fault, at=at)
        with pytest.raises(StoreUnavailable) as raised:
            call()
        assert self.proxy.struck
        self.proxy.reset()
        return raised.value

    def resend(self, error: StoreUnavailable) -> Any:
        assert error.resend is not None
        result = error.resend()
        return result if self.loop is None else self.loop.run(result)

    def close(self) -> None:
        self.store.close()
        self.proxy.close()


async def _opened(url: str, options: dict[str, Any]) -> Any:
    return await connect_async(url, **options)


@pytest.fixture
def server(servers: Servers) -> Server:
    return servers.get("valkey")


@pytest.fixture(params=["sync", "async"])
def rig(request: pytest.FixtureRequest, server: Server, loop_thread: LoopThread, namespace: str) -> Iterator[Rig]:
    rig = Rig(server, namespace, loop_thread if request.param == "async" else None)
    yield rig
    rig.close()
    if left := list(server.raw.scan_iter(f"{{{namespace}*", count=1000)):
        server.raw.delete(*left)


@pytest.fixture(params=[Fault.DROP_REPLY, Fault.DROP_REQUEST], ids=lambda fault: fault.value)
def fault(request: pytest.FixtureRequest) -> Fault:
    found: Fault = request.param
    return found


# what is called, and the kinds, numbers and n of the events that it makes after one that has the number 1
ONE = [("x", {"n": 1})]
CALLS: dict[str, tuple[Callable[[Any], Any], list[tuple[str, int, Any]]]] = {
    "emit": (lambda run: run.emit("x", n=1), [("x", 2, 1)]),
    "emit with a key": (lambda run: run.emit("x", key="k", n=1), [("x", 2, 1)]),
    "emit_many": (lambda run: run.emit_many([("x", {"n": 1}), ("y", {"n": 2}, "k")]), [("x", 2, 1), ("y", 3, 2)]),
    "emit_many with the state": (lambda run: run.emit_many(iter(ONE), checkpoint=True), [("x", 2, 1)]),
    "emit_delta": (lambda run: run.emit_delta("a", n=1), [("text.delta", 2, 1)]),
    "finish": (lambda run: run.finish(n=1), [("run.finished", 2, 1)]),
    "fail": (lambda run: run.fail("bad", n=1), [("run.error", 2, 1)]),
    "checkpoint": (lambda run: run.checkpoint(), []),
    "save_snapshot": (lambda run: run.save_snapshot("r", run.state), []),
    "save_event": (lambda run: run.save_event(make_event("r", 2, payload={"n": 1})), [("agent.progress", 2, 1)]),
}


@pytest.mark.parametrize("options", [{}, {"lease_ttl": 30.0}, {"lane_id": "a", "lease_ttl": 30.0}], ids=repr)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.one_in(16)
def test_what_is_resent_takes_effect_once_and_gives_its_first_result(
    rig: Rig, fault: Fault, name: str, options: dict[str, Any]
) -> None:
    """Also when it is resent twice, and when it had already been sent again before what came next."""
    call, made = CALLS[name]
    lane_id = options.get("lane_id", "main")
    if name == "save_event" and lane_id != "main":
        return
    for is_followed in (False, True):
        rig.plain.delete_run("r")
        rig.store.forget("r")
        with open_run(rig.store, **options) as run:
            run.emit("first", n=0)
            error = rig.fail(partial(call, run), fault)
            log = [("first", 1, 0), *made]
            if is_followed:
                run.emit("next", n=9)
                log.append(("next", len(log) + 1, 9))
            results = [rig.resend(error), rig.resend(error)]
            assert rig.log(lane_id) == log
            assert results[0] == results[1]
            recorded = results[0] if isinstance(results[0], list) else [results[0]]
            if ("emit" in name and name != "emit_delta") or name in {"finish", "fail"}:
                assert [(item.offset, item.event) for item in recorded] == [
                    (offset, event) for offset, event in enumerate(rig.events(), 1) if 1 < offset <= len(made) + 1
                ]
            run.emit("last")
            assert rig.log(lane_id)[-1] == ("last", len(log) + 1, None)


@pytest.mark.parametrize("name", ["emit", "emit_many", "emit_delta"])
def test_a_new_call_is_a_new_event_even_if_it_is_equal(rig: Rig, fault: Fault, name: str) -> None:
    """A heartbeat or a piece of text that comes twice is there twice, in order, and the message says so."""
    arguments: dict[str, Any] = {"emit": "heartbeat", "emit_many": ["heartbeat"], "emit_delta": "ha"}
    run = open_run(rig.store)
    call = partial(getattr(run, name), arguments[name])
    error = rig.fail(call, fault)
    assert "resend()" in str(error)
    assert "another event" in str(error)
    assert "same events again" not in str(error)
    call()
    assert [seq for _, seq, _ in rig.log()] == [1, 2]


def test_the_text_that_was_held_back_is_there_once(rig: Rig, fault: Fault) -> None:
    """Whichever call sent it: its resend sends the text and does what the call was to do."""
    run = open_run(rig.store, deltas=DeltaBuffer(max_milliseconds=60_000))
    run.emit_delta("a", n=1)
    error = rig.fail(run.flush, fault)
    rig.resend(error)
    run.emit_delta("b", n=2)
    error = rig.fail(partial(run.emit, "x", n=3), fault)
    recorded = rig.resend(error)
    assert (recorded.offset, recorded.event.payload) == (3, {"n": 3})
    assert rig.log() == [("text.delta", 1, 1), ("text.delta", 2, 2), ("x", 3, 3)]
    run.close()


@pytest.mark.parametrize("how", ["finish", "fail"])
def test_an_end_may_simply_be_repeated(rig: Rig, fault: Fault, how: str) -> None:
    """It is there once, with the state; another end, or one after something else, is another end."""
    run = open_run(rig.store)
    end: Callable[[], Any] = run.finish if how == "finish" else partial(run.fail, "bad")
    run.emit("first")
    error = rig.fail(end, fault)
    assert run.state.status is RunStatus.PENDING
    recorded = end()
    kind = "run.finished" if how == "finish" else "run.error"
    assert rig.log() == [("first", 1, None), (kind, 2, None)]
    assert (recorded.offset, recorded.event) == (2, rig.events()[1])
    assert rig.resend(error) == recorded
    saved = rig.plain.load_latest("r")
    assert saved.status is (RunStatus.COMPLETED if how == "finish" else RunStatus.FAILED)
    assert run.state.to_dict() == saved.to_dict()
    error = rig.fail(end, fault)
    run.emit("after all")
    end()
    rig.resend(error)
    assert [kind for kind, _, _ in rig.log()] == ["first", kind, kind, "after all", kind]


def test_an_end_is_repeated_though_something_before_it_was_resent(rig: Rig, fault: Fault) -> None:
    """What came before it does not come after it; once its outcome is known, another end is another."""
    run = open_run(rig.store)
    before = rig.fail(partial(run.emit, "x"), fault)
    error = rig.fail(run.finish, fault, at=2)  # the first round trip is that of what came before
    rig.resend(before)
    assert run.finish() == rig.resend(error)
    assert [kind for kind, _, _ in rig.log()] == ["x", "run.finished"]
    run.finish()
    assert [kind for kind, _, _ in rig.log()] == ["x", "run.finished", "run.finished"]


def test_the_state_is_resent_as_it_was(rig: Rig, fault: Fault) -> None:
    """Though its owner has changed it since."""
    run = open_run(rig.store)
    run.state.data["n"] = 1
    error = rig.fail(partial(run.emit_many, ["x"], checkpoint=True), fault)
    run.state.data["n"] = 2
    rig.resend(error)
    assert rig.plain.load_latest("r").data == {"n": 1}
    run.checkpoint()
    assert rig.plain.load_latest("r").data == {"n": 2}
    assert len(rig.events()) == 1


def test_what_is_refused_when_it_is_resent_was_not_written(rig: Rig) -> None:
    """Its lease has passed on meanwhile."""
    run = open_run(rig.store, lease_ttl=30.0)
    run.emit("first")
    error = rig.fail(partial(run.emit, "x"), Fault.DROP_REQUEST)
    lease = run.lease if rig.loop is None else run._store.lease
    released = rig.plain._runner.run(rig.plain._operations.release_lease(lease.grant))
    assert released is None
    for _ in range(2):
        with pytest.raises(LeaseLost):
            rig.resend(error)
    assert [kind for kind, _, _ in rig.log()] == ["first"]


def test_what_cannot_be_resent_yet_can_be_resent_later(rig: Rig, fault: Fault) -> None:
    """The error of a resend that gets no reply carries the same call."""
    run = open_run(rig.store)
    run.emit("first")
    error = rig.fail(partial(run.emit, "x", n=1), fault)
    again = rig.fail(partial(rig.resend, error), fault)
    later = rig.fail(partial(run.emit, "y", n=2), Fault.DROP_REQUEST)  # the one before could not be resolved
    assert rig.resend(later).offset == 3
    assert rig.resend(again).offset == rig.resend(error).offset == 2
    assert rig.log() == [("first", 1, None), ("x", 2, 1), ("y", 3, 2)]


def test_what_a_full_server_refused_is_resent_when_there_is_room_again(rig: Rig, server: Server) -> None:
    """It was not applied, and nothing else is kept of it: its resend sends it anew."""
    run = open_run(rig.store)
    run.emit("first")
    error = rig.fail(partial(run.emit, "x", n=1), Fault.DROP_REQUEST)
    server.raw.config_set("maxmemory", 1)
    try:
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="full"):
                rig.resend(error)
    finally:
        server.raw.config_set("maxmemory", 0)
    assert rig.resend(error).offset == rig.resend(error).offset == 2
    assert rig.log() == [("first", 1, None), ("x", 2, 1)]


def test_an_error_that_was_pickled_has_lost_its_resend(rig: Rig) -> None:
    """It goes to another process, which has not the store."""
    error = rig.fail(partial(open_run(rig.store).emit, "x"), Fault.DROP_REQUEST)
    copy = pickle.loads(pickle.dumps(error))
    assert copy.resend is None
    assert str(copy) == str(error)


@pytest.mark.exhaustive
def test_an_end_that_was_cancelled_is_there_once(servers: Servers, namespace: str) -> None:
    """A task that ran out of time knows as little as one that got no reply."""
    server = servers.get("valkey")

    async def work() -> None:
        with FaultProxy(server.url) as proxy:
            store = await connect_async(proxy.url, namespace=namespace)
            run = await store.open_run("r")
            await run.emit("first")
            proxy.arm(Fault.DELAY, delay_seconds=60)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await run.finish()
            await run.finish()
            await store.close()

    asyncio.run(work())
    plain: Any = RedisCheckpointer(server.raw, namespace=namespace)
    assert [item.event.seq for item in plain.read("r")] == [1, 2]
    plain.delete_run("r")
    server.raw.delete(*server.raw.scan_iter(f"{{{namespace}*"))


# -- stores without a server


def test_a_run_in_an_archive_resends_what_was_not_written(tmp_path: Any) -> None:
    """A number that was given to something else since is not used again."""
    with SQLiteCheckpointer(f"{tmp_path}/a.db", busy_timeout_seconds=0.05) as store:
        run = open_run(store)
        run.emit("first")
        other = sqlite3.connect(f"{tmp_path}/a.db", isolation_level=None)
        for is_followed in (False, True):
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="resend") as raised:
                run.emit("x")
            other.execute("ROLLBACK")
            if is_followed:
                run.emit("next")
            assert raised.value.resend is not None
            assert raised.value.resend() == raised.value.resend()
        other.close()
        assert [item.event.seq for item in store.read("r")] == sorted({item.event.seq for item in store.read("r")})
        assert [item.event.kind for item in store.read("r")] == ["first", "x", "next", "x"]


# -- update_state


def count(state: Any) -> None:
    state.data["count"] = state.data.get("count", 0) + 1


def make_counter() -> Callable[[Any], None]:
    return lambda state: state.data.update(count=state.data.get("count", 0) + 1)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("make", [lambda: count, make_counter, lambda: partial(count)])
def test_a_change_that_is_repeated_is_made_once(rig: Rig, fault: Fault, make: Callable[[], Any]) -> None:
    """And gives the state that it saved, whatever others have saved since."""
    rig.store.update_state("r", make())
    for others in (False, True):
        before = rig.plain.load_latest("r").data["count"]
        rig.fail(lambda: rig.store.update_state("r", make()), fault, at=2)
        if others:
            rig.plain.update_state("r", lambda state: state.data.update(other=1))
        state = rig.store.update_state("r", make())
        assert state.data["count"] == before + 1
        assert rig.plain.load_latest("r").data["count"] == before + 1
    rig.store.update_state("r", make())
    assert rig.plain.load_latest("r").data == {"count": 4, "other": 1}


def test_another_change_is_made_after_the_one_that_got_no_reply(rig: Rig, fault: Fault) -> None:
    """Neither vanishes, and the first is made once when it is repeated after the other."""

    def add(number: int) -> Callable[[Any], Any]:
        return lambda state: state.data.setdefault("numbers", []).append(number) or state

    rig.store.update_state("r", add(0))
    rig.fail(lambda: rig.store.update_state("r", add(1)), fault, at=2)
    rig.store.update_state("r", add(2))
    rig.store.update_state("r", add(1))
    assert rig.plain.load_latest("r").data["numbers"] == [0, 1, 2]


def test_the_same_function_that_makes_another_change_now_is_not_guessed_about(rig: Rig) -> None:
    """It may be the same change with another time in it, or a new one: neither is lost nor made twice unseen."""
    number = 0

    def change(state: Any) -> None:
        state.data["numbers"] = [*state.data.get("numbers", []), number]

    class Counter:
        number = 1

        def change(self, state: Any) -> None:
            state.data["numbers"] = [*state.data.get("numbers", []), self.number]

    counter = Counter()
    rig.store.update_state("r", change)
    rig.fail(lambda: rig.store.update_state("r", counter.change), Fault.DROP_REPLY, at=2)
    counter.number = 2
    with pytest.raises(ConcurrencyConflict, match="made after all, as revision 2"):
        rig.store.update_state("r", counter.change)
    rig.store.update_state("r", counter.change)
    assert rig.plain.load_latest("r").data["numbers"] == [0, 1, 2]
