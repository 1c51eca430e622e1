"""Whether a server can be worked with: what it is, what may be asked of it, how quickly it answers."""

from __future__ import annotations

from collections.abc import Iterator

from runstream.stores.redis.fitness.allowing import allowing, allowing_all
from runstream.stores.redis.fitness.facts import ServerFacts
from runstream.stores.redis.fitness.finding import Finding, Severity
from runstream.stores.redis.operations.client.open_namespace import MINIMUM_VERSION
from runstream.stores.redis.replies import server_version

__all__ = ["clock", "databases", "hidden", "latency", "rights", "scripts", "server", "timeouts", "topology"]

_SLOW_SECONDS = 0.1
_CLOCK_NOTE_SECONDS, _CLOCK_WARNING_SECONDS = 1.0, 60.0
_SHORT_TIMEOUT_SECONDS = 60
_WITHOUT_RIGHT = {"read": Severity.ERROR, "write": Severity.WARNING}
"""All other work is for those who have it to do."""


def server(facts: ServerFacts) -> Iterator[Finding]:
    """What the server is."""
    if facts.is_fake:
        yield Finding(
            "server",
            Severity.WARNING,
            "fakeredis, in this process",
            "what it holds ends with the process: it is for tests",
            ["connect to a server (redis://HOST:PORT), or to one of its own (embedded:DIR)"],
        )
        return
    if "INFO" in facts.hidden:
        yield Finding(
            "server",
            Severity.ERROR,
            f"INFO is {facts.hidden['INFO']}",
            "no store opens: whether keys are evicted, and which server gave a lease, would not be known",
            allowing(facts, facts.hidden["INFO"], "INFO"),
        )
        return
    found = server_version(facts.info)
    text = f"{found.program} {found.version or 'of a version that it does not tell'}"
    if len(found.of_redis) == 2 and found.of_redis < MINIMUM_VERSION:
        yield Finding("server", Severity.ERROR, text, "no store opens", ["Redis 6.2 or later, or Valkey"])
        return
    yield Finding("server", Severity.OK, text)


def topology(facts: ServerFacts) -> Iterator[Finding]:
    """Whether it is the server that takes writes."""
    info, check = facts.info, "topology"
    if "role" not in info:
        return
    if facts.is_replica:
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        yield Finding(
            check,
            Severity.ERROR,
            f"a replica of {primary}, whose link is {info.get('master_link_status')}",
            "it takes no writes",
            [f"give the address of the primary, {primary}"],
        )
    elif info.get("cluster_enabled") == "1" and not facts.is_of_cluster:
        yield Finding(
            check,
            Severity.ERROR,
            "a server of a cluster",
            "what lies at another one is not found",
            ["write redis+cluster:// in place of redis://"],
        )
    else:
        found = "the primary that sentinels name" if facts.is_watched else "one primary"
        found = "a primary of a cluster" if facts.is_of_cluster else found
        yield Finding(check, Severity.OK, found)


def latency(facts: ServerFacts) -> Iterator[Finding]:
    """How long an append takes."""
    measured = facts.latency
    if measured is None:
        mends = [f"ACL SETUSER {facts.user} ~{facts.lacks_keys}"] if facts.lacks_keys else []
        without = "which levels of durability it gives is not known either"
        yield Finding("latency", Severity.NOTE, f"not measured: {facts.not_appended}", without, mends)
        return
    at = "" if facts.levels.get(facts.durability, "") else f", durability {facts.durability}"
    found = (
        f"p50 {1000 * measured.p50_seconds:.2f} ms, p99 {1000 * measured.p99_seconds:.2f} ms"
        f" ({measured.samples} appends{at})"
    )
    if measured.p99_seconds < _SLOW_SECONDS:
        yield Finding("latency", Severity.OK, found)
        return
    yield Finding(
        "latency",
        Severity.WARNING,
        found,
        "an agent waits for that at an event",
        ["CONFIG SET latency-monitor-threshold 100", "after some time: LATENCY DOCTOR"],
    )


def scripts(facts: ServerFacts) -> Iterator[Finding]:
    """Whether scripts can be run."""
    if not facts.no_scripts:
        yield Finding("scripts", Severity.OK, "can be run")
        return
    yield Finding(
        "scripts",
        Severity.WARNING,
        f"cannot be run: SCRIPT LOAD is {facts.no_scripts}",
        "nothing can be written: every write is a script",
        allowing(facts, facts.no_scripts, "SCRIPT|LOAD", "EVALSHA"),
    )


def rights(facts: ServerFacts) -> Iterator[Finding]:
    """What the user may not do."""
    check = "rights"
    if facts.rights_unknown:
        yield Finding(
            check,
            Severity.NOTE,
            f"not known: {facts.rights_unknown}",
            "what the user may not call is told when it is called",
            [f"runstream acl --role ROLE --user {facts.user}, which prints the rule of each role"],
        )
    elif not facts.rights and not facts.no_scripts:
        yield Finding(check, Severity.OK, f"user {facts.user!r} may do all that runstream does")
    for work, missing in facts.rights.items():
        yield Finding(
            check,
            _WITHOUT_RIGHT.get(work, Severity.NOTE),
            f"user {facts.user!r} cannot {work}: {', '.join((*missing.denied, *missing.unknown))}",
            f"who is to {work} as this user gets a ConfigurationError",
            allowing_all(facts, missing),
        )


def clock(facts: ServerFacts) -> Iterator[Finding]:
    """How far the server's clock is from the one here."""
    if facts.clock is None:
        return
    ahead, within = facts.clock
    apart = max(0.0, abs(ahead) - within)
    if apart < _CLOCK_NOTE_SECONDS:
        yield Finding("clock", Severity.OK, f"as here, within {max(abs(ahead), within):.3f} s")
        return
    yield Finding(
        "clock",
        Severity.NOTE if apart < _CLOCK_WARNING_SECONDS else Severity.WARNING,
        f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the one here",
        "ages, retention and times of events do not agree; leases go by the server's clock alone",
        ["on the machine that is wrong: timedatectl set-ntp true"],
    )


def timeouts(facts: ServerFacts) -> Iterator[Finding]:
    """For how long the server keeps a connection over which nothing comes."""
    idle, keepalive = facts.number("timeout"), facts.number("tcp-keepalive")
    if idle is None or keepalive is None:
        return
    if 0 < idle < _SHORT_TIMEOUT_SECONDS:
        yield Finding(
            "timeouts",
            Severity.NOTE,
            f"timeout {idle}: connections that are idle for {idle} s are closed",
            "an agent that thinks for longer connects anew at its next event",
            ["CONFIG SET timeout 0"],
        )
    if not keepalive:
        yield Finding(
            "timeouts",
            Severity.NOTE,
            "tcp-keepalive 0",
            "connections of machines that are gone stay, and count among maxclients",
            ["CONFIG SET tcp-keepalive 300"],
        )
    elif not 0 < idle < _SHORT_TIMEOUT_SECONDS:
        yield Finding("timeouts", Severity.OK, f"timeout {idle}, tcp-keepalive {keepalive}")


def databases(facts: ServerFacts) -> Iterator[Finding]:
    """Which database it is."""
    if facts.database is None:
        return
    count = facts.number("databases")
    found = f"database {facts.database}" + ("" if count is None else f" of {count}")
    if facts.database == 0:
        yield Finding("databases", Severity.OK, found)
        return
    yield Finding(
        "databases",
        Severity.NOTE,
        found,
        "a cluster has database 0 alone: these runs cannot move to one as they are",
        ["give database 0 (redis://HOST:PORT/0), and separate what shares it by namespaces (?namespace=dev)"],
    )


def hidden(facts: ServerFacts) -> Iterator[Finding]:
    """What the server does not tell, and a store does without."""
    if "CONFIG GET" in facts.hidden:
        yield Finding(
            "not shown",
            Severity.NOTE,
            f"CONFIG GET is {facts.hidden['CONFIG GET']}",
            "appendfsync, save, min-replicas-to-write, timeout and tcp-keepalive are not known here",
            allowing(facts, facts.hidden["CONFIG GET"], "CONFIG|GET"),
        )
