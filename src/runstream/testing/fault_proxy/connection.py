"""One client's connection through the fault proxy, and what a fault does to it.

Bytes go through unchanged and in order until a fault strikes. Each round trip is counted once, and a fault before
the client can see that it struck. When the thread of a connection ends, both of its sockets are closed at once,
even if a forked process holds copies of them.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from runstream.testing.fault_proxy.faults import BEFORE, Fault, FaultSchedule, Plan
from runstream.testing.fault_proxy.resp import UNPAIRED, Framer, command_name, counts, in_transaction

__all__ = ["ProxiedConnection"]

_TRANSACTION_SECONDS = 0.5
_CHUNK_BYTES = 262_144


class _Over(OSError):
    """A connection has ended, or a fault ends it."""


class ProxiedConnection(threading.Thread):
    """A client's connection, the server connection that belongs to it, and the thread that serves both.

    Args:
        client: The client's connection.
        connect: Opens the connection to the server.
        schedule: What is armed, the counters, and the lock that guards them.
        quiet_seconds: Gives for how long, in seconds, a client must have sent nothing to count as waiting.
        forget: Called, with the lock held, when both connections are closed.
    """

    def __init__(
        self,
        client: socket.socket,
        connect: Callable[[], socket.socket],
        schedule: FaultSchedule,
        quiet_seconds: Callable[[], float],
        forget: Callable[[ProxiedConnection], None],
    ) -> None:
        super().__init__(name="fault-proxy-connection", daemon=True)
        self._connect = connect
        self._schedule = schedule
        self._quiet_seconds = quiet_seconds
        self._forget = forget
        self._has_ended = False  # guarded by the schedule's lock, as are the sockets
        self._client = client
        self._client.setblocking(True)
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets = [client]  # and the server's
        self._requests, self._replies = Framer(), Framer()
        self._burst: list[bytes] = []  # complete commands that were not passed on yet
        self._names: list[str] = []
        self._owed = 0  # replies that go to the client as they come
        self._held: list[bytes] | None = None  # replies that do not
        self._client_gone = self._is_other_protocol = self._is_pipe = False

    def end(self) -> None:
        """Wake the thread and make it end. The caller holds the schedule's lock."""
        self._has_ended = True
        for end in self._sockets:
            with suppress(OSError):  # it has ended already
                end.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Serve until either connection ends."""
        try:
            with suppress(OSError), selectors.DefaultSelector() as self._selector:
                self._server = self._connect()
                with self._schedule.changed:
                    self._sockets.append(self._server)
                    if self._has_ended:  # while there was no server connection to end
                        return
                self._selector.register(self._client, selectors.EVENT_READ, self._receive_from_client)
                self._selector.register(self._server, selectors.EVENT_READ, self._receive_from_server)
                self._serve()
        finally:
            with self._schedule.changed:
                self.end()  # not only closed: a process forked in the meantime holds copies of the descriptors
                for end in reversed(self._sockets):
                    end.close()
                self._forget(self)

    def _serve(self) -> None:
        while not self._is_pipe:
            self._await_round_trip()
            if self._is_other_protocol:
                break
            burst, names = self._burst, self._names
            self._burst, self._names = [], []
            plan = self._schedule.take(names)
            if plan is None:
                self._owed += len(burst)
                self._server.sendall(b"".join(burst))
            else:
                self._strike(plan, b"".join(burst), len(burst))
            self._is_pipe = not UNPAIRED.isdisjoint(names)
        self._is_pipe = True
        self._server.sendall(b"".join(self._burst) + self._requests.rest)
        self._client.sendall(self._replies.rest)
        while not self._client_gone:
            self._turn()

    def _await_round_trip(self) -> None:
        """Return when the client waits, or sends what is not RESP. Raises _Over when it ends and sent nothing."""
        since = time.monotonic()
        while not (self._is_other_protocol or self._client_gone):
            left = None
            if self._burst and not self._requests.rest:
                left = since + self._quiet_needed() - time.monotonic()
            if self._turn(left):
                since = time.monotonic()
            elif left is not None and left <= 0:
                return
        if not (self._is_other_protocol or self._burst):
            raise _Over

    def _quiet_needed(self) -> float:
        """For how long the client must have sent nothing for its round trip to be complete, in seconds."""
        if not counts(self._names):
            return 0.0
        return max(self._quiet_seconds(), _TRANSACTION_SECONDS if in_transaction(self._names) else 0.0)

    def _strike(self, plan: Plan, request: bytes, commands: int) -> None:
        """Do to a round trip what is planned. Raises _Over if that ends the connection."""
        if plan.fault is Fault.CUT_REQUEST:
            self._server.sendall(request[: len(request) // 2])
            self._server.shutdown(socket.SHUT_WR)
            with suppress(OSError):
                while self._server.recv(_CHUNK_BYTES):  # the server ends it when it has applied what it got
                    pass
        reply = b"" if plan.fault in BEFORE else self._exchange(request, commands)
        if plan.fault is Fault.DELAY:
            self._schedule.delay(plan.delay_seconds, lambda: self._has_ended)
            self._client.sendall(reply)
            return
        self._schedule.strike()
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
        """Wait for either side and take what it sent. Returns whether the client did anything.

        Raises OSError when a side has ended.
        """
        done = [key.data() for key, _ in self._selector.select(seconds)]
        return any(done)

    def _receive_from_client(self) -> bool:
        piece = self._client.recv(_CHUNK_BYTES)
        if not piece:
            self._client_gone = True
            self._selector.unregister(self._client)
        elif self._is_pipe:
            self._server.sendall(piece)
        else:
            try:
                commands = self._requests.feed(piece)
                self._burst += commands
                self._names += map(command_name, commands)
            except ValueError:
                self._is_other_protocol = True
        return True

    def _receive_from_server(self) -> bool:
        piece = self._server.recv(_CHUNK_BYTES)
        if not piece:
            raise _Over
        if self._is_pipe:
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
