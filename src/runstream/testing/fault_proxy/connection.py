"""One client's connection through the fault proxy, and what a fault does to it.

What it promises: bytes go through unchanged and in order until a fault strikes; the proxy is asked once for each
round trip, and told that a fault has struck before the client can see it; when a link's thread ends, both of its
connections are closed at once, also where a forked process holds copies of them.

What it leaves to others: listening, counting, and which round trip is struck (``proxy.FaultProxy``).
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from runstream.testing.fault_proxy.resp import UNPAIRED, Framer, command_name, counts, in_transaction

if TYPE_CHECKING:
    from runstream.testing.fault_proxy.proxy import FaultProxy

__all__ = ["BEFORE", "Fault", "Link", "Plan"]

_TRANSACTION_SECONDS = 0.5
_CHUNK_BYTES = 262_144


class Fault(Enum):
    """What can happen to a round trip."""

    DROP_REPLY = "drop_reply"
    """The server applies the commands and answers; the client gets nothing and is disconnected."""
    DROP_REQUEST = "drop_request"
    """The client is disconnected before any byte reaches the server."""
    CUT_REPLY = "cut_reply"
    """The server applies the commands and answers; the client gets half of the bytes and is disconnected."""
    CUT_REQUEST = "cut_request"
    """The server gets half of the bytes. When it has applied the commands that are whole in that half (of a
    single command or a MULTI: nothing) and has ended the connection, the client is disconnected."""
    DELAY = "delay"
    """The server applies the commands and answers; the client gets that ``delay_seconds`` later."""


BEFORE = frozenset({Fault.DROP_REQUEST, Fault.CUT_REQUEST})
"""Those that strike before the server has it all."""


@dataclass
class Plan:
    """What is armed: the fault, and which round trips it concerns."""

    fault: Fault
    skip: int
    times: int
    commands: frozenset[str] | None
    delay_seconds: float

    def concerns(self, names: Collection[str]) -> bool:
        """Whether the fault may strike a round trip of these commands."""
        if not UNPAIRED.isdisjoint(names):
            return False
        return counts(names) if self.commands is None else not self.commands.isdisjoint(names)


class _Over(OSError):
    """A connection has ended, or a fault ends it."""


class Link(threading.Thread):
    """One client's connection and the server connection that belongs to it."""

    def __init__(self, proxy: FaultProxy, client: socket.socket) -> None:
        super().__init__(name="fault-proxy-link", daemon=True)
        self.ended = False
        self._proxy = proxy
        self._client = client
        self._client.setblocking(True)
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sides = [client]  # and the server's; guarded by the proxy's lock
        self._requests, self._replies = Framer(), Framer()
        self._burst: list[bytes] = []  # whole commands that were not passed on yet
        self._names: list[str] = []
        self._owed = 0  # replies that go to the client as they come
        self._held: list[bytes] | None = None  # replies that do not
        self._client_gone = self._alien = self._plain = False

    def end(self) -> None:
        """Wake the thread and make it end; the proxy's lock is held."""
        self.ended = True
        for side in self._sides:
            with suppress(OSError):  # it has ended already
                side.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Serve until either side ends."""
        proxy = self._proxy
        try:
            with suppress(OSError), selectors.DefaultSelector() as self._selector:
                self._server = proxy._connect()
                with proxy._changed:
                    self._sides.append(self._server)
                    if self.ended:  # while there was no server connection to end
                        return
                self._selector.register(self._client, selectors.EVENT_READ, self._hear_client)
                self._selector.register(self._server, selectors.EVENT_READ, self._hear_server)
                self._serve()
        finally:
            with proxy._changed:
                self.end()  # not only closed: a process forked in the meantime holds copies of the descriptors
                for side in reversed(self._sides):
                    side.close()
                proxy._links.discard(self)

    def _serve(self) -> None:
        while not self._plain:
            self._await_round_trip()
            if self._alien:
                break
            burst, names = self._burst, self._names
            self._burst, self._names = [], []
            plan = self._proxy._take(names)
            if plan is None:
                self._owed += len(burst)
                self._server.sendall(b"".join(burst))
            else:
                self._suffer(plan, b"".join(burst), len(burst))
            self._plain = not UNPAIRED.isdisjoint(names)
        self._plain = True
        self._server.sendall(b"".join(self._burst) + self._requests.rest)
        self._client.sendall(self._replies.rest)
        while not self._client_gone:
            self._turn()

    def _await_round_trip(self) -> None:
        """Return when the client waits, or sends what is not RESP. Raises _Over when it ends and sent nothing."""
        since = time.monotonic()
        while not (self._alien or self._client_gone):
            left = None
            if self._burst and not self._requests.rest:
                left = since + self._patience() - time.monotonic()
            if self._turn(left):
                since = time.monotonic()
            elif left is not None and left <= 0:
                return
        if not (self._alien or self._burst):
            raise _Over

    def _patience(self) -> float:
        if not counts(self._names):
            return 0.0
        return max(self._proxy.quiet_seconds, _TRANSACTION_SECONDS if in_transaction(self._names) else 0.0)

    def _suffer(self, plan: Plan, request: bytes, commands: int) -> None:
        if plan.fault is Fault.CUT_REQUEST:
            self._server.sendall(request[: len(request) // 2])
            self._server.shutdown(socket.SHUT_WR)
            with suppress(OSError):
                while self._server.recv(_CHUNK_BYTES):  # the server ends it when it has applied what it got
                    pass
        reply = b"" if plan.fault in BEFORE else self._exchange(request, commands)
        if plan.fault is Fault.DELAY:
            self._proxy._delay(self, plan.delay_seconds)
            self._client.sendall(reply)
            return
        self._proxy._strike()
        if plan.fault is Fault.CUT_REPLY:
            self._client.sendall(reply[: len(reply) // 2])
        raise _Over

    def _exchange(self, request: bytes, commands: int) -> bytes:
        """Pass a request on and return all replies to it. Raises _Over when a side ends before."""
        while self._owed and not self._client_gone:
            self._turn()
        held: list[bytes] = []
        self._held = held
        self._server.sendall(request)
        while len(held) < commands:
            if self._client_gone:
                raise _Over
            self._turn()
        self._held = None
        return b"".join(held)

    def _turn(self, seconds: float | None = None) -> bool:
        """Wait for either side and take what it sent; whether the client did anything. OSError: a side ended."""
        heard = [key.data() for key, _ in self._selector.select(seconds)]
        return any(heard)

    def _hear_client(self) -> bool:
        piece = self._client.recv(_CHUNK_BYTES)
        if not piece:
            self._client_gone = True
            self._selector.unregister(self._client)
        elif self._plain:
            self._server.sendall(piece)
        else:
            try:
                whole = self._requests.feed(piece)
                self._burst += whole
                self._names += map(command_name, whole)
            except ValueError:
                self._alien = True
        return True

    def _hear_server(self) -> bool:
        piece = self._server.recv(_CHUNK_BYTES)
        if not piece:
            raise _Over
        if self._plain:
            self._client.sendall(piece)
            return False
        passed = []
        for reply in self._replies.feed(piece):
            if reply.startswith(b">"):  # out of band, nobody asked for it
                passed.append(reply)
            elif self._held is not None:
                self._held.append(reply)
            else:
                passed.append(reply)
                self._owed -= 1
        self._client.sendall(b"".join(passed))
        return False
