"""The page about sizing has what its benchmark measures, and calculates with it."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from tests.project.test_project import ROOT
from tests.support.servers import needs_embedded_server

PAGE = (ROOT / "docs/sizing.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The rows of the first table of a section, without those that name its columns."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


BYTES = {what: number(size) for what, size, *_ in rows("Bytes in Redis")}


@pytest.fixture
def sizing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module("sizing")


def test_the_page_has_a_row_for_each_thing_that_is_measured(sizing: Any) -> None:
    assert list(BYTES) == list(sizing.THINGS)


QUICK = ["an event with 150 bytes of payload", "a run with one event that is not archived"]
LONGER = [what for what in BYTES if what not in QUICK]
IN_STEPS = ["a lane that has ended, archived", "a process that has written to a run", "a lease on a lane"]
"""What lies in tables of the server that double now and then: of fewer another part is empty."""


@needs_embedded_server
@pytest.mark.parametrize("what", [*QUICK, *(pytest.param(what, marks=pytest.mark.exhaustive) for what in LONGER)])
def test_each_thing_takes_what_the_page_says(sizing: Any, what: str) -> None:
    """Of a fifth as many, or of all, within a third of it and 40 bytes."""
    thing = sizing.THINGS[what]
    count = thing.count if what in IN_STEPS else thing.count // 5
    with sizing.bench_server(*sizing.OPTIONS) as (client, directory):
        found = sizing.bytes_for_each(client, directory, thing, count)
    assert found == pytest.approx(BYTES[what], rel=0.33, abs=40)


def test_the_spread_of_partitions_is_that_of_their_slots(sizing: Any) -> None:
    for partitions, shards, *said in rows("Partitions"):
        count, of = int(number(partitions)), int(shards)
        found = sizing.by_shard("runstream", count, of)
        assert said == [str(min(found)), str(max(found)), f"{max(found) * of / count:.2f}"]


def test_the_sums_of_the_example_are_right() -> None:
    """Each row is so many of a row of the first table; what comes of them is in the text below."""
    *parts, (_, _, _, total) = rows("An example: a million active runs on 100 shards")
    for what, count, each, together in parts:
        assert number(each) == BYTES[what]
        assert number(together) == number(count) * number(each)
    per_run = sum(number(together) for *_, together in parts)
    assert number(total.strip("*")) == per_run
    assert f"{per_run * 1e6 / 100 / 1e6:,.0f} MB" in PAGE
    most = max(int(row[3]) for row in rows("Partitions") if (number(row[0]), row[1]) == (4096, "100"))
    assert f"{most / 4096 * 1e6:,.0f} runs" in PAGE
    assert f"{most / 4096 * 1e6 * per_run / 1e6:,.0f} MB" in PAGE
