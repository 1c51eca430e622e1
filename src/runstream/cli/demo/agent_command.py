"""``runstream agent``: the example agent as a process."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from runstream.cli.demo.agent import Outcome, Task, work
from runstream.cli.demo.journal import Journal
from runstream.cli.support.options import AsJson, EndWithParent, Url, ending_with_parent
from runstream.cli.support.output import emit_json, printable
from runstream.connect import connect

__all__ = ["EPILOG", "agent"]

EPILOG = """Examples:

runstream agent --url embedded:./state --run orders --lane planner --steps 20 --leader --wait-for searcher

runstream agent --url embedded:./state --run orders --lane searcher --steps 20

Kill one (kill -9) and start it again with the same options: it goes on where it was."""


def agent(
    run: Annotated[str, typer.Option(help="The run to work in; it is created if need be.")],
    lane: Annotated[str, typer.Option(help="The lane of that run; no other agent may work in it.")],
    url: Url = None,
    steps: Annotated[int, typer.Option(min=1, help="How many steps the lane has in all.")] = 20,
    session: Annotated[str, typer.Option(help="The session that the run belongs to.")] = "",
    seed: Annotated[int, typer.Option(help="What the simulated model and tools say follows from it.")] = 0,
    pace: Annotated[float, typer.Option(min=0, help="Seconds to wait after each append.")] = 0.1,
    leader: Annotated[
        bool, typer.Option("--leader", help="Begin the run, and end it after the last step.")
    ] = False,
    wait_for: Annotated[
        list[str] | None,
        typer.Option(metavar="LANE", help="A leader ends the run only when this lane has finished; repeatable."),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Add a line to this file for each event that was acknowledged."),
    ] = None,
    as_json: AsJson = False,
    end_with_parent: EndWithParent = False,
) -> None:
    """Work as the example agent: in one lane of a run, resuming where the lane stands.

    Each step asks a simulated model, streams its answer, calls a tool and sums up. Every third step the
    lane's state is saved as a snapshot, in one atomic step with the events.
    """
    task = Task(run, lane, steps, session, seed, leader, wait_for or ())
    with ExitStack() as opened:
        # first: where it cannot be written, no new store is left
        notes = None if journal is None else opened.enter_context(Journal(journal))
        store = opened.enter_context(connect(url))
        opened.enter_context(ending_with_parent(end_with_parent))
        if notes is None:
            outcome = work(store, task, pace_seconds=pace)
        else:
            outcome = work(store, task, pace_seconds=pace, acknowledged=notes.note)
    if as_json:
        emit_json({"run_id": run, "lane_id": lane, **_facts(outcome)})
    else:
        typer.echo(printable(f"{run}/{lane}: {_sentence(outcome)}"))


def _facts(outcome: Outcome) -> dict[str, Any]:
    resumed = None if outcome.resumed is None else asdict(outcome.resumed)
    return {**asdict(outcome), "cost": str(outcome.cost), "resumed": resumed}


def _sentence(outcome: Outcome) -> str:
    text = f"{outcome.steps} steps, {outcome.events} events, ${outcome.cost}"
    if (resumed := outcome.resumed) is None:
        return text
    return (
        f"{text}; resumed at step {resumed.step} from the snapshot at offset {resumed.snapshot_offset}"
        f" and {resumed.replayed_events} later events"
    )
