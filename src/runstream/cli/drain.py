"""``runstream drain``: the drain worker as a process.

It ends by a signal. The first SIGTERM or SIGINT lets it finish the batch in hand and settle; a second one
ends it where it stands, which is as safe as a kill: what is not settled, the next worker does again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, Literal

import typer

from runstream.cli.exits import ExitCode
from runstream.cli.options import AsJson, EndWithParent, Url, ending_with_parent
from runstream.cli.output import emit_json, iso_time, print_table, printable
from runstream.connect import connect
from runstream.drain import DrainWorker
from runstream.model.errors import ConfigurationError
from runstream.model.protocols import Sink
from runstream.model.values import DrainReport
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.operations.inspecting import namespace_status

__all__ = ["EPILOG", "drain"]

EPILOG = """Examples:

runstream drain --url redis://localhost --to sqlite:archive.db

runstream drain --to sqlite:archive.db --to jsonl:archive/ --once --json"""

_ARCHIVE_SCHEMES = ("sqlite", "jsonl")

_log = logging.getLogger("runstream.drain")


def drain(
    to: Annotated[
        list[str],
        typer.Option(
            metavar="ARCHIVE", help="An archive, sqlite:PATH or jsonl:DIR; give it again for each further one."
        ),
    ],
    url: Url = None,
    once: Annotated[bool, typer.Option("--once", help="Drain what is due now, then end.")] = False,
    batch: Annotated[
        int, typer.Option(min=1, help="How many events go into one transaction of an archive.")
    ] = 1000,
    trim: Annotated[
        Literal["covered", "archived", "never"],
        typer.Option(
            help="What leaves Redis: what is archived and covered by the snapshots, all that is archived, nothing."
        ),
    ] = "covered",
    claim: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which the runs of a worker that died go to another.")
    ] = 30.0,
    retire_after: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds of quiet after which an ended, archived run leaves Redis but for a tombstone.",
            show_default="never",
        ),
    ] = None,
    forget_after: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds after that until the tombstone goes too: an append then starts another run.",
            show_default="never",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The worker's name in logs.", show_default="host and process id")
    ] = None,
    as_json: AsJson = False,
    end_with_parent: EndWithParent = False,
) -> None:
    """Archive what is in Redis, prove it, and trim it, until SIGTERM or SIGINT.

    The signal lets the batch in hand be finished; then the report is printed and the exit code is 0. A
    second signal ends the worker at once (130 or 143), and nothing is lost by that. With --once it ends
    when what was due is drained, with exit code 1 if any run is parked.
    """
    with ExitStack() as opened:
        sinks = [_open_sink(opened, target) for target in to]
        hot = opened.enter_context(connect(url))
        if not isinstance(hot, RedisCheckpointer):
            raise ConfigurationError("a drain empties Redis: --url is a redis:, rediss:, unix: or embedded: URL")
        worker = DrainWorker(
            hot,
            sinks,
            name=name,
            batch=batch,
            trim=trim,
            claim_seconds=claim,
            retire_after_seconds=retire_after,
            forget_after_seconds=forget_after,
        )
        with _logging_to_stderr(), _stopping_on_signals() as stop, ending_with_parent(end_with_parent):
            _log.info("drain %s begins; archives: %s", worker.name, ", ".join(sink.location for sink in sinks))
            report = worker.drain_once() if once else worker.run(stop)
            _log.info("drain %s ends: %s events archived", worker.name, report.events)
        parked = hot.perform(namespace_status(hot.context.keys)).parked if once else {}
        _print_report(worker.name, sinks, report, parked, as_json=as_json)
    if parked:
        raise typer.Exit(ExitCode.DOES_NOT_HOLD)


def _open_sink(opened: ExitStack, target: str) -> Sink:
    scheme = target.partition(":")[0]
    if scheme not in _ARCHIVE_SCHEMES:
        schemes = " and ".join(f"{name}:" for name in _ARCHIVE_SCHEMES)
        raise typer.BadParameter(f"{scheme}: is not an archive; {schemes} are", param_hint="--to")
    store = opened.enter_context(connect(target))
    if not isinstance(store, Sink):  # so long as the schemes above say the truth, never
        raise ConfigurationError(f"{scheme}: is not an archive")
    return store


def _print_report(
    name: str, sinks: Sequence[Sink], report: DrainReport, parked: Mapping[str, str], *, as_json: bool
) -> None:
    counts = report.to_dict()
    if as_json:
        archives = {sink.archive_id: sink.location for sink in sinks}
        emit_json({"name": name, "archives": archives, "report": counts, "parked": dict(parked)})
        return
    print_table(["drained", "count"], counts.items())
    if parked:
        print_table(["parked run", "reason"], sorted(parked.items()))


@contextmanager
def _stopping_on_signals() -> Iterator[threading.Event]:
    """An event that the first SIGTERM or SIGINT sets; the second ends the process at once."""
    stop = threading.Event()
    seen: list[int] = []

    def handle(number: int, _: Any) -> None:
        if seen:
            # not an exception: what it would unwind through may be waiting for a server that hangs
            os._exit(128 + number)
        seen.append(number)
        # neither a logger, whose lock this thread may hold, nor a stream, which it may be writing to
        text = f"{signal.Signals(number).name}: finishes the batch in hand; a second signal ends it at once"
        os.write(2, f"{_line(time.time(), 'info', text)}\n".encode())
        # not here: this thread may hold the event's lock, as a worker that waits does
        threading.Thread(target=stop.set).start()

    former = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def _logging_to_stderr() -> Iterator[None]:
    """What the library logs from INFO on, one line each, on stderr."""
    logger = logging.getLogger("runstream")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _OneLine(logging.Formatter):
    """``time=… level=… message="…"``: grep finds it, and a program can take it apart."""

    def format(self, record: logging.LogRecord) -> str:
        return _line(record.created, record.levelname.lower(), record.getMessage())


def _line(timestamp: float, level: str, message: str) -> str:
    quoted = printable(message).replace('"', '\\"')
    return f'time={iso_time(timestamp)} level={level} message="{quoted}"'
