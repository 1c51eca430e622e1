"""The history of snapshots: which of those that it saw an archive keeps, and which one an offset asks for. Pure.

An archive keeps each snapshot beside the latest one, under its token. A snapshot that took the place of another
comes after it, whatever the two cover.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from runstream.model.archive_records import Position
from runstream.stores.local.append_plan import SavedSnapshot

__all__ = ["KeptSnapshot", "latest_of", "nearest", "tokens_before_cut"]


class KeptSnapshot(NamedTuple):
    """A snapshot in an archive's history. ``place`` says where the medium has it; None: it is the latest one's."""

    saved: SavedSnapshot
    place: Any


def latest_of(kept: Sequence[KeptSnapshot], count: int | None) -> list[KeptSnapshot]:
    """The latest so many of each lane (None: all), one at least, in the order in which they were saved."""
    if count is None:
        return list(kept)
    left: dict[str | None, int] = {}
    chosen = []
    for one in reversed(kept):
        lane_id = one.saved.lane_id
        left[lane_id] = left.get(lane_id, max(count, 1)) - 1
        if left[lane_id] >= 0:
            chosen.append(one)
    return chosen[::-1]


def nearest(kept: Sequence[KeptSnapshot], lane_id: str | None, offset: int) -> list[KeptSnapshot]:
    """Those of the lane that cover at most this offset: the one that covers most first, of equal ones the last."""
    fitting = [one for one in kept if one.saved.lane_id == lane_id and one.saved.offset <= offset]
    return sorted(fitting, key=lambda one: one.saved.offset)[::-1]


def tokens_before_cut(
    history: Sequence[SavedSnapshot], latest: Mapping[str | None, str], to: Position, common: int
) -> list[str]:
    """The tokens of those that stay when a run is cut back to ``to``: the kept history has seen them.

    ``latest`` are the archive's own latest tokens; up to the offset ``common`` both histories are one. Of what
    covers no more, a lane keeps all up to the snapshot that ``to`` names; where the history has not that one, all
    but the archive's own latest; and nothing where ``to`` names none.
    """
    places = {saved.token: place for place, saved in enumerate(history)}
    kept = []
    for place, saved in enumerate(history):
        stays = to.snapshots.get(saved.lane_id)
        if stays is None or saved.offset > common:
            continue
        if place <= places[stays] if stays in places else saved.token != latest.get(saved.lane_id):
            kept.append(saved.token)
    return kept
