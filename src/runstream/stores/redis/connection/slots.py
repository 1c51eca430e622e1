"""Which server of a cluster has which slot, as its servers say, and which slot a command touches."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from redis.crc import key_slot

from runstream.model.errors import StoreUnavailable
from runstream.operations.operation import Command
from runstream.stores.redis.command_keys import keys_of

__all__ = ["SLOTS_QUERY", "Address", "Remap", "SlotMap", "slot_of_command", "slot_of_key"]

Address: TypeAlias = tuple[str, int]
"""Host and port."""

Remap: TypeAlias = Callable[[Address], Address]
"""Where a server is reached that says it has this address, as redis-py's ``address_remap``."""

SLOTS_QUERY: Command = (b"CLUSTER", b"SLOTS")

_UNKNOWN_HOSTS = (None, b"", "", b"?", "?")


class _Range(NamedTuple):
    """The slots from ``first`` to ``last``, and who has them."""

    first: int
    last: int
    primary: Address


class SlotMap:
    """Who has which slot.

    Args:
        ranges: The slots, as far as some server has them.
        nodes: All servers, replicas among them.
    """

    def __init__(self, ranges: Iterable[_Range], nodes: Iterable[Address]) -> None:
        self._ranges = sorted(ranges)
        self._firsts = [one.first for one in self._ranges]
        self.nodes = list(dict.fromkeys(nodes))
        self.primaries = sorted({one.primary for one in self._ranges})
        self.fingerprint = zlib.crc32(repr(self._ranges).encode())
        """Another one where another server has a slot."""

    @classmethod
    def parse(cls, reply: Any, told_by: Address, remap: Remap | None) -> SlotMap:
        """What a server says.

        Args:
            reply: Its reply to SLOTS_QUERY.
            told_by: Where it was reached: so are those whose host it does not know.
            remap: Where the others are reached; None: where it says.
        """

        def address(host: Any, port: Any, *_: Any) -> Address:
            known = told_by[0] if host in _UNKNOWN_HOSTS else host
            found = known.decode() if isinstance(known, bytes) else str(known), int(port)
            return found if remap is None else remap(found)

        parts = [(int(first), int(last), [address(*node) for node in nodes]) for first, last, *nodes in reply]
        return cls(
            (_Range(first, last, nodes[0]) for first, last, nodes in parts if nodes),
            (node for _, _, nodes in parts for node in nodes),
        )

    def address_of(self, slot: int) -> Address:
        """Who has a slot. Raises StoreUnavailable if nobody has."""
        at = bisect_right(self._firsts, slot) - 1
        if at < 0 or slot > self._ranges[at].last:
            raise StoreUnavailable(
                f"no server of the cluster has slot {slot}: it is not whole; see CLUSTER INFO and CLUSTER SLOTS"
                " for the slots that nobody serves, and give them to a server, or wait for a failover to end"
            )
        return self._ranges[at].primary


def slot_of_key(key: str | bytes) -> int:
    """The slot of a key."""
    slot: int = key_slot(key if isinstance(key, bytes) else key.encode(errors="surrogateescape"))
    return slot


def slot_of_command(command: Command) -> int | None:
    """The slot that a command of ours touches; None for one that has no key."""
    keys = keys_of(command)
    return slot_of_key(keys[0]) if keys else None
