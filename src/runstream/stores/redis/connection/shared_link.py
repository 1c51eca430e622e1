"""A connection that tasks share, while it is open: what is written, whose reply is whose, what goes together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import hiredis
from redis import exceptions

from runstream.operations.operation import Command, Replies, Resent
from runstream.stores.redis.connection.client_settings import let_go, take_over
from runstream.stores.redis.connection.errors import is_of_replica
from runstream.stores.redis.connection.gathering import take_together
from runstream.stores.redis.connection.packing import packed
from runstream.stores.redis.scripts.calls import GATHER, gather_call, gathers_with

__all__ = ["CLOSED", "UNASKED", "Packed", "SharedLink", "Unsent"]

_AT_ONCE = 8
"""So many exchanges are written before the turn ends: the server works on them while tasks make the next ones."""

_BUFFER_BYTES = 65_536
_NOT_YET = object()
CLOSED = "Connection closed by server."

UNASKED = getattr(hiredis, "PushNotification", None)
"""What the server says without having been asked, as hiredis has it from 3.2 on; None: it cannot be told apart."""


class Unsent(exceptions.ConnectionError):
    """The connection was closed before anything of this was written."""


class Packed(NamedTuple):
    """An exchange as bytes.

    Attributes:
        content: What is sent.
        replies: How many replies it has.
        is_atomic: Whether it is a transaction.
    """

    content: bytes
    replies: int
    is_atomic: bool


class _Joined(NamedTuple):
    """An append that may be sent together with others to its run, and what waits for its reply."""

    call: Command
    waits: asyncio.Future[Replies]


class _Asked(NamedTuple):
    """What was asked, the replies that have come, and what waits for all of them.

    Attributes:
        key: The run of an append that may be sent with others: they wait until this has its reply.
        joined: Those appends whose replies come in this one.
    """

    packed: Packed
    replies: Replies
    waits: asyncio.Future[Replies]
    key: Command | None = None
    joined: Sequence[_Joined] = ()


def _fail(waiting: Iterable[_Asked | _Joined], error: Callable[[], Exception]) -> None:
    """Give each who waits an error of its own."""
    for one in waiting:
        if isinstance(one, _Asked) and one.joined:
            _fail(one.joined, error)
        elif not one.waits.done():
            one.waits.set_exception(error())


class SharedLink(asyncio.BufferedProtocol):
    """The connection while it is open: writes commands, and hands on their replies.

    Args:
        connection: A connection of redis-py that is connected, and that nobody else uses.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.is_taking = True
        """Whether it takes further exchanges."""
        self.bytes_under_way = 0
        self._loop = asyncio.get_running_loop()
        self._is_scheduled = False
        self._lines: dict[Command, deque[_Joined]] = {}  # of the runs to which an append is under way
        self._ready: dict[Command, deque[_Joined]] = {}  # of others
        self._unwritten: list[_Asked] = []
        self._unanswered: deque[_Asked] = deque()
        self._buffer = bytearray(_BUFFER_BYTES)
        self._patience: float | None = connection.socket_timeout
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transport, error_of = take_over(connection, self)
        self._replies: Any = hiredis.Reader(
            protocolError=exceptions.InvalidResponse, replyError=error_of, notEnoughData=_NOT_YET
        )

    def ask(self, asked: Packed) -> asyncio.Future[Replies]:
        """Send an exchange, with what others ask in this turn of the loop; gives the replies."""
        waits: asyncio.Future[Replies] = self._loop.create_future()
        self._unwritten.append(_Asked(asked, [], waits))
        self.bytes_under_way += len(asked.content)
        self._schedule()
        return waits

    def join(self, call: Command) -> asyncio.Future[Replies]:
        """Send an append of one event with others to its run: those of this turn, or that wait meanwhile."""
        waits: asyncio.Future[Replies] = self._loop.create_future()
        key = gathers_with(call)
        line = self._lines.get(key)
        if line is None and (line := self._ready.get(key)) is None:
            self._ready[key] = deque([_Joined(call, waits)])
            self._schedule()
        else:
            line.append(_Joined(call, waits))
        return waits

    def _schedule(self) -> None:
        """Write at the end of the turn, or at once, where there is much by now."""
        if len(self._unwritten) + len(self._ready) >= _AT_ONCE:
            self._write()
        elif not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._is_scheduled = False
        ready, self._ready = self._ready, {}
        for key, line in ready.items():
            self._lines[key] = line
            self._send_line(key)
        written = []
        while self._unwritten:
            unwritten, self._unwritten = self._unwritten, []
            for asked in unwritten:
                if not asked.waits.done():
                    written.append(asked)
                    continue
                self.bytes_under_way -= len(asked.packed.content)  # it was cancelled before anything was sent
                if asked.key is not None:
                    self._send_line(asked.key)
        if written:
            if not self._unanswered:
                self._begin_to_wait()
            self._unanswered.extend(written)
            self._transport.write(b"".join([asked.packed.content for asked in written]))

    # -- what is sent together -------------------------------------------------------------------------

    def _send_line(self, key: Command) -> None:
        """Make what waits in a run's line one call, or leave it if nothing does."""
        line = self._lines[key]
        joined = [one for one in take_together(line) if not one.waits.done()]
        if not joined and line:
            self._send_line(key)
        elif not joined:
            del self._lines[key]
        elif len(joined) == 1:
            self._send_alone(joined[0], key)
        else:
            content = packed(gather_call([one.call for one in joined]))
            waits: asyncio.Future[Replies] = self._loop.create_future()
            self._unwritten.append(_Asked(Packed(content, 1, is_atomic=False), [], waits, key, joined))
            self.bytes_under_way += len(content)

    def _send_alone(self, one: _Joined, key: Command | None = None, *, was_sent: bool = False) -> None:
        content, replies = packed(one.call), Resent() if was_sent else []
        self._unwritten.append(_Asked(Packed(content, 1, is_atomic=False), replies, one.waits, key))
        self.bytes_under_way += len(content)

    def _answered(self, asked: _Asked) -> None:
        """Hand on the replies of what was sent together; then others may be sent to that run."""
        (replies,) = asked.replies
        if asked.joined:
            is_known, was_sent = type(replies) is list, not isinstance(replies, list | exceptions.NoScriptError)
            if isinstance(replies, exceptions.NoScriptError):
                self.ask(Packed(packed((b"SCRIPT", b"LOAD", GATHER.source)), 1, is_atomic=False))
            for index, one in enumerate(asked.joined):
                if one.waits.done():
                    continue
                if is_known and replies[index]:
                    one.waits.set_result([replies[index]])
                else:
                    self._send_alone(one, was_sent=was_sent)
        assert asked.key is not None, "unreachable: it is none that others wait for"  # noqa: S101 - for mypy
        self._send_line(asked.key)
        if self._unwritten:
            self._schedule()

    # -- what comes ------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's
        """Where to put what has come."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has come, and hand on the replies that are whole."""
        self._heard_at = self._loop.time()
        replies, unanswered = self._replies, self._unanswered
        try:
            replies.feed(self._buffer, 0, nbytes)
            while (reply := replies.gets()) is not _NOT_YET:
                if type(reply) is UNASKED:  # the server is about to move, or to close
                    self.is_taking = False
                    continue
                if is_of_replica(reply):
                    self.is_taking = False  # whoever asks again may find the primary elsewhere
                asked = unanswered[0]
                asked.replies.append(reply)
                if len(asked.replies) == asked.packed.replies:
                    unanswered.popleft()
                    self.bytes_under_way -= len(asked.packed.content)
                    if not asked.waits.done():
                        asked.waits.set_result(asked.replies)
                    if asked.key is not None:
                        self._answered(asked)
        except (exceptions.InvalidResponse, IndexError) as error:  # no protocol, or what nobody has asked
            self.end(said=f"what the server sends is no reply: {error}")
        if not self.is_taking and not unanswered and not self._unwritten:
            self.end()

    def eof_received(self) -> None:
        """The server has closed it."""
        self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whomever."""
        self.end(said=CLOSED if exc is None else f"{CLOSED.rstrip('.')}: {exc}")

    def end(self, kind: type[Exception] = exceptions.ConnectionError, said: str = CLOSED) -> None:
        """Close it; each who waits for a reply gets an error of this kind."""
        self.is_taking = False
        if self._timer is not None:
            self._timer.cancel()
        _fail(self._unanswered, partial(kind, said))
        _fail(self._unwritten, partial(Unsent, CLOSED))
        for line in (*self._lines.values(), *self._ready.values()):
            _fail(line, partial(Unsent, CLOSED))
        self._unanswered.clear()
        self._unwritten.clear()
        self._lines.clear()
        self._ready.clear()
        let_go(self.connection)

    # -- how long to wait ------------------------------------------------------------------------------

    def _begin_to_wait(self) -> None:
        self._heard_at = self._loop.time()
        if self._patience is not None and self._timer is None:
            self._timer = self._loop.call_later(self._patience, self._look)

    def _look(self) -> None:
        """Whether the server has said anything for as long as redis-py would wait for a reply."""
        assert self._patience is not None, "unreachable: there is no timer then"  # noqa: S101 - for mypy
        self._timer = None
        if not self._unanswered:
            return
        left = self._heard_at + self._patience - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self.end(exceptions.TimeoutError, "Timeout reading from the server")
