"""Judge whether a server is fit for runs: each check is a function of what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from runstream.stores.redis.fitness import keeping, reaching, room
from runstream.stores.redis.fitness.facts import ServerFacts
from runstream.stores.redis.fitness.finding import Finding

__all__ = ["judge"]

_CHECKS: Sequence[Callable[[ServerFacts], Iterator[Finding]]] = (
    reaching.server,
    reaching.topology,
    keeping.persistence,
    keeping.files,
    keeping.eviction,
    room.memory,
    room.clients,
    keeping.replicas,
    keeping.durability,
    reaching.latency,
    reaching.scripts,
    reaching.rights,
    reaching.clock,
    reaching.timeouts,
    reaching.databases,
    reaching.hidden,
)


def judge(facts: ServerFacts) -> list[Finding]:
    """All that is found of a server, in the order of the checks; what it does not tell is left out."""
    return [finding for check in _CHECKS for finding in check(facts)]
