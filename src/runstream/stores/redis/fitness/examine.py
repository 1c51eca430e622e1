"""Examine a server: ask it, try it, judge it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Self

from runstream.model.durability import Durability
from runstream.model.errors import RunstreamError
from runstream.operations.operation import Exchange, Replies
from runstream.operations.runners import SyncRunner
from runstream.stores.redis.connection.cluster import ClusterTransport
from runstream.stores.redis.connection.driver import DEFAULT_RETRY_SECONDS, SyncDriver
from runstream.stores.redis.connection.single import SingleServerTransport
from runstream.stores.redis.connection.transport import Transport
from runstream.stores.redis.fitness.asking import ask_clock, ask_rights, ask_scripts, ask_settings
from runstream.stores.redis.fitness.facts import Latency, ServerFacts
from runstream.stores.redis.fitness.trying import Trial
from runstream.stores.redis.keys import Keys, check_namespace
from runstream.stores.redis.operations.client.durability import waiting_commands

__all__ = ["Asked", "examine"]

_PARTITIONS = 1024  # so many are tried for one that a server of a cluster has


class Asked(NamedTuple):
    """What is asked of a server.

    Attributes:
        namespace: The namespace whose rights are meant.
        durability: The level of durability that is wanted.
        samples: How many appends are timed; 0: nothing is appended.
        retry_seconds: For how many seconds a server is waited for that cannot be reached.
    """

    namespace: str
    durability: str
    samples: int
    retry_seconds: float

    @classmethod
    def of(cls, options: Mapping[str, Any], samples: int) -> Self:
        """What is asked for by the options of a store. Raises ConfigurationError for those that none has."""
        namespace, durability = options.get("namespace", "runstream"), options.get("durability", "primary")
        check_namespace(namespace)
        Durability.parse(durability)
        return cls(namespace, durability, samples, options.get("retry_seconds", DEFAULT_RETRY_SECONDS))


def examine(transport: Transport, place: str, asked: Asked) -> Sequence[ServerFacts]:
    """Find out all that can be known of a server, or of each that has slots of a cluster.

    Args:
        transport: The way to it.
        place: Where it is, for people to read.
        asked: What is asked of it.

    Raises:
        ConfigurationError: It cannot be asked anything.
        StoreUnavailable: It cannot be reached.
    """
    if not isinstance(transport, ClusterTransport):
        return [_examine(transport, place, asked, lambda _: True)]
    return [_examine(transport, one.place, asked, partial(_has, transport, one)) for one in transport.servers()]


def _has(cluster: ClusterTransport, server: SingleServerTransport, tag: str) -> bool:
    """Whether a server of a cluster has the keys with a hash tag."""
    return cluster.server_of(tag) is server


def _examine(transport: Transport, place: str, asked: Asked, is_there: Callable[[str], bool]) -> ServerFacts:
    """Find out all of the server that has the keys with these hash tags."""
    driver = SyncDriver(transport, asked.retry_seconds)
    trial = Trial(asked.namespace, transport.max_block_seconds, is_there, is_fake=transport.is_fake)
    info, config, hidden, client = _asking(driver.exchange, trial).run(ask_settings())
    once = _asking(driver.exchange_once, trial)
    facts = ServerFacts(
        place=place,
        user=client.get("user", transport.user),
        database=int(client["db"]) if client.get("db", "").isdigit() else None,
        is_fake=transport.is_fake,
        is_of_cluster=isinstance(transport, ClusterTransport),
        info=info,
        config=config,
        hidden={} if transport.is_fake else hidden,
        clock=once.run(ask_clock()),
        no_scripts=once.run(ask_scripts()),
        durability=asked.durability,
    )
    partition = next((one for one in Keys(asked.namespace, _PARTITIONS).partitions if is_there(one.tag)), None)
    try:
        if partition is None:
            facts = replace(facts, rights_unknown="no partition of the namespace lies there")
        else:
            waits = (
                ()
                if facts.is_fake or "INFO" in hidden
                else waiting_commands(Durability.parse(asked.durability), info)
            )
            rights = once.run(ask_rights(partition, by_scripts=not facts.no_scripts, waits=waits))
            facts = replace(facts, rights=rights)
    except RunstreamError as error:
        facts = replace(facts, rights_unknown=_reason(error))
    why_not = _why_not(facts, asked.samples)
    return replace(facts, not_appended=why_not) if why_not else _tried(once, trial, facts, asked)


def _asking(send: Callable[[Exchange], Replies], trial: Trial) -> SyncRunner:
    """Asks the server that has what is tried: what has no key goes there, too."""
    return SyncRunner(lambda exchange: send(exchange._replace(near=trial.tag)))


def _why_not(facts: ServerFacts, samples: int) -> str:
    """Why nothing is to be appended; "": it is."""
    if not samples:
        return "nothing was to be appended"
    if facts.is_replica:
        return "it is a replica"
    if facts.no_scripts or "write" in facts.rights:
        return f"user {facts.user!r} may not write"
    return ""


def _tried(once: SyncRunner, trial: Trial, facts: ServerFacts, asked: Asked) -> ServerFacts:
    """The facts, with what appends have shown."""
    try:
        if not once.run(trial.is_allowed()):
            why = f"user {facts.user!r} may not use keys of a namespace for it"
            return replace(facts, not_appended=why, lacks_keys=trial.pattern)
        once.run(trial.open())
        levels = once.run(trial.levels(_levels(facts, asked)))
        durability = "primary" if levels.get(asked.durability) else asked.durability
        latency = Latency.of(once.run(trial.times(asked.samples, durability)))
    except RunstreamError as error:
        return replace(facts, not_appended=_reason(error))
    finally:
        with suppress(RunstreamError):  # what refuses this has refused the rest, or it is gone; and it expires
            once.run(trial.remove())
    return replace(facts, levels=levels, latency=latency)


def _levels(facts: ServerFacts, asked: Asked) -> list[str]:
    """The levels of durability to try."""
    most = facts.number("connected_slaves")
    return list(dict.fromkeys(["fsync", *([f"replicated={most}"] if most else []), asked.durability]))


def _reason(error: RunstreamError) -> str:
    return str(getattr(error, "reason", error))
