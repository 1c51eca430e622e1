"""Where a thread's checkpoints lie in a store: names of runs, lanes, keys and tags, and kinds of events. Pure.

A thread is a run, and a checkpoint namespace one of its lanes. Each checkpoint is an event, under its id as a key.
What tasks write while it is the latest one follows it in its lane, up to the next one. What is said of it at
another time is an event under the id and a number, by which it is found wherever it lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from runstream.model.errors import ConfigurationError
from runstream.model.events import EventKind
from runstream.model.identifiers import MAIN_LANE, shown

__all__ = ["CLEARED", "SAVED", "THREAD_TAGS", "WRITES", "Place", "checkpoint_in", "run_tag"]

SAVED = EventKind.CHECKPOINT_SAVED.value
"""The kind of the event that has a checkpoint."""
WRITES = "checkpoint.writes"
"""The kind of the event that has what a task wrote after a checkpoint."""
CLEARED = "checkpoint.cleared"
"""The kind of the event that says that a checkpoint is there no more."""

THREAD_TAGS: Mapping[str, str] = {"langgraph": "thread"}
"""The tags by which threads are told from other runs of a store."""

_SEPARATOR = "|"  # LangGraph's own, between the levels of a namespace


class Place(NamedTuple):
    """One checkpoint namespace of one thread.

    Attributes:
        thread_id: The thread, which is a run.
        namespace: The checkpoint namespace; '' for that of the graph itself.
    """

    thread_id: str
    namespace: str = ""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Place:
        """The place that a config names. Raises ConfigurationError for one without a thread."""
        configurable = config.get("configurable", {})
        if "thread_id" not in configurable:
            raise ConfigurationError(
                f"configurable={shown(configurable)}: a config for a checkpointer names a thread_id"
            )
        return cls(str(configurable["thread_id"]), configurable.get("checkpoint_ns") or "")

    @classmethod
    def at(cls, thread_id: str, lane_id: str) -> Place | None:
        """The place whose lane this is; None for a lane that is none of a thread's."""
        if lane_id == MAIN_LANE:
            return cls(thread_id)
        main, separator, namespace = lane_id.partition(_SEPARATOR)
        return cls(thread_id, namespace) if main == MAIN_LANE and separator and namespace else None

    @property
    def lane_id(self) -> str:
        """The lane of the run."""
        return f"{MAIN_LANE}{_SEPARATOR}{self.namespace}" if self.namespace else MAIN_LANE

    @property
    def is_of_one_task(self) -> bool:
        """Whether it is that of one call of a subgraph, which nobody comes back to once its step is done."""
        return ":" in self.namespace.rpartition(_SEPARATOR)[2]

    def key(self, checkpoint_id: str) -> str:
        """The key of a checkpoint: an id is one only within its namespace."""
        if not self.namespace:
            return checkpoint_id
        return f"{checkpoint_id}@{blake2b(self.namespace.encode(), digest_size=6).hexdigest()}"

    def further_key(self, checkpoint_id: str, number: int) -> str:
        """The key of what else is said of a checkpoint: the first such event has number 0, the next 1."""
        return f"{self.key(checkpoint_id)}:{number}"

    def outwards(self) -> list[Place]:
        """This place, then those that it lies in, up to the graph itself."""
        levels = self.namespace.split(_SEPARATOR) if self.namespace else []
        return [self._replace(namespace=_SEPARATOR.join(levels[:count])) for count in range(len(levels), -1, -1)]

    def config(self, checkpoint_id: str) -> dict[str, Any]:
        """The config that names a checkpoint."""
        return {
            "configurable": {
                "thread_id": self.thread_id,
                "checkpoint_ns": self.namespace,
                "checkpoint_id": checkpoint_id,
            }
        }


def checkpoint_in(config: Mapping[str, Any]) -> str | None:
    """The id of the checkpoint that a config names; None if it names none."""
    return config.get("configurable", {}).get("checkpoint_id") or None


def run_tag(langgraph_run_id: str) -> str:
    """The name of the tag that a thread has for each of LangGraph's own runs on it; its value is empty."""
    name = f"run:{langgraph_run_id}"
    if len(name.encode(errors="replace")) <= 256:
        return name
    return f"run:{blake2b(langgraph_run_id.encode(errors='replace'), digest_size=32).hexdigest()}"
