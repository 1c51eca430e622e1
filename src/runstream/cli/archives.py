"""``runstream archives``: which archives a namespace requires, and how that is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from runstream.cli.options import AsJson, Url, open_to_look
from runstream.cli.output import emit_json, print_table, say
from runstream.connect import connect
from runstream.drain.requiring import Archive, add_archive, drop_archive
from runstream.model.errors import ConfigurationError
from runstream.model.protocols import RunStore
from runstream.stores.jsonl import JSONLCheckpointer
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.operations.requiring import required
from runstream.stores.sqlite import SQLiteCheckpointer

__all__ = ["EPILOG", "archives"]

EPILOG = """Examples:

runstream archives --url redis://localhost

runstream archives add jsonl:copy/ --copy-from sqlite:archive.db

runstream archives drop sqlite:archive.db"""

_WHAT_DROPPING_MEANS = (
    "{location} is required no longer then: events leave Redis without being in it. Nothing in it is deleted."
    " Restart the workers without it. Drop it?"
)


def archives(
    action: Annotated[Literal["list", "add", "drop"], typer.Argument(help="What to do.")] = "list",
    archive: Annotated[
        str | None,
        typer.Argument(metavar="ARCHIVE", help="sqlite:PATH or jsonl:DIR; to drop one, its UUID will do as well."),
    ] = None,
    url: Url = None,
    copy_from: Annotated[
        str | None,
        typer.Option(metavar="ARCHIVE", help="With add: copy what it lacks from this archive, which is required."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With drop: do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the archives that a namespace requires, add one, or drop one.

    No event leaves Redis before every required archive is proven to hold it. The first drain worker's archives
    become the required ones; from then on every worker must have them.

    An archive that is added gets all that is in Redis, from the workers. What has left Redis before, it must hold
    already, or get with --copy-from; otherwise it is refused. Workers that run without it end, with exit code 2,
    at the next batch: restart them with it. Until then nothing leaves Redis.

    An archive that is dropped keeps what it holds, and workers that run go on writing to it until they are
    restarted without it. The last one cannot be dropped.
    """
    if (archive is None) != (action == "list"):
        raise typer.BadParameter("add and drop take one archive, list takes none", param_hint="ARCHIVE")
    if copy_from is not None and action != "add":
        raise typer.BadParameter("goes with add", param_hint="--copy-from")
    with _open(url) as hot:
        if action == "add" and archive is not None:
            _add(hot, archive, copy_from)
        elif action == "drop" and archive is not None:
            _drop(hot, archive, ask=not yes)
        of_partitions = hot.perform(required(hot.context.keys))
    found = {uuid: location for of_partition in of_partitions for uuid, location in of_partition.items()}
    counts = {uuid: sum(uuid in of_partition for of_partition in of_partitions) for uuid in found}
    if as_json:
        emit_json(
            [{"archive": uuid, "location": found[uuid], "partitions": counts[uuid]} for uuid in sorted(found)]
        )
    else:
        rows = [(uuid, found[uuid], counts[uuid]) for uuid in sorted(found)]
        print_table(["archive", "location", f"of {len(of_partitions)} partitions"], rows)


@contextmanager
def _open(url: str | None) -> Iterator[RedisCheckpointer[Any, Any]]:
    with open_to_look(url) as store:
        if not isinstance(store, RedisCheckpointer):
            raise ConfigurationError(
                "a Redis store requires archives: --url is a redis:, rediss:, unix: or embedded: URL"
            )
        yield store


def _add(hot: RedisCheckpointer[Any, Any], target: str, copy_from: str | None) -> None:
    with ExitStack() as opened:
        source = None if copy_from is None else _archive(opened.enter_context(open_to_look(copy_from)), copy_from)
        archive = _archive(opened.enter_context(connect(target)), target)
        copied = 0

        def tell(run_id: str, count: int) -> None:
            nonlocal copied
            copied += count
            say(f"copied {count} events of run {run_id!r}, {copied} in all")

        add_archive(hot, archive, source, tell)
        say(f"{archive.location} is required now: restart the workers with it")


def _archive(store: RunStore[Any, Any], target: str) -> Archive:
    if not isinstance(store, SQLiteCheckpointer | JSONLCheckpointer):
        raise ConfigurationError(f"{target} is not an archive; sqlite:PATH and jsonl:DIR are")
    return store


def _drop(hot: RedisCheckpointer[Any, Any], target: str, *, ask: bool) -> None:
    of_partitions = hot.perform(required(hot.context.keys))
    found = {uuid: location for of_partition in of_partitions for uuid, location in of_partition.items()}
    scheme, _, path = target.partition(":")
    places = (target, f"{scheme}:{Path(path).absolute()}")  # it may be gone, so it is not opened
    chosen = [uuid for uuid, location in found.items() if uuid == target or location in places]
    if len(chosen) != 1:
        listed = ", ".join(f"{location} ({uuid})" for uuid, location in found.items()) or "none"
        raise ConfigurationError(f"{target} names {len(chosen)} of the required archives; there are: {listed}")
    if ask:
        typer.confirm(_WHAT_DROPPING_MEANS.format(location=found[chosen[0]]), abort=True, err=True)
    drop_archive(hot, chosen[0])
