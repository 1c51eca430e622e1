"""``python -m runstream.testing.simulation.exploration``: play every history of small configurations."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated

import typer

from runstream.testing.simulation.exploration.configurations import CONFIGURATIONS
from runstream.testing.simulation.exploration.explore import explore
from runstream.testing.simulation.series import be_quiet


def main(
    name: Annotated[str, typer.Argument(help=f"Which: {', '.join(CONFIGURATIONS)}, or all.")] = "all",
    events: Annotated[int, typer.Option(min=1, help="How many events each writer appends.")] = 1,
    faults: Annotated[
        int | None, typer.Option(min=0, help="How many requests, replies or processes one history may lose.")
    ] = None,
    *,
    one_by_one: Annotated[
        bool, typer.Option("--one-by-one", help="Let others go on between the commands of an exchange.")
    ] = False,
) -> None:
    """Play every history of a small configuration, until one ends badly."""
    if name != "all" and name not in CONFIGURATIONS:
        raise typer.BadParameter(
            f"there is no configuration {name!r}: name one of {', '.join(CONFIGURATIONS)}, or all"
        )
    be_quiet()
    for one in CONFIGURATIONS if name == "all" else [name]:
        began = time.monotonic()
        configuration = replace(CONFIGURATIONS[one], one_by_one=one_by_one)
        if faults is not None:
            configuration = replace(configuration, faults=faults)
        found = explore(configuration, events)
        typer.echo(f"{one}: {found.told()}, in {time.monotonic() - began:.0f} s")
        if found.faults:
            typer.echo("\n".join([*found.story, *found.faults]))
            raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
