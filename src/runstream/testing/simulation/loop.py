"""An event loop of asyncio that waits as the scheduler says, and the threads in which it makes blocking calls."""

from __future__ import annotations

import asyncio
import sys
from asyncio import events
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar

from runstream.testing.simulation.scheduler import FOR_EVER_SECONDS, Killed, Process, Scheduler

__all__ = ["Loop"]

T = TypeVar("T")


class Loop(asyncio.BaseEventLoop):
    """The event loop of a process: one task of the scheduler runs it, and others hand it their coroutines.

    Args:
        scheduler: Lets others go on while the loop has nothing to do.
        process: Whose loop it is.
    """

    _ready: Any

    def __init__(self, scheduler: Scheduler, process: Process) -> None:
        super().__init__()
        self.set_debug(False)  # whatever the surroundings say: it would look at real threads
        self._scheduler, self._process = scheduler, process
        self._selector = self
        self._ended = asyncio.Event()
        self._begun: dict[asyncio.Task[Any], None] = {}
        self.failures: list[str] = []
        """What nobody awaited raised, while the process was alive."""
        self.set_exception_handler(self._note_failure)
        scheduler.spawn(process, f"{process.name}'s loop", self._run)

    # -- for the other threads of its process

    def call(self, begin: Callable[[], Coroutine[Any, Any, T]], name: str) -> T:
        """Run what this begins in a task of the loop, of this name, and wait for what it returns."""
        begun: list[asyncio.Task[T]] = []  # in the loop: of a process that is killed before nothing is left
        self.call_soon_threadsafe(lambda: begun.append(self.create_task(begin(), name=name)))
        self._scheduler.wait(FOR_EVER_SECONDS, lambda: bool(begun) and begun[0].done())
        return begun[0].result()

    def end(self) -> None:
        """End the loop, and what still goes on in it."""
        self.call_soon_threadsafe(self._ended.set)

    def drop(self) -> None:
        """Close the coroutines of a process that was killed; only once nobody plays any more."""
        told, sys.unraisablehook = sys.unraisablehook, lambda _: None  # redis-py awaits something as it is closed
        try:
            for task in list(self._begun):
                task._log_destroy_pending = False  # type: ignore[attr-defined] # of a task that nobody will end
                with suppress(BaseException):
                    task.get_coro().close()
        finally:
            sys.unraisablehook = told
        self.close()

    # -- for asyncio

    def time(self) -> float:
        """Simulated time in seconds."""
        return self._scheduler.clock.monotonic()

    def select(self, timeout: float | None) -> list[Any]:
        """Let others go on until there is something to do."""
        if not self._ready and timeout != 0:
            hooks = sys.get_asyncgen_hooks()
            events._set_running_loop(None)  # both are a thread's, and all tasks are in one
            sys.set_asyncgen_hooks(None, None)
            try:
                self._scheduler.wait(FOR_EVER_SECONDS if timeout is None else timeout, lambda: bool(self._ready))
            finally:
                events._set_running_loop(self)
                sys.set_asyncgen_hooks(*hooks)
        return []

    def create_task(  # type: ignore[override] # any name will do
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **options: Any
    ) -> asyncio.Task[Any]:
        """Begin a task; one without a name is named by what it does: asyncio's numbers go on in the next game."""
        name = name or f"{self._process.name}'s {getattr(coro, '__name__', 'task')}"
        task = super().create_task(coro, name=name, context=context, **options)
        self._begun[task] = None
        task.add_done_callback(self._begun.pop)
        return task

    def run_in_executor(  # type: ignore[override] # it takes any call
        self,
        executor: object,  # noqa: ARG002 - as asyncio has it
        func: Callable[..., T],
        *args: Any,
    ) -> asyncio.Future[T]:
        """Make a blocking call in a thread of its own, of the name of the task that awaits it."""
        future: asyncio.Future[T] = self.create_future()

        def settle(set_it: Callable[[Any], None], value: Any) -> None:
            if not future.done():  # not cancelled meanwhile
                set_it(value)

        def work() -> None:
            try:
                done: tuple[Callable[[Any], None], Any] = future.set_result, func(*args)
            except Killed:
                raise
            except BaseException as error:  # noqa: BLE001 - whoever awaits it is to see it
                done = future.set_exception, error
            if not self.is_closed():
                self.call_soon_threadsafe(settle, *done)

        task = asyncio.current_task(self)
        self._scheduler.spawn(self._process, "a thread" if task is None else task.get_name(), work)
        return future

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none: nothing is read from sockets."""

    def _write_to_self(self) -> None:
        """It looks by itself whether something is to do."""

    # -- inside

    def _note_failure(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self._process.is_dead:
            self.failures.append(f"{self._process.name}: {context['message']}: {context.get('exception')!r}")

    def _run(self) -> None:
        try:
            self.run_until_complete(self._serve())
        finally:
            self.close()

    async def _serve(self) -> None:
        """Go on until the end, then cancel what goes on still, as ``asyncio.run`` does."""
        await self._ended.wait()
        left = [task for task in self._begun if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
