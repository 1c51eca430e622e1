"""Death at any point of what a process does, for tests that try each of them in one process."""

from __future__ import annotations

from typing import Any

from runstream.operations.operation import Exchange, Replies


class Killed(BaseException):
    """The process died here. A BaseException: no handler of ours may swallow it."""


class Mortal:
    """Counts steps and dies at one of them; the dead do nothing more, and do not give up their claims."""

    def __init__(self, die_at: int) -> None:
        self.steps = 0
        self._die_at = die_at

    def step(self) -> None:
        """Go on to the next step, unless this is the end."""
        if self.steps < self._die_at:
            self.steps += 1
        if self.steps == self._die_at:
            raise Killed

    def exchanges_of(self, store: Any) -> None:
        """An exchange of the store with Redis is two steps: before it is sent, after its replies have come."""
        driver = store._driver  # where every exchange goes through
        exchange = driver.exchange_once

        def dying_exchange(one: Exchange) -> Replies:
            self.step()
            replies: Replies = exchange(one)
            self.step()
            return replies

        driver.exchange_once = dying_exchange
