"""Appends to one run that tasks are about to send: one of them sends all, in one call, as callers of a process do.

Whose they are does not matter to the script, so those of several processes go together, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from runstream.operations.operation import Exchange, Replies
from runstream.stores.redis.connection.gathering import gathers
from runstream.stores.redis.scripts.calls import gather_call, gathers_with
from runstream.testing.simulation.scheduler import Scheduler

__all__ = ["Lines"]

_SECONDS = (0.0, 0.003)  # until it is sent: a step, or as long as others take to come


class _Way(Protocol):
    """The way of a process to a server."""

    def connected(self) -> object:
        """The server that it leads to. Raises StoreUnavailable if there is none any more."""

    def execute(self, exchange: Exchange, since: int = 0) -> Replies:
        """Let the server execute an exchange."""

    def note(self, exchange: Exchange, replies: Replies) -> None:
        """Note that it has executed one."""


@dataclass(eq=False)
class _Append:
    way: _Way
    exchange: Exchange
    replies: Replies | None = None


class Lines:
    """The appends that are about to be sent, by server and run.

    Args:
        scheduler: Lets others go on.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.are_open = False
        """Whether appends go together."""
        self._scheduler = scheduler
        self._lines: dict[Any, list[_Append]] = {}

    def line_up(self, way: _Way, exchange: Exchange) -> Callable[[], Replies | None]:
        """What waits until an exchange is to be sent, and gives the replies of one that others have sent."""
        if self.are_open and gathers(exchange):
            return partial(self._come, _Append(way, exchange))
        return self._scheduler.step

    def _come(self, append: _Append) -> Replies | None:
        line = self._lines.setdefault((append.way.connected(), gathers_with(append.exchange.commands[0])), [])
        line.append(append)
        try:
            self._scheduler.wait(self._scheduler.choices.one_of(_SECONDS))
        finally:
            if append in line:
                line.remove(append)
        if append.replies is None and line:
            together = [append, *line]
            line.clear()
            self._send(together)
        return append.replies

    def _send(self, together: Sequence[_Append]) -> None:
        way = together[0].way
        self._scheduler.note(f"sends {len(together)} appends in one call")
        call = gather_call([append.exchange.commands[0] for append in together])
        (replies,) = way.execute(Exchange((call,), permissive=True))
        for append, reply in zip(together, replies if type(replies) is list else (), strict=False):
            if reply:
                append.replies = [reply]
                append.way.note(append.exchange, append.replies)
