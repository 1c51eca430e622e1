"""Runs are listed by their tags and since when they were updated, and a run is shown with its tags."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runstream import connect
from tests.support.commands import run
from tests.support.samples import make_event


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:{tmp_path}/a.db"
    with connect(url) as store:
        store.append("r1", [make_event("r1", 1)], tags={"user": "42", "env": "a=b"})
        store.append("r2", [make_event("r2", 1)], tags={"user": "42"})
        store.append("r3", [make_event("r3", 1)])
    return url


def listed(url: str, *options: str) -> list[str]:
    said = run("runs", "--url", url, "--json", *options)
    assert said.code == 0, said.err
    return [one["run_id"] for one in said.document["runs"]]


def test_runs_are_listed_by_tags_and_age(url: str) -> None:
    assert listed(url, "--tag", "user=42") == ["r2", "r1"]
    assert listed(url, "--tag", "user=42", "--tag", "env=a=b", "--since", "2d") == ["r1"]
    assert listed(url, "--tag", "user=") == []
    assert listed(url, "--since", "1w") == ["r3", "r2", "r1"]
    time.sleep(0.02)
    assert listed(url, "--since", "0.01s") == []


def test_the_tags_of_a_run_are_shown(url: str) -> None:
    assert run("show", "r1", "--url", url, "--json").document["run"]["tags"] == {"user": "42", "env": "a=b"}
    assert "env=a=b, user=42" in run("show", "r1", "--url", url).out
    assert "env=a=b, user=42" in run("runs", "--url", url, "--wide").out
    assert "tags" not in run("show", "r3", "--url", url).out


@pytest.mark.parametrize(
    "options",
    [["--tag", "user"], ["--tag", "=42"], ["--tag", "a=1", "--tag", "a=2"], ["--since", "2"], ["--since", "x1d"]],
    ids=" ".join,
)
def test_what_cannot_be_asked_is_refused_by_name(url: str, options: list[str]) -> None:
    said = run("runs", "--url", url, *options)
    assert said.code == 2
    assert options[0] in said.err
