"""Real servers answer what the simulated ones answered in games, in each state, and have the same data then."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any

import pytest

from runstream.testing.simulation import PLANS
from runstream.testing.simulation.node import State, Told
from tests.support.agreement import differences, name_of, record
from tests.support.real_states import RealServer
from tests.support.servers import PROGRAMS, needs_server

pytestmark = needs_server

FIRST_SEED = int(os.environ.get("RUNSTREAM_TEST_SEED", "1"))
NAMES = sorted(PROGRAMS)

recorded = cache(record)
Get = Callable[[str], RealServer]
Recording = Sequence[Sequence[Told]]


@pytest.fixture(scope="module")
def real() -> Iterator[Get]:
    """Real servers by name, each started when it is first asked for."""
    with ExitStack() as opened:
        directory = opened.enter_context(tempfile.TemporaryDirectory(prefix="runstream-"))
        yield cache(lambda name: opened.enter_context(closing(RealServer(name, directory))))


def short() -> Recording:
    """A short game with a failover, which is recorded once."""
    return recorded(replace(PLANS["failovers"], turns=1), 1, in_states=True)


def check(server: RealServer, recording: Recording) -> None:
    """The real server answers each command as it was answered in the game, by each server in turn."""
    for told in recording:
        assert not list(islice(differences(server, told), 5))


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", NAMES)
def test_a_short_game(name: str, real: Get) -> None:
    """A server, and its replica after its promotion; then each command of the game in each state but one."""
    recording = [[one for one in told if one.state is not State.LOADING] for told in short()]
    assert len(recording) > 1
    assert {one.state for told in recording for one in told} == {None, *State} - {State.LOADING}
    check(real(name), recording)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_each_state(name: str, real: Get) -> None:
    """Each command of a game with many scripts; a server that loads its data takes a second for it."""
    recording = recorded(PLANS["deletions"], 1, in_states=True)
    assert {one.state for told in recording for one in told} == {None, *State}
    check(real(name), recording)


@pytest.mark.exhaustive
@pytest.mark.one_in(1, exhaustively=2)
@pytest.mark.parametrize("plan", PLANS)
def test_each_plan(plan: str, real: Get) -> None:
    """On one of the servers; with another seed on another."""
    name = NAMES[(list(PLANS).index(plan) + FIRST_SEED) % len(NAMES)]
    check(real(name), recorded(replace(PLANS[plan], turns=3), FIRST_SEED))


def _is_append(told: Told) -> bool:
    return name_of(told) == "append" and isinstance(told.reply, bytes | list)


FORGERIES: dict[str, tuple[Callable[[Told], bool], Callable[[Any], Any]]] = {
    "a script replies something else": (_is_append, lambda reply: [b"?"]),
    "an entry is lost": (
        lambda told: name_of(told) == "XRANGE" and isinstance(told.reply, list) and told.reply != [],
        lambda reply: reply[:-1],
    ),
    "a transaction gives something else": (
        lambda told: name_of(told) == "EXEC",
        lambda reply: [*reply[:-1], b"?"],
    ),
    "the time is a number": (lambda told: name_of(told) == "TIME", lambda reply: [1, 2]),
    "a full server takes a write": (
        lambda told: told.state is State.FULL and name_of(told) == "append",
        lambda reply: [],
    ),
}


@pytest.mark.one_in(5)
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_reply_that_differs_is_found(forgery: str, real: Get) -> None:
    is_it, forge = FORGERIES[forgery]
    told = short()[0]
    at = next(at for at, one in enumerate(told) if is_it(one))
    before = [one for one in told[:at] if one.state is None]
    assert not list(differences(real(NAMES[0]), [*before, told[at]]))
    (found,) = differences(real(NAMES[0]), [*before, told[at]._replace(reply=forge(told[at].reply))])
    assert found.startswith(name_of(told[at]))


def test_a_write_that_differs_is_found(real: Get) -> None:
    """It was made at another time, or was not made: what is there in the end is something else."""
    told = short()[0]
    at = next(at for at, one in enumerate(told) if _is_append(one))
    for instead in ([told[at]._replace(at=told[at].at + 1e-6)], []):
        found = differences(real(NAMES[0]), [*told[:at], *instead, *told[at + 1 :]])
        assert any(one.startswith("HGETALL") for one in found)
