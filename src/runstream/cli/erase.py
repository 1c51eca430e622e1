"""``runstream erase``, ``truncate``, ``erasures``: let content of a run go for good, and see what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from runstream.cli.support.options import AsJson, OfArchive, Url, open_to_read
from runstream.cli.support.output import emit_json, print_table, say
from runstream.cli.support.run_names import RunName, run_named
from runstream.codec.json_facts import iso_time
from runstream.model.erasures import Erasure, ErasureNote

__all__ = ["ERASE_EPILOG", "ERASURES_EPILOG", "TRUNCATE_EPILOG", "erase", "erasures", "truncate"]

ERASE_EPILOG = """Examples:

runstream erase run-42 --offset 17 --offset 18 --drop-snapshots

runstream erase run-42 --lane reviewer --url sqlite:archive.db"""

TRUNCATE_EPILOG = """Examples:

runstream truncate run-42 --before 1000 --url redis://localhost

runstream truncate run-42 --before 1000 --detach --archive sqlite:archive.db"""

ERASURES_EPILOG = """Examples:

runstream erasures run-42

runstream erasures run-42 --json | jq '.erasures[] | select(.done | not)'"""


def erase(
    run: RunName,
    offset: Annotated[
        list[int] | None,
        typer.Option(
            metavar="OFFSET",
            min=1,
            help="The offset of an event; give it again for each further one.",
            show_default=False,
        ),
    ] = None,
    lane: Annotated[str | None, typer.Option(help="All events that this lane has, instead.")] = None,
    drop_snapshots: Annotated[
        bool, typer.Option("--drop-snapshots", help="Drop the latest snapshots that may hold it, too.")
    ] = False,
    url: Url = None,
    archive: OfArchive = None,
    as_json: AsJson = False,
) -> None:
    """Erase the content of events for good: offsets, cursors and callers' keys stay.

    It goes at once where the store can, and in archives that a drain worker writes when one carries it out:
    `runstream erasures RUN` shows what is done and what is pending. With it go earlier snapshots that may hold it;
    the latest ones stand in the way, unless they are dropped. Copies, exports and backups are out of reach.
    """
    with open_to_read(url, archive) as store:
        run = run_named(store, run)
        _tell(
            run, [store.erase(run, offset or None, lane_id=lane, drop_snapshots=drop_snapshots)], as_json=as_json
        )


def truncate(
    run: RunName,
    before: Annotated[
        int, typer.Option(metavar="OFFSET", min=1, help="The offset that the history is to begin with.")
    ],
    detach: Annotated[
        bool, typer.Option("--detach", help="Give runs that were forked from it copies of what they need, first.")
    ] = False,
    url: Url = None,
    archive: OfArchive = None,
    as_json: AsJson = False,
) -> None:
    """Remove the events before an offset for good: the history of the run begins with it from then on.

    What recovery needs cannot be removed, nor, without --detach, what runs that were forked from this one share.
    `runstream erasures RUN` shows what is done and what is pending.
    """
    with open_to_read(url, archive) as store:
        run = run_named(store, run)
        _tell(run, [store.truncate(run, before=before, detach=detach)], as_json=as_json)


def erasures(run: RunName, url: Url = None, archive: OfArchive = None, as_json: AsJson = False) -> None:
    """Show what was to be erased of a run, and what has become of it, place by place.

    What is pending for want of a right, or of a worker, has the command to run beside it.
    """
    with open_to_read(url, archive) as store:
        run = run_named(store, run)
        _tell(run, store.erasures(run), as_json=as_json)


def _tell(run_id: str, found: Sequence[Erasure], *, as_json: bool) -> None:
    if as_json:
        emit_json({"run_id": run_id, "erasures": list(map(_facts, found))})
        return
    rows = [
        (
            _what(one),
            iso_time(one.requested_at),
            place.place,
            "done" if place.done else place.reason,
            place.command,
        )
        for one in found
        for place in one.places
    ]
    if not rows:
        say("nothing was erased of this run")
        return
    has_commands = any(row[-1] for row in rows)
    columns = ["erased", "asked for", "place", "state", *["to be run"] * has_commands]
    print_table(columns, [row if has_commands else row[:-1] for row in rows], unfolded=("asked for",))


def _what(erasure: Erasure) -> str:
    return ErasureNote(erasure.requested_at, erasure.spans, erasure.before).text


def _facts(erasure: Erasure) -> dict[str, Any]:
    return {
        "spans": [list(span) for span in erasure.spans],
        "before": erasure.before,
        "requested_at": iso_time(erasure.requested_at),
        "done": erasure.done,
        "places": [asdict(place) for place in erasure.places],
    }
