"""Write the texts of an archive in another way for the same values, as another program or another hash seed does.

Sets have their members in reverse, events their fields; there are spaces, and escapes for all that is not ASCII.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from runstream.stores.archive.jsonl.line_format import facts_of
from runstream.stores.archive.jsonl.snapshot_files import facts_of_snapshot
from tests.support.archive_check import Archive
from tests.support.checksums import forget_checksums

__all__ = ["rewrite"]


def rewrite(archive: Archive, event: Callable[[str], str] | None = None) -> None:
    """Write all texts of events and states in another way, or the events as that says."""
    kind, _, path = archive.location.partition(":")
    event = event or _event
    if kind == "sqlite":
        with closing(sqlite3.connect(path)) as file, file:
            file.create_function("event", 1, event)
            file.create_function("state", 1, _other)
            file.execute("UPDATE events SET data = event(data) WHERE data <> ''")
            for table in ("snapshots", "lane_snapshots", "snapshot_history"):
                file.execute(f"UPDATE {table} SET state = state(state)")
        forget_checksums(path)
        return
    for log in Path(path).rglob("events.jsonl"):
        log.write_bytes(b"".join(_line(line, event) for line in log.read_bytes().splitlines(keepends=True)))
    for snapshot in Path(path).rglob("snapshot*.json"):
        text = snapshot.read_bytes()
        facts = facts_of_snapshot(text)
        assert facts is not None
        state = _other(text[: facts.begin].decode().removesuffix(",") + "}")
        snapshot.write_bytes(state[:-1].encode() + b"," + text[facts.begin :])
    forget_checksums(path)


def _line(line: bytes, event: Callable[[str], str]) -> bytes:
    facts = facts_of(line.rstrip(b"\n"))
    if facts is None or not line.startswith(b'{"run_id"'):
        return line
    return event(line[: facts.start() - 1].decode() + "}")[:-1].encode() + b"," + facts[0] + b"\n"


def _event(text: str) -> str:
    fields = json.loads(_other(text))
    return json.dumps(dict(reversed(fields.items())))


def _other(text: str) -> str:
    return json.dumps(json.loads(text, object_hook=_reversed_sets))


def _reversed_sets(value: dict[str, Any]) -> dict[str, Any]:
    return {tag: part[::-1] if tag in ("$set", "$frozenset") else part for tag, part in value.items()}
