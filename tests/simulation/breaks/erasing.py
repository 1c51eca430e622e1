"""Breaks of erasing: content stays, or comes back, or is said to be gone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.simulation.breaks.one import Break, in_script

__all__ = ["OF_ERASING"]


def _forgets_archives(patched: pytest.MonkeyPatch) -> None:
    patched.setattr("runstream.drain.erasing.Erasing._erase_in", lambda *_: "")


def _forgets_what_was_lost(patched: pytest.MonkeyPatch) -> None:
    for module in ("erasing", "sweep"):
        patched.setattr(f"runstream.drain.{module}.ask_for_lost", lambda *_: None)


OF_ERASING: Sequence[Break] = (
    Break(
        "what is erased is copied as it is",
        "erasures",
        in_script("rebuild", ("if first and offset >= tonumber(first) then", "if false then")),
        seed=4,
    ),
    Break(
        "a request takes the number of the last one",
        "erasures",
        in_script("erase", ("number = text(number + 1)", "number = text(math.max(1, number))")),
        seed=2,
    ),
    Break(
        "a truncated run keeps its mark",
        "erasures",
        in_script("erase", ("    change('mark', ARGV[7])\n", "")),
        seed=3,
    ),
    Break(
        "a run is settled of which something is to be erased still",
        "erasures",
        in_script("settle", ("if archived['erased'] ~= meta['erasures'] then return true end", "")),
        seed=21,
    ),
    Break("a worker does not erase in archives", "erasures", _forgets_archives, seed=3),
    Break("what was lost of erasures is not asked for again", "lost erasures", _forgets_what_was_lost, seed=129),
)
