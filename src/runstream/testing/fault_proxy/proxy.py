"""A proxy on loopback that breaks the connection to a Redis server at a chosen round trip.

What it is for: what may happen between a client and its server and no server can be asked for: a command is
applied and its reply is lost, a request never comes, either arrives by half, a reply is late.

What a round trip is: all the commands that a client sends before it waits, that is, until the last one is
complete and nothing more has come for ``quiet_seconds``; after MULTI, until EXEC or DISCARD (or until nothing has
come for half a second, for clients that send a transaction piece by piece). So a pipeline is one, however many
packets it takes. One of the handshake's commands alone (``resp.counts``) does not count and is not struck, unless
``arm`` names one of them.

What it promises: without a fault, bytes go through unchanged and in order, and no connection waits for another.
A fault that concerns the reply strikes when *all* commands of the round trip have been answered, so they have been
applied. The counters are right before the client can see what happened.

What it leaves to others: TLS, and what a command does. From a command that is not answered once (pub/sub, MONITOR,
replication) or bytes that are not RESP on, a connection is a plain pipe: it can be cut, but not struck.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Collection
from contextlib import suppress
from typing import Self
from urllib.parse import unquote, urlsplit

from runstream.testing.fault_proxy.connection import BEFORE, Fault, Link, Plan
from runstream.testing.fault_proxy.resp import counts

__all__ = ["FaultProxy"]

_CONNECT_SECONDS = 10.0


class FaultProxy:
    """A proxy in front of the server at ``upstream``: ``unix:///path`` or ``redis://host:port``.

    Clients connect to ``url``, with their own user, password and database; those in ``upstream`` do not matter.
    ``quiet_seconds`` is for how long a client must have sent nothing to count as waiting. Every round trip that
    counts takes that much longer. A command and a transaction are never taken apart; a pipeline without MULTI that
    a client sends in pieces (redis-py: past 6,000 bytes) is taken for two if the client is paused for that long
    between them, so a test of long pipelines takes a larger one.

    It listens while it is entered (``with``). Every method may be called from any thread. A fault is armed for the
    next round trips of all connections together. Raises ValueError for another kind of URL.

    ``port`` is the loopback port, 0 before it is entered. ``round_trips`` is how many went to the server whole,
    ``struck`` how often a fault has struck, both since the last ``reset``.
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
        self.port = self.round_trips = self.struck = 0
        self._changed = threading.Condition()  # guards all that follows and the counters
        self._plan: Plan | None = None
        self._releases = 0  # how often delayed replies were let go
        self._links: set[Link] = set()
        self._door = threading.RLock()  # held while the door opens or closes
        self._listener: socket.socket | None = None
        self._acceptor: tuple[threading.Thread, socket.socket] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"redis://127.0.0.1:{self.port}"

    def arm(
        self,
        fault: Fault,
        *,
        at: int = 1,
        times: int = 1,
        commands: Collection[str] | None = None,
        delay_seconds: float = 1.0,
    ) -> None:
        """Let the fault strike at the ``at``-th matching round trip from now, and at ``times`` of them in a row.

        A round trip matches if one of its commands is among ``commands``; None: if it counts. This takes the place
        of what was armed before. Raises ValueError for what is no count, no duration, or no collection of names.
        """
        if at < 1 or times < 1 or delay_seconds < 0:
            raise ValueError("at and times begin at 1, delay_seconds at 0")
        if isinstance(commands, str) or (commands is not None and not commands):
            raise ValueError("commands is a collection of at least one name, or None")
        names = None if commands is None else frozenset(name.upper() for name in commands)
        with self._changed:
            self._plan = Plan(fault, at - 1, times, names, delay_seconds)

    def disarm(self) -> None:
        """Let no more faults strike, and deliver what is being delayed."""
        with self._changed:
            self._plan = None
            self._releases += 1
            self._changed.notify_all()

    def reset(self) -> None:
        """Count from 0 again; what is armed stays so."""
        with self._changed:
            self.round_trips = self.struck = 0

    def cut(self) -> None:
        """End all connections at both sides; when this returns there are none but those that came meanwhile."""
        with self._changed:
            links = list(self._links)
            for link in links:
                link.end()
            self._changed.notify_all()
        for link in links:
            link.join()

    def refuse(self) -> None:
        """Refuse new connections, as a port does at which nobody listens; those that there are go on."""
        with self._door:
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
        """Take new connections again. Nothing happens if none were refused, or outside of ``with``."""
        with self._door:
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
        """End everything; what was being delayed is not delivered. Nothing happens if it is not open."""
        with self._door:
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
                    link = Link(self, listener.accept()[0])
                    with self._changed:
                        self._links.add(link)
                        link.start()

    # what a link's thread asks and tells

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

    def _take(self, names: Collection[str]) -> Plan | None:
        """Count a round trip, and say what is to happen to it; None: nothing."""
        with self._changed:
            plan, struck = self._plan, None
            if plan is not None and plan.concerns(names):
                if plan.skip:
                    plan.skip -= 1
                else:
                    struck = plan
                    plan.times -= 1
                    self._plan = plan if plan.times else None
            if counts(names) and (struck is None or struck.fault not in BEFORE):
                self.round_trips += 1
            return struck

    def _strike(self) -> None:
        with self._changed:
            self.struck += 1

    def _delay(self, link: Link, seconds: float) -> None:
        """Count, and return when the time has passed, or disarm or the link's end comes first."""
        with self._changed:
            self.struck += 1
            releases = self._releases
            self._changed.wait_for(lambda: link.ended or self._releases != releases, seconds)
