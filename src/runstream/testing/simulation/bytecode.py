"""The Lua runtime of a simulated server, which parses a script once for all servers of a process."""

from __future__ import annotations

from functools import cache
from typing import Any

from fakeredis.commands_mixins.scripting_mixin import LUA_MODULE

__all__ = ["ParsesOnce"]


class ParsesOnce:
    """A Lua runtime that runs the bytecode of a script in its place: to parse it takes ten times as long.

    Nothing of it stays in the runtime from one call to the next. After each call fakeredis has all garbage
    collected, and that is needed: where Lua collects bit by bit, lupa 2.8 may take a Python object that it hands
    to Lua again (the text of an error) for another. It keeps them in a table with weak values, where Lua takes
    the place of one that is about to go for a free one, and frees it once more when it goes.

    Args:
        runtime: The runtime itself.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def execute(self, script: bytes | str) -> Any:
        """Run a script, and give what it returns."""
        return self._runtime.execute(_bytecode(script))


_PARSING: Any = LUA_MODULE.LuaRuntime(encoding=None)
_DUMP: Any = _PARSING.eval("string.dump")


@cache
def _bytecode(script: bytes | str) -> bytes:
    dumped: bytes = _DUMP(_PARSING.compile(script))
    return dumped
