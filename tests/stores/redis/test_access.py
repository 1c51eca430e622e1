"""With the rule of a role all of its business works, and nothing else does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import pytest
from redis import exceptions

import runstream
from runstream import ConfigurationError, connect
from runstream.model.durability import Durability
from runstream.stores.redis.access import PARTS, Role, commands_of_role, keys_of_role
from runstream.stores.redis.namespace import namespace_of
from tests.support.backends import ServerBackend
from tests.support.cluster import cluster_of
from tests.support.commands import run
from tests.support.kinds import REAL
from tests.support.roles import BUSINESS, VERSIONS, prepare
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import Server, needs_server, needs_valkey

NEWEST = (7, 2)
NOT_HEARD = {"PING", "SELECT", "CLIENT|SETNAME", "TYPE", "HSETNX"} | {"CLUSTER|SLOTS", "ASKING"}
NOT_HEARD |= {"BGREWRITEAOF", "BGSAVE"}
"""Asked for by a URL's options, of a key of another type than it must be, where the namespace is new, or in a
cluster; and what MONITOR does not tell."""
SOURCES = Path(runstream.__file__).parent.joinpath("stores/redis").rglob("*.py")

on_each_server = pytest.mark.parametrize(
    "server",
    [pytest.param(name, marks=() if name == REAL[0] else pytest.mark.exhaustive) for name in REAL],
    indirect=True,
)
for_each_role = pytest.mark.parametrize("role", Role)

Enter = Callable[[Role], str]


@pytest.fixture
def backend_of(server: Server, make_backend: Callable[[str], Any]) -> ServerBackend:
    return cast("ServerBackend", make_backend(server.name))


@pytest.fixture
def enter(backend_of: ServerBackend, server: Server, namespace: str) -> Iterator[Enter]:
    """The URL of a user who has the rights that the command prints for a role."""
    raw, version = backend_of.raw, VERSIONS[server.name]
    with ExitStack() as made:

        def enter(role: Role) -> str:
            user = f"{role}{namespace}"
            named = ("--role", role, "--namespace", namespace, "--user", user, "--server-version", version)
            said = run("acl", *named)
            assert said.code == 0, said.err
            raw.execute_command(*said.out.split(), ">p")
            made.callback(raw.execute_command, "ACL", "DELUSER", user)
            return f"unix://{user}:p@{server.socket_path}?namespace={namespace}"

        yield enter


@contextmanager
def refusals(raw: Any) -> Iterator[set[str]]:
    """What the server refuses to users meanwhile; known when it is over."""
    found: set[str] = set()
    raw.execute_command("ACL", "LOG", "RESET")
    yield found
    found |= {str(entry["object"]).lower().partition("|")[0] for entry in raw.acl_log()}


@needs_server
@on_each_server
@for_each_role
def test_with_its_rule_all_that_a_role_does_works(
    backend_of: ServerBackend, server: Server, namespace: str, enter: Enter, tmp_path: Path, role: Role
) -> None:
    """Nothing is refused but what a role does without: it is told what to do, or goes another way."""
    prepare(f"{server.url}?namespace={namespace}", tmp_path)
    url = enter(role)
    with refusals(backend_of.raw) as refused:
        BUSINESS[role](url, tmp_path)
    without = {
        Role.READER: {"evalsha"},
        Role.AGENT: {"bgsave", "bgrewriteaof", "config"},
        Role.OPERATOR: {"config"},
    }
    assert refused <= without.get(role, set()) | ({"client"} if server.name == "redis62" else set())


@needs_valkey
@pytest.mark.exhaustive
@pytest.mark.parametrize("role", [Role.WORKER, Role.OPERATOR])
def test_with_its_rule_a_role_works_in_a_cluster(tmp_path: Path, role: Role) -> None:
    """As at one server."""
    with cluster_of("valkey", 1) as cluster:
        prepare(f"{cluster.url}?namespace=c", tmp_path)
        said = run("acl", "--role", role, "--namespace", "c", "--user", "u")
        cluster.nodes[0].raw.execute_command(*said.out.split(), ">p")
        BUSINESS[role](f"{cluster.url.replace('//', '//u:p@')}?namespace=c", tmp_path)


@needs_server
@on_each_server
def test_who_comes_first_makes_the_namespace(backend_of: ServerBackend, enter: Enter, tmp_path: Path) -> None:
    """An agent, or a worker that waits for agents; a reader is told that there is none."""
    with pytest.raises(ConfigurationError, match=r"(?i)hsetnx"):
        connect(enter(Role.READER))
    for role in (Role.AGENT, Role.WORKER):
        connect(enter(role)).close()
        assert backend_of.key_names()
        backend_of.raw.delete(*backend_of.key_names())


@needs_valkey
@pytest.mark.parametrize("server", ["valkey"], indirect=True)
@pytest.mark.one_in(4)
@for_each_role
def test_a_role_needs_all_that_its_rule_allows(
    backend_of: ServerBackend, server: Server, namespace: str, tmp_path: Path, role: Role
) -> None:
    """Each command that no script calls is sent, and keys of each pattern are used, in the role's business."""
    url = f"{server.url}?namespace={namespace}"
    prepare(url, tmp_path)
    with backend_of.raw.monitor() as monitor:
        BUSINESS[role](url, tmp_path)
        backend_of.raw.echo("over")
        heard = list(takewhile(lambda said: said != "ECHO over", _commands(monitor)))
    sent = {"|".join(words.split()[:2]) for words in heard} | {words.partition(" ")[0] for words in heard}
    assert set(PARTS[role].sends.split()) - sent <= NOT_HEARD
    keys = {word for words in heard for word in words.split() if word.startswith(f"{{{namespace}")}
    for glob, _ in keys_of_role(role, namespace):
        assert any(fnmatchcase(key, glob) for key in keys), glob


def _commands(monitor: Any) -> Iterator[str]:
    while True:
        said = monitor.next_command()
        if said["client_type"] != "lua":
            yield said["command"]


def test_every_command_that_is_sent_is_one_of_a_role() -> None:
    """Or of a durability, or tells more where it is allowed."""
    sent = set(re.findall(r'(?<![\w"])\(b"([A-Z]+)"', "".join(path.read_text("utf-8") for path in SOURCES)))
    known = commands_of_role(Role.OPERATOR, NEWEST, Durability(fsync=True, replicas=1))
    assert len(sent) > 30
    assert sent <= {name.partition("|")[0] for name in known}


DANGEROUS = [
    "FLUSHALL",
    "FLUSHDB",
    "KEYS *",
    "RANDOMKEY",
    "DBSIZE",
    "MONITOR",
    "SHUTDOWN NOSAVE",
    "SAVE",
    "CONFIG GET requirepass",
    "CONFIG SET dir /tmp",
    "ACL LIST",
    "ACL WHOAMI",
    "CLIENT LIST",
    "CLIENT KILL TYPE normal",
    "CLIENT PAUSE 1",
    "SCRIPT FLUSH",
    "SCRIPT KILL",
    "REPLICAOF NO ONE",
    "SLOWLOG GET",
    "LATENCY RESET",
    "MODULE LIST",
    "SWAPDB 0 1",
    "MIGRATE h 1 k 0 1",
    "SUBSCRIBE x",
    "PUBLISH x y",
    "EVAL return 0",
]


@needs_server
@on_each_server
@for_each_role
def test_beyond_its_rule_nothing_works(
    backend_of: ServerBackend, server: Server, namespace: str, enter: Enter, role: Role
) -> None:
    """Not what is dangerous, and nothing in another namespace, be it one whose name begins likewise."""
    enter(role)
    others = (
        f"{{{namespace}2}}:config",
        f"{{{namespace}2:0}}:run:r:events",
        "{runstream:0}:runs",
        "x",
        f"{namespace}:x",
    )
    allowed = commands_of_role(role, NEWEST)
    with server.client(username=f"{role}{namespace}", password="p") as user:
        for words in DANGEROUS:
            with pytest.raises(exceptions.NoPermissionError):
                user.execute_command(*words.split(" "))
        for key in others:
            for command in (
                ["HGETALL", key],
                ["TYPE", key],
                ["XRANGE", key, "-", "+"],
                ["HSET", key, "f", "v"],
                ["DEL", key],
            ):
                with pytest.raises(exceptions.NoPermissionError, match="key" if command[0] in allowed else None):
                    user.execute_command(*command)
            if "EVALSHA" in allowed:
                loaded = user.script_load("return redis.call('DEL', ARGV[1])")
                with pytest.raises(exceptions.ResponseError, match=r"(?i)permission"):
                    user.evalsha(loaded, 1, key, "y")
                with pytest.raises(exceptions.ResponseError, match=r"(?i)permission|can't access|can't run"):
                    user.evalsha(loaded, 0, key)
    assert backend_of.raw.dbsize() == 0


@needs_valkey
@pytest.mark.parametrize("server", ["valkey"], indirect=True)
@for_each_role
def test_of_all_that_a_server_knows_a_role_may_call_what_it_needs(
    backend_of: ServerBackend, server: Server, namespace: str, enter: Enter, role: Role
) -> None:
    """And what anybody may, to log in and out."""
    enter(role)
    known: dict[str, int] = {}
    for name, facts in backend_of.raw.command().items():
        subs = {sub[0].decode(): sub[1] for sub in facts["subcommands"]}
        known.update(subs or {name: facts["arity"]})
    names = sorted(known)
    pipeline = backend_of.raw.pipeline(transaction=False)
    for name in names:
        words = name.split("|")
        pipeline.execute_command(
            "ACL", "DRYRUN", f"{role}{namespace}", *words, *["1"] * (abs(known[name]) - len(words))
        )
    said = pipeline.execute(raise_on_error=False)
    may = {name.upper() for name, reply in zip(names, said, strict=True) if "to run" not in str(reply)}
    assert len(names) > 300
    assert may - {"AUTH", "HELLO", "QUIT", "RESET"} == commands_of_role(role, NEWEST)


@needs_server
@on_each_server
def test_who_may_only_read_writes_nothing(
    backend_of: ServerBackend, server: Server, namespace: str, enter: Enter, tmp_path: Path
) -> None:
    """Whatever way it tries; and it sees nothing of the business of others."""
    prepare(f"{server.url}?namespace={namespace}", tmp_path)
    before = backend_of.footprint()
    with connect(enter(Role.READER)) as store:
        writes: list[Callable[[], Any]] = [
            lambda: store.save_event(make_event("r", 9)),
            lambda: store.append("r", make_events("r", 1, first=9), snapshot=make_state("r"), tags={"user": "x"}),
            lambda: store.save_snapshot("r", make_state("r")),
            lambda: store.lease("r", owner="o"),
            lambda: store.fork("r", "new"),
            lambda: store.erase("r", [1], drop_snapshots=True),
            lambda: store.truncate("r", before=2),
            lambda: store.delete_run("r"),
            lambda: namespace_of(store).status(),
        ]
        for write in writes:
            with pytest.raises(ConfigurationError, match=r"may not call|permission"):
                write()
    assert backend_of.footprint() == before
    assert _readable(server, namespace, Role.READER) == []


@needs_server
@on_each_server
def test_an_agent_takes_no_part_in_the_business_of_others(
    backend_of: ServerBackend, server: Server, namespace: str, enter: Enter, tmp_path: Path
) -> None:
    """It archives nothing, deletes nothing, and sees neither workers nor what is parked."""
    prepare(f"{server.url}?namespace={namespace}", tmp_path)
    url, before = enter(Role.AGENT), backend_of.footprint()
    with connect(url) as store, pytest.raises(ConfigurationError, match="permission"):
        store.delete_run("r")
    new = f"sqlite:{tmp_path}/new.db"
    # before 7.0 it may write to what it only reads
    drop = [["archives", "drop", f"jsonl:{tmp_path}/archive", "--yes"]] if server.name != "redis62" else []
    for arguments in (["drain", "--once", "--to", new], ["status"], ["unpark", "--all"], *drop):
        said = run(*arguments, "--url", url)
        assert (said.code, "permission" in said.err or "may not" in said.err) == (2, True), (arguments, said.err)
    assert backend_of.footprint() == before
    assert _readable(server, namespace, Role.AGENT) == []


def _readable(server: Server, namespace: str, role: Role) -> list[str]:
    """Those keys of the worker that a role may read."""
    keys = [f"{{{namespace}:0}}:{name}" for name in ("parked", "retire", "retired")] + [f"{{{namespace}}}:workers"]
    found = []
    with server.client(username=f"{role}{namespace}", password="p") as user:
        for key in keys:
            with suppress(exceptions.NoPermissionError):
                user.type(key)
                found.append(key)
    return found
