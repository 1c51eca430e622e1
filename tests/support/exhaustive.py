"""Which combinations of parameters the default suite tries, the others being exhaustive; how long games are."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["ROUNDS", "mark_exhaustive"]

ROUNDS = int(os.environ.get("RUNSTREAM_TEST_ROUNDS", "1"))
"""``RUNSTREAM_TEST_ROUNDS=7`` plays so many times as long what the exhaustive tests have little time for."""


def mark_exhaustive(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Of each test that is marked ``one_in(count)``, mark all combinations exhaustive but one in so many.

    Returns: The exhaustive combinations that there is no time for, of tests that are marked with an
    ``exhaustively`` too: all but one in so many, unless more rounds are played (see :data:`ROUNDS`).

    The positions of a combination's values, each among all values of its parameter, add up to a multiple of the
    count where it stays: so each value of a parameter stays, where the others have as many combinations as the
    count says, and meets many values of the others.
    """
    left: list[pytest.Item] = []
    values: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
    for item in items:
        mark = item.get_closest_marker("one_in")
        if mark is None:
            continue
        assert isinstance(item, pytest.Function)
        test = item.nodeid.partition("[")[0]
        positions = [_position(values[test, name], value) for name, value in item.callspec.params.items()]
        if sum(positions) % mark.args[0] != 0:
            item.add_marker(pytest.mark.exhaustive)
        if (
            ROUNDS == 1
            and item.get_closest_marker("exhaustive")
            and sum(positions) % mark.kwargs.get("exhaustively", 1)
        ):
            left.append(item)
    return left


def _position(values: list[Any], value: Any) -> int:
    """Where the value lies among those that were seen; a new one lies behind them."""
    if value not in values:
        values.append(value)
    return values.index(value)
