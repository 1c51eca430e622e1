"""What a program sees of a graph, noted so that two programs can be compared that have different ids and times."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.types import Interrupt, StateSnapshot

from tests.integrations.langgraph.graphs import Failure

__all__ = ["THREAD", "Place", "Play", "normalised", "plain"]

MODES = ["values", "updates", "checkpoints", "tasks", "messages", "custom"]
THREAD: Any = {"configurable": {"thread_id": "thread"}}


class Place(Protocol):
    """Where threads are kept."""

    runner: asyncio.Runner | None

    def open(self) -> AbstractContextManager[Any]:
        """A saver over this place, as a process of its own opens it."""

    def settle(self) -> None:
        """Bring what is there to where it stays."""


class Play:
    """A graph on a saver, in a program's hands: all that it sees is noted.

    Args:
        place: Where its threads are kept; it is settled before each call.
        saver: A saver over it.
        make: Makes the graph, given the saver.
        durability: When checkpoints are written.

    Attributes:
        seen: What was seen, in order.
        graph: The graph.
    """

    def __init__(self, place: Place, saver: Any, make: Callable[[Any], Any], durability: str) -> None:
        self._place = place
        self._make = make
        self._durability = durability
        self._runner = place.runner
        self.seen: list[tuple[str, Any]] = []
        self.reopen(saver)

    def reopen(self, saver: Any) -> None:
        """Go on with another saver, as another process does."""
        self._saver = saver
        self.graph = self._make(saver)

    def stream(self, given: Any, config: Mapping[str, Any] = THREAD, **options: Any) -> None:
        """Run the graph, and note all that it streams, and the error that a node fails with."""
        chunks: list[Any] = []
        options = {"stream_mode": MODES, "subgraphs": True, "durability": self._durability, **options}
        if not hasattr(self.graph, "builder"):  # an entry point
            options["stream_mode"] = ["values", "updates", "custom"]
        with suppress(Failure):
            for chunk in self._iterate("stream", given, config, **options):
                chunks.append(chunk)
                if hasattr(self.graph, "see"):
                    self.graph.see(chunk)
        self._note("stream", chunks)

    def state(self, config: Mapping[str, Any] = THREAD, *, subgraphs: bool = True) -> StateSnapshot:
        """The state of the thread, or at the checkpoint that the config names."""
        found: StateSnapshot = self._call("get_state", config, subgraphs=subgraphs)
        self._note("state", found)
        return found

    def history(self, config: Mapping[str, Any] = THREAD, **options: Any) -> list[StateSnapshot]:
        """The states that the thread has had, the newest first."""
        found = list(self._iterate("get_state_history", config, **options))
        self._note("history", found)
        return found

    def update(self, config: Mapping[str, Any] = THREAD, *args: Any, **options: Any) -> Mapping[str, Any]:
        """Change the state by hand; the config of what came of it."""
        found: Mapping[str, Any] = self._call("update_state", config, *args, **options)
        self._note("update", found)
        return found

    def bulk_update(self, supersteps: Sequence[Any], config: Mapping[str, Any] = THREAD) -> None:
        """Change the state by hand, in several steps."""
        self._note("bulk update", self._call("bulk_update_state", config, supersteps))

    def saved(self, config: Mapping[str, Any] = THREAD, **options: Any) -> list[CheckpointTuple]:
        """What the saver itself has of the thread: one namespace after the other, the newest first in each."""
        found: list[CheckpointTuple] = list(self._iterate("list", config, of=self._saver, **options))
        spaces: dict[str, list[CheckpointTuple]] = {}
        for one in found:
            spaces.setdefault(one.config["configurable"]["checkpoint_ns"], []).append(one)
        oldest = {name: each[-1].checkpoint["id"] for name, each in spaces.items()}
        found = [
            one
            for name in sorted(spaces, key=lambda name: (_ID.sub("", name), oldest[name]))
            for one in spaces[name]
        ]
        self._note("saved", found)
        return found

    def deltas(self, config: Mapping[str, Any], channels: Sequence[str]) -> None:
        """How the saver itself makes up the values of channels that are kept as differences."""
        self._note(
            "deltas", self._call("get_delta_channel_history", of=self._saver, config=config, channels=channels)
        )

    def delete(self, thread_id: str) -> None:
        """Remove a thread."""
        self._call("delete_thread", thread_id, of=self._saver)

    def _note(self, what: str, found: Any) -> None:
        self.seen.append((what, plain(found)))

    def _call(self, method: str, *args: Any, of: Any = None, **options: Any) -> Any:
        self._place.settle()
        target = self.graph if of is None else of
        if self._runner is None:
            return getattr(target, method)(*args, **options)
        return self._runner.run(getattr(target, f"a{method}")(*args, **options))

    def _iterate(self, method: str, *args: Any, of: Any = None, **options: Any) -> Iterator[Any]:
        self._place.settle()
        target = self.graph if of is None else of
        if self._runner is None:
            yield from getattr(target, method)(*args, **options)
            return
        found = getattr(target, f"a{method}")(*args, **options)
        with suppress(StopAsyncIteration):
            while True:
                yield self._runner.run(anext(found))


# -- plain values --------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """The value as dicts, lists and texts, without the times in it."""
    match value:
        case StateSnapshot():
            found = value._asdict() | {"created_at": value.created_at is not None}
            return {name: plain(each) for name, each in found.items()}
        case Interrupt():
            return {"value": plain(value.value), "interrupt": value.id}
        case BaseMessage():
            return {"type": value.type, "content": value.content, "id": value.id}
        case BaseException():
            return repr(value)
        case Mapping():
            return _plain_mapping(value)
        case tuple() if hasattr(value, "_asdict"):
            return {name: plain(each) for name, each in value._asdict().items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case None | bool() | int() | float() | str():
            return value
        case _ if hasattr(value, "__dataclass_fields__") or hasattr(value, "__slots__"):
            names = getattr(value, "__dataclass_fields__", None) or value.__slots__
            return {name: plain(getattr(value, name, None)) for name in names}
    return repr(value)


CONFIGURED = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")


def _plain_mapping(value: Mapping[Any, Any]) -> dict[Any, Any]:
    if "configurable" in value:  # what else a config holds is the program's own
        configured = value["configurable"]
        return {name: plain(configured[name]) for name in CONFIGURED if name in configured}
    found = {name: plain(each) for name, each in value.items()}
    for name in ("ts", "timestamp"):
        if name in found:
            found[name] = "a time"
    if "channel_versions" in found:
        # savers number versions as they like: only their order counts
        found["channel_versions"] = {name: number(each) for name, each in found["channel_versions"].items()}
        found["versions_seen"] = {
            node: {name: number(each) for name, each in seen.items()}
            for node, seen in found["versions_seen"].items()
        }
    return found


def number(version: Any) -> int:
    """The number in a channel's version, which may have a random part behind it."""
    return int(str(version).partition(".")[0])


# -- ids -----------------------------------------------------------------------------------------------

_ID = re.compile(r"\b(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32})\b")


def normalised(seen: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """What was seen, with ids numbered as the history has them, and what comes side by side in one order.

    Tasks of one step run side by side, so what they stream comes in any order: between two values of the whole
    graph it is sorted.
    """
    names: dict[str, str] = {}
    for what, found in seen:
        if what in {"history", "saved"}:
            _name(list(reversed(found)), names)
    return [
        (what, _renamed(_in_order(found, names) if what == "stream" else found, names)) for what, found in seen
    ]


def _in_order(chunks: list[Any], names: dict[str, str]) -> list[Any]:
    found: list[Any] = []
    step: list[Any] = []
    for chunk in chunks:
        mode, value = chunk[-2:]
        if chunk[:-2] in ([], [[]]) and mode in {"values", "checkpoints"} and "__interrupt__" not in (value or ()):
            found += [*_sorted(step, names), chunk]
            step = []
        else:
            step.append(chunk)
    return found + _sorted(step, names)


def _sorted(chunks: list[Any], names: dict[str, str]) -> list[Any]:
    return sorted(chunks, key=lambda chunk: repr(_renamed(chunk, dict(names))))


def _name(value: Any, names: dict[str, str]) -> None:
    """Give numbers to the ids in a value, in the order in which they come."""
    _renamed(value, names)


def _renamed(value: Any, names: dict[str, str]) -> Any:
    match value:
        case str():
            return _ID.sub(lambda found: names.setdefault(found[0], f"id {len(names)}"), value)
        case dict():
            return {_renamed(key, names): _renamed(each, names) for key, each in value.items()}
        case list():
            return [_renamed(each, names) for each in value]
    return value
