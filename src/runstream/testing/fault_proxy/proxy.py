"""A proxy on loopback that breaks the connection to a Redis server at a chosen round trip.

It makes happen what no server does when asked: a command is applied and its reply is lost, a request never
arrives, either arrives by half, a reply is late.

A round trip is all the commands that a client sends before it waits: until the last one is complete and nothing
more has come for ``quiet_seconds``; after MULTI, until EXEC or DISCARD (or until nothing has come for half a
second, for clients that send a transaction piece by piece). So a pipeline is one round trip, however many packets
it takes. Commands of the handshake alone (``resp.counts``) do not count and are not struck, unless ``arm`` names
one of them.

Without a fault, bytes go through unchanged and in order, and no connection waits for another. A fault of the reply
strikes when *all* commands of the round trip have been answered, so they have been applied. The counters are right
before the client can see what happened.

There is no TLS. A connection becomes a plain pipe, which can be cut but not struck, at a command that is not
answered exactly once (pub/sub, MONITOR, replication) and at bytes that are not RESP.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Collection
from contextlib import suppress
from typing import Self
from urllib.parse import unquote, urlsplit

from runstream.testing.fault_proxy.connection import ProxiedConnection
from runstream.testing.fault_proxy.faults import Fault, FaultSchedule, Plan

__all__ = ["FaultProxy"]

_CONNECT_SECONDS = 10.0


class FaultProxy:
    """A proxy in front of a server. It listens while it is entered (``with``).

    Clients connect to ``url``, with their own user, password and database. Every method may be called from any
    thread. A fault is armed for the next round trips of all connections together.

    Args:
        upstream: The server: ``unix:///path`` or ``redis://host:port``; a user, password or database in it is
            ignored.
        quiet_seconds: For how long a client must have sent nothing to count as waiting. Every round trip that
            counts takes that much longer. A command and a transaction are never taken apart; a pipeline without
            MULTI that a client sends in pieces (redis-py: past 6,000 bytes) is taken for two round trips if the
            client pauses for that long between them, so a test of long pipelines takes a larger one.

    Attributes:
        port: The port on loopback; 0 before the proxy is entered.
        quiet_seconds: As above; it may be changed at any time.

    Raises:
        ValueError: ``upstream`` is another kind of URL.
    """

    def __init__(self, upstream: str, *, quiet_seconds: float = 0.005) -> None:
        parts = urlsplit(upstream)
        self._address: str | tuple[str, int]
        if parts.scheme == "unix" and parts.path:
            self._address = unquote(parts.path)
        elif parts.scheme == "redis" and parts.hostname:
            self._address = (parts.hostname, parts.port or 6379)
        else:
            raise ValueError("upstream must be unix:///path or redis://host:port")
        self.quiet_seconds = quiet_seconds
        self.port = 0
        self._schedule = FaultSchedule()
        self._connections: set[ProxiedConnection] = set()  # guarded by the schedule's lock
        self._listening = threading.RLock()  # held while listening begins or ends
        self._listener: socket.socket | None = None
        self._acceptor: tuple[threading.Thread, socket.socket] | None = None

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def round_trips(self) -> int:
        """How many complete round trips went to the server since the last ``reset``."""
        return self._schedule.round_trips

    @property
    def struck(self) -> int:
        """How often a fault has struck since the last ``reset``."""
        return self._schedule.struck

    def arm(
        self,
        fault: Fault,
        *,
        at: int = 1,
        times: int = 1,
        commands: Collection[str] | None = None,
        delay_seconds: float = 1.0,
    ) -> None:
        """Arm a fault in place of what was armed before.

        Args:
            fault: What happens.
            at: At which matching round trip from now it strikes first; 1 is the next.
            times: How many matching round trips in a row it strikes.
            commands: The names of commands of which a round trip must have one to match; None: every round trip
                that counts matches.
            delay_seconds: For how long a reply is delayed.

        Raises:
            ValueError: An argument is no count, no duration, or no collection of names.
        """
        if at < 1 or times < 1 or delay_seconds < 0:
            raise ValueError("at and times begin at 1, delay_seconds at 0")
        if isinstance(commands, str) or (commands is not None and not commands):
            raise ValueError("commands is a collection of at least one name, or None")
        names = None if commands is None else frozenset(name.upper() for name in commands)
        self._schedule.arm(Plan(fault, at - 1, times, names, delay_seconds))

    def disarm(self) -> None:
        """Let no more faults strike, and deliver what is being delayed."""
        self._schedule.disarm()

    def reset(self) -> None:
        """Set the counters to 0; what is armed stays armed."""
        self._schedule.reset()

    def cut(self) -> None:
        """Close all connections at both sides; those that come meanwhile stay open."""
        with self._schedule.changed:
            connections = list(self._connections)
            for connection in connections:
                connection.end()
            self._schedule.changed.notify_all()
        for connection in connections:
            connection.join()

    def refuse(self) -> None:
        """Refuse new connections, as a port does at which nobody listens; open connections go on."""
        with self._listening:
            if self._acceptor is None or self._listener is None:
                return
            thread, waker = self._acceptor
            self._acceptor = None
            waker.close()
            thread.join()
            with suppress(OSError):  # macOS knows no shutdown of a listener
                self._listener.shutdown(socket.SHUT_RDWR)  # a forked process may hold a copy that listens on
            self._listener.close()
            self._listener = self._bound()  # without listening: the port stays ours

    def restore(self) -> None:
        """Accept new connections again. Nothing happens if none were refused, or outside of ``with``."""
        with self._listening:
            if self._acceptor is not None or self._listener is None:
                return
            self._listener.listen(128)
            waker, woken = socket.socketpair()
            thread = threading.Thread(
                target=self._accept, args=(self._listener, woken), name="fault-proxy", daemon=True
            )
            self._acceptor = thread, waker
            thread.start()

    def close(self) -> None:
        """Stop listening and close all connections; delayed replies are not delivered. May be called again."""
        with self._listening:
            self.refuse()
            if self._listener is not None:
                self._listener.close()
                self._listener = None
        self.cut()

    def __enter__(self) -> Self:
        self._listener = self._bound()
        self.port = self._listener.getsockname()[1]
        self.restore()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bound(self) -> socket.socket:
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.setblocking(False)
        except BaseException:  # an interrupt too: the port would stay taken
            listener.close()
            raise
        return listener

    def _accept(self, listener: socket.socket, woken: socket.socket) -> None:
        with woken, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while all(key.fileobj is listener for key, _ in selector.select()):
                with suppress(OSError):  # the client has gone again
                    connection = ProxiedConnection(
                        listener.accept()[0],
                        self._connect,
                        self._schedule,
                        lambda: self.quiet_seconds,
                        self._connections.discard,
                    )
                    with self._schedule.changed:
                        self._connections.add(connection)
                        connection.start()

    def _connect(self) -> socket.socket:
        if isinstance(self._address, tuple):
            server = socket.create_connection(self._address, _CONNECT_SECONDS)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._address)
            except BaseException:  # an interrupt too: nobody else would close it
                server.close()
                raise
        server.settimeout(None)
        return server
