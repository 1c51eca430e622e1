"""Each check of a server, both ways: what is well is said to be, and what is not comes with what mends it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runstream.stores.redis.fitness.facts import DENIED, UNKNOWN, WAITING, Clock, Latency, Missing, ServerFacts
from runstream.stores.redis.fitness.finding import Finding, Severity
from runstream.stores.redis.fitness.judging import judge

GIBIBYTE = 2**30
FIT = ServerFacts(
    place="redis://localhost:6379/0",
    user="agent",
    database=0,
    info={
        "redis_version": "7.2.4",
        "role": "master",
        "cluster_enabled": "0",
        "aof_enabled": "1",
        "rdb_last_bgsave_status": "ok",
        "aof_last_bgrewrite_status": "ok",
        "aof_last_write_status": "ok",
        "rdb_changes_since_last_save": "7",
        "maxmemory_policy": "noeviction",
        "used_memory": str(GIBIBYTE),
        "used_memory_rss": str(GIBIBYTE),
        "maxmemory": str(4 * GIBIBYTE),
        "total_system_memory": str(8 * GIBIBYTE),
        "mem_fragmentation_ratio": "1.03",
        "mem_allocator": "jemalloc-5.3.0",
        "connected_clients": "10",
        "connected_slaves": "1",
        "slave0": "ip=10.0.0.2,port=6379,state=online,offset=1,lag=1",
    },
    config={
        "appendfsync": "everysec",
        "databases": "16",
        "maxclients": "10000",
        "min-replicas-to-write": "1",
        "save": "3600 1",
        "stop-writes-on-bgsave-error": "yes",
        "tcp-keepalive": "300",
        "timeout": "0",
    },
    clock=Clock(0.002, 0.001),
    levels={"fsync": "refused", "replicated=1": ""},
    latency=Latency(200, 0.001, 0.003),
)
NO_FILE = {"aof_enabled": "0"}
NOT_WHOLE = {"aof_rewrite_in_progress": "1", "aof_base_size": "0"}
PAUSES = {"no-appendfsync-on-rewrite": "yes"}
OK, NOTE, WARNING, ERROR = Severity

CASES: Mapping[str, tuple[dict[str, str], dict[str, str], dict[str, Any], Severity, list[str]]] = {
    "server: fakeredis": ({}, {}, {"is_fake": True}, WARNING, ["connect to a server"]),
    "server: INFO denied": ({}, {}, {"hidden": {"INFO": DENIED}}, ERROR, ["ACL SETUSER agent +info"]),
    "server: too old": ({"redis_version": "6.0.16"}, {}, {}, ERROR, ["Redis 6.2 or later"]),
    "server: of no version": ({"redis_version": ""}, {}, {}, OK, []),
    "topology: a replica": (
        {"role": "slave", "master_host": "10.0.0.1", "master_port": "6379", "master_link_status": "up"},
        {},
        {},
        ERROR,
        ["give the address of the primary, 10.0.0.1:6379"],
    ),
    "topology: a cluster": ({"cluster_enabled": "1"}, {}, {}, ERROR, ["write redis+cluster://"]),
    "topology: sentinels": ({}, {}, {"place": "redis+sentinel://localhost:26379/m"}, OK, []),
    "persistence: none": (NO_FILE, {"save": ""}, {}, WARNING, ["CONFIG SET appendonly yes"]),
    "persistence: snapshots": (NO_FILE, {}, {}, WARNING, ["CONFIG SET appendonly yes"]),
    "persistence: not shown": (NO_FILE, {"save": "-"}, {}, WARNING, ["CONFIG SET appendonly yes"]),
    "persistence: not synced": ({}, {"appendfsync": "no"}, {}, WARNING, ["CONFIG SET appendfsync everysec"]),
    "persistence: always": ({}, {"appendfsync": "always"}, {}, OK, []),
    "files: append-only": ({"aof_last_write_status": "err"}, {}, {}, ERROR, ["make room"]),
    "files: snapshot": ({"rdb_last_bgsave_status": "err"}, {}, {}, ERROR, ["make room", "BGSAVE"]),
    "files: snapshot, and writes go on": (
        {"rdb_last_bgsave_status": "err"},
        {"stop-writes-on-bgsave-error": "no"},
        {},
        WARNING,
        ["make room", "BGSAVE"],
    ),
    "files: rewrite": ({"aof_last_bgrewrite_status": "err"}, {}, {}, WARNING, ["make room", "BGREWRITEAOF"]),
    "eviction: of all keys": (
        {"maxmemory_policy": "allkeys-lfu"},
        {},
        {},
        ERROR,
        ["CONFIG SET maxmemory-policy noeviction"],
    ),
    "persistence: not whole": (NOT_WHOLE, {}, {}, WARNING, ["wait until INFO persistence"]),
    "persistence: not synced while a file is written anew": (
        {},
        PAUSES,
        {},
        WARNING,
        ["CONFIG SET no-appendfsync-on-rewrite no"],
    ),
    "eviction: of keys with a TTL": ({"maxmemory_policy": "volatile-ttl"}, {}, {}, OK, []),
    "memory: no limit": ({"maxmemory": "0"}, {}, {}, NOTE, [f"CONFIG SET maxmemory {6 * GIBIBYTE}"]),
    "memory: no limit, and nearly all is used": (
        {"maxmemory": "0", "used_memory": str(7 * GIBIBYTE)},
        {},
        {},
        WARNING,
        ["runstream status", "or a machine"],
    ),
    "memory: no limit, of a machine that does not tell": (
        {"maxmemory": "0", "total_system_memory": ""},
        {},
        {},
        NOTE,
        [f"CONFIG SET maxmemory {2 * GIBIBYTE}"],
    ),
    "memory: a limit beyond the machine": (
        {"maxmemory": str(16 * GIBIBYTE)},
        {},
        {},
        NOTE,
        [f"CONFIG SET maxmemory {6 * GIBIBYTE}"],
    ),
    "memory: little left": (
        {"used_memory": str(3 * GIBIBYTE)},
        {},
        {},
        WARNING,
        [f"CONFIG SET maxmemory {6 * GIBIBYTE}"],
    ),
    "memory: full": ({"used_memory": str(4 * GIBIBYTE)}, {}, {}, ERROR, [f"CONFIG SET maxmemory {6 * GIBIBYTE}"]),
    "memory: all that the machine has is full": (
        {"used_memory": str(6 * GIBIBYTE), "maxmemory": str(6 * GIBIBYTE)},
        {},
        {},
        ERROR,
        ["runstream status", "or a machine"],
    ),
    "memory: fragmented": (
        {"mem_fragmentation_ratio": "1.9"},
        {},
        {},
        NOTE,
        ["CONFIG SET activedefrag yes", "MEMORY PURGE"],
    ),
    "memory: fragmented, of another allocator": (
        {"mem_fragmentation_ratio": "1.9", "mem_allocator": "libc"},
        {},
        {},
        NOTE,
        ["MEMORY PURGE"],
    ),
    "clients: many": ({"connected_clients": "9000"}, {}, {}, WARNING, ["CONFIG SET maxclients 20000"]),
    "replicas: none": ({"connected_slaves": "0"}, {"min-replicas-to-write": "0"}, {}, NOTE, ["on another server"]),
    "replicas: one that is not online": (
        {"slave0": "ip=10.0.0.2,port=6379,state=wait_bgsave,offset=0,lag=0"},
        {"min-replicas-to-write": "0"},
        {},
        WARNING,
        ["look at the log of 10.0.0.2:6379"],
    ),
    "replicas: one that lags": (
        {"slave0": "ip=10.0.0.2,port=6379,state=online,offset=0,lag=60"},
        {"min-replicas-to-write": "0"},
        {},
        WARNING,
        ["look at the log of 10.0.0.2:6379"],
    ),
    "replicas: too few": ({}, {"min-replicas-to-write": "2"}, {}, ERROR, ["CONFIG SET min-replicas-to-write 1"]),
    "replicas: none required": (
        {},
        {"min-replicas-to-write": "0"},
        {},
        NOTE,
        ["CONFIG SET min-replicas-to-write 1"],
    ),
    "replicas: none required, and sentinels promote": (
        {},
        {"min-replicas-to-write": "0"},
        {"place": "redis+sentinel://localhost:26379/m"},
        WARNING,
        ["CONFIG SET min-replicas-to-write 1"],
    ),
    "durability: no file": (
        NO_FILE,
        {},
        {"durability": "fsync"},
        ERROR,
        ["CONFIG SET appendonly yes", "CONFIG SET appendfsync always"],
    ),
    "durability: a file of Redis 8": (
        {**NO_FILE, "redis_version": "8.0.1"},
        {},
        {"durability": "fsync"},
        ERROR,
        ["CONFIG SET appendonly yes"],
    ),
    "durability: too few replicas": (
        {},
        {},
        {"durability": "replicated=3", "levels": {"replicated=3": "refused"}},
        ERROR,
        ["on 2 more servers: REPLICAOF"],
    ),
    "durability: late replicas": (
        {},
        {},
        {"durability": "replicated=1", "levels": {"replicated=1": "late"}},
        ERROR,
        ["look at the logs of the replicas (10.0.0.2:6379)"],
    ),
    "durability: WAIT denied": (
        {},
        {},
        {
            "durability": "replicated=1",
            "levels": {"replicated=1": "denied"},
            "rights": {WAITING: Missing(["WAIT"])},
        },
        ERROR,
        ["ACL SETUSER agent +wait"],
    ),
    "durability: CONFIG of another name": (
        {},
        {},
        {"durability": "fsync", "hidden": {"CONFIG GET": UNKNOWN}},
        ERROR,
        ["rename-command, in the server's file: leave CONFIG as"],
    ),
    "durability: WAITAOF of Redis 8 denied": (
        {"redis_version": "8.0.1"},
        {},
        {"durability": "fsync", "rights": {WAITING: Missing(["WAITAOF"])}},
        ERROR,
        ["ACL SETUSER agent +waitaof"],
    ),
    "durability: not synced while a file is written anew": (
        {},
        {"appendfsync": "always", **PAUSES},
        {"durability": "fsync"},
        ERROR,
        ["CONFIG SET no-appendfsync-on-rewrite no"],
    ),
    "durability: a file that is not whole": (
        NOT_WHOLE,
        {"appendfsync": "always"},
        {"durability": "fsync"},
        ERROR,
        ["wait until INFO persistence"],
    ),
    "durability: given": ({}, {}, {"durability": "replicated=1"}, OK, []),
    "latency: slow": (
        {},
        {},
        {"latency": Latency(20, 0.01, 0.2)},
        WARNING,
        ["CONFIG SET latency-monitor-threshold", "after some time: LATENCY DOCTOR"],
    ),
    "latency: not measured": ({}, {}, {"latency": None, "not_appended": "it is a replica"}, NOTE, []),
    "latency: not allowed": (
        {},
        {},
        {"latency": None, "not_appended": "denied", "lacks_keys": "{x:doctor-*"},
        NOTE,
        ["ACL SETUSER agent ~{x:doctor-*"],
    ),
    "scripts: denied": (
        {},
        {},
        {"no_scripts": DENIED},
        WARNING,
        ["ACL SETUSER agent +script|load +evalsha"],
    ),
    "rights: reading": ({}, {}, {"rights": {"read": Missing(["HGET"])}}, ERROR, ["ACL SETUSER agent +hget"]),
    "rights: writing": (
        {},
        {},
        {"rights": {"write": Missing(["HSET", "DEL"])}},
        WARNING,
        ["ACL SETUSER agent +hset +del"],
    ),
    "rights: other work": ({}, {}, {"rights": {"drain": Missing((), ["RENAME"])}}, NOTE, ["rename-command"]),
    "not shown: a CONFIG of another name": (
        {},
        {},
        {"hidden": {"CONFIG GET": UNKNOWN}},
        NOTE,
        ["rename-command, in the server's file: leave CONFIG as"],
    ),
    "rights: not known": ({}, {}, {"rights_unknown": "it is a replica"}, NOTE, ["runstream acl"]),
    "clock: apart": ({}, {}, {"clock": Clock(-5.0, 0.1)}, NOTE, ["on the machine that is wrong"]),
    "clock: far apart": ({}, {}, {"clock": Clock(500.0, 0.1)}, WARNING, ["on the machine that is wrong"]),
    "clock: not known better": ({}, {}, {"clock": Clock(5.0, 5.0)}, OK, []),
    "timeouts: short": ({}, {"timeout": "30"}, {}, NOTE, ["CONFIG SET timeout 0"]),
    "timeouts: long": ({}, {"timeout": "3600"}, {}, OK, []),
    "timeouts: no keepalive": ({}, {"tcp-keepalive": "0"}, {}, NOTE, ["CONFIG SET tcp-keepalive 300"]),
    "databases: another": ({}, {}, {"database": 3}, NOTE, ["give database 0"]),
    "not shown: CONFIG": (
        {},
        {},
        {"hidden": {"CONFIG GET": DENIED}},
        NOTE,
        ["ACL SETUSER agent +config|get"],
    ),
}
"""By check and what it is: what differs from a fit server, and the worst that is found of it."""


def worst(facts: ServerFacts, check: str) -> Finding:
    """The worst that the check finds."""
    return max((one for one in judge(facts) if one.check == check), key=lambda one: one.severity)


def test_of_a_fit_server_all_is_well() -> None:
    found = judge(FIT)
    assert {one.severity for one in found} == {OK}
    assert not [one for one in found if one.without or one.mends]
    assert len({one.check for one in found}) == len(found), "each once"
    assert {name.partition(":")[0] for name in CASES} == {*(one.check for one in found), "not shown"}


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_well_is_told_with_what_mends_it(name: str) -> None:
    """And nothing else is told of it that is worse; the other checks say what they did."""
    info, config, others, severity, mends = CASES[name]
    settings = {name: text for name, text in {**FIT.config, **config}.items() if text != "-"}
    facts = replace(FIT, info={**FIT.info, **info}, config=settings, **others)
    check = name.partition(":")[0]
    found = worst(facts, check)
    assert found.severity == severity
    assert len(found.mends) == len(mends)
    assert all(line.startswith(begins) for line, begins in zip(found.mends, mends, strict=True)), found.mends
    assert bool(found.without) == (severity is not OK)


def test_what_is_not_told_is_left_out() -> None:
    """Of a server that tells nothing, as fakeredis; and numbers that are none are none."""
    bare = ServerFacts(place="fake:", is_fake=True, latency=FIT.latency)
    assert {one.check for one in judge(bare)} == {"server", "latency", "scripts", "rights"}
    odd = replace(FIT, info={**FIT.info, "used_memory": "much", "mem_fragmentation_ratio": "nan"})
    assert "memory" not in {one.check for one in judge(odd)}


def test_the_page_about_operations_names_each_check_with_the_severities_that_it_has() -> None:
    page = (Path(__file__).parents[4] / "docs/operations.md").read_text("utf-8")
    section = page.partition("## Is the server fit")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z ]+)` \|.*\| ([a-z, ]+) \|$", section, re.MULTILINE)
    seen: dict[str, set[Severity]] = {}
    for name, (*_, severity, _mends) in CASES.items():
        seen.setdefault(name.partition(":")[0], set()).add(severity)
    written = {check: {Severity[one.upper()] for one in text.split(", ")} for check, text in rows}
    assert written == {check: found - {OK} for check, found in seen.items()}


def test_percentiles_are_of_the_samples_that_there_are() -> None:
    assert Latency.of([3.0]) == (1, 3.0, 3.0)
    assert Latency.of([float(number) for number in range(200, 0, -1)]) == (200, 100.0, 198.0)
