"""What tasks write after a checkpoint is found whenever it came, in the order in which LangGraph applies it."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
from langgraph.checkpoint.base import WRITES_IDX_MAP, writes_sort_key
from langgraph.checkpoint.memory import InMemorySaver

from runstream import connect
from runstream.integrations.langgraph import RunstreamSaver
from runstream.integrations.langgraph.saving import put, put_writes
from runstream.operations.operation import Pause
from tests.integrations.langgraph.checkpoints import checkpoint, config_of, new_thread, save
from tests.integrations.langgraph.savers import ALONE, PLACES, Places

STEP: Any = {"source": "loop", "step": 0, "parents": {}}
SPECIAL = sorted(WRITES_IDX_MAP)


def pending(saver: Any, thread_id: str, checkpoint_id: str | None = None) -> Any:
    """What was written after a checkpoint."""
    return saver.get_tuple(config_of(thread_id, checkpoint_id)).pending_writes


def listed(saver: Any, thread_id: str, **options: Any) -> Any:
    """What was written after each checkpoint of a list, by its id."""
    found = saver.list(config_of(thread_id), **options)
    return {each.checkpoint["id"]: each.pending_writes for each in found}


@pytest.mark.parametrize("name", ALONE)
def test_what_is_written_after_a_checkpoint_is_found_whenever_it_comes(name: str, places: Places) -> None:
    with places.sync(name) as saver:
        thread_id = new_thread()
        first = save(saver, thread_id, {"x": 0}, -1)
        ahead = checkpoint({"x": 1}, {"x": 2})
        saver.put_writes(config_of(thread_id, ahead["id"]), [("x", "before it is there")], "a")
        saver.put_writes(config_of(thread_id, first), [("x", "in time")], "b")
        saver.put(config_of(thread_id, first), ahead, STEP, {"x": 2})
        saver.put_writes(config_of(thread_id, first), [("x", "after the next one")], "c")
        saver.put_writes(config_of(thread_id, ahead["id"]), [("x", "in time")], "d")
        last = save(saver, thread_id, {"x": 2}, 1, ahead["id"])

        expected = {
            first: [("b", "x", "in time"), ("c", "x", "after the next one")],
            ahead["id"]: [("a", "x", "before it is there"), ("d", "x", "in time")],
            last: [],
        }
        with places.sync(name) as other:
            for each in (saver, *([other] if name != "memory" else [])):
                assert {known: pending(each, thread_id, known) for known in expected} == expected
                assert listed(each, thread_id) == expected
                before = listed(each, thread_id, before=config_of(thread_id, last))
                assert before == {known: expected[known] for known in (ahead["id"], first)}


def test_what_was_written_before_the_latest_checkpoint_was_there_is_pending(places: Places) -> None:
    with places.sync("memory") as saver:
        thread_id, ahead = new_thread(), checkpoint({"x": 1}, {"x": 1})
        saver.put_writes(config_of(thread_id, ahead["id"]), [("x", 1)], "a")
        saver.put(config_of(thread_id), ahead, STEP, {"x": 1})
        assert pending(RunstreamSaver(saver.store), thread_id) == [("a", "x", 1)]


def test_what_is_written_while_its_checkpoint_is_being_saved_is_pending() -> None:
    with connect("memory:") as store:
        saver = RunstreamSaver(store)
        thread_id, ahead = new_thread(), checkpoint({"x": 1}, {"x": 1})
        context = saver._context
        append = context.operations.append
        begun: list[threading.Thread] = []

        def appending(run_id: str, events: Any, options: Any) -> Any:
            if not begun:  # it is the checkpoint's own
                writing = (config_of(thread_id, ahead["id"]), [("x", "meanwhile")], "a")
                begun.append(threading.Thread(target=saver.put_writes, args=writing))
                begun[0].start()
                begun[0].join(0.2)  # it has all the time it wants
            return append(run_id, events, options)

        context.operations.append = appending  # type: ignore[method-assign]
        saver.put(config_of(thread_id), ahead, STEP, {"x": 1})
        begun[0].join()
        assert pending(RunstreamSaver(store), thread_id) == [("a", "x", "meanwhile")]


def test_what_a_subgraph_wrote_after_the_checkpoint_to_replay_from_is_part_of_its_history(places: Places) -> None:
    with places.sync("memory") as saver:
        thread_id = new_thread()
        below = save(saver, thread_id, {"x": 0}, -1, namespace="child:1")
        above = save(saver, thread_id, {"x": 0}, -1)
        saver.put_writes(config_of(thread_id, below, "child:1"), [("x", "later")], "a")
        found = saver.list(config_of(thread_id, None, "child:1"), before=config_of(thread_id, above), limit=1)
        assert [(each.checkpoint["id"], each.pending_writes) for each in found] == [(below, [("a", "x", "later")])]


def test_what_a_subgraph_saved_before_the_checkpoint_of_its_own_step_came_is_of_that_step(places: Places) -> None:
    with places.sync("memory") as saver:
        thread_id = new_thread()
        first = save(saver, thread_id, {"x": 0}, -1)
        earlier = save(saver, thread_id, {"x": 0}, -1, namespace="child", parents={"": first})
        above = checkpoint({"x": 1}, {"x": 2})
        save(saver, thread_id, {"x": 1}, 0, earlier, namespace="child", parents={"": above["id"]})
        saver.put(config_of(thread_id, first), above, STEP, {"x": 2})
        for before, expected in ((above["id"], [earlier]), (first, [])):
            found = saver.list(config_of(thread_id, None, "child"), before=config_of(thread_id, before), limit=1)
            assert [each.checkpoint["id"] for each in found] == expected


def finish(operation: Any, step: Any) -> None:
    """Make the step that an operation waits for, and all that come after it."""
    try:
        while True:
            step = operation.send(None if isinstance(step, Pause) else step.make())
    except StopIteration:
        return


def test_what_is_being_written_when_its_checkpoint_is_saved_is_pending() -> None:
    with connect("memory:") as store:
        saver, thread_id, ahead = RunstreamSaver(store), new_thread(), checkpoint({"x": 1}, {"x": 1})
        writing = put_writes(saver._context, config_of(thread_id, ahead["id"]), [("x", "in flight")], "a", "")
        sent: Any = next(writing)
        saving = put(saver._context, config_of(thread_id), ahead, STEP, {"x": 1})
        step: Any = next(saving)  # it looks what is there
        step = saving.send(step.make())
        finish(writing, sent)
        finish(saving, step)
        assert pending(RunstreamSaver(store), thread_id) == [("a", "x", "in flight")]


@pytest.mark.parametrize("is_writing_first", [True, False])
def test_what_is_written_after_a_checkpoint_while_the_next_one_is_being_saved_is_found(
    is_writing_first: bool,
) -> None:
    with connect("memory:") as store:
        saver, thread_id = RunstreamSaver(store), new_thread()
        first, after = save(saver, thread_id, {"x": 0}, -1), checkpoint({"x": 1}, {"x": 2})
        writing = put_writes(saver._context, config_of(thread_id, first), [("x", "in flight")], "a", "")
        saving = put(saver._context, config_of(thread_id, first), after, STEP, {"x": 2})
        if is_writing_first:
            sent, step = next(writing), next(saving)
            assert isinstance(step, Pause)
            finish(writing, sent)
            finish(saving, step)
        else:
            step, sent = next(saving), next(writing)
            finish(saving, step)
            finish(writing, sent)
        for each in (saver, RunstreamSaver(store)):
            assert pending(each, thread_id, first) == [("a", "x", "in flight")]
            assert listed(each, thread_id) == {first: [("a", "x", "in flight")], after["id"]: []}


@pytest.mark.parametrize("seed", range(5))
def test_pending_writes_are_those_of_langgraphs_own_saver_in_the_order_of_paths(seed: int, places: Places) -> None:
    dice = random.Random(seed)
    with places.sync("memory") as saver:
        reference, thread_id = InMemorySaver(), new_thread()
        made = checkpoint({"x": 1}, {"x": 1})
        for each in (saver, reference):
            each.put(config_of(thread_id), made, STEP, {"x": 1})
        for count in range(30):
            task, path = dice.choice("abcd"), dice.choice(["", "~1", "~10", "~2"])
            channels = dice.choices(["x", "y", *SPECIAL], k=dice.randrange(1, 4))
            writes = [(channel, f"{count}-{index}") for index, channel in enumerate(channels)]
            for each in (saver, reference):
                each.put_writes(config_of(thread_id, made["id"]), writes, task, path)
        assert pending(saver, thread_id) == pending(reference, thread_id)
        assert writes_sort_key("~1", "a", 0) < writes_sort_key("~2", "a", 0)


@pytest.mark.parametrize("name", PLACES)
def test_the_log_says_which_checkpoint_is_the_latest_and_no_clock(name: str, places: Places) -> None:
    with places.sync(name) as saver:
        thread_id, parent = new_thread(), None
        ids = [f"{number:04}" for number in (5, 3, 9, 1)]  # a clock went back between them
        for step, made in enumerate(ids):
            values = checkpoint({"x": step}, {"x": step + 1}, made)
            metadata: Any = {**STEP, "step": step}
            saver.put(config_of(thread_id, parent), values, metadata, {"x": step + 1})
            parent = made
        latest = saver.get_tuple(config_of(thread_id))
        assert latest is not None
        assert latest.checkpoint["id"] == ids[-1]
        assert [found.checkpoint["id"] for found in saver.list(config_of(thread_id))] == ids[::-1]
        before = saver.list(config_of(thread_id), before=config_of(thread_id, ids[2]))
        assert [found.checkpoint["id"] for found in before] == [ids[1], ids[0]]


@pytest.mark.parametrize("name", ["memory", "fake", "sqlite"])
def test_a_saver_that_may_hold_nothing_gives_the_same(name: str, places: Places) -> None:
    with places.sync(name) as opened:
        saver = RunstreamSaver(opened.store, cache_bytes=0)
        threads, expected = [new_thread() for _ in range(3)], {}
        parents: dict[str, str | None] = dict.fromkeys(threads)
        for turn in range(12):
            for thread_id in threads:
                values = {"messages": [f"{thread_id} {each}" for each in range(turn + 1)]}
                parents[thread_id] = save(saver, thread_id, values, turn - 1, parents[thread_id])
                saver.put_writes(config_of(thread_id, parents[thread_id]), [("messages", [turn])], "task")
                expected[parents[thread_id]] = values
        for thread_id in threads:
            found = list(saver.list(config_of(thread_id)))
            assert [each.checkpoint["channel_values"] for each in found] == [
                expected[each.checkpoint["id"]] for each in found
            ]
            assert [each.pending_writes for each in found] == [
                [("task", "messages", [turn])] for turn in range(11, -1, -1)
            ]
