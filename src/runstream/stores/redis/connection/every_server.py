"""One reply out of those of all servers of a cluster: what is asked of no key is asked of each.

Where they differ it is the one of the server that is least fit: what it cannot do, the cluster cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runstream.operations.operation import Command, Refusal
from runstream.stores.redis.confirmations import keeps_whole_file, reached_by
from runstream.stores.redis.replies import parse_info, server_version

__all__ = ["least", "least_reached"]

_LEAST = ("aof_enabled", "connected_slaves")
_SUMS = ("used_memory",)
_OF_FILE = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "aof_base_size")


def least(command: Command, replies: Sequence[Any]) -> Any:
    """One reply to a command that was sent to every server.

    Args:
        command: INFO, TIME or CONFIG GET.
        replies: What each says.
    """
    for reply in replies:
        if isinstance(reply, Refusal):
            return reply
    return _MERGED.get(command[0], least_reached)(replies)


def least_reached(replies: Sequence[Any]) -> Any:
    """Of replies to a confirmation (WAIT, WAITAOF, CONFIG GET, INFO) the one by which the least was reached."""
    for reply in replies:
        if isinstance(reply, Refusal):
            return reply
    if isinstance(replies[0], int):
        return min(replies)
    if all(isinstance(reply, list) and all(isinstance(number, int) for number in reply) for reply in replies):
        return [min(numbers) for numbers in zip(*replies, strict=True)]
    return next((reply for reply in replies if not reached_by(reply).fsync), replies[0])


def _latest(replies: Sequence[Any]) -> Any:
    """TIME: no server has a later one, so what came due by then has come due at each."""
    return max(replies, key=lambda reply: (int(reply[0]), int(reply[1])))


def _least_fit(replies: Sequence[Any]) -> bytes:
    """INFO: of the oldest server, with the most dangerous policy, the fewest replicas, and so on."""
    told = sorted(map(parse_info, replies), key=_version)
    merged = {name: value for name, value in told[0].items() if all(name in one for one in told)}
    for name in merged:
        numbers = [int(one[name]) for one in told if one[name].isdigit()]
        if numbers and name in _LEAST:
            merged[name] = str(min(numbers))
        elif name in _SUMS:
            merged[name] = str(sum(numbers))
    limited = [one for one in told if "used_memory" in merged and one.get("maxmemory", "0") != "0"]
    if limited:  # at so much in all the first server is full, if all grow alike
        growth = min(int(one["maxmemory"]) / int(one["used_memory"]) for one in limited)
        merged["maxmemory"] = str(int(growth * int(merged["used_memory"])))
    for name, begins in (("maxmemory_policy", "allkeys-"), ("role", "slave")):
        found = [one[name] for one in told if one.get(name, "").startswith(begins)]
        merged |= {name: found[0]} if found else {}
    for one in told:
        if one.get("aof_enabled") == "1" and not keeps_whole_file(one):
            merged |= {name: one[name] for name in _OF_FILE if name in one}
    return "".join(f"{name}:{value}\r\n" for name, value in merged.items()).encode()


def _version(info: Mapping[str, str]) -> tuple[int, ...]:
    return server_version(info).of_redis


_MERGED: Mapping[bytes, Callable[[Sequence[Any]], Any]] = {b"INFO": _least_fit, b"TIME": _latest}
