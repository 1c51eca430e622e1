"""What type checkers must infer of the public interface. Checked by mypy and basedpyright, never run.

Where a line is to be refused, each has its comment: one that is not needed is an error too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, assert_type

import redis
import redis.asyncio

from runstream import (
    Appended,
    AsyncRedisCheckpointer,
    AsyncRunStore,
    Checkpointer,
    InMemoryCheckpointer,
    JSONLCheckpointer,
    PAEvent,
    Recorded,
    Recovery,
    RedisCheckpointer,
    RunInfo,
    RunState,
    RunStore,
    Snapshot,
    SQLiteCheckpointer,
    Upcasts,
    connect,
    connect_async,
)
from runstream.run import AsyncRun, Run
from runstream.run.lease import AsyncLease, Lease
from runstream.stores.async_facade import AsyncStore
from runstream.stores.facade import SnapshotStore, Store


@dataclass
class MyEvent:
    run_id: str

    def to_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "kind": "mine"}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> MyEvent:
        return cls(fields["run_id"])


@dataclass
class MyState:
    run_id: str

    def to_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> MyState:
        return cls(fields["run_id"])


def default_types(client: redis.Redis) -> None:
    """Nothing said of types: PAEvent and RunState."""
    store: RedisCheckpointer = RedisCheckpointer(client)
    assert_type(store, RedisCheckpointer[PAEvent, RunState])
    assert_type(store.load_latest("x"), RunState | None)
    assert_type(store.list_events("x"), list[PAEvent])
    assert_type(store.read("x"), Iterator[Recorded[PAEvent]])
    assert_type(store.recover("x"), Recovery[RunState, PAEvent])
    assert_type(store.append("x", []), Appended)
    assert_type(store.runs(), Iterator[RunInfo])
    assert_type(RedisCheckpointer(client).load_latest("x"), RunState | None)
    assert_type(RedisCheckpointer(client).list_events("x"), list[PAEvent])
    for item in store.follow("x"):
        assert_type(item.event, PAEvent)
    with store as entered:
        assert_type(entered, RedisCheckpointer[PAEvent, RunState])
    with store.lease("x", owner="me", lane_id="main") as lease:
        assert_type(lease, Lease[PAEvent, RunState])
        assert_type(store.append("x", [], keys=["a", None], lease=lease), Appended)
    with store.open_run("x", lease_ttl=30.0) as run:
        assert_type(run, Run[PAEvent, RunState])
        store.save_snapshot("x", run.state, lease=run)


def connected_types() -> None:
    """``connect`` without types gives a store of PAEvent and RunState, and what it gives has theirs."""
    store = connect("memory:")
    assert_type(store, Store[PAEvent, RunState])
    assert_type(connect(), Store[PAEvent, RunState])
    tiered = connect("redis://localhost", archive="sqlite:a.db", namespace="dev")
    assert_type(tiered, SnapshotStore[PAEvent, RunState])
    assert_type(tiered.snapshot_at("x", 3), Snapshot[RunState] | None)
    assert_type(connect(archive="sqlite:a.db", state_type=MyState), SnapshotStore[PAEvent, MyState])
    for item in store.read("x"):
        assert_type(item.event.lane_id, str)
        print(item.event.lane)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
    with store.open_run("x") as run:
        assert_type(run, Run[PAEvent, RunState])
        assert_type(run.state.purpose, str)
        run.state.porpoise = "x"  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
        run.state.current_step = "1"  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
    store.append("x", [], expected=1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    connect("memory:", namepsace="dev")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    connect("memory:", partitions="4")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]


def types_given_to_connect() -> None:
    """With the types, ``connect`` gives a store of those, and so does all that it gives."""
    store = connect("memory:", event_type=MyEvent, state_type=MyState, max_event_bytes=1000)
    assert_type(store, Store[MyEvent, MyState])
    assert_type(connect("memory:", event_type=MyEvent), Store[MyEvent, RunState])
    assert_type(connect("memory:", event_type=MyEvent, upcasts=Upcasts(1)), Store[MyEvent, RunState])
    assert_type(connect("memory:", state_type=MyState), Store[PAEvent, MyState])
    assert_type(connect("memory:", state_type=dict[str, Any]), Store[PAEvent, dict[str, Any]])
    assert_type(store.read("x"), Iterator[Recorded[MyEvent]])
    assert_type(store.read("x", on_corrupt="skip"), Iterator[Recorded[MyEvent]])
    assert_type(store.read("x", on_corrupt="raw"), Iterator[Recorded[MyEvent | dict[str, Any] | bytes]])
    assert_type(store.recover("x"), Recovery[MyState, MyEvent])
    assert_type(store.update_state("x", lambda state: state), MyState)
    with store.open_run("x") as run, store.lease("x", owner="me") as lease:
        assert_type(run.state, MyState)
        assert_type(run.recovered, Recovery[MyState, MyEvent])
        assert_type(lease, Lease[MyEvent, MyState])
        assert_type(lease.load_latest("x"), MyState | None)
    store.save_event(PAEvent("x"))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    # without event_type= it reads PAEvents, whatever the variable says
    _: Store[MyEvent, MyState] = connect("memory:")  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]


async def types_given_to_connect_async() -> None:
    """``connect_async`` does the same, awaited or entered."""
    assert_type(await connect_async("memory:"), AsyncStore[PAEvent, RunState])
    assert_type(await connect_async("memory:", event_type=MyEvent), AsyncStore[MyEvent, RunState])
    async with connect_async("memory:", event_type=MyEvent, state_type=MyState) as store:
        assert_type(store, AsyncStore[MyEvent, MyState])
        assert_type(store.read("x"), AsyncIterator[Recorded[MyEvent]])
        raw = store.read("x", on_corrupt="raw")
        assert_type(raw, AsyncIterator[Recorded[MyEvent | dict[str, Any] | bytes]])
        assert_type(await store.recover("x"), Recovery[MyState, MyEvent])
        async with store.open_run("x") as run, store.lease("x", owner="me") as lease:
            assert_type(run, AsyncRun[MyEvent, MyState])
            assert_type(run.state, MyState)
            assert_type(lease, AsyncLease[MyEvent, MyState])
            assert_type(await lease.load_latest("x"), MyState | None)
    async with connect_async("memory:") as plain, plain.open_run("x") as run_of_ours:
        assert_type(run_of_ours.state, RunState)
        run_of_ours.state.porpoise = "x"  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
        async for item in plain.follow("x"):
            print(item.event.lane)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
    connect_async("memory:", namepsace="dev")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]


def given_types(client: redis.Redis) -> None:
    """The types that were given are the types that come back."""
    store = RedisCheckpointer(client, event_type=MyEvent, state_type=MyState)
    assert_type(store.load_latest("x"), MyState | None)
    assert_type(store.list_events("x"), list[MyEvent])
    assert_type(store.load_snapshot("x"), Snapshot[MyState] | None)
    assert_type(RedisCheckpointer(client, state_type=MyState).load_latest("x"), MyState | None)
    store.save_event(MyEvent("x"))
    assert_type(store.lease("x", owner="me"), Lease[MyEvent, MyState])
    assert_type(store.open_run("x").state, MyState)
    store.save_event(PAEvent("x"))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    store.save_snapshot("x", RunState("x"))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    store.append("x", [], lease=MyState("x"))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    store.append("x", [], keys=[1])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]


def given_types_in_memory() -> None:
    """The store for tests of agent code knows the types that it was given too, and no other options."""
    store = InMemoryCheckpointer(event_type=MyEvent, state_type=MyState)
    assert_type(store.load_latest("x"), MyState | None)
    assert_type(store.list_events("x"), list[MyEvent])
    assert_type(InMemoryCheckpointer(state_type=MyState).load_latest("x"), MyState | None)
    assert_type(store.lease("x", owner="me"), Lease[MyEvent, MyState])
    assert_type(store.open_run("x"), Run[MyEvent, MyState])
    store.save_event(PAEvent("x"))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    InMemoryCheckpointer(bogus=1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


async def awaited_types(store: AsyncStore[MyEvent, MyState]) -> None:
    """Any store behind ``await`` minds the types as an AsyncRunStore does."""
    plain: AsyncRunStore[MyEvent, MyState] = store
    assert_type(await plain.load_latest("x"), MyState | None)
    assert_type(await store.append("x", [MyEvent("x")], snapshot=MyState("x"), expected_offset=0), Appended)
    await store.append("x", [], snapshot=RunState("x"))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    async with store.lease("x", owner="me") as lease, store.open_run("x", lease_ttl=30.0) as run:
        assert_type(lease, AsyncLease[MyEvent, MyState])
        assert_type(run, AsyncRun[MyEvent, MyState])
        await store.append("x", [MyEvent("x")], keys=["a"], lease=lease)
        await store.update_state("x", lambda state: state, lease=run)
    assert_type(await store.lease("x", owner="me"), AsyncLease[MyEvent, MyState])
    await store.append("x", [], bogus=1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    await store.save_snapshot("x", MyState("x"), lane_id=1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def async_types(client: redis.asyncio.Redis) -> None:
    """The async store gives the same, awaited."""
    store = AsyncRedisCheckpointer(client, state_type=MyState)
    assert_type(await store.load_latest("x"), MyState | None)
    assert_type(await AsyncRedisCheckpointer(client).load_latest("x"), RunState | None)
    assert_type(await AsyncRedisCheckpointer(client).list_events("x"), list[PAEvent])
    assert_type(AsyncRedisCheckpointer(client, event_type=MyEvent).read("x"), AsyncIterator[Recorded[MyEvent]])
    async with store.lease("x", owner="me") as lease:
        assert_type(lease, AsyncLease[PAEvent, MyState])
    assert_type(await store.open_run("x"), AsyncRun[PAEvent, MyState])
    plain: AsyncRunStore = AsyncRedisCheckpointer(client)
    assert_type(await plain.list_runs(), list[str])
    assert_type(await plain.lease("x", owner="me"), AsyncLease[PAEvent, RunState])


def every_store_is_a_run_store(client: redis.Redis) -> list[RunStore[PAEvent, RunState]]:
    """Each may stand where a RunStore, or purpose-agent's Checkpointer, is wanted; so may a Lease and a Run."""
    checkpointer: Checkpointer = InMemoryCheckpointer()
    assert_type(checkpointer.load_latest("x"), RunState | None)
    handles: list[Checkpointer] = [
        RedisCheckpointer(client).lease("x", owner="me"),
        InMemoryCheckpointer().open_run("x"),
    ]
    assert_type(handles, list[Checkpointer[PAEvent, RunState]])
    return [
        RedisCheckpointer(client),
        InMemoryCheckpointer(),
        SQLiteCheckpointer("x.db"),
        JSONLCheckpointer("x"),
        connect("memory:"),
    ]
