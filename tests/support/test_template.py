"""A process that is forked from the template is like one that was started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes.template import Python
from tests.support.servers import DEADLINE_SECONDS

TELLS = """
import os, sys, warnings
print(__name__, sys.argv[1:], os.getcwd(), sorted(os.environ), os.getppid(), os.getsid(0) == os.getpid())
print([stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)], sys.stdout.line_buffering, __file__
    if "__file__" in globals() else None)
print(sys.stdin.read(), file=sys.stderr)
warnings.warn("look", stacklevel=1)
sys.exit(7)
"""


@pytest.mark.one_in(2)
@pytest.mark.parametrize("flags", [[], ["-W", "error"]])
@pytest.mark.parametrize("leads_session", [False, True])
def test_it_has_what_it_was_asked_for_with(tmp_path: Path, flags: list[str], leads_session: bool) -> None:
    """Arguments, directory, environment, files, parent, session and warnings."""
    told = []
    for kind in (subprocess.Popen, Python):
        with kind(
            [sys.executable, *flags, "-c", TELLS, "one", "two"],
            cwd=tmp_path,
            env={"A": "1", "LC_CTYPE": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=leads_session,
        ) as process:
            out, err = process.communicate("said", timeout=DEADLINE_SECONDS)
        told.append((process.returncode, out, err.splitlines()[0], "UserWarning: look" in err))
    assert told[1] == told[0]
    assert str(os.getpid()) in told[0][1]
    assert told[0][0] == (1 if flags else 7)


def test_it_is_stopped_killed_and_waited_for_as_a_child() -> None:
    """Its parent hears of each."""
    sleep = "import sys, time; print(flush=True); time.sleep(600)"
    with Python([sys.executable, "-c", sleep], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        assert process.poll() is None
        process.send_signal(signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        process.kill()
    assert process.returncode == -signal.SIGKILL


def test_what_it_leaves_running_is_not_taken_for_a_child() -> None:
    """An orphan of it goes where orphans go: nobody here would wait for it."""
    leaves = "import os, time; pid = os.fork(); print(pid or time.sleep(600), flush=True)"
    with Python([sys.executable, "-c", leaves], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        orphan = int(process.stdout.readline())
        assert process.wait(DEADLINE_SECONDS) == 0
        with pytest.raises(ChildProcessError):
            os.waitpid(orphan, os.WNOHANG)
        os.kill(orphan, signal.SIGKILL)
