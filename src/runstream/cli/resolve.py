"""``runstream resolve``: show two histories of one run from where they part, and let one of them be the run's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from runstream.cli.support.exit_codes import NoSuchRun
from runstream.cli.support.options import (
    AsJson,
    HotUrl,
    RequiredArchives,
    hot_namespace,
    open_archive,
    open_existing,
    required_urls,
)
from runstream.cli.support.output import emit_json, print_table, say
from runstream.cli.support.run_names import RunName, run_named
from runstream.codec.archive_entries import entry_fields
from runstream.codec.json_facts import iso_time
from runstream.history.base import History
from runstream.model.archive_records import ArchiveEntry
from runstream.model.errors import RunstreamError
from runstream.repair import resolve as repair
from runstream.repair.resolve import Histories, Keep, Resolution, Side

__all__ = ["EPILOG", "resolve"]

EPILOG = """Examples:

runstream resolve run-42 --url redis://localhost

runstream resolve run-42 --keep both --to sqlite:archive.db --to jsonl:archive/"""

_SHOWN = 20  # events of each history

_CHOICES = {
    "archive": "the run goes on with the archive's history, which Redis gets back",
    "redis": "the run goes on with Redis's history, which the archives get",
    "both": "the run goes on with Redis's history, and what only the archive has is appended to it again",
}


def resolve(
    run: RunName,
    to: RequiredArchives = None,
    keep: Annotated[
        Keep | None,
        typer.Option(help="Which history is to be the run's; without it nothing is changed.", show_default=False),
    ] = None,
    url: HotUrl = None,
    as_json: AsJson = False,
) -> None:
    """Resolve a run of which Redis and the archive have different histories, as after a failover that lost writes.

    Without --keep it shows both from where they part. With it, the history that gives way is first kept in every
    archive as a run of its own, RUN~OFFSET-CHAIN, and proven to be there; then the run comes due. Nothing is
    ever deleted. Killed at any point, the same command goes on. Agents that write to the history that gives way
    get an error at their next write.
    """
    with ExitStack() as opened:
        hot = opened.enter_context(open_existing(url))
        namespace = hot_namespace(hot)
        sinks = [open_archive(opened, target, "--to") for target in to or required_urls(namespace)]
        run = run_named(hot, run)
        found = repair.load_histories(hot, sinks, run)
        if found is None:  # it was deleted just now
            raise NoSuchRun(f"there is no run {run!r} in Redis any more")
        done = None if keep is None else repair.resolve(hot, sinks, found, keep)
        if done is not None and as_json:
            emit_json({"run_id": run, "keep": keep, **_done_facts(done), "parted": bool(found.diverged)})
        elif done is not None:
            _print_done(found, done)
        elif as_json:
            emit_json(_facts(found))
        else:
            _print(found)


def _facts(found: Histories) -> dict[str, Any]:
    return {
        "run_id": found.redis.run_id,
        "parted": bool(found.diverged),
        "redis": _history_facts(found.redis, _redis_from(found)),
        "archives": [
            {
                **_history_facts(side.history, side.start.offset),
                "parts_after": None if side.divergence is None else str(side.divergence.cursor),
                "is_exact": side.divergence is not None and side.divergence.exact,
                "has_parted": side.has_diverged,
            }
            for side in found.sides
        ],
        "without": [sink.location for sink in found.without],
        "choices": dict(_CHOICES) if found.diverged else {},
    }


def _redis_from(found: Histories) -> int:
    """The offset after which Redis's own history begins: the first at which an archive parts from it."""
    common = [side.start.offset for side in found.diverged if side.divergence is not None]
    return min(common, default=found.redis.last.offset if not found.diverged else found.redis.header.start.offset)


def _history_facts(history: History, after: int) -> dict[str, Any]:
    events = _events(history, after)
    return {
        "location": history.location,
        "last": str(history.last),
        "own_events": history.last.offset - after,
        "events": events,
        "more": max(0, history.last.offset - max(after, history.first - 1) - len(events)),
    }


def _events(history: History, after: int) -> list[dict[str, Any]]:
    """The first events of a branch. What does not read is shown by its offset."""
    first = max(after + 1, history.first)
    last = min(first + _SHOWN - 1, history.last.offset)
    if first > last:
        return []
    try:
        return [_event(history.run_id, entry) for entry in history.page(first, last)]
    except RunstreamError as error:  # a record of a newer version
        say(str(error))
        return []


def _event(run_id: str, entry: ArchiveEntry) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if entry.data is not None:
        fields = entry_fields(run_id, entry) or {}
    return {
        "offset": entry.offset,
        "cursor": str(entry.cursor),
        "ts": fields.get("ts"),
        "lane_id": fields.get("lane_id"),
        "kind": fields.get("kind") or ("does not read" if entry.raw is not None else "erased"),
        "span_id": fields.get("span_id"),
    }


def _print(found: Histories) -> None:
    rows: list[tuple[Any, ...]] = [("Redis", str(found.redis.last), found.redis.first, None, None)]
    rows += [_row(side) for side in found.sides]
    rows += [(sink.location, "has nothing of the run", None, None, None) for sink in found.without]
    columns = ["history", "last", "first", "parts after", "own events"]
    print_table(columns, rows, unfolded=("last", "parts after"))
    if not found.diverged:
        say(
            f"no archive has what Redis has not: nothing is to be decided; `runstream unpark {found.redis.run_id}`"
            " lets a parked run come due"
        )
        return
    _print_events("Redis", found.redis, _redis_from(found))
    for side in found.diverged:
        _print_events(side.history.location, side.history, side.start.offset)
    print_table(["--keep", "what it does"], _CHOICES.items())
    say("whichever gives way is kept in every archive as a run of its own; nothing is deleted")


def _row(side: Side) -> tuple[Any, ...]:
    history, parted = side.history, side.has_diverged
    where = "nothing in common"
    if side.divergence is not None:
        where = (
            f"{side.divergence.cursor}"
            if side.divergence.exact
            else f"{side.divergence.cursor} or later: trimmed in Redis"
        )
    own = history.last.offset - side.start.offset if parted else 0
    return (history.location, str(history.last), history.first, where if parted else None, own)


def _print_events(title: str, history: History, after: int) -> None:
    events = _events(history, after)
    if not events:
        say(f"{title}: nothing that can be shown after {after}")
        return
    columns = ["offset", "cursor", "time (UTC)", "lane", "kind"]
    rows: Sequence[tuple[Any, ...]] = [
        (one["offset"], one["cursor"], _time(one["ts"]), one["lane_id"], one["kind"]) for one in events
    ]
    print_table(columns, rows, title=f"{title}, after {after}")
    left = history.last.offset - max(after, history.first - 1) - len(events)
    if left > 0:
        say(f"{title}: {left} more")


def _time(timestamp: float | None) -> str | None:
    try:
        return None if timestamp is None else iso_time(timestamp)
    except (ValueError, OverflowError, OSError):  # a producer may write any number
        return str(timestamp)


def _done_facts(done: Resolution) -> dict[str, Any]:
    return {
        "branches": done.branches,
        "restored": done.restored,
        "appended": done.appended,
        "unreadable": done.unreadable,
    }


def _print_done(found: Histories, done: Resolution) -> None:
    if not found.diverged:
        say("no archive has what Redis has not: nothing was to be decided, and the run is due")
        return
    rows = [("kept in every archive as", name) for name in done.branches]
    counts = {
        "entries that Redis has again": done.restored,
        "events appended again": done.appended,
        "records left in the branch": done.unreadable,
    }
    rows += [(what, str(count)) for what, count in counts.items() if count]
    rows.append(("the run", "is due; the next drain archives it"))
    print_table(["what", "value"], rows)
