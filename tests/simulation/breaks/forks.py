"""Breaks of what is done where calls are broken off, and after a fork."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from runstream.stores.redis.session.in_flight import InFlight
from runstream.stores.redis.session.producers import ProducerPool
from runstream.stores.redis.session.seen import SeenBook
from tests.simulation.breaks.one import Break

__all__ = ["AFTER_BREAKS_OFF"]


def _forget_unanswered(error: type[BaseException]) -> Callable[[pytest.MonkeyPatch], None]:
    """Forget what was sent where this error broke the call off."""
    add = InFlight.add

    def make(patched: pytest.MonkeyPatch) -> None:
        def add_or_not(self: Any, attempts: Any) -> None:
            if not isinstance(sys.exception(), error):
                add(self, attempts)

        patched.setattr(InFlight, "add", add_or_not)

    return make


def _keep_producers(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(ProducerPool, "_start_anew", lambda _: None)


def _see_nothing_in_a_loop(patched: pytest.MonkeyPatch) -> None:
    note = SeenBook.note

    def note_or_not(*args: Any) -> None:
        if asyncio._get_running_loop() is None:
            note(*args)

    patched.setattr(SeenBook, "note", note_or_not)


AFTER_BREAKS_OFF: Sequence[Break] = (
    Break(
        "an append is forgotten that was cancelled", "asyncio", _forget_unanswered(asyncio.CancelledError), seed=2
    ),
    Break("an append is forgotten that was interrupted", "forks", _forget_unanswered(KeyboardInterrupt), seed=26),
    Break("an async store does not keep what it has seen", "forks", _see_nothing_in_a_loop, seed=10),
    Break("a forked child appends under its parent's producers", "forks", _keep_producers),
)
