"""``runstream answer`` and ``runstream cancel``: an operator's word to an agent in another process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runstream import connect
from tests.support.commands import Said, run
from tests.support.processes.child import Child
from tests.support.servers import Servers, needs_valkey


@pytest.fixture
def url(servers: Servers, namespace: str) -> Iterator[str]:
    server = servers.get("valkey")
    yield f"{server.url}?namespace={namespace}"
    if left := list(server.raw.scan_iter(f"{{{namespace}*", count=1000)):
        server.raw.delete(*left)


@pytest.fixture
def asking(url: str) -> str:
    """A store with a run whose two lanes wait for a person."""
    with connect(url) as store:
        for lane_id, question in (("main", "Ship it?"), ("reviewer", "Is \x1b[31mthat\x1b[0m right?")):
            with store.open_run("r", lane_id=lane_id) as agent:
                agent.pause(question, key=lane_id)
    return url


def answer(url: str, *arguments: str) -> Said:
    return run("answer", "r", "--url", url, *arguments)


@needs_valkey
def test_a_question_is_answered_once(asking: str) -> None:
    """What holds is shown; a second answer that is another one is no success."""
    first = answer(asking, "yes", "--lane", "main", "--json")
    assert (first.code, first.document["payload"]["answer"], first.document["offset"]) == (0, "yes", 3)
    assert answer(asking, "yes", "--question", "main").code == 0
    second = answer(asking, "no", "--question", "main")
    assert (second.code, '"yes"' in second.out, "that answer holds" in second.err) == (1, True, True)
    other = answer(asking, "--value", "[1, null]")
    assert (other.code, "reviewer" in other.out, "[1, null]" in other.out) == (0, True, True)


@needs_valkey
def test_what_cannot_be_answered_says_why(asking: str) -> None:
    assert [answer(asking, *given).code for given in ((), ("yes", "--value", "1"), ("--value", "{"))] == [2, 2, 2]
    several = answer(asking, "yes")
    assert (several.code, "'main' of lane 'main', 'reviewer' of lane 'reviewer'" in several.err) == (2, True)
    assert answer(asking, "yes", "--question", "other").code == 2
    assert run("answer", "nobody", "yes", "--url", asking).code == 4
    assert run("cancel", "nobody", "--url", asking).code == 4


@needs_valkey
def test_runs_and_show_tell_what_a_run_waits_for(asking: str) -> None:
    for command in (("runs", "--status", "paused"), ("show", "r")):
        said = run(*command, "--url", asking)
        assert ("Ship it?" in said.out, "reviewer: Is " in said.out) == (True, True)


@needs_valkey
def test_an_agent_that_was_killed_while_it_waited_gets_the_answer_when_it_is_started_again(url: str) -> None:
    """Under a lease on the whole run, which lets the answer pass."""
    with Child("ask", url=url, run_id="r") as first:
        assert first.hear() == "asked"
        (waiting,) = run("runs", "--url", url, "--status", "paused", "--json").document["runs"]
        assert [(one["question_id"], one["text"]) for one in waiting["waiting_for"]] == [("ship", "Ship it?")]
        first.kill()
    assert run("answer", "r", "--value", '{"ok": true}', "--url", url).code == 0
    with Child("ask", url=url, run_id="r") as second:
        assert (second.hear(), second.hear()) == ("asked", '{"ok": true}')
        second.end()
    assert run("runs", "--url", url, "--status", "paused", "--json").document["runs"] == []


@needs_valkey
def test_an_agent_that_waits_is_cancelled(url: str) -> None:
    """It is told where it waits, at once."""
    with Child("ask", url=url, run_id="r") as agent:
        assert agent.hear() == "asked"
        assert run("cancel", "r", "--reason", "too dear", "--url", url).code == 0
        assert agent.hear() == "too dear"
        agent.end()
    (ended,) = run("runs", "--url", url, "--json").document["runs"]
    assert ended["status"] == "cancelled"
