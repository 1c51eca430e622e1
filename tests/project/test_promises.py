"""docs/promises.md: each promise of the README has tests that there are, by default and exhaustively."""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

import pytest

from tests.support.collected import ROOT, collect

README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")


class Promise(NamedTuple):
    """A row of the table."""

    name: str
    by_default: list[str]
    exhaustively: list[str]


def rows(text: str) -> list[list[str]]:
    """The cells of each row of a table that begins with a promise's number."""
    lines = [line for line in text.splitlines() if re.match(r"\| P\d+ \|", line)]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def names_in(cell: str) -> list[str]:
    """What a cell names: files, or functions of them."""
    return re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", cell)


PROMISES = [
    Promise(name, names_in(by_default), names_in(exhaustively))
    for name, _, by_default, exhaustively in rows(TABLE)
]


def test_the_table_has_the_promises_of_the_readme() -> None:
    """In its order; the README says where the table is."""
    assert [promise.name for promise in PROMISES] == [row[0] for row in rows(README)]
    assert len(PROMISES) >= 12
    assert "(docs/promises.md)" in README


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
def test_what_proves_a_promise_is_there(promise: Promise) -> None:
    """Each file and function; and no cell has a name of another form."""
    assert promise.by_default
    for test in promise.by_default + promise.exhaustively:
        path, _, name = test.partition("::")
        module = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        functions = {node.name for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert [function for function in functions if function.startswith("test_")], path
        assert not name or name in functions, test
    (row,) = (row for row in rows(TABLE) if row[0] == promise.name)
    named = "".join(row[2:]).count("`") // 2
    assert named == len(promise.by_default) + len(promise.exhaustively)


@pytest.mark.exhaustive  # all that is named is collected anew
def test_each_promise_is_proven_by_default_and_what_is_exhaustive_is_marked() -> None:
    """A test that is named under one heading is collected there, in the one form or in the other."""
    named = {test for promise in PROMISES for test in promise.by_default + promise.exhaustively}
    collected: dict[bool, set[str]] = {False: set(), True: set()}
    for test, is_exhaustive in collect(*sorted({test.partition("::")[0] for test in named})).items():
        function = test.partition("[")[0]
        collected[is_exhaustive] |= {function, function.partition("::")[0]}
    assert {test for promise in PROMISES for test in promise.by_default} - collected[False] == set()
    assert {test for promise in PROMISES for test in promise.exhaustively} - collected[True] == set()
