"""What is found of a server: what it is, how much that matters, and what is to be changed."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

__all__ = ["Finding", "Severity"]


class Severity(IntEnum):
    """How much a finding matters; the greater, the more."""

    OK = 0
    NOTE = 1
    WARNING = 2
    ERROR = 3

    def __str__(self) -> str:
        return self.name.lower()


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        check: What was looked at; the name stays the same.
        severity: How much it matters.
        found: What it is.
        without: What happens as long as it stays so; "" where all is well.
        mends: The lines that mend it: commands for the server, or else what a person does.
    """

    check: str
    severity: Severity
    found: str
    without: str = ""
    mends: Sequence[str] = ()
