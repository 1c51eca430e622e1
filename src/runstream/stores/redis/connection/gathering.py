"""Appends to one run that wait for each other are sent together, in one call of a script.

Each keeps its own reply, refusal, producer and number (see ``gather.lua``): one that is not taken together with
the others is sent by itself, and so is each whose reply was lost.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from runstream.model.errors import RunstreamError
from runstream.operations.forks import starts_anew
from runstream.operations.operation import Command, Exchange, Replies, Resent
from runstream.stores.redis.scripts.calls import gather_call, gathers_with

__all__ = ["Gatherer", "gathers", "take_together"]

_MOST = 64
_MOST_BYTES = 524_288
"""So many appends, of so many bytes, are sent together at most: the server does nothing else meanwhile."""

T = TypeVar("T")


def gathers(exchange: Exchange) -> bool:
    """Whether an exchange is an append that may be sent with others: nothing goes before or behind it."""
    return exchange.may_gather and len(exchange.commands) == 1 and not exchange.confirm


def take_together(line: deque[T], call_of: Callable[[T], Command]) -> list[T]:
    """Take those off a line that are sent together next; call_of: the append that each is."""
    taken = [line.popleft()] if line else []
    size = len(call_of(taken[0])[-1]) if taken else 0
    while line and len(taken) < _MOST and (size := size + len(call_of(line[0])[-1])) <= _MOST_BYTES:
        taken.append(line.popleft())
    return taken


class _Append:
    """An append that waits until those before it have been sent.

    Attributes:
        exchange: What is to be sent.
        turn: Locked until it is its turn, or there is an outcome.
        others: Those that it is to send together with itself; None: none, and it has its outcome.
        reply: Its reply; None: it is to be sent by itself.
        error: Why there is none.
        may_be_applied: Whether it was sent with others, and no reply has come.
    """

    __slots__ = ("error", "exchange", "may_be_applied", "others", "reply", "turn")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
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
            call = gather_call([each.exchange.commands[0] for each in appends])
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
            first, *others = take_together(line, lambda append: append.exchange.commands[0])
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
