"""Watch in every test that no command touches two slots of a cluster, and scripts only keys that they declare."""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from typing import Any

from fakeredis.commands_mixins.scripting_mixin import ScriptingCommandsMixin

from runstream.operations.operation import Exchange
from runstream.stores.redis.command_keys import keys_of
from runstream.stores.redis.connection.driver import AsyncDriver, SyncDriver
from runstream.stores.redis.connection.slots import slot_of_key

__all__ = ["take_faults", "watch"]

_faults: list[str] = []
_WITHOUT_KEYS = {b"INFO", b"TIME"}
_MANY_KEYS = {b"DEL", b"EXISTS", b"RENAME", b"UNLINK"}


def take_faults() -> list[str]:
    """What was seen since this was last asked."""
    seen, _faults[:] = _faults[:], []
    return seen


def watch() -> None:
    """Look at all that drivers send, and at all that scripts call in fakeredis."""
    for driver in (SyncDriver, AsyncDriver):
        driver.exchange_once = _looked_at(driver.exchange_once)  # type: ignore[method-assign]
    scripting: Any = ScriptingCommandsMixin
    scripting._lua_redis_call = _looked_into(scripting._lua_redis_call)


def _looked_at(exchange_once: Any) -> Any:
    @wraps(exchange_once)
    def exchange(driver: Any, exchange: Exchange) -> Any:
        for command in exchange.commands:
            keys = keys_of(command)
            if len(keys) > 1 and len({slot_of_key(key) for key in keys}) > 1:
                _faults.append(f"{command[0]} touches two slots: {keys}")
        return exchange_once(driver, exchange)

    return exchange


def _looked_into(call: Any) -> Any:
    @wraps(call)
    def look(server: Any, runtime: Any, expected: Any, op: bytes, *args: Any) -> Any:
        declared = set(runtime.globals()[b"KEYS"].values())
        if undeclared := [key for key in _keys_in(op, args) if key not in declared]:
            _faults.append(f"a script calls {op!r} on {undeclared}, which it does not declare")
        return call(server, runtime, expected, op, *args)

    return look


def _keys_in(op: bytes, args: Sequence[Any]) -> Sequence[Any]:
    if op in _WITHOUT_KEYS:
        return ()
    return args if op in _MANY_KEYS else args[:1]
