"""Parse replies of the server, from RESP2, which has no maps, and RESP3 alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from runstream.model.results import Cursor

__all__ = [
    "Peak",
    "Retired",
    "parse_cursor",
    "parse_info",
    "parse_map",
    "parse_offset",
    "parse_parent",
    "parse_peak",
    "parse_records",
    "parse_retired",
    "parse_scores",
    "parse_start",
]


def parse_map(reply: Any) -> dict[bytes, bytes]:
    """Parse the fields and values of a hash."""
    if isinstance(reply, Mapping):
        return dict(reply)
    flat = iter(reply)
    return dict(zip(flat, flat, strict=True))


def parse_info(reply: bytes | str) -> dict[str, str]:
    """Parse the reply to INFO: values by name."""
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value for name, colon, value in pairs if colon}


def parse_scores(reply: Any) -> list[tuple[str, int]]:
    """Parse the members of a sorted set with their scores, which are whole microseconds."""
    if reply and isinstance(reply[0], list | tuple):
        pairs = [(member, score) for member, score in reply]
    else:
        flat = iter(reply)
        pairs = list(zip(flat, flat, strict=True))
    return [(member.decode(), int(float(score))) for member, score in pairs]


def parse_cursor(text: bytes) -> Cursor:
    """Parse a cursor: an entry's id, or a field of meta."""
    offset, _, chain = text.partition(b"-")
    return Cursor(int(offset), int(chain))


parse_start = lru_cache(maxsize=1024)(parse_cursor)
"""As ``parse_cursor``, for the start of a run: each of its replies has the same one."""


def parse_offset(text: bytes) -> int:
    """Parse only the offset of a cursor."""
    return int(text.partition(b"-")[0])


def parse_parent(text: bytes | None) -> tuple[str, int] | None:
    """Parse meta's field ``parent``, ``OFFSET:RUN``: the run that a run is a branch of, and where it parts."""
    if not text:
        return None
    offset, _, run_id = text.decode().partition(":")
    return run_id, int(offset)


class Peak(NamedTuple):
    """Meta's field ``peak``: the highest ``seq`` of the events up to an offset, which have all left Redis."""

    offset: int
    seq: int


def parse_peak(meta: Mapping[bytes, bytes]) -> Peak | None:
    """Parse meta's field ``peak``; None where there is none."""
    text = meta.get(b"peak")
    return Peak(*map(int, text.split())) if text else None


class Retired(NamedTuple):
    """Meta's field ``retired``: what is left of a retired run's snapshots.

    Attributes:
        run_revision: The revision of the run's own snapshot; 0 if there was none.
        lane_revision: The highest revision of its lanes' snapshots; 0 if there was none.
        offset: The last offset that was retired; None in a tombstone, where all of the run was.
    """

    run_revision: int
    lane_revision: int
    offset: int | None = None

    def had_snapshot(self, lane_id: str | None) -> bool:
        """Whether the run (None) had a snapshot; for a lane, whether any lane had: which ones is not kept."""
        return self.revision(lane_id) > 0

    def revision(self, lane_id: str | None) -> int:
        """The revision of the run's (None) snapshot; for a lane, the highest of any lane's."""
        return self.run_revision if lane_id is None else self.lane_revision

    def token(self, lane_id: str | None) -> str:
        """The token that stands for a snapshot that left Redis; '' if there was none."""
        return f"retired-{self.revision(lane_id)}" if self.had_snapshot(lane_id) else ""


def parse_retired(text: bytes | None) -> Retired | None:
    """Parse meta's field ``retired``; None for a run that was not retired."""
    return Retired(*map(int, text.split())) if text else None


def parse_records(entries: Sequence[Any]) -> list[bytes]:
    """The wire records of stream entries; for an entry with other fields than ours, all that it holds."""
    return [fields[1] if len(fields) == 2 and fields[0] == b"e" else b" ".join(fields) for _, fields in entries]
