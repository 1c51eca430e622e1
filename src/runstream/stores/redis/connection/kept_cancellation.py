"""Keep the cancellation of a task that redis-py sends for."""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["CancellationKept"]

_AGAIN_SECONDS = 0.2


class CancellationKept:
    """Keeps a task's cancellation from being lost within this context.

    redis-py sends by ``asyncio.wait_for``, which before Python 3.12 loses a cancellation that comes just as it is
    done. So the task is cancelled again while it waits on, and where the context ends otherwise, it ends so.
    """

    __slots__ = ("_before", "_task", "_timer")

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "unreachable: redis-py needs a task, too"  # noqa: S101 - for mypy
        self._task, self._before = task, task.cancelling()
        self._wait()

    def _wait(self) -> None:
        self._timer = self._task.get_loop().call_later(_AGAIN_SECONDS, self._cancel_again)

    def _cancel_again(self) -> None:
        if self._task.cancelling() > self._before:
            self._task.cancel()
            self._task.uncancel()  # it is still the one cancellation
        self._wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._task.cancelling() > self._before and not isinstance(error, asyncio.CancelledError):
            raise asyncio.CancelledError
