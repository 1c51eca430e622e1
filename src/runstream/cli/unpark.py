"""``runstream unpark``: let parked runs be tried again now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from runstream.cli.support.exit_codes import NoSuchRun
from runstream.cli.support.options import AsJson, HotUrl, hot_namespace, open_existing
from runstream.cli.support.output import emit_json, print_table, say
from runstream.cli.support.run_names import complete_run, find_run

__all__ = ["EPILOG", "unpark"]

EPILOG = """Examples:

runstream unpark run-42 --url redis://localhost

runstream unpark --all --json"""


def unpark(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Parked runs, by id or its beginning.",
            autocompletion=complete_run,
            show_default=False,
        ),
    ] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Every run that is parked.")] = False,
    url: HotUrl = None,
    as_json: AsJson = False,
) -> None:
    """Let parked runs come due now, once what parked them is out of the way, instead of in some minutes.

    A worker tries them again; if the cause is still there, it parks them again. `runstream status` shows which
    runs are parked and why. A run that is not parked is exit code 4; the others that were named come due.
    """
    wanted = list(run or ())
    if bool(wanted) == is_all:
        raise typer.BadParameter("name runs, or say --all", param_hint="RUN")
    with open_existing(url) as store:
        namespace = hot_namespace(store)
        parked = namespace.status().parked
        wanted = sorted(parked) if is_all else [_named(run_id, parked) for run_id in wanted]
        done = namespace.unpark(wanted) if wanted else []
    if as_json:
        emit_json({"unparked": done})
    elif done:
        print_table(["unparked run"], [(run_id,) for run_id in done])
    if not wanted:
        say("no run is parked")
    missing = [run_id for run_id in wanted if run_id not in done]
    if missing and not is_all:
        raise NoSuchRun(f"not parked: {', '.join(map(repr, missing))}; `runstream status` shows those that are")


def _named(given: str, parked: Iterable[str]) -> str:
    """The parked run that is meant; what is given, if it is none: the others come due all the same."""
    try:
        return find_run(given, parked, "")
    except NoSuchRun:
        return given
