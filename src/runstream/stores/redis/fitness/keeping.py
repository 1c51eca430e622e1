"""Whether a server keeps what it has acknowledged: on its disk, in its memory, at its replicas."""

from __future__ import annotations

from collections.abc import Iterator

from runstream.model.durability import Durability
from runstream.stores.redis.confirmations import keeps_whole_file
from runstream.stores.redis.fitness.allowing import allowing, allowing_all
from runstream.stores.redis.fitness.facts import WAITING, Missing, ServerFacts
from runstream.stores.redis.fitness.finding import Finding, Severity
from runstream.stores.redis.replies import server_version

__all__ = ["durability", "eviction", "files", "persistence", "replicas"]

_PAUSES = "no-appendfsync-on-rewrite"
_UNTIL_WHOLE = "wait until INFO persistence shows aof_rewrite_in_progress:0"
_LONGEST_LAG_SECONDS = 10  # replicas tell once a second how far they are


def persistence(facts: ServerFacts) -> Iterator[Finding]:
    """What a restart of the server leaves."""
    check = "persistence"
    if "aof_enabled" not in facts.info:
        return
    if facts.info["aof_enabled"] != "1":
        save = facts.config.get("save")
        since = f"{facts.info.get('rdb_changes_since_last_save', '?')} changes since the last snapshot"
        found = {None: f"no append-only file; {since}", "": "none: no append-only file, no snapshots"}.get(
            save, f"snapshots alone (save {save}); {since}"
        )
        without = (
            "a restart of the server loses all that is not archived"
            if save == ""
            else "a crash of the server loses what was acknowledged since the last snapshot"
        )
        yield Finding(check, Severity.WARNING, found, without, ["CONFIG SET appendonly yes"])
        return
    if not keeps_whole_file(facts.info):
        yield Finding(
            check,
            Severity.WARNING,
            "append-only file, which is being written for the first time",
            "a restart of the server loads nothing of it",
            [_UNTIL_WHOLE],
        )
        return
    policy = facts.config.get("appendfsync")
    if policy != "no" and facts.config.get(_PAUSES) == "yes":
        yield Finding(
            check,
            Severity.WARNING,
            f"append-only file, which is not synced while a file is written anew ({_PAUSES} yes)",
            "a crash of the machine meanwhile loses what was acknowledged in the last half minute or so",
            [f"CONFIG SET {_PAUSES} no"],
        )
        return
    if policy == "no":
        yield Finding(
            check,
            Severity.WARNING,
            "append-only file, synced when the system likes (appendfsync no)",
            "a crash of the machine loses what was acknowledged in the last half minute or so",
            ["CONFIG SET appendfsync everysec"],
        )
        return
    how = {
        "always": "synced before each reply (appendfsync always)",
        "everysec": "synced once a second (appendfsync everysec): a crash of the machine loses up to two seconds",
    }.get(policy or "", "how often it is synced is not shown")
    yield Finding(check, Severity.OK, f"append-only file, {how}")


def files(facts: ServerFacts) -> Iterator[Finding]:
    """Whether the server could write its files the last time that it tried."""
    info = facts.info
    said = {info.get(f"{one}_status") for one in ("aof_last_write", "rdb_last_bgsave", "aof_last_bgrewrite")}
    if said == {"ok"}:
        yield Finding("files", Severity.OK, "written the last time: append-only file, snapshot, rewrite")
    if info.get("aof_last_write_status") == "err":
        yield Finding(
            "files",
            Severity.ERROR,
            "the append-only file could not be written (aof_last_write_status err)",
            "the server refuses writes until it can (MISCONF)",
            ["make room on the server's disk"],
        )
    if info.get("rdb_last_bgsave_status") == "err":
        stops = facts.config.get("stop-writes-on-bgsave-error") != "no" and facts.config.get("save") != ""
        yield Finding(
            "files",
            Severity.ERROR if stops else Severity.WARNING,
            "the last snapshot could not be written (rdb_last_bgsave_status err)",
            "the server refuses writes until one can (MISCONF)" if stops else "its file is older than it seems",
            ["make room on the server's disk", "BGSAVE"],
        )
    if info.get("aof_last_bgrewrite_status") == "err":
        yield Finding(
            "files",
            Severity.WARNING,
            "the append-only file could not be written anew (aof_last_bgrewrite_status err)",
            "it grows until the disk is full, and what was erased stays in it",
            ["make room on the server's disk and in its memory", "BGREWRITEAOF"],
        )


def eviction(facts: ServerFacts) -> Iterator[Finding]:
    """Whether the server may evict what was acknowledged."""
    policy = facts.info.get("maxmemory_policy")
    if policy is None:
        return
    found = f"maxmemory-policy {policy}"
    if policy.startswith("allkeys-"):
        yield Finding(
            "eviction",
            Severity.ERROR,
            found,
            "it drops acknowledged events without a word: no store opens",
            ["CONFIG SET maxmemory-policy noeviction"],
        )
    elif policy == "noeviction":
        yield Finding("eviction", Severity.OK, found)
    else:
        yield Finding("eviction", Severity.OK, f"{found}: it evicts keys with a TTL, and no run has any")


def replicas(facts: ServerFacts) -> Iterator[Finding]:
    """Whether the loss of the server's machine loses what was acknowledged."""
    check, found = "replicas", facts.replicas
    if "role" not in facts.info or facts.is_replica:
        return
    late = [
        one
        for one in found
        if one.get("state") != "online" or int(one.get("lag", "0") or 0) > _LONGEST_LAG_SECONDS
    ]
    for one in late:
        yield Finding(
            check,
            Severity.WARNING,
            f"{one.get('ip')}:{one.get('port')}: {one.get('state')}, {one.get('lag')} s behind",
            "what was acknowledged since is lost if that one is promoted",
            [f"look at the log of {one.get('ip')}:{one.get('port')}, and the link to it"],
        )
    if not found:
        yield Finding(
            check,
            Severity.NOTE,
            "none",
            "the loss of its machine or disk loses what is not archived",
            [f"on another server: {_following(facts)}"],
        )
    elif not late:
        yield Finding(check, Severity.OK, f"{len(found)} connected, {_lag(facts)} behind")
    yield from _required_replicas(facts, len(found) - len(late))


def _lag(facts: ServerFacts) -> str:
    return f"at most {max(int(one.get('lag', '0') or 0) for one in facts.replicas)} s"


def _required_replicas(facts: ServerFacts, good: int) -> Iterator[Finding]:
    """What the server does while too few replicas are there."""
    required = facts.number("min-replicas-to-write")
    if required is None:
        return
    if required > good:
        yield Finding(
            "replicas",
            Severity.ERROR,
            f"min-replicas-to-write {required}, and {good} are there",
            "the server refuses all writes (NOREPLICAS)",
            [f"CONFIG SET min-replicas-to-write {good}"],
        )
    elif good and not required:
        yield Finding(
            "replicas",
            Severity.WARNING if facts.is_watched else Severity.NOTE,
            "min-replicas-to-write 0",
            "a primary that is cut off acknowledges writes that are lost when another one is promoted",
            ["CONFIG SET min-replicas-to-write 1"],
        )


def durability(facts: ServerFacts) -> Iterator[Finding]:
    """Which levels of durability the server gives, and whether that which the URL asks for is among them."""
    if not facts.levels:
        return
    given = ["primary", *(level for level, refused in facts.levels.items() if not refused)]
    found = f"gives {', '.join(dict.fromkeys(given))}"
    refused = facts.levels.get(facts.durability, "")
    if not refused:
        yield Finding("durability", Severity.OK, found)
        return
    yield Finding(
        "durability",
        Severity.ERROR,
        f"{found}, and not {facts.durability}",
        refused,
        _lines_for(facts, Durability.parse(facts.durability)),
    )


def _following(facts: ServerFacts) -> str:
    """What makes a server a replica of this one."""
    of_this_one = "CLUSTER REPLICATE ID" if facts.is_of_cluster else "REPLICAOF HOST PORT"
    return f"{of_this_one}, of this one"


def _lines_for(facts: ServerFacts, wanted: Durability) -> list[str]:
    """What lets the server give a level that it does not give."""
    lacks = allowing_all(facts, facts.rights.get(WAITING, Missing()))
    if not wanted.fsync:
        more = wanted.replicas - len(facts.replicas)
        if more > 0:
            return [*lacks, f"on {more} more servers: {_following(facts)}"]
        places = ", ".join(f"{one.get('ip')}:{one.get('port')}" for one in facts.replicas)
        return lacks or [f"look at the logs of the replicas ({places}), and the links to them"]
    if facts.info.get("aof_enabled") != "1":
        lacks.append("CONFIG SET appendonly yes")
    elif not keeps_whole_file(facts.info):
        lacks.append(_UNTIL_WHOLE)
    if server_version(facts.info).tells_of_syncs:
        return lacks
    if why := facts.hidden.get("CONFIG GET"):
        return [*lacks, *allowing(facts, why, "CONFIG|GET")]
    if facts.config.get("appendfsync") != "always":
        lacks.append("CONFIG SET appendfsync always")
    if facts.config.get(_PAUSES) == "yes":
        lacks.append(f"CONFIG SET {_PAUSES} no")
    return lacks
