"""Tasks of one event loop or of several: a lock for them, and how one is cancelled from another loop."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType

from runstream.operations.forks import starts_anew

__all__ = ["TaskLock", "cancel"]

_POLL_SECONDS = 0.005


class TaskLock:
    """An async context manager that one task at a time is in, of whichever event loop.

    The tasks of one loop enter in the order in which they came; a task of another loop polls. A forked process
    begins with a free one.
    """

    def __init__(self) -> None:
        self._start_anew()
        starts_anew(self)

    def _start_anew(self) -> None:
        """Begin free: whoever is in it is a task of the parent."""
        self._between_loops = threading.Lock()
        self._in_loop: tuple[asyncio.AbstractEventLoop | None, asyncio.Lock] = None, asyncio.Lock()
        self._entered: asyncio.Lock | None = None

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        of_loop, in_loop = self._in_loop
        if of_loop is not loop:  # an asyncio.Lock belongs to the loop in which it was first waited for
            in_loop = asyncio.Lock()
            self._in_loop = loop, in_loop
        await in_loop.acquire()
        try:
            while not self._between_loops.acquire(blocking=False):  # noqa: ASYNC110 - an Event belongs to a loop
                await asyncio.sleep(_POLL_SECONDS)
        except BaseException:  # cancelled
            in_loop.release()
            raise
        self._entered = in_loop

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        in_loop, self._entered = self._entered, None
        self._between_loops.release()
        if in_loop is not None:
            in_loop.release()


def cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task of this event loop, or of another one, whose thread then does it."""
    loop = task.get_loop()
    if task.done() or loop.is_closed():
        return
    try:
        is_here = asyncio.get_running_loop() is loop
    except RuntimeError:
        is_here = False
    if is_here:
        task.cancel()
    else:
        loop.call_soon_threadsafe(task.cancel)
