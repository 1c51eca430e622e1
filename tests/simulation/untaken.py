"""The ifs of scripts that the simulation does not take both ways, each with the reason: ``untaken.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from runstream.testing.simulation.coverage import IFS, Taken, never_taken

__all__ = ["GROUPS", "UNTAKEN", "Group", "Way", "told_in_all", "untaken"]

Way: TypeAlias = tuple[str, str, bool]
"""A file, the condition of an if of it, and what that is not in the simulation."""


class Group(NamedTuple):
    """Ifs that are not taken both ways for one reason.

    Attributes:
        why: The reason.
        tests: The tests that do take them, or those of what they are for; each ``FILE`` or ``FILE::NAME``.
        ifs: The ifs, each ``FILE: never true: CONDITION``, or ``never false``, or ``never true or false``.
    """

    why: str
    tests: Sequence[str]
    ifs: Sequence[str]

    def ways(self) -> Iterator[Way]:
        """What is not taken."""
        for one in self.ifs:
            file, never, condition = one.split(": ", 2)
            for way in never.removeprefix("never ").split(" or "):
                yield file, condition, {"true": True, "false": False}[way]


_LISTED = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))

GROUPS: Sequence[Group] = [Group(**group) for group in _LISTED["group"]]
"""The ifs, by reason."""

UNTAKEN: Mapping[Way, str] = {way: group.why for group in GROUPS for way in group.ways()}
"""What is not taken, and why."""


def untaken(taken: Collection[Taken]) -> set[Way]:
    """What was not taken."""
    return {(one.file, one.condition, way) for one in IFS for way in (True, False) if (one, way) not in taken}


def told_in_all(taken: Collection[Taken]) -> str:
    """How many ifs were taken both ways, and how many are listed, in words."""
    listed = sum(any((one.file, one.condition, way) in UNTAKEN for way in (True, False)) for one in IFS)
    return f"ifs of scripts: {len(IFS) - len(never_taken(taken))} of {len(IFS)} taken both ways, {listed} listed"
