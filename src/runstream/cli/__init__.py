"""The command line: ``runstream demo``, ``drain``, ``runs``, ``show``, ``tail``, ``status`` and others.

One file per command; this one assembles them and turns the library's errors into one line and an exit code.
"""

from __future__ import annotations

import io
import os
import platform
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from inspect import getdoc
from pathlib import Path
from sqlite3 import sqlite_version
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from runstream.cli import (
    acl,
    answer,
    archives,
    cancel,
    diff,
    doctor,
    drain,
    erase,
    explain,
    export,
    fork,
    import_,
    quarantine,
    resolve,
    restore,
    runs,
    show,
    status,
    tail,
    trim,
    unpark,
    verify,
    web,
)
from runstream.cli.demo import agent_command
from runstream.cli.demo import command as demo_command
from runstream.cli.support.error_texts import explanation_of
from runstream.cli.support.exit_codes import EXIT_CODES, ExitCode, exit_code_of
from runstream.cli.support.output import error_text, printable, without_credentials, without_passwords
from runstream.model.errors import RunstreamError

__all__ = ["app", "main"]


_UsageError: Any = typer.BadParameter.__base__  # for which typer has no name of its own


class _Commands(TyperGroup):
    """All commands, with one way to fail."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an error of ours, or of the output, becomes a line on stderr and its exit code."""
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            # the words of the library that checks values for typer, before its own
            error.message = without_passwords(error.message.removeprefix("Value error, "))
            raise
        except BrokenPipeError as error:  # `| head`: who read the output has seen enough
            _give_up(sys.stdout, sys.stderr)
            raise typer.Exit(ExitCode.READER_GONE) from error
        except (RunstreamError, OSError) as error:
            if ctx.params["debug"]:
                sys.stderr.write(without_credentials("".join(traceback.format_exception(error))))
            if isinstance(error, OSError):  # the stores' own are RunstreamErrors: this is a full disk under stdout
                _give_up(sys.stdout)
            explained = explanation_of(error)
            more = "" if explained is None else f" [runstream explain {explained.name}]"
            sys.stderr.write(f"runstream: error: {printable(error_text(error))}{more}\n")
            raise typer.Exit(exit_code_of(error)) from error


def _give_up(*streams: TextIO) -> None:
    """Discard what these streams still hold: the flush at exit would fail as the one before did."""
    with Path(os.devnull).open("wb") as nowhere, suppress(OSError):  # in a test, stdout is no file
        for stream in streams:
            os.dup2(nowhere.fileno(), stream.fileno())


app = typer.Typer(
    name="runstream",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: no boxes, as nowhere else
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog=f"{EXIT_CODES}\n\nBegin with: runstream demo",
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        beside = ", ".join(f"{name} {version(name)}" for name in ("redis", "hiredis", "msgpack"))
        runs_on = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
        sys.stdout.write(f"runstream {version('runstream')} ({runs_on}; {beside}; SQLite {sqlite_version})\n")
        raise typer.Exit


@app.callback()
def _global_options(
    debug: Annotated[  # read from the context, where an error is reported
        bool, typer.Option("--debug", envvar="RUNSTREAM_DEBUG", help="Print the traceback of an error too.")
    ] = False,
    show_version: Annotated[  # its callback does it
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version, and those that a bug report needs, and exit.",
        ),
    ] = False,
) -> None:
    """Durable, shared, replayable runs for multi-process AI agents, on plain Redis."""


def _add(command: Callable[..., None], epilog: str, name: str | None = None) -> None:
    """Add a command. Its docstring is its help, the first sentence of it stands in the list of commands.

    The examples of its epilog are not wrapped, so that they can be copied.
    """
    text = getdoc(command) or ""
    first, _, _ = " ".join(text.partition("\n\n")[0].split()).partition(". ")
    epilog = epilog.replace("\n\nrunstream ", "\n\n\b\nrunstream ")
    app.command(name, help=text, short_help=first.removesuffix("."), epilog=epilog)(command)


_add(demo_command.demo, demo_command.EPILOG)
_add(drain.drain, drain.EPILOG)
_add(runs.runs, runs.EPILOG)
_add(show.show, show.EPILOG)
_add(tail.tail, tail.EPILOG)
_add(fork.fork, fork.EPILOG)
_add(diff.diff, diff.EPILOG)
_add(answer.answer, answer.EPILOG)
_add(cancel.cancel, cancel.EPILOG)
_add(erase.erase, erase.ERASE_EPILOG)
_add(erase.truncate, erase.TRUNCATE_EPILOG)
_add(erase.erasures, erase.ERASURES_EPILOG)
_add(export.export, export.EPILOG)
_add(import_.import_, import_.EPILOG, name="import")
_add(status.status, status.EPILOG)
_add(doctor.doctor, doctor.EPILOG)
_add(archives.archives, archives.EPILOG)
_add(trim.trim, trim.EPILOG)
_add(unpark.unpark, unpark.EPILOG)
_add(resolve.resolve, resolve.EPILOG)
_add(quarantine.quarantine, quarantine.EPILOG)
_add(restore.restore, restore.EPILOG)
_add(verify.verify, verify.EPILOG)
_add(acl.acl, acl.EPILOG)
_add(explain.explain, explain.EPILOG)
_add(web.web, web.EPILOG)
_add(agent_command.agent, agent_command.EPILOG)


def main() -> None:
    """Run the command that the process was started with, and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character gets its escape, not an error
            stream.reconfigure(errors="backslashreplace")
    app()
