"""What a store object knows of its runs: never more than it was told."""

from __future__ import annotations

import pytest

from runstream.model.run_head import RunStart
from runstream.operations.coverage import CoverageBook

A, B = RunStart(0, 1), RunStart(0, 2)


@pytest.mark.parametrize(
    ("run_id", "lane_id", "start", "before", "lane_before", "of_run", "of_lane"),
    [
        ("r", "main", A, 2, 2, 3, 3),
        ("r", "main", A, 4, 2, 2, 5),  # others' events of another lane lie between
        ("r", "main", A, 3, 3, 2, 2),
        ("r", "a", A, 2, 0, 3, 2),
        ("other", "main", A, 2, 2, 2, 2),
        ("r", "main", B, 2, 2, 0, 0),  # deleted and created anew
    ],
)
def test_an_append_that_does_not_go_on_from_the_one_before_is_noted_for_what_it_is(
    run_id: str, lane_id: str, start: RunStart, before: int, lane_before: int, of_run: int, of_lane: int
) -> None:
    """What it makes the run r, and its lane main, cover."""
    book = CoverageBook()
    book.appended_one("r", "main", A, 0, 0)
    book.appended_one("r", "main", A, 1, 1)
    book.appended_one(run_id, lane_id, start, before, lane_before)
    assert book.covered("r", None).offset == of_run
    assert book.covered("r", "main").offset == of_lane


def test_what_is_forgotten_does_not_come_back_with_what_is_noted_later() -> None:
    """The stretch that was open is forgotten with the rest."""
    book = CoverageBook()
    for offset in range(3):
        book.appended_one("r", "main", A, offset, offset)
    book.forget("r")
    book.appended_one("other", "main", A, 0, 0)
    assert book.covered("r", None) == (0, None)
