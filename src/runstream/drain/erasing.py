"""Erase what is to be erased of runs, in every archive and in Redis, before more of them is archived.

An archive notes what was asked for in the step in which it erases it: a worker that has loaded the content before,
and writes it after that, brings nothing back. Only then the stream in Redis is made anew; what is not archived yet
is archived as erased. Each step may be repeated, by any worker; what is done is noted in Redis, place by place.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from runstream.drain.claimed_run import Erased
from runstream.drain.detached import make_whole
from runstream.drain.lost_erasures import ask_for_lost
from runstream.drain.parts import WorkerParts
from runstream.model.archive_records import ArchiveEntry
from runstream.model.erasures import ErasureNote
from runstream.model.errors import ArchiveGap, CorruptRecordError, HistoryDiverged, RunHasForks
from runstream.model.protocols import Sink
from runstream.stores.capabilities import ErasesContent, part_of
from runstream.stores.redis.noted_erasures import InArchive, NotedErasures
from runstream.stores.redis.operations.worker.hot_run import HotRun

__all__ = ["Erasing"]


@dataclass(slots=True)
class _Pending:
    """What is to be erased of a run, why an archive cannot, and what hinders it, which passes."""

    run: HotRun
    noted: NotedErasures
    refusals: list[str] = field(default_factory=list)
    hindrances: list[str] = field(default_factory=list)

    @property
    def notes(self) -> dict[int, ErasureNote]:
        """What had been asked for when the run was loaded: its head has the beginning that belongs to that."""
        return {number: note for number, note in self.noted.notes.items() if number <= self.run.erasures}


class Erasing:
    """Carries out the erasures of runs, as one worker does it.

    Args:
        parts: The worker's parts.
    """

    def __init__(self, parts: WorkerParts) -> None:
        self._parts = parts
        self._namespace = parts.namespace

    def carry_out(self, run_ids: Sequence[str]) -> dict[str, Erased]:
        """Carry out the erasures of these runs, as far as that can be done now.

        Returns:
            What has become of them, by run id.

        Raises:
            StoreUnavailable: Redis or an archive cannot be reached; it is safe to repeat.
        """
        namespace = self._namespace
        erased: dict[str, Erased] = {}
        loaded: dict[str, _Pending] = {}
        for run in namespace.load_runs(run_ids):  # with the snapshots of all lanes
            if run is not None and (why := self._ask_for_lost(run)):
                erased[run.run_id] = Erased(unknown=why)
            elif run is not None and (pending := self._pending(run)) is not None:
                loaded[run.run_id] = pending
        for sink in self._parts.sinks:
            self._parts.stats.beat()
            former = {run_id: self._former(sink, pending) for run_id, pending in loaded.items()}
            with self._parts.outages.using(sink.location):
                found = {run_id: self._erase_in(sink, loaded[run_id], former[run_id]) for run_id in loaded}
                left = _left_in(sink)
            for run_id, pending in loaded.items():
                if left and not found[run_id]:
                    pending.hindrances.append(left)
                self._note(sink, pending, found[run_id] or left)
        for run_id, pending in loaded.items():
            hindrances = [*pending.hindrances, namespace.rebuild(pending.run.header)]
            hindrances.append(namespace.erase_inherited(run_id, pending.noted.since(pending.run.erased)))
            refusal, hindrance = ("; ".join(filter(None, why)) for why in (pending.refusals, hindrances))
            number = 0 if refusal or hindrance else pending.run.erasures
            erased[run_id] = Erased(number, list(pending.notes.values()), refusal, hindrance)
        return erased

    def _ask_for_lost(self, run: HotRun) -> str:
        return next(filter(None, (ask_for_lost(self._parts, sink, run) for sink in self._parts.sinks)), "")

    def _pending(self, run: HotRun) -> _Pending | None:
        """What is to be erased of a run as it is now; None if it is not there any more."""
        noted = self._namespace.load_erasures(run.run_id)
        if noted.last == run.erasures:
            return _Pending(run, noted)
        (again,) = self._namespace.load_runs([run.run_id])  # it was asked for since, as what was lost is
        return None if again is None else _Pending(again, self._namespace.load_erasures(run.run_id))

    def _note(self, sink: Sink, pending: _Pending, why: str) -> None:
        """Note in Redis what has become of it in an archive; ``why`` it is not done there, '' if it is."""
        known = pending.noted.in_archive(sink.archive_id)
        there = InArchive(known.number if why else max(known.number, pending.run.erasures), why)
        if there.text != known.text:
            self._namespace.note_archived(pending.run.header, sink.archive_id, there)

    def _erase_in(self, sink: Sink, pending: _Pending, former: Sequence[ArchiveEntry]) -> str:
        """Erase in an archive what it has not erased of a run yet. Gives why it does not; '' if it has."""
        archive, run = part_of(sink, ErasesContent), pending.run
        if archive is None:
            pending.refusals.append(f"{sink.location} is of a kind that cannot erase anything")
            return pending.refusals[-1]
        known = {note.text for note in archive.erasure_notes(run.run_id)}
        done = pending.noted.in_archive(sink.archive_id).number
        try:
            for number, note in pending.notes.items():
                if number <= done and note.text in known:  # it may have been put back from a copy
                    continue
                if note.before is None:
                    # what was saved since it was asked for holds nothing of it; what held something is gone
                    archive.erase_offsets(run.header, note, set(run.head.tokens.values()))
                else:
                    self._truncate(archive, run, note, former)
        except HistoryDiverged as error:
            pending.refusals.append(str(error))
            return str(error)
        except RunHasForks as error:
            pending.hindrances.append(f"{sink.location}: {error}")
            return str(error)
        return ""

    def _former(self, sink: Sink, pending: _Pending) -> Sequence[ArchiveEntry]:
        """What is left of those events of a run that were truncated before an archive had them."""
        run, base = pending.run, pending.run.head.base
        if base is None:
            return ()
        position = self._parts.position(sink, run.run_id, lanes=())
        if position is None or position.cursor >= base:
            return ()  # it gets that with the run, or has all of them
        after = position.cursor.offset
        return self._namespace.erased_facts(run.run_id, after).former(after, base)

    def _truncate(
        self, archive: ErasesContent, run: HotRun, note: ErasureNote, former: Sequence[ArchiveEntry]
    ) -> None:
        """Remove the beginning of a run in an archive, once forks that are none any more have it themselves."""
        base = run.head.before_first
        try:
            archive.truncate_history(run.header, note, base, former)
        except RunHasForks as error:
            if True not in [self._made_whole(fork) for fork in error.forks]:
                raise
            archive.truncate_history(run.header, note, base, former)

    def _made_whole(self, run_id: str) -> bool:
        """Whether an archive was given all of a run that is a fork there, and none in Redis any more."""
        with suppress(ArchiveGap, HistoryDiverged, CorruptRecordError):  # it is parked when it is drained itself
            (run,) = self._namespace.load_runs([run_id])
            return run is not None and run.head.was_fork and make_whole(self._parts, run)
        return False


def _left_in(sink: Sink) -> str:
    """Why what was erased is not out of an archive's files yet; '' if it is."""
    archive = part_of(sink, ErasesContent)
    where = None if archive is None else archive.where_erased()
    return (
        ""
        if where is None or where.done
        else f"{sink.location}: {where.reason}; {where.command}".removesuffix("; ")
    )
