"""Forks in Redis, made step by step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from runstream import RunstreamError
from runstream.operations.run_forks import ForkOptions
from tests.support.operations import operations_of, perform, session_of
from tests.support.samples import make_event, make_state

LENGTH = 5
"""How many events the parent ``p`` has."""


def fork(store: Any, run_id: str, new_run_id: str, at: int | None = None, tags: Any = None) -> Any:
    """Fork a run."""
    return perform(store, forking(store, run_id, new_run_id, at, tags))


def forking(store: Any, run_id: str, new_run_id: str, at: int | None = None, tags: Any = None) -> Any:
    """The operation that forks a run."""
    return operations_of(store).fork(run_id, new_run_id, ForkOptions(at, tags))


def make_parent(store: Any, run_id: str = "p") -> None:
    """A run of some events with keys, and a snapshot that covers all but the last two."""
    for seq in range(1, LENGTH - 1):
        store.append(run_id, [make_event(run_id, seq)], keys=[f"key-{seq}"])
    store.save_snapshot(run_id, make_state(run_id))
    store.append(run_id, [make_event(run_id, seq) for seq in (LENGTH - 1, LENGTH)])


class Stepped:
    """An operation that is made one exchange at a time, as its process would be stopped between any two."""

    def __init__(self, store: Any, operation: Any) -> None:
        self.store, self._operation = store, operation
        self.result: Any = None
        self.error: RunstreamError | None = None
        self.is_over = False
        self._send: Callable[[], Any] = lambda: next(operation)
        self._advance()

    def step(self) -> None:
        """Make the next exchange, and go on to the one after it."""
        try:
            reply = perform(self.store, _one(self._step))
        except RunstreamError as error:
            thrown = error
            self._send = lambda: self._operation.throw(thrown)
        else:
            self._send = lambda: self._operation.send(reply)
        self._advance()

    def request(self) -> Any:
        """Make the next exchange as if its reply were lost: nobody goes on."""
        with suppress(RunstreamError):
            return perform(self.store, _one(self._step))

    def late(self) -> Callable[[], Any]:
        """The next exchange, to be made once more by a request that comes late."""
        step = self._step
        return lambda: perform(self.store, _one(step))

    def finish(self) -> None:
        """Make all that is left."""
        while not self.is_over:
            self.step()

    def _advance(self) -> None:
        try:
            self._step = self._send()
        except StopIteration as end:
            self.result, self.is_over = end.value, True
        except RunstreamError as error:
            self.error, self.is_over = error, True


def _one(step: Any) -> Any:
    return (yield step)


def noted_at(raw: Any, store: Any, run_id: str = "p") -> dict[str, str]:
    """What a run notes of its forks: whether each was made."""
    found = raw.hgetall(session_of(store).keys.run(run_id).forks)
    return {name.decode(): value.split()[0].decode() for name, value in found.items()}
