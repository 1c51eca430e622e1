"""Check docs/protocol.pml with spin: ``python -m tests.support.model_check`` checks its sizes and its breaks.

With ``--largest`` it checks the largest size instead, which takes minutes and a gigabyte. Whatever spin and the
compiler make lies in a temporary directory.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

MODEL = Path(__file__).parents[2] / "docs" / "protocol.pml"

_MISSING = [program for program in ("spin", "cc") if shutil.which(program) is None]
WHY_NOT = f"{' and '.join(_MISSING)} not installed (Debian: spin, gcc)" if _MISSING else ""
"""Why the model cannot be checked on this machine; '' if it can."""

_DEADLINE_SECONDS = 1800.0
_DEEPEST = 1_000_000  # steps of one execution; the deepest so far has some thousands


class Size(NamedTuple):
    """How much of everything the model has; see docs/protocol.md."""

    events: int
    faults: int
    workers: int

    @property
    def macros(self) -> list[str]:
        """What spin is given."""
        return [f"-D{name.upper()}={count}" for name, count in self._asdict().items()]


QUICK = Size(events=3, faults=1, workers=1)
"""Two writers, one fault beside the failover, one worker: all breaks show here."""

SIZES = [QUICK, Size(events=3, faults=0, workers=2), Size(events=2, faults=2, workers=2)]
LARGEST = Size(events=3, faults=1, workers=2)

BREAKS = {
    "NO_SEEN_CHECK": "P4",
    "NEW_NUMBER": "P2",
    "NO_STALE_CHECK": "P2",
    "FORGETS_SILENTLY": "P2",
    "NO_POSITION_CHECK": "P8",
    "NO_READ_BACK": "P9",
    "FROM_POSITION": "P9",
    "SETTLE_BY_OFFSET": "P9",
    "SHARED_LANE": "P4",
}
"""The macros that take something out of the protocol, and the promise that is broken then."""


class Checked(NamedTuple):
    """What spin found.

    Attributes:
        errors: How many errors.
        broken: The promise whose assertion failed; '' if none did.
        states: How many states were explored.
        unreached: Statements that no execution reaches, as ``PROCESS: STATEMENT``.
        seconds: How long that took.
    """

    errors: int
    broken: str
    states: int
    unreached: frozenset[str]
    seconds: float


def check(size: Size, *breaks: str) -> Checked:
    """Explore every state of the model, or as many as it takes to find an error.

    Args:
        size: How much of everything it has.
        breaks: The macros to set.

    Raises:
        RuntimeError: The search did not come to its end, or one of the programs failed.
    """
    began = time.monotonic()
    macros = [*size.macros, *(f"-D{name}" for name in breaks)]
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(MODEL, directory)
        _run(directory, "spin", "-a", *macros, MODEL.name)
        # an error is found soon: then to optimize takes longer than to search
        speed = "-O0" if breaks else "-O2"
        # of the largest, the states are kept in a form that takes less
        memory = ["-DCOLLAPSE"] if size == LARGEST else []
        _run(directory, "cc", speed, *memory, "-DSAFETY", "-o", "pan", "pan.c")
        said = _run(directory, "./pan", f"-m{_DEEPEST}")
        found = re.search(r"errors: (\d+)\n +(\d+) states, stored", said)
        errors, states = map(int, found.groups()) if found else (0, 0)
        if not states or (not errors and re.search(r"not completed|too small|limit|truncated", said)):
            raise RuntimeError(f"the search did not come to its end:\n{said}")
        broken = ""
        if errors:
            trail = _run(directory, "spin", "-t", *macros, MODEL.name)
            failed = re.search(rf"{re.escape(MODEL.name)}:(\d+), Error: assertion violated", trail)
            if failed is not None:
                line = MODEL.read_text(encoding="utf-8").splitlines()[int(failed[1]) - 1]
                broken = "".join(re.findall(r"/\* (P\d+):", line))
    return Checked(errors, broken, states, _unreached(said), time.monotonic() - began)


def _run(directory: str, *command: str) -> str:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, timeout=_DEADLINE_SECONDS
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _unreached(said: str) -> frozenset[str]:
    """The statements that pan lists as unreached, but for the ends of processes that do not end."""
    found, process = set(), ""
    for line in said.splitlines():
        if heading := re.match(r"unreached in (?:proctype )?(\w+)", line):
            process = heading[1]
        elif (statement := re.match(r'\t\S+:\d+, state \d+, "(.*)"$', line)) and statement[1] != "-end-":
            found.add(f"{process}: {statement[1]}")
    return frozenset(found)


def _main() -> int:
    """Check all, print what was found, and return 1 if something is not as it must be."""
    if WHY_NOT:
        print(WHY_NOT)
        return 1
    is_largest = "--largest" in sys.argv
    failed = 0
    for size in [LARGEST] if is_largest else SIZES:
        found = check(size)
        failed |= found.errors > 0
        print(f"{size}: errors: {found.errors} {found.broken}, {found.states} states, {found.seconds:.1f} s")
    for name, promise in () if is_largest else BREAKS.items():
        found = check(QUICK, name)
        failed |= found.broken != promise
        print(f"{name}: breaks {found.broken or 'nothing'} ({promise} is to be), {found.seconds:.1f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(_main())
