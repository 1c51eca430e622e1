"""Verify the copies of a run in Redis and in archives, each by itself and against the others.

All copies are read side by side, page by page, so that the first difference is the one with the lowest offset,
and no more is held than a page of each. A run that differs is verified again if it has changed meanwhile: agents
may write to it and workers trim it all the while.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runstream.drain.readback import same_content, same_snapshot
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot
from runstream.model.errors import CorruptRecordError, HistoryDiverged
from runstream.model.protocols import Sink
from runstream.model.tags import NO_TAGS, TagSet
from runstream.repair.archive_checker import ArchiveChecker
from runstream.repair.checker import (
    Difference,
    DifferenceFound,
    HistoryChecker,
    describe_entry,
    describe_snapshot,
    of_lane,
)
from runstream.repair.redis_checker import RedisChecker
from runstream.stores.capabilities import Archive, archive_of
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import Namespace, namespace_of
from runstream.stores.redis.operations.worker.hot_run import HotRun

__all__ = ["CheckedCopy", "Difference", "Verdict", "verify_run"]

_PAGE = 1000
_NOT_OF_THE_FORM = "what is noted of the run is not of the form that it must have"
_TWO = "an archive has two of it"
_ATTEMPTS = 10  # at a run that goes on all the while


@dataclass(frozen=True, slots=True)
class CheckedCopy:
    """One copy of a run: how many events from ``first`` on were verified, and how many of them do not read."""

    location: str
    first: int
    events: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of verifying a run.

    A record that does not read, and is the same in every copy, is counted and is no difference.

    Attributes:
        run_id: The run.
        checked: Its copies.
        difference: The first difference; None if all that was verified agrees.
    """

    run_id: str
    checked: Sequence[CheckedCopy]
    difference: Difference | None = None

    @property
    def is_sound(self) -> bool:
        """Whether there is no difference."""
        return self.difference is None


def verify_run(
    run_id: str,
    *,
    hot: RunStore[Any, Any] | None = None,
    sinks: Sequence[Sink] = (),
    on_progress: Callable[[int], None] | None = None,
) -> Verdict:
    """Verify a run in Redis, in archives, or in both.

    Changes nothing, but that rows of an archive which an earlier version wrote get their checksums, once their
    chain has proven them.

    Args:
        run_id: The run; one that nobody has is sound.
        hot: The Redis store; None: verify the archives only.
        sinks: The archives.
        on_progress: Called now and then with the number of further offsets that were verified.

    Raises:
        StoreUnavailable: A store cannot be read.
    """
    namespace = None if hot is None else namespace_of(hot)
    archives = [archive_of(sink) for sink in sinks]
    attempt = 1
    while True:
        try:
            copies = _Copies.load(run_id, namespace, archives)
        except DifferenceFound as found:
            return Verdict(run_id, (), found.difference)
        except CorruptRecordError as error:
            return Verdict(run_id, (), Difference(error.offset, _NOT_OF_THE_FORM, [("reading it", str(error))]))
        except HistoryDiverged as error:
            return Verdict(run_id, (), Difference(error.offset, _TWO, [("reading it", str(error))]))
        verdict = copies.verdict(on_progress)
        if verdict.is_sound or attempt == _ATTEMPTS:
            return verdict
        if _Copies.load(run_id, namespace, archives).state == copies.state:
            return verdict
        attempt += 1


def _load_redis_checker(namespace: Namespace, run_id: str) -> RedisChecker | None:
    try:
        return RedisChecker.load(namespace, run_id)
    except CorruptRecordError as error:
        raise DifferenceFound(0, _NOT_OF_THE_FORM, ("Redis", str(error))) from error
    except (ValueError, LookupError, TypeError) as error:
        raise DifferenceFound(0, _NOT_OF_THE_FORM, ("Redis", f"{type(error).__name__}: {error}")) from error


@dataclass(slots=True)
class _Copies:
    """The copies of a run, the archives' loaded first: none is ahead of Redis because of what comes in between.

    Attributes:
        run_id: The run.
        namespace: The Redis store's namespace, if there is one.
        hot: The copy in Redis.
        archived: The copies in archives.
        without: The archives that do not have the run.
        state: Changes when the run does.
    """

    run_id: str
    namespace: Namespace | None
    hot: RedisChecker | None
    archived: Sequence[ArchiveChecker]
    without: Sequence[Archive]
    state: Any

    @classmethod
    def load(cls, run_id: str, namespace: Namespace | None, archives: Sequence[Archive]) -> _Copies:
        archived, without = [], []
        for archive in archives:
            try:
                checker = ArchiveChecker.load(archive, run_id)
            except CorruptRecordError as error:
                raise DifferenceFound(error.offset, _NOT_OF_THE_FORM, (archive.location, str(error))) from error
            if checker is None:
                without.append(archive)
            else:
                archived.append(checker)
        hot = None if namespace is None else _load_redis_checker(namespace, run_id)
        # as they were loaded: what was archived since then is a change
        positions = [(one.archive.location, one.position) for one in archived]
        state = (positions, hot and (hot.history.first, hot.facts))
        return cls(run_id, namespace, hot, archived, without, state)

    @property
    def checkers(self) -> list[HistoryChecker]:
        return [*([self.hot] if self.hot else []), *self.archived]

    def verdict(self, on_progress: Callable[[int], None] | None) -> Verdict:
        difference = None
        try:
            self._check_bounds()
            self._walk(on_progress)
            for checker in reversed(self.checkers):
                checker.check_end()
            self._check_against_each_other()
        except DifferenceFound as found:
            difference = found.difference
        except CorruptRecordError as error:
            difference = Difference(error.offset, "it does not read", [("reading it", str(error))])
        except (ValueError, TypeError, LookupError) as error:
            difference = Difference(0, _NOT_OF_THE_FORM, [("reading it", f"{type(error).__name__}: {error}")])
        checked = [CheckedCopy(one.location, one.first, one.events, one.quarantined) for one in self.checkers]
        checked += [CheckedCopy(archive.location, 0, 0, 0) for archive in self.without]
        return Verdict(self.run_id, checked, difference)

    def _check_bounds(self) -> None:
        """Check that all copies have one start, and that Redis's begins where each archive's ends, or before."""
        checkers = self.checkers
        for one in checkers[1:]:
            start, other = one.history.header.start, checkers[0].history.header.start
            if start != other:
                raise DifferenceFound(
                    min(start.offset, other.offset),
                    "they have different histories from the start",
                    (one.location, str(start)),
                    (checkers[0].location, str(other)),
                )
        for archive in self.without:
            self._check_nothing(archive)
        if self.hot is None:
            return
        for checker in self.archived:
            if checker.last.offset > self.hot.last.offset:
                raise DifferenceFound(
                    self.hot.last.offset + 1,
                    "an archive is ahead of Redis",
                    (checker.location, f"up to {checker.last}"),
                    ("Redis", f"up to {self.hot.last}"),
                )
            self._check_continuity(self.hot, checker.archive, checker.current_offset())
            if self.hot.previous is None:
                self.hot.previous = checker.history.at(self.hot.first - 1)

    def _check_nothing(self, archive: Archive) -> None:
        """Check that an archive that has no history of the run has nothing of it, and need not have any."""
        for entry in archive.read_back(self.run_id, -(2**53), 2**53):
            raise DifferenceFound(
                entry.offset,
                "there are events, and the run is not noted",
                (archive.location, describe_entry(entry)),
            )
        try:
            snapshots = archive.read_back_snapshots(self.run_id)
        except CorruptRecordError as error:
            raise DifferenceFound(0, "a snapshot does not read", (archive.location, str(error))) from error
        for snapshot in snapshots:
            if snapshot.offset > 0:
                raise DifferenceFound(
                    snapshot.offset,
                    "there is a snapshot, and no history",
                    (archive.location, describe_snapshot(snapshot)),
                )
        if self.hot is not None:
            self._check_continuity(self.hot, archive, self.hot.history.header.before_first.offset)

    def _check_continuity(self, hot: RedisChecker, archive: Archive, last: int) -> None:
        """Check that nothing is missing between an archive's last offset and what Redis still has."""
        if last + 1 < hot.first:
            raise DifferenceFound(
                last + 1,
                "events are in neither of the two",
                (archive.location, f"up to {last}"),
                ("Redis", f"from {hot.first} on"),
            )
        mark = hot.run.head.mark
        if last < mark.offset and archive.archive_id in self._required():
            raise DifferenceFound(
                last + 1,
                "an archive lacks what is noted as archived",
                (archive.location, f"up to {last}"),
                ("Redis", f"archived up to {mark}"),
            )

    def _required(self) -> Mapping[str, str]:
        return {} if self.namespace is None else self.namespace.archives_of_run(self.run_id)

    def _walk(self, on_progress: Callable[[int], None] | None) -> None:
        """Verify and compare all entries, page by page."""
        checkers = self.checkers
        at = min((one.first for one in checkers), default=0)
        end = max((one.last.offset for one in checkers), default=-1)
        while at <= end:
            last = min(at + _PAGE - 1, end)
            pages: list[tuple[HistoryChecker, list[ArchiveEntry]]] = []
            found: list[DifferenceFound] = []
            # the archives first: where Redis begins, they know the cursor before
            for checker in reversed(checkers):
                first, upto = max(at, checker.first), min(last, checker.last.offset)
                if first > upto:
                    continue
                try:
                    page = checker.page(first, upto, whole=bool(pages))
                    if not pages:
                        last = page[-1].offset if page else upto  # the others are read as far as the first one
                    pages.append((checker, page))
                except DifferenceFound as difference:
                    found.append(difference)
            try:
                _compare(self.run_id, pages)
            except DifferenceFound as difference:
                found.append(difference)
            if found:
                raise min(found, key=lambda one: one.difference.offset)
            if on_progress is not None:
                on_progress(last - at + 1)
            at = last + 1

    def _check_tags(self) -> None:
        """Check that tags of one version are equal, and required archives have those that count as archived."""
        known: dict[str, tuple[str, TagSet]] = {}
        for checker in self.checkers:
            tags = checker.history.header.tags or NO_TAGS
            where, other = known.setdefault(tags.version, (checker.location, tags))
            if tags != other:
                raise DifferenceFound(
                    checker.last.offset,
                    "the tags are not the same",
                    (checker.location, _shown_tags(tags)),
                    (where, _shown_tags(other)),
                )
        hot = None if self.hot is None else self.hot.run
        required = self._required()
        if hot is None or not hot.proven_tags or hot.proven_tags != hot.head.tags.version:
            return
        for checker in self.archived:
            tags = checker.history.header.tags or NO_TAGS
            if checker.archive.archive_id in required and tags.version != hot.proven_tags:
                raise DifferenceFound(
                    checker.last.offset,
                    "the tags are noted as archived, and are not",
                    (checker.location, _shown_tags(tags)),
                    ("Redis", f"version {hot.proven_tags}"),
                )

    def _check_against_each_other(self) -> None:
        """Check that snapshots of one token are equal, and that required archives have what counts as archived."""
        first: dict[tuple[str | None, str], tuple[str, ArchiveSnapshot]] = {}
        for checker in self.checkers:
            for one in checker.snapshots:
                where, other = first.setdefault((one.lane_id, one.token), (checker.location, one))
                if not same_snapshot(one, other):
                    what = f"snapshot{of_lane(one.lane_id)} is not the same"
                    here, there = describe_snapshot(one), describe_snapshot(other)
                    raise DifferenceFound(one.offset, what, (checker.location, here), (where, there))
        self._check_tags()
        hot = self.hot
        if hot is None:
            return
        required = self._required()
        for checker in self.archived:
            if checker.archive.archive_id in required:
                _check_proven(hot, checker)


def _shown_tags(tags: TagSet) -> str:
    return f"version {tags.version}, {dict(tags.values)!r:.200}" if tags.version else "none"


def _compare(run_id: str, pages: Sequence[tuple[HistoryChecker, list[ArchiveEntry]]]) -> None:
    """Check that all copies have the same at each offset. Raises DifferenceFound for the first difference."""
    known: dict[int, tuple[HistoryChecker, ArchiveEntry]] = {}
    for checker, page in pages:
        for entry in page:
            other, held = known.setdefault(entry.offset, (checker, entry))
            if held is not entry and not same_content(run_id, held, entry):
                raise DifferenceFound(
                    entry.offset,
                    "the event is not the same",
                    (checker.location, f"{entry.cursor} {describe_entry(entry)}"),
                    (other.location, f"{held.cursor} {describe_entry(held)}"),
                )


def _check_proven(hot: RedisChecker, archived: ArchiveChecker) -> None:
    """Check that an archive has what Redis notes as archived: the snapshots, and the run's status and session."""
    run: HotRun = hot.run
    held = {one.lane_id: one for one in archived.snapshots}
    of_hot = {one.lane_id: one for one in hot.snapshots}
    for lane, token in run.head.tokens.items():
        here, there = of_hot.get(lane), held.get(lane)
        is_older = here is not None and (there is None or there.revision < here.revision)
        if run.proven_tokens.get(lane) == token and is_older:
            raise DifferenceFound(
                0 if here is None else here.offset,
                f"snapshot{of_lane(lane)} is noted as archived, and is not",
                (archived.location, describe_snapshot(there)),
                ("Redis", describe_snapshot(here)),
            )
    if hot.is_archived and archived.last == hot.last:
        ours, theirs = archived.history.header, hot.history.header
        if (ours.status, ours.session_id) != (theirs.status, theirs.session_id):
            raise DifferenceFound(
                hot.last.offset,
                "status or session is not the same",
                (archived.location, f"{ours.status}, session {ours.session_id!r}"),
                ("Redis", f"{theirs.status}, session {theirs.session_id!r}"),
            )
