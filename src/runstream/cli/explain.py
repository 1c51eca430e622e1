"""``runstream explain``: what an error means, why it comes, and what to do about it."""

from __future__ import annotations

import shutil
import sys
import textwrap
from difflib import get_close_matches
from typing import Annotated

import typer

from runstream.cli.support.error_texts import Explanation, explanations
from runstream.cli.support.options import AsJson
from runstream.cli.support.output import emit_json, print_table

__all__ = ["EPILOG", "explain"]

EPILOG = """Examples:

runstream explain

runstream explain LeaseLost"""

_WIDEST = 100  # longer lines are harder to read than two short ones


def _complete(incomplete: str) -> list[str]:
    return [name for name in explanations() if name.lower().startswith(incomplete.lower())]


def explain(
    error: Annotated[
        str | None,
        typer.Argument(
            metavar="ERROR", help="The name of an error.", autocompletion=_complete, show_default="all"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what an error means: when it comes, why, and what to do. Without a name, list them all.

    A name may be written as a traceback has it, with the modules before it.
    """
    found = list(explanations().values()) if error is None else [_named(error)]
    if as_json:
        documents = [vars(one) for one in found]
        emit_json(documents if error is None else documents[0])
    elif error is None:
        print_table(["error", "what it says"], [(one.name, one.summary) for one in found], unfolded=["error"])
    else:
        sys.stdout.write(_told(found[0]))


def _named(given: str) -> Explanation:
    """The error that is meant. Raises BadParameter, with names that are like it, for one that is none."""
    by_name = {name.lower(): one for name, one in explanations().items()}
    name = given.rpartition(".")[2].lower()
    if name in by_name:
        return by_name[name]
    nearest = [by_name[each].name for each in get_close_matches(name, by_name, cutoff=0.5)]
    hint = f"the nearest are {', '.join(nearest)}" if nearest else "`runstream explain` lists all"
    raise typer.BadParameter(f"no error of runstream has the name {given!r}: {hint}", param_hint="ERROR")


def _told(one: Explanation) -> str:
    """The text for a person, as wide as the terminal is."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)

    def filled(text: str, indent: str = "") -> str:
        return textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)

    told = [one.name, *map(filled, (one.summary, f"When: {one.when}", f"Why: {one.why}"))]
    told.append(filled(f"What to do: {one.what_to_do}"))
    if one.facts:
        facts = (filled(f"  {name}: {said}", indent="    ") for name, said in one.facts.items())
        told.append("\n".join(["Its attributes:", *facts]))
    return "\n\n".join(told) + "\n"
