"""The versions of Python and of redis-py are said in pyproject.toml; whatever else names them says the same."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import redis

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PYTHONS = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
TOOLS = PROJECT["tool"]


def test_the_pythons_are_those_of_the_classifiers() -> None:
    first = PYTHONS[0]
    minors = [int(one.partition(".")[2]) for one in PYTHONS]
    assert minors == list(range(minors[0], minors[-1] + 1)), "none is left out"
    assert PROJECT["project"]["requires-python"] == f">={first}"
    assert TOOLS["ruff"]["target-version"] == f"py{first.replace('.', '')}"
    assert TOOLS["mypy"]["python_version"] == TOOLS["basedpyright"]["pythonVersion"] == first
    assert f"Python {first} or later" in (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert set(re.findall(r"python:(3\.\d+)", (ROOT / "Dockerfile").read_text("utf-8"))) <= set(PYTHONS)
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in PYTHONS


def test_the_sessions_take_their_versions_from_there() -> None:
    """Of Python and of redis-py: nox itself is not at hand here."""
    text = (ROOT / "noxfile.py").read_text("utf-8")
    assert not re.findall(r"\d\.\d", text)
    assert "python_versions(PROJECT)" in text
    assert "@nox.session(python=PYTHONS)" in text


def test_ci_runs_the_oldest_redis_py_that_is_allowed() -> None:
    """And the newest, which is what an installation brings; the one that runs here is between the two."""
    (client,) = (one for one in PROJECT["project"]["dependencies"] if one.startswith("redis["))
    found = re.fullmatch(r"redis\[hiredis\]>=([\d.]+),<(\d+)", client)
    assert found is not None
    oldest, beyond = ([int(part) for part in bound.split(".")] for bound in found.groups())
    assert oldest <= [int(part) for part in redis.__version__.split(".")] < beyond
    text = (ROOT / ".ci/run").read_text("utf-8")
    (how,) = re.findall(r"oldest=\$\((sed .* pyproject\.toml)\)", text)
    said = subprocess.run(["bash", "-c", how], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.strip() == found[1]
    paths = text.partition("oldest_client() {")[2].partition("\n}")[0]
    named = re.findall(r"\btests/\S+", paths)
    assert named
    assert all(any(ROOT.glob(one)) for one in named)
