"""The exit codes of the command line, and which error ends with which."""

from __future__ import annotations

from enum import IntEnum

from runstream.model.errors import ConfigurationError, InvalidRunId, RunstreamError, StoreUnavailable

__all__ = ["EXIT_CODES", "AmbiguousRun", "ExitCode", "NoSuchRun", "exit_code_of"]


class NoSuchRun(RunstreamError):
    """The run that was named is not in the store."""


class AmbiguousRun(RunstreamError):
    """Several runs of the store begin with what was given."""


class ExitCode(IntEnum):
    """The exit code of a command."""

    FINE = 0
    DOES_NOT_HOLD = 1
    USAGE = 2
    UNAVAILABLE = 3
    NO_SUCH_RUN = 4
    WARNINGS = 5
    INTERRUPTED = 130
    READER_GONE = 141


EXIT_CODES = (
    "Exit codes: 0 fine; 1 something does not hold (a check failed, a run is parked, a record does not read,"
    " somebody else wrote first, the output cannot be written); 2 a mistake in usage or configuration; 3 a store"
    " is unavailable, or kept a drain from ending in time: it is safe to repeat the command; 4 no such run;"
    " 5 a server works, with warnings (doctor);"
    " 130 interrupted (Ctrl-C); 141 whoever read the output went away (as with | head)."
)


def exit_code_of(error: RunstreamError | OSError) -> ExitCode:
    """The code that a command ends with when this error ends it."""
    if isinstance(error, ConfigurationError | InvalidRunId | AmbiguousRun):
        return ExitCode.USAGE
    if isinstance(error, StoreUnavailable):
        return ExitCode.UNAVAILABLE
    if isinstance(error, NoSuchRun):
        return ExitCode.NO_SUCH_RUN
    return ExitCode.DOES_NOT_HOLD
