"""What each role must be allowed by the server, and the ACL rules that allow no more.

The commands are those that the role's operations send, and those that its scripts call; the keys are those of the
namespace that they name. The server checks the keys of a script when it is called, and takes all of them for
written: so only what no script of the role names can be read-only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from runstream.model.durability import PRIMARY, Durability
from runstream.stores.redis.keys import PartitionKeys, check_namespace, hash_tag, namespace_config
from runstream.stores.redis.scripts.library import called_by

__all__ = ["PARTS", "KeyPattern", "Part", "Role", "ServerVersion", "acl_rule", "commands_of_role", "keys_of_role"]

ServerVersion = tuple[int, int]
"""Of Redis, or of Valkey, whose numbers go on from Redis 7.2."""

_READ_ONLY_KEYS: ServerVersion = (7, 0)
_SETINFO: ServerVersion = (7, 2)
_WAITAOF: ServerVersion = (7, 2)


class Role(StrEnum):
    """Whose rights are meant."""

    READER = "reader"
    """Reads and follows: ``runs``, ``show``, ``tail``, ``diff``, ``export``."""
    AGENT = "agent"
    """A reader that writes: all methods of a store but ``delete_run``."""
    WORKER = "worker"
    """``runstream drain`` and ``status``."""
    OPERATOR = "operator"
    """All that the others do, and deletes, restores, resolves, repairs and trims."""


class KeyPattern(NamedTuple):
    """Keys that a role may use.

    Attributes:
        glob: What their names match.
        is_written: Whether it may write to them.
    """

    glob: str
    is_written: bool = True


class Part(NamedTuple):
    """What a role does beyond the roles that it includes: what it sends itself, and the scripts that it calls."""

    includes: tuple[Role, ...]
    sends: str
    scripts: tuple[str, ...] = ()


PARTS: Mapping[Role, Part] = {
    Role.READER: Part(
        (),
        "PING SELECT CLIENT|SETNAME CLUSTER|SLOTS ASKING INFO TIME MULTI EXEC TYPE EXISTS HEXISTS HGET HGETALL"
        " HKEYS HMGET XRANGE XREAD XREVRANGE ZCOUNT ZLEXCOUNT ZRANGEBYLEX ZRANGEBYSCORE ZREVRANGEBYSCORE ZSCORE",
    ),
    Role.AGENT: Part(
        (Role.READER,),
        "EVALSHA SCRIPT|LOAD HSCAN HSETNX",
        (
            *("append", "gather", "adopt", "revoke", "lease", "uncovered", "fork_intent", "fork", "fork_end"),
            *("give_up", "detach", "erase", "rebuild", "note_erasure"),
        ),
    ),
    Role.WORKER: Part(
        (Role.READER,),
        "EVALSHA SCRIPT|LOAD HSCAN HSETNX SCAN XLEN ZCARD ZRANGE",
        (
            *("enlist", "claim", "extend", "load", "settle", "park", "aside", "relist", "index_tags", "tagged"),
            *("report", "retire", "forget", "clear", "fork", "fork_end", "give_up"),
            *("erase", "rebuild", "note_erasure"),
        ),
    ),
    Role.OPERATOR: Part(
        (Role.AGENT, Role.WORKER),
        "BGREWRITEAOF BGSAVE",
        ("delete", "refill", "switch", "drop", "revisit", "unpark"),
    ),
}


def commands_of_role(role: Role, server: ServerVersion, durability: Durability = PRIMARY) -> frozenset[str]:
    """The commands that a role must be allowed, as ``GET`` or ``CONFIG|GET``, and needs no more than.

    Args:
        role: The role.
        server: The server's version; of what it does not know nothing is asked.
        durability: The highest that writes ask for.
    """
    part = PARTS[role]
    commands = {*part.sends.split(), *called_by(*part.scripts)}
    for included in part.includes:
        commands |= commands_of_role(included, server)
    if durability.replicas:
        commands.add("WAIT")
    if durability.fsync:
        commands.add("CONFIG|GET")
    if durability != PRIMARY and server >= _WAITAOF:
        commands.add("WAITAOF")
    if server >= _SETINFO:  # redis-py tries it at every connection: the log of refusals would be full of it
        commands.add("CLIENT|SETINFO")
    return frozenset(commands)


def keys_of_role(role: Role, namespace: str) -> Sequence[KeyPattern]:
    """The keys that a role must be allowed.

    Those first that are used the most: the server tries one after the other.

    Raises:
        ConfigurationError: There can be no such namespace.
    """
    check_namespace(namespace)
    each = PartitionKeys(f"{{{namespace}:*}}")
    runs, config = f"{each.tag}:run:*", namespace_config(namespace)
    listed = (each.runs, each.config, each.deleted, each.session("*"), each.index("*"))
    if role is Role.READER:
        return [KeyPattern(glob, False) for glob in (runs, *listed, each.archives, config)]
    if role is Role.AGENT:
        written = (runs, each.due, *listed, each.leftovers, each.forking, each.rights, config)
        return [*map(KeyPattern, written), KeyPattern(each.archives, False)]
    return [KeyPattern(f"{each.tag}:*"), KeyPattern(f"{hash_tag(config)}:*")]


def acl_rule(
    role: Role, namespace: str, *, server: ServerVersion, durability: Durability = PRIMARY
) -> Sequence[str]:
    """The words by which ``ACL SETUSER`` gives a user the rights of a role, instead of those that it has.

    Args:
        role: The role.
        namespace: The namespace.
        server: The server's version. One before 7.0 knows no read-only keys: a role may write there what its
            commands can.
        durability: The highest that writes ask for.

    Raises:
        ConfigurationError: There can be no such namespace.
    """
    has_read_only = server >= _READ_ONLY_KEYS
    anew = ["on", "resetchannels", "resetkeys", *(["clearselectors"] if has_read_only else []), "-@all"]
    keys = [
        f"~{glob}" if is_written or not has_read_only else f"%R~{glob}"
        for glob, is_written in keys_of_role(role, namespace)
    ]
    commands = commands_of_role(role, server, durability)
    return [*anew, *keys, *(f"+{name.lower()}" for name in sorted(commands))]
