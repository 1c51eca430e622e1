"""How a test runs other processes.

A test starts a :class:`Child`, which runs ``python -m tests.support.processes.worlds WORLD ARGUMENTS``. The two
talk in lines over the child's stdin and stdout; a child whose parent has died ends at the next line that it waits
for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.processes.template import Python
from tests.support.servers import DEADLINE_SECONDS


class Child:
    """Another process, where a warning is an error; a context manager that ends it if it still runs."""

    def __init__(self, world: str, **arguments: Any) -> None:
        self._start(world, ["-m", "tests.support.processes.worlds", world, json.dumps(arguments)], subprocess.PIPE)

    def _start(self, world: str, arguments: Sequence[str], stderr: Any) -> None:
        self.world = world
        self.process = Python(
            [sys.executable, "-W", "error", *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def tell(self, line: str) -> None:
        """Say something to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """The next line that it says. Fails the test with its last words if it says nothing more."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.world} ended: {self.process.communicate(timeout=DEADLINE_SECONDS)[1]}"
        return line.rstrip("\n")

    def kill(self) -> None:
        """End it with SIGKILL, in the middle of whatever it does."""
        self.process.kill()
        words = self.process.communicate(timeout=DEADLINE_SECONDS)[1]
        assert self.process.returncode == -signal.SIGKILL, f"{self.world} ended before it was killed: {words}"

    def stop(self) -> None:
        """Stop it with SIGSTOP; when this returns, it does nothing any more."""
        self.process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"{self.world} ended before it was stopped"

    def go_on(self) -> None:
        """Let it go on after ``stop``."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Wait for its end, which must be a good one."""
        words = self.process.communicate(timeout=DEADLINE_SECONDS)[1]
        assert self.process.returncode == 0, f"{self.world} failed: {words}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()  # also one that is stopped
        self.process.communicate()


class Command(Child):
    """A ``runstream`` command as a process, whose stderr goes to the file ``log``: it may say much in a long life.

    One that has ``--end-with-parent`` is sent SIGTERM by ``end``.
    """

    def __init__(self, name: str, *arguments: str, log: Path) -> None:
        self.log = log
        with log.open("ab") as file:
            self._start(name, ["-m", "runstream", *arguments], file)
