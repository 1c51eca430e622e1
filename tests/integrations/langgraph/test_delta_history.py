"""What a DeltaChannel is rebuilt from, as LangGraph's suite will ask for it: writes since the nearest value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from tests.integrations.langgraph.checkpoints import checkpoint, config_of, new_thread
from tests.integrations.langgraph.savers import PLACES, Places


class Chain:
    """A line of checkpoints, each with what was written after it.

    Args:
        saver: Saves them.
    """

    def __init__(self, saver: Any) -> None:
        self.saver = saver
        self.thread_id = new_thread()
        self.ids: list[str] = []

    def add(self, values: Mapping[str, Any] | None = None, writes: Iterable[tuple[str, Any]] = ()) -> str:
        """Add a checkpoint with values of channels, and what one task writes to channels after it."""
        step, values = len(self.ids), values or {}
        versions = dict.fromkeys(values, step + 1)
        made = checkpoint(values, versions)
        parent = self.ids[-1] if self.ids else None
        metadata = {"source": "loop", "step": step, "parents": {}}
        self.saver.put(config_of(self.thread_id, parent), made, metadata, versions)
        self.ids.append(made["id"])
        for number, write in enumerate(writes):
            self.saver.put_writes(config_of(self.thread_id, made["id"]), [write], f"task-{number}", f"~{number}")
        return self.ids[-1]

    def history(self, *channels: str, at: str | None = None) -> dict[str, tuple[Any, list[Any]]]:
        """Of each channel the value before the writes, or None, and the values that were written."""
        found = self.saver.get_delta_channel_history(config=config_of(self.thread_id, at), channels=channels)
        return {
            name: (_plain(each.get("seed")), [value for _, _, value in each["writes"]])
            for name, each in found.items()
        }


def _plain(seed: Any) -> Any:
    return seed.value if isinstance(seed, _DeltaSnapshot) else seed


@pytest.fixture(params=["memory", "sqlite", pytest.param("fake", marks=pytest.mark.exhaustive)])
def chain(request: pytest.FixtureRequest, places: Places) -> Any:
    with places.sync(request.param) as saver:
        yield Chain(saver)


def test_writes_come_the_oldest_first(chain: Chain) -> None:
    chain.add({"ch": _DeltaSnapshot(0)})
    for step in range(1, 5):
        chain.add(writes=[("ch", step)])
    assert chain.history("ch") == {"ch": (0, [1, 2, 3])}
    assert chain.history("ch", at=chain.ids[2]) == {"ch": (0, [1])}


def test_they_begin_at_the_nearest_value(chain: Chain) -> None:
    for step in range(6):
        if step in {0, 3}:
            chain.add({"ch": _DeltaSnapshot(step)})
        else:
            chain.add(writes=[("ch", step)])
    assert chain.history("ch") == {"ch": (3, [4])}


def test_what_was_written_after_the_checkpoint_itself_is_no_part_of_them(chain: Chain) -> None:
    chain.add({"ch": _DeltaSnapshot(0)})
    chain.add(writes=[("ch", 1)])
    chain.add(writes=[("ch", "pending")])
    assert chain.history("ch") == {"ch": (0, [1])}


def test_each_channel_begins_where_its_own_value_is(chain: Chain) -> None:
    for step in range(5):
        values = {name: _DeltaSnapshot(name) for name, at in (("a", 1), ("b", 3)) if at == step}
        chain.add(values, [("a", step), ("b", step)])
    assert chain.history("a", "b") == {"a": ("a", [1, 2, 3]), "b": ("b", [3])}


def test_of_no_channels_there_is_nothing(chain: Chain) -> None:
    chain.add({"ch": _DeltaSnapshot(0)})
    assert chain.history() == {}


def test_without_a_value_they_begin_with_the_thread(chain: Chain) -> None:
    for step in range(4):
        chain.add(writes=[("ch", step)])
    assert chain.history("ch") == {"ch": (None, [0, 1, 2])}
    found = chain.saver.get_delta_channel_history(config=config_of(chain.thread_id), channels=["ch"])
    assert "seed" not in found["ch"]


def test_a_plain_value_from_before_the_channel_was_one_of_differences_is_the_beginning(chain: Chain) -> None:
    for step in range(4):
        chain.add({"ch": [10, 20, 30]} if step == 1 else {}, [] if step == 1 else [("ch", step)])
    assert chain.history("ch") == {"ch": ([10, 20, 30], [2])}


def test_what_was_written_after_the_checkpoint_with_the_value_counts(chain: Chain) -> None:
    chain.add({"ch": [10]}, [("ch", "older")])
    chain.add({"ch": [10, 20]}, [("ch", "at it")])
    chain.add(writes=[("ch", "after it")])
    chain.add(writes=[("ch", "pending")])
    assert chain.history("ch") == {"ch": ([10, 20], ["at it", "after it"])}


def test_only_what_lies_on_the_way_counts(chain: Chain) -> None:
    chain.add({"ch": _DeltaSnapshot(0)})
    first = chain.add(writes=[("ch", 1)])
    chain.add(writes=[("ch", "another branch")])
    chain.add()
    chain.saver.get_tuple(config_of(chain.thread_id, first))
    chain.ids.append(first)
    chain.add(writes=[("ch", "this one")])
    chain.add()
    assert chain.history("ch") == {"ch": (0, [1, "this one"])}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", PLACES)
def test_a_long_history_is_that_of_langgraphs_own_saver(name: str, places: Places) -> None:
    with places.sync(name) as saver:
        ours, theirs = Chain(saver), Chain(InMemorySaver())
        for each in (ours, theirs):
            for step in range(80):
                values = {"a": _DeltaSnapshot([step])} if step % 30 == 7 else {}
                each.add(values, [("a", step), ("b", step), ("a", -step)])
        for place in (5, 20, 37, 38, 60, 79):
            asked = [each.history("a", "b", at=each.ids[place]) for each in (ours, theirs)]
            assert asked[0] == asked[1]
