"""Whether a server has room for more: memory and connections."""

from __future__ import annotations

from collections.abc import Iterator

from runstream.stores.redis.fitness.facts import ServerFacts
from runstream.stores.redis.fitness.finding import Finding, Severity

__all__ = ["clients", "memory"]

_MEBIBYTE = 2**20
_NEARLY_FULL, _FULL = 0.75, 0.95
_FRAGMENTED = 1.5
_LEAST_FRAGMENTED_BYTES = 256 * _MEBIBYTE  # of less, the ratio says nothing


def memory(facts: ServerFacts) -> Iterator[Finding]:
    """How much is left of the server's memory."""
    used, most = facts.number("used_memory"), facts.number("maxmemory")
    if used is None or most is None:
        return
    rss = facts.number("used_memory_rss")
    taken = f"{_size(used)} used" + ("" if rss is None else f", {_size(rss)} of the system")
    yield _headroom(taken, used, most, facts.number("total_system_memory"))
    ratio = facts.info.get("mem_fragmentation_ratio", "")
    if used >= _LEAST_FRAGMENTED_BYTES and ratio.replace(".", "", 1).isdigit() and float(ratio) > _FRAGMENTED:
        defragments = facts.info.get("mem_allocator", "").startswith("jemalloc")
        yield Finding(
            "memory",
            Severity.NOTE,
            f"it takes {ratio} times what it holds (mem_fragmentation_ratio)",
            "the system has less than it seems, maxmemory does not count it",
            [*(["CONFIG SET activedefrag yes, where the server can"] if defragments else []), "MEMORY PURGE"],
        )


def _headroom(taken: str, used: int, most: int, machine: int | None) -> Finding:
    check, mends = "memory", _more_room(used, machine)
    if not most or (machine is not None and most > machine):
        above = "no maxmemory" if not most else f"maxmemory {_size(most)}, more than the machine has"
        return Finding(
            check,
            Severity.NOTE if mends[0].startswith("CONFIG") else Severity.WARNING,
            f"{taken}, {above}" + ("" if machine is None else f" ({_size(machine)})"),
            "the system kills a server that outgrows its machine; at its maxmemory it refuses writes instead, and"
            " is read and drained",
            mends,
        )
    part = used / most
    found = f"{taken}; {max(0, most - used) / most:.0%} of maxmemory left ({_size(most)})"
    if part < _NEARLY_FULL:
        return Finding(check, Severity.OK, found)
    return Finding(
        check,
        Severity.WARNING if part < _FULL else Severity.ERROR,
        found,
        "a full server refuses writes (StoreUnavailable) until what is archived has left it",
        mends,
    )


def _more_room(used: int, machine: int | None) -> list[str]:
    """What leaves room: a limit that leaves the machine a quarter, where more than a quarter of that is free."""
    limit = 2 * used if machine is None else machine // 4 * 3
    if used < _NEARLY_FULL * limit:
        return [f"CONFIG SET maxmemory {limit}"]
    return ["runstream status, for what holds it there; runstream trim --all", "or a machine with more memory"]


def clients(facts: ServerFacts) -> Iterator[Finding]:
    """How many more may connect."""
    now, most = facts.number("connected_clients"), facts.number("maxclients")
    if now is None or most is None:
        return
    found = f"{now} of {most} connected"
    if now < 0.8 * most:
        yield Finding("clients", Severity.OK, found)
        return
    yield Finding(
        "clients",
        Severity.WARNING,
        found,
        "the server refuses whoever comes when all are taken",
        [f"CONFIG SET maxclients {2 * most}"],
    )


def _size(size: int) -> str:
    return f"{size / _MEBIBYTE:.1f} MiB" if size < 1024 * _MEBIBYTE else f"{size / _MEBIBYTE / 1024:.1f} GiB"
