"""``runstream drain``: the drain worker as a process.

It ends by a signal. The first SIGTERM or SIGINT lets it finish the batch in hand and settle, within a bound; a
second one, or the bound, ends it where it stands, which is as safe as a kill: what is not settled, the next
worker does again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Annotated, Literal

import typer

from runstream.cli.support.exit_codes import ExitCode
from runstream.cli.support.http_endpoints import Health, load_metrics_app, serving
from runstream.cli.support.log_formats import LogFormat, LogLevel, logging_to_stderr
from runstream.cli.support.options import (
    AsJson,
    EndWithParent,
    HotUrl,
    check_archive_url,
    ending_with_parent,
    hot_namespace,
    open_archive,
)
from runstream.cli.support.output import emit_json, print_table, without_credentials
from runstream.cli.support.partitions import parse_partitions
from runstream.cli.support.server_start import START_SECONDS, wait_for_server
from runstream.cli.support.signals import stopping_on_signals
from runstream.connect import connect
from runstream.drain import DrainWorker
from runstream.model.protocols import Sink
from runstream.model.results import DrainReport
from runstream.stores.urls import archive_beside

__all__ = ["EPILOG", "drain"]

EPILOG = """Examples:

runstream drain --url redis://localhost --to sqlite:archive.db

runstream drain --to sqlite:archive.db --to jsonl:archive/ --once --json

runstream drain --to sqlite:archive.db --partitions 0-7 --log-format json --metrics-port 9464"""

_TELLING = "What the worker tells of itself"

_log = logging.getLogger("runstream.drain")


def drain(
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARCHIVE",
            help="An archive, sqlite:PATH or jsonl:DIR; give it again for each further one.",
            show_default="of embedded:DIR, archive.db in DIR; of a namespace, archive-NAMESPACE.db",
        ),
    ] = None,
    url: HotUrl = None,
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
    retire_idle: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds of quiet after which any archived run leaves Redis so, until the next append.",
            show_default="never",
        ),
    ] = None,
    forget_after: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds after that until the tombstone of an ended run goes: an append then starts another run.",
            show_default="never",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="The worker's name in log and status.", show_default="host and process id"),
    ] = None,
    partitions: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Only the runs of these partitions, such as 0-3,7.", show_default="all"),
    ] = None,
    grace: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=86_400,
            help="Seconds after the signal within which the worker has ended, whatever it waits for.",
        ),
    ] = 25.0,
    start_timeout: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Seconds to wait for a Redis that is not up yet.",
            show_default=f"for ever; {START_SECONDS:g} with --once",
        ),
    ] = None,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            help="What a line of the log on stderr is: text, or a JSON object.", rich_help_panel=_TELLING
        ),
    ] = "text",
    log_level: Annotated[
        LogLevel, typer.Option(help="What is logged: this, and what is worse.", rich_help_panel=_TELLING)
    ] = "info",
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65_535,
            help="Serve /metrics (Prometheus) and /health at this port; 0: one that is free.",
            rich_help_panel=_TELLING,
        ),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(help="The address at which that port is.", rich_help_panel=_TELLING)
    ] = "127.0.0.1",
    stuck_after: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=86_400,
            help="Seconds without a sign of life of the worker's loop after which /health says 503.",
            rich_help_panel=_TELLING,
        ),
    ] = 120.0,
    as_json: AsJson = False,
    end_with_parent: EndWithParent = False,
) -> None:
    """Archive what is in Redis, prove it, and trim it, until SIGTERM or SIGINT.

    The signal lets the batch in hand be finished; then the report is printed and the exit code is 0. What
    takes longer than --grace (a locked file, a server that hangs) is left as it is, with exit code 3, and a
    second signal ends the worker at once (130 or 143): nothing is lost by either, the next worker does it again.

    A Redis that is not up yet is waited for, which one line of the log says, and so is what it requires: a worker
    that has an archive too many, or one too few, waits until `runstream archives` has put that right.

    The log has a line for each minute of work, with what was done in it, and one for each thing that somebody has
    to act on; with --log-level debug one for each batch.

    With --once it ends when what was due is drained, with exit code 1 if any run is parked and 3 if Redis or an
    archive is unavailable. Two that overlap do no harm.

    With --metrics-port it answers GET /metrics for Prometheus, and GET /health with 200 as long as its loop
    lives, be it waiting for Redis or for a disk that is full, which the body then says; else with 503.
    """
    if name is not None and without_credentials(name) != name:
        raise typer.BadParameter("that is a URL with a password: take another name", param_hint="--name")
    if forget_after is not None and retire_after is None and retire_idle is None:
        raise typer.BadParameter(
            "only what was retired is forgotten: give --retire-after or --retire-idle too",
            param_hint="--forget-after",
        )
    wanted = None if partitions is None else parse_partitions(partitions)
    with (
        logging_to_stderr(log_format, log_level) as fields,
        stopping_on_signals(grace) as stop,
        ending_with_parent(end_with_parent),
        ExitStack() as opened,
    ):
        targets = to or [_archive_beside(url)]
        for target in targets:
            check_archive_url(target, "--to")
        patience = (START_SECONDS if once else math.inf) if start_timeout is None else start_timeout
        if not wait_for_server(url, patience, stop=stop, tell=_log.warning):
            return
        hot = opened.enter_context(connect(url))
        namespace = hot_namespace(hot)
        # last: where there is no server, no new archive is left
        sinks = [open_archive(opened, target, "--to", new_for=namespace) for target in targets]
        locations = [sink.location for sink in sinks]
        worker = DrainWorker(
            hot,
            sinks,
            name=name,
            batch=batch,
            trim=trim,
            claim_seconds=claim,
            partitions=wanted,
            retire_after_seconds=retire_after,
            retire_idle_seconds=retire_idle,
            forget_after_seconds=forget_after,
        )
        fields["worker"] = worker.name
        health = Health(worker.name, worker.progress, stuck_after)
        if metrics_port is not None:
            metrics = load_metrics_app(worker, hot, locations)
            served = opened.enter_context(serving(metrics_host, metrics_port, metrics, health))
            _log.info("serves %s/metrics and %s/health", served, served, extra={"url": served})
        _log.info("drain %s begins; archives: %s", worker.name, ", ".join(locations))
        report = worker.drain_once(stop) if once else worker.run(stop)
        health.has_ended = True
        _log.info("drain %s ends: %s events archived", worker.name, report.events, extra=report.to_dict())
        parked = namespace.status().parked if once else {}
        _print_report(worker.name, sinks, report, parked, as_json=as_json)
    if parked:
        raise typer.Exit(ExitCode.DOES_NOT_HOLD)


def _archive_beside(url: str | None) -> str:
    beside = archive_beside(url or "")
    if beside is None:
        raise typer.BadParameter("which archive? sqlite:PATH or jsonl:DIR", param_hint="--to")
    return beside


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
