"""Which tests there are, and which of them are exhaustive, as another pytest process collects them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
ELSEWHERE = [*SETTINGS, "-p", "tests.conftest"]
"""The project's own settings and hooks, for tests that do not lie below its own."""


def collect(*paths: str, settings: Sequence[str] = SETTINGS) -> dict[str, bool]:
    """The ids of all tests in these files or directories, and whether each is exhaustive."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.collected", *settings, *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, bool] = json.loads(done.stdout.splitlines()[-1])
    return found


class _Collection:
    def __init__(self) -> None:
        self.found: dict[str, bool] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            self.found[item.nodeid] = item.get_closest_marker("exhaustive") is not None


def _main(arguments: Sequence[str]) -> int:
    collection = _Collection()
    code = pytest.main(["--collect-only", "-q", "-m", "", *arguments], plugins=[collection])
    print("\n" + json.dumps(collection.found))
    return code


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
