"""What an archive notes of a run beside its events is that of whoever has read the most of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from runstream.model.archive_records import ArchiveEntry, RunBatch, RunHeader
from runstream.model.results import Cursor
from tests.stores.archive.snapshot_tools import KINDS, open_at, opened_again
from tests.support.archive_check import Archive
from tests.support.backends import info_of


@pytest.fixture(params=KINDS)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    with closing(open_at(request.param, tmp_path / "archive")) as archive:
        yield archive


def test_a_worker_that_was_paused_knows_less_however_the_servers_clock_was_set(archive: Archive) -> None:
    """It has read five events of ten, when the clock was an hour ahead."""
    start = Cursor(0, 1)
    entries = [ArchiveEntry(n, n, None, f'{{"run_id":"r","ts":1.0,"kind":"x","seq":{n}}}') for n in range(1, 11)]
    late = RunHeader("r", start, "", "running", created_at=10.0, updated_at=3610.0)
    newest = RunHeader("r", start, "a session", "completed", created_at=10.0, updated_at=20.0)
    archive.write([RunBatch(late, start, entries[:3])])
    archive.write([RunBatch(newest, start, entries)])
    archive.write([RunBatch(late, start, entries[:5])])
    archive.write([RunBatch(late, entries[4].cursor)])
    for opened in (archive, opened_again(archive)):
        info = info_of(opened, "r")
        assert (info.status, info.session_id, info.updated_at) == ("completed", "a session", 20.0)
    archive.write([RunBatch(replace(newest, session_id="another", updated_at=30.0), entries[-1].cursor)])
    assert info_of(archive, "r").session_id == "another"
