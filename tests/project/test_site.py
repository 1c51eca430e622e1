"""The site of the documentation has every page of ``docs/``, links that lead on, and the whole interface."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

import runstream
from runstream.cli import app
from tests.support.made_pages import commands_page
from tests.support.site import FROM_ELSEWHERE, ROOT, api_page, first_sentence, with_links_of_the_site

MADE = {*FROM_ELSEWHERE.values(), "command-line.md", "api.md"}
PAGES = {path.name for path in (ROOT / "docs").glob("*.md")} | MADE


def sources() -> Iterator[str]:
    """Where the pages are in the repository that a person has written."""
    yield from FROM_ELSEWHERE
    yield from (f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))


def test_every_page_is_listed_once() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert sorted(re.findall(r"([\w-]+\.md)$", nav, re.MULTILINE)) == sorted(PAGES)


@pytest.mark.parametrize("source", sorted(sources()))
def test_the_links_of_a_page_lead_to_what_the_site_has(source: str) -> None:
    text = with_links_of_the_site((ROOT / source).read_text(encoding="utf-8"), source)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*") if path.is_file()}
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", prose):
        assert link in there | MADE, link


def test_a_link_becomes_that_of_the_site_or_the_name_of_the_file() -> None:
    text = (
        "[a](../README.md#try-it) [`b`](../src/x.py) [c](web.md) [d](https://x) [e](#f)\n```sh\n[g](../h)\n```\n"
    )
    assert with_links_of_the_site(text, "docs/values.md") == text.replace("../README.md", "index.md").replace(
        "[`b`](../src/x.py)", "`b`"
    )
    assert with_links_of_the_site("![a](docs/web/run.png)", "README.md") == "![a](web/run.png)"
    assert with_links_of_the_site("[a](a_b.py)", "examples/README.md") == "[a](#a_bpy)"


def test_all_that_is_public_is_on_the_page_about_the_interface_once() -> None:
    named = [
        name.removeprefix("connect.") for name in re.findall(r"^::: runstream\.(.*)$", api_page(), re.MULTILINE)
    ]
    assert sorted(named) == sorted(runstream.__all__)


def test_every_command_is_on_its_page_with_its_options() -> None:
    text = commands_page()
    group = get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]  # typer's own classes do not show it
        part = text.partition(f"## runstream {name}\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            assert parameter.hidden or parameter.param_type_name == "argument" or parameter.opts[0] in part
        assert f"runstream {name}" in part


def test_the_index_for_models_tells_each_page_in_a_sentence() -> None:
    assert (
        first_sentence("# Title\n\nOne [link](a.md) and\n`code`. Another one.\n\nMore.") == "One link and `code`."
    )
    for source in sources():
        text = Path(ROOT / source).read_text(encoding="utf-8")
        assert 20 < len(first_sentence(text)) < 300, source
