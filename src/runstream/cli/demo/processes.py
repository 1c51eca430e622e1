"""The demo's child processes: started by name, ended by process id, and none is left behind.

Not even when the demo itself is killed: their stdin is a pipe whose other end only the demo holds, and with
``--end-with-parent`` they end when it is closed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runstream.model.errors import RunstreamError

__all__ = ["Children", "DemoFailed", "Interruption"]

_END_SECONDS = 5.0


class DemoFailed(RunstreamError):
    """The demo did not run to its end, so that there is nothing to check."""


class Children:
    """Runs ``python -m runstream …`` under names; a context manager that ends what still runs.

    What a child writes goes to ``NAME.out`` and ``NAME.log`` in ``logs``.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stdin, self._held = os.pipe()  # nothing is ever written to it

    def start(self, name: str, arguments: Sequence[str]) -> int:
        """Start a child; gives its process id."""
        with self._file(name, "out").open("wb") as out, self._file(name, "log").open("ab") as log:
            child = subprocess.Popen(  # noqa: S603  this very program, with arguments of ours
                [sys.executable, "-m", "runstream", *arguments, "--end-with-parent"],
                stdin=self._stdin,
                stdout=out,
                stderr=log,
            )
        self._running[name] = child
        return child.pid

    def has_ended(self, name: str) -> bool:
        """Whether a child has done its work. Raises DemoFailed if it ended in any other way."""
        child = self._running.get(name)
        if child is None:
            return True
        if (code := child.poll()) is None:
            return False
        if code != 0:
            raise DemoFailed(f"{name} ended with status {code}: {self._last_words(name)}")
        del self._running[name]
        return True

    def kill(self, name: str) -> int:
        """End a child with SIGKILL, in the middle of whatever it does; gives its process id."""
        child = self._running.pop(name)
        child.kill()
        if (code := child.wait()) != -signal.SIGKILL:
            raise DemoFailed(
                f"{name} ended with status {code} before it could be killed: {self._last_words(name)}"
            )
        return child.pid

    def ask_to_end(self, name: str) -> None:
        """Send a child SIGTERM; what becomes of it, ``has_ended`` tells."""
        self._running[name].terminate()

    def result(self, name: str) -> dict[str, Any]:
        """The JSON document that a child printed. Raises DemoFailed if it printed none."""
        try:
            printed: dict[str, Any] = json.loads(self._file(name, "out").read_bytes())
        except ValueError as error:
            raise DemoFailed(f"{name} printed no result: {self._last_words(name)}") from error
        return printed

    def _file(self, name: str, kind: str) -> Path:
        return self._logs / f"{name.replace('/', '.')}.{kind}"

    def _last_words(self, name: str) -> str:
        log = self._file(name, "log")
        lines = log.read_text(errors="replace").splitlines()
        return f"{lines[-1] if lines else 'it said nothing'} ({log})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._running.values():
            child.terminate()
        for child in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(_END_SECONDS)
                continue
            child.kill()
            child.wait()
        os.close(self._stdin)
        os.close(self._held)


class Interruption:
    """Turns SIGINT, SIGTERM and SIGHUP into an orderly end; a context manager.

    The first is answered at the next ``check``, where no child is half started; a second at once. Either
    way the process exits with 128 + the signal's number, once everything is put away.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._number = 0
        self._former: dict[int, Any] = {}

    @property
    def has_come(self) -> bool:
        """Whether a signal has come."""
        return self._number != 0

    def check(self) -> None:
        """Exit if a signal has come."""
        if self._number:
            raise SystemExit(128 + self._number)

    def _handle(self, number: int, _: Any) -> None:
        if self._number:
            raise SystemExit(128 + number)
        self._number = number

    def __enter__(self) -> Self:
        self._former = {number: signal.signal(number, self._handle) for number in self._SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
