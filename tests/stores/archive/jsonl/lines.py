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
from runstream.stores.archive.jsonl import JSONLCheckpointer, file_names
from tests.support.archive_check import bounds_of

Store = JSONLCheckpointer[PAEvent, RunState]
CODEC: Codec[PAEvent, RunState] = Codec()
DEADLINE_SECONDS = 30.0


def event(run_id: str, number: int, kind: str = "text.delta", **payload: Any) -> PAEvent:
    return create_event(run_id, kind, seq=number, number=number, **payload)


def state(run_id: str, step: int, **values: Any) -> RunState:
    return RunState(run_id=run_id, status="running", current_step=step, **values)


def numbers(store: Store, run_id: str) -> list[int]:
    """What is in the run, checked on the way: offsets are dense and each chain follows from the one before."""
    found = list(store.read(run_id))
    bounds = bounds_of(store, run_id)
    if bounds is None:
        assert not found
        return []
    chain = bounds[0].chain
    for offset, item in enumerate(found, bounds[0].offset + 1):
        (encoded,) = CODEC.encode_events(run_id, [item.event])
        chain = next_chain(chain, record_crc(encoded.record))
        assert item.cursor == f"{offset}-{chain}"
    assert str(bounds[1]) == (found[-1].cursor if found else str(bounds[0]))
    return [item.event.payload["number"] for item in found]


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
