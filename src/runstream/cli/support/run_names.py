"""Find the run that a person names: by its id, or by a beginning of the id that no other run has."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from typing import Annotated, Any

import typer

from runstream.cli.support.exit_codes import AmbiguousRun, NoSuchRun
from runstream.cli.support.options import open_existing, open_to_read
from runstream.model.errors import CorruptRecordError, RunstreamError
from runstream.model.identifiers import check_run_id
from runstream.stores.protocol import RunStore

__all__ = ["RunName", "complete_run", "find_run", "run_named"]

_SHOWN = 10  # runs that begin with what was given


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """The runs whose ids begin so, for a shell: of the store that is named, or the archive that they come from."""
    url = ctx.params.get("source") or ctx.params.get("url") or os.environ.get("RUNSTREAM_URL")
    archive = ctx.params.get("archive", ())
    # commands that do not take one archive work on Redis alone, or on each store by itself
    reads_both = archive is None or isinstance(archive, str)
    try:
        with closing(open_to_read(url, archive) if reads_both else open_existing(url)) as store:
            return [run_id for run_id in store.list_runs() if run_id.startswith(incomplete)]
    except RunstreamError:  # nothing can be said to somebody who types
        return []


RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="The run's id, or a beginning of it that no other has.", autocompletion=complete_run
    ),
]


def find_run(given: str, run_ids: Iterable[str], unknown: str) -> str:
    """The id of the run that is meant.

    Args:
        given: Its id or a beginning of it; also as a table has it that was cut, with an ellipsis at its end.
        run_ids: The ids of all runs that may be meant.
        unknown: What to say if it is none of them.

    Raises:
        NoSuchRun: No id begins so.
        AmbiguousRun: Several do, and none is just that.
    """
    beginning = given.removesuffix("…")
    found = []
    for run_id in run_ids:
        if run_id == given:
            return run_id
        if run_id.startswith(beginning):
            found.append(run_id)
    if not found:
        raise NoSuchRun(unknown)
    if len(found) > 1:
        listed = ", ".join(map(repr, sorted(found)[:_SHOWN])) + ", …" * (len(found) > _SHOWN)
        raise AmbiguousRun(f"{len(found)} runs begin with {beginning!r}: {listed}; name more of the id")
    return found[0]


def run_named(store: RunStore[Any, Any], given: str, advice: str = "") -> str:
    """The id of the run of a store that is meant; see :func:`find_run`.

    Args:
        store: The store.
        given: The run's id or a beginning of it.
        advice: What else to say if there is none.

    Raises:
        InvalidRunId: No id can begin so.
        NoSuchRun: No id begins so.
        AmbiguousRun: Several do, and none is just that.
    """
    check_run_id(given)
    try:
        if store.run_info(given) is not None:
            return given
    except CorruptRecordError:  # whoever asks for that run is told so
        return given
    unknown = f"there is no run {given!r} in this store; `runstream runs` lists those that there are{advice}"
    return find_run(given, store.list_runs(), unknown)
