"""The suite itself: how large its files are, what it leaves out by default, and the stages in which it is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.collected import ELSEWHERE, ROOT, collect

MOST_LINES = 600


def test_no_file_of_the_tests_is_long() -> None:
    """One that becomes so is split by what it is about."""
    sizes = {path: path.read_text(encoding="utf-8").count("\n") for path in (ROOT / "tests").rglob("*.py")}
    assert len(sizes) > 100
    assert [f"{path}: {size}" for path, size in sizes.items() if size > MOST_LINES] == []


THREE = """
import pytest

def test_short():
    pass

@pytest.mark.exhaustive
@pytest.mark.parametrize("n", [1, 2])
def test_long(n):
    pass
"""

MANY = """
import pytest

@pytest.fixture(params="xyz")
def letter(request):
    return request.param

@pytest.mark.one_in(4)
@pytest.mark.parametrize("word", ["on", "off"])
@pytest.mark.parametrize("number", range(5))
def test_many(number, word, letter):
    pass
"""


IN_TURN = """
import pytest
from tests.support.kinds import short

@pytest.mark.parametrize("kind", short(["memory", "redis62", "fake", "redis70"]))
def test_in_turn(kind):
    pass
"""


def run_suite(directory: Path, tests: str, *options: str) -> str:
    """What pytest says of a suite of its own, with the project's options and hooks."""
    (directory / "test_these.py").write_text(tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *ELSEWHERE, *options, str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("workers", [("-n", "1"), ()], ids=["a worker", "one process"])
def test_what_is_left_out_is_said_and_how_to_run_it(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """Also where workers of pytest-xdist collect the tests."""
    said = run_suite(tmp_path, THREE, *workers)
    assert "2 exhaustive tests left out; run them with: python -m pytest -m exhaustive\n" in said
    assert " 1 passed" in said


@pytest.mark.exhaustive
def test_what_was_left_out_runs_as_it_was_said(tmp_path: Path) -> None:
    said = run_suite(tmp_path, THREE, "-m", "exhaustive")
    assert "left out" not in said
    assert " 2 passed" in said


@pytest.mark.exhaustive
def test_one_in_so_many_leaves_each_value_of_each_parameter(tmp_path: Path) -> None:
    """Of a fixture's parameters too."""
    (tmp_path / "test_these.py").write_text(MANY.replace("one_in(4", "one_in(4, exhaustively=1"))
    every = collect(str(tmp_path), settings=ELSEWHERE)
    left = [test.partition("[")[2].rstrip("]") for test, is_exhaustive in every.items() if not is_exhaustive]
    assert len(every) == 30
    assert len(left) <= 10
    values = zip(*(name.split("-") for name in left), strict=True)
    assert sorted(len(set(each)) for each in values) == [2, 3, 5]


@pytest.mark.exhaustive
def test_one_in_so_many_of_what_is_exhaustive_is_tried_but_where_there_is_time_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is tried by default stays, and so does each value of each parameter."""
    (tmp_path / "test_these.py").write_text(MANY)
    kept = collect(str(tmp_path), settings=ELSEWHERE)
    monkeypatch.setenv("RUNSTREAM_TEST_ROUNDS", "2")
    every = collect(str(tmp_path), settings=ELSEWHERE)
    assert len(every) == 30
    assert len(kept) == 15
    assert {test for test, is_exhaustive in every.items() if not is_exhaustive} <= kept.keys()


@pytest.mark.exhaustive
def test_kinds_that_take_turns_are_all_tried_where_there_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a test is tried on those of one part."""
    (tmp_path / "test_these.py").write_text(IN_TURN)
    kept = collect(str(tmp_path), settings=ELSEWHERE)
    monkeypatch.setenv("RUNSTREAM_TEST_ROUNDS", "2")
    every = collect(str(tmp_path), settings=ELSEWHERE)
    assert len(every) == 4
    kinds = {test.partition("[")[2].rstrip("]") for test in kept}
    assert kinds in ({"memory", "fake"}, {"memory", "redis62"}, {"memory", "redis70"})


def run_stages(script: str) -> tuple[int, str]:
    """Run lines of shell with the functions of .ci/run: the exit code, and what is printed.

    `later SECONDS` is a stage that seems to take so long; it takes longer where the machine is slow.
    """
    later = "later() { SECONDS=$((SECONDS + $1)); }"
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\nsource .ci/run\n{later}\n{script}"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "CI_BUDGET_SCALE"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_stage_within_its_budget_prints_its_time() -> None:
    code, said = run_stages('stage "one" 60 later 20\nstage "two" 60 later 30\nsummary')
    assert code == 0
    assert re.search(r"^==== one took 2\d s$", said, re.MULTILINE)
    assert re.search(r"^one +2\d s of +60 s  in time\ntwo +3\d s of +60 s  in time\n$", said, re.MULTILINE)


def test_a_stage_over_its_budget_is_told() -> None:
    code, said = run_stages('stage "one" 60 later 61\nstage "two" 60 later 1\nsummary')
    assert code == 0
    assert re.search(r"^one +\d+ s of +60 s  OVER ITS BUDGET\ntwo +\d+ s of +60 s  in time\n$", said, re.MULTILINE)


def test_a_stage_that_takes_twice_its_budget_fails_the_run_after_the_others() -> None:
    code, said = run_stages('stage "one" 60 later 122\nstage "two" 60 later 1\nsummary')
    assert code == 1
    assert re.search(r"^one +\d+ s of +60 s  MORE THAN TWICE ITS BUDGET\ntwo .*  in time\n$", said, re.MULTILINE)


def test_the_budgets_grow_with_the_scale() -> None:
    code, said = run_stages('CI_BUDGET_SCALE=1.5\nstage "one" 60 later 70\nsummary')
    assert code == 0
    assert re.search(r"^one +7\d s of +90 s  in time$", said, re.MULTILINE)


def test_a_stage_that_fails_ends_the_run_at_once() -> None:
    code, said = run_stages('stage "one" 60 false\nstage "two" 60 later 1\nsummary')
    assert code == 1
    assert "two" not in said


def test_the_stages_have_their_budgets() -> None:
    """All together stay below the half hour that a change waits at most."""
    text = (ROOT / ".ci/run").read_text(encoding="utf-8")
    stages = [line.split('"')[1:] for line in text.splitlines() if line.startswith("stage ")]
    budgets = {name: int(rest.split()[0]) for name, rest in stages}
    assert budgets == {"default suite": 240, "exhaustive": 600, "oldest redis-py": 120, "the rest": 240}
    assert sum(budgets.values()) < 30 * 60
