"""P8 at every point at which a worker can die: see :mod:`tests.support.crash_walk` for how they are walked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.support.crash_walk import Found, Task
from tests.support.exhaustive import ROUNDS
from tests.support.servers import Servers, needs_valkey

pytestmark = [
    needs_valkey,
    pytest.mark.skipif(sys.platform != "linux", reason="what a loss of power leaves is told from /proc"),
    pytest.mark.timeout(300),  # each takes some ten seconds on a machine that has nothing else to do
]

PARTS = 16
"""How many tests share the states of a world, so that they are tried at once."""


@pytest.fixture
def walk(
    servers: Servers, namespace: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> Callable[..., Found]:
    """Walk the points of a task in a process of its own."""

    def walk(**what: object) -> Found:
        place = servers.get("valkey").socket_path, namespace, str(tmp_path)
        task = Task(*place, after_reads=ROUNDS > 1, **what)  # type: ignore[arg-type]  # any of its fields
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.support.crash_walk", json.dumps(asdict(task))],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = Found(**json.loads(done.stdout))
        order = "JSONL" if task.jsonl_first else "SQLite"
        record_property(f"crash points ({task.world}, {task.how}, {order} first)", found.points)
        record_property(f"of which a next worker was tried ({task.world}, {task.how}, {order} first)", found.tried)
        assert found.faults == [], "\n".join([*found.faults, done.stderr])
        return found

    return walk


def parts(count: int, *, by_default: tuple[int, int]) -> pytest.MarkDecorator:
    """What is tried: a small part by default, exhaustively one of so many, and in a longer game all of them."""
    tried = range(count if ROUNDS > 1 else 1)
    marked = [pytest.param(part, count, marks=pytest.mark.exhaustive) for part in tried]
    return pytest.mark.parametrize(("part", "parts"), [by_default, *marked])


ORDERS = pytest.mark.parametrize("jsonl_first", [False, True], ids=["sqlite first", "jsonl first"])


def each_state() -> list[object]:
    """By default a few; exhaustively a sixteenth of those of each order, and in a longer game all."""
    walked: list[object] = [(False, 0, 301)]
    for part in range(PARTS if ROUNDS > 1 else 2):
        orders = [False, True] if ROUNDS > 1 else [part % 2 == 1]
        walked += [pytest.param(order, part, PARTS, marks=pytest.mark.exhaustive) for order in orders]
    return walked


@pytest.mark.parametrize(("jsonl_first", "part", "parts"), each_state())
def test_a_worker_that_is_killed_anywhere_loses_nothing_and_archives_nothing_twice(
    walk: Callable[..., Found], jsonl_first: bool, part: int, parts: int
) -> None:
    """At each point, and where power is lost there: the next worker finishes as if nothing had been."""
    found = walk(world="going on", jsonl_first=jsonl_first, part=part, parts=parts)
    assert found.points > 300
    assert found.states > 200
    assert found.power_losses > 60
    assert found.tried >= found.states // parts
    assert found.killed > 3


@pytest.mark.exhaustive
@ORDERS
@pytest.mark.one_in(2, exhaustively=2)
@parts(3, by_default=(1, 50))
def test_a_worker_that_is_killed_anywhere_while_it_makes_its_archives_leaves_good_ones(
    walk: Callable[..., Found], jsonl_first: bool, part: int, parts: int
) -> None:
    """The same from nothing: no tables, no directory, no archive that Redis requires."""
    found = walk(world="from nothing", jsonl_first=jsonl_first, part=part, parts=parts)
    assert found.points > 60
    assert found.states > 30
    assert found.power_losses > 4
    assert found.tried >= found.states // parts
    assert found.killed > 0


@ORDERS
@pytest.mark.one_in(2, exhaustively=2)
@parts(3, by_default=(2, 60))
def test_a_run_that_is_deleted_between_any_two_commands_of_a_worker_is_not_mixed_with_its_successor(
    walk: Callable[..., Found], jsonl_first: bool, part: int, parts: int
) -> None:
    """Deleted, or deleted and made anew: an archive has some of the one history, or the whole of the other."""
    found = walk(world="going on", jsonl_first=jsonl_first, how="deleted", part=part, parts=parts)
    assert found.points > 60
    assert found.tried >= found.points // parts
