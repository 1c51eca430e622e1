"""Breaks that are found only where others go on between the commands of an exchange, sent for asyncio, too."""

from __future__ import annotations

from typing import Any

import pytest

from runstream.operations.operation import Exchange
from runstream.stores.redis.connection.loop_clients import LoopClient
from runstream.stores.redis.operations import absent
from runstream.stores.redis.operations.client import update_state
from runstream.stores.redis.page_size import PageSize
from tests.simulation.breaks.one import Break

__all__ = ["OF_MOMENTS"]


def _of_many_moments(*args: Any, **options: Any) -> Exchange:
    return Exchange(*args, **options)._replace(atomic=False)


def _read_in_many(patched: pytest.MonkeyPatch) -> None:
    exchange = PageSize.exchange

    def exchange_in_many(*args: Any) -> Exchange:
        return exchange(*args)._replace(atomic=False)

    patched.setattr(PageSize, "exchange", exchange_in_many)


def _look_in_many(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(absent, "Exchange", _of_many_moments)


def _load_in_many(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(update_state, "Exchange", _of_many_moments)


def _wait_for_no_script(patched: pytest.MonkeyPatch) -> None:
    async def load(*_: Any) -> None:
        pass

    patched.setattr(LoopClient, "load", load)


OF_MOMENTS = (
    Break("a page is not of the moment at which its run was looked at", "deletions one by one", _read_in_many, 11),
    Break("a run is looked for in many moments", "deletions one by one", _look_in_many, 3),
    Break("a state is not of the moment of what is noted of it", "counters one by one", _load_in_many),
    Break("a task of asyncio waits for no script to be known", "few, under asyncio", _wait_for_no_script),
)
