"""What a user may not ask for is never taken for an answer: it is refused, or not needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from runstream import ConfigurationError, DrainWorker, RedisCheckpointer, SQLiteCheckpointer, connect
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.admin.status import NamespaceStatus
from runstream.stores.redis.operations.worker.load import LoadRequest
from tests.faults.test_rights import CALLED, on_a_server
from tests.support.backends import ServerBackend
from tests.support.commands import run
from tests.support.samples import make_events, make_state
from tests.support.servers import Server, needs_server

pytestmark = [needs_server, on_a_server]

Store = RedisCheckpointer[Any, Any]
ASKED = sorted({*CALLED, "ZCARD", "ZCOUNT", "ZRANGE", "ZREVRANGE", "SCAN", "INFO", "HKEYS"})


@pytest.fixture
def backend_of(server: Server, make_backend: Callable[[str], Any]) -> ServerBackend:
    return cast("ServerBackend", make_backend(server.name))


@pytest.fixture
def url_without(server: Server, namespace: str) -> Iterator[Callable[..., str]]:
    """The URL of a user who may do all but these commands."""
    name = f"d{namespace}"
    raw: Any = server.raw

    def url(*commands: str) -> str:
        denied = [f"-{command.lower()}" for command in commands]
        raw.execute_command("ACL", "SETUSER", name, "on", ">p", "~*", "&*", "+@all", *denied)
        return f"unix://{name}:p@{server.socket_path}?namespace={namespace}"

    yield url
    raw.execute_command("ACL", "DELUSER", name)


def still(status: NamespaceStatus) -> NamespaceStatus:
    """What does not change by itself."""
    return replace(status, now=0, oldest_due_seconds=0, used_memory_bytes=0, server="", version="")


def loaded(store: Store) -> Any:
    (found,) = namespace_of(store).load_entries([LoadRequest("b", 1, 3, [None])])
    return len(found.ids), len(found.snapshots), found.broken


QUESTIONS: dict[str, Callable[[Store], Any]] = {
    "status": lambda store: still(namespace_of(store).status()),
    "runs": lambda store: [(info.run_id, info.session_id, info.last_offset) for info in store.runs()],
    "of a session": lambda store: [info.run_id for info in store.runs(session_id="s")],
    "list_runs": lambda store: store.list_runs(),
    "run_info": lambda store: store.run_info("b").last_offset,  # type: ignore[union-attr] # it is there
    "read": lambda store: len(list(store.read("b"))),
    "list_events": lambda store: len(store.list_events("b")),
    "recover": lambda store: len(store.recover("b").events),
    "load_snapshot": lambda store: store.load_snapshot("b").revision,  # type: ignore[union-attr] # it is there
    "load_entries": loaded,
    "clear_leftovers": lambda store: namespace_of(store).clear_leftovers(10),
}


@pytest.mark.exhaustive
def test_what_is_denied_is_never_taken_for_an_answer(
    backend_of: ServerBackend, url_without: Callable[..., str]
) -> None:
    """Every question is answered as to a user who may do all, or refused, by a store that was open, or was not."""
    healthy: Any = backend_of.open()
    for run_id in ("a", "b", "c"):
        healthy.append(run_id, make_events(run_id, 3, session_id="s"))
    healthy.save_snapshot("b", make_state("b"))
    told = {name: ask(healthy) for name, ask in QUESTIONS.items()}
    for command in ASKED:
        stores = [cast("Store", connect(url_without()))]
        with naming(command):
            stores.append(cast("Store", connect(url_without(command))))
        for store in stores:
            with closing(store):
                for name, ask in QUESTIONS.items():
                    with naming(command):
                        assert ask(store) == told[name], (name, command)


@contextmanager
def naming(command: str) -> Iterator[None]:
    """What is refused within is refused for want of this command."""
    refused = ""
    try:
        yield
    except ConfigurationError as error:
        refused = str(error)
    assert not refused or command.lower() in refused.lower()


def test_a_snapshot_that_may_not_be_read_is_not_broken(
    backend_of: ServerBackend, server: Server, url_without: Callable[..., str], namespace: str, tmp_path: Path
) -> None:
    """The worker ends; it does not archive the run without its snapshot."""
    healthy: Any = backend_of.open()
    healthy.append("r", make_events("r", 3), snapshot=make_state("r"))
    with (
        closing(connect(url_without())) as store,
        closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive,
    ):
        allowed = ("*}:[^r]*", "*}:r[^u]*", "*}:runs*", "*}:rights", "*}:run:r:[^s]*")
        rules = [f"~{{{namespace}{pattern}" for pattern in allowed]
        raw: Any = server.raw
        raw.execute_command("ACL", "SETUSER", f"d{namespace}", "resetkeys", *rules)
        with pytest.raises(ConfigurationError, match="permission"):
            DrainWorker(store, [archive]).drain_once()
        assert archive.run_info("r") is None
        assert namespace_of(healthy).status().parked == {}


def test_status_works_for_a_user_who_may_not_ask_for_the_time(
    backend_of: ServerBackend, url_without: Callable[..., str]
) -> None:
    """INFO has it."""
    backend_of.open().save_events(make_events("r", 3))
    said = run("status", "--url", url_without("time"), "--json")
    assert said.code == 0, said.err
    assert (said.document["due"], said.document["backlog_events"]) == (1, 3)
    assert 0 <= said.document["oldest_due_seconds"] < 60
    said = run("status", "--url", url_without("zcount"))
    assert (said.code, said.out) == (2, "")
    assert "zcount" in said.err
