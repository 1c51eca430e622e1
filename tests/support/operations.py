"""What tests do to a store below its facade: run one of its operations, look at what it knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runstream.model.results import Placement
from runstream.operations.arguments import AppendOptions
from runstream.operations.operation import Exchange, Operation
from tests.support.backends import Blocking
from tests.support.drain_tools import Hooked

__all__ = [
    "append_each",
    "entries_in",
    "exchanges_in",
    "hooked",
    "last_seq",
    "noting_steps",
    "operations_of",
    "perform",
    "session_of",
    "with_operations",
]


def _inner(store: Any) -> Any:
    return store._store if isinstance(store, Blocking) else store


def operations_of(store: Any) -> Any:
    """The operations of a store."""
    return _inner(store)._operations


def session_of(store: Any) -> Any:
    """What a Redis store object knows of its runs."""
    return operations_of(store).session


def with_operations(store: Any, operations: Any) -> Any:
    """The same store with other operations, for those who are given it as a part."""
    other = object.__new__(type(store))
    other.__dict__ = {**store.__dict__, "_operations": operations, "_parts": (operations, *store._parts[1:])}
    return other


class HookedOperations(Hooked):
    """The operations of a store, or of one more writer of it."""

    def for_one_writer(self) -> HookedOperations:
        return HookedOperations(self._inner.for_one_writer(), **self._hooks)


def hooked(store: Any, **hooks: Callable[..., None]) -> Any:
    """The same store, with a hook that is called before each call of some of its operations."""
    return with_operations(store, HookedOperations(operations_of(store), **hooks))


def perform(store: Any, operation: Operation[Any]) -> Any:
    """The result of an operation, run as the store runs its own."""
    result = _inner(store)._runner.run(operation)
    return store._loop.run(result) if isinstance(store, Blocking) else result


def append_each(store: Any, run_id: str, events: Sequence[Any], **options: Any) -> Placement:
    """``append``, telling of each event where it lies and whether its key was known."""
    result = perform(store, operations_of(store).append(run_id, events, AppendOptions(**options)))
    return Placement(result.appended, list(result.cursors), result.known)


def last_seq(store: Any, run_id: str, lane_id: str) -> int:
    """The ``seq`` of a lane's last event."""
    found: int = perform(store, operations_of(store).last_seq(run_id, lane_id))
    return found


def exchanges_in(store: Any, operation: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """Run an operation of a store in Redis.

    Returns:
        Its result, and the commands of each exchange that it has made, with their replies.
    """
    steps: list[tuple[Any, Any]] = []
    result = perform(store, noting_steps(operation, steps))
    return result, [(step.commands, reply) for step, reply in steps if isinstance(step, Exchange)]


def entries_in(sent: Sequence[tuple[Any, Any]]) -> list[Any]:
    """The entries that were read from streams, by command, in exchanges as :func:`exchanges_in` gives them."""
    return [
        reply
        for commands, replies in sent
        for command, reply in zip(commands, replies, strict=True)
        if command[0] == b"XRANGE"
    ]


def noting_steps(operation: Any, steps: list[tuple[Any, Any]]) -> Any:
    """An operation that notes each of its steps, with the reply."""
    reply = None
    while True:
        try:
            step = operation.send(reply)
        except StopIteration as end:
            return end.value
        reply = yield step
        steps.append((step, reply))
