"""The state of a run, :class:`RunState`, and the rules by which a run's status changes.

Equal in shape to purpose-agent's own state; but its ``to_dict`` drops the times of nodes and all actions but the
last fifty, and this one keeps them.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from runstream.model.clock import unix_seconds
from runstream.model.events import EventKind, member_or_text
from runstream.model.json_text import dump_fields, load_fields

__all__ = ["ENDED_STATUSES", "STATUSES", "STATUS_BY_KIND", "NodeState", "RunState", "RunStatus", "status_after"]


class RunStatus(StrEnum):
    """The status of a run."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


STATUSES = frozenset(status.value for status in RunStatus)
"""The statuses that a run can have. A state may have one of its author's own, which says nothing of the run."""

ENDED_STATUSES = frozenset({"completed", "failed", "cancelled"})
"""The statuses of a run that has ended. ``run.started`` or a running snapshot opens it again."""

STATUS_BY_KIND: Mapping[str, str] = {
    EventKind.RUN_STARTED.value: "running",
    EventKind.RUN_FINISHED.value: "completed",
    EventKind.RUN_ERROR.value: "failed",
}


def status_after(kinds: Iterable[str]) -> str | None:
    """The status that a run takes by events of these kinds.

    Args:
        kinds: The kinds of the events, in order.

    Returns:
        The status after the last of them; None where they say nothing of the run (``agent.*`` never ends a run).
    """
    status = None
    for kind in kinds:
        status = STATUS_BY_KIND.get(kind, status)
    return status


@dataclass
class NodeState:
    """The state of one node of a flow.

    Attributes:
        node_id: The node's name.
        status: ``pending``, ``running``, ``completed``, ``failed``, or a status of its author's own.
        input_data: What it was given.
        output_data: What it has made.
        started_at: When the last attempt began: Unix time in seconds, 0 before the first.
        finished_at: When it was completed or failed: Unix time in seconds, 0 before that.
        error: Why it failed; None if it has not.
        attempts: How often it was begun.
        idempotency_key: Names the node's work for services that are to do it once.
    """

    node_id: str
    status: str = "pending"
    input_data: dict[str, Any] = field(default_factory=dict)
    output_data: dict[str, Any] = field(default_factory=dict)
    started_at: float = 0.0
    finished_at: float = 0.0
    error: str | None = None
    attempts: int = 0
    idempotency_key: str = field(default_factory=lambda: uuid.uuid4().hex[:16])

    def to_dict(self) -> dict[str, Any]:
        """Give all fields as plain data; values are the node's own, not copies.

        Returns:
            The fields by name.
        """
        return dict(self.__dict__)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NodeState:
        """Make a node from its fields.

        Args:
            values: What ``to_dict`` gives. Other keys are left out; absent ones take their defaults, but an
                idempotency key stays empty rather than be made up.

        Returns:
            The node.
        """
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**{"idempotency_key": "", **known})


@dataclass
class RunState:
    """All that resumes a run after an interruption.

    Attributes:
        run_id: The run: a string of 1 to 512 bytes of UTF-8.
        session_id: The session that the run belongs to.
        status: The status of the run; a plain string where it is one of its author's own.
        purpose: What the run is for, in words.
        current_node: The node that is at work.
        current_step: How many steps were begun.
        max_steps: After how many steps the run gives up.
        data: What the nodes hand on to each other.
        node_states: The state of each node, by its name.
        completed_nodes: The names of the nodes that are done, in the order in which they were.
        action_history: What was done, in order.
        started_at: When the run began: Unix time in seconds.
        updated_at: When the state was last changed: Unix time in seconds.
        finished_at: When the run ended: Unix time in seconds, 0 before that.
        tool_results_cache: The results of tool calls, by their idempotency keys.
        heuristic_count_at_checkpoint: purpose-agent's count of heuristics when the state was saved.
        experience_count_at_checkpoint: purpose-agent's count of experiences when the state was saved.
        metadata: Whatever else belongs to the run.
        version: The version of this shape, as purpose-agent counts it.
    """

    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    session_id: str = ""
    status: RunStatus | str = RunStatus.PENDING
    purpose: str = ""

    current_node: str = ""
    current_step: int = 0
    max_steps: int = 20

    data: dict[str, Any] = field(default_factory=dict)
    node_states: dict[str, NodeState] = field(default_factory=dict)

    completed_nodes: list[str] = field(default_factory=list)
    action_history: list[dict[str, Any]] = field(default_factory=list)

    started_at: float = field(default_factory=unix_seconds)
    updated_at: float = field(default_factory=unix_seconds)
    finished_at: float = 0.0

    tool_results_cache: dict[str, Any] = field(default_factory=dict)

    heuristic_count_at_checkpoint: int = 0
    experience_count_at_checkpoint: int = 0

    metadata: dict[str, Any] = field(default_factory=dict)
    version: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Give all fields as plain data; values are the state's own, not copies.

        Returns:
            The fields by name; the status as a string, the nodes as dicts.
        """
        values = dict(self.__dict__)
        if isinstance(self.status, Enum):
            values["status"] = self.status.value
        values["node_states"] = {key: node.to_dict() for key, node in self.node_states.items()}
        return values

    def to_json(self) -> str:
        """Give the state as JSON text, as archives have it.

        What JSON has no type for is tagged (``{"$decimal": "0.10"}``; docs/formats.md has the tags), so that
        ``from_json`` gives an equal state. Values that a store turns into plain data are plain data here too.

        Returns:
            One JSON object, on one line.

        Raises:
            EncodingError: It holds a value that no store takes.
        """
        return dump_fields(self.to_dict())

    @classmethod
    def from_json(cls, text: str | bytes) -> RunState:
        """Make a state from its JSON text.

        Args:
            text: What ``to_json`` gives.

        Returns:
            The state.

        Raises:
            ValueError: It is no such text.
        """
        return cls.from_dict(load_fields(text))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunState:
        """Make a state from its fields.

        Args:
            values: What ``to_dict`` gives. Other keys are left out; absent ones take their defaults, but an
                absent run id stays empty, and absent times are 0.

        Returns:
            The state.
        """
        known: dict[str, Any] = {"run_id": "", "started_at": 0.0, "updated_at": 0.0}
        known.update((name, values[name]) for name in cls.__dataclass_fields__ if name in values)
        known["status"] = member_or_text(RunStatus, known.get("status", "pending"))
        known["node_states"] = {
            key: NodeState.from_dict({"node_id": key, **node})
            for key, node in known.get("node_states", {}).items()
        }
        return cls(**known)

    def mark_node_started(self, node_id: str) -> None:
        """Count one more attempt at a node, which becomes the current one.

        Args:
            node_id: The node's name; its state is made if there is none.
        """
        node = self.node_states.setdefault(node_id, NodeState(node_id))
        node.status = "running"
        node.attempts += 1
        node.started_at = self.updated_at = time.time()
        self.current_node = node_id

    def mark_node_completed(self, node_id: str, output: dict[str, Any] | None = None) -> None:
        """Note that a node has done its work.

        Args:
            node_id: The node's name.
            output: What it has made, if anything.
        """
        self.completed_nodes.append(node_id)
        self.updated_at = time.time()
        if node := self.node_states.get(node_id):
            node.status = "completed"
            node.finished_at = self.updated_at
            if output:
                node.output_data = output

    def mark_node_failed(self, node_id: str, error: str) -> None:
        """Note that a node has failed.

        Args:
            node_id: The node's name.
            error: Why.
        """
        self.updated_at = time.time()
        if node := self.node_states.get(node_id):
            node.status = "failed"
            node.error = error
            node.finished_at = self.updated_at

    def get_idempotency_key(self, tool_name: str, args_hash: str) -> str:
        """Name this step's call of a tool, the same after a resume.

        Args:
            tool_name: The tool.
            args_hash: A hash of the call's arguments.

        Returns:
            The key for ``cache_result`` and ``get_cached_result``.
        """
        return f"{self.run_id}:{self.current_step}:{tool_name}:{args_hash}"

    def has_cached_result(self, key: str) -> bool:
        """Whether a tool's result is known under a key.

        Args:
            key: What ``get_idempotency_key`` gave.
        """
        return key in self.tool_results_cache

    def get_cached_result(self, key: str) -> Any:
        """The tool's result that is known under a key; None without one.

        Args:
            key: What ``get_idempotency_key`` gave.
        """
        return self.tool_results_cache.get(key)

    def cache_result(self, key: str, result: Any) -> None:
        """Remember a tool's result, so that a resumed run does not call the tool again.

        Args:
            key: What ``get_idempotency_key`` gave.
            result: What the tool returned.
        """
        self.tool_results_cache[key] = result
