"""A cluster of servers on loopback: primaries, a replica of each, and slots that can be moved."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cached_property
from itertools import pairwise
from typing import Any

import redis
import redis.asyncio
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from runstream.stores.redis.connection.cluster import ClusterTransport
from tests.support.backends import RedisBackend
from tests.support.servers import Node, Servers, eventually

__all__ = ["Cluster", "ClusterBackend", "cluster_of", "server_transport", "shared_cluster"]

_DOWN_MILLISECONDS = 1_000
_KEYS_AT_A_TIME = 10


class Cluster:
    """Primaries that share all slots, and their replicas.

    Those that have certificates talk TLS, to each other too, and announce their host's name, which these are of.
    """

    def __init__(
        self, name: str, directory: str, stack: ExitStack, primaries: int, replicas: int, tls: Sequence[str]
    ) -> None:
        self.name, self._tls = name, tls
        self.commands: dict[str, Any] = {}
        """What its servers know, once a client has asked for it."""
        self._directory, self._stack = directory, stack
        self.nodes: list[Node] = [self._start() for _ in range(primaries)]
        bounds = [at * REDIS_CLUSTER_HASH_SLOTS // primaries for at in range(primaries + 1)]
        for epoch, (node, slots) in enumerate(zip(self.nodes, pairwise(bounds), strict=True), 1):
            node.raw.execute_command("CLUSTER", "ADDSLOTS", *range(*slots))
            node.raw.execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for node in self.nodes[1:]:
            self._meet(node)
        self.await_whole()
        for _ in range(replicas):
            for primary in self.nodes[:primaries]:
                self.add_replica(primary)

    @property
    def url(self) -> str:
        """Where clients find it."""
        scheme, host = ("rediss+cluster", "localhost") if self._tls else ("redis+cluster", "127.0.0.1")
        return f"{scheme}://{','.join(f'{host}:{node.port}' for node in self.alive)}"

    @cached_property
    def raw(self) -> Any:
        """A client of all of it, for looking at what is there past any store."""
        client = _Raw(self)
        self._stack.callback(client.close)
        return client

    @property
    def alive(self) -> Sequence[Node]:
        """The servers that run."""
        return [node for node in self.nodes if node.is_alive]

    @property
    def primaries(self) -> Sequence[Node]:
        """Those that have slots, as the first server that runs says."""
        ports = self._ports()
        return [node for node in self.alive if node.port in ports]

    def _ports(self) -> set[int]:
        return {int(nodes[0][1]) for _, _, *nodes in self._told(self.alive[0])}

    @property
    def startup(self) -> dict[str, Any]:
        """By what redis-py's own clients find it."""
        return {"host": "127.0.0.1", "port": self.alive[0].port}

    def primary_of(self, key: str) -> Node:
        """The one that has the slot of a key."""
        slot = key_slot(key.encode())
        for first, last, *nodes in self._told(self.alive[0]):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == int(nodes[0][1]))
        raise AssertionError(f"nobody has slot {slot}")

    def is_whole(self) -> bool:
        """Whether every server that runs knows all others, takes all slots for served, and sees them alike.

        So it is with the epochs of primaries: of two claims to a slot each believes the one of the later epoch.
        """
        count = len(self.alive)
        told = [dict(line.split(":") for line in info.split()) for info in self._infos()]
        return all(one["cluster_state"] == "ok" and int(one["cluster_known_nodes"]) >= count for one in told) and (
            len({repr([part[:3] for part in self._told(node)]) for node in self.alive}) == 1
            and len({self._epochs(node) for node in self.alive}) == 1
        )

    def _epochs(self, node: Node) -> frozenset[tuple[str, str]]:
        """The epoch of each primary that has slots, as that server knows it."""
        lines = [line.split() for line in self._known(node).splitlines()]
        return frozenset((line[0], line[6]) for line in lines if "master" in line[2] and len(line) > 8)

    def await_whole(self) -> None:
        """Wait until it is whole; what its servers say of each other is the reason where it never is."""
        try:
            eventually(self.is_whole)
        except AssertionError as error:
            said = "\n".join(f"{node.port} says:\n{self._known(node)}" for node in self.alive)
            raise AssertionError(f"the cluster is not whole:\n{said}") from error

    def add_primary(self) -> Node:
        """A server without any slot."""
        node = self._start()
        self._meet(node)
        self.nodes.append(node)
        self.await_whole()
        return node

    def add_replica(self, primary: Node) -> Node:
        """A replica of that one, which has what it has when this returns."""
        node = self._start()
        self._meet(node)
        eventually(lambda: _id(primary) in self._known(node))
        node.raw.execute_command("CLUSTER", "REPLICATE", _id(primary))
        self.nodes.append(node)
        eventually(lambda: node.raw.info("replication")["master_link_status"] == "up")
        self.await_whole()
        return node

    def replica_of(self, primary: Node) -> Node:
        """The one replica of that one."""
        return next(node for node in self.alive if node.raw.info("replication").get("master_port") == primary.port)

    def await_replicas(self) -> None:
        """Wait until every replica has what its primary has: WAIT would tell of writes of its own connection."""
        eventually(lambda: all(map(_is_replicated, self.primaries)))

    def is_down(self) -> bool:
        """Whether all servers that run take the cluster for one that cannot serve."""
        return all("cluster_state:fail" in info for info in self._infos())

    def lacks_slots(self) -> bool:
        """Whether all servers that run know of slots that nobody serves."""
        return all("cluster_slots_fail:0\r" not in info for info in self._infos())

    def _infos(self) -> list[str]:
        return [_text(node.raw.execute_command(b"CLUSTER", b"INFO")) for node in self.alive]

    def keep(self, opened: AbstractContextManager[object]) -> None:
        """What is opened until the cluster ends."""
        self._stack.enter_context(opened)

    def leave(self, node: Node) -> None:
        """That one has no part in it any more."""
        self.nodes.remove(node)

    def await_promotion(self, former: Node) -> None:
        """Wait until all slots of one that is gone are served by another."""
        eventually(lambda: former.port not in self._ports() and self.is_whole())

    @contextmanager
    def moving(self, slot: int, source: Node, target: Node) -> Iterator[None]:
        """A slot is about to move: within, no key has moved yet unless :meth:`move_keys` is called."""
        target.raw.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", _id(source))
        source.raw.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", _id(target))
        yield
        self.move_keys(slot, source, target)
        # all are told: what they say to each other may leave one that has not heard with what was so before
        target.raw.execute_command("CLUSTER", "SETSLOT", slot, "NODE", _id(target))
        for node in (source, *(one for one in self.primaries if one not in (source, target))):
            with suppress(redis.ResponseError):  # one that has lost its last slot is a replica by now
                node.raw.execute_command("CLUSTER", "SETSLOT", slot, "NODE", _id(target))
        self.await_whole()

    def move_keys(self, slot: int, source: Node, target: Node, most: int | None = None) -> int:
        """Move keys of a slot that is moving, all or so many at most. Returns how many."""
        count = 0
        while (most is None or count < most) and (
            keys := source.raw.execute_command("CLUSTER", "GETKEYSINSLOT", slot, most or _KEYS_AT_A_TIME)
        ):
            place = ("127.0.0.1", target.port, "", 0, 5_000)
            source.raw.execute_command("MIGRATE", *place, "REPLACE", "KEYS", *keys)
            count += len(keys)
        return count

    def errors_said(self) -> dict[str, int]:
        """What the servers that run have refused, by its first word, and how often."""
        said: dict[str, int] = {}
        for node in self.alive:
            for name, counts in node.raw.info("errorstats").items():
                word = name.removeprefix("errorstat_")
                said[word] = said.get(word, 0) + counts["count"]
        return said

    def move(self, slot: int, target: Node) -> None:
        """Move a slot, with all that it has, while it is used."""
        source = next(node for node in self.primaries if self._has(node, slot))
        if source is not target:
            with self.moving(slot, source, target):
                pass

    @property
    def moves_whole_slots(self) -> bool:
        """Whether its servers move a slot in one step."""
        return self.name == "valkey"

    def move_whole(self, slot: int, source: Node, target: Node) -> None:
        """Move a slot in one step, which waits until all that it has is at the other server."""
        source.raw.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", _id(target))
        eventually(lambda: not self._has(source, slot))
        self.await_whole()

    def _has(self, node: Node, slot: int) -> bool:
        told = self._told(node)
        return any(first <= slot <= last and int(nodes[0][1]) == node.port for first, last, *nodes in told)

    def _start(self) -> Node:
        options = f"--cluster-enabled yes --cluster-node-timeout {_DOWN_MILLISECONDS} --hz 100"
        options += " --repl-diskless-sync-delay 0 --cluster-replica-validity-factor 0"
        directory = tempfile.mkdtemp(dir=self._directory)
        if self._tls:
            options += " --tls-cluster yes --cluster-announce-hostname localhost"
            options += " --cluster-preferred-endpoint-type hostname"
        node = Node(self.name, directory, *options.split(), tls=self._tls)
        self._stack.callback(node.end)
        return node

    def _meet(self, node: Node) -> None:
        node.raw.execute_command("CLUSTER", "MEET", "127.0.0.1", self.alive[0].port)
        eventually(lambda: _id(self.alive[0]) in self._known(node))

    @staticmethod
    def _known(node: Node) -> str:
        return _text(node.raw.execute_command(b"CLUSTER", b"NODES"))

    @staticmethod
    def _told(node: Node) -> Any:
        return node.raw.execute_command(b"CLUSTER", b"SLOTS")


def _text(said: Any) -> str:
    return said.decode() if isinstance(said, bytes) else str(said)


def _is_replicated(node: Node) -> bool:
    told = node.raw.info("replication")
    return bool(told["connected_slaves"] and told["slave0"]["offset"] >= told["master_repl_offset"])


def _id(node: Node) -> str:
    return _text(node.raw.execute_command(b"CLUSTER", b"MYID"))


@contextmanager
def cluster_of(name: str, primaries: int = 3, replicas: int = 0, *, tls: Sequence[str] = ()) -> Iterator[Cluster]:
    """A cluster of servers of the program of that name, with so many replicas of each primary."""
    with tempfile.TemporaryDirectory(prefix="runstream-") as directory, ExitStack() as stack:
        yield Cluster(name, directory, stack, primaries, replicas, tls)


_shared: dict[Servers, Cluster] = {}


def shared_cluster(servers: Servers, name: str) -> Cluster:
    """The cluster of a test session, started when it is first asked for."""
    servers.note_used("cluster")
    found = _shared.get(servers)
    if found is None:
        found = _shared[servers] = servers.keep(cluster_of(name))
        servers.beside += [("cluster", node.raw) for node in found.nodes]
    return found


_Cluster: Any = redis.RedisCluster  # redis-py's stubs lack its types


class _Client(_Cluster):  # type: ignore[misc]  # as above
    """A client of all servers. Those of redis-py ask for all commands that there are first, each of them anew."""

    def __init__(self, cluster: Cluster) -> None:
        self._of = cluster
        super().__init__(**cluster.startup)

    def command(self) -> Any:
        if not self._of.commands:
            self._of.commands = super().command()
        return dict(self._of.commands)


class _Raw(_Client):
    """One that takes names as bytes too, and looks for keys at all servers, which those of redis-py do not."""

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        return super().execute_command(_text(args[0]), *args[1:], **kwargs)

    def keys(self, pattern: Any = "*", **_: Any) -> Any:
        return list(self.scan_iter(pattern, count=1000))


def server_transport(store: Any, key: str) -> Any:
    """The transport of a sync store to the server that has a key."""
    transport = store._driver._transport
    if not isinstance(transport, ClusterTransport):
        return transport
    return transport._server(transport._route(transport._router.address_of(key)))


class ClusterBackend(RedisBackend):
    """A namespace in a cluster."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        super().__init__(cluster.raw, namespace)

    def client(self) -> Any:
        return _Client(self.cluster)

    def async_client(self) -> Any:
        return redis.asyncio.RedisCluster(**self.cluster.startup)
