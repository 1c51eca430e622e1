"""Breaks of what a worker or an archive does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from runstream.drain.batch import Batches
from runstream.drain.claimed_run import ClaimedRun, Positions
from runstream.drain.worker import DrainWorker
from runstream.model.errors import StoreUnavailable
from runstream.model.results import DrainReport
from runstream.repair import resolve
from runstream.repair.branches import branch_name
from runstream.stores.archive.jsonl import run_log
from runstream.stores.archive.sqlite.file_identity import FileIdentity
from runstream.stores.redis.operations.worker.drain import Proven
from runstream.stores.redis.operations.worker.hot_run import HotRun
from tests.simulation.breaks.one import Break

__all__ = ["IN_WORKERS"]


def _settle_without_proof(patched: pytest.MonkeyPatch) -> None:
    write = Batches._write

    def write_or_not(self: Any, *args: Any) -> None:
        with suppress(StoreUnavailable):
            write(self, *args)

    patched.setattr(Batches, "_write", write_or_not)
    patched.setattr(Batches, "_read_back", lambda *_: None)


def _park_without_looking_again(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(Batches, "_is_out_of_date", lambda *_: False)


def _write_without_fsync(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(run_log, "sync", lambda _: None)


def _go_on_with_what_was_replaced(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(FileIdentity, "changed", lambda _: None)


def _begin_at_the_mark(patched: pytest.MonkeyPatch) -> None:
    begin = ClaimedRun.begin

    def begin_there(run: HotRun, positions: Positions) -> ClaimedRun:
        return replace(begin(run, positions), proven=run.head.mark)

    patched.setattr(ClaimedRun, "begin", begin_there)


def _keep_no_branch(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(resolve, "keep_branch", lambda _, history, __: branch_name(history.run_id, history.last))


def _trim_at_once_without_proof(patched: pytest.MonkeyPatch) -> None:
    def drain_runs(self: DrainWorker, run_ids: Sequence[str]) -> DrainReport:
        runs = [run for run in self._namespace.load_runs(run_ids) if run is not None]
        proven = [Proven(run.header, run.head.last, run.head.tokens, "archived", None) for run in runs]
        settled = self._namespace.settle(proven, self._parts.archives)
        return DrainReport(trimmed=sum(one.trimmed for one in settled))

    patched.setattr(DrainWorker, "drain_runs", drain_runs)


IN_WORKERS: Sequence[Break] = (
    Break("a batch is settled that no archive has", "storm", _settle_without_proof, seed=9),
    Break("a run is parked that another worker has moved on", "rivals", _park_without_looking_again, seed=3),
    Break("an operator trims what no archive has", "retirements", _trim_at_once_without_proof, seed=2),
    Break("a JSONL log is not fsynced", "power loss", _write_without_fsync, seed=3),
    Break(
        "a worker goes on with a database that was replaced",
        "older copies",
        _go_on_with_what_was_replaced,
        seed=37,
    ),
    Break(
        "what an archive lacks before the mark is not archived again", "older copies", _begin_at_the_mark, seed=32
    ),
    Break("a branch that gives way is not kept", "resolutions", _keep_no_branch, seed=18),
)
