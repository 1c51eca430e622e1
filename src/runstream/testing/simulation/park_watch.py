"""Looks at each parking whether the run that is set aside is the one that could not be archived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fakeredis

from runstream.stores.redis.scripts.script import script_of
from runstream.testing.simulation.server import Done

__all__ = ["ParkWatch"]


class ParkWatch:
    """Notes as a fault that a run was parked for what another one of its name was.

    Args:
        server: Has the data: whichever is the primary.
        note_fault: Is told of each fault.
    """

    def __init__(self, server: Any, note_fault: Callable[[str], None]) -> None:
        self._server, self._note_fault = server, note_fault

    def note(self, done: Done) -> None:
        """Compare what was parked with what is there."""
        if done.identity != self._server.primary.identity:
            return  # nobody who follows the primary is told of it
        for command, reply in zip(done.exchange.commands, done.replies, strict=True):
            script = script_of(command)
            if script is not None and script.name == "park" and reply == 1:
                keys, args = command[3 : 3 + int(command[2])], command[3 + int(command[2]) :]
                raw: Any = fakeredis.FakeRedis(server=self._server.fake)
                start = (raw.hget(keys[0], "start") or b"").decode()
                begun = args[1].decode() if isinstance(args[1], bytes) else str(args[1])
                if start != begun:
                    self._note_fault(f"{args[0]} was parked as it began at {begun!r}, and it begins at {start!r}")
