"""``runstream doctor`` on real servers: one bad setting each, and the line that is printed mends it."""

from __future__ import annotations

import re
import shlex
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import DurabilityNotReached, RedisCheckpointer, connect
from runstream.cli.support.exit_codes import ExitCode
from runstream.operations.runners import SyncRunner
from runstream.stores.redis.access import Role, acl_rule
from runstream.stores.redis.connection.driver import SyncDriver
from runstream.stores.redis.fitness.trying import Trial
from tests.support.backends import ServerBackend
from tests.support.commands import Said, run
from tests.support.kinds import REAL
from tests.support.samples import make_events, make_state
from tests.support.servers import DEADLINE_SECONDS, Node, eventually, needs_server, tcp_server

pytestmark = needs_server

SETTINGS = [
    ("maxmemory-policy allkeys-lru", "", "eviction", "error"),
    ("appendonly no", "", "persistence", "warning"),
    ("appendfsync no", "", "persistence", "warning"),
    ("no-appendfsync-on-rewrite yes", "", "persistence", "warning"),
    ("maxmemory USED", "", "memory", "warning"),
    ("maxmemory 0", "", "memory", "note"),
    ("min-replicas-to-write 1", "", "replicas", "error"),
    ("timeout 5", "", "timeouts", "note"),
    ("tcp-keepalive 0", "", "timeouts", "note"),
    ("appendonly no", "durability=fsync", "durability", "error"),
]
"""A bad setting, an option of the URL, and what is found of it."""
CODES = {"ok": ExitCode.FINE, "note": ExitCode.FINE, "warning": ExitCode.WARNINGS, "error": ExitCode.DOES_NOT_HOLD}
RULES = [
    ("-info", "server", "error"),
    ("-config", "not shown", "note"),
    ("-config -script -evalsha", "scripts", "warning"),
    ("-hget -zscore", "rights", "error"),
    ("-hset -xadd", "rights", "warning"),
    ("-rename -hkeys -pexpire", "rights", "note"),
    ("resetkeys ~{runstream:*} ~{runstream}:*", "latency", "note"),
]
"""What is taken from a user, and what is found of it."""


def by_default(names: Sequence[str]) -> list[Any]:
    """One server by default, the others exhaustively."""
    return [pytest.param(name, marks=() if name == REAL[0] else pytest.mark.exhaustive) for name in names]


on_a_server = pytest.mark.parametrize("name", by_default(REAL))


@pytest.fixture
def node(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that is fit."""
    directory = tmp_path_factory.mktemp("n")
    options = "--appendonly yes --maxmemory 1gb --repl-diskless-sync-delay 0"
    node = Node(name, str(directory), *options.split())
    try:
        yield node
    finally:
        node.end()


def examined(node: Node, options: str = "", user: str = "", samples: int = 1) -> Said:
    return run("doctor", f"unix://{user}{node.socket_path}?{options}", "--samples", str(samples))


def severities(said: Said) -> dict[str, str]:
    """The worst that was found, by check; the exit code is that of the worst of all."""
    order, found = list(CODES), dict[str, str]()
    table = said.out.partition("\n\n")[0].splitlines()[1:]
    at = table[0].index("severity")
    for line in table[1:]:
        check, severity = line[:at].strip(), line[at:].split()[0]
        found[check] = max(severity, found.get(check, "ok"), key=order.index)
    assert said.code == CODES[max(found.values(), key=order.index)]
    return found


def mends(said: Said, check: str, severity: str) -> list[str]:
    """The lines that are printed for what a check has found."""
    blocks = [block for block in said.out.split("\n\n") if block.startswith(f"{severity}: {check}: ")]
    return [line.strip() for block in blocks for line in block.splitlines()[1:]]


@on_a_server
def test_one_bad_setting_each_is_found_and_the_printed_line_mends_it(node: Node) -> None:
    """By the severity of the worst is the exit code; what was mended is found no more."""
    fit = examined(node)
    assert fit.err == ""
    unfit = {check: found for check, found in severities(fit).items() if found != "ok"}
    assert unfit | {"latency": "ok"} == {"replicas": "note", "latency": "ok"}, "the machine may be slow"
    for setting, option, check, severity in SETTINGS:
        key, _, value = setting.partition(" ")
        used = int(node.raw.info("memory")["used_memory"] * 1.2)
        former = node.raw.config_get(key)[key]
        node.raw.config_set(key, str(used) if value == "USED" else value)
        said = examined(node, option)
        assert severities(said)[check] == severity, setting
        assert node.raw.dbsize() == 0
        for line in mends(said, check, severity):
            node.raw.execute_command(*shlex.split(line))
        eventually(lambda: not node.raw.info("persistence")["aof_rewrite_in_progress"])
        said = examined(node, option)
        assert severities(said)[check] == severities(fit)[check], (setting, said.out)
        node.raw.config_set(key, former)
        node.raw.config_set("appendfsync", "everysec")


@on_a_server
def test_what_a_user_may_not_call_is_found_and_the_printed_rule_gives_it(node: Node) -> None:
    """Each kind of work is asked for by itself; without INFO and CONFIG all else is told."""
    for number, (rules, check, severity) in enumerate(RULES):
        user = f"agent{number}"
        node.raw.execute_command("ACL", "SETUSER", user, "on", ">secret", "~{runstream*", "+@all")
        node.raw.execute_command("ACL", "SETUSER", user, *rules.split())
        said = examined(node, user=f"{user}:secret@")
        assert severities(said)[check] == severity, (rules, said.out)
        assert "secret" not in said.out + said.err
        for line in mends(said, check, severity):
            node.raw.execute_command(*shlex.split(line))
        said = examined(node, user=f"{user}:secret@")
        assert severities(said).get(check, "ok") == "ok", (rules, said.out)
    assert node.raw.dbsize() == 0


@on_a_server
def test_who_has_a_role_is_named_and_may_do_what_the_role_does(node: Node) -> None:
    """Though such a user may not ask the server who it is."""
    for role in Role:
        node.raw.execute_command("ACL", "SETUSER", role, ">p", *acl_rule(role, "ns", server=(6, 2)))
        said = run("doctor", f"unix://{role}:p@{node.socket_path}?namespace=ns")
        assert severities(said)["rights"] != "error"
        lacking = re.findall(f"user '{role}' cannot ([a-z]+)", said.out)
        assert ("drain" in lacking) == (role in (Role.READER, Role.AGENT))
        assert not (lacking and role is Role.OPERATOR)
        assert (severities(said).get("scripts") == "warning") == (role is Role.READER), "it calls none"
        assert f"ACL SETUSER {role} +config|get" in said.out
        assert "default" not in said.out
        may_write = role is not Role.READER
        assert (severities(said)["latency"] == "note") != may_write, "it is measured by who may write"
    assert node.raw.dbsize() == 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", REAL)
def test_a_command_that_has_another_name_is_named(name: str, tmp_path: Path) -> None:
    options = [word for command in ("CONFIG", "XTRIM") for word in ("--rename-command", command, "")]
    node = Node(name, str(tmp_path), *options)
    try:
        said = examined(node)
        assert (severities(said)["rights"], severities(said)["not shown"]) == ("note", "note")
        assert "leave XTRIM as it is called" in mends(said, "rights", "note")[0]
    finally:
        node.end()


@pytest.mark.exhaustive  # what waits for replicas waits for seconds
@pytest.mark.parametrize("name", REAL)
def test_a_replica_is_found_and_the_address_that_is_printed_is_that_of_its_primary(
    node: Node, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of the primary it tells how many replicas there are, and that it gives them as a durability."""
    replica = Node(name, str(tmp_path_factory.mktemp("r")))
    try:
        replica.raw.execute_command("REPLICAOF", "127.0.0.1", node.port)
        eventually(lambda: replica.raw.info("replication")["master_link_status"] == "up")
        eventually(lambda: node.raw.info("replication").get("slave0", {}).get("state") == "online")
        said = examined(replica)
        assert severities(said)["topology"] == "error"
        (line,) = mends(said, "topology", "error")
        assert severities(run("doctor", f"redis://{line.split()[-1]}", "--samples", "1"))["topology"] == "ok"
        said = examined(node, "durability=replicated=1")
        assert "gives primary, replicated=1" in said.out
        assert mends(said, "replicas", "note") == ["CONFIG SET min-replicas-to-write 1"]
        said = examined(node, "durability=replicated=2")
        assert severities(said)["durability"] == "error"
        assert mends(said, "durability", "error")[0].startswith("on 1 more")
    finally:
        replica.end()


@pytest.mark.parametrize("redis_backend", by_default(REAL), indirect=True)
def test_nothing_of_the_namespace_is_touched_and_nothing_is_left(redis_backend: ServerBackend) -> None:
    store = redis_backend.open()
    store.append("r", make_events("r", 3), snapshot=make_state("r"))
    before, keys = redis_backend.footprint(), redis_backend.raw.dbsize()
    url = f"{redis_backend.server.url}?namespace={redis_backend.namespace}"
    found = run("doctor", "--url", url, "--samples", "5", "--json").document
    (node,) = found["nodes"]
    assert node["latency"]["samples"] == 5
    assert 0 < node["latency"]["p50_seconds"] <= node["latency"]["p99_seconds"] < DEADLINE_SECONDS
    assert (
        node["severity"]
        == found["severity"]
        == max((one["severity"] for one in node["findings"]), key=list(CODES).index)
    )
    assert redis_backend.footprint() == before
    assert redis_backend.raw.dbsize() == keys
    (silent,) = run("doctor", url, "--samples", "0", "--json").document["nodes"]
    assert silent["latency"] is None


def test_what_is_left_of_one_that_was_killed_expires(make_backend: Callable[[str], Any]) -> None:
    backend = make_backend(REAL[0])
    store = backend.open()
    assert isinstance(store, RedisCheckpointer)
    trial = Trial(backend.namespace, 1.0, lambda _: True, is_fake=False)
    driver: SyncDriver = store._driver
    runner = SyncRunner(driver.exchange)
    runner.run(trial.open())
    assert runner.run(trial.levels(["replicated=9"])).keys() == {"replicated=9"}
    assert len(runner.run(trial.times(3, "primary"))) == 3
    left = [key for key in backend.raw.scan_iter(f"{trial.pattern}") if key]
    assert len(left) >= 5
    assert all(0 < backend.raw.pttl(key) <= 600_000 for key in left)
    runner.run(trial.remove())
    assert not list(backend.raw.scan_iter(trial.pattern))


def test_what_was_appended_is_removed_if_the_trial_fails(
    make_backend: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend(REAL[0])
    keys = backend.raw.dbsize()

    def fail(*_: object) -> Any:
        raise DurabilityNotReached("x", run_id="r", offset=1, wanted="", reached="")

    monkeypatch.setattr(Trial, "times", fail)
    said = run("doctor", backend.server.url)
    assert "not measured: x" in said.out
    assert backend.raw.dbsize() == keys


def test_fakeredis_and_an_embedded_server_are_examined_like_others(tmp_path: Path) -> None:
    said = run("doctor", f"fake:{uuid.uuid4().hex}", "--samples", "3")
    assert severities(said)["server"] == "warning"
    assert "(3 appends" in said.out
    url = f"embedded:{tmp_path}/state"
    with closing(connect(url)):
        said = run("doctor", RUNSTREAM_URL=url)
    assert severities(said)["persistence"] == "ok"
    assert said.out.startswith(url)


@pytest.mark.parametrize(
    "url",
    [
        "memory:",
        "sqlite:nowhere.db",
        "embedded:nowhere",
        "unix:///nowhere?durability=most",
        "unix:///nowhere?namespace=a:b",
    ],
)
def test_what_is_no_server_is_a_mistake(url: str) -> None:
    said = run("doctor", url)
    assert (said.code, said.out) == (ExitCode.USAGE, "")


def test_an_archive_is_no_server_and_the_error_says_how_it_is_checked(tmp_path: Path) -> None:
    with closing(connect(f"jsonl:{tmp_path}/a")):
        said = run("doctor", "--url", f"jsonl:{tmp_path}/a")
    assert (said.code, "runstream verify" in said.err) == (ExitCode.USAGE, True)


def test_a_server_that_is_away_is_unavailable_and_no_password_is_shown() -> None:
    with tcp_server("s3cret") as port:
        said = run("doctor", f"redis://:s3cret@127.0.0.1:{port}", "--samples", "1")
        assert severities(said)["persistence"] == "warning"
        assert "s3cret" not in said.out + said.err
        assert f"redis://127.0.0.1:{port}/0" in said.out
        wrong = run("doctor", f"redis://:wr0ng@127.0.0.1:{port}")
        assert wrong.code == ExitCode.USAGE
    away = run("doctor", f"redis://:s3cret@127.0.0.1:{port}?retry_seconds=0")
    assert away.code == ExitCode.UNAVAILABLE
    assert not any(word in one.out + one.err for one in (wrong, away) for word in ("s3cret", "wr0ng"))
