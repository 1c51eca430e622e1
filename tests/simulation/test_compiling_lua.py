"""A simulated server compiles a script once, and runs it as one that compiles it each time."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from runstream.testing.simulation.clock import Clock
from runstream.testing.simulation.node import Node


def test_a_script_is_compiled_once_and_runs_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own keys and arguments, and its errors."""
    client: Any = Node(Clock(), "0" * 40, {}).client()
    script = "return {redis.call('INCRBY', KEYS[1], ARGV[1]), ARGV[2]}"
    assert client.eval(script, 1, "a", "2", "x") == [2, b"x"]
    server = client.connection_pool.connection_kwargs["server"]
    compile_ = server.lua._runtime.compile
    compiled: list[bytes] = []
    monkeypatch.setattr(server.lua, "_runtime", _Counting(server.lua._runtime, compile_, compiled))
    assert client.eval(script, 1, "a", "3", "y") == [5, b"y"]
    assert client.eval(script, 1, "b", "1", "z") == [1, b"z"]
    assert compiled == []
    with pytest.raises(redis.ResponseError, match="not an integer"):
        client.eval(script, 1, "b", "one", "z")
    with pytest.raises(redis.ResponseError, match="Script attempted to set global variables"):
        client.eval("left = 1", 0)
    assert compiled == [b"left = 1"]


class _Counting:
    def __init__(self, runtime: Any, compile_: Any, compiled: list[bytes]) -> None:
        self._runtime, self._compile, self._compiled = runtime, compile_, compiled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def compile(self, script: bytes) -> Any:
        self._compiled.append(script)
        return self._compile(script)
