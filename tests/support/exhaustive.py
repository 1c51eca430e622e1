"""Which combinations of parameters the default suite tries, the others being exhaustive; how long games are."""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["ROUNDS", "TURNS", "mark_exhaustive", "marker_of"]

ROUNDS = int(os.environ.get("RUNSTREAM_TEST_ROUNDS", "1"))
"""``RUNSTREAM_TEST_ROUNDS=7`` plays so many times as long what the exhaustive tests have little time for."""

TURNS = 6
"""In how many parts the kinds are divided of which each test is tried on one part."""


def mark_exhaustive(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Of each test that is marked ``one_in(count)``, mark all combinations exhaustive but one in so many.

    Returns: The exhaustive combinations that there is no time for, unless more rounds are played (see
    :data:`ROUNDS`): of these tests all but one in half as many, or in what their ``exhaustively`` says; of
    those on kinds that take turns (``exhaustive(turn=…)``), the kinds whose turn it is not in the test.

    The positions of a combination's values, each among all values of its parameter, add up to a multiple of the
    count where it stays: so each value of a parameter stays, where the others have as many combinations as the
    count says, and meets many values of the others.
    """
    left: list[pytest.Item] = []
    values: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
    for item in items:
        test, mark, position = item.nodeid.partition("[")[0], marker_of(item, "one_in"), 0
        if mark is not None:
            assert isinstance(item, pytest.Function)
            position = sum(_position(values[test, name], value) for name, value in item.callspec.params.items())
            if position % mark.args[0] != 0:
                item.add_marker(pytest.mark.exhaustive)
        if ROUNDS == 1 and marker_of(item, "exhaustive"):
            most = 1 if mark is None else mark.kwargs.get("exhaustively", (mark.args[0] + 1) // 2)
            if position % most != 0 or not _is_its_turn(item, zlib.crc32(test.encode()) % TURNS):
                left.append(item)
    return left


def marker_of(item: pytest.Item, name: str) -> pytest.Mark | None:
    """The closest mark of that name. To ask ``get_closest_marker`` takes long where there is none."""
    return item.get_closest_marker(name) if name in item.keywords else None


def _is_its_turn(item: pytest.Item, turn: int) -> bool:
    """Whether it is the turn of the kind of store that an exhaustive test is on, if kinds take turns there."""
    return all(mark.kwargs.get("turn", turn) == turn for mark in item.iter_markers("exhaustive"))


def _position(values: list[Any], value: Any) -> int:
    """Where the value lies among those that were seen; a new one lies behind them."""
    if value not in values:
        values.append(value)
    return values.index(value)
