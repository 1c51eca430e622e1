"""``runstream trim``: let what is archived leave Redis now."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Any, Literal

import typer

from runstream.cli.support.exit_codes import ExitCode
from runstream.cli.support.options import (
    AsJson,
    HotUrl,
    RequiredArchives,
    hot_namespace,
    open_archive,
    open_existing,
    required_urls,
)
from runstream.cli.support.output import emit_json, print_table, say
from runstream.cli.support.run_names import complete_run, run_named
from runstream.drain import DrainWorker
from runstream.stores.redis.namespace import Namespace
from runstream.stores.redis.operations.admin.held import why_held

__all__ = ["EPILOG", "trim"]

EPILOG = """Examples:

runstream trim run-42 --policy archived --url redis://localhost

runstream trim --all --policy covered --json"""


def trim(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Runs, by id or its beginning.",
            autocompletion=complete_run,
            show_default=False,
        ),
    ] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Every run of which something may leave Redis.")] = False,
    policy: Annotated[
        Literal["covered", "archived"],
        typer.Option(
            help="What leaves Redis: what is archived and covered by the snapshots, all that is archived."
        ),
    ] = "covered",
    to: RequiredArchives = None,
    url: HotUrl = None,
    as_json: AsJson = False,
) -> None:
    """Let what is archived leave Redis now, whatever the workers' --trim.

    Each run is drained once, by the same steps as a worker's: what is not archived yet is archived, and nothing
    leaves Redis that is not proven to be in every archive that the namespace requires. Workers may go on
    meanwhile. The archives are opened where their workers have them, or given with --to. What stays in Redis is
    shown with the reason. A run that an archive cannot take is parked: exit code 1.
    """
    wanted = list(run or ())
    if bool(wanted) == is_all:
        raise typer.BadParameter("name runs, or say --all", param_hint="RUN")
    with ExitStack() as opened:
        hot = opened.enter_context(open_existing(url))
        namespace = hot_namespace(hot)
        wanted = [run_named(hot, one) for one in wanted]
        if is_all:
            wanted = [held.run_id for held in namespace.held_runs().runs if held.trimmable(policy)]
        sinks = [open_archive(opened, target, "--to") for target in to or required_urls(namespace)]
        report = DrainWorker(hot, sinks, trim=policy).drain_runs(wanted)
        facts = {
            "policy": policy,
            "runs": len(wanted),
            **_left(namespace, wanted, policy),
            "report": report.to_dict(),
        }
    if as_json:
        emit_json(facts)
    else:
        _print(facts)
    if facts["parked"]:
        raise typer.Exit(ExitCode.DOES_NOT_HOLD)


def _left(namespace: Namespace, run_ids: Sequence[str], policy: str) -> dict[str, Any]:
    """What of runs that were trimmed is still in Redis, why, and which are parked."""
    parked = namespace.status().parked
    held = namespace.held_runs(run_ids).runs
    return {
        "held": [{"run_id": one.run_id, "events": one.events, "reason": why_held(one, [policy])} for one in held],
        "parked": {run_id: parked[run_id] for run_id in run_ids if run_id in parked},
    }


def _print(facts: dict[str, Any]) -> None:
    report = facts["report"]
    print_table(["trimmed", "count"], [("runs", facts["runs"]), ("events", report["trimmed"])])
    if facts["held"]:
        print_table(["run", "still in Redis", "why"], [tuple(one.values()) for one in facts["held"]])
    if facts["parked"]:
        print_table(["parked run", "reason"], sorted(facts["parked"].items()))
    if not facts["runs"]:
        say("nothing may leave Redis")
