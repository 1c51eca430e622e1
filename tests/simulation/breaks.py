"""Deliberate breaks of the protocol, which the simulation is to find."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from runstream.drain.batch import Batches
from runstream.model.errors import StoreUnavailable
from runstream.stores.archive.jsonl import run_log
from runstream.stores.redis.scripts.library import SCRIPT
from runstream.stores.redis.session.in_flight import InFlight
from runstream.stores.redis.session.producers import ProducerPool
from runstream.stores.redis.session.seen import SeenBook
from runstream.testing.simulation.server import SimulatedServer

__all__ = ["BREAKS", "Break"]


class Break(NamedTuple):
    """A break: what it is, in which game it is looked for, and what makes it."""

    name: str
    plan: str
    make: Callable[[pytest.MonkeyPatch], None]


def _in_script(script: str, *changes: tuple[str, str]) -> Callable[[pytest.MonkeyPatch], None]:
    """Put other text in the place of some of a script's."""

    def make(patched: pytest.MonkeyPatch) -> None:
        source = SCRIPT[script].source
        for text, other in changes:
            assert source.count(text) == 1, (script, text)
            source = source.replace(text, other)
        patched.setattr(SimulatedServer, "broken", {script: source})

    return make


def _settle_without_proof(patched: pytest.MonkeyPatch) -> None:
    write = Batches._write

    def write_or_not(self: Any, *args: Any) -> None:
        with suppress(StoreUnavailable):
            write(self, *args)

    patched.setattr(Batches, "_write", write_or_not)
    patched.setattr(Batches, "_read_back", lambda *_: None)


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


def _write_without_fsync(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(run_log, "sync", lambda _: None)


BREAKS: Sequence[Break] = (
    Break(
        "a batch that is sent again is appended again",
        "storm",
        _in_script("append", ("if sent_batch == batch then", "if sent_batch == batch and false then")),
    ),
    Break(
        "what a writer has seen is not compared",
        "failovers",
        _in_script("append", ("if seen ~= '-' and seen ~= meta[2] then", "if false then")),
    ),
    Break("a batch is settled that no archive has", "storm", _settle_without_proof),
    Break("an append is forgotten that was cancelled", "asyncio", _forget_unanswered(asyncio.CancelledError)),
    Break("an append is forgotten that was interrupted", "forks", _forget_unanswered(KeyboardInterrupt)),
    Break("a forked child appends under its parent's producers", "forks", _keep_producers),
    Break("an async store does not keep what it has seen", "forks", _see_nothing_in_a_loop),
    Break("a JSONL log is not fsynced", "power loss", _write_without_fsync),
)
