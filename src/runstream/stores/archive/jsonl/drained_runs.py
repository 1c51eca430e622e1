"""What another program did to the runs of a JSONL archive that came by a drain, where its lines do not count.

A line that was appended through Redis since, by ``runstream import --append``, has come back with a drain, under a
key that names it by its content. It stays where it is: nothing is taken out of a file that others append to.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from runstream.model.archive_records import ForeignEvent, ForeignRows, ForeignState
from runstream.model.errors import HistoryDiverged
from runstream.model.identifiers import check_run_id
from runstream.stores.archive.jsonl import file_names
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.archive.jsonl.run_logs import RunLogs
from runstream.stores.archive.jsonl.run_snapshots import has_foreign_state

__all__ = ["DrainedRuns"]


class DrainedRuns:
    """The part of a JSONL archive that tells of another program's lines in runs that came by a drain.

    It implements :class:`~runstream.stores.capabilities.HoldsForeign`.

    Args:
        logs: The logs of the archive.
    """

    def __init__(self, logs: RunLogs) -> None:
        self._logs = logs

    def foreign(self) -> Sequence[ForeignRows]:
        """What it did, run by run."""
        with self._logs.reading():
            run_ids = sorted(self._logs.directory.run_ids())
        found = []
        for run_id in run_ids:
            with suppress(HistoryDiverged), self._logs.reading():  # it is among those that are refused
                log = self._refreshed(run_id)
                has_state = log.index.is_drained and has_foreign_state(log)
                events = sum(1 for _ in self._added(log))
                if events or has_state:
                    found.append(ForeignRows(run_id, events, has_state))
        return found

    def refused(self) -> Mapping[str, str]:
        """The runs that are in two directories, and why nothing of them is read."""
        found = {}
        with self._logs.reading():
            for run_id in sorted(self._logs.directory.run_ids()):
                try:
                    self._logs.directory.directory_of(run_id)
                except HistoryDiverged as error:
                    found[run_id] = str(error)
        return found

    def foreign_events(self, run_id: str) -> Iterator[ForeignEvent]:
        """The events that it has added to a run, and that the run does not have, in the order of writing."""
        check_run_id(run_id)
        with self._logs.reading():
            return iter(list(self._added(self._refreshed(run_id))))

    def foreign_state(self, run_id: str) -> ForeignState | None:
        """The state that it has put in the place of the run's."""
        check_run_id(run_id)
        with self._logs.reading():
            log = self._refreshed(run_id)
            if not log.index.is_drained or not has_foreign_state(log):
                return None
            path = log.directory / file_names.snapshot_name(None)
            return ForeignState(path.read_bytes(), path.stat().st_mtime)

    def _refreshed(self, run_id: str) -> RunLog:
        log = self._logs.log(run_id)
        log.refresh()
        return log

    def _added(self, log: RunLog) -> Iterator[ForeignEvent]:
        """The lines that the run does not have under their keys. Two that are equal have keys of their own."""
        if not log.index.foreign:
            return
        archive_id = self._logs.directory.archive_id()
        seen: Counter[str] = Counter()
        with log.path.open("rb") as file:
            for begin, end in log.index.foreign:
                file.seek(begin)
                line = file.read(end - begin).strip()
                digest = hashlib.sha256(line).hexdigest()[:32]
                key = f"foreign:{archive_id}:{digest}:{seen[digest]}"
                seen[digest] += 1
                if key not in log.index.keys:
                    yield ForeignEvent(key, line)
