"""A server that hides what a guarantee needs is refused at connect, with what is missing and why."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from runstream import ConfigurationError, connect, connect_async
from tests.support.samples import make_event
from tests.support.servers import PROGRAMS, Node, needs_server

pytestmark = needs_server

Start = Callable[..., Node]


@pytest.fixture(params=PROGRAMS)
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start a server that hides commands. Whether it answers is found out without INFO."""
    with ExitStack() as opened:
        directory = opened.enter_context(tempfile.TemporaryDirectory(prefix="runstream-"))

        def start(*hidden: str) -> Node:
            options = [word for command in hidden for word in ("--rename-command", command, "")]
            node = Node(request.param, directory, *options)
            opened.callback(node.end)
            return node

        yield start


async def test_a_server_that_hides_info_is_refused(start: Start) -> None:
    """Nobody would know that it evicts, and no lease would end with a failover or a restart."""
    node = start("INFO")
    url = f"unix://{node.socket_path}"
    with pytest.raises(ConfigurationError, match=r"INFO.*evicts.*lease"):
        connect(url)
    with pytest.raises(ConfigurationError, match=r"INFO.*evicts.*lease"):
        await connect_async(url)
    assert node.raw.dbsize() == 0, "a refused open leaves nothing behind"


def test_a_user_who_may_not_use_info_is_refused(start: Start) -> None:
    node = start()
    node.raw.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all", "-info")
    with pytest.raises(ConfigurationError, match=r"(?i)permission.*INFO.*evicts.*lease"):
        connect(f"unix://u:p@{node.socket_path}")
    assert node.raw.dbsize() == 0


def test_what_no_guarantee_needs_may_be_hidden(start: Start) -> None:
    """As managed services do."""
    node = start("CONFIG", "KEYS", "FLUSHALL", "FLUSHDB", "MONITOR", "CLIENT")
    with connect(f"unix://{node.socket_path}") as store:
        store.save_event(make_event("r"))
        with store.lease("r", owner="a") as lease:
            lease.save_event(make_event("r"))
        assert len(store.list_events("r")) == 2
