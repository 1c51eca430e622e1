"""The moments of an exchange: a server executes its commands one after the other, and others go on in between.

Only what is one script, or lies between MULTI and EXEC, happens at one moment. Of the rest a part may have been
executed when its connection breaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from runstream.model.errors import StoreUnavailable
from runstream.operations.operation import Command, Exchange, Replies
from runstream.testing.simulation.scheduler import Scheduler

__all__ = ["Course", "Courses", "Interlude"]

_OF_CONNECTIONS = (b"HELLO", b"CLIENT")  # with which redis-py begins a new one: nothing is executed before


class Interlude(Enum):
    """What becomes of an exchange between two of its commands."""

    GOES_ON = "the next one is executed"
    RESET = "its connection is reset"
    KILLED = "the process is killed"
    STOPPED = "the process is stopped"


_INTERLUDES = list(Interlude)


@dataclass
class Course:
    """The course of one exchange.

    Attributes:
        exchange: What is executed.
        is_broken: Whether its connection has ended meanwhile.
        watching: Looks at an exchange as it is executed.
        note: Is told of what was executed.
        refusal: Why the server refuses a command: it is another server's by now; None: it does not.
    """

    exchange: Exchange
    is_broken: Callable[[], bool]
    watching: Callable[[Exchange], AbstractContextManager[object]]
    note: Callable[[Exchange, Replies], None]
    refusal: Callable[[Command], str | None]
    executed: int = 0
    _commands: Mapping[tuple[bytes, ...], Command] = field(init=False)
    """Those that are executed one at a time, as they are sent."""

    def __post_init__(self) -> None:
        self._commands = {} if self.exchange.atomic else dict(map(_as_sent, self.exchange.commands))

    def execute(self, words: Sequence[bytes], execute: Callable[[str | None], Any]) -> None:
        """Execute one command.

        Args:
            words: The command, as it was sent.
            execute: Executes it, unless it is given why it is refused, and returns the reply.
        """
        command = self._commands.get(tuple(words))
        if command is None:  # the transport's own: it makes a script known, asks for a type, begins a transaction
            execute(None)
            return
        one = Exchange([command])
        with self.watching(one):
            reply = execute(self.refusal(command))
        if not isinstance(reply, Exception):
            self.note(one, [reply])


class Courses:
    """The exchanges that servers are executing, each in the context of the task that has sent it.

    Args:
        scheduler: Lets others go on.
        executing: The context in which a server executes something; of None: none does, and others go on.
        stands_still: Lets the process of a task stand still.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executing: Callable[[Any], AbstractContextManager[object]],
        stands_still: Callable[[], None],
    ) -> None:
        self._scheduler, self._stands_still = scheduler, stands_still
        self.executing = executing
        # of each task, and of those that redis-py lets send for a task of asyncio
        self._current: ContextVar[Course | None] = ContextVar("the course of an exchange", default=None)
        self.weights: Callable[[], Sequence[int]] = tuple
        """Of what becomes of an exchange between two commands, as Interlude has it; none: nothing comes there."""

    def execute(self, words: Sequence[bytes], execute: Callable[[str | None], Any]) -> None:
        """Execute a command for the task that asks, after others, where it is not the first one of its exchange.

        Args:
            words: The command, as it was sent.
            execute: Executes it, unless it is given why it is refused, and returns the reply.
        """
        course = self._of(words)
        if course is None:
            execute(None)
        else:
            self.let_others_go_on(course)
            course.execute(words, execute)

    async def execute_async(self, words: Sequence[bytes], execute: Callable[[str | None], Any]) -> None:
        """The same for a task of asyncio."""
        course = self._of(words)
        if course is None:
            execute(None)
        else:
            await self.let_others_go_on_async(course)
            course.execute(words, execute)

    @contextmanager
    def taken(self, course: Course) -> Iterator[Course]:
        """Let the exchange of the task that asks take its course."""
        token = self._current.set(course)
        try:
            yield course
        finally:
            with suppress(ValueError):  # of a process that was killed: its coroutines are closed elsewhere
                self._current.reset(token)

    def let_others_go_on(self, course: Course) -> None:
        """Let others go on, unless nothing was executed yet.

        Raises StoreUnavailable if the connection has ended.
        """
        with self.executing(None):
            for wait in self._waits(course):
                wait()

    async def let_others_go_on_async(self, course: Course) -> None:
        """The same for a task of asyncio, which may be cancelled meanwhile."""
        for wait in self._waits(course):
            await asyncio.to_thread(wait)

    def _waits(self, course: Course) -> Iterator[Callable[[], None]]:
        """What to wait for between two commands."""
        course.executed += 1
        if course.executed == 1:
            return
        scheduler = self._scheduler
        what = _INTERLUDES[scheduler.choices.among(self.weights())]
        if what is not Interlude.GOES_ON:
            scheduler.note(f"has had {course.executed - 1} commands executed, and {what.value}")
        if what is Interlude.KILLED:
            scheduler.kill(scheduler.process)
        if what is Interlude.STOPPED:
            yield self._stands_still
        yield scheduler.step
        if what is Interlude.RESET or course.is_broken():
            raise StoreUnavailable("the simulated connection was reset")

    def _of(self, words: Sequence[bytes]) -> Course | None:
        return None if words[0].upper() in _OF_CONNECTIONS else self._current.get()


def _as_sent(command: Command) -> tuple[tuple[bytes, ...], Command]:
    return tuple(word if isinstance(word, bytes) else str(word).encode() for word in command), command
