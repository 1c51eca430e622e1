"""Real servers in the states in which simulated ones refuse commands."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from runstream.testing.simulation.node import State
from tests.support.redis_py import taken_from
from tests.support.servers import Node, eventually, free_port

__all__ = ["RealServer", "reply_of"]


def reply_of(connection: Any) -> Any:
    """The next reply of a server, as it is; an error too."""
    try:
        return connection.read_response(disable_decoding=True, disconnect_on_error=False)
    except redis.RedisError as error:
        return error


class RealServer:
    """A real server, empty at first, that can be put into each state in which a simulated one may be."""

    def __init__(self, name: str, directory: str) -> None:
        self.name = name
        self._directory, self._opened = directory, ExitStack()
        self._saved: Path | None = None
        place = tempfile.mkdtemp(dir=directory)
        self.node = self._start("--dir", place)
        self.raw = self.node.raw
        self.connection = self._connection_to(self.node)
        self._configure("lua-time-limit", 1)
        self._configure("stop-writes-on-bgsave-error", "no")
        self._configure("save", "3600 1000000000")
        shutil.rmtree(place)  # from here on it cannot save
        self.raw.bgsave()
        eventually(lambda: self.raw.info("persistence")["rdb_last_bgsave_status"] == "err")

    def close(self) -> None:
        """End it."""
        self._opened.close()

    def empty(self) -> None:
        """Let it have no data, and know nothing of what it was told before."""
        self.raw.flushall()
        self.connection.disconnect()
        self.connection.connect()

    @contextmanager
    def in_state(self, state: State | None) -> Iterator[Any]:
        """Let it be in this state for as long as this context; gives a connection to it."""
        if state is State.FULL:
            with self._configured("maxmemory", 1, 0):
                yield self.connection
        elif state is State.CANNOT_PERSIST:
            with self._configured("stop-writes-on-bgsave-error", "yes", "no"):
                yield self.connection
        elif state is State.READ_ONLY:
            self.raw.execute_command("REPLICAOF", "127.0.0.1", free_port())
            yield self.connection
            self.raw.execute_command("REPLICAOF", "NO", "ONE")
        elif state is State.BUSY:
            with self._busy():
                yield self.connection
        elif state is State.LOADING:
            with self._loading() as connection:
                yield connection
        else:
            yield self.connection

    def _start(self, *options: str) -> Node:
        node = Node(self.name, self._directory, *options)
        self._opened.callback(node.end)
        return node

    def _connection_to(self, node: Node) -> Any:
        pool = redis.ConnectionPool(
            connection_class=redis.UnixDomainSocketConnection, path=node.socket_path, protocol=3
        )
        self._opened.callback(pool.disconnect)
        connection: Any = taken_from(pool)
        return connection

    def _configure(self, name: str, value: object) -> None:
        self.raw.execute_command("CONFIG", "SET", name, value)

    @contextmanager
    def _configured(self, name: str, value: object, default: object) -> Iterator[None]:
        self._configure(name, value)
        try:
            yield
        finally:
            self._configure(name, default)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        other = self._connection_to(self.node)
        other.send_command("EVAL", "while true do end", 0)
        eventually(self._is_refused)
        yield
        self.raw.script_kill()
        reply_of(other)

    def _is_refused(self) -> bool:
        self.connection.send_command("TIME")
        return isinstance(reply_of(self.connection), redis.RedisError)

    @contextmanager
    def _loading(self) -> Iterator[Any]:
        """Another server, which loads much; it looks for clients at every 2 MiB of it."""
        if self._saved is None:
            self._saved = Path(tempfile.mkdtemp(dir=self._directory))
            node = self._start("--dir", str(self._saved))
            node.raw.mset({f"filler:{number}": os.urandom(100_000) for number in range(200)})
            node.raw.save()
            node.end()
        # a second in all, and a tenth of one until it answers
        node = self._start("--dir", str(self._saved), "--key-load-delay", "5000")
        yield self._connection_to(node)
        node.end()
