"""``runstream verify``: verify runs in Redis, in archives, or in each against the others, and mend runs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from runstream.cli.support.exit_codes import ExitCode
from runstream.cli.support.options import AsJson, Url, open_archive, open_existing
from runstream.cli.support.output import counted, emit_json, print_table, say
from runstream.cli.support.progress_bar import showing_progress
from runstream.cli.support.run_names import complete_run, find_run
from runstream.history.archived import ArchivedHistory
from runstream.model.errors import (
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    UnsupportedVersion,
)
from runstream.repair.mend import mend_run
from runstream.repair.verify import Difference, Verdict, verify_run
from runstream.stores.capabilities import Archive, ChecksIntegrity, HasColumns, part_of
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import Namespace, namespace_of

__all__ = ["EPILOG", "verify"]

EPILOG = """Examples:

runstream verify --url redis://localhost --archive sqlite:archive.db

runstream verify run-42 --archive sqlite:archive.db --archive jsonl:archive/ --json

runstream verify run-42 --url redis://localhost --repair"""


@dataclass(slots=True)
class _Stores:
    """What is verified.

    Attributes:
        hot: The Redis store.
        archives: The archives.
        damaged: What is wrong with an archive's file, by location; such an archive is not read any further.
    """

    hot: RunStore[Any, Any] | None = None
    archives: list[Archive] = field(default_factory=list)
    damaged: dict[str, Sequence[str]] = field(default_factory=dict)

    def runs(self) -> dict[str, int]:
        """All runs that any of them has, and how many offsets of each there are to verify."""
        # also those that are damaged, or not listed: of them there is nothing more to tell
        found = {} if self.hot is None else dict.fromkeys(self.hot.list_runs(), 0)
        found |= dict.fromkeys(() if self.hot is None else namespace_of(self.hot).run_ids(), 0)
        for info in () if self.hot is None else self.hot.runs():
            found[info.run_id] = info.last_offset - info.first_hot + 1
        for archive in self.archives:
            for run_id, history in ArchivedHistory.load_all(archive):
                count = 0 if history is None else history.last.offset - history.first + 1
                found[run_id] = max(count, found.get(run_id, 0))
        return found


def verify(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Runs, by id or its beginning; without any, all of them.",
            autocompletion=complete_run,
            show_default=False,
        ),
    ] = None,
    url: Url = None,
    archive: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARCHIVE", help="An archive, sqlite:PATH or jsonl:DIR; give it again for each further one."
        ),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Make runs in Redis whole again whose events are all there; see above."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check runs in Redis, in archives, or in each against the others.

    Of every run: offsets are dense; each event gives the checksum that its chain was made from; what several keep
    is the same; nothing is missing between the end of an archive and what is left in Redis; snapshots cover what
    there is; what Redis notes of a run is true of it. Of a SQLite archive the file's own integrity, too.

    Prints a table, and the first difference of each run, with its offset and what each side has. A difference is
    exit code 1. Records that do not read are counted; kept aside as they were, they are no difference. Runs that
    are written to and trimmed meanwhile are no obstacle. Nothing is changed, but that events of an earlier version
    that are proven get the checksums which they lack.

    With --repair, a run in Redis that has a difference is made whole from what its stream holds, and verified
    again: an append that the server refused in its midst is finished; a meta that was removed is made anew, as
    long as all of the run is in Redis, or what has left it in an archive that is given (leases are void then, and
    what was archived is proven again); a run that is missing from the list of runs, or is not due, is put there.
    Nothing is taken away, and what the stream does not prove is left as it is.
    """
    began = time.monotonic()
    verdicts: list[Verdict] = []
    repairs: dict[str, Sequence[str]] = {}
    with ExitStack() as opened:
        stores = _open(opened, url, archive or ())
        if repair and stores.hot is None:
            raise ConfigurationError("--repair is for runs in Redis: give --url")
        wanted = _wanted(stores, run)
        with showing_progress("verifying", sum(wanted.values())) as advance:
            for run_id in wanted:
                verdict = verify_run(run_id, hot=stores.hot, sinks=stores.archives, on_progress=advance)
                if repair and not verdict.is_sound and (done := _mended(stores, run_id)):
                    repairs[run_id] = done
                    verdict = verify_run(run_id, hot=stores.hot, sinks=stores.archives)
                verdicts.append(verdict)
    seconds = time.monotonic() - began
    events = sum(one.events for verdict in verdicts for one in verdict.checked)
    rate = round(events / max(seconds, 1e-6))
    is_sound = not stores.damaged and all(verdict.is_sound for verdict in verdicts)
    if as_json:
        runs = [{**_facts(one), "repaired": repairs.get(one.run_id, [])} for one in verdicts]
        facts = {"is_sound": is_sound, "runs": runs, "damaged": stores.damaged}
        emit_json({**facts, "events": events, "seconds": round(seconds, 3), "events_per_second": rate})
    else:
        _print(stores, verdicts, repairs)
        say(f"{counted(len(verdicts), 'run')}, {counted(events, 'event')} in {seconds:.1f} s: {rate} events/s")
    if not is_sound:
        raise typer.Exit(ExitCode.DOES_NOT_HOLD)


def _open(opened: ExitStack, url: str | None, archives: Sequence[str]) -> _Stores:
    stores = _Stores()
    for target in archives:
        archive = open_archive(opened, target, "--archive")
        # an archive that keeps nothing beside its events' text is read completely below, run by run
        checked = None if part_of(archive, HasColumns) is None else part_of(archive, ChecksIntegrity)
        problems = [] if checked is None else checked.check_file()
        if problems:
            stores.damaged[archive.location] = problems
        else:
            stores.archives.append(archive)
    if url or os.environ.get("RUNSTREAM_URL"):
        hot = opened.enter_context(open_existing(url))
        if part_of(hot, Namespace) is None:
            raise ConfigurationError("--url is the Redis side; an archive is given with --archive")
        stores.hot = hot
    elif not archives:
        raise ConfigurationError("there is nothing to verify: give --url, --archive, or both")
    return stores


def _mended(stores: _Stores, run_id: str) -> Sequence[str]:
    """Mend a run; what was done. What cannot be mended stays the difference that it is, with why on stderr."""
    if stores.hot is None:
        return ()
    try:
        return mend_run(stores.hot, run_id, stores.archives)
    except (CorruptRecordError, UnsupportedVersion, ConcurrencyConflict) as error:
        say(f"run {run_id!r} was not repaired: {error}")
        return ()


def _wanted(stores: _Stores, run_ids: Sequence[str] | None) -> dict[str, int]:
    """The runs to verify, and about how many offsets each has. Raises NoSuchRun for one that nobody has."""
    found = stores.runs()
    if not run_ids:
        return dict(sorted(found.items()))
    named = [find_run(given, found, f"nobody has a run {given!r}") for given in run_ids]
    return {run_id: found[run_id] for run_id in named}


def _facts(verdict: Verdict) -> dict[str, Any]:
    return {
        "run_id": verdict.run_id,
        "is_sound": verdict.is_sound,
        "checked": [
            {"location": one.location, "first": one.first, "events": one.events, "quarantined": one.quarantined}
            for one in verdict.checked
        ],
        "difference": None if verdict.difference is None else _difference_facts(verdict.difference),
    }


def _difference_facts(difference: Difference) -> dict[str, Any]:
    sides = [{"who": who, "has": has} for who, has in difference.sides]
    return {"offset": difference.offset, "what": difference.what, "sides": sides}


def _print(stores: _Stores, verdicts: Sequence[Verdict], repairs: Mapping[str, Sequence[str]]) -> None:
    rows: list[tuple[object, ...]] = []
    for verdict in verdicts:
        found = verdict.difference
        result = "sound" if found is None else f"{found.offset}: {found.what}"
        checked = [(one.location, one.events, one.quarantined) for one in verdict.checked] or [("Redis", 0, 0)]
        rows += [(verdict.run_id, *one, result) for one in checked]
    columns = ["run", "where", "events", "quarantined", "verdict"]
    print_table(columns, rows, names=columns[:1])
    for location, problems in stores.damaged.items():
        for problem in problems:
            say(f"{location}: {problem}")
    for run_id, done in repairs.items():
        say(f"run {run_id!r} was repaired: {'; '.join(done)}")
    for verdict in verdicts:
        if verdict.difference is not None:
            say(f"run {verdict.run_id!r}: {verdict.difference}")
