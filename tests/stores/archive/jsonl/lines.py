"""How the tests look into a JSONL directory, and what they write to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runstream.codec.archive_entries import archive_entry
from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.record import record_crc
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunBatch, RunHeader
from runstream.model.events import PAEvent, create_event
from runstream.model.results import Cursor
from runstream.model.state import RunState
from runstream.repair.verify import verify_run
from runstream.stores.archive.jsonl import JSONLCheckpointer, file_names

Store = JSONLCheckpointer[PAEvent, RunState]
CODEC: Codec[PAEvent, RunState] = Codec()


def event(run_id: str, number: int, kind: str = "text.delta", **payload: Any) -> PAEvent:
    return create_event(run_id, kind, seq=number, number=number, **payload)


def state(run_id: str, step: int, **values: Any) -> RunState:
    return RunState(run_id=run_id, status="running", current_step=step, **values)


def numbers(store: Store, run_id: str) -> list[int]:
    """What is in the run, whose history is whole."""
    assert verify_run(run_id, sinks=[store]).difference is None
    return readable(store, run_id)


def readable(store: Store, run_id: str) -> list[int]:
    """What is in the run, as a reader has it also where nobody can prove it just now."""
    return [item.event.payload["number"] for item in store.read(run_id)]


def log_of(directory: Path, run_id: str = "r") -> Path:
    return directory / file_names.encoded(run_id) / "events.jsonl"


def history(run_id: str, start: Cursor, events: list[PAEvent]) -> list[ArchiveEntry]:
    """The entries of these events after a place, as a drain worker makes them."""
    entries, place = [], start
    for encoded in CODEC.encode_events(run_id, events):
        place = Cursor(place.offset + 1, next_chain(place.chain, record_crc(encoded.record)))
        entries.append(archive_entry(run_id, place.offset, place.chain, encoded.record))
    return entries


def batch(
    run_id: str, start: Cursor, entries: list[ArchiveEntry], *snapshots: ArchiveSnapshot, status: str = "running"
) -> RunBatch:
    after = entries[0].offset - 1 if entries else start.offset
    assert after == start.offset
    return RunBatch(RunHeader(run_id, start, "s", status, 1.5, 2.5), start, entries, snapshots)


def files_below(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.parent.name != ".locks"
    }


START = Cursor(0, 12345)
