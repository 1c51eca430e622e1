"""Breaks of forks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from runstream.operations.lineage import Segment
from tests.simulation.breaks.one import Break, in_script

__all__ = ["OF_BRANCHES"]


def _all_of_the_parent(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(Segment, "has", lambda segment, offset: segment.after < offset)


OF_BRANCHES: Sequence[Break] = (
    Break(
        "a fork does not look for keys in what it shares",
        "branches",
        in_script("append", ("and string.match(start, '%d+$') ~= shares_of", "and false")),
        seed=3,
    ),
    Break(
        "a fork that lives on by itself has lost the keys that it shared",
        "branches",
        in_script("detach", ("for i = at_keys, at_lanes - 1, 4000 do", "for i = at_keys, 0, 4000 do")),
        seed=3,
    ),
    Break(
        "a fork is not archived before it has events of its own",
        "branches",
        in_script("fork", ("call('ZADD', KEYS[6], 'NX', created, ARGV[1])\n", "")),
    ),
    Break("a fork knows keys that its parent has got since", "branches", _all_of_the_parent, seed=2),
)
