"""``python -m runstream.testing.simulation``: play games until so many steps were made, or one ends badly."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated

import typer

from runstream.cli.support.progress_bar import showing_progress
from runstream.testing.simulation.choices import Choices
from runstream.testing.simulation.coverage import Taken, told_coverage
from runstream.testing.simulation.game import play
from runstream.testing.simulation.plan import Finding, Plan
from runstream.testing.simulation.plans import PLANS
from runstream.testing.simulation.series import be_quiet, play_series
from runstream.testing.simulation.shrink import shrink

_LINES = 60


def main(
    steps: Annotated[int, typer.Option(help="How many steps to make in all.")] = 200_000,
    seed: Annotated[int, typer.Option(help="The first seed; the next game has the next one.")] = 1,
    plan: Annotated[str, typer.Option(help=f"Which games: {', '.join(PLANS)}, or all.")] = "all",
    tries: Annotated[int, typer.Option(help="How many shorter histories to try of one that fails.")] = 400,
    jobs: Annotated[int, typer.Option(min=1, help="How many processes play at once.")] = 1,
    *,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Tell which ifs of scripts were not taken both ways.")
    ] = False,
) -> None:
    """Play simulated games: each seed is one history, which replays exactly."""
    if plan != "all" and plan not in PLANS:
        raise typer.BadParameter(
            f"there is no plan {plan!r}: name one of {', '.join(PLANS)}, or all", param_hint="--plan"
        )
    be_quiet()
    began, made, games, batches, losses = time.monotonic(), 0, 0, 0, 0
    taken: set[Taken] = set()
    names = list(PLANS) if plan == "all" else [plan]
    series = play_series(names, seed, steps, jobs, taken=taken if coverage else None)
    with showing_progress("steps", steps) as on_progress:
        for name, finding in series:
            if finding.faults:
                _tell(name, PLANS[name], finding, tries)
                raise typer.Exit(1)
            made, games = made + finding.steps, games + 1
            batches, losses = batches + finding.events, losses + finding.losses
            on_progress(finding.steps)
    typer.echo(
        f"{made:,} steps of {games} games in {time.monotonic() - began:.0f} s: {batches:,} batches acknowledged,"
        f" {losses} failovers, nothing lost, doubled or out of order"
    )
    if coverage:
        typer.echo("\n".join(told_coverage(taken)))


def _tell(name: str, plan: Plan, finding: Finding, tries: int) -> None:
    """Tell what went wrong, as shortly as it can be had."""
    typer.echo(f"plan {name}, seed {finding.seed}: {finding.faults[0]}")
    typer.echo(f"looking for a shorter history ({tries} tries at most) ...")
    # one that does not come to its end is no shorter
    plan = replace(plan, most_steps=min(plan.most_steps, 2 * finding.steps))
    wanted = gists(finding.faults)

    def fails(choices: Sequence[int]) -> bool:
        return not wanted.isdisjoint(gists(play(plan, Choices(finding.seed, choices)).faults))

    shorter = shrink(finding.choices, fails, tries)
    found = play(plan, Choices(finding.seed, shorter))
    typer.echo("\n".join(found.story[-_LINES:]))
    for fault in found.faults:
        typer.echo(fault)
    typer.echo(f"its choices: {shorter}")


def gists(faults: Iterable[str]) -> set[tuple[str, ...]]:
    """The words of faults without what names one thing: they are alike where the same is wrong with others."""
    return {tuple(filter(str.isalpha, fault.split())) for fault in faults}


if __name__ == "__main__":
    typer.run(main)
