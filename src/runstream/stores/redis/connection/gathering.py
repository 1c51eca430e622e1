"""Appends to one run that wait for each other are sent together, in one call of a script.

Each keeps its own reply, refusal, producer and number (see ``gather.lua``): one that is not taken together with
the others is sent by itself, and so is each whose reply was lost.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from runstream.model.errors import RunstreamError
from runstream.operations.forks import starts_anew
from runstream.operations.operation import Command, Exchange, Replies, Resent
from runstream.stores.redis.scripts.calls import gather_call, gathers_with

__all__ = ["Gatherer", "gathers", "take_together"]

_MOST = 64
_MOST_BYTES = 524_288
"""So many appends, of so many bytes, are sent together at most: the server does nothing else meanwhile."""


class _Waiting(Protocol):
    """What waits in a line."""

    @property
    def call(self) -> Command:
        """The append; its record is the last argument."""


W = TypeVar("W", bound=_Waiting)


def gathers(exchange: Exchange) -> bool:
    """Whether an exchange is an append that may be sent with others: nothing goes before or behind it."""
    return exchange.may_gather and len(exchange.commands) == 1 and not exchange.confirm


def take_together(line: deque[W]) -> list[W]:
    """Take those off a line that are sent together next: one at least, if there is one."""
    taken: list[W] = []
    size = 0
    while line and len(taken) < _MOST:
        size += len(line[0].call[-1])
        if taken and size > _MOST_BYTES:
            break
        taken.append(line.popleft())
    return taken


class _Append:
    """An append that waits until those before it have been sent.

    Attributes:
        call: What is to be sent.
        turn: Locked until it is its turn, or there is an outcome.
        others: Those that it is to send together with itself; None: none, and it has its outcome.
        reply: Its reply; None: it is to be sent by itself.
        error: Why there is none.
        may_be_applied: Whether it was sent with others, and no reply has come.
    """

    __slots__ = ("call", "error", "may_be_applied", "others", "reply", "turn")

    def __init__(self, exchange: Exchange) -> None:
        self.call: Command = exchange.commands[0]
        self.turn = threading.Lock()
        self.turn.acquire()
        self.others: Sequence[_Append] | None = None
        self.reply: bytes | None = None
        self.error: RunstreamError | None = None
        self.may_be_applied = False


class Gatherer:
    """Sends appends of threads: while one is under way to a run, the others to that run wait, and go together."""

    def __init__(self) -> None:
        self._start_anew()
        starts_anew(self)

    def _start_anew(self) -> None:
        """Have none that waits: threads stay with the parent."""
        self._lock = threading.Lock()
        self._lines: dict[Command, deque[_Append]] = {}
        self._inside: set[int] = set()

    def exchange(self, exchange: Exchange, send: Callable[[Exchange], Replies]) -> Replies:
        """Send an append, with others or by itself; ``send`` sends an exchange once."""
        thread = threading.get_ident()
        if thread in self._inside:  # a signal handler: what it has interrupted would wait for it
            return send(exchange)
        self._inside.add(thread)
        try:
            return self._exchange(exchange, send)
        finally:
            self._inside.discard(thread)

    def _exchange(self, exchange: Exchange, send: Callable[[Exchange], Replies]) -> Replies:
        key = gathers_with(exchange.commands[0])
        append = self._line_up(key, exchange)
        if append is None:
            try:
                return send(exchange)
            finally:
                self._pass_on(key)
        try:
            append.turn.acquire()
        except BaseException:  # an interrupt
            self._leave(key, append)
            raise
        if append.others is not None:
            self._send_together(key, append, append.others, send)
        if append.error is not None:
            raise append.error
        if append.reply is not None:
            return [append.reply]
        replies = send(exchange)
        return Resent(replies) if append.may_be_applied else replies

    def _line_up(self, key: Command, exchange: Exchange) -> _Append | None:
        """Wait behind what is under way to a run; None: nothing is, and this goes at once."""
        with self._lock:
            line = self._lines.get(key)
            if line is None:
                self._lines[key] = deque()
                return None
            append = _Append(exchange)
            line.append(append)
            return append

    def _send_together(
        self, key: Command, append: _Append, others: Sequence[_Append], send: Callable[[Exchange], Replies]
    ) -> None:
        """Send the appends, note their outcomes, and let those that came meanwhile have their turn."""
        appends = [append, *others]
        try:
            if not others:
                return
            call = gather_call([each.call for each in appends])
            for each in appends:
                each.may_be_applied = True
            (replies,) = send(Exchange((call,), permissive=True))
            if type(replies) is list:
                for each, reply in zip(appends, replies, strict=True):
                    each.reply, each.may_be_applied = reply or None, False
        except RunstreamError as error:
            for each in appends:
                each.error = copy.copy(error)
                each.error.__cause__ = error.__cause__
        finally:
            for other in others:
                other.turn.release()
            self._pass_on(key)

    def _pass_on(self, key: Command) -> None:
        """Let the first that waits send all that wait."""
        with self._lock:
            line = self._lines[key]
            if not line:
                del self._lines[key]
                return
            first, *others = take_together(line)
        first.others = others
        first.turn.release()

    def _leave(self, key: Command, append: _Append) -> None:
        """Let the others go on without one whose thread waits no more."""
        with self._lock:
            line = self._lines.get(key)
            if line is not None and append in line:
                line.remove(append)
                return
        if append.others is not None:  # it was to send them: each does so by itself
            for other in append.others:
                other.turn.release()
            self._pass_on(key)
