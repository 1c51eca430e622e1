"""LangGraph's own suite for checkpointers: all of it, over every kind of store, sync and async."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES
from langgraph.checkpoint.conformance.report import ProgressCallbacks

from tests.integrations.langgraph.savers import PLACES, Places

ALL_TESTS = 81


BY_DEFAULT = {
    ("memory", "sync"),
    ("sqlite", "async"),
    ("jsonl", "sync"),
    ("valkey", "async"),
    ("draining", "sync"),
}
PAIRS = [
    pytest.param(name, how, marks=() if (name, how) in BY_DEFAULT else pytest.mark.exhaustive)
    for name, how in product(PLACES, ("sync", "async"))
]


@pytest.mark.parametrize(("name", "how"), PAIRS)
async def test_all_of_langgraphs_suite_passes_and_none_is_left_out(name: str, how: str, places: Places) -> None:
    failed: list[Any] = []

    @checkpointer_test(name=f"{name}-{how}")
    async def saver() -> AsyncIterator[Any]:
        if how == "sync":
            with places.sync(name) as opened:
                yield opened
        else:
            async with places.asynchronous(name) as opened:
                yield opened

    def note(capability: str, test: str, passed: bool, trace: str | None) -> None:
        failed.extend([] if passed else [(capability, test, trace)])

    report = await validate(saver, progress=ProgressCallbacks(on_test_result=note))
    assert not failed
    # one that is not detected counts as passed there
    detected = {name for name, result in report.results.items() if result.detected and result.passed}
    assert detected == {capability.value for capability in ALL_CAPABILITIES}
    assert sum(result.tests_passed for result in report.results.values()) == ALL_TESTS
