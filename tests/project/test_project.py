"""What the files around the code promise: the README, the Dockerfile, .ci/run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.main import get_command

from runstream.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def check_command_line(arguments: list[str]) -> None:
    """Parse a command line of runstream without running it; click raises what it does not accept."""
    group: Any = get_command(app)  # typer's own classes, which its types do not show
    name, *rest = arguments
    command = group.commands[name]
    with command.make_context(name, rest):
        pass


def test_the_readme_examples_print_what_the_readme_says(tmp_path: Path) -> None:
    """They are run as they stand, in an empty directory; the one that repeats a step, twice."""
    first, second = blocks("python")
    first_prints, second_prints = blocks("text")[:2]
    for example, prints in ((first, first_prints), (second, second_prints), (second, second_prints)):
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", example],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout == prints


def test_every_command_in_the_readme_is_one() -> None:
    """Names and options of runstream's own commands, as the README writes them."""
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("runstream ")]
    assert commands
    for line in commands:
        check_command_line(shlex.split(line, comments=True)[1:])


def test_ci_runs_the_readmes_own_test_command() -> None:
    """`.ci/run` takes the command out of the README: there is one, and it is whole."""
    commands = re.findall(r"^(python3 -m venv .*-m pytest.*)$", README, re.MULTILINE)
    assert len(commands) == 1
    assert "sed -n 's/^\\(python3 -m venv .*-m pytest.*\\)$/\\1/p' README.md" in (ROOT / ".ci/run").read_text()


def test_the_image_runs_the_command_line_without_root() -> None:
    """The Dockerfile copies only what there is, ends as another user than root, and starts runstream."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    stages = [line for line in lines if line.startswith("FROM ")]
    assert all("slim" in stage for stage in stages)
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users[-1:] == ["runstream"]
    assert 'ENTRYPOINT ["runstream"]' in lines
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in allowed
