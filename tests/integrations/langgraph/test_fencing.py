"""Of two who write one thread, one is refused, and the thread never forks: in processes, and in one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from runstream import ConcurrencyConflict, LeaseHeld, LeaseLost
from runstream.integrations.langgraph import RunstreamSaver
from runstream.integrations.langgraph.loading import get_tuple
from runstream.integrations.langgraph.saving import put
from tests.integrations.langgraph.checkpoints import checkpoint, config_of, ids_of, new_thread, save
from tests.integrations.langgraph.savers import ALONE, Places
from tests.support.kinds import REAL

ROUNDS = 20


@pytest.mark.parametrize("name", REAL[:1])
@pytest.mark.parametrize("is_new", [True, pytest.param(False, marks=pytest.mark.exhaustive)])
def test_of_two_processes_on_one_thread_one_is_refused_and_nothing_forks(
    name: str, is_new: bool, places: Places
) -> None:
    url, _ = places.urls(name)
    with RunstreamSaver.from_url(url) as saver, ExitStack() as opened:
        writers = [opened.enter_context(_writer(url)) for _ in range(2)]
        for _ in range(ROUNDS):
            thread_id = new_thread()
            if not is_new:
                save(saver, thread_id, {"messages": ["hello"]}, -1)
            for step in ("load", "save"):
                for writer in writers:
                    writer.stdin.write(f"{step} {thread_id}\n")
                    writer.stdin.flush()
                said = [writer.stdout.readline().strip() for writer in writers]
            assert sorted(said) == ["ConcurrencyConflict", "saved"]
            found = list(saver.list(config_of(thread_id)))
            assert len(found) == (1 if is_new else 2)
            parents = [
                each.parent_config and each.parent_config["configurable"]["checkpoint_id"] for each in found
            ]
            assert parents == [*(each.checkpoint["id"] for each in found[1:]), None]


@contextmanager
def _writer(url: str) -> Iterator[Any]:
    program = [sys.executable, "-m", "tests.integrations.langgraph.fenced_writer", url]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()


@pytest.mark.parametrize("name", ALONE)
def test_a_run_that_loaded_the_thread_before_another_wrote_it_is_refused(name: str, places: Places) -> None:
    with places.sync(name) as saver:
        thread_id = new_thread()
        first = save(saver, thread_id, {"messages": ["hello"]}, -1)
        second = save(saver, thread_id, {"messages": ["hello", "a"]}, 0, first)
        with pytest.raises(ConcurrencyConflict):
            save(saver, thread_id, {"messages": ["hello", "b"]}, 0, first)
        with pytest.raises(ConcurrencyConflict):
            save(saver, thread_id, {"messages": ["hi"]}, -1)
        assert ids_of(saver, thread_id) == [second, first]


def test_what_another_thread_loaded_too_late_neither_stops_a_run_nor_lets_another_by(places: Places) -> None:
    with places.sync("memory") as saver:
        thread_id = new_thread()
        first = save(saver, thread_id, {"messages": ["hello"]}, -1)
        looking = get_tuple(saver._context, config_of(thread_id))
        step: Any = next(looking)
        found = step.make()  # the answer of the store comes, and is looked at only later
        second = save(saver, thread_id, {"messages": ["hello", "a"]}, 0, first)
        with pytest.raises(StopIteration) as done:
            looking.send(found)
        assert done.value.value.checkpoint["id"] == first
        with pytest.raises(ConcurrencyConflict):
            save(saver, thread_id, {"messages": ["hello", "b"]}, 0, first)
        third = save(saver, thread_id, {"messages": ["hello", "a", "b"]}, 1, second)
        assert ids_of(saver, thread_id) == [third, second, first]


def test_two_checkpoints_of_one_thread_are_not_saved_at_once_through_one_saver(places: Places) -> None:
    with places.sync("memory") as saver:
        thread_id = new_thread()
        first = save(saver, thread_id, {"messages": ["hello"]}, -1)
        made: Any = checkpoint({"messages": ["a"]}, {"messages": 2})
        metadata = {"source": "loop", "step": 0, "parents": {}}
        saving = put(saver._context, config_of(thread_id, first), made, metadata, {"messages": 2})
        step: Any = next(saving)
        with pytest.raises(ConcurrencyConflict):
            save(saver, thread_id, {"messages": ["b"]}, 0, first)
        with pytest.raises(StopIteration):
            saving.send(step.make())
        assert ids_of(saver, thread_id) == [made["id"], first]
        save(saver, thread_id, {"messages": ["c"]}, 1, made["id"])


def test_a_branch_from_an_older_checkpoint_may_be_made_once_it_was_asked_for(places: Places) -> None:
    with places.sync("memory") as saver:
        thread_id = new_thread()
        first = save(saver, thread_id, {"messages": ["hello"]}, -1)
        second = save(saver, thread_id, {"messages": ["hello", "a"]}, 0, first)
        saver.get_tuple(config_of(thread_id, first))
        branch = save(saver, thread_id, {"messages": ["hello", "b"]}, 0, first)
        with pytest.raises(ConcurrencyConflict):  # that was for one branch
            save(saver, thread_id, {"messages": ["hello", "c"]}, 0, first)
        assert ids_of(saver, thread_id) == [branch, second, first]
        latest = saver.get_tuple(config_of(thread_id))
        assert latest is not None
        assert latest.checkpoint["channel_values"] == {"messages": ["hello", "b"]}


def test_a_checkpoint_that_was_asked_for_may_be_copied_beside_itself(places: Places) -> None:
    with places.sync("memory") as saver:
        thread_id = new_thread()
        assert saver.get_tuple(config_of(thread_id)) is None
        first = save(saver, thread_id, {"messages": ["hello"]}, -1)
        second = save(saver, thread_id, {"messages": ["hello", "a"]}, 0, first)
        last = save(saver, thread_id, {"messages": ["hello", "a", "b"]}, 1, second)
        saver.get_tuple(config_of(thread_id, second))
        copy = save(saver, thread_id, {"messages": ["hello", "a"]}, 1, first)
        saver.get_tuple(config_of(thread_id, first))
        again = save(saver, thread_id, {"messages": ["hello"]}, 0)
        for parent in (second, first, None):
            with pytest.raises(ConcurrencyConflict):
                save(saver, thread_id, {"messages": ["x"]}, 2, parent)
        assert ids_of(saver, thread_id) == [again, copy, last, second, first]


@pytest.mark.parametrize("name", ["memory", "fake"])
def test_what_the_store_has_forgotten_of_a_thread_that_nobody_else_wrote_stops_no_run(
    name: str, places: Places
) -> None:
    with places.sync(name) as saver:
        thread_id = new_thread()
        first = save(saver, thread_id, {"x": 0}, -1)
        saver._run(saver._context.operations.forget(thread_id))  # and the saver knows it still
        second = save(saver, thread_id, {"x": 1}, 0, first)
        assert ids_of(saver, thread_id) == [second, first]


def test_a_branch_may_be_made_from_what_a_replay_asked_for_first(places: Places) -> None:
    with places.sync("memory") as saver:
        thread_id = new_thread()
        first = save(saver, thread_id, {"x": 0}, -1, namespace="child")
        above = save(saver, thread_id, {"x": 0}, -1)
        second = save(saver, thread_id, {"x": 1}, 0, first, namespace="child")
        to_replay = saver.list(config_of(thread_id, None, "child"), before=config_of(thread_id, above), limit=1)
        assert next(to_replay).checkpoint["id"] == first  # and no more is asked for
        branch = save(saver, thread_id, {"x": 2}, 0, first, namespace="child")
        found = saver.list(config_of(thread_id, None, "child"))
        assert [each.checkpoint["id"] for each in found] == [branch, second, first]


def test_a_replay_from_before_a_subgraph_was_begun_begins_it_anew(places: Places) -> None:
    with places.sync("memory") as saver:
        thread_id = new_thread()
        above = save(saver, thread_id, {"x": 0}, -1)
        below = save(saver, thread_id, {"x": 0}, -1, namespace="child")
        with pytest.raises(ConcurrencyConflict):
            save(saver, thread_id, {"x": 1}, -1, namespace="child")
        to_replay = saver.list(config_of(thread_id, None, "child"), before=config_of(thread_id, above), limit=1)
        assert list(to_replay) == []
        anew = save(saver, thread_id, {"x": 1}, -1, namespace="child")
        found = saver.list(config_of(thread_id, None, "child"))
        assert [each.checkpoint["id"] for each in found] == [anew, below]


def test_a_thread_that_was_empty_when_it_was_loaded_is_begun_once(places: Places) -> None:
    with places.sync("memory") as saver:
        thread_id = new_thread()
        assert saver.get_tuple(config_of(thread_id)) is None
        save(saver, thread_id, {"messages": ["a"]}, 3)  # durability="exit" saves the last step alone
        with pytest.raises(ConcurrencyConflict):
            save(saver, thread_id, {"messages": ["b"]}, 3)


@pytest.mark.parametrize("name", [name for name in ALONE if name not in {"jsonl", "memory"}])
def test_while_a_lease_is_held_nobody_else_writes_the_thread(name: str, places: Places) -> None:
    with places.sync(name) as saver, places.sync(name) as other:
        thread_id = new_thread()
        with saver.lease(thread_id):
            first = save(saver, thread_id, {"messages": ["a"]}, -1)
            with pytest.raises(LeaseHeld):
                save(other, thread_id, {"messages": ["a", "b"]}, 0, first)
            with pytest.raises(LeaseHeld):
                other.put_writes(config_of(thread_id, first), [("messages", "c")], "task")
            saver.put_writes(config_of(thread_id, first), [("messages", "d")], "task")
        second = save(other, thread_id, {"messages": ["a", "b"]}, 0, first)
        assert ids_of(saver, thread_id) == [second, first]


@pytest.mark.parametrize("name", [name for name in ALONE if name not in {"jsonl", "memory"}])
def test_an_owner_that_another_one_has_taken_over_from_is_refused_whatever_it_writes(
    name: str, places: Places
) -> None:
    with places.sync(name) as former, places.sync(name) as owner:
        thread_id, free = new_thread(), new_thread()
        first = save(former, thread_id, {"messages": ["a"]}, -1)
        with former.lease(thread_id, owner="worker"):
            second = save(former, thread_id, {"messages": ["a", "b"]}, 0, first)
            with owner.lease(thread_id, owner="worker"):  # the worker, started again elsewhere
                third = save(owner, thread_id, {"messages": ["a", "b", "c"]}, 1, second)
                there = list(owner.list(config_of(thread_id)))
                for write in (
                    lambda: save(former, thread_id, {"messages": ["x"]}, 1, second),
                    lambda: save(former, thread_id, {"messages": ["x"]}, 2, third),  # by the newest one
                    lambda: save(former, thread_id, {"messages": ["x"]}, -1, namespace="child"),
                    lambda: former.put_writes(config_of(thread_id, third), [("messages", "x")], "task"),
                    lambda: former.prune([thread_id]),
                ):
                    with pytest.raises(LeaseLost):
                        write()
                for write in (
                    lambda: former.delete_thread(thread_id),
                    lambda: former.prune([thread_id], strategy="delete"),
                ):
                    with pytest.raises(LeaseHeld):
                        write()
                assert list(owner.list(config_of(thread_id))) == there
                assert list(former.list(config_of(thread_id))) == there  # reading is free
                save(former, free, {"messages": ["a"]}, -1)  # other threads are, too
            with pytest.raises(LeaseLost):  # nobody holds it by now, but it was lost
                save(former, thread_id, {"messages": ["x"]}, 2, third)
        assert save(former, thread_id, {"messages": ["d"]}, 2, third) == ids_of(owner, thread_id)[0]


async def test_the_lease_of_the_async_saver_is_carried_by_what_it_writes(places: Places) -> None:
    async with places.asynchronous("fake") as saver:
        thread_id = new_thread()
        with places.sync("fake") as other:
            async with saver.lease(thread_id):
                with pytest.raises(LeaseHeld):
                    save(other, thread_id, {"messages": ["a"]}, -1)
                await saver.aput_writes(config_of(thread_id, "any"), [("messages", "d")], "task")
            save(other, thread_id, {"messages": ["a"]}, -1)
