"""``runstream quarantine``: list the records that did not read, show one, decode them again."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from itertools import islice
from typing import Annotated, Any, Literal

import typer

from runstream.cli.support.exit_codes import ExitCode, NoSuchRun
from runstream.cli.support.options import AsJson, open_archive, read_url
from runstream.cli.support.output import bytes_text, console, emit_json, print_table, printable, say
from runstream.cli.support.run_names import complete_run, find_run
from runstream.codec.archive_entries import archive_entry
from runstream.codec.json_facts import iso_time
from runstream.codec.msgpack_values import unpack
from runstream.codec.record import record_crc
from runstream.model.archive_records import ArchiveEntry
from runstream.model.errors import UnsupportedVersion
from runstream.model.identifiers import check_run_id
from runstream.model.protocols import Sink
from runstream.repair.quarantine import retry

__all__ = ["EPILOG", "quarantine"]

EPILOG = """Examples:

runstream quarantine --url sqlite:archive.db

runstream quarantine show run-42 17 --url sqlite:archive.db

runstream quarantine retry run-42 --url jsonl:archive/ --json"""

_HEAD_BYTES = 5


def quarantine(
    action: Annotated[
        Literal["list", "show", "retry"], typer.Argument(metavar="ACTION", help="What to do.")
    ] = "list",
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="Only the records of this run.", autocompletion=complete_run),
    ] = None,
    offset: Annotated[
        int | None, typer.Argument(metavar="OFFSET", min=1, help="Only the record at this offset of the run.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            envvar="RUNSTREAM_URL",
            callback=read_url,
            help="The archive: sqlite:PATH or jsonl:DIR.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="With list: at most so many records.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the records in an archive that did not read, show one, or decode them again.

    A record that does not read is archived as the bytes that it was, keeps its offset, and holds up nothing.

    list: which there are, since when, and why. show RUN OFFSET: the bytes of one, and what of it decodes.
    retry: decode them again with this version; what reads now goes back to its offset in the run. What still does
    not read stays as it is, and is exit code 1.
    """
    if action == "show" and (run is None or offset is None):
        raise typer.BadParameter("show takes a run and an offset", param_hint="RUN OFFSET")
    if run is not None:
        check_run_id(run)
    with ExitStack() as opened:
        sink = open_archive(opened, url or "", "--url")
        if run is not None:
            unknown = f"the quarantine has no record of a run {run!r}; `runstream quarantine` lists them"
            run = find_run(run, dict.fromkeys(run_id for run_id, _ in sink.quarantine()), unknown)
        if action == "retry":
            left = _retry(sink, run, offset, as_json=as_json)
        elif run is not None and offset is not None:
            left = _show(sink, run, offset, as_json=as_json)
        else:
            left = _list(sink, run, limit, as_json=as_json)
    if left:
        raise typer.Exit(ExitCode.DOES_NOT_HOLD)


def _list(sink: Sink, run: str | None, limit: int, *, as_json: bool) -> int:
    found = list(islice(sink.quarantine(run), limit + 1))
    shown = found[:limit]
    if as_json:
        emit_json({"records": [_facts(*one) for one in shown], "more": len(found) > limit})
        return 0
    columns = ["run", "offset", "kept aside (UTC)", "size", "reason"]
    print_table(columns, [_row(run_id, entry) for run_id, entry in shown], unfolded=("size",))
    if len(found) > limit:
        say(f"there are more than {limit} records; see more of them with --limit")
    return 0


def _show(sink: Sink, run: str, offset: int, *, as_json: bool) -> int:
    entry = next((entry for entry in sink.read_back(run, offset, offset) if entry.raw is not None), None)
    if entry is None:
        raise NoSuchRun(
            f"the quarantine has no record at offset {offset} of run {run!r}; `runstream quarantine` lists them"
        )
    facts = {**_facts(run, entry), "cursor": str(entry.cursor), **_decoded(run, entry)}
    if as_json:
        emit_json({**facts, "raw": entry.raw})
        return 0
    print_table(["what", "value"], [(name, str(value)) for name, value in facts.items() if value is not None])
    console(sys.stdout).print("\n".join(_hex_lines(entry.raw or b"")))
    return 0


def _retry(sink: Sink, run: str | None, offset: int | None, *, as_json: bool) -> int:
    """Decode the records again. Returns how many still do not read."""
    tried = list(retry(sink, run, offset))
    left = [one for one in tried if one.reason]
    counts = {"readmitted": len(tried) - len(left), "kept_aside": len(left)}
    if as_json:
        emit_json({**counts, "records": [one._asdict() for one in tried]})
    else:
        print_table(["records", "count"], [(name.replace("_", " "), count) for name, count in counts.items()])
        if left:
            print_table(["run", "offset", "reason"], left)
    return len(left)


def _facts(run_id: str, entry: ArchiveEntry) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "offset": entry.offset,
        "quarantined_at": iso_time(entry.quarantined_at) if entry.quarantined_at else None,
        "size": len(entry.raw or b""),
        "reason": entry.reason,
    }


def _row(run_id: str, entry: ArchiveEntry) -> tuple[object, ...]:
    facts = _facts(run_id, entry)
    return (run_id, entry.offset, facts["quarantined_at"], bytes_text(facts["size"]), entry.reason)


def _decoded(run_id: str, entry: ArchiveEntry) -> dict[str, Any]:
    """Decode what can be decoded of a record's parts, whatever its checksum says."""
    raw = entry.raw or b""
    facts: dict[str, Any] = {"record_version": raw[0] if raw else None}
    if len(raw) > _HEAD_BYTES:
        facts["checksum"] = f"{record_crc(raw):08x}"
        try:
            facts["body"] = repr(unpack(raw[_HEAD_BYTES:]))
        except ValueError as error:
            facts["body"] = f"does not decode: {error}"
    try:
        facts["reads_now"] = archive_entry(run_id, *entry.cursor, raw).data is not None
    except UnsupportedVersion:
        facts["reads_now"] = False
    return facts


def _hex_lines(raw: bytes) -> list[str]:
    """The bytes as ``hexdump -C`` shows them."""
    lines = []
    for at in range(0, len(raw), 16):
        part = raw[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(printable(f"{at:08x}  {part.hex(' '):<47}  |{text}|"))
    return lines
