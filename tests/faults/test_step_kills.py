"""Processes that take one durable step: killed at each moment, and racing. Each has its effect in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from runstream import connect
from tests.support.processes.child import Child
from tests.support.processes.journal import Diary
from tests.support.servers import Servers, needs_valkey

pytestmark = needs_valkey


@pytest.fixture(params=["valkey", pytest.param("sqlite", marks=pytest.mark.exhaustive)])
def url(request: pytest.FixtureRequest, servers: Servers, namespace: str, tmp_path: Path) -> Iterator[str]:
    """Where the processes meet; what they leave is removed."""
    if request.param == "sqlite":
        yield f"sqlite:{tmp_path}/runs.db"
        return
    server = servers.get("valkey")
    yield f"{server.url}?namespace={namespace}"
    server.raw.delete(*server.raw.scan_iter(f"{{{namespace}*", count=1000))


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Callable[[str], Child]]:
    """Start a process that takes the step and stands still at a moment of it."""
    with ExitStack() as running:
        effects = str(tmp_path / "effects")
        yield lambda moment: running.enter_context(Child("step", url=url, effects=effects, moment=moment))


def take(url: str, tmp_path: Path) -> Any:
    """The step's result, and the ids of its effects, after this process has taken it."""
    told = Diary(tmp_path / "effects")

    def call(operation_id: str) -> str:
        told.note(operation_id)
        return "ours"

    with connect(url) as store:
        run = store.open_run("r")
        result = run.once("pay", call, run.operation_id("pay"))
        (event,) = [item.event for item in store.read("r")]
        assert event.payload == {"step": "pay", "attempt": 1, "result": result}
    return result, told.lines()


def test_one_that_dies_before_its_result_is_recorded_leaves_the_call_to_the_next(
    url: str, start: Callable[[str], Child], tmp_path: Path
) -> None:
    """The effect is there twice, under one id."""
    child = start("called")
    assert child.hear() == "ready"
    child.kill()
    result, (one, other) = take(url, tmp_path)
    assert (result, one) == ("ours", other)


def test_one_that_dies_after_that_has_made_the_call_for_all(
    url: str, start: Callable[[str], Child], tmp_path: Path
) -> None:
    child = start("recorded")
    assert child.hear() == "ready"
    child.kill()
    result, effects = take(url, tmp_path)
    assert (result, len(effects)) == (child.process.pid, 1)


def test_of_two_at_once_both_give_the_first_result(
    url: str, start: Callable[[str], Child], tmp_path: Path
) -> None:
    children = [start("called"), start("called")]
    assert [child.hear() for child in children] == ["ready", "ready"]
    for child in children:
        child.tell("go on")
    results = {child.hear() for child in children}
    result, effects = take(url, tmp_path)
    assert results == {str(result)}
    assert len(effects) == 2
    for child in children:
        child.end()
