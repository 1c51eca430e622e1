"""What purpose-agent's own tests check of its checkpointers, its bus and its adapters, with ours in their place.

Each check is made with its types and with those of runstream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import purpose_agent.runtime as their_types
import pytest
from purpose_agent.protocols.agui import AGUIAdapter
from purpose_agent.runtime.event_bus import parallel_merge
from purpose_agent.streaming_v3 import pa_event_to_stream_event

import runstream
from runstream.integrations.purpose_agent import StoreBus, connect
from tests.support.drain_tools import drain_to
from tests.support.servers import needs_embedded_server

pytestmark = pytest.mark.exhaustive

URLS = [
    "memory:{dir}",
    "sqlite:{dir}/runs.db",
    "jsonl:{dir}/runs",
    "fake:{dir}",
    "fake:{dir} sqlite:{dir}/archive.db",
    "fake:{dir} jsonl:{dir}/archive",
    pytest.param("embedded:{dir} sqlite:{dir}/archive.db", marks=needs_embedded_server),
]
TYPES: dict[str, tuple[Any, Any]] = {"theirs": (their_types, connect), "ours": (runstream, runstream.connect)}


class Kit(NamedTuple):
    """Stores at one place, of one family of types. Opening one again is a restart, with a drain before it."""

    types: Any
    open: Callable[[], Any]


@pytest.fixture(params=list(TYPES))
def types(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=URLS, ids=lambda urls: urls.replace("{dir}", ""))
def kit(request: pytest.FixtureRequest, types: str, tmp_path: Path) -> Iterator[Kit]:
    url, *archives = request.param.format(dir=tmp_path).split()
    library, open_at = TYPES[types]
    with ExitStack() as opened:

        def open_one() -> Any:
            for archive in archives:
                drain_to(url, archive, retire_after_seconds=0.0)
            options = {"archive": archives[0]} if archives else {}
            return opened.enter_context(open_at(url, **options))

        yield Kit(library, open_one)


def progress(kit: Kit, run_id: str, seq: int, kind: str = "AGENT_PROGRESS", **fields: Any) -> Any:
    return kit.types.create_event(run_id, kit.types.EventKind[kind], seq=seq, **fields)


# -- checkpoints -------------------------------------------------------------------------------------


def test_a_flow_that_was_interrupted_goes_on_at_its_next_node(kit: Kit) -> None:
    state, store = kit.types.RunState(run_id="flow", purpose="five nodes", max_steps=5), kit.open()
    for step in (1, 2):
        state.mark_node_started(f"node_{step}")
        state.mark_node_completed(f"node_{step}", output={"result": f"done_{step}"})
        state.current_step = step
        store.save_event(progress(kit, "flow", step, "AGENT_FINISHED", node=f"node_{step}"))
    store.save_snapshot("flow", state)
    restored = kit.open().load_latest("flow")
    assert (restored.current_step, restored.completed_nodes) == (2, ["node_1", "node_2"])
    restored.mark_node_started("node_3")
    assert restored.current_node == "node_3"


def test_a_tool_that_has_run_is_not_run_again(kit: Kit) -> None:
    state = kit.types.RunState(run_id="tool", current_step=1)
    key = state.get_idempotency_key("calculator", "2+2")
    assert not state.has_cached_result(key)
    state.cache_result(key, "4")
    kit.open().save_snapshot("tool", state)
    restored = kit.open().load_latest("tool")
    assert restored.get_idempotency_key("calculator", "2+2") == key
    assert (restored.has_cached_result(key), restored.get_cached_result(key)) == (True, "4")


def test_what_a_person_changes_in_a_pause_is_kept(kit: Kit) -> None:
    status = kit.types.RunStatus
    state = kit.types.RunState(run_id="review", status=status.RUNNING, data={"approval": None})
    store = kit.open()
    store.save_snapshot("review", state)
    state.status = status.PAUSED
    store.save_snapshot("review", state)
    person = kit.open()
    loaded = person.load_latest("review")
    assert loaded.status == status.PAUSED
    loaded.data["approval"], loaded.status = "approved", status.RUNNING
    person.save_snapshot("review", loaded)
    final = store.load_latest("review")
    assert (final.data["approval"], final.status) == ("approved", status.RUNNING)


def test_all_is_there_after_a_restart(kit: Kit) -> None:
    store = kit.open()
    store.save_snapshot("r", kit.types.RunState(run_id="r", current_step=7, data={"progress": "midway"}))
    for seq in range(1, 6):
        store.save_event(progress(kit, "r", seq))
    again = kit.open()
    restored = again.load_latest("r")
    assert (restored.current_step, restored.data) == (7, {"progress": "midway"})
    assert ([event.seq for event in again.list_events("r")], again.list_runs()) == ([1, 2, 3, 4, 5], ["r"])


def test_the_events_are_the_transcript(kit: Kit) -> None:
    store = kit.open()
    for seq in range(1, 11):
        store.save_event(progress(kit, "r", seq, message=f"step {seq}"))
    for each in (store, kit.open()):
        events = each.list_events("r")
        assert [(event.seq, event.payload) for event in events] == [
            (seq, {"message": f"step {seq}"}) for seq in range(1, 11)
        ]
        assert [event.seq for event in each.list_events("r", since_seq=5)] == [6, 7, 8, 9, 10]


def test_a_state_comes_back_as_it_was(kit: Kit) -> None:
    state = kit.types.RunState(
        run_id="r", session_id="s", status=kit.types.RunStatus.PAUSED, purpose="all of it", current_node="node_2"
    )
    state.current_step, state.data, state.completed_nodes = 3, {"key": "value"}, ["node_1"]
    state.mark_node_started("node_2")
    state.cache_result("tool:calc:2+2", "4")
    kit.open().save_snapshot("r", state)
    assert kit.open().load_latest("r") == state


# -- the bus and the adapters ------------------------------------------------------------------------


@pytest.fixture
def bus(kit: Kit) -> Iterator[StoreBus[Any]]:
    with StoreBus(kit.open(), max_queue_size=3) as opened:
        yield opened


def test_lanes_are_apart_and_in_order(kit: Kit, bus: StoreBus[Any]) -> None:
    lanes = ["a", "b", "c"]
    for seq in range(1, 11):
        for lane_id in lanes:
            bus.emit(progress(kit, "r", seq, lane_id=lane_id, message=f"{lane_id} {seq}"))
    for lane_id in lanes:
        found = bus.replay(run_id="r", lane_id=lane_id)
        assert [(event.lane_id, event.seq) for event in found] == [(lane_id, seq) for seq in range(1, 11)]
        assert [event.payload for event in found] == [{"message": f"{lane_id} {seq}"} for seq in range(1, 11)]
    merged = parallel_merge({lane_id: bus.replay(run_id="r", lane_id=lane_id) for lane_id in lanes})
    assert len(merged) == 30
    assert [event.ts for event in merged] == sorted(event.ts for event in merged)


def test_an_agent_that_fails_ends_no_other(kit: Kit, bus: StoreBus[Any]) -> None:
    for lane_id, end in (("a", "AGENT_FINISHED"), ("b", "AGENT_ERROR"), ("c", "AGENT_FINISHED")):
        bus.emit(progress(kit, "r", 1, "AGENT_STARTED", lane_id=lane_id))
        bus.emit(progress(kit, "r", 2, end, lane_id=lane_id))
    ends = {lane_id: bus.replay(run_id="r", lane_id=lane_id)[-1].kind for lane_id in ("a", "b", "c")}
    kinds = kit.types.EventKind
    assert ends == {"a": kinds.AGENT_FINISHED, "b": kinds.AGENT_ERROR, "c": kinds.AGENT_FINISHED}


def test_hidden_chain_of_thought_is_not_recorded(kit: Kit, bus: StoreBus[Any]) -> None:
    bus.emit(progress(kit, "r", 1, "REASONING_SUMMARY", summary="check the edges first"))
    bus.emit(progress(kit, "r", 2, "REASONING_SUMMARY", hidden_chain_of_thought="secret"))
    assert (bus.history_size, [event.seq for event in bus.replay("r")]) == (1, [1])


async def test_a_slow_subscriber_is_given_the_end(kit: Kit, bus: StoreBus[Any]) -> None:
    received: list[int] = []

    async def consume() -> None:
        async for event in bus.subscribe():
            received.append(event.seq)
            await asyncio.sleep(0.001)

    consumer = asyncio.create_task(consume())
    await asyncio.sleep(0)
    for seq in range(20):
        bus.emit(progress(kit, "r", seq, "TEXT_DELTA", text=f"w{seq}"))
    bus.emit(progress(kit, "r", 99, "RUN_FINISHED", result="done"))
    async with asyncio.timeout(20):
        await consumer
    assert received == [*range(20), 99]


def test_the_adapters_take_what_was_recorded(kit: Kit, bus: StoreBus[Any]) -> None:
    hidden = {"visibility": kit.types.Visibility.DEBUG}
    bus.emit(progress(kit, "r", 1, "RUN_STARTED", purpose="test"))
    bus.emit(progress(kit, "r", 2, "TEXT_DELTA", text="hello"))
    bus.emit(progress(kit, "r", 3, **hidden))
    started, text, debug = bus.replay("r")
    legacy: Any = pa_event_to_stream_event(started)
    assert legacy.event_type == "task_start"
    converted: Any = AGUIAdapter().convert(text)
    assert (converted.type, AGUIAdapter().convert(debug)) == ("text.delta", None)
