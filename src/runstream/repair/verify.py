"""Check a run in all that keep it, each by itself and against each other: Redis, and any number of archives.

All keepers are read side by side, page by page, so that the first difference is the one with the lowest offset,
and no more is held than a page of each. What looks like a difference is looked at again if the run has gone on
meanwhile: it may be checked while agents write and workers trim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runstream.codec.archive_entries import entry_fields
from runstream.drain.readback import same_content
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, Position
from runstream.model.errors import CorruptRecordError, RunstreamError
from runstream.model.protocols import MendableSink
from runstream.repair.archive_checker import ArchiveKeeper
from runstream.repair.checker import Difference, DifferenceFound, Keeper, of_lane, of_snapshot, shown
from runstream.repair.redis_checker import HotKeeper
from runstream.repair.restore import made_record
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.operations.admin import restore
from runstream.stores.redis.page_size import Pace

__all__ = ["Checked", "Difference", "Verdict", "verify_run"]

_PAGE = 1000
_NOT_OF_THE_FORM = "what is noted of the run is not of the form that it must have"
_ATTEMPTS = 10  # at a run that goes on all the while


@dataclass(frozen=True, slots=True)
class Checked:
    """What was checked of a run in one keeper: so many events from ``first`` on, some of which do not read."""

    location: str
    first: int
    events: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run stands: the first difference, None if all that was looked at agrees.

    A record that does not read, and is the same wherever it is kept, is counted and is no difference.
    """

    run_id: str
    checked: Sequence[Checked]
    difference: Difference | None = None

    @property
    def is_sound(self) -> bool:
        """Whether there is no difference."""
        return self.difference is None


def verify_run(
    run_id: str,
    *,
    hot: RedisCheckpointer[Any, Any] | None = None,
    sinks: Sequence[MendableSink] = (),
    on_events: Callable[[int], None] | None = None,
) -> Verdict:
    """Check a run in Redis, in archives, or in both, and name the first difference. Changes nothing.

    ``on_events`` is told now and then how many more offsets were looked at. A run that nobody has is sound.
    Raises StoreUnavailable where a store cannot be read.
    """
    attempt = 1
    while True:
        try:
            look = _Look.take(run_id, hot, sinks)
        except DifferenceFound as found:
            return Verdict(run_id, (), found.difference)
        verdict = look.verdict(on_events)
        if verdict.is_sound or attempt == _ATTEMPTS or _Look.take(run_id, hot, sinks).standing == look.standing:
            return verdict
        attempt += 1


def _hot_keeper(hot: RedisCheckpointer[Any, Any], run_id: str) -> HotKeeper | None:
    try:
        return HotKeeper.look(hot, run_id)
    except (ValueError, KeyError) as error:
        raise DifferenceFound(0, _NOT_OF_THE_FORM, ("Redis", f"{type(error).__name__}: {error}")) from error


@dataclass(slots=True)
class _Look:
    """One look at a run: the archives first, so that none is ahead of Redis because of what happens in between."""

    run_id: str
    hot: HotKeeper | None
    archives: Sequence[ArchiveKeeper]
    without: Sequence[MendableSink]
    standing: Any
    """What is another one when the run has gone on meanwhile."""

    @classmethod
    def take(cls, run_id: str, hot: RedisCheckpointer[Any, Any] | None, sinks: Sequence[MendableSink]) -> _Look:
        archives, without = [], []
        positions: list[Position | None] = []
        for sink in sinks:
            archive = ArchiveKeeper.look(sink, run_id)
            positions.append(sink.position(run_id))
            if archive is None:
                without.append(sink)
            else:
                archives.append(archive)
        keeper = None if hot is None else _hot_keeper(hot, run_id)
        standing = (positions, keeper and (keeper.history.first, keeper.noted))
        return cls(run_id, keeper, archives, without, standing)

    @property
    def keepers(self) -> list[Keeper]:
        return [*([self.hot] if self.hot else []), *self.archives]

    def verdict(self, on_events: Callable[[int], None] | None) -> Verdict:
        difference = None
        try:
            self._check_bounds()
            self._walk(on_events)
            for keeper in reversed(self.keepers):
                keeper.check_end()
            self._check_against_each_other()
        except DifferenceFound as found:
            difference = found.difference
        except (ValueError, TypeError, KeyError) as error:
            difference = Difference(0, _NOT_OF_THE_FORM, [("reading it", f"{type(error).__name__}: {error}")])
        checked = [Checked(one.location, one.first, one.events, one.quarantined) for one in self.keepers]
        checked += [Checked(sink.location, 0, 0, 0) for sink in self.without]
        return Verdict(self.run_id, checked, difference)

    def _check_bounds(self) -> None:
        """All have one history to start with, and what Redis has begins where each archive ends, or before."""
        keepers = self.keepers
        for one in keepers[1:]:
            start, other = one.history.header.start, keepers[0].history.header.start
            if start != other:
                raise DifferenceFound(
                    min(start.offset, other.offset),
                    "they have different histories from the start",
                    (one.location, str(start)),
                    (keepers[0].location, str(other)),
                )
        for sink in self.without:
            self._check_nothing(sink)
        if self.hot is None:
            return
        for archive in self.archives:
            if archive.last.offset > self.hot.last.offset:
                raise DifferenceFound(
                    self.hot.last.offset + 1,
                    "an archive is ahead of Redis",
                    (archive.location, f"up to {archive.last}"),
                    ("Redis", f"up to {self.hot.last}"),
                )
            self._check_reach(archive.sink, archive.reach())
            if self.hot.former is None:
                self.hot.former = archive.history.at(self.hot.first - 1)

    def _check_nothing(self, sink: MendableSink) -> None:
        """An archive that has no history of the run has nothing of it, and need not have any."""
        for entry in sink.read_back(self.run_id, -(2**53), 2**53):
            raise DifferenceFound(
                entry.offset, "there are events, and the run is not noted", (sink.location, shown(entry))
            )
        try:
            snapshots = sink.read_back_snapshots(self.run_id)
        except CorruptRecordError as error:
            raise DifferenceFound(0, "a snapshot does not read", (sink.location, str(error))) from error
        for snapshot in snapshots:
            if snapshot.offset > 0:
                raise DifferenceFound(
                    snapshot.offset, "there is a snapshot, and no history", (sink.location, of_snapshot(snapshot))
                )
        if self.hot is not None:
            self._check_reach(sink, self.hot.history.header.start.offset)

    def _check_reach(self, sink: MendableSink, reach: int) -> None:
        """Between what an archive has, and what Redis still has, nothing is missing."""
        hot = self.hot
        if hot is None:
            return
        if reach + 1 < hot.first:
            raise DifferenceFound(
                reach + 1,
                "events are in neither of the two",
                (sink.location, f"up to {reach}"),
                ("Redis", f"from {hot.first} on"),
            )
        if reach < hot.run.mark.offset and sink.archive_id in self._required():
            raise DifferenceFound(
                reach + 1,
                "an archive lacks what is noted as archived",
                (sink.location, f"up to {reach}"),
                ("Redis", f"archived up to {hot.run.mark}"),
            )

    def _required(self) -> Mapping[str, str]:
        if self.hot is None:
            return {}
        store = self.hot.hot
        return store.perform(restore.required_archives(store.context.keys, self.run_id))

    def _walk(self, on_events: Callable[[int], None] | None) -> None:
        keepers = self.keepers
        pace = Pace(_PAGE)
        at = min((one.first for one in keepers), default=0)
        end = max((one.last.offset for one in keepers), default=-1)
        while at <= end:
            last = min(at + pace.count - 1, end)
            pages: list[tuple[Keeper, list[ArchiveEntry]]] = []
            found: list[DifferenceFound] = []
            # the archives first: where Redis begins, they know the place before
            for keeper in reversed(keepers):
                first, upto = max(at, keeper.first), min(last, keeper.last.offset)
                if first > upto:
                    continue
                try:
                    pages.append((keeper, keeper.page(first, upto)))
                except DifferenceFound as difference:
                    found.append(difference)
            try:
                _compare(self.run_id, pages)
            except DifferenceFound as difference:
                found.append(difference)
            if found:
                raise min(found, key=lambda one: one.difference.offset)
            pace.saw(entry.raw or (entry.data or "").encode() for _, page in pages[:1] for entry in page)
            if on_events is not None:
                on_events(last - at + 1)
            at = last + 1

    def _check_against_each_other(self) -> None:
        """Snapshots of one token are equal everywhere; what is settled is in every archive that is required."""
        first: dict[tuple[str | None, str], tuple[str, ArchiveSnapshot]] = {}
        for keeper in self.keepers:
            for one in keeper.snapshots:
                where, other = first.setdefault((one.lane_id, one.token), (keeper.location, one))
                if other != one:
                    what = f"snapshot{of_lane(one.lane_id)} is not the same"
                    raise DifferenceFound(
                        one.offset, what, (keeper.location, of_snapshot(one)), (where, of_snapshot(other))
                    )
        hot = self.hot
        if hot is None:
            return
        required = self._required()
        for archive in self.archives:
            if archive.sink.archive_id in required:
                _check_proven(hot, archive)


def _compare(run_id: str, pages: Sequence[tuple[Keeper, list[ArchiveEntry]]]) -> None:
    """What several have at one place is the same. Raises DifferenceFound for the first place where it is not."""
    known: dict[int, tuple[Keeper, ArchiveEntry]] = {}
    for keeper, page in pages:
        for entry in page:
            other, held = known.setdefault(entry.offset, (keeper, entry))
            if held is not entry and not _agree(run_id, held, entry):
                raise DifferenceFound(
                    entry.offset,
                    "the event is not the same",
                    (keeper.location, f"{entry.cursor} {shown(entry)}"),
                    (other.location, f"{held.cursor} {shown(held)}"),
                )


def _agree(run_id: str, one: ArchiveEntry, other: ArchiveEntry) -> bool:
    if same_content(run_id, one, other):
        return True
    if one.cursor != other.cursor or (one.raw is None) == (other.raw is None):
        return False
    # kept aside by a version that did not read it, where another one did
    read, aside = (one, other) if one.raw is None else (other, one)
    try:
        return (
            read.data is not None and made_record(run_id, entry_fields(run_id, read) or {}, read.key) == aside.raw
        )
    except RunstreamError:
        return False


def _check_proven(hot: HotKeeper, archive: ArchiveKeeper) -> None:
    held = {one.lane_id: one for one in archive.snapshots}
    of_hot = {one.lane_id: one for one in hot.snapshots}
    for lane, token in hot.run.tokens.items():
        here, there = of_hot.get(lane), held.get(lane)
        is_older = here is not None and (there is None or there.revision < here.revision)
        if hot.run.proven.get(lane) == token and is_older:
            raise DifferenceFound(
                0 if here is None else here.offset,
                f"snapshot{of_lane(lane)} is noted as archived, and is not",
                (archive.location, of_snapshot(there)),
                ("Redis", of_snapshot(here)),
            )
    if hot.is_settled and archive.last == hot.last:
        ours, theirs = archive.history.header, hot.history.header
        if (ours.status, ours.session_id) != (theirs.status, theirs.session_id):
            raise DifferenceFound(
                hot.last.offset,
                "status or session is not the same",
                (archive.location, f"{ours.status}, session {ours.session_id!r}"),
                ("Redis", f"{theirs.status}, session {theirs.session_id!r}"),
            )
