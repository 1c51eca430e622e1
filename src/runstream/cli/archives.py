"""``runstream archives``: list the archives that a namespace requires, add one, or drop one."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any, Literal

import typer

from runstream.cli.support.options import AsJson, HotUrl, hot_namespace, open_archive, open_existing, path_of
from runstream.cli.support.output import counted, emit_json, print_table, say
from runstream.model.errors import ConfigurationError
from runstream.repair.required_archives import add_archive, drop_archive
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import Namespace

__all__ = ["EPILOG", "archives"]

EPILOG = """Examples:

runstream archives --url redis://localhost

runstream archives add jsonl:copy/ --copy-from sqlite:archive.db

runstream archives drop sqlite:archive.db"""

_WHAT_DROPPING_MEANS = (
    "Once dropped, {location} is no longer required: events will leave Redis without being in it. It keeps what"
    " it holds. Workers that have it still are to be stopped. Drop it?"
)


def archives(
    action: Annotated[
        Literal["list", "add", "drop"], typer.Argument(metavar="ACTION", help="What to do.")
    ] = "list",
    archive: Annotated[
        str | None,
        typer.Argument(metavar="ARCHIVE", help="sqlite:PATH or jsonl:DIR; to drop one, its UUID will do as well."),
    ] = None,
    url: HotUrl = None,
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
    already, or get with --copy-from; otherwise it is refused. Workers that run without it wait from then on. So
    start workers with it first, which wait until it is required: then archiving never stops.

    An archive that is dropped keeps what it holds. Start workers without it first, which wait until it is required
    no longer. Those that have it go on writing to it until they are stopped, or wait, as it lacks what others have
    trimmed. The last one cannot be dropped.
    """
    if (archive is None) != (action == "list"):
        raise typer.BadParameter("add and drop take one archive, list takes none", param_hint="ARCHIVE")
    if copy_from is not None and action != "add":
        raise typer.BadParameter("goes with add", param_hint="--copy-from")
    with open_existing(url) as hot:
        namespace = hot_namespace(hot)
        if action == "add" and archive is not None:
            _add(hot, namespace, archive, copy_from)
        elif action == "drop" and archive is not None:
            _drop(hot, namespace, archive, ask=not yes)
        of_partitions = namespace.required_archives()
    found = {uuid: location for of_partition in of_partitions for uuid, location in of_partition.items()}
    counts = {uuid: sum(uuid in of_partition for of_partition in of_partitions) for uuid in found}
    if as_json:
        listed = [{"archive": uuid, "location": found[uuid], "partitions": counts[uuid]} for uuid in sorted(found)]
        emit_json({"archives": listed, "partitions": len(of_partitions)})
    else:
        rows = [(uuid, found[uuid], counts[uuid]) for uuid in sorted(found)]
        columns = ["archive", "location", f"of {len(of_partitions)} partitions"]
        print_table(columns, rows, unfolded=columns[:1])


def _add(hot: RunStore[Any, Any], namespace: Namespace, target: str, copy_from: str | None) -> None:
    with ExitStack() as opened:
        source = None if copy_from is None else open_archive(opened, copy_from, "--copy-from")
        archive = open_archive(opened, target, "ARCHIVE", new_for=namespace)
        copied = 0

        def tell(run_id: str, count: int) -> None:
            nonlocal copied
            copied += count
            say(f"copied {counted(count, 'event')} of run {run_id!r}, {copied} in all")

        add_archive(hot, archive, source, tell)
        say(f"{archive.location} is required now: workers that have it go on, and those without it wait")


def _drop(hot: RunStore[Any, Any], namespace: Namespace, target: str, *, ask: bool) -> None:
    of_partitions = namespace.required_archives()
    found = {uuid: location for of_partition in of_partitions for uuid, location in of_partition.items()}
    path = path_of(target)  # it may be gone, so it is not opened
    locations = (target, f"{target.partition(':')[0]}:{path}")
    chosen = [uuid for uuid, location in found.items() if uuid == target or location in locations]
    if len(chosen) != 1:
        listed = ", ".join(f"{location} ({uuid})" for uuid, location in found.items()) or "none"
        raise ConfigurationError(f"{target} names {len(chosen)} of the required archives; there are: {listed}")
    if ask:
        typer.confirm(_WHAT_DROPPING_MEANS.format(location=found[chosen[0]]), abort=True, err=True)
    drop_archive(hot, chosen[0])
