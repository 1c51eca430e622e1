"""The programs in ``examples/`` print what they say, are short, and are all in the table of the folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.servers import DEADLINE_SECONDS, needs_embedded_server

ROOT = Path(__file__).parents[2]
EXAMPLES = {path.name: path for path in (ROOT / "examples").glob("*.py")}
QUICK = {"text_deltas.py", "fork_prompts.py"}
"""Those that start nothing: each is run by default."""


def prints(path: Path) -> str:
    """What an example says it prints: the block at the end of its docstring."""
    docstring = path.read_text(encoding="utf-8").split('"""')[1]
    (block,) = re.findall(r"t prints[^:\n]*::\n\n((?:    .*\n)+)\Z", docstring)
    return textwrap.dedent(block)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.exhaustive) for name in sorted(EXAMPLES)],
)
@needs_embedded_server
def test_an_example_prints_what_it_says(name: str, tmp_path: Path) -> None:
    """As a process, in an empty directory, where a warning of the example's own is an error."""
    said = subprocess.run(
        [sys.executable, "-W", "error:::__main__", str(EXAMPLES[name])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout == prints(EXAMPLES[name])
    assert not list(tmp_path.iterdir())


def test_an_example_has_less_than_80_lines() -> None:
    sizes = {name: path.read_text(encoding="utf-8").count("\n") for name, path in EXAMPLES.items()}
    assert {name: lines for name, lines in sizes.items() if lines >= 80} == {}


def test_the_table_of_the_folder_names_all_examples() -> None:
    """And the extras that each installs at its top."""
    rows = re.findall(
        r"^\| \[(\w+\.py)\]\((\w+\.py)\) \|.*\| (.*) ?\|$", (ROOT / "examples/README.md").read_text(), re.MULTILINE
    )
    assert sorted(name for name, _, _ in rows) == sorted(EXAMPLES)
    for name, link, needs in rows:
        assert name == link
        (installed,) = re.findall(r"pip install (.*) && python", EXAMPLES[name].read_text(encoding="utf-8"))
        wanted = installed.replace("'", "").split()
        assert re.findall(r"`(.*?)`", needs) == [one for one in wanted if one != "runstream"]
