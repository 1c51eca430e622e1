"""Runs as the tests open them: over every store, sync, and over stores whose appends fail when a test says so."""

from __future__ import annotations

from typing import Any

from runstream.operations.operation import Operation
from tests.support.backends import Backend, Blocking, LoopThread, MemoryBackend, Store
from tests.support.operations import operations_of


class BlockingRun(Blocking):
    """An AsyncRun whose methods wait; what is set on it is set on the AsyncRun."""

    def __init__(self, loop: LoopThread, run: Any) -> None:
        vars(self).update(_loop=loop, _store=run)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._store, name, value)


def open_run(store: Store, run_id: str = "r", **options: Any) -> Any:
    """A Run, or an AsyncRun that waits."""
    run: object = store.open_run(run_id, **options)
    return BlockingRun(run._loop, run._store) if isinstance(run, Blocking) else run


def leave(run: Any, failure: BaseException | None = None) -> BaseException | None:
    """Leave a Run, with this exception if there is one; gives what comes out of it."""
    try:
        with run:
            if failure is not None:
                raise failure
    except BaseException as error:  # noqa: BLE001 - whatever it is, the test looks at it
        return error
    return None


def restarted(backend: Backend, store: Store) -> Store:
    """The store of a process that starts after the one with this store has died."""
    is_memory = isinstance(getattr(backend, "_inner", backend), MemoryBackend)  # it would have died with it
    return store if is_memory else backend.open()


class Appends:
    """The appends that Runs ask of a store: what each carried, and those that are to fail."""

    def __init__(self, store: Store) -> None:
        self._failures: list[tuple[BaseException | None, bool]] = []
        self.batches: list[list[Any]] = []
        # of the class, as each Run has an object of its own; those that are opened from here on
        operations = operations_of(store)
        kind = type(operations)

        def append(own: Any, run_id: str, events: Any, options: Any) -> Operation[Any]:
            failure = self._begin(events)
            result = yield from kind.append(own, run_id, events, options)
            if failure is not None:
                raise failure
            return result

        operations.__class__ = type(kind.__name__, (kind,), {"append": append})

    def fail(self, failure: BaseException, *, times: int = 1, applied: bool = False) -> None:
        """Let the next appends raise this: before they reach the store, or after they were applied."""
        self._failures = [(failure, applied)] * times

    def _begin(self, events: Any) -> BaseException | None:
        self.batches.append(list(events))
        failure, is_applied = self._failures.pop(0) if self._failures else (None, False)
        if failure is not None and not is_applied:
            raise failure
        return failure
