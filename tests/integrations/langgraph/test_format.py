"""Threads are read as docs/formats.md says that they are stored, also where no snapshot is there."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import PAEvent, connect
from runstream.integrations.langgraph import RunstreamSaver
from tests.integrations.langgraph.checkpoints import config_of, ids_of, new_thread, save
from tests.integrations.langgraph.savers import ALONE, Places


def saved(name: str, parent: str | None, channels: Any, values: Any, **further: Any) -> PAEvent:
    """The event of a checkpoint, byte for byte."""
    checkpoint = {
        "v": 4,
        "id": name,
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_versions": dict.fromkeys(channels, 1),
        "versions_seen": {},
        "updated_channels": None,
    }
    metadata = {"source": "loop", "step": 0, "parents": {}}
    payload = {
        "checkpoint": checkpoint,
        "metadata": metadata,
        "parent": parent,
        "channels": channels,
        "values": values,
    }
    return PAEvent("t", kind="checkpoint.saved", payload={**payload, **further})


def written(name: str, value: bytes, **further: Any) -> PAEvent:
    """The event of what a task wrote, byte for byte."""
    payload = {"checkpoint": name, "task": "task", "path": "~1", "writes": [[0, "messages", value]], **further}
    return PAEvent("t", kind="checkpoint.writes", payload=payload)


EVENTS: list[tuple[PAEvent, str | None]] = [
    (
        saved("one", None, {"messages": [[0, 2]], "name": 0}, {"messages": b"\x92\xa1a\xa1b", "name": b"\xa3Ada"}),
        "one",
    ),
    (written("one", b"\xa1c"), None),
    (saved("two", "one", {"messages": [[1, 2], [0, 1]], "name": 1}, {"messages": b"\x91\xa1c"}), "two"),
    (written("one", b"\xa5stale", task="of a run that was refused"), None),
    (written("one", b"\xa4late", task="later", is_apart=True), "one:0"),
    (saved("gone", "two", {"name": 0}, {"name": ["null", b""]}), "gone"),
    (PAEvent("t", kind="checkpoint.cleared", payload={"checkpoint": "gone"}), "gone:0"),
    (
        saved(
            "three",
            "two",
            {"messages": [[1, 2], [3, 1], [0, 2]], "name": 1},
            {"messages": [b"\xa1d", ["null", b""]]},
            others={"metadata": {"odd": b"\x01"}},
        ),
        "three",
    ),
    (written("three", b"\xa1e"), None),
]


def test_what_is_stored_so_is_read_so() -> None:
    with connect("memory:") as store:
        store.append(
            "t", [event for event, _ in EVENTS], keys=[key for _, key in EVENTS], tags={"langgraph": "thread"}
        )
        saver = RunstreamSaver(store)
        found = {each.checkpoint["id"]: each for each in saver.list(None)}
        assert {name: each.checkpoint["channel_values"] for name, each in found.items()} == {
            "three": {"messages": ["a", "b", "c", "d", None], "name": "Ada"},
            "two": {"messages": ["a", "b", "c"], "name": "Ada"},
            "one": {"messages": ["a", "b"], "name": "Ada"},
        }
        assert {name: each.pending_writes for name, each in found.items()} == {
            "three": [("task", "messages", "e")],
            "two": [],
            "one": [("later", "messages", "late"), ("task", "messages", "c")],
        }
        for name, each in found.items():
            assert saver.get_tuple(config_of("t", name)) == each
        assert saver.get_tuple(config_of("t", "gone")) is None
        assert saver.get_tuple(config_of("t")) == found["three"]
        assert dict(found["three"].metadata)["odd"] == 1
        last = save(saver, "t", {"messages": ["a", "b", "c", "d", None, "f"]}, 1, "three")
        assert ids_of(saver, "t") == [last, "three", "two", "one"]


def test_where_the_latest_was_removed_the_one_before_is_the_latest() -> None:
    with connect("memory:") as store:
        removed = EVENTS[:7]
        store.append("t", [event for event, _ in removed], keys=[key for _, key in removed])
        saver = RunstreamSaver(store)
        assert saver.get_tuple(config_of("t")) == saver.get_tuple(config_of("t", "two"))


@pytest.mark.parametrize("name", ALONE)
def test_a_thread_that_was_forked_before_its_latest_snapshot_is_loaded_from_its_events(
    name: str, places: Places
) -> None:
    with places.sync(name) as saver:
        source, target, parent, offsets = new_thread(), new_thread(), None, []
        for turn in range(12):
            parent = save(saver, source, {"messages": list(range(turn + 1)), "same": "s" * 50}, turn, parent)
            saver.put_writes(config_of(source, parent), [("messages", [turn])], "task")
            info = saver.store.run_info(source)
            assert info is not None
            offsets.append((info.last_offset, parent))
        at, expected = offsets[7]
        saver.store.fork(source, target, at=at)
        found = saver.get_tuple(config_of(target))
        assert found is not None
        assert found.checkpoint["id"] == expected
        assert found.checkpoint["channel_values"] == {"messages": list(range(8)), "same": "s" * 50}
        assert found.pending_writes == [("task", "messages", [7])]
        last = save(saver, target, {"messages": ["anew"]}, 8, expected)
        assert [last, *ids_of(saver, source)[4:]] == ids_of(saver, target)
