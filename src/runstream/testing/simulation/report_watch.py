"""Looks at what a status tells of workers: those that have reported, and none that has been silent for a day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from runstream.operations.operation import Command, Refusal
from runstream.stores.redis.replies import parse_map
from runstream.stores.redis.scripts.queue_calls import WORKER_WINDOW_SECONDS
from runstream.stores.redis.scripts.script import script_of
from runstream.testing.simulation.server import Done

__all__ = ["ReportWatch"]

_KEY = ":workers"


class ReportWatch:
    """Notes as a fault that a server does not tell of a worker that has reported to it, or of one that is gone.

    Args:
        note_fault: Is told of each fault.
    """

    def __init__(self, note_fault: Callable[[str], None]) -> None:
        self._note_fault = note_fault
        self._reported: dict[str, dict[str, float]] = defaultdict(dict)
        """When each worker has last reported, by the identity of the server, until it signs off."""

    def note(self, done: Done) -> None:
        """Note who reports and who signs off, and look at what is told of them."""
        reported = self._reported[done.identity]
        for command, reply in zip(done.exchange.commands, done.replies, strict=True):
            script = script_of(command)
            if script is not None and script.name == "report" and reply == 1:
                reported[str(command[4])] = done.at
                for name in [name for name, at in reported.items() if at < done.at - WORKER_WINDOW_SECONDS]:
                    del reported[name]
            elif command[0] == b"HDEL" and _is_of_workers(command):
                reported.pop(str(command[2]), None)
            elif command[0] == b"HGETALL" and _is_of_workers(command) and not isinstance(reply, Refusal):
                told = {name.decode() for name in parse_map(reply)}
                if missing := reported.keys() - told:
                    self._note_fault(f"{sorted(missing)} have reported, and nobody is told of them")


def _is_of_workers(command: Command) -> bool:
    key: Any = command[1]
    return str(key).endswith(_KEY)
