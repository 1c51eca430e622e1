"""The Lua runtime of a simulated server, which compiles a script once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["CompilingLua"]


class CompilingLua:
    """A Lua runtime for fakeredis, which would compile a script, and collect all garbage, each time.

    Args:
        runtime: The runtime itself.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._compiled: dict[Any, Callable[[], Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def execute(self, script: Any) -> Any:
        """Run a script, and give what it returns; Lua itself collects what it leaves."""
        if script == "collectgarbage()":
            return None
        if (compiled := self._compiled.get(script)) is None:
            compiled = self._compiled[script] = self._runtime.compile(script)
        return compiled()
