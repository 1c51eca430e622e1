"""Read how long ago something was, as a person writes it."""

from __future__ import annotations

import re

__all__ = ["age_seconds"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])")


def age_seconds(text: str, units: str = "smhdw") -> float | None:
    """The seconds of an age such as ``90s`` or ``2d``, in one of these units; None for what is none."""
    found = _AGE.fullmatch(text)
    return float(found[1]) * _SECONDS[found[2]] if found is not None and found[2] in units else None
