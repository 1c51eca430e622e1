"""Draw where a run comes from, and what was forked from it."""

from __future__ import annotations

from collections.abc import Iterator

from runstream.model.results import Fork, RunInfo

__all__ = ["branch_rows"]


def branch_rows(info: RunInfo, ancestors: list[Fork], forks: list[Fork]) -> Iterator[tuple[str, int | None]]:
    """The lines of the drawing: a run in each, and the offset at which it parts from the one above it."""
    at: int | None = None
    for depth, ancestor in enumerate(reversed(ancestors)):
        yield _line(depth, ancestor.run_id), at
        at = ancestor.at
    yield f"{_line(len(ancestors), info.run_id)} *", at
    for number, fork in enumerate(forks, 1):
        yield _line(len(ancestors) + 1, fork.run_id, is_last=number == len(forks)), fork.at


def _line(depth: int, run_id: str, *, is_last: bool = True) -> str:
    return f"{'   ' * (depth - 1)}{'└─ ' if is_last else '├─ '}{run_id}" if depth else run_id
