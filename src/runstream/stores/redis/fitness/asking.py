"""Ask a server what it tells of itself, and what its user may call. Nothing is changed by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runstream.model.clock import unix_seconds
from runstream.model.identifiers import random_token
from runstream.operations.operation import Command, Exchange, Operation, Refusal
from runstream.stores.redis.fitness.facts import DENIED, UNKNOWN, WAITING, Clock, Missing
from runstream.stores.redis.keys import PartitionKeys, RunKeys
from runstream.stores.redis.replies import parse_info, parse_texts
from runstream.stores.redis.scripts.library import RIGHTS, SCRIPT
from runstream.stores.redis.scripts.script import script_call

__all__ = ["ask_clock", "ask_rights", "ask_scripts", "ask_settings"]

# one by one: Redis takes several names from 7.0 on, and by a pattern it would tell passwords, too
_SETTINGS = (
    "appendfsync",
    "databases",
    "maxclients",
    "min-replicas-to-write",
    "no-appendfsync-on-rewrite",
    "save",
    "stop-writes-on-bgsave-error",
    "tcp-keepalive",
    "timeout",
)
_LOOKS = 5  # at the clock: the quickest tells most

_SCRIPTS = {
    "write": ("append",),
    "lease": ("lease",),
    "fork": ("fork_intent", "fork_end"),
    "delete": ("delete", "detach"),
    "erase": ("erase",),
    "drain": ("settle",),
    "restore": ("refill", "drop", "revisit", "unpark"),
}
"""The scripts of each kind of work, but those that need the same as one of these."""
_NEEDS = {work: frozenset().union(*(SCRIPT[name].needs for name in names)) for work, names in _SCRIPTS.items()}


def _beside_scripts(key: str) -> Mapping[str, Sequence[Command]]:
    """What each kind of work calls beside scripts, on a key that is not there."""
    scores = (b"-inf", b"+inf")
    return {
        "read": (
            (b"EXISTS", key),
            (b"HEXISTS", key, b"x"),
            (b"HGET", key, b"x"),
            (b"HGETALL", key),
            (b"HMGET", key, b"x"),
            (b"XRANGE", key, b"-", b"+", b"COUNT", 1),
            (b"XREAD", b"COUNT", 1, b"STREAMS", key, 0),
            (b"XREVRANGE", key, b"+", b"-", b"COUNT", 1),
            (b"ZRANGEBYSCORE", key, *scores),
            (b"ZSCORE", key, b"x"),
        ),
        "drain": (
            (b"SCAN", b"0", b"MATCH", key, b"COUNT", 1),
            (b"ZCARD", key),
            (b"ZCOUNT", key, *scores),
            (b"ZRANGE", key, 0, 0),
        ),
    }


def ask_settings() -> Operation[tuple[Mapping[str, str], Mapping[str, str], Mapping[str, str], Mapping[str, str]]]:
    """What INFO and CONFIG GET tell, why one of them tells nothing, by its name, and what CLIENT INFO tells."""
    queries = [(b"CONFIG", b"GET", name) for name in _SETTINGS]
    info, client, *settings = yield Exchange([(b"INFO",), (b"CLIENT", b"INFO"), *queries], permissive=True)
    hidden: dict[str, str] = {}
    told = {}
    config: dict[str, str] = {}
    if isinstance(info, Refusal):
        hidden["INFO"] = _why(info)
    else:
        told = parse_info(info)
    for reply in settings:
        if isinstance(reply, Refusal):
            hidden["CONFIG GET"] = _why(reply)
        else:
            config |= parse_texts(reply)
    of_client = {} if isinstance(client, Refusal) else _pairs(client)
    return told, config, hidden, of_client


def _pairs(client: bytes) -> Mapping[str, str]:
    """The fields of CLIENT INFO."""
    parts = (part.partition("=") for part in client.decode(errors="replace").split())
    return {name: value for name, _, value in parts}


def ask_clock() -> Operation[Clock | None]:
    """How far the server's clock is from the one here; None if it does not say."""
    found: list[Clock] = []
    for _ in range(_LOOKS):
        before = unix_seconds()
        (reply,) = yield Exchange([(b"TIME",)], permissive=True)
        after = unix_seconds()
        if isinstance(reply, Refusal):
            return None
        there = int(reply[0]) + int(reply[1]) / 1e6
        found.append(Clock(there - (before + after) / 2, (after - before) / 2))
    return min(found, key=lambda clock: clock.within_seconds)


def ask_scripts() -> Operation[str]:
    """Whether scripts are denied to the user or unknown to the server; "": they can be run."""
    (reply,) = yield Exchange([(b"SCRIPT", b"LOAD", RIGHTS.source)], permissive=True)
    return _why(reply) if isinstance(reply, Refusal) else ""


def ask_rights(
    partition: PartitionKeys, *, by_scripts: bool, waits: Sequence[Command] = ()
) -> Operation[Mapping[str, Missing]]:
    """What cannot be called of what each kind of work needs.

    Args:
        partition: The partition in which it is to be called, on keys that are not there.
        by_scripts: Whether scripts can be run; else only what is called beside them is asked for.
        waits: The commands that the durability takes that is asked for.

    Raises:
        RunstreamError: The server could not say.
    """
    missing: dict[str, dict[str, str]] = {}
    beside = _beside_scripts(RunKeys(partition, random_token()).meta)
    for work, commands in {**beside, WAITING: waits}.items():
        for command in commands:  # one by one: of a cluster, SCAN goes alone
            (reply,) = yield Exchange([command], permissive=True)
            if isinstance(reply, Refusal):
                missing.setdefault(work, {})[command[0].decode()] = _why(reply)
    if by_scripts:
        wanted = sorted(frozenset().union(*_NEEDS.values()))
        (reply,) = yield Exchange([script_call(RIGHTS, (partition.rights,), wanted)], permissive=True)
        if isinstance(reply, Refusal):
            raise reply.error
        words = [word.decode() for word in reply]
        why = {"user": DENIED, "server": UNKNOWN}
        lacking = {name: why[whom] for name, whom in zip(words[::2], words[1::2], strict=True)}
        for work, names in _NEEDS.items():
            for name in sorted(names & lacking.keys()):
                missing.setdefault(work, {})[name] = lacking[name]
    return {
        work: Missing(*([name for name, by in names.items() if by == why] for why in (DENIED, UNKNOWN)))
        for work, names in missing.items()
    }


def _why(reply: Refusal) -> str:
    """Whether what was refused is denied to the user, or unknown to the server."""
    return DENIED if reply.is_denied else UNKNOWN
