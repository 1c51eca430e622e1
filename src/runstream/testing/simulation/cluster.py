"""A simulated cluster: servers that share the slots, which move, and the way of one process to all of them.

What lies in the slots is in one simulated server, so that whatever befalls it befalls all of them at once. The way
is that of a real cluster, with its map of slots and its redirections; each server gets its part of an exchange by
itself, by steps and with a fate of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from runstream.operations.operation import Command, Exchange, News, Replies, Wait, WaitAny
from runstream.stores.redis.connection.cluster import ClusterTransport
from runstream.stores.redis.connection.cluster_clients import ClusterClients
from runstream.stores.redis.connection.errors import moved_to
from runstream.stores.redis.connection.routing import Asked, Outcome
from runstream.stores.redis.connection.slots import SLOTS_QUERY, Address, slot_of_command
from runstream.testing.simulation.scheduler import Process
from runstream.testing.simulation.server import SimulatedServer, SimulatedTransport

__all__ = ["SimulatedCluster", "SimulatedClusterTransport"]

_SLOTS = 16_384


class SimulatedCluster:
    """Which server has which slot.

    Args:
        server: Has what lies in the slots.
        count: How many servers share them.
    """

    def __init__(self, server: SimulatedServer, count: int) -> None:
        self.server = server
        self.addresses = [(f"server-{number}", 6379) for number in range(count)]
        self._moved: dict[int, Address] = {}
        """Who has the slots that have moved: of the others each server has an equal part, in order."""

    def owner(self, slot: int) -> Address:
        """Who has a slot."""
        return self._moved.get(slot) or self.addresses[slot * len(self.addresses) // _SLOTS]

    def move(self, slot: int, address: Address) -> None:
        """Let a server have a slot; it is another one than the one before, and says so."""
        self._moved[slot] = address
        self.server.be_another()

    def ranges(self) -> list[Any]:
        """What each server replies to CLUSTER SLOTS."""
        count = len(self.addresses)
        parts = {-(-number * _SLOTS // count) for number in range(count)}  # rounded up
        # the slots before which another server may begin
        slots = sorted(parts | self._moved.keys() | {slot + 1 for slot in self._moved if slot + 1 < _SLOTS})
        firsts = [next(those) for _, those in groupby(slots, self.owner)]
        owned = [(first, following - 1, self.owner(first)) for first, following in pairwise([*firsts, _SLOTS])]
        return [[first, last, [host.encode(), port]] for first, last, (host, port) in owned]


class SimulatedClusterTransport(ClusterTransport):
    """The way of one process to a simulated cluster.

    Args:
        cluster: The cluster.
        process: Whose way it is.
        fates: The weights of the fates of what a server gets, in their order.
    """

    def __init__(self, cluster: SimulatedCluster, process: Process, fates: Callable[[], list[int]]) -> None:
        self._cluster = cluster
        self._members = {address: _Member(cluster, address, process, fates) for address in cluster.addresses}
        super().__init__(ClusterClients(cluster.addresses, lambda _: None, "cluster:"))

    def _server(self, address: Address) -> SimulatedTransport:
        return self._members[address]

    def _outcomes(self, asked: Sequence[Asked]) -> list[Outcome]:
        """A server has taken its part before the next one gets its own, the first one first or last."""
        server = self._cluster.server
        if len(asked) > 1 and server.has_moments and server.scheduler.choices.below(2):
            return [self._outcome(one) for one in reversed(asked)][::-1]
        return list(map(self._outcome, asked))

    def wait(self, wait: Wait) -> News | None:
        """Wait a little: whoever waits looks then."""
        return self._first.wait(wait._replace(most=0))

    def wait_any(self, wait: WaitAny) -> Mapping[int, News | None]:
        """Wait a little: whoever waits looks then."""
        return self._first.wait_any(wait)

    def close(self) -> None:
        """Nothing is open."""


class _Member(SimulatedTransport):
    """The way to one server of a cluster."""

    def __init__(
        self, cluster: SimulatedCluster, address: Address, process: Process, fates: Callable[[], list[int]]
    ) -> None:
        self._cluster, self._address = cluster, address
        super().__init__(cluster.server, process, fates)

    def _connect(self) -> None:
        super()._connect()
        self._is_of_cluster = True

    def execute(
        self, exchange: Exchange, since: int = 0, is_outdated: Callable[[], bool] = lambda: False
    ) -> Replies:
        """Execute what it has the slots of; of what it has not, say who has them."""
        if exchange.commands[0] == SLOTS_QUERY:
            return self._server.execute(lambda: [self._cluster.ranges()])
        moved = dict(self._moved(exchange))
        if not moved:
            return super().execute(exchange, since, is_outdated)
        own = [command for index, command in enumerate(exchange.commands) if index not in moved]
        unconfirmed: Replies = [0] * len(exchange.confirm)
        own_part = exchange._replace(commands=own)
        given = iter(super().execute(own_part, since, is_outdated) if own else unconfirmed)
        indexes = range(len(exchange.commands))
        return [moved[index] if index in moved else next(given) for index in indexes] + list(given)

    def _refusal(self, command: Command) -> str | None:
        """Who has its slot by now, if somebody else has."""
        moved = self._moved_to(command)
        return None if moved is None else "MOVED {} {}:{}".format(*moved)

    def _moved(self, exchange: Exchange) -> Any:
        for index, command in enumerate(exchange.commands):
            if (moved := self._moved_to(command)) is not None:
                yield index, moved_to(*moved)

    def _moved_to(self, command: Command) -> tuple[int, str, int] | None:
        slot = slot_of_command(command)
        if slot is None or (owner := self._cluster.owner(slot)) == self._address:
            return None
        return slot, *owner
