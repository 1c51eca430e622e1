"""Files that purpose-agent itself writes, and the command that imports them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from purpose_agent.runtime import events as their_events

from runstream import connect
from runstream.integrations.imported import Imported
from runstream.integrations.purpose_agent.importer import Importer
from tests.support.commands import Said, run

KIND = their_events.EventKind


class Theirs(NamedTuple):
    """A source that purpose-agent writes, and its own writer and reader of it."""

    path: Path
    checkpointer: Any

    @property
    def is_database(self) -> bool:
        return self.path.is_file()

    def log(self, run_id: str) -> Path:
        return self.path / run_id / "events.jsonl"

    def write(self, run_id: str, text: str) -> None:
        """What only a hand, or another version, writes: a line or a row with this text."""
        if not self.is_database:
            with self.log(run_id).open("a") as file:
                file.write(f"{text}\n")
            return
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute(
                "INSERT INTO events (run_id, seq, ts, kind, data) VALUES (?, 1, 1.0, 'x', ?)", (run_id, text)
            )


def their_event(run_id: str, seq: int, kind: Any = KIND.TOOL_RESULT, lane_id: str = "main", **payload: Any) -> Any:
    return their_events.create_event(run_id=run_id, kind=kind, seq=seq, lane_id=lane_id, **payload)


def fill(source: Theirs, run_id: str, count: int, *, first: int = 1) -> None:
    """Events that purpose-agent's own reader of either kind gives in the order of writing."""
    if count < 100:
        for seq in range(first, first + count):
            source.checkpointer.save_event(their_event(run_id, seq, n=seq))
        return
    events = [their_event(run_id, seq, n=seq) for seq in range(first, first + count)]
    if not source.is_database:
        for event in events:
            source.checkpointer.save_event(event)
        return
    with closing(sqlite3.connect(source.path)) as connection:  # as it writes them, in one transaction
        connection.executemany(
            "INSERT INTO events (run_id, seq, ts, kind, lane_id, data) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (e.run_id, e.seq, e.ts, e.kind.value, e.lane_id, json.dumps(e.to_dict(), default=str))
                for e in events
            ],
        )
        connection.commit()


def import_(path: Path, url: str, *arguments: str) -> Said:
    return run("import", str(path), "--url", url, *arguments)


def result_of(said: Said, run_id: str = "r") -> dict[str, Any]:
    assert said.out, said.err
    (found,) = [each for each in said.document["runs"] if each["run_id"] == run_id]
    return dict(found)


def numbers(url: str, run_id: str = "r") -> list[int]:
    with connect(url) as store:
        return [item.event.payload["n"] for item in store.read(run_id)]


def footprint(path: Path) -> dict[str, bytes]:
    """All that is at a path, with its content, and what lies beside it."""
    places = sorted(path.rglob("*")) if path.is_dir() else sorted(path.parent.glob(f"{path.name}*"))
    return {str(each): each.read_bytes() for each in places if each.is_file()}


def importing_all(store: Any, source: Any, **options: Any) -> list[Imported]:
    importer = Importer(store, **options)
    return [importer.run(each) for each in source.runs()]
