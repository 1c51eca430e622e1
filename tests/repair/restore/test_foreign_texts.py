"""Files that purpose-agent wrote are archives as any: put back, drained to, verified and copied.

Its texts have spaces and escapes, rows of other versions lack fields or have them in another order.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.runtime import checkpoint as theirs
from purpose_agent.runtime.events import EventKind, create_event
from purpose_agent.runtime.state import RunState

from runstream import DrainWorker, JSONLCheckpointer, SQLiteCheckpointer
from runstream.repair.required_archives import add_archive
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hot, first_hot, open_hot, parked
from tests.support.samples import make_event

PAYLOAD: dict[str, Any] = {"text": "ünï 日本", "n": [1, 1.0, 1e16, None], "$set": [2, 1], "nan": float("nan")}


@pytest.fixture
def hot(backend: RedisBackend) -> Hot:
    return open_hot(backend)


def write(kind: str, path: Path) -> None:
    """What purpose-agent writes, and a row or line of another version: other fields first, some not there."""
    make = {"sqlite": theirs.SQLiteCheckpointer, "jsonl": theirs.JSONLCheckpointer}[kind]
    writer = make(str(path))
    for seq in range(1, 4):
        writer.save_event(create_event(run_id="r", kind=EventKind.TOOL_RESULT, seq=seq, **PAYLOAD))
    short = json.dumps({"kind": "x", "payload": {"b": 1, "a": {"$tuple": []}}, "ts": 5, "run_id": "r"})
    if kind == "sqlite":
        with closing(sqlite3.connect(path)) as file, file:
            file.execute("INSERT INTO events (run_id, seq, ts, kind, data) VALUES ('r', 0, 5, 'x', ?)", (short,))
    else:
        with (path / "r" / "events.jsonl").open("a") as log:
            log.write(f"{short}\n")
    writer.save_snapshot("r", RunState(run_id="r", data={"b": PAYLOAD, "a": [1.0, "ü"]}))


def opened(kind: str, path: Path) -> Archive:
    return SQLiteCheckpointer(path) if kind == "sqlite" else JSONLCheckpointer(path)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_a_file_of_purpose_agent_takes_the_run_on_that_was_put_back_from_it(
    hot: Hot, tmp_path: Path, kind: str, whole: bool
) -> None:
    write(kind, tmp_path / "theirs")
    with opened(kind, tmp_path / "theirs") as archive:
        before = archive.list_events("r")
        assert len(before) == 4
        assert repr(archive.list_events("r")) == repr(before)
        put_back(hot, archive, "r", whole=whole)
        assert verify_run("r", hot=hot, sinks=[archive]).difference is None
        hot.append("r", [make_event("r", 9)])
        report = DrainWorker(hot, [archive], trim="archived").drain_once()
        assert (report.parked, parked(hot), first_hot(hot, "r")) == (0, {}, 6)
        assert verify_run("r", hot=hot, sinks=[archive]).difference is None
        assert repr(archive.list_events("r")[:4]) == repr(before)
        for late in ("sqlite", "jsonl"):
            with opened(late, tmp_path / late) as copy:
                add_archive(hot, copy, archive)
                assert verify_run("r", hot=hot, sinks=[archive, copy]).difference is None
                assert repr(copy.list_events("r")) == repr(archive.list_events("r"))
