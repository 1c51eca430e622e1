"""What a user's type checker and editor know of the public interface: typing_checks.py says it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent


@pytest.mark.exhaustive  # each takes as long as hundreds of other tests
@pytest.mark.parametrize(
    "checker",
    [
        [BIN / "mypy", "tests/project/typing_checks.py"],
        [BIN / "basedpyright", "--pythonpath", sys.executable],  # its files stand in pyproject.toml
    ],
    ids=["mypy", "pyright"],
)
def test_types_are_inferred_and_mistakes_refused(checker: list[str | Path]) -> None:
    """Events, states, runs and leases have the types that a store was opened with; a misspelt name is an error."""
    checked = subprocess.run(checker, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
