"""The runs of a directory as one process has them: how their logs are got at, and where each of them stands.

Threads come one at a time; a process that was forked starts anew. Who writes holds a lock of each run.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

from runstream.model.errors import ConfigurationError, CorruptRecordError
from runstream.model.protocols import Fallback
from runstream.model.results import Cursor, E, RunInfo, S
from runstream.stores.archive.base import ArchiveStore
from runstream.stores.archive.jsonl import file_names
from runstream.stores.archive.jsonl.directory import Home
from runstream.stores.archive.jsonl.file_locks import unavailable
from runstream.stores.archive.jsonl.run_head import Standing
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.archive.jsonl.snapshot_files import load_snapshot, load_state

__all__ = ["JSONLRuns"]

_MAX_LOGS = 1024  # runs of which this process remembers where they stand


class JSONLRuns(ArchiveStore[E, S]):
    """What :class:`~runstream.stores.archive.jsonl.JSONLCheckpointer` stands on."""

    def __init__(
        self,
        base_dir: Path,
        *,
        event_type: type[E] | None,
        state_type: type[S] | None,
        fallback: Fallback | None,
        max_event_bytes: int,
        busy_timeout_seconds: float,
        keep_snapshots: int | None,
    ) -> None:
        super().__init__(
            event_type=event_type, state_type=state_type, fallback=fallback, max_event_bytes=max_event_bytes
        )
        self.base_dir = base_dir
        self._is_closed = False
        self._keep_snapshots = keep_snapshots
        self._home = Home(self.base_dir, busy_timeout_seconds)
        self._start_anew()

    def close(self) -> None:
        """Use the store no more. Closing twice is fine."""
        self._is_closed = True
        super().close()

    # -- who may get at them -------------------------------------------------------------------------

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.RLock()
        self._logs: OrderedDict[str, RunLog] = OrderedDict()

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        if self._is_closed:
            raise ConfigurationError(f"this store of {self.base_dir} is closed; open another")
        if self._pid != os.getpid():
            self._start_anew()  # a thread of the parent may have held the mutex when it forked
        with self._mutex:
            self._home.check()
            yield

    @contextlib.contextmanager
    def _repairing(self, log: RunLog) -> Iterator[None]:
        """Hold the run's lock if there is something to take back: another writer must not be in the middle."""
        with self._home.locks.held([log.run_id] if log.has_failed else ()):
            yield

    @contextlib.contextmanager
    def _writing(self, run_ids: Iterable[str]) -> Iterator[None]:
        with self._using():
            self._home.archive_id()  # an archive has its UUID before it has a run
            with self._home.locks.held(run_ids), unavailable(self.base_dir):
                self._home.check()  # again: it may have taken a while
                yield

    # -- their logs, and where they stand -------------------------------------------------------------

    def _log(self, run_id: str) -> RunLog:
        directory = self._home.directory_of(run_id)
        log = self._logs.get(run_id)
        if log is None or log.directory != directory:
            log = self._logs[run_id] = RunLog(directory, run_id, self._keep_snapshots)
            if len(self._logs) > _MAX_LOGS:
                self._logs.popitem(last=False)
        self._logs.move_to_end(run_id)
        return log

    def _standing(self, log: RunLog, *, durable: bool = False, briefly: bool = False) -> Standing | None:
        standing = None
        if briefly:
            standing = log.glance()
        elif log.look(durable=durable):
            standing = log.standing()
        if standing is not None and not standing.is_foreign:
            return standing
        return self._foreign_standing(log, standing)

    def _history(self, log: RunLog) -> Standing | None:
        """Where a run stands as a sink has it: one of which there is a state and no log has no history yet."""
        standing = self._standing(log, durable=True)
        return None if log.history.start is None else standing

    def _foreign_standing(self, log: RunLog, standing: Standing | None) -> Standing | None:
        """Where a run stands that only another program wrote: its snapshot tells the rest."""
        with contextlib.suppress(FileNotFoundError, CorruptRecordError):
            saved_at = (log.directory / file_names.snapshot_name(None)).stat().st_mtime
            standing = standing or Standing(Cursor(0, 0), Cursor(0, 0), "", None, saved_at, saved_at)
            snapshot = load_snapshot(log.run_id, log.directory, None, log.mark)
            if snapshot is not None:
                fields = load_state(log.run_id, snapshot)
                session_id = fields.get("session_id")
                is_later = standing.status is None or saved_at >= standing.updated_at
                standing = standing._replace(
                    session_id=standing.session_id or (session_id if isinstance(session_id, str) else ""),
                    status=(self.codec.status_of(fields) if is_later else None) or standing.status,
                    updated_at=max(standing.updated_at, saved_at),
                )
        return standing

    def _info(self, run_id: str) -> RunInfo | None:
        standing = self._standing(self._log(run_id), briefly=True)
        if standing is None:
            return None
        last = standing.last.offset
        return RunInfo(
            run_id,
            standing.session_id,
            standing.status or "running",
            last,
            last,
            standing.start.offset + 1,
            standing.created_at,
            standing.updated_at,
            standing.parent,
        )

    def _infos(self) -> list[RunInfo]:
        with self._using(), unavailable(self.base_dir):
            found = [self._info(run_id) for run_id in self._home.run_ids()]
        return [info for info in found if info is not None]

    def _bounds(self, run_id: str) -> tuple[Cursor, Cursor] | None:
        with self._using(), unavailable(self.base_dir):
            standing = self._standing(self._log(run_id))
        return None if standing is None else (standing.start, standing.last)
