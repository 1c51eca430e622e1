"""``runstream diff``: show how two runs differ."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import zip_longest
from typing import Annotated, Any

import typer
from rich.table import Table

from runstream.cli.support.options import AsJson, OfArchive, OfUpcasts, Url, Wide, open_to_read
from runstream.cli.support.output import console, emit_json, make_table, spaced
from runstream.cli.support.run_names import RunName, complete_run, run_named
from runstream.cli.support.value_texts import cut, payload_text, value_text
from runstream.codec.json_facts import event_facts
from runstream.model.results import Recorded
from runstream.model.run_diff import LaneDiff, RunDiff, StateDifference

__all__ = ["EPILOG", "diff"]

EPILOG = """Examples:

runstream diff run-42 run-42-again --url sqlite:archive.db

runstream diff run-42 run-42-again --url redis://localhost --archive sqlite:archive.db --json"""


def diff(
    run: RunName,
    other: Annotated[
        str,
        typer.Argument(metavar="OTHER", help="The run to compare it with, likewise.", autocompletion=complete_run),
    ],
    url: Url = None,
    archive: OfArchive = None,
    upcasts: OfUpcasts = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Show how two runs differ: their events from where they part, by lane, and what their states differ in.

    Runs with a common history, such as forks of one run, part after the last event that both have; others at their
    beginning. The states are those of the latest snapshots.
    """
    with open_to_read(url, archive, upcasts) as store:
        run, other = run_named(store, run), run_named(store, other)
        found = store.diff(run, other)
    if as_json:
        emit_json(_facts(found))
        return
    console(sys.stdout, wide=wide).print(*spaced(_tables(found, wide=wide)), sep="\n")


def _facts(found: RunDiff[Any]) -> dict[str, Any]:
    lanes = [
        {
            "lane_id": lane.lane_id,
            "events": [event_facts(item) for item in lane.events],
            "other_events": [event_facts(item) for item in lane.other_events],
            "state": _facts_of(lane.state),
        }
        for lane in found.lanes
    ]
    return {
        "run_id": found.run_id,
        "other_run_id": found.other_run_id,
        "shared_offset": found.shared_offset,
        "lanes": lanes,
        "state": _facts_of(found.state),
    }


def _facts_of(state: Sequence[StateDifference]) -> list[dict[str, Any]]:
    """The differences, without what a run does not have there."""
    without = {"added": "old", "removed": "new"}
    return [{k: v for k, v in asdict(one).items() if k != without.get(one.what)} for one in state]


def _tables(found: RunDiff[Any], *, wide: bool) -> Iterator[Table]:
    """Where they part, the events of each lane side by side, and the states."""
    sides = (found.run_id, found.other_run_id)
    shared = f"offset {found.shared_offset}" if found.shared_offset else "the beginning: they share no event"
    yield make_table(["what", "value"], [("run", sides[0]), ("compared with", sides[1]), ("part after", shared)])
    for lane in found.lanes:
        yield make_table(["offset", sides[0], "", sides[1]], _rows(lane, wide=wide), title=f"lane {lane.lane_id}")
    states = [("the run", found.state), *((f"lane {lane.lane_id}", lane.state) for lane in found.lanes)]
    for name, state in states:
        if state:
            rows = [(one.path, *_values(one, wide=wide)) for one in state]
            yield make_table([f"state of {name}", *sides], rows, unfolded=(f"state of {name}",))


def _rows(lane: LaneDiff[Any], *, wide: bool) -> Iterator[tuple[object, ...]]:
    for pair in zip_longest(lane.events, lane.other_events):
        yield tuple(cell for item in pair for cell in _cells(item, wide=wide))


def _cells(item: Recorded[Any] | None, *, wide: bool) -> tuple[int | None, str | None]:
    if item is None:
        return None, None
    text = f"{item.event.kind} {payload_text(item.event.payload)}".rstrip()
    return item.offset, text if wide else cut(text)


def _values(one: StateDifference, *, wide: bool) -> tuple[str | None, str | None]:
    old, new = (value_text(value, one.path) for value in (one.old, one.new))
    if not wide:
        old, new = cut(old), cut(new)
    return None if one.what == "added" else old, None if one.what == "removed" else new
