"""Erase what is to be erased of runs, in every archive and in Redis, before more of them is archived.

An archive notes what was asked for in the step in which it erases it: a worker that has loaded the content before,
and writes it after that, brings nothing back. Only then the stream in Redis is made anew; what is not archived yet
is archived as erased. Each step may be repeated, by any worker; what is done is noted in Redis, place by place.
"""

from __future__ import annotations

from collections.abc import Sequence

from runstream.drain.claimed_run import Erased
from runstream.drain.lost_erasures import ask_for_lost
from runstream.drain.parts import WorkerParts
from runstream.model.erasures import ErasureNote
from runstream.model.errors import HistoryDiverged
from runstream.model.protocols import Sink
from runstream.stores.capabilities import ErasesContent, part_of
from runstream.stores.redis.noted_erasures import NotedErasures
from runstream.stores.redis.operations.worker.hot_run import HotRun

__all__ = ["Erasing"]


class Erasing:
    """Carries out the erasures of runs, as one worker does it.

    Args:
        parts: The worker's parts.
    """

    def __init__(self, parts: WorkerParts) -> None:
        self._parts = parts

    def carry_out(self, run_ids: Sequence[str]) -> dict[str, Erased]:
        """Carry out the erasures of these runs, as far as that can be done now.

        Returns:
            What has become of them, by run id.

        Raises:
            StoreUnavailable: Redis or an archive cannot be reached; it is safe to repeat.
        """
        namespace = self._parts.namespace
        unknown = {run.run_id: self._ask_for_lost(run) for run in namespace.load_runs(run_ids) if run is not None}
        asked = [run_id for run_id, why in unknown.items() if not why]
        runs = [run for run in namespace.load_runs(asked) if run is not None]  # with the snapshots of all lanes
        loaded = {run.run_id: (run, namespace.load_erasures(run.run_id)) for run in runs}
        refusals: dict[str, list[str]] = {run_id: [] for run_id in loaded}
        hindrances: dict[str, list[str]] = {run_id: [] for run_id in loaded}
        for sink in self._parts.sinks:
            self._parts.stats.beat()
            with self._parts.outages.using(sink.location):
                found = {run_id: _in_archive(sink, run, noted) for run_id, (run, noted) in loaded.items()}
                left = _left_in(sink)
            for run_id, (run, noted) in loaded.items():
                if found[run_id]:
                    refusals[run_id].append(found[run_id])
                elif left:
                    hindrances[run_id].append(left)
                elif noted.archives.get(sink.archive_id, 0) < run.erasures:
                    namespace.note_archived(run.header, sink.archive_id, run.erasures)
        erased = {run_id: Erased(unknown=why) for run_id, why in unknown.items() if why}
        for run_id, (run, noted) in loaded.items():
            hindrances[run_id].append(namespace.rebuild(run.header))
            hindrances[run_id].append(namespace.erase_inherited(run_id, noted.spans_since(run.erased)))
            refusal, hindrance = ("; ".join(filter(None, why[run_id])) for why in (refusals, hindrances))
            number = 0 if refusal or hindrance else run.erasures
            erased[run_id] = Erased(number, list(_asked(run, noted).values()), refusal, hindrance)
        return erased

    def _ask_for_lost(self, run: HotRun) -> str:
        return next(filter(None, (ask_for_lost(self._parts, sink, run) for sink in self._parts.sinks)), "")


def _in_archive(sink: Sink, run: HotRun, noted: NotedErasures) -> str:
    """Erase in an archive what it has not erased of a run yet. Returns why it cannot; '' if it has."""
    archive = part_of(sink, ErasesContent)
    if archive is None:
        return f"{sink.location} is of a kind that cannot erase anything"
    known = {note.text for note in archive.erasure_notes(run.run_id)}
    done = noted.archives.get(sink.archive_id, 0)
    try:
        for number, note in _asked(run, noted).items():
            if number <= done and note.text in known:  # it may have been put back from a copy
                continue
            if note.before is None:
                # what was saved since it was asked for holds nothing of it; what held something is gone
                archive.erase_offsets(run.header, note, set(run.head.tokens.values()))
            else:
                archive.truncate_history(run.header, note, run.head.before_first)
    except HistoryDiverged as error:
        return str(error)
    return ""


def _left_in(sink: Sink) -> str:
    """Why what was erased is not out of an archive's files yet; '' if it is."""
    archive = part_of(sink, ErasesContent)
    where = None if archive is None else archive.where_erased()
    return (
        ""
        if where is None or where.done
        else f"{sink.location}: {where.reason}; {where.command}".removesuffix("; ")
    )


def _asked(run: HotRun, noted: NotedErasures) -> dict[int, ErasureNote]:
    """What had been asked for when the run was loaded: its head has the beginning that belongs to that."""
    return {number: note for number, note in noted.notes.items() if number <= run.erasures}
