"""The rules of the history of snapshots: which snapshots an archive keeps, and which one fits an offset. Pure.

An archive keeps each snapshot beside the latest one, under its token. A snapshot that replaced another
comes after it, whatever the two cover.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from runstream.model.archive_records import Position
from runstream.model.errors import ConfigurationError, CorruptRecordError
from runstream.model.run_head import SnapshotHead
from runstream.operations.arguments import check_count

__all__ = [
    "KEPT_SNAPSHOTS",
    "UNKNOWN",
    "KeepSnapshots",
    "KeptSnapshot",
    "check_keep",
    "count_kept",
    "latest_of",
    "nearest",
    "sound",
    "tokens_before_cut",
]

KEPT_SNAPSHOTS = 20
"""How many snapshots of each run, and of each of its lanes, an archive keeps if nobody asks for another number."""

KeepSnapshots: TypeAlias = int | Literal["all"]
"""How many snapshots of each run, and of each of its lanes, to keep."""


def check_keep(keep: object) -> None:
    """Raise ConfigurationError for what is no number of snapshots to keep."""
    if keep not in (None, "all"):
        try:
            check_count("keep_snapshots", keep)
        except ConfigurationError as error:
            raise ConfigurationError(f"{error}; or 'all'") from None


def count_kept(keep: KeepSnapshots | None, otherwise: int | None) -> int | None:
    """How many snapshots to keep (None: all), if that was asked for, and ``otherwise`` if nothing was."""
    if keep is None:
        return otherwise
    return None if keep == "all" else keep


class KeptSnapshot(NamedTuple):
    """A snapshot in an archive's history. ``stored_at`` is where the medium has it; None: as the latest one.

    ``damage`` is why what is noted of it does not read: nothing else of it is known then but its turn.
    """

    head: SnapshotHead
    stored_at: Any
    damage: CorruptRecordError | None = None


UNKNOWN = SnapshotHead(None, 0, 0, "")
"""The head of a snapshot of which nothing is known."""


def sound(kept: Iterable[KeptSnapshot]) -> list[KeptSnapshot]:
    """Those of which the facts read. Raises CorruptRecordError where any does not."""
    found = list(kept)
    for one in found:
        if one.damage is not None:
            raise one.damage
    return found


def latest_of(kept: Sequence[KeptSnapshot], count: int | None) -> list[KeptSnapshot]:
    """The latest ``count`` of each lane (None: all), one at least, in the order in which they were saved."""
    if count is None:
        return list(kept)
    left: dict[str | None, int] = {}
    chosen = []
    for one in reversed(kept):
        lane_id = one.head.lane_id
        if one.damage is None:
            left[lane_id] = left.get(lane_id, max(count, 1)) - 1
        if one.damage is not None or left[lane_id] >= 0:
            chosen.append(one)
    return chosen[::-1]


def nearest(kept: Sequence[KeptSnapshot], lane_id: str | None, offset: int) -> list[KeptSnapshot]:
    """Those of the lane that cover at most this offset: the one that covers most first, of equal ones the last.

    Raises CorruptRecordError where one that was saved after the first of these does not read: it may be the one.
    """
    fitting = [
        (one.head.offset, turn)
        for turn, one in enumerate(kept)
        if one.damage is None and one.head.lane_id == lane_id and one.head.offset <= offset
    ]
    fitting.sort(reverse=True)
    sound(kept[fitting[0][1] if fitting else 0 :])
    return [kept[turn] for _, turn in fitting]


def tokens_before_cut(
    history: Sequence[SnapshotHead], latest: Mapping[str | None, str], to: Position, common: int
) -> list[str]:
    """The tokens of the snapshots that stay when a run is cut back to ``to``: those of the history that is kept.

    Of what covers no more than ``common``, a lane keeps all up to the snapshot that ``to`` names; where the
    history lacks that one, all but the archive's own latest; and nothing where ``to`` names none.

    Args:
        history: The snapshots that are kept, in the order in which they were saved.
        latest: The tokens of the archive's own latest ones, by lane.
        to: The position to cut back to.
        common: The offset up to which both histories are one.
    """
    saved_as = {head.token: number for number, head in enumerate(history)}
    kept = []
    for number, head in enumerate(history):
        stays = to.snapshots.get(head.lane_id)
        if stays is None or head.offset > common:
            continue
        if number <= saved_as[stays] if stays in saved_as else head.token != latest.get(head.lane_id):
            kept.append(head.token)
    return kept
