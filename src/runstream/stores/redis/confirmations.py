"""What a server's replies to WAIT, WAITAOF, CONFIG GET and INFO say of how durable a write is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runstream.model.durability import Durability
from runstream.operations.operation import Refusal
from runstream.stores.redis.replies import parse_info, parse_map

__all__ = ["keeps_whole_file", "reached", "reached_by", "syncs_each_write", "syncs_while_it_rewrites"]


def reached(replies: Sequence[Any]) -> Durability:
    """What all of these replies say was reached."""
    said = list(map(reached_by, replies))
    return Durability(all(one.fsync for one in said), min(one.replicas for one in said))


def reached_by(reply: Any) -> Durability:
    """What one reply says was reached."""
    if isinstance(reply, Refusal):  # as by a server that came after a failover, and has no append-only file
        return Durability()
    if isinstance(reply, int):
        return Durability(replicas=reply)
    if isinstance(reply, bytes | str):
        return Durability(fsync=keeps_whole_file(parse_info(reply)))
    if len(reply) == 2 and not isinstance(reply, Mapping) and isinstance(reply[1], int):
        return Durability(fsync=reply[0] > 0, replicas=reply[1])
    return Durability(fsync=syncs_each_write(reply) and syncs_while_it_rewrites(reply))


def syncs_each_write(settings: Any) -> bool:
    """Whether ``CONFIG GET *append*`` shows a file that has each write before its reply."""
    shown = parse_map(settings)
    return (shown.get(b"appendonly"), shown.get(b"appendfsync")) == (b"yes", b"always")


def syncs_while_it_rewrites(settings: Any) -> bool:
    """Whether ``CONFIG GET *append*`` shows that it does so also while a file is written anew."""
    return parse_map(settings).get(b"no-appendfsync-on-rewrite") == b"no"


def keeps_whole_file(info: Mapping[str, str]) -> bool:
    """Whether INFO shows an append-only file that a restart would load.

    One that was switched on has nothing before it was written for the first time. The same is told
    of one that was empty when the server started, while it is written anew for the first time.
    """
    is_written = "1" in (info.get("aof_rewrite_in_progress"), info.get("aof_rewrite_scheduled"))
    return info.get("aof_enabled") == "1" and not (is_written and info.get("aof_base_size") == "0")
