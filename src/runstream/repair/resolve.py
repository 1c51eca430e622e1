"""Two histories of one run: which is to be the run's, and under which name the other one is kept.

Redis can come back from a failover behind an archive, with or without new events on top, and a run can be
lost and made anew. A person decides. Nothing is deleted: the branch that gives way is first kept in every
archive as a run of its own, proven there, and only then taken out of the run. Killed at any point, the
same call goes on from where it was: each step finds what has been done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from shlex import quote
from typing import Any, Literal, TypeAlias

from runstream.codec.archive_entries import entry_fields
from runstream.codec.event_codec import EventFields
from runstream.history.hot import PAGE, ArchivedHistory, History, HotHistory, Parting, parting
from runstream.model.archive_records import ArchiveEntry, Position
from runstream.model.errors import ArchiveGap, ConcurrencyConflict, ConfigurationError, HistoryDiverged
from runstream.model.protocols import MendableSink
from runstream.model.results import Cursor
from runstream.repair.branches import keep_branch
from runstream.repair.restore import restore_run
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.operations.admin import restore
from runstream.stores.redis.operations.client import append
from runstream.stores.redis.operations.worker import drain

__all__ = ["Histories", "Keep", "Resolution", "Side", "look", "resolve"]

Keep: TypeAlias = Literal["archive", "redis", "both"]
"""Which history is to be the run's. ``"both"``: Redis's, with what only the archive's has appended to it again."""

_ATTEMPTS = 10  # at appending to a run that others write to
_HELD_SECONDS = 300.0

Hot: TypeAlias = RedisCheckpointer[Any, Any]


@dataclass(frozen=True, slots=True)
class Side:
    """What one archive has of the run, and where that parts from what Redis has (None: nothing in common)."""

    history: ArchivedHistory
    parting: Parting | None

    @property
    def has_parted(self) -> bool:
        """Whether it has events that Redis's history has not. One that is merely behind has none."""
        if self.parting is None:
            return True
        return self.parting.place != self.history.last and (self.parting.exact or self.parting.differ)

    @property
    def start(self) -> Cursor:
        """The place after which its own branch begins."""
        return self.history.header.start if self.parting is None else self.parting.place


@dataclass(frozen=True, slots=True)
class Histories:
    """A run as Redis and as each archive has it; an archive that does not have it is in ``without``."""

    redis: HotHistory
    sides: Sequence[Side]
    without: Sequence[MendableSink] = ()

    @property
    def parted(self) -> list[Side]:
        """The archives that have what Redis's history has not, the one with the longest history first."""
        return sorted(
            (side for side in self.sides if side.has_parted), key=lambda side: side.history.last, reverse=True
        )


@dataclass(slots=True)
class Resolution:
    """What resolving did: under which names branches are kept, how many events were put back where."""

    branches: list[str] = field(default_factory=list)
    restored: int = 0
    """Entries that Redis has of the run after it was made what the archive says."""
    appended: int = 0
    """Events of the archive's branch that were appended to the run in Redis once more."""
    unreadable: int = 0
    """Records of the archive's branch that do not read, or were erased: they stay in the branch."""

    def keep(self, name: str) -> None:
        """Note a branch that is kept."""
        if name not in self.branches:
            self.branches.append(name)


def look(hot: Hot, sinks: Sequence[MendableSink], run_id: str) -> Histories | None:
    """How a run stands in Redis and in each archive; None if Redis does not have it. Changes nothing."""
    redis = HotHistory.look(hot, run_id)
    if redis is None:
        return None
    sides, without = [], []
    for sink in sinks:
        history = ArchivedHistory.look(sink, run_id)
        if history is None:
            without.append(sink)
        else:
            sides.append(Side(history, parting(history, redis)))
    return Histories(redis, sides, without)


def resolve(hot: Hot, sinks: Sequence[MendableSink], seen: Histories, keep: Keep) -> Resolution:
    """Let the run have one history everywhere, as ``keep`` says, and come due.

    ``seen`` is what :func:`look` gave, and what the decision was made on. ``sinks`` must be all archives that the
    run's partition requires. Where nothing has parted, the run just comes due.

    Raises ConcurrencyConflict if the run has gone on since, in Redis or in an archive: look again.
    Raises ArchiveGap if Redis has trimmed what the archives would lack, HistoryDiverged if the archives
    themselves part from each other so that none is the one to keep, ConfigurationError without a required
    archive, LeaseHeld if ``"both"`` is to append to what somebody has leased.
    """
    keys, header = hot.context.keys, seen.redis.header
    required = hot.perform(restore.required_archives(keys, header.run_id))
    at_hand = {sink.archive_id for sink in sinks}
    if missing := sorted(location for uuid, location in required.items() if uuid not in at_hand):
        raise ConfigurationError(
            f"run {header.run_id!r} is archived in {', '.join(missing)} too: name every archive that is required"
        )
    done = Resolution()
    if seen.parted:
        if keep == "archive":
            _check_agreement(seen)
        else:
            _check_supply(seen)
        # so that no worker takes it on meanwhile; if this is killed, the run comes due and is parked again
        reason = (
            f"it is being resolved; if nobody is at it any more, repeat `runstream resolve {quote(header.run_id)}`"
        )
        hot.perform(drain.park(keys, header, reason, _HELD_SECONDS))
        if keep == "archive":
            _keep_archive(hot, sinks, seen, done)
        else:
            _keep_redis(hot, sinks, seen, done, append=keep == "both")
    hot.perform(restore.unpark(keys, [header.run_id]))
    return done


# -- the archive's history is kept -----------------------------------------------------------------------


def _check_agreement(seen: Histories) -> None:
    """Raise HistoryDiverged unless the longest of the archives that have parted has all that the others have."""
    kept, *others = seen.parted
    for other in others:
        common = parting(other.history, kept.history)
        if common is None or common.place != other.history.last:
            raise HistoryDiverged(
                f"{kept.history.location} and {other.history.location} have different histories of run"
                f" {kept.history.run_id!r}, and neither is Redis's: nothing was changed; keep redis, or both",
                run_id=kept.history.run_id,
                offset=other.start.offset if common is None else common.place.offset,
            )


def _keep_archive(hot: Hot, sinks: Sequence[MendableSink], seen: Histories, done: Resolution) -> None:
    kept, redis = seen.parted[0], seen.redis
    source = kept.history
    if _has_own(redis, kept):
        start = kept.start
        if kept.parting is None or not kept.parting.exact:
            start = redis.place_before_first()
        done.keep(keep_branch(sinks, redis, start))
    keep_from = min(redis.first, kept.start.offset + 1) if kept.parting is not None else source.last.offset + 1
    for side in seen.sides:
        common = parting(side.history, source)
        place = source.header.start if common is None else common.place
        if common is None or place != side.history.last:
            own_start = side.history.header.start if common is None else place
            done.keep(keep_branch(sinks, side.history, own_start))
            _cut_back(side.history, source, place)
        keep_from = min(keep_from, place.offset + 1)
    if seen.without:
        keep_from = source.first
    done.restored = restore_run(hot, source, seen=redis.found, common=_common(kept), keep_from=keep_from)


def _has_own(redis: HotHistory, kept: Side) -> bool:
    """Whether Redis has events or snapshots of the run that the archive has not."""
    if kept.parting is None or kept.parting.place != redis.last:
        return True
    tokens = set(kept.history.tokens().values())
    return any(token not in tokens for token in redis.tokens().values())


def _common(side: Side) -> int:
    return side.parting.place.offset if side.parting is not None else 0


# -- Redis's history is kept -----------------------------------------------------------------------------


def _check_supply(seen: Histories) -> None:
    """Raise ArchiveGap where Redis has trimmed events that an archive would lack."""
    redis = seen.redis
    places = [redis.header.start if side.parting is None else side.parting.place for side in seen.sides]
    if seen.without:
        places.append(redis.header.start)
    lowest = min(place.offset for place in places)
    if lowest + 1 < redis.first:
        raise ArchiveGap(
            f"the histories of run {redis.run_id!r} part after event {lowest}, and Redis has trimmed its own up to"
            f" {redis.first - 1}: the archives would lack what lies between, and nothing was changed; bring the"
            " archive back that has it, or keep the archive's history (--keep archive)",
            run_id=redis.run_id,
            expected=lowest + 1,
            found=redis.first,
        )


def _keep_redis(
    hot: Hot, sinks: Sequence[MendableSink], seen: Histories, done: Resolution, *, append: bool
) -> None:
    longest = seen.parted[0]
    for side in seen.parted:
        if side is longest or not _contains(longest.history, side.history):
            done.keep(keep_branch(sinks, side.history, side.start))
    if append:
        for side in seen.parted:
            _append_again(hot, side, done)
    for side in seen.parted:
        _cut_back(side.history, seen.redis, seen.redis.header.start if side.parting is None else side.start)


def _contains(longer: History, shorter: History) -> bool:
    """Whether a history has all of another one, and no older snapshots."""
    common = parting(shorter, longer)
    if common is None or common.place != shorter.last:
        return False
    revisions = {one.lane_id: one.revision for one in longer.snapshots()}
    return all(one.revision <= revisions.get(one.lane_id, -1) for one in shorter.snapshots())


def _cut_back(history: ArchivedHistory, kept: History, place: Cursor) -> None:
    """Let an archive have the run up to there, as the kept history has it, with no snapshots but its."""
    history.sink.cut_back(kept.header, Position(place, kept.tokens()), history.last)


def _append_again(hot: Hot, side: Side, done: Resolution) -> None:
    """Append to the run in Redis what only the archive's branch has, in order.

    What is there already, since a writer has put it back or an earlier attempt has, is known by its content.
    Each append names the place up to which the run was looked through: what came in between is looked at first.
    """
    run_id = side.history.run_id
    redis: HotHistory | None = None
    for attempt in range(_ATTEMPTS, 0, -1):
        redis = HotHistory.look(hot, run_id)
        if redis is None or redis.header.start != (
            side.history.header.start if side.parting else redis.header.start
        ):
            raise ConcurrencyConflict(
                f"run {run_id!r} was deleted while it was being resolved: look again",
                expected=side.start.offset,
                actual=0 if redis is None else redis.last.offset,
            )
        after = redis.header.start if side.parting is None else side.parting.place
        there = Counter(map(_fingerprint, _readable(redis, after)))
        done.unreadable = sum(entry.data is None for entry in side.history.entries(side.start.offset))
        try:
            _append_missing(hot, redis, _missing(side, there), done)
        except ConcurrencyConflict:
            if attempt == 1:
                raise
        else:
            return


def _readable(history: History, after: Cursor) -> Iterator[ArchiveEntry]:
    return (entry for entry in history.entries(after.offset) if entry.data is not None)


def _missing(side: Side, there: Counter[bytes]) -> Iterator[ArchiveEntry]:
    for entry in _readable(side.history, side.start):
        known = _fingerprint(entry)
        if there[known] > 0:
            there[known] -= 1
        else:
            yield entry


def _fingerprint(entry: ArchiveEntry) -> bytes:
    """The whole event in few bytes: that two have the same span does not make them one."""
    return blake2b((entry.data or "").encode(), digest_size=16).digest()


def _append_missing(hot: Hot, redis: HotHistory, missing: Iterator[ArchiveEntry], done: Resolution) -> None:
    keys, run_id, last = hot.context.keys, redis.run_id, redis.last.offset
    while page := list(islice(missing, PAGE)):
        # a key that the run has given to another event meanwhile stays with that one
        known = hot.perform(restore.known_keys(keys, run_id, [one.key for one in page if one.key is not None]))
        fields = [EventFields(entry_fields(run_id, one) or {}) for one in page]
        own_keys = [None if one.key in known else one.key for one in page]
        # a run that is parked is not trimmed: a limit on it would never let this be done
        unlimited = replace(hot.context, max_hot_events=None)
        last = hot.perform(
            append.append(unlimited, run_id, fields, expected_offset=last, keys=own_keys)
        ).appended.last_offset
        done.appended += len(page)
