"""What a reader may be given of an archive in which one bit has flipped: what was written, or an error of ours."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from runstream import RunstreamError
from runstream.codec.chain import next_chain
from runstream.codec.record import record_crc
from runstream.model.archive_records import ArchiveEntry, RunBatch, RunHeader
from runstream.model.results import Cursor
from tests.support.operations import last_seq
from tests.support.samples import make_event, make_state

__all__ = ["LISTS", "RUNS", "answers", "differences", "flip", "write"]

RUNS = ("r", "q")
LISTS = ("runs", "list_runs")
"""Questions about all runs: one that is damaged is left out, and `check_integrity` tells."""
_RAW = b"\x01\0\0\0\1no record"


def write(store: Any) -> None:
    """Two runs in two lanes, with keys, snapshots, a large event, and a run whose record did not read."""
    for run_id in RUNS:
        for n in range(1, 9):
            payload = {"n": n, "b": b"x", "s": {1, 2}, "text": "long " * (1500 if n == 5 else 1)}
            event = make_event(run_id, n, lane_id=f"lane{n % 2}", payload=payload)
            snapshot = make_state(run_id, data={"n": n}) if n % 3 == 0 else None
            store.append(run_id, [event], keys=[f"k{n}"], snapshot=snapshot)
        store.save_snapshot(run_id, make_state(run_id, data={"own": 1, "b": b"x"}), lane_id="lane1")
    start = Cursor(0, 5)
    entry = ArchiveEntry(1, next_chain(5, record_crc(_RAW)), None, None, _RAW, "it did not read", 5.0)
    store.write([RunBatch(RunHeader("aside", start), start, [entry])])


def _questions(store: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    yield "runs", lambda: [(one.run_id, one.status, one.last_offset) for one in store.runs()]
    yield "list_runs", lambda: list(store.list_runs())
    yield "quarantine", lambda: [one for one in store.quarantine() if not one[1].is_damaged]
    for run_id in RUNS:
        yield from (
            ("info", lambda run_id=run_id: store.run_info(run_id)),
            ("read", lambda run_id=run_id: _plain(store.read(run_id))),
            ("back", lambda run_id=run_id: _plain(store.read(run_id, reverse=True))),
            ("tail", lambda run_id=run_id: [one.to_dict() for one in store.list_events(run_id, 6)]),
            ("recover", lambda run_id=run_id: store.recover(run_id).state.to_dict()),
            ("load", lambda run_id=run_id: _snapshot(store.load_snapshot(run_id))),
            ("of lane", lambda run_id=run_id: _snapshot(store.load_snapshot(run_id, lane_id="lane1"))),
            ("history", lambda run_id=run_id: [_snapshot(one) for one in store.snapshot_history(run_id)]),
            ("at 5", lambda run_id=run_id: _snapshot(store.snapshot_at(run_id, 5))),
            ("at 3", lambda run_id=run_id: _snapshot(store.snapshot_at(run_id, 3))),
            ("lanes", lambda run_id=run_id: store.snapshot_lanes(run_id)),
            ("seq", lambda run_id=run_id: (last_seq(store, run_id, "lane0"), last_seq(store, run_id, "lane1"))),
            ("lane ends", lambda run_id=run_id: _ends(store.lanes(run_id))),
            ("skip", lambda run_id=run_id: _plain(store.read(run_id, on_corrupt="skip"))),
        )


def _plain(recorded: Any) -> list[Any]:
    return [(one.offset, one.cursor, one.event.to_dict()) for one in recorded]


def _ends(lanes: Any) -> list[Any]:
    return [(one.lane_id, one.last_offset, one.last_seq) for one in lanes if one.last_offset]


def _snapshot(one: Any) -> Any:
    return None if one is None else (one.offset, one.revision, one.state.to_dict())


def answers(store: Any) -> dict[str, Any]:
    """What is answered to each question; the error, where it is one of ours."""
    found: dict[str, Any] = {}
    for number, (name, ask) in enumerate(_questions(store)):
        try:
            found[f"{name} {number}"] = ask()
        except RunstreamError as error:
            found[f"{name} {number}"] = error
    return found


def differences(sound: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The answers that are neither what was written nor an error; those that were read are what is left of it."""
    wrong = {}
    for name, answer in found.items():
        if isinstance(answer, RunstreamError) or answer == sound[name]:
            continue
        if name.startswith(("skip", "quarantine", "lane ends")) and all(one in sound[name] for one in answer):
            continue
        wrong[name] = answer
    return wrong


def flip(gold: Path, path: Path, rng: random.Random, places: Sequence[range] = ()) -> int:
    """Copy a file with one bit flipped, in one of these places or anywhere; where in the file (bytes)."""
    content = bytearray(gold.read_bytes())
    at = rng.choice(rng.choice(places) if places else range(len(content)))
    content[at] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return at


warnings.simplefilter("ignore", ResourceWarning)
