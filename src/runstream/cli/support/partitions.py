"""Parse the list of partitions that a worker drains: ``0-3,7``."""

from __future__ import annotations

import re

import typer

from runstream.stores.redis.keys import MAX_PARTITIONS

__all__ = ["parse_partitions"]

_OPTION = "--partitions"
_PART = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?", re.ASCII)


def parse_partitions(text: str) -> frozenset[int]:
    """The numbers in a list of numbers and ranges, ends included. Raises BadParameter for anything else."""
    found: set[int] = set()
    for number, part in enumerate(text.split(","), 1):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise typer.BadParameter(
                f"part {number} of it is neither a number nor a range; for example 0-3,7", param_hint=_OPTION
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise typer.BadParameter(
                f"the range {part.strip()} ends before it begins; write {last}-{first}", param_hint=_OPTION
            )
        if last >= MAX_PARTITIONS:
            raise typer.BadParameter(
                f"partition {last}: a namespace has at most {MAX_PARTITIONS}, from 0 on", param_hint=_OPTION
            )
        found.update(range(first, last + 1))
    return frozenset(found)
