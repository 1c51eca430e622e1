"""Python processes that begin as forks of one that has imported everything.

An interpreter that imports what a command needs has a processor for half a second before it does anything, and a
run of the suite starts hundreds. ``python -m tests.support.processes.template SOCKET`` has imported it all, and
forks itself whenever it is asked to over that socket.

The new process is a child of whoever asks, with the arguments, files, directory and environment that it would have
been started with: the template forks twice, the process in between ends, and who asks adopts what it leaves.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, AnyStr

__all__ = ["Python", "end_template"]

_WORLDS = "tests.support.processes.worlds"
_MAINS = {"runstream": "runstream.cli", _WORLDS: _WORLDS}
"""What is asked for as ``python -m`` and is imported already, and the modules that have the ``main`` of each."""

_LATER = {"tests.integrations.langgraph.programs"}
"""What is imported when it is asked for first, since it takes long and few tests need it; it has a ``main``."""

_PR_SET_CHILD_SUBREAPER = 36
_MESSAGE_BYTES = 2**17


class Python(subprocess.Popen[AnyStr]):
    """``Popen([sys.executable, "-m", "runstream", ...], ...)``, or another module, or ``-c``.

    ``-W error`` may stand before these. On other systems than Linux an interpreter is started.
    """

    if sys.platform == "linux":

        def _execute_child(self, args: Sequence[str], *options: Any) -> None:
            _, _, _, _, cwd, env, _, _, _, *pipes = options[:15]
            stdin, _, _, stdout, _, stderr = pipes
            is_strict = list(args[1:3]) == ["-W", "error"]
            how, what, *arguments = args[3 if is_strict else 1 :]
            assert how in {"-m", "-c"}, how
            request = {
                "how": how,
                "what": what,
                "arguments": arguments,
                "is_strict": is_strict,
                "leads_session": options[20],
                "directory": os.fspath(cwd or Path.cwd()),
                "environment": dict(os.environ if env is None else env),
            }
            files = [at if given == -1 else given for at, given in enumerate((stdin, stdout, stderr))]
            self.pid = _template().start(request, files)
            self._child_created = True
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]  # Popen's own


class _Template:
    """The template, as those see it who ask it for processes."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._prctl = ctypes.CDLL(None).prctl
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.processes.template", str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(self, request: Mapping[str, Any], files: Sequence[int]) -> int:
        """Start a process with these as its stdin, stdout and stderr; its id."""
        with self._lock:
            self._prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self._line, [json.dumps(request).encode()], files)
                return int(self._line.recv(_MESSAGE_BYTES))
            finally:
                self._prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

    def end(self) -> None:
        """End it. What it has started goes on."""
        self._line.close()
        self._process.wait()


_template = cache(_Template)


def end_template() -> None:
    """End the template if there is one."""
    if _template.cache_info().currsize:
        _template().end()
        _template.cache_clear()


# -- the template itself -------------------------------------------------------------------------------


def _wait_for_request(line: socket.socket) -> tuple[Any, list[int]]:
    """Wait for requests, and fork for each: returns in the new process, with its request and its files."""
    while True:
        message, files, _, _ = socket.recv_fds(line, _MESSAGE_BYTES, 3)
        if not message:
            sys.exit()
        request = json.loads(message)
        if request["what"] in _LATER and request["what"] not in _MAINS:
            importlib.import_module(request["what"])
            _MAINS[request["what"]] = request["what"]
            gc.collect()
            gc.freeze()
        hear, tell = os.pipe()
        between = os.fork()
        if between == 0:
            former = os.getpid()
            if pid := os.fork():
                os.write(tell, str(pid).encode())
                os._exit(0)
            os.close(hear)
            os.close(tell)
            while os.getppid() == former:
                time.sleep(0.0005)
            return request, files
        os.waitpid(between, 0)
        line.send(os.read(hear, 100))  # by now it is a child of whoever asked
        for handle in (hear, tell, *files):
            os.close(handle)


def _become(request: Any, files: Sequence[int]) -> None:
    """Take on what the process was asked for with, and run its main."""
    for at, (handle, name) in enumerate(zip(files, ("stdin", "stdout", "stderr"), strict=True)):
        os.dup2(handle, at)
        os.close(handle)
        # as an interpreter opens them: it looks whether a file has positions
        mode, buffering, errors = "w" if at else "r", 1 if name == "stderr" else -1, getattr(sys, name).errors
        stream = open(at, mode, buffering, errors=errors, closefd=False)  # noqa: SIM115 - for as long as it lives
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if request["leads_session"]:
        os.setsid()
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    what = request["what"]
    if request["is_strict"]:
        warnings.simplefilter("error")
    sys.argv = ["-c" if request["how"] == "-c" else what, *request["arguments"]]
    if request["how"] == "-c":
        sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), sys.modules["__main__"].__dict__)
    elif what in _MAINS:
        importlib.import_module(_MAINS[what]).main()
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)


def _serve(handle: int) -> None:
    for module in _MAINS.values():
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=handle) as line:
        request, files = _wait_for_request(line)
    _become(request, files)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
