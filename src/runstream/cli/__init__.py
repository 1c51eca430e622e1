"""The command line: ``runstream demo``, ``drain``, ``runs``, ``show``, ``status``, and the example ``agent``.

One file per command; this one assembles them and turns the library's errors into one line and an exit code.
"""

from __future__ import annotations

import io
import sys
import traceback
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from runstream.cli import agent, demo, drain, runs, show, status
from runstream.cli.exits import EXIT_CODES, exit_code_of
from runstream.cli.output import printable
from runstream.model.errors import RunstreamError

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """All commands, with one way to fail."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an error of ours becomes a line on stderr and its exit code."""
        try:
            return super().invoke(ctx)
        except RunstreamError as error:
            if ctx.params["debug"]:
                traceback.print_exception(error)
            message = " ".join(str(error).split())
            sys.stderr.write(f"runstream: error: {printable(message)}\n")
            raise typer.Exit(exit_code_of(error)) from error


app = typer.Typer(
    name="runstream",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=f"{EXIT_CODES}\n\nBegin with: runstream demo",
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        sys.stdout.write(f"runstream {version('runstream')}\n")
        raise typer.Exit


@app.callback()
def _global_options(
    debug: Annotated[  # read from the context, where an error is reported
        bool, typer.Option("--debug", envvar="RUNSTREAM_DEBUG", help="Print the traceback of an error too.")
    ] = False,
    show_version: Annotated[  # its callback does it
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Durable, shared, replayable runs for multi-process AI agents, on plain Redis."""


app.command(epilog=demo.EPILOG)(demo.demo)
app.command(epilog=drain.EPILOG)(drain.drain)
app.command(epilog=runs.EPILOG)(runs.runs)
app.command(epilog=show.EPILOG)(show.show)
app.command(epilog=status.EPILOG)(status.status)
app.command(epilog=agent.EPILOG)(agent.agent)


def main() -> None:
    """Run the command that the process was started with, and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character gets its escape, not an error
            stream.reconfigure(errors="backslashreplace")
    app()
