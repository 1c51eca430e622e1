"""A command that scripts need and may not call is named before the first write, and nothing is written."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from runstream import (
    ConfigurationError,
    DrainWorker,
    EventKind,
    RedisCheckpointer,
    SQLiteCheckpointer,
    StoreUnavailable,
    connect,
    connect_async,
)
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from runstream.stores.redis.scripts import library
from tests.support.backends import ServerBackend
from tests.support.kinds import REAL
from tests.support.line import Line
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import Node, Server, needs_server

Store = RedisCheckpointer[Any, Any]

LUA = Path(library.__file__).parent.glob("*.lua")
CALLED = sorted(set().union(*(script.needs for script in library.SCRIPTS)))
"""All commands that scripts call."""
ROLES = {name: sorted(library.SCRIPT[name].needs) for name in ("append", "lease", "delete", "settle", "switch")}


def by_default(values: Sequence[str], *tried: str) -> list[Any]:
    """These values as parameters, all but some of them exhaustive."""
    return [pytest.param(one, marks=() if one in tried else pytest.mark.exhaustive) for one in values]


on_a_server = pytest.mark.parametrize("server", by_default(REAL, *REAL[:1]), indirect=True)


def test_what_scripts_call_is_read_from_their_source() -> None:
    """A command by a name that is not written out, or that there is no way to try, would be forgotten."""
    for path in LUA:
        source = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
        named = re.findall(r"\b(?:redis\.)?p?call\('[A-Z]+'", source)
        trying = 1 if path.name == "rights.lua" else 0
        assert len(re.findall(r"\bp?call\(", source)) == len(named) + trying, path.name
    for source in (re.sub(r"--.*", "", script.source) for script in library.SCRIPTS):
        enlisting = source.count("redis.pcall('ZADD', set") + source.count("redis.pcall('INFO'")
        assert enlisting or "pcall('ZADD'" not in source
    tried = set(re.findall(r"try\('([A-Z]+)'", library.RIGHTS.source))
    assert tried == set(CALLED)
    writing = [script for script in library.SCRIPTS if script != library.SCRIPT["uncovered"]]
    assert all(script.needs for script in writing)
    assert not library.commands_of(library.SCRIPT["uncovered"].source) - {"HMGET", "HGET", "XRANGE"}


@pytest.mark.parametrize("redis_backend", ["fake", *REAL], indirect=True)
def test_asking_changes_nothing(redis_backend: Any) -> None:
    """All commands are tried, and may be called."""
    before = redis_backend.footprint()
    key = f"{{{redis_backend.namespace}:0}}:rights"
    assert redis_backend.raw.eval(library.RIGHTS.source, 1, key, *CALLED) == []
    assert redis_backend.footprint() == before


@pytest.fixture
def user(server: Server, namespace: str) -> Iterator[Callable[..., str]]:
    """Change a user's rights; gives the URL under which the user comes to a namespace."""
    name = f"u{namespace}"
    raw: Any = server.raw
    raw.execute_command("ACL", "SETUSER", name, "on", ">p", "~*", "&*", "+@all")

    def change(*rules: str) -> str:
        raw.execute_command("ACL", "SETUSER", name, "+@all", *rules)
        return f"unix://{name}:p@{server.socket_path}?namespace={namespace}"

    yield change
    raw.execute_command("ACL", "DELUSER", name)


@pytest.fixture
def backend_of(server: Server, make_backend: Callable[[str], Any]) -> ServerBackend:
    backend = make_backend(server.name)
    assert isinstance(backend, ServerBackend)
    return backend


def writes() -> dict[str, Callable[[Store], Any]]:
    """Every way to write, of the roles that a client has."""
    finished = make_event("r", 9, kind=EventKind.RUN_FINISHED)
    return {
        "save_event": lambda store: store.save_event(make_event("r", 9)),
        "save_events": lambda store: store.save_events([make_event("r", 9), make_event("s", 1)]),
        "append": lambda store: store.append("r", [finished], keys=["k"], snapshot=make_state("r")),
        "save_snapshot": lambda store: store.save_snapshot("r", make_state("r")),
        "update_state": lambda store: store.update_state("r", lambda state: state),
        "a new run": lambda store: store.append("new", make_events("new", 2, session_id="s")),
    }


@needs_server
@on_a_server
@pytest.mark.parametrize("command", by_default(["EVALSHA", *ROLES["append"]], "EVALSHA", "HMGET"))
def test_a_right_that_is_taken_while_a_reply_is_awaited_makes_nothing_double(
    backend_of: ServerBackend, user: Callable[..., str], command: str
) -> None:
    """What came of the former append is not known as long as the server does not tell, and it is asked again."""
    events = make_events("r", 2)
    with closing(connect(user(), retry_seconds=0)) as store:
        assert isinstance(store, RedisCheckpointer)
        store.append("r", make_events("r", 1, first=9))
        Line(store).cut("reply")
        with pytest.raises(StoreUnavailable):
            store.append("r", events)
        user(f"-{command.lower()}")
        with suppress(ConfigurationError):  # some are not needed to tell what came of it
            assert store.append("r", events)[:2] == (2, 3)
            return
        user()
        assert store.append("r", events)[:2] == (2, 3)
        assert [event.seq for event in store.list_events("r")] == [9, 1, 2]


@needs_server
@on_a_server
@pytest.mark.parametrize("command", by_default(ROLES["append"], "HSET", "DEL", "PERSIST", "ZADD", "XADD"))
def test_a_user_without_a_command_writes_nothing(
    backend_of: ServerBackend, user: Callable[..., str], command: str
) -> None:
    """Through every door; and then others go on, and so does the same store, once it may."""
    healthy = backend_of.open()
    healthy.append("r", make_events("r", 3), snapshot=make_state("r"))
    url = user(f"-{command.lower()}")
    before = backend_of.footprint()
    if command == "HGET":  # a reader needs it, to open
        with pytest.raises(ConfigurationError, match="hget"):
            connect(url)
        return
    with connect(url) as opened:
        store: Store = cast("Store", opened)
        for name, write in writes().items():
            with pytest.raises(ConfigurationError) as caught:
                write(store)
            assert command in str(caught.value).upper(), name
            assert backend_of.footprint() == before
        with suppress(ConfigurationError):
            assert len(store.list_events("r")) == 3
        assert healthy.append("r", [make_event("r", 4)]).last_offset == 4
        user()
        assert store.append("r", [make_event("r", 5)]).last_offset == 5
        store.append("new", make_events("new", 2))
    assert verify_run("r", hot=healthy).is_sound
    assert len(healthy.list_events("new")) == 2


@needs_server
@on_a_server
async def test_the_error_names_user_commands_and_whom_to_ask(
    backend_of: ServerBackend, user: Callable[..., str]
) -> None:
    """Sync and async, of all commands that are missing."""
    backend_of.open()
    url = user("-hset", "-zadd")
    said = r"the user 'u\w+' may not call HSET, ZADD: .*ACL SETUSER u\w+ \+hset \+zadd.*nothing was written"
    with connect(url) as store, pytest.raises(ConfigurationError, match=said):
        store.save_event(make_event("r"))
    async with await connect_async(url) as store:
        with pytest.raises(ConfigurationError, match=said):
            await store.save_event(make_event("r"))
    for rule, name in (("-script", "SCRIPT"), ("-evalsha", "EVALSHA")):
        with connect(user(rule)) as store, pytest.raises(ConfigurationError, match=f"may not call .*{name}"):
            store.save_event(make_event("r"))
    with connect(user()) as store:
        store.save_event(make_event("r"))


@needs_server
@on_a_server
def test_a_user_who_may_only_read_opens_and_reads(backend_of: ServerBackend, user: Callable[..., str]) -> None:
    """Also where a worker would put a partition's number right."""
    backend_of.open().append("r", make_events("r", 3), snapshot=make_state("r"))
    backend_of.raw.delete(f"{{{backend_of.namespace}:3}}:config")
    with connect(user("-@write", "-@scripting")) as store:
        assert len(store.list_events("r")) == len(list(store.read("r"))) == 3
        with pytest.raises(TimeoutError):
            list(store.follow("r", idle_timeout=0))
        assert store.recover("r").offset == 3
        backend_of.open().append("r", [*make_events("r", 1, first=4), make_event("r", 1, lane_id="other")])
        assert [item.offset for item in store.recover("r").events] == [4, 5]
        assert [item.offset for item in store.recover("r", lane_id="other").events] == [5]
        assert store.recover("r", lane_id="none").events == []
        assert store.run_info("r") is not None
        assert store.list_runs() == ["r"]
        with pytest.raises(ConfigurationError, match="may not call"):
            store.save_event(make_event("r"))


@pytest.mark.one_in(2)
@needs_server
@on_a_server
@pytest.mark.parametrize("role", ["lease", "delete", "settle", "switch"])
def test_who_needs_further_rights_is_asked_for_them(
    backend_of: ServerBackend, user: Callable[..., str], tmp_path: Path, role: str
) -> None:
    """A worker when it starts, before it archives anything; others when they first do it. A writer needs none."""
    healthy = backend_of.open()
    healthy.append("r", make_events("r", 3))
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive:
        if role == "switch":
            DrainWorker(healthy, [archive]).drain_once()
            healthy.delete_run("r")
        calls: dict[str, Callable[[Any], object]] = {
            "lease": lambda store: store.lease("r", owner="o").release(),
            "delete": lambda store: store.delete_run("r"),
            "settle": lambda store: DrainWorker(store, [archive]).drain_once(),
            "switch": lambda store: put_back(store, archive, "r"),
        }
        before = backend_of.footprint()
        further = set(ROLES[role]) - set(ROLES["append"])
        for command in ROLES[role]:
            url = user(f"-{command.lower()}")
            with pytest.raises(ConfigurationError, match=f"(?i){command}"), connect(url) as store:
                calls[role](store)
            assert backend_of.footprint() == before
            assert role == "switch" or archive.run_info("r") is None
            if command in further:
                with connect(url) as store:
                    store.save_event(make_event("other"))
                healthy.delete_run("other")
        with connect(user()) as store:
            calls[role](store)
    assert healthy.run_info("r") is None or verify_run("r", hot=healthy).is_sound


@needs_server
@on_a_server
def test_the_question_is_asked_once(backend_of: ServerBackend, server: Server) -> None:
    """For a pool, whatever store is over it and however often it writes."""

    def asked() -> int:
        stats: Any = server.raw.info("commandstats")
        return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])

    with backend_of.open().lease("r", owner="o") as lease:  # the server knows the scripts
        lease.save_event(make_event("r", 0))
    with server.client() as client:
        stores = [RedisCheckpointer[Any, Any](client, namespace=backend_of.namespace) for _ in range(2)]
        before = asked()
        stores[0].save_event(make_event("r", 1))
        assert asked() == before + 2
        for seq in range(2, 5):
            stores[seq % 2].save_event(make_event("r", seq))
        assert asked() == before + 5
        with stores[1].lease("r", owner="o"):
            pass
        assert asked() == before + 8


@needs_server
@on_a_server
@pytest.mark.parametrize(
    "command", by_default([*ROLES["append"], "EVALSHA", "SCRIPT"], "HSET", "PERSIST", "SCRIPT")
)
def test_a_server_that_renamed_a_command_is_refused(server: Server, command: str) -> None:
    """What it holds stays as it is, is read, and gone on with once the server has the command again."""
    with tempfile.TemporaryDirectory(prefix="runstream-") as directory:
        with running(server.name, directory) as (node, url), connect(url) as store:
            store.append("r", make_events("r", 3), snapshot=make_state("r"))
            node.raw.save()
        with running(server.name, directory, "--rename-command", command, "") as (node, url):
            before = {key: node.raw.dump(key) for key in node.raw.keys("*")}
            # what is needed to open is missed there
            with pytest.raises(ConfigurationError, match=f"(?i){command}"):
                connect(url).save_event(make_event("r", 4))
            assert {key: node.raw.dump(key) for key in node.raw.keys("*")} == before
            if command not in {"HGET", "HMGET", "XRANGE"}:
                with connect(url) as store:
                    assert len(store.list_events("r")) == 3
        with running(server.name, directory) as (node, url), connect(url) as store:
            assert store.append("r", [make_event("r", 4)]).last_offset == 4
            assert verify_run("r", hot=store).is_sound


@contextmanager
def running(name: str, directory: str, *options: str) -> Iterator[tuple[Node, str]]:
    node = Node(name, directory, *options)
    try:
        yield node, f"unix://{node.socket_path}"
    finally:
        node.end()
