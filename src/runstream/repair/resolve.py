"""Resolve two histories of one run: one of them becomes the run's, the other is kept under a name of its own.

Redis can come back from a failover behind an archive, with or without new events on top, and a run can be
lost and made anew. A person decides. Nothing is deleted: the branch that gives way is first kept in every
archive as a run of its own, proven there, and only then taken out of the run. Killed at any point, the
same call goes on from where it was: each step finds what has been done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from shlex import quote
from typing import Any, Literal, NamedTuple, TypeAlias

from runstream.codec.archive_entries import entry_digest, entry_fields
from runstream.codec.stored_fields import EventFields
from runstream.history.archived import ArchivedHistory
from runstream.history.base import PAGE, History
from runstream.history.divergence import Divergence, find_divergence
from runstream.history.hot import HotHistory
from runstream.model.archive_records import ArchiveEntry, Position, RunHeader
from runstream.model.errors import ArchiveGap, ConcurrencyConflict, ConfigurationError, HistoryDiverged
from runstream.model.protocols import Sink
from runstream.model.results import Cursor
from runstream.repair.branches import keep_branch
from runstream.repair.restore import restore_run
from runstream.stores.capabilities import archive_of
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import Namespace, namespace_of

__all__ = ["Histories", "Keep", "Resolution", "Side", "load_histories", "resolve"]

Keep: TypeAlias = Literal["archive", "redis", "both"]
"""Which history is to be the run's. ``"both"``: Redis's, with what only the archive's has appended to it again."""

_ATTEMPTS = 10  # to append to a run that others write to
_HELD_SECONDS = 300.0
_BEING_RESOLVED = "it is being resolved"

Hot: TypeAlias = RunStore[Any, Any]


@dataclass(frozen=True, slots=True)
class Side:
    """An archive's history of the run, and where it parts from Redis's.

    Attributes:
        history: The archive's history.
        divergence: Where the two part; None: they have nothing in common.
    """

    history: ArchivedHistory
    divergence: Divergence | None

    @property
    def has_diverged(self) -> bool:
        """Whether it has events that Redis's history has not. One that is merely behind has none."""
        if self.divergence is None:
            return True
        return self.divergence.cursor != self.history.last and (self.divergence.exact or self.divergence.differ)

    @property
    def start(self) -> Cursor:
        """The cursor after which its own branch begins."""
        return self.history.header.start if self.divergence is None else self.divergence.cursor


@dataclass(frozen=True, slots=True)
class Histories:
    """A run as Redis and as each archive has it.

    Attributes:
        redis: Redis's history.
        sides: The archives' histories.
        without: The archives that do not have the run.
    """

    redis: HotHistory
    sides: Sequence[Side]
    without: Sequence[Sink] = ()

    @property
    def diverged(self) -> list[Side]:
        """The archives that have what Redis's history has not, the one with the longest history first."""
        return sorted(
            (side for side in self.sides if side.has_diverged), key=lambda side: side.history.last, reverse=True
        )


@dataclass(slots=True)
class Resolution:
    """The result of resolving.

    Attributes:
        branches: The names under which branches are kept.
        restored: How many entries Redis has of the run after it was made what the archive says.
        appended: How many events of the archive's branch were appended to the run in Redis once more.
        unreadable: How many records of the archive's branch do not read, or were erased: they stay in the branch.
    """

    branches: list[str] = field(default_factory=list)
    restored: int = 0
    appended: int = 0
    unreadable: int = 0

    def keep(self, name: str) -> None:
        """Note a branch that is kept."""
        if name not in self.branches:
            self.branches.append(name)


def load_histories(hot: Hot, sinks: Sequence[Sink], run_id: str) -> Histories | None:
    """Load a run's histories in Redis and in each archive, and find where they part. Changes nothing.

    Args:
        hot: The Redis store.
        sinks: The archives.
        run_id: The run.

    Returns:
        The histories; None if Redis does not have the run.
    """
    # the archives first: what a worker writes meanwhile would pass for what Redis has not
    archived = [(sink, ArchivedHistory.load(archive_of(sink), run_id)) for sink in sinks]
    redis = HotHistory.load(namespace_of(hot), run_id)
    if redis is None:
        return None
    sides = [Side(history, find_divergence(history, redis)) for _, history in archived if history is not None]
    return Histories(redis, sides, [sink for sink, history in archived if history is None])


def resolve(hot: Hot, sinks: Sequence[Sink], seen: Histories, keep: Keep) -> Resolution:
    """Let the run have one history everywhere, as ``keep`` says, and come due.

    Where no history has diverged, the run just comes due.

    Args:
        hot: The Redis store.
        sinks: All archives that the run's partition requires.
        seen: What :func:`load_histories` gave, and what the decision was made on.
        keep: Which history is to be the run's.

    Raises:
        ConcurrencyConflict: The run has changed since, in Redis or in an archive: load the histories again.
        ArchiveGap: Redis has trimmed what the archives would lack.
        HistoryDiverged: The archives differ from each other, so that none is the one to keep.
        ConfigurationError: A required archive is missing.
        LeaseHeld: ``"both"`` is to append to what somebody has leased.
    """
    namespace, header = namespace_of(hot), seen.redis.header
    required = namespace.archives_of_run(header.run_id)
    at_hand = {sink.archive_id for sink in sinks}
    if missing := sorted(location for uuid, location in required.items() if uuid not in at_hand):
        raise ConfigurationError(
            f"run {header.run_id!r} is archived in {', '.join(missing)} too: name every archive that is required"
        )
    done = Resolution()
    if seen.diverged:
        if keep == "archive":
            _check_agreement(seen)
        else:
            _check_supply(seen)
        hold = _Hold(namespace, header, keep)
        hold.extend()
        _check_still_parted(hot, sinks, seen)
        if keep == "archive":
            _keep_archive(hot, sinks, seen, done, hold)
        else:
            _keep_redis(namespace, sinks, seen, done, hold)
    namespace.unpark([header.run_id])
    return done


class _Hold(NamedTuple):
    """Keeps workers off a run that is being resolved, and whoever would resolve it in another way."""

    namespace: Namespace
    header: RunHeader
    keep: Keep

    def extend(self) -> None:
        """Park the run for some minutes from now on. If its holder is killed, it comes due and is parked again.

        Raises:
            ConcurrencyConflict: Somebody else is resolving it in another way.
        """
        run_id = self.header.run_id
        reason = (
            f"{_BEING_RESOLVED} with --keep {self.keep}; if nobody is at it any more, repeat"
            f" `runstream resolve {quote(run_id)} --keep {self.keep}`"
        )
        if not self.namespace.park(self.header, reason, _HELD_SECONDS, _BEING_RESOLVED):
            raise ConcurrencyConflict(
                f"somebody else is resolving run {run_id!r} in another way, which `runstream status` shows: look"
                " again once that is done. If nobody is at it any more, finish it in that way, or let it come due"
                f" (`runstream unpark {quote(run_id)}`) and look again",
                expected=self.header.start.offset,
                actual=self.header.start.offset,
            )


def _check_still_parted(hot: Hot, sinks: Sequence[Sink], seen: Histories) -> None:
    """Raise ConcurrencyConflict unless the histories part where they did.

    Somebody else may have resolved the run since, in another way, and workers have trimmed what an archive would
    lack once it is cut back.
    """
    run_id = seen.redis.run_id
    now = load_histories(hot, sinks, run_id)
    if now is None or _parting(now) != _parting(seen):
        namespace_of(hot).unpark([run_id])
        raise ConcurrencyConflict(
            f"the histories of run {run_id!r} no longer part where they did: nothing was changed; look again",
            expected=seen.redis.last.offset,
            actual=0 if now is None else now.redis.last.offset,
        )


def _parting(histories: Histories) -> list[object]:
    """Where each archive's history parts from Redis's, and ends."""
    ends = [(side.history.location, side.start, side.history.last) for side in histories.diverged]
    return [histories.redis.header.start, *ends]


# -- the archive's history is kept -----------------------------------------------------------------------


def _check_agreement(seen: Histories) -> None:
    """Raise HistoryDiverged unless the longest of the diverged histories has all that the others have."""
    kept, *others = seen.diverged
    for other in others:
        common = find_divergence(other.history, kept.history)
        if common is None or common.cursor != other.history.last:
            raise HistoryDiverged(
                f"{kept.history.location} and {other.history.location} have different histories of run"
                f" {kept.history.run_id!r}, and neither is Redis's: nothing was changed; keep redis, or both",
                run_id=kept.history.run_id,
                offset=other.start.offset if common is None else common.cursor.offset,
            )


def _keep_archive(hot: Hot, sinks: Sequence[Sink], seen: Histories, done: Resolution, hold: _Hold) -> None:
    kept, redis = seen.diverged[0], seen.redis
    source = kept.history
    if _has_own(redis, kept):
        start = kept.start
        if kept.divergence is None or not kept.divergence.exact:
            start = redis.cursor_before_first()
        done.keep(keep_branch(sinks, redis, start))
    keep_from = min(redis.first, kept.start.offset + 1) if kept.divergence is not None else source.last.offset + 1
    for side in seen.sides:
        common = find_divergence(side.history, source)
        shared = source.header.start if common is None else common.cursor
        if common is None or shared != side.history.last:
            own_start = side.history.header.start if common is None else shared
            done.keep(keep_branch(sinks, side.history, own_start))
            _cut_back(side.history, source, shared, hold)
        keep_from = min(keep_from, shared.offset + 1)
    if seen.without:
        keep_from = source.first
    hold.extend()
    done.restored = restore_run(hot, source, seen=redis.run, common=_common(kept), keep_from=keep_from)


def _has_own(redis: HotHistory, kept: Side) -> bool:
    """Whether Redis has events or snapshots of the run that the archive has not."""
    if kept.divergence is None or kept.divergence.cursor != redis.last:
        return True
    tokens = set(kept.history.tokens().values())
    return any(token not in tokens for token in redis.tokens().values())


def _common(side: Side) -> int:
    return side.divergence.cursor.offset if side.divergence is not None else 0


# -- Redis's history is kept -----------------------------------------------------------------------------


def _check_supply(seen: Histories) -> None:
    """Raise ArchiveGap where Redis has trimmed events that an archive would lack."""
    redis = seen.redis
    shared = [redis.header.start if side.divergence is None else side.divergence.cursor for side in seen.sides]
    if seen.without:
        shared.append(redis.header.start)
    lowest = min(cursor.offset for cursor in shared)
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
    namespace: Namespace, sinks: Sequence[Sink], seen: Histories, done: Resolution, hold: _Hold
) -> None:
    longest = seen.diverged[0]
    for side in seen.diverged:
        if side is longest or not _contains(longest.history, side.history):
            done.keep(keep_branch(sinks, side.history, side.start))
    if hold.keep == "both":
        for side in seen.diverged:
            _append_again(namespace, side, done)
    for side in seen.diverged:
        to = seen.redis.header.start if side.divergence is None else side.start
        _cut_back(side.history, seen.redis, to, hold)


def _contains(longer: History, shorter: History) -> bool:
    """Whether a history has all of another one, and no older snapshots."""
    common = find_divergence(shorter, longer)
    if common is None or common.cursor != shorter.last:
        return False
    revisions = {one.lane_id: one.revision for one in longer.snapshots()}
    return all(one.revision <= revisions.get(one.lane_id, -1) for one in shorter.snapshots())


def _cut_back(history: ArchivedHistory, kept: History, to: Cursor, hold: _Hold) -> None:
    """Let an archive have the run up to a cursor, as the kept history has it, with no snapshots but its."""
    hold.extend()
    history.archive.cut_back(kept.header, Position(to, kept.tokens()), history.last)


def _append_again(namespace: Namespace, side: Side, done: Resolution) -> None:
    """Append to the run in Redis what only the archive's branch has, in order.

    What is there already, since a writer has put it back or an earlier attempt has, is known by its content.
    Each append names the offset up to which the run was compared: what came in between is compared first.
    """
    run_id = side.history.run_id
    redis: HotHistory | None = None
    for attempt in range(_ATTEMPTS, 0, -1):
        redis = HotHistory.load(namespace, run_id)
        if redis is None or redis.header.start != (
            side.history.header.start if side.divergence else redis.header.start
        ):
            raise ConcurrencyConflict(
                f"run {run_id!r} was deleted while it was being resolved: look again",
                expected=side.start.offset,
                actual=0 if redis is None else redis.last.offset,
            )
        after = redis.header.start if side.divergence is None else side.divergence.cursor
        there = Counter(entry_digest(run_id, entry) for entry in _readable(redis, after))
        done.unreadable = sum(entry.data is None for entry in side.history.entries(side.start.offset))
        try:
            _append_missing(namespace, redis, _missing(side, there), done)
        except ConcurrencyConflict:
            if attempt == 1:
                raise
        else:
            return


def _readable(history: History, after: Cursor) -> Iterator[ArchiveEntry]:
    return (entry for entry in history.entries(after.offset) if entry.data is not None)


def _missing(side: Side, there: Counter[bytes]) -> Iterator[ArchiveEntry]:
    for entry in _readable(side.history, side.start):
        known = entry_digest(side.history.run_id, entry)
        if there[known] > 0:
            there[known] -= 1
        else:
            yield entry


def _append_missing(
    namespace: Namespace, redis: HotHistory, missing: Iterator[ArchiveEntry], done: Resolution
) -> None:
    run_id, last = redis.run_id, redis.last.offset
    while page := list(islice(missing, PAGE)):
        # a key that the run has given to another event meanwhile stays with that one
        known = namespace.key_cursors(run_id, [one.key for one in page if one.key is not None])
        fields = [EventFields(entry_fields(run_id, one) or {}) for one in page]
        own_keys = [None if one.key in known else one.key for one in page]
        last = namespace.append_again(run_id, fields, own_keys, last)
        done.appended += len(page)
