"""The operations that the tiered store needs of a hot store, beyond those of every store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from runstream.model.archive_records import ArchiveEntry, RunHeader
from runstream.model.erasures import Erasure, Spans
from runstream.model.results import Cursor, E, Fork, Recorded, Recovery, RunInfo, S, Snapshot
from runstream.model.run_head import RunHead, RunStart
from runstream.operations.arguments import ReadQuery, StateChange
from runstream.operations.erase_arguments import Beside, EraseOptions, TruncateOptions
from runstream.operations.interface import IsArchived, StoreOperations
from runstream.operations.lane_facts import HotLanes
from runstream.operations.operation import Operation, Stream
from runstream.operations.run_forks import Brought, ForkOptions

__all__ = ["Continuing", "HotOperations"]


class Continuing(Protocol[E, S]):
    """Reads of runs that go on in a hot store from where an archive ends, which they check in the same step.

    All raise RunElsewhere for a run that is not here, or does not go on from there.
    """

    def read(self, run_id: str, query: ReadQuery, head_of: Callable[[RunHead], object]) -> Stream:
        """The events between two offsets.

        Args:
            run_id: The run.
            query: What is asked for.
            head_of: Gets where the run stands, before the first of them.

        Raises:
            RunElsewhere: The run shares some of that with others, too.
        """

    def find(self, run_id: str, keys: Sequence[str]) -> Operation[tuple[list[int | None], bool]]:
        """The offsets of the run's own events that have these keys, and whether it is a fork."""

    def read_at(self, run_id: str, offsets: Iterable[int]) -> Operation[list[Recorded[E]]]:
        """The events at these offsets. Raises RunElsewhere also where the run shares some of them with others."""

    def list_events(self, run_id: str, since_seq: int) -> Operation[list[E]]:
        """The events whose ``seq`` is over ``since_seq``, which is over 0, in log order."""

    def recover(self, run_id: str, lane_id: str | None) -> Operation[Recovery[S, E]]:
        """The latest snapshot and the events after it; nothing of a run that neither store has."""


@runtime_checkable
class HotOperations(StoreOperations[E, S], IsArchived, Protocol[E, S]):
    """The operations of a store out of which a drain worker moves what it has archived: Redis.

    What has been moved is not there any more: operations that need it raise EventsArchived. A run whose snapshot
    was moved too is *retired*; a token then stands for the snapshot, so that a writer who knows the snapshot can
    still replace it.
    """

    def find_here(self, run_id: str, keys: Sequence[str]) -> Operation[list[int | None] | None]:
        """The offsets of the events that have these keys, trimmed or not; None if the run is not here.

        Args:
            run_id: The run, which was checked.
            keys: The keys, which were checked.
        """

    def mark_recovered(self, run_id: str, offset: int, lane_id: str | None) -> Operation[None]:
        """Mark events up to ``offset`` as known to this writer, so that its next snapshot covers them."""

    def retired_token(self, run_id: str, lane_id: str | None) -> Operation[tuple[str, RunStart]]:
        """The token that stands for a retired snapshot; '' if the latest one is here, or there was none.

        And where the run begins.
        """

    def run_info_after(self, run_id: str, end: Cursor | None) -> Operation[tuple[RunInfo | None, bool, int]]:
        """What is known of a run, and whether it goes on from there.

        Args:
            run_id: The run.
            end: Where the archive ends, which had all that it has from here; None: there is nothing to compare.

        Returns:
            What ``run_info`` gives; False if what is here is of another history than ``end``; and the offset
            before the first event that the run has, here or elsewhere.
        """

    def continuing(self, end: Cursor | None) -> Continuing[E, S]:
        """Reads of runs that go on here from where the archive ends.

        Args:
            end: The cursor of the last event that the archive has of the run; None: it does not know it.
        """

    def head_of(self, run_id: str) -> Operation[RunHead | None]:
        """Where a run stands, and what it comes from; None for an unknown run."""

    def head_with_snapshots(self, run_id: str) -> Operation[RunHead | None]:
        """As ``head_of``, with the latest snapshots that are here."""

    def fork_brought(
        self, run_id: str, new_run_id: str, options: ForkOptions, brought: Brought | None
    ) -> Operation[RunInfo]:
        """``fork``, with what an archive knows of the run; None: it does not know it."""

    def living_forks(self, run_id: str) -> Operation[list[Fork]]:
        """The runs that were forked from a run, and are here, or about to be made."""

    def detach_brought(self, run_id: str, of: str, archive_id: str) -> Operation[RunHeader | None]:
        """Give a fork of a run a copy of its own of all that it shares, so that it is a fork no more.

        Its parent counts it as one until ``let_go``.

        Args:
            run_id: The fork.
            of: The run.
            archive_id: The archive that has what is not here any more of what it shares.

        Returns:
            Its header; None where it is not here, or was no fork of that run.
        """

    def once_shared(self, header: RunHeader, after: int) -> Operation[list[ArchiveEntry]]:
        """What a run that was a fork had shared, after an offset, as far as it is here."""

    def let_go(self, run_id: str, of: str) -> Operation[None]:
        """Let a run not count another one as its fork any more, which was detached from it."""

    def creation_to_delete(self, run_id: str) -> Operation[int | None]:
        """Names the creation of a run that is to be deleted from here and from an archive.

        Where it is not here any more, that of the last run of this name for which it was asked: so a deletion that
        is repeated for an archive that failed, or for another one, names the same history.
        """

    def to_be_erased(self, run_id: str) -> Operation[Spans]:
        """The offsets of a run whose content is to be erased, and that an archive may have still."""

    def erase_beside(self, run_id: str, spans: Spans, options: EraseOptions, beside: Beside) -> Operation[Erasure]:
        """``erase``, given what is known of an archive.

        Args:
            run_id: The run.
            spans: As in ``erase``.
            options: As in ``erase``.
            beside: What is known; of the snapshots that forks have there, too.

        Raises:
            SnapshotsAway: Look at the snapshots of which the archive alone knows.
        """

    def truncate_beside(
        self, run_id: str, before: int, options: TruncateOptions, beside: Beside
    ) -> Operation[Erasure]:
        """``truncate``, given what is known of an archive.

        Args:
            run_id: The run.
            before: As in ``truncate``.
            options: As in ``truncate``.
            beside: What is known.

        Raises:
            SnapshotsAway: Look at the snapshots of which the archive alone knows.
            EventsArchived: The cursor before the history's new beginning is not here.
        """

    def was_deleted(self, run_id: str) -> Operation[bool]:
        """Whether the run of that name that this store saw last has been deleted since."""

    def update_archived(
        self, run_id: str, change: Callable[[S], S | None], archived: Snapshot[S] | None, how: StateChange
    ) -> Operation[S]:
        """Update the state of a run whose latest snapshot was retired, from the archive's copy of it.

        Args:
            run_id: The run.
            change: As in ``update_state``.
            archived: The snapshot that the archive has; None if it has none.
            how: As in ``update_state``.

        Returns:
            The state that was saved. It covers what the archived snapshot covers, also where that is less than
            what has left Redis.

        Raises:
            EventsArchived: That is not the snapshot that was retired last.
        """

    def hot_lanes(self, run_id: str) -> Operation[HotLanes]:
        """What is told here of the lanes of a run."""

    def known_to(self, run_id: str, lane_id: str | None) -> int:
        """Up to where this writer knows a run, or one lane of it, without a hole."""

    def known_snapshot(self, run_id: str, lane_id: str | None) -> tuple[str, int]:
        """Token and revision of the snapshot that this writer saved or loaded last; '' and 0 if it knows none."""

    def note_snapshot(self, run_id: str, lane_id: str | None, token: str, revision: int) -> None:
        """Take this snapshot for the latest: the writer's next one is saved only if it is still the latest."""

    def note_loaded(self, run_id: str, lane_id: str | None, start: RunStart, offset: int) -> None:
        """Note that this writer has loaded a snapshot from elsewhere that covers the history up to an offset."""
