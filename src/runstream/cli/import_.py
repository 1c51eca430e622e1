"""``runstream import``: append the runs of purpose-agent's or LangGraph's files, or of an archive, to a store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from runstream.cli.support.exit_codes import ExitCode, NoSuchRun
from runstream.cli.support.options import AsJson, Url, path_of
from runstream.cli.support.output import emit_json, print_table, say
from runstream.cli.support.progress_bar import showing_progress
from runstream.cli.support.run_names import find_run
from runstream.connect import connect
from runstream.integrations.imported import Imported, Unreadable
from runstream.integrations.langgraph.threads_file import ThreadsFile, is_threads_file
from runstream.integrations.purpose_agent.additions import Additions
from runstream.integrations.purpose_agent.directory import open_source
from runstream.integrations.purpose_agent.importer import Importer
from runstream.integrations.purpose_agent.source import Source, SourceRun
from runstream.model.errors import ConfigurationError
from runstream.stores.archive.jsonl import JSONLCheckpointer
from runstream.stores.archive.sqlite import SQLiteCheckpointer

__all__ = ["EPILOG", "import_"]

EPILOG = """Examples:

runstream import checkpoints/ --url sqlite:archive.db

runstream import purpose_agent_checkpoints.db --url redis://localhost --dry-run

runstream import checkpoints.sqlite --url "redis://localhost?namespace=langgraph"

runstream import --append archive.db --url redis://localhost"""

_SHOWN = 20  # lines or rows that do not read, each said on a line of its own


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A directory or database of purpose-agent, a database of LangGraph, or an archive.",
        ),
    ],
    url: Url = None,
    run: Annotated[
        list[str] | None, typer.Option("--run", metavar="RUN", help="Only this run; may be given several times.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first line or row that does not read.")
    ] = False,
    append: Annotated[
        bool,
        typer.Option("--append", help="Add what purpose-agent added to the runs of a drain's archive."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing, say what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Append the runs of purpose-agent's or LangGraph's own files to a store: events in order, then states.

    SOURCE is the directory or the SQLite database of purpose-agent's checkpointers, a database of LangGraph's
    SqliteSaver or AsyncSqliteSaver, or an archive; which of these it is, its content shows. It is only read. Of
    LangGraph's, all threads are imported with their history, for RunstreamSaver, and on a server into the
    namespace "langgraph" if the URL names no other. From an archive, too, events are appended, as a new history
    with their keys; `runstream restore` puts a history back as it was.

    What was imported before is passed over, so the command can be repeated, after it was broken off or when the
    source has grown. A run that the store has with other events is left alone, and is exit code 1. So is a line or
    row that does not read; the others are imported.

    --append is for the archive of a drain that purpose-agent's own writer writes to as well. What that adds to a
    run which came by the drain is no part of the run's history (`runstream status --archive` counts it): the next
    offsets are Redis's to give. Here it is appended in Redis, after all that the run has, and comes back with the
    next drain. A state is saved if nothing was written to the run after it. Of this, too, nothing is added twice.
    """
    unread = _Unread()
    if not append and is_threads_file(source):
        results = _import_threads(url, source, run, unread, strict=strict, dry_run=dry_run)
    elif append:
        results = _append(url, source, run, unread, strict=strict, dry_run=dry_run)
    else:
        results = _import(url, source, run, unread, strict=strict, dry_run=dry_run)
    unread.sum_up()
    for result in results:
        if result.refused:
            say(result.refused)
    if as_json:
        emit_json({"dry_run": dry_run, "runs": [_facts(result) for result in results]})
    else:
        _print(results, dry_run=dry_run)
    if not all(result.is_complete for result in results):
        raise typer.Exit(ExitCode.DOES_NOT_HOLD)


def _import(
    url: str | None, path: Path, wanted: Sequence[str] | None, unread: _Unread, *, strict: bool, dry_run: bool
) -> list[Imported]:
    with ExitStack() as opened:
        source = opened.enter_context(open_source(path))
        chosen = _chosen(source, wanted)
        store = _open(opened, url, path, dry_run=dry_run)
        progress = opened.enter_context(showing_progress(f"import of {source.location}", source.count_events()))
        importer = Importer(store, strict=strict, dry_run=dry_run, on_progress=progress, on_unreadable=unread.take)
        return [importer.run(each) for each in chosen]


def _import_threads(
    url: str | None, path: Path, wanted: Sequence[str] | None, unread: _Unread, *, strict: bool, dry_run: bool
) -> list[Imported]:
    module: Any = import_module("runstream.integrations.langgraph.importer")  # LangGraph takes a second to import
    with ExitStack() as opened:
        source = opened.enter_context(ThreadsFile(path))
        chosen = _named(source.threads(), wanted, source.location)
        target = _target(opened, url, path, dry_run=dry_run)
        saver = opened.enter_context(module.RunstreamSaver.from_url(target, max_event_bytes=2**62))
        progress = opened.enter_context(showing_progress(f"import of {source.location}", source.count_rows()))
        importer = module.ThreadsImporter(
            saver, strict=strict, dry_run=dry_run, on_progress=progress, on_unreadable=unread.take
        )
        return [importer.run(source, thread_id) for thread_id in chosen]


def _append(
    url: str | None, path: Path, wanted: Sequence[str] | None, unread: _Unread, *, strict: bool, dry_run: bool
) -> list[Imported]:
    with open_source(path) as source:
        if not source.is_archive:
            raise ConfigurationError(f"{path} is no archive of a drain: import it without --append")
    with ExitStack() as opened:
        archive = JSONLCheckpointer(path) if path.is_dir() else SQLiteCheckpointer(path)
        opened.enter_context(archive)
        store = _open(opened, url, path, dry_run=False)
        additions = Additions(store, archive, strict=strict, dry_run=dry_run, on_unreadable=unread.take)
        ids = added = additions.run_ids()
        if wanted is not None:
            ids = []
            for given in wanted:
                with suppress(NoSuchRun):  # nothing was added to it
                    ids.append(find_run(given, added, ""))
        return [additions.run(run_id) for run_id in dict.fromkeys(ids)]


class _Unread:
    """Prints what does not read, the first of it line by line."""

    def __init__(self) -> None:
        self.count = 0

    def take(self, found: Unreadable) -> None:
        """Count one that does not read, and print it."""
        self.count += 1
        if self.count <= _SHOWN:
            say(f"{found.where}: does not read: {found.reason}")

    def sum_up(self) -> None:
        """Print how many there were, if not each was printed."""
        if self.count > _SHOWN:
            say(f"{self.count} lines or rows do not read, the first {_SHOWN} are listed")


def _chosen(source: Source, wanted: Sequence[str] | None) -> list[SourceRun]:
    """The runs to import. Raises NoSuchRun for one that the source has not."""
    runs = list(source.runs())
    named = set(_named([each.run_id for each in runs], wanted, source.location))
    return [each for each in runs if each.run_id in named]


def _named(known: Sequence[str], wanted: Sequence[str] | None, location: str) -> list[str]:
    """Those ids that are wanted. Raises NoSuchRun for one that is not among them."""
    if wanted is None:
        return list(known)
    named = {find_run(given, known, f"there is no run {given!r} in {location}") for given in wanted}
    return [each for each in known if each in named]


def _open(opened: ExitStack, url: str | None, source: Path, *, dry_run: bool) -> Any:
    """The store to import into."""
    return opened.enter_context(
        connect(_target(opened, url, source, dry_run=dry_run), state_type=dict, max_event_bytes=2**62)
    )


def _target(opened: ExitStack, url: str | None, source: Path, *, dry_run: bool) -> str:
    """The URL of the store to import into, if it is not what is imported. A dry run makes none."""
    url = os.environ.get("RUNSTREAM_URL", "") if url is None else url
    target = path_of(url)
    if target is not None and source.resolve().is_relative_to(target.resolve()):
        raise ConfigurationError(f"{source} is in the store itself: name another one with --url")
    if dry_run and target is not None and not target.exists():
        directory = opened.enter_context(TemporaryDirectory(prefix="runstream-"))
        url = f"sqlite:{directory}/empty.db"
    return url


def _facts(result: Imported) -> dict[str, Any]:
    return {name: getattr(result, name) for name in Imported.__slots__}


def _print(results: Sequence[Imported], *, dry_run: bool) -> None:
    columns = ["run", "events", "there before", "would be added" if dry_run else "added", "states", "unreadable"]
    rows = [
        (
            *(result.run_id, result.events, result.there, result.added, result.snapshots, result.unreadable),
            "refused" if result.refused else "",
        )
        for result in results
    ]
    print_table([*columns, ""], rows, unfolded=("",))
