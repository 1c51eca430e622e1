"""``runstream export``: write one run into one file, or send it as spans."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from runstream.cli.support.exit_codes import NoSuchRun
from runstream.cli.support.export_formats import (
    Format,
    binary_stdout,
    complete_or_absent,
    write_csv,
    write_jsonl,
    write_sqlite,
)
from runstream.cli.support.options import OfArchive, Url, open_to_read
from runstream.cli.support.output import counted, say
from runstream.cli.support.progress_bar import showing_progress
from runstream.cli.support.run_names import RunName, run_named
from runstream.cli.support.spans_export import OTLP, send_spans
from runstream.history.exported import Export
from runstream.history.merged import MergedRun
from runstream.model.errors import ConfigurationError
from runstream.model.protocols import Sink
from runstream.stores.capabilities import part_of
from runstream.stores.protocol import RunStore

__all__ = ["EPILOG", "export"]

EPILOG = """Examples:

runstream export run-42 --url redis://localhost --archive sqlite:archive.db --to run-42.db

runstream export run-42 --url sqlite:archive.db --to run-42.csv

runstream export run-42 --url jsonl:archive/ --to - --format jsonl | jq .event.payload

runstream export run-42 --url redis://localhost --to otlp:http://localhost:4318 --cursor-file run-42.sent"""

_STDOUT = "-"
_FORMATS: dict[str, Format] = {
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    ".csv": "csv",
    **dict.fromkeys((".sqlite", ".sqlite3", ".db"), "sqlite"),
}

_CursorFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Of spans: send those that have ended since the command that wrote this file, and write it anew.",
        show_default=False,
    ),
]
_Content = Annotated[
    bool, typer.Option("--content", help="Spans with what models and tools were given and gave, as it is.")
]


def export(
    run: RunName,
    to: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="The file to make; - is stdout, for jsonl and csv; otlp:http://HOST:4318: what takes spans.",
        ),
    ],
    url: Url = None,
    archive: OfArchive = None,
    file_format: Annotated[
        Format | None, typer.Option("--format", help="By default what the file's suffix says.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Leave out what does not read, and say how much that is.")
    ] = False,
    cursor_file: _CursorFile = None,
    content: _Content = False,
) -> None:
    """Write all events of a run into one file, whichever store has them; or send it as spans of OpenTelemetry.

    jsonl: one line per event, {"offset", "cursor", "key", "event"}. Lossless: what JSON has no type for is tagged
    as in the archives. csv (RFC 4180, UTF-8): one record per event, the time as ISO 8601 and as Unix seconds, the
    payload as JSON text. Texts stand as they are: before you open it in a spreadsheet, mind that one which begins
    with =, +, - or @ may be taken for a formula. sqlite: an archive of this run, with its latest snapshots; a
    sqlite: URL names it, and purpose-agent reads it; of a fork also the runs that it comes from, up to where it
    was forked.

    The file is there when all of it is written, and not before. A record that does not read ends the command, with
    exit code 1, unless --skip-corrupt is given; a sqlite file has it in its quarantine then.

    otlp: what has ended is sent, by OpenTelemetry's conventions for generative AI: the run, its agents (lanes) and
    their calls of models and tools, with the same ids each time. OTEL_EXPORTER_OTLP_HEADERS and OTEL_SERVICE_NAME
    are heeded.
    """
    is_spans = to.startswith(OTLP)
    made: Format | None = None if is_spans else _format_of(to, file_format)
    _check_options(
        is_spans, of_spans=cursor_file is not None or content, of_files=file_format is not None or force
    )
    with ExitStack() as opened:
        store = opened.enter_context(open_to_read(url, archive))
        run = run_named(store, run)
        info, merged = store.run_info(run), MergedRun.load(store, run)
        if info is None or merged is None:  # it was deleted just now
            raise NoSuchRun(f"there is no run {run!r} in this store any more")
        advance = opened.enter_context(showing_progress(f"export of {run}", len(merged)))
        exported = Export(merged, skip=skip_corrupt, on_progress=advance)
        if is_spans:
            sent = send_spans(exported, info, to.removeprefix(OTLP), cursor_file, has_content=content)
        elif to == _STDOUT:
            _write(exported, made, opened.enter_context(binary_stdout()))
        else:
            path = Path(to)
            if made == "sqlite":
                _check_path(path, store)
            partial = opened.enter_context(complete_or_absent(path, force=force))
            if made == "sqlite":
                write_sqlite(exported, partial)
            else:
                with partial.open("xb") as file:
                    _write(exported, made, file)
    if exported.corrupt or merged.broken:
        say(_left_out(exported))
    if is_spans:
        say(f"{counted(sent.spans, 'span')} of run {run!r} went to {sent.to}")
    elif to != _STDOUT:
        say(f"{counted(exported.events, 'event')} of run {run!r} are in {to}")


def _check_options(is_spans: bool, *, of_spans: bool, of_files: bool) -> None:
    if of_spans and not is_spans:
        raise typer.BadParameter("--cursor-file and --content are for otlp:", param_hint="--to")
    if of_files and is_spans:
        raise typer.BadParameter("--format and --force are for files, not for otlp:", param_hint="--to")


def _format_of(to: str, asked: Format | None) -> Format:
    found = asked or (None if to == _STDOUT else _FORMATS.get(Path(to).suffix.lower()))
    if found is None:
        raise typer.BadParameter("jsonl, csv or sqlite: the file's name does not say which", param_hint="--format")
    if found == "sqlite" and to == _STDOUT:
        raise typer.BadParameter("a database is a file of its own, not stdout", param_hint="--to")
    return found


def _check_path(path: Path, store: RunStore[Any, Any]) -> None:
    """Raise ConfigurationError where a database would be beside another one's files, or on its source."""
    archive = part_of(store, Sink)
    if archive is not None:
        source = Path(archive.location.partition(":")[2])
        if path.exists() and source.exists() and path.samefile(source):
            raise ConfigurationError(f"{path} is the archive that is exported from: name another file")
    for suffix in ("-wal", "-shm", "-journal"):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            raise ConfigurationError(
                f"{beside} is there: another program has that database open, or was killed in it, and would spoil"
                " the one that is put in its place; name another file"
            )


def _write(exported: Export, made: Format | None, file: Any) -> None:
    (write_csv if made == "csv" else write_jsonl)(exported, file)


def _left_out(exported: Export) -> str:
    parts = []
    if exported.corrupt:
        shown = ", ".join(map(str, exported.corrupt[:10])) + ", …" * (len(exported.corrupt) > 10)
        parts.append(f"{len(exported.corrupt)} records that do not read are left out, at offsets {shown}")
    if exported.run.broken:
        parts.append(f"{len(exported.run.broken)} snapshots that do not read are left out")
    return "; ".join(parts)
