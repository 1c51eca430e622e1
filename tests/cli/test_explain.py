"""``runstream explain`` has a text for every error, and every error that ends a command names it."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from typer.main import get_command

from runstream import StoreUnavailable
from runstream.cli import app
from runstream.cli.support.error_texts import explanation_of, explanations
from runstream.model import errors
from tests.support.commands import run
from tests.support.made_pages import DOCS, errors_page

NAMES = list(explanations())


def test_every_public_error_is_explained_and_nothing_else() -> None:
    assert sorted(NAMES) == sorted(errors.__all__)
    for one in explanations().values():
        assert min(map(len, (one.when, one.why, one.what_to_do, one.summary))) > 20, one.name
        assert not any("**" in text for text in (one.when, one.why, one.what_to_do)), one.name


def test_the_attributes_of_an_error_are_those_that_it_takes() -> None:
    for name, one in explanations().items():
        taken = [each.name for each in inspect.signature(getattr(errors, name).__init__).parameters.values()]
        own = {fact for fact in taken if fact not in {"self", "message", "args", "kwargs", "path"}}
        assert own <= set(one.facts), name


def test_every_command_in_the_texts_is_one() -> None:
    """And every error that they name."""
    group: Any = get_command(app)
    texts = " ".join(" ".join((one.when, one.why, one.what_to_do)) for one in explanations().values())
    commands = re.findall(r"`runstream (\w+)", texts)
    assert len(commands) > 10
    assert set(commands) <= set(group.commands)
    assert set(re.findall(r"`([A-Z]\w+(?:Error|Lost|Held|Unavailable))`", texts)) <= set(NAMES)


def test_the_page_of_errors_is_what_the_command_says() -> None:
    """If it is not: ``python -m tests.support.made_pages``."""
    assert (DOCS / "errors.md").read_text(encoding="utf-8") == errors_page()


@pytest.mark.parametrize("name", ["LeaseLost", "leaselost", "runstream.model.errors.kinds.LeaseLost"])
def test_an_error_is_explained_by_its_name(name: str) -> None:
    """As it is written, in a traceback too."""
    said = run("explain", name)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("LeaseLost\n\nThe lease under which")
    words = " ".join(said.out.split())
    one = explanations()["LeaseLost"]
    assert all(f"{at}: {text}" in words for at, text in (("When", one.when), ("What to do", one.what_to_do)))
    assert run("explain", name, "--json").document["why"] == one.why


def test_all_errors_are_listed_without_a_name() -> None:
    said = run("explain")
    assert [line.split()[0] for line in said.out.splitlines()[1:]] == NAMES
    assert [one["name"] for one in run("explain", "--json").document] == NAMES


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    said = run("explain", "LeaseLots")
    assert said.code == 2
    assert "LeaseLost" in said.err
    assert "lists all" in run("explain", "Zzz").err


def test_an_error_that_ends_a_command_says_where_it_is_explained() -> None:
    """One of the command line's own, which says all itself, does not; one that derives from a public one does."""
    said = run("runs", "--url", "sqlite:/nowhere/archive.db")
    assert said.err.endswith(" [runstream explain ConfigurationError]\n")
    assert "explain" not in run("show", "nobody", "--url", "fake:nobody").err

    class Gone(StoreUnavailable):
        pass

    found = explanation_of(Gone("away"))
    assert found is not None
    assert found.name == "StoreUnavailable"
    assert explanation_of(OSError()) is None
