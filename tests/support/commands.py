"""How tests run commands: in their own process, as a process, and as a worker that goes on until it is told."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from contextlib import closing, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import typer.testing
from typer.main import get_command
from typer.testing import CliRunner

import runstream
from runstream import EventKind, PAEvent, RedisCheckpointer, connect, create_event
from runstream.cli import app
from tests.support.operations import session_of
from tests.support.processes.template import Python
from tests.support.servers import DEADLINE_SECONDS, PROGRAMS, Node, eventually

# what a test machine may have set
NOT_SET = dict.fromkeys(
    ("RUNSTREAM_URL", "RUNSTREAM_DEBUG", "GITHUB_ACTIONS", "FORCE_COLOR", "PY_COLORS", "PYTHONUNBUFFERED")
)
QUIET = {name: value for name, value in os.environ.items() if name not in NOT_SET}


# to build the command line takes most of the time that a command takes in this process: it is done once
_built = cache(get_command)
typer.testing._get_command = _built  # type: ignore[attr-defined]  # the runner's own, which has no such option


@dataclass
class Said:
    """What a command ended with and printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def shell_environment(directory: Path, url: str) -> dict[str, str]:
    """The environment of a shell that finds ``runstream``, this one, and has RUNSTREAM_URL set."""
    shim = directory / "bin" / "runstream"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m runstream "$@"\n', encoding="utf-8")
    shim.chmod(0o755)
    source = Path(runstream.__file__).parents[1]
    path = f"{shim.parent}:{os.environ['PATH']}"
    return {**QUIET, "RUNSTREAM_URL": url, "PATH": path, "PYTHONPATH": str(source)}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "runstream", *arguments]


def run(*arguments: str, **environment: str) -> Said:
    """Run a command in this process: a tenth of the time that a process of its own takes to start."""
    done = CliRunner(env={**NOT_SET, **environment}).invoke(app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "\x1b" not in done.stdout + done.stderr, "control characters, and nobody at a terminal"
    return Said(done.exit_code, done.stdout, done.stderr)


class Terminal(io.StringIO):
    """Takes what is printed, as a terminal."""

    def isatty(self) -> bool:
        return True


def at_terminal(*arguments: str, columns: int = 80, **environment: str) -> str:
    """What a command prints at a terminal of so many columns: its characters and its styles."""
    runner = CliRunner(env={**NOT_SET, "TERM": "xterm", "NO_COLOR": None, "COLUMNS": str(columns), **environment})
    screen = Terminal()
    with runner.isolation(), redirect_stdout(screen):
        _built(app).main(arguments, prog_name="runstream", standalone_mode=False)
    return screen.getvalue()


def spawn(*arguments: str) -> Said:
    """Run a command as a process."""
    pipe = subprocess.PIPE
    with Python(command(*arguments), stdout=pipe, stderr=pipe, text=True, env=QUIET) as process:
        try:
            out, err = process.communicate(timeout=DEADLINE_SECONDS)
        finally:
            process.kill()
    assert "\x1b" not in out + err, "control characters, and nobody at a terminal"
    return Said(process.returncode, out, err)


class Worker:
    """``runstream drain …`` as a process; a context manager that ends it if it still runs."""

    def __init__(self, *arguments: str) -> None:
        self.lines: list[str] = []
        """What it has written to stderr so far."""
        self.process = Python(
            command("drain", *arguments, "--json"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=QUIET,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    @property
    def err(self) -> str:
        """All of stderr so far."""
        return "\n".join(self.lines)

    def says(self, text: str) -> None:
        """Wait until that is on stderr."""
        eventually(lambda: text in self.err or self.process.poll() is not None)
        eventually(lambda: text in self.err)

    def signal(self, number: int) -> None:
        """Send a signal, and wait until it is noticed."""
        self.process.send_signal(number)
        self.says(signal.Signals(number).name)

    def end(self) -> int:
        """Wait for its end; gives its exit code."""
        code = self.process.wait(DEADLINE_SECONDS)
        self._reader.join(DEADLINE_SECONDS)
        return code

    @property
    def document(self) -> Any:
        """What it has printed at its end."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.read())

    def url(self, path: str) -> str:
        """Where it serves that path."""
        self.says("http://")
        found = re.search(r"http://[^/\"]+", self.err)
        assert found is not None
        return found[0] + path

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of what it serves there."""
        return get(self.url(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # also one that is stopped
        self.process.wait(DEADLINE_SECONDS)
        self._reader.join(DEADLINE_SECONDS)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def get(url: str) -> tuple[int, str]:
    """Status and body of a GET over HTTP."""
    try:
        with closing(urllib.request.urlopen(url, timeout=DEADLINE_SECONDS)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with closing(error):
            return error.code, error.read().decode()


class Place:
    """A server that a test may stop and kill, a store on it, and a directory for archives.

    The server's address is a symbolic link to its socket, so that another one can take its place.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._sockets = tempfile.TemporaryDirectory()  # where a socket's path is short enough
        self._address = Path(self._sockets.name) / "s"
        self.url = f"unix://{self._address}"
        self.node = self._start()
        store = connect(self.url)
        assert isinstance(store, RedisCheckpointer)
        self.store: RedisCheckpointer[Any, Any] = store

    def _start(self) -> Node:
        node = Node(next(iter(PROGRAMS)), self._sockets.name)
        self._address.symlink_to(node.socket_path)
        return node

    def kill_server(self) -> None:
        """End the server with SIGKILL, and what it holds with it."""
        self.node.end()
        self._address.unlink()

    def start_server(self) -> None:
        """Start an empty one in place of the one that was killed."""
        self.node = self._start()

    @property
    def sqlite(self) -> str:
        return f"sqlite:{self.directory}/a.db"

    @property
    def jsonl(self) -> str:
        return f"jsonl:{self.directory}/jsonl"

    @property
    def drain(self) -> list[str]:
        """The arguments of a worker. JSONL comes first: what is there is in hand, and on its way to SQLite."""
        return ["--url", self.url, "--to", self.jsonl, "--to", self.sqlite, "--trim", "archived"]

    def emit(self, run_id: str, count: int, *, first: int = 1) -> list[PAEvent]:
        """Append so many events, and give them back: they are acknowledged."""
        events = [
            create_event(run_id, EventKind.TOOL_RESULT, seq=seq, n=seq) for seq in range(first, first + count)
        ]
        self.store.save_events(events)
        return events

    def archived(self, run_id: str) -> int:
        """How far Redis knows that the run is archived."""
        info = self.store.run_info(run_id)
        return 0 if info is None else info.archived_offset

    def in_jsonl(self, run_id: str) -> int:
        """How many lines the JSONL archive has of a run."""
        with suppress(FileNotFoundError):
            return (self.directory / "jsonl" / run_id / "events.jsonl").read_bytes().count(b"\n")
        return 0

    def close(self) -> None:
        self.store.close()
        self.node.end()
        self._sockets.cleanup()


def put_damaged(place: Place, run_id: str) -> None:
    """Append an event whose record does not read."""
    codec = session_of(place.store).codec
    encode = codec.encode_events

    def encode_damaged(run_id: str, events: Any, keys: Any = None) -> Any:
        return [found._replace(record=found.record[:-1] + b"\xc1") for found in encode(run_id, events, keys)]

    codec.encode_events = encode_damaged  # a disk or wire that flips bits
    try:
        place.emit(run_id, 1, first=1000)
    finally:
        del codec.encode_events  # the instance's own, set above
