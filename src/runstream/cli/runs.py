"""``runstream runs``: list the runs of a store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

import typer

from runstream.cli.support.ages import age_seconds
from runstream.cli.support.options import AsJson, OfArchive, Url, Wide, open_to_read, read_tags
from runstream.cli.support.output import ago, emit_json, print_table, say
from runstream.codec.json_facts import run_facts
from runstream.model.identifiers import MAIN_LANE
from runstream.model.results import RunInfo
from runstream.model.state import RunStatus
from runstream.stores.capabilities import HoldsForeign, part_of
from runstream.stores.redis.namespace import Namespace

__all__ = ["EPILOG", "questions_of", "runs", "tags_text"]

EPILOG = """Examples:

runstream runs --url redis://localhost --status running

runstream runs --url redis://localhost --tag user=42 --since 2d

runstream runs --url sqlite:archive.db --limit 100 --json | jq '.runs[].run_id'"""


def runs(
    url: Url = None,
    archive: OfArchive = None,
    session: Annotated[str | None, typer.Option(help="Only the runs of this session.")] = None,
    status: Annotated[RunStatus | None, typer.Option(help="Only the runs in this status.")] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Only the runs with this tag; give it again for each further one that they must have.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="AGE", help="Only the runs that were updated since so long ago: 90s, 30m, 12h, 2d or 1w."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many runs.")] = 20,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """List runs, the most recently updated first.

    With --wide also their tags, when they were created, and from which offset on a run is in Redis. Every command
    takes the beginning of a run's id in place of all of it, as long as no other run begins so.
    """
    tags = read_tags(tag or ())
    after = None if since is None else time.time() - _seconds(since)
    with open_to_read(url, archive) as store:
        wanted = None if status is None else status.value
        found = list(
            store.runs(session_id=session, status=wanted, tags=tags, updated_after=after, limit=limit + 1)
        )
        is_hot = part_of(store, Namespace) is not None
        beside = part_of(store, HoldsForeign)
        for reason in beside.refused().values() if beside is not None else ():
            say(f"not listed: {reason}")
    shown = found[:limit]
    if as_json:
        emit_json({"runs": [run_facts(info, is_hot=is_hot) for info in shown], "more": len(found) > limit})
        return
    columns = ["run", "session", "status", "events", *["archived"] * is_hot, "updated", "waits for"]
    if wide:
        columns += ["tags", "created", *["hot from"] * is_hot]
    rows = [_row(info, columns) for info in shown]
    # a line for each run, but where what they wait for is what is looked for
    cut = ["run", "session", *["waits for"] * (status is not RunStatus.PAUSED)]
    print_table(columns, rows, names=cut, unfolded=("status", "created", "updated"), wide=wide)
    if len(found) > limit:
        say(f"there are more than {limit} runs; see more of them with --limit")


def questions_of(info: RunInfo) -> str:
    """The questions that a run waits with, each with its lane unless that is the main one."""
    return "; ".join(
        one.text if one.lane_id == MAIN_LANE else f"{one.lane_id}: {one.text}" for one in info.waiting_for
    )


def tags_text(info: RunInfo) -> str:
    """The tags of a run: ``env=x, user=42``."""
    return ", ".join(f"{name}={value}" for name, value in sorted(info.tags.items()))


def _seconds(age: str) -> float:
    """An age in seconds. Raises BadParameter for what is none."""
    seconds = age_seconds(age)
    if seconds is None:
        raise typer.BadParameter(f"{age!r:.80}: say 90s, 30m, 12h, 2d or 1w", param_hint="--since")
    return seconds


def _row(info: RunInfo, columns: Sequence[str]) -> list[object]:
    facts = {
        "run": info.run_id,
        "session": info.session_id,
        "status": info.status,
        "events": info.last_offset,
        "waits for": questions_of(info),
        "archived": info.archived_offset,
        # a run of which nothing is hot has no first hot offset, only one that would be the next
        "hot from": info.first_hot if info.first_hot <= info.last_offset else None,
        "tags": tags_text(info),
        "created": ago(info.created_at),
        "updated": ago(info.updated_at),
    }
    return [facts[name] for name in columns]
