"""Breaks of what a worker or an archive does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from runstream.drain.batch import Batches
from runstream.model.errors import StoreUnavailable
from runstream.stores.archive.jsonl import operations as in_jsonl
from runstream.stores.archive.jsonl import run_log
from runstream.stores.archive.sqlite import write_batch as in_sqlite
from tests.simulation.breaks.one import Break

__all__ = ["IN_WORKERS"]


def _settle_without_proof(patched: pytest.MonkeyPatch) -> None:
    write = Batches._write

    def write_or_not(self: Any, *args: Any) -> None:
        with suppress(StoreUnavailable):
            write(self, *args)

    patched.setattr(Batches, "_write", write_or_not)
    patched.setattr(Batches, "_read_back", lambda *_: None)


def _one_archive_is_enough(patched: pytest.MonkeyPatch) -> None:
    write, read_back = Batches._write, Batches._read_back

    def write_to_first(self: Any, sink: Any, *args: Any) -> None:
        if sink is self._parts.sinks[0]:
            write(self, sink, *args)

    def read_back_first(self: Any, sink: Any, *args: Any) -> None:
        if sink is self._parts.sinks[0]:
            read_back(self, sink, *args)

    patched.setattr(Batches, "_write", write_to_first)
    patched.setattr(Batches, "_read_back", read_back_first)


class _Earlier:
    """A namespace, with runs as they were loaded before."""

    def __init__(self, namespace: Any, runs: Any) -> None:
        self._namespace = namespace
        self.load_due = lambda _: runs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._namespace, name)


def _ask_redis_first(patched: pytest.MonkeyPatch) -> None:
    load = Batches._load

    def load_before(self: Any, run_ids: Sequence[str]) -> Any:
        namespace = self._namespace
        self._namespace = _Earlier(namespace, namespace.load_due(run_ids))
        try:
            return load(self, run_ids)
        finally:
            self._namespace = namespace

    patched.setattr(Batches, "_load", load_before)


def _park_without_looking_again(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(Batches, "_has_moved", lambda *_: False)


def _write_whatever_comes(patched: pytest.MonkeyPatch) -> None:
    def all_after(batch: Any, last: Any, _: Any) -> Any:
        return batch.entries if last is None else [one for one in batch.entries if one.offset > last.offset]

    patched.setattr(in_jsonl, "new_entries", all_after)
    patched.setattr(in_sqlite, "new_entries", all_after)


def _write_without_fsync(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(run_log, "sync", lambda _: None)


IN_WORKERS: Sequence[Break] = (
    Break("a batch is settled that no archive has", "storm", _settle_without_proof, seed=33),
    Break("a run is parked that another worker has moved on", "rivals", _park_without_looking_again, seed=14),
    Break("a JSONL log is not fsynced", "power loss", _write_without_fsync),
)
