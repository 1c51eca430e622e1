"""A simulated server parses a script once, and runs it as one that parses it each time."""

from __future__ import annotations

import random
from typing import Any

import pytest
import redis

from runstream.testing.simulation import bytecode
from runstream.testing.simulation.clock import Clock
from runstream.testing.simulation.node import Node, State

SHOWN = "return redis.pcall('SET', KEYS[1], 'x')"
RAISED = "return redis.call('SET', KEYS[1], 'x')"


def test_a_script_is_parsed_once_and_runs_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On each server, with its own keys and arguments, and its errors."""
    first, second = (Node(Clock(), digit * 40, {}).client() for digit in "01")
    bytecode._bytecode.cache_clear()
    parsed: list[Any] = []
    monkeypatch.setattr(bytecode, "_PARSING", _Noting(bytecode._PARSING, parsed))
    script = "return {redis.call('INCRBY', KEYS[1], ARGV[1]), ARGV[2], seen}"
    assert first.eval(script, 1, "a", "2", "x") == [2, b"x"]
    assert second.eval(script, 1, "a", "3", "y") == [3, b"y"]
    assert first.eval(script, 1, "a", "1", "z") == [3, b"z"]
    assert parsed.count(script.encode()) == 1
    with pytest.raises(redis.ResponseError, match="not an integer"):
        first.eval(script, 1, "a", "one", "z")
    with pytest.raises(redis.ResponseError, match="Script attempted to set global variables"):
        first.eval("seen = 1", 0)
    assert first.eval(script, 1, "a", "1", "z") == [4, b"z"]
    for client in (first, second):
        with pytest.raises(redis.ResponseError, match=r'\[string "<python>"\]:2: .*near'):
            client.eval("return 1\nx", 0)
        with pytest.raises(redis.ResponseError, match=r'\[string "<python>"\]:2: oh'):
            client.eval("local x\nerror('oh')", 0)


@pytest.mark.exhaustive
def test_a_refusal_is_told_as_it_is_however_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """As garbage is collected after each script. Where it is not, some are told as others."""
    assert not _mistaken()
    run = bytecode.ParsesOnce.execute

    def leave(self: bytecode.ParsesOnce, script: bytes | str) -> Any:
        return None if script == "collectgarbage()" else run(self, script)

    monkeypatch.setattr(bytecode.ParsesOnce, "execute", leave)
    assert _mistaken()


def _mistaken() -> list[str]:
    """The replies of a server that refuses to write, which are not what it refuses it with."""
    node, dice, found = Node(Clock(), "0" * 40, {}), random.Random(1), []
    client: Any = node.client()
    for _ in range(2_000):
        node.state = dice.choice([State.FULL, State.READ_ONLY, State.CANNOT_PERSIST])
        try:
            reply = client.eval(dice.choice([SHOWN, RAISED]), 1, "a")
        except redis.ResponseError as error:
            reply = str(error)
        if not node.state.value[0].endswith(str(reply)):
            found.append(reply)
    return found


class _Noting:
    """A runtime that notes what it parses."""

    def __init__(self, runtime: Any, parsed: list[Any]) -> None:
        self._runtime, self._parsed = runtime, parsed

    def compile(self, script: Any) -> Any:
        self._parsed.append(script)
        return self._runtime.compile(script)
