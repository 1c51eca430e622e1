"""``runstream show``: one run, its snapshots, and what happened in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from runstream.cli.exits import NoSuchRun
from runstream.cli.options import AsJson, Url, open_to_look
from runstream.cli.output import ago, emit_json, iso_time, print_table, say
from runstream.cli.runs import run_facts
from runstream.codec.lossless_json import dump_json
from runstream.model.errors import EventsArchived
from runstream.model.protocols import RunStore, Sink
from runstream.model.values import Recorded, RunInfo, Snapshot
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.operations.inspecting import snapshot_lanes

__all__ = ["EPILOG", "show"]

EPILOG = """Examples:

runstream show run-42 --url redis://localhost

runstream show run-42 --url sqlite:archive.db --lane planner --after 100 --limit 50"""

_PAYLOAD_WIDTH = 100  # characters of a payload in the timeline
_ATTEMPTS = 10  # at reading on from what is hot while a worker trims


@dataclass(slots=True)
class _Timeline:
    """Some events of a run, in order.

    ``archived_up_to`` is the last offset that was asked for and has left the store, 0 if none has;
    ``unreadable`` are offsets without an event that reads; ``next_after`` is where to go on, if there is more.
    """

    events: list[Recorded[Any]] = field(default_factory=list)
    archived_up_to: int = 0
    unreadable: list[int] = field(default_factory=list)
    next_after: int | None = None


def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")],
    url: Url = None,
    after: Annotated[int, typer.Option(min=0, help="Only events after this offset.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="At most so many events.")] = 100,
    lane: Annotated[str | None, typer.Option(help="Only events and snapshot of this lane.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a run: what is known of it, its snapshots, and its events in order.

    A Redis store shows what is hot; which events have moved to the archive is said on stderr (with --json
    in "archived_up_to").
    """
    with open_to_look(url) as store:
        info = store.run_info(run)
        if info is None:
            raise NoSuchRun(f"there is no run {run!r} in this store; `runstream runs` lists those that there are")
        snapshots = _snapshots(store, run, lane)
        timeline = _timeline(store, info, after, limit, lane)
        is_hot = isinstance(store, RedisCheckpointer)
    if timeline.archived_up_to:
        say(f"offsets up to {timeline.archived_up_to} of this run are in the archive; show them with its URL")
    if timeline.unreadable:
        say(f"offsets without an event that reads: {', '.join(map(str, timeline.unreadable))}")
    if as_json:
        emit_json(_facts(info, snapshots, timeline, is_hot=is_hot))
        return
    _print(info, snapshots, timeline, is_hot=is_hot)
    if timeline.next_after is not None:
        say(f"there are more events; go on with --after {timeline.next_after}")


def _snapshots(store: RunStore[Any, Any], run_id: str, lane: str | None) -> dict[str | None, Snapshot[Any]]:
    """The run's own snapshot (under None) and those of its lanes, or of one lane."""
    lanes: list[str | None] = [None]
    if lane is not None:
        lanes = [lane]
    elif isinstance(store, RedisCheckpointer):
        lanes = store.perform(snapshot_lanes(store.context.keys, run_id))
    elif isinstance(store, Sink):
        lanes = [snapshot.lane_id for snapshot in store.read_back_snapshots(run_id)]
    found = {lane_id: store.load_snapshot(run_id, lane_id=lane_id) for lane_id in lanes}
    return {lane_id: snapshot for lane_id, snapshot in found.items() if snapshot is not None}


def _timeline(store: RunStore[Any, Any], info: RunInfo, after: int, limit: int, lane: str | None) -> _Timeline:
    archived_up_to = 0
    for _ in range(_ATTEMPTS):
        try:
            return _read(store, info.run_id, after, limit, lane, archived_up_to)
        except EventsArchived as error:
            after = archived_up_to = error.first_hot - 1
    return _read(store, info.run_id, after, limit, lane, archived_up_to)


def _read(
    store: RunStore[Any, Any], run_id: str, after: int, limit: int, lane: str | None, archived_up_to: int
) -> _Timeline:
    timeline = _Timeline(archived_up_to=archived_up_to)
    position = after
    for item in store.read(run_id, after, on_corrupt="skip"):
        if len(timeline.events) == limit:
            timeline.next_after = position
            break
        timeline.unreadable += range(position + 1, item.offset)
        position = item.offset
        if lane is None or item.event.lane_id == lane:
            timeline.events.append(item)
    return timeline


def _facts(
    info: RunInfo, snapshots: Mapping[str | None, Snapshot[Any]], timeline: _Timeline, *, is_hot: bool
) -> dict[str, Any]:
    return {
        "run": run_facts(info, is_hot=is_hot),
        "snapshots": [
            {
                "lane_id": lane,
                "offset": snapshot.offset,
                "revision": snapshot.revision,
                "state": snapshot.state.to_dict(),
            }
            for lane, snapshot in snapshots.items()
        ],
        "archived_up_to": timeline.archived_up_to,
        "unreadable": timeline.unreadable,
        "events": [{"offset": at, "cursor": cursor, **event.to_dict()} for at, cursor, event in timeline.events],
        "next_after": timeline.next_after,
    }


def _print(
    info: RunInfo, snapshots: Mapping[str | None, Snapshot[Any]], timeline: _Timeline, *, is_hot: bool
) -> None:
    archived = f", archived up to {info.archived_offset}" if is_hot else ""
    rows = [
        ("run", info.run_id),
        ("session", info.session_id),
        ("status", info.status),
        ("events", f"{info.last_offset}{archived}"),
        ("created", f"{iso_time(info.created_at)} ({ago(info.created_at)})"),
        ("updated", f"{iso_time(info.updated_at)} ({ago(info.updated_at)})"),
    ]
    print_table(["what", "value"], rows)
    if snapshots:
        columns = ["snapshot of", "covers offset", "revision", "status", "step", "node"]
        print_table(columns, [_snapshot_row(lane, snapshot) for lane, snapshot in snapshots.items()])
    if timeline.events:
        print_table(["offset", "time (UTC)", "lane", "kind", "payload"], map(_event_row, timeline.events))


def _snapshot_row(lane: str | None, snapshot: Snapshot[Any]) -> tuple[object, ...]:
    state = snapshot.state.to_dict()
    name = "the run" if lane is None else f"lane {lane}"
    facts = (state.get(key) for key in ("status", "current_step", "current_node"))
    return (name, snapshot.offset, snapshot.revision, *facts)


def _event_row(item: Recorded[Any]) -> tuple[object, ...]:
    event = item.event.to_dict()
    return (item.offset, _clock(event["ts"]), event["lane_id"], event["kind"], _short(event["payload"]))


def _clock(timestamp: float) -> str:
    try:
        return datetime.fromtimestamp(timestamp, UTC).strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):  # a producer may write any number, also not-a-number
        return str(timestamp)


def _short(payload: Mapping[str, Any]) -> str:
    """A payload on one line: ``key=value`` pairs, cut off where they get long."""
    values = json.loads(dump_json(payload))
    text = " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
    return text if len(text) <= _PAYLOAD_WIDTH else f"{text[: _PAYLOAD_WIDTH - 1]}…"
