"""A proxy on loopback that ends connections over which nothing has come for a while, as load balancers do."""

from __future__ import annotations

import select
import socket
import struct
import threading
from contextlib import suppress
from typing import Self

__all__ = ["IdleProxy"]

_AT_ONCE = struct.pack("ii", 1, 0)  # closing sends a reset


class IdleProxy:
    """A proxy in front of a server's unix socket. It listens while it is entered (``with``).

    Args:
        socket_path: The server's.
        idle_seconds: After what time without a byte in either direction a connection ends.
        tells: Whether the client is told at once. If not it finds out when it sends something, as with a firewall
            that has forgotten the connection.

    Attributes:
        ended: How many connections have ended for that reason.
    """

    def __init__(self, socket_path: str, *, idle_seconds: float, tells: bool) -> None:
        self._socket_path = socket_path
        self._idle_seconds = idle_seconds
        self._tells = tells
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self.ended = 0

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]  # a method
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # until it is closed
            while True:
                client, _ = self._listener.accept()
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        ends = {client: server, server: client}
        self._open |= ends.keys()
        with client, server, suppress(OSError, ValueError):  # it was closed meanwhile
            server.connect(self._socket_path)
            while ready := select.select([client, server], [], [], self._idle_seconds)[0]:
                for end in ready:
                    said = end.recv(65_536)
                    if not said:
                        return
                    ends[end].sendall(said)
            self.ended += 1
            server.close()
            if not self._tells:
                client.recv(1)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._open -= ends.keys()
