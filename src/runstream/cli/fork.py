"""``runstream fork``: make a run that shares another one's history up to an offset."""

from __future__ import annotations

from typing import Annotated

import typer

from runstream.cli.support.options import AsJson, OfArchive, Url, open_to_read, read_tags
from runstream.cli.support.output import emit_json, print_table
from runstream.cli.support.run_names import RunName, run_named
from runstream.codec.json_facts import run_facts
from runstream.stores.capabilities import part_of
from runstream.stores.redis.namespace import Namespace

__all__ = ["EPILOG", "fork"]

EPILOG = """Examples:

runstream fork run-42 run-42-again --at 70 --url redis://localhost --archive sqlite:archive.db

runstream fork run-42 run-42-again --url sqlite:runs.db --tag try=2"""


def fork(
    run: RunName,
    new_run: Annotated[str, typer.Argument(metavar="NEW", help="The id of the fork.")],
    at: Annotated[
        int | None,
        typer.Option(
            min=0, help="The offset of the last event that both have.", show_default="the last one of the run"
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A tag of the fork; repeatable.", show_default="those of the run"),
    ] = None,
    url: Url = None,
    archive: OfArchive = None,
    as_json: AsJson = False,
) -> None:
    """Make a run that shares a run's history up to an offset, and goes on from there by itself.

    Nothing is copied but snapshots. What the fork shares is read as its own; the run itself stays as it is, and
    cannot be deleted as long as there is the fork. What has left Redis is shared from the archive. To repeat the
    command is fine.
    """
    with open_to_read(url, archive) as store:
        run = run_named(store, run)
        info = store.fork(run, new_run, at=at, tags=None if tag is None else read_tags(tag))
        is_hot = part_of(store, Namespace) is not None
    if as_json:
        emit_json(run_facts(info, is_hot=is_hot))
        return
    parent, offset = info.parent or (run, info.last_offset)
    print_table(["run", "forked from", "at", "events"], [(info.run_id, parent, offset, info.last_offset)])
