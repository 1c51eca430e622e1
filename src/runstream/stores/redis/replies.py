"""Replies in one shape, whichever protocol brought them: RESP2 has no maps, RESP3 has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from runstream.model.results import Cursor

__all__ = [
    "Retired",
    "as_map",
    "known_place",
    "offset_of",
    "parse_info",
    "place",
    "records_of",
    "retired_of",
    "scored",
]


def as_map(reply: Any) -> dict[bytes, bytes]:
    """A hash."""
    if isinstance(reply, Mapping):
        return dict(reply)
    flat = iter(reply)
    return dict(zip(flat, flat, strict=True))


def parse_info(reply: bytes | str) -> dict[str, str]:
    """What INFO tells, by name."""
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value for name, colon, value in pairs if colon}


def scored(reply: Any) -> list[tuple[str, int]]:
    """The members of a sorted set with their scores, which are whole microseconds."""
    if reply and isinstance(reply[0], list | tuple):
        pairs = [(member, score) for member, score in reply]
    else:
        flat = iter(reply)
        pairs = list(zip(flat, flat, strict=True))
    return [(member.decode(), int(float(score))) for member, score in pairs]


def place(text: bytes) -> Cursor:
    """A place as meta holds it."""
    offset, _, chain = text.partition(b"-")
    return Cursor(int(offset), int(chain))


known_place = lru_cache(maxsize=1024)(place)
"""As ``place``, for one that comes again: a run's start."""


def offset_of(text: bytes) -> int:
    """The offset of a place as meta holds it."""
    return int(text.partition(b"-")[0])


class Retired(NamedTuple):
    """What is left of a retired run: how often its snapshots had been saved, and up to where it went.

    ``run_revision`` is that of the run's own snapshot, ``lane_revision`` the highest of its lanes', 0 where there
    was none. ``offset`` is the last that was retired; None of a tombstone: all was.
    """

    run_revision: int
    lane_revision: int
    offset: int | None = None

    def had_snapshot(self, lane_id: str | None) -> bool:
        """Whether the run (None) had a snapshot; of a lane, whether any had: which ones is not known any more."""
        return self.revision(lane_id) > 0

    def revision(self, lane_id: str | None) -> int:
        """How often the run's (None) snapshot had been saved; of a lane, the highest that any had."""
        return self.run_revision if lane_id is None else self.lane_revision

    def token(self, lane_id: str | None) -> str:
        """What stands for the token of a snapshot that left Redis; '' if there was none."""
        return f"retired-{self.revision(lane_id)}" if self.had_snapshot(lane_id) else ""


def retired_of(text: bytes | None) -> Retired | None:
    """Meta's field ``retired``; None for a run that was not."""
    return Retired(*map(int, text.split())) if text else None


def records_of(entries: Sequence[Any]) -> list[bytes]:
    """The wire records of stream entries; of an entry with other fields than ours, what it holds."""
    return [fields[1] if len(fields) == 2 and fields[0] == b"e" else b" ".join(fields) for _, fields in entries]
