"""A primary, two replicas, and three sentinels that let one of them take its place."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.servers import DEADLINE_SECONDS, PROGRAMS, Node, eventually, free_port

__all__ = ["Watched", "watched"]

SERVICE = "mymaster"
_DOWN_MILLISECONDS = 400


class Watched:
    """Three servers and the sentinels that watch them.

    Clients are users of their own, so that a server can be cut off from sentinels and replicas, and not from them.
    Those that have certificates talk TLS alone, and tell each other their host's name, which these are of; no busy
    machine makes sentinels take one for gone: another takes its place where that is asked for.
    """

    def __init__(self, name: str, directory: str, stack: ExitStack, tls: Sequence[str]) -> None:
        self._directory, self._stack, self._tls = directory, stack, tls
        self._host = "localhost" if tls else "127.0.0.1"
        self.nodes: list[Node] = []
        for _ in range(3):
            options = "--repl-diskless-sync-delay 0 --repl-timeout 5 --hz 100"
            if tls:
                options += f" --replica-announce-ip {self._host}"
            node = Node(name, tempfile.mkdtemp(dir=directory), *options.split(), tls=tls)
            stack.callback(node.end)
            node.raw.execute_command("ACL", "SETUSER", "agent", "on", ">agent", "+@all", "~*", "&*")
            node.raw.close()
            node.raw = redis.Redis(unix_socket_path=node.socket_path, username="agent", password="agent")
            self.nodes.append(node)
        for node in self.nodes[1:]:
            node.raw.execute_command("REPLICAOF", self._host, self.nodes[0].port)
        eventually(
            lambda: all(node.raw.info("replication")["master_link_status"] == "up" for node in self.nodes[1:])
        )
        self._sentinels = [self._start_sentinel(name, self.nodes[0].port) for _ in range(3)]
        eventually(lambda: all(map(self._knows_all, self._sentinels)))
        for one in self._sentinels:
            one.execute_command("ACL", "SETUSER", "asks", "on", ">asks", "-@all", "+sentinel|masters")

    @property
    def url(self) -> str:
        """Where clients find the primary; they may ask sentinels for it, and for nothing else."""
        ports = [one.connection_pool.connection_kwargs["port"] for one in self._sentinels]
        hosts = ",".join(f"{self._host}:{port}" for port in ports)
        return f"{'rediss' if self._tls else 'redis'}+sentinel://agent:agent@{hosts}/{SERVICE}?sentinel_username=asks&sentinel_password=asks"

    @property
    def primary(self) -> Node:
        """The one that most sentinels take for the primary."""
        ports = [int(_seen_by(one)["port"]) for one in self._sentinels]
        return next(node for node in self.nodes if node.port == max(ports, key=ports.count))

    def await_another(self, former: Node) -> Node:
        """Wait until another one is the primary, and takes writes."""
        eventually(lambda: self.primary is not former and self.primary.raw.info("replication")["role"] == "master")
        return self.primary

    def fail_over(self) -> None:
        """Let a replica take the place of the primary, which is one of its replicas when this returns."""
        former = self.primary
        eventually(lambda: self._takes_order(self._sentinels[0]))
        self.await_another(former)
        eventually(lambda: former.raw.info("replication")["role"] == "slave")

    @staticmethod
    def _takes_order(one: Any) -> bool:
        try:
            one.execute_command("SENTINEL", "FAILOVER", SERVICE)
        except redis.ResponseError:  # it has not heard yet how the replicas are
            return False
        return True

    @contextmanager
    def cut_off(self, node: Node) -> Iterator[None]:
        """A server that sentinels and replicas cannot reach, and its clients can."""
        node.raw.execute_command("ACL", "SETUSER", "default", "off")
        node.raw.execute_command("CLIENT", "KILL", "USER", "default")
        try:
            yield
        finally:
            node.raw.execute_command("ACL", "SETUSER", "default", "on")

    def _start_sentinel(self, name: str, port: int) -> Any:
        own, directory = free_port(), tempfile.mkdtemp(dir=self._directory)
        config = Path(directory, "sentinel.conf")
        settings = {
            "monitor": f"{self._host} {port} 2",
            "down-after-milliseconds": 60_000 if self._tls else _DOWN_MILLISECONDS,
            "failover-timeout": 2_000,
        }
        lines = [f"sentinel {what} {SERVICE} {value}" for what, value in settings.items()]
        ports, client = [f"port {own}"], redis.Redis(port=own, retry=Retry(NoBackoff(), 0))
        if self._tls:
            files = dict(zip(self._tls[::2], self._tls[1::2], strict=True))
            ports = [
                "port 0",
                f"tls-port {own}",
                "sentinel resolve-hostnames yes",
                "sentinel announce-hostnames yes",
            ]
            ports += [f"{name.removeprefix('--')} {value}" for name, value in files.items()]
            client = redis.Redis(
                port=own,
                retry=Retry(NoBackoff(), 0),
                ssl=True,
                ssl_ca_certs=files["--tls-ca-cert-file"],
                ssl_certfile=files["--tls-cert-file"],
                ssl_keyfile=files["--tls-key-file"],
            )
        config.write_text("\n".join([*ports, "bind 127.0.0.1", f"dir {directory}", *lines, ""]))
        process = subprocess.Popen(
            [PROGRAMS[name], str(config), "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._stack.callback(process.wait, DEADLINE_SECONDS)
        self._stack.callback(process.kill)
        return self._stack.enter_context(client)

    @staticmethod
    def _follows(node: Node) -> bool:
        return bool(node.raw.info("replication")["master_link_status"] == "up")

    def _knows_all(self, one: Any) -> bool:
        try:
            seen = _seen_by(one)
        except redis.ConnectionError:  # it needs the processor to start
            return False
        return bool(seen["num-slaves"] == 2 and seen["num-other-sentinels"] == 2)


def _seen_by(sentinel: Any) -> Any:
    """What a sentinel knows of the primary. Of all that it watches, as redis-py 6.4 cannot ask for one alone."""
    return sentinel.sentinel_masters()[SERVICE]


@contextmanager
def watched(name: str, *, tls: Sequence[str] = ()) -> Iterator[Watched]:
    """Servers of the program of that name, and their sentinels."""
    with tempfile.TemporaryDirectory(prefix="runstream-") as directory, ExitStack() as stack:
        yield Watched(name, directory, stack, tls)
