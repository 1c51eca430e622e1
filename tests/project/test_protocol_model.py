"""docs/protocol.pml holds, can fail, and is what docs/protocol.md says of it."""

from __future__ import annotations

import re

import pytest

from tests.support.collected import ROOT
from tests.support.model_check import BREAKS, LARGEST, MODEL, QUICK, SIZES, WHY_NOT, Size, check

needs_spin = pytest.mark.skipif(WHY_NOT != "", reason=WHY_NOT or "spin is there")

PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "src" / "runstream"


@needs_spin
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(size, marks=[] if size == QUICK else pytest.mark.exhaustive, id="-".join(map(str, size)))
        for size in SIZES
    ],
)
def test_the_protocol_keeps_its_promises(size: Size) -> None:
    """In every state; and the sizes that have all of its parts reach every statement."""
    found = check(size)
    assert (found.errors, found.broken) == (0, "")
    assert found.states > 1_000_000
    if size.faults:
        assert found.unreached <= {"init: (run worker())"}


@pytest.mark.exhaustive
@needs_spin
@pytest.mark.one_in(6)
@pytest.mark.parametrize(("macro", "promise"), BREAKS.items())
def test_without_a_check_a_promise_is_broken(macro: str, promise: str) -> None:
    """That very one: no check is there for nothing, and no assertion holds of everything."""
    assert check(QUICK, macro).broken == promise


def test_the_page_names_the_macros_of_the_model_and_what_they_break() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (P\d+) \|$", PAGE, re.MULTILINE)
    assert dict(rows) == BREAKS
    assert set(re.findall(r"^#ifn?def (\w+)", MODEL.read_text("utf-8"), re.MULTILINE)) == BREAKS.keys()


def test_the_page_names_the_sizes_that_are_checked() -> None:
    named = re.findall(r"^\| `EVENTS=(\d) FAULTS=(\d) WORKERS=(\d)` ", PAGE, re.MULTILINE)
    assert [Size(*map(int, row)) for row in named] == [*SIZES, LARGEST]


def test_the_model_can_be_read_at_once() -> None:
    lines = MODEL.read_text("utf-8").splitlines()
    assert len(lines) <= 250
    assert max(map(len, lines)) <= 115


def test_what_upholds_an_assumption_is_there() -> None:
    """Each function that the page names after a file is defined there."""
    table = PAGE[PAGE.index("| assumption | upheld by |") : PAGE.index("### Limits")]
    named = re.findall(r"`([\w/]+\.(?:py|lua))`(?: \(([^)]*)\))?", table)
    assert len(named) >= 15
    for path, words in named:
        source = (PACKAGE / path).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", words):
            is_made = re.search(rf"\b(?:def|class|function|local) {name}\b|= {name}\(", source)
            assert is_made, f"{name} in {path}"
