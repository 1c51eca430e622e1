"""The line between a store and its server, cut where a test says so."""

from __future__ import annotations

from typing import Any

from runstream import RedisCheckpointer
from runstream.model.errors import StoreUnavailable
from runstream.operations.operation import Exchange, Replies

__all__ = ["Line"]


class Line:
    """The line between a store and its server, which a test cuts: before a request arrives, or its reply."""

    def __init__(self, store: RedisCheckpointer[Any, Any]) -> None:
        driver: Any = store._driver
        self._exchange = driver.exchange_once
        self._cuts: list[str] = []
        self.sent = 0
        driver.exchange_once = self._pass_on

    def cut(self, *where: str) -> None:
        """Lose the next requests or replies."""
        self._cuts = list(where)
        self.sent = 0

    def _pass_on(self, exchange: Exchange) -> Replies:
        self.sent += len(exchange.commands)
        where = self._cuts.pop(0) if self._cuts else ""
        if where == "request":
            raise StoreUnavailable("the request was lost")
        replies: Replies = self._exchange(exchange)
        if where == "reply":
            raise StoreUnavailable("the reply was lost")
        return replies
