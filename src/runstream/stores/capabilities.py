"""Capabilities: what some stores can do and others cannot, as small Protocols that :func:`part_of` looks for.

A store is a facade over parts. A worker or a command that needs more than a facade's methods asks for the part
that has it, and never for a concrete class.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol, TypeVar, runtime_checkable

from runstream.model.archive_records import (
    ArchiveEntry,
    ArchiveSnapshot,
    EntryColumns,
    ForeignEvent,
    ForeignRows,
    ForeignState,
    Position,
    RunHeader,
)
from runstream.model.erasures import ErasedPlace, ErasureNote
from runstream.model.errors import ConfigurationError, CorruptRecordError
from runstream.model.identifiers import one_of_kind
from runstream.model.protocols import Sink
from runstream.model.results import Cursor, Fork
from runstream.model.run_head import EndedLane
from runstream.operations.lineage import Segment
from runstream.operations.operation import Operation

__all__ = [
    "Archive",
    "ChecksIntegrity",
    "ErasesContent",
    "HasColumns",
    "HoldsForeign",
    "KnowsForks",
    "MakesWhole",
    "MarksRecovered",
    "archive_of",
    "part_of",
]

C = TypeVar("C")


@runtime_checkable
class KnowsForks(Protocol):
    """The operations of a store, or an archive, that find the forks of a run among the runs that they hold."""

    def forks_of(self, run_id: str, creation: int | None = None) -> Sequence[Fork]:
        """The runs, of those that it holds, that were forked from a run and share its history.

        Args:
            run_id: The run.
            creation: Names the creation of the run that is meant; None: as it is held here.
        """


@runtime_checkable
class Archive(Sink, KnowsForks, Protocol):
    """A sink whose runs a person can repair. The drain worker needs none of its methods."""

    def header(self, run_id: str) -> RunHeader | None:
        """The header that the archive stores of a run; None for one that it does not know."""

    def run_ids(self) -> Iterator[str]:
        """The ids of the runs that it holds."""

    def ended_lanes(self, run_id: str) -> Sequence[EndedLane]:
        """The ends of those lanes of a run to which nothing has come since."""

    def readmit(self, run_id: str, entry: ArchiveEntry) -> bool:
        """Put an event that reads by now back at its offset in the history, out of the quarantine.

        Durable when it returns. False, and nothing is changed, if the quarantine has no record with this very
        cursor (any more).
        """

    def cut_back(self, header: RunHeader, to: Position, expected: Cursor) -> None:
        """Remove what comes after ``to`` from a run, and the snapshots that ``to`` does not name.

        Durable when it returns, completely or not at all, and idempotent.

        Args:
            header: What the archive notes of the run from then on. Where it starts elsewhere than the run does,
                nothing of the run's history stays, and ``to`` is that start.
            to: The position that the run has afterwards.
            expected: The cursor at which the run must end before.

        Raises:
            ConcurrencyConflict: The run ends elsewhere; nothing is changed.
            HistoryDiverged: The run never was at ``to``; nothing is changed.
        """

    def delete_history(self, run_id: str, creation: int | None) -> bool:
        """Remove a run, and refuse its history for a week: a drain in flight may be about to write it.

        Args:
            run_id: The run.
            creation: Names the creation of the run (:attr:`~runstream.model.run_head.RunHead.creation`); None for
                that of what the archive itself has.

        Returns:
            False if there was nothing to remove.

        Raises:
            RunHasForks: Runs that were forked from it need its history.
        """


@runtime_checkable
class ErasesContent(Protocol):
    """An archive that erases what a worker asks it to, for good.

    What was asked for is noted in the same step: also offsets that the archive does not have yet are written as
    erased from then on, whatever a worker hands over that loaded them before (``RunBatch.erasures_seen``). What is
    handed over by one that knows all that is noted is written as it is: where that was asked for, it is erased by
    then, and where Redis has lost the request, it is another event. Each call is durable when it returns, done
    completely or not at all, and idempotent. What is gone then may still lie in the archive's files;
    ``where_erased`` sees to that and says so.
    """

    def erase_offsets(self, header: RunHeader, note: ErasureNote, clean: Collection[str] = ()) -> None:
        """Erase the content at the offsets of a note; chains and callers' keys stay.

        So goes what is kept of it in the quarantine and in branches of the run, and every snapshot of the run, its
        lanes and its branches that may hold it (:func:`~runstream.model.erasures.may_hold`).

        Args:
            header: The run, by its id, start and identity; the archive need not have it.
            note: What was asked for, and when.
            clean: The tokens of snapshots that hold nothing of it: they stay.

        Raises:
            HistoryDiverged: The archive has another run of that name; nothing was erased.
            StoreUnavailable: The archive cannot be written: send the same again.
        """

    def truncate_history(
        self, header: RunHeader, note: ErasureNote, base: Cursor, former: Sequence[ArchiveEntry] = ()
    ) -> None:
        """Remove the entries up to ``base``, and the earlier snapshots that cover less; callers' keys stay.

        An archive that is not as far as ``base`` goes on from there; one that begins later stays as it is.

        Args:
            header: As of ``erase_offsets``.
            note: Likewise.
            base: The cursor before the first event that stays.
            former: What is left of entries up to there that an archive lacks which is not as far: callers' keys,
                and the last events of lanes.

        Raises:
            HistoryDiverged: The archive has another run of that name, or a history that never was at ``base``;
                nothing was removed.
            RunHasForks: Runs that were forked from it, and that the archive has, need some of what is to go;
                nothing was removed.
            StoreUnavailable: The archive cannot be written: send the same again.
        """

    def erasure_notes(self, run_id: str) -> Sequence[ErasureNote]:
        """The erasures that are noted of a run, in the order in which they came."""

    def where_erased(self) -> ErasedPlace:
        """Whether all that was erased of any run is out of the archive's files too; if not, tries again first.

        It may take as long as to write the archive's files anew: ask it once for many erasures.
        """


@runtime_checkable
class MakesWhole(Protocol):
    """An archive that copies what a run had shared, which was a fork, and is none in Redis any more."""

    def lacks_shared(self, header: RunHeader, of: Sequence[Segment] = ()) -> int | None:
        """The offset after which the archive lacks what a run had shared; None if there is nothing to be copied.

        Args:
            header: The run as it is now.
            of: What it had from other runs, the oldest first, for an archive that does not know it yet.
        """

    def make_whole(self, header: RunHeader, rest: Sequence[ArchiveEntry], of: Sequence[Segment] = ()) -> None:
        """Let the archive have all of a run's history as the run's own: from those that it came from, then this.

        Durable when it returns; idempotent. What was to be erased of the run is not copied.

        Args:
            header: The run as it is now.
            rest: The entries after what ``lacks_shared`` says, up to where it was forked.
            of: As of ``lacks_shared``.

        Raises:
            ArchiveGap: Some of what it had shared is neither there nor among these.
            HistoryDiverged: The archive has another history of what it had shared.
        """


@runtime_checkable
class HasColumns(Protocol):
    """An archive that keeps fields of its events in columns beside their text, to be compared with it."""

    def columns(self, run_id: str, first: int, last: int) -> Mapping[int, EntryColumns]:
        """The columns of the events at these offsets, both included, by offset."""

    def noted_lanes(self, run_id: str) -> Mapping[str, int]:
        """The offset of the last event of each lane, as it is noted."""


@runtime_checkable
class ChecksIntegrity(Protocol):
    """An archive whose medium can be checked as such."""

    def check_integrity(self) -> list[str]:
        """What is wrong with the files, and with what they hold of each run; nothing if all is sound."""

    def check_file(self) -> list[str]:
        """What is wrong with the files as such; nothing if they are sound."""

    def check_beside(self, run_id: str) -> list[CorruptRecordError]:
        """What is wrong with what is kept of a run beside its entries."""

    def sound_snapshots(self, run_id: str) -> tuple[list[ArchiveSnapshot], dict[str | None, CorruptRecordError]]:
        """The latest snapshots of a run that read, and why the others do not, by lane (None: the run's own)."""

    def note_proven(self, run_id: str, entries: Sequence[ArchiveEntry]) -> None:
        """Give entries that were proven by their chain their checksums, where the medium can add these."""


@runtime_checkable
class HoldsForeign(Protocol):
    """An archive whose files another program writes to as well: what it did to runs that came by a drain."""

    def foreign(self) -> Sequence[ForeignRows]:
        """What it did, run by run."""

    def refused(self) -> Mapping[str, str]:
        """The runs of which nothing is read or written since it made a second one of them, and what helps."""

    def foreign_events(self, run_id: str) -> Iterator[ForeignEvent]:
        """The events that it has added to a run, and that the run does not have, in the order of writing."""

    def foreign_state(self, run_id: str) -> ForeignState | None:
        """The state that it has put in the place of the run's."""


@runtime_checkable
class MarksRecovered(Protocol):
    """The operations of a store whose writer may know a history that it read elsewhere."""

    def mark_recovered(self, run_id: str, offset: int, lane_id: str | None) -> Operation[None]:
        """Mark events up to ``offset`` as known to this writer, so that its next snapshot covers them."""


def part_of(store: Any, capability: Callable[..., C]) -> C | None:
    """The part of a store that has a capability, or None.

    Args:
        store: The store, sync or async, or a part of one.
        capability: A Protocol of this module, or another class whose objects are parts of stores. (It is no
            ``type[C]``, which a Protocol is not to mypy.)
    """
    kind: Any = capability
    parts = (*getattr(store, "_parts", ()), store)
    # by its classes first: isinstance takes the value of a Protocol's property, and an archive may make its UUID
    # when that is asked for
    named = (part for part in parts if kind in type(part).__mro__)
    return next(chain(named, (part for part in parts if isinstance(part, kind))), None)


def archive_of(store: Any) -> Archive:
    """The archive that a store is, or has.

    Raises:
        ConfigurationError: It has none.
    """
    archive = part_of(store, Archive)
    if archive is None:
        raise ConfigurationError(f"{one_of_kind(store)} is no archive: pass a SQLite or JSONL store")
    return archive
