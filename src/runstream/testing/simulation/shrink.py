"""Make a failing history as ordinary as it can be while it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["shrink"]


def shrink(choices: Sequence[int], fails: Callable[[Sequence[int]], bool], most_tries: int = 400) -> list[int]:
    """Find choices with fewer extraordinary ones that fail still.

    Args:
        choices: Choices that fail.
        fails: Whether others do.
        most_tries: How many are tried.

    Returns:
        The choices; a 0 is the ordinary one.
    """
    best, tries = list(choices), 0
    size = len(best)
    while size >= 1 and tries < most_tries:
        at = len(best) - size
        while at > -size and tries < most_tries:
            begin = max(at, 0)
            part = best[begin : at + size]
            if any(part):
                tries += 1
                tried = best[:begin] + [0] * len(part) + best[at + size :]
                if fails(tried):
                    best = tried
            at -= size
        size //= 2
    while best and best[-1] == 0:
        best.pop()
    return best
