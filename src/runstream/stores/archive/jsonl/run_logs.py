"""The logs of an archive's runs in one process: exclusive access to them, and each run's head.

Threads come one at a time; a process that was forked starts anew. A writer holds a lock of each run.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from runstream.model.errors import ConfigurationError, CorruptRecordError
from runstream.model.run_head import RunHead
from runstream.operations.forks import starts_anew
from runstream.stores.archive.jsonl import file_names
from runstream.stores.archive.jsonl.directory import ArchiveDirectory
from runstream.stores.archive.jsonl.file_locks import unavailable
from runstream.stores.archive.jsonl.noted_runs import has_notes_alone
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.archive.jsonl.run_tags import tags_of
from runstream.stores.archive.jsonl.snapshot_files import load_snapshot, load_state
from runstream.stores.archive.snapshot_history import KEPT_SNAPSHOTS, KeepSnapshots, count_kept

__all__ = ["RunLogs"]

_MAX_LOGS = 1024  # runs of which this process remembers where they stand


class RunLogs:
    """The logs in an archive's directory.

    Args:
        path: The archive's directory, absolute.
        wait_seconds: How long a writer waits for another one of the same run.
        keep_snapshots: How many snapshots of each run and lane are kept; None: as many as the archive keeps.
        status_of: Tells what a state says of its run, None for nothing.
        mode: The permissions of new files; None: those that the directory suggests.
        plain_names: Name the directory of a new run as its id stands, where that is safe.
    """

    def __init__(
        self,
        path: Path,
        wait_seconds: float,
        keep_snapshots: KeepSnapshots | None,
        status_of: Callable[[dict[str, Any]], str | None],
        mode: int | None = None,
        *,
        plain_names: bool = False,
    ) -> None:
        self.path = path
        kept = count_kept(keep_snapshots, KEPT_SNAPSHOTS)
        self.directory = ArchiveDirectory(path, wait_seconds, mode, plain_names=plain_names, keep_snapshots=kept)
        self._keep_snapshots = keep_snapshots
        self._status_of = status_of
        self._is_closed = False
        self._start_anew()
        starts_anew(self)

    def close(self) -> None:
        """Close the logs. Closing twice is fine."""
        self._is_closed = True

    # -- who may get at them -------------------------------------------------------------------------------

    def _start_anew(self) -> None:
        """Remember no run's log: one may be half read."""
        self._mutex = threading.RLock()
        self._logs: OrderedDict[str, RunLog] = OrderedDict()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other threads out. Raises StoreUnavailable where the directory is not the archive's any more."""
        if self._is_closed:
            raise ConfigurationError(f"this store of {self.path} is closed; open another")
        with self._mutex:
            self.directory.check()
            yield

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Keep other threads out while files are read, and raise StoreUnavailable in place of OSError."""
        with self.alone(), unavailable(self.path):
            yield

    @contextlib.contextmanager
    def reading_run(self, run_id: str) -> Iterator[RunLog]:
        """The log of a run, as its file is now, while no other thread uses it; see `reading`."""
        with self.reading():
            log = self.log(run_id)
            log.refresh()
            yield log

    @contextlib.contextmanager
    def writing(self, names: Iterable[str]) -> Iterator[None]:
        """Keep other threads and processes out while these runs are written to."""
        with self.alone():
            self.directory.archive_id()  # an archive has its UUID before it has a run
            self.directory.upgrade()
            with self.directory.locks.held(names), unavailable(self.path):
                self.directory.check()  # again: it may have taken a while
                yield

    @contextlib.contextmanager
    def repairing(self, log: RunLog) -> Iterator[None]:
        """Hold the run's lock if there is something to take back: another writer must not be in the middle."""
        with self.directory.locks.held([log.run_id] if log.has_failed else ()):
            yield

    # -- the logs, and where the runs stand ----------------------------------------------------------------

    def log(self, run_id: str) -> RunLog:
        """A run's log, whether it exists or not."""
        directory = self.directory.directory_of(run_id)
        log = self._logs.get(run_id)
        if log is None or log.directory != directory:
            log = self._logs[run_id] = RunLog(directory, run_id, self._kept, self.directory.access)
            if len(self._logs) > _MAX_LOGS:
                self._logs.popitem(last=False)
        self._logs.move_to_end(run_id)
        return log

    def _kept(self) -> int | None:
        return count_kept(self._keep_snapshots, self.directory.keep_snapshots)

    def begun(self, log: RunLog) -> RunLog:
        """The log of a run that is to be written to: where it is, or where it is to begin. The caller locks it."""
        if log.index.start is not None or log.directory.exists():
            return log
        self.directory.begin(log.run_id)
        return self.log(log.run_id)

    def remove(self, log: RunLog) -> None:
        """Remove a run; files of other programs in its directory stay."""
        log.remove(self.directory.new_trash())
        self._logs.pop(log.run_id, None)

    def head(self, log: RunLog, *, durable: bool = False) -> RunHead | None:
        """A run's head; None for a run that is not there. With ``durable``, all of it is on the disk."""
        head = log.head() if log.refresh(durable=durable) and not has_notes_alone(log) else None
        if log.mark is None:
            head = self._with_state(log, head)
        return _with_status(head)

    def head_in_brief(self, log: RunLog) -> RunHead | None:
        """A run's head with its tags, from the two ends of its log if these have it.

        Raises:
            CorruptRecordError: The log's header, its last commit mark, or what it has of the tags was damaged.
        """
        head = log.head_from_ends()
        if head is not None:
            return _with_status(head)
        head = self.head(log)
        log.index.check_head()
        return None if head is None else replace(head, tags=tags_of(log))

    def archived_head(self, log: RunLog) -> RunHead | None:
        """A run's head as a sink sees it: a run with a state and no log has no history yet."""
        head = self.head(log, durable=True)
        return None if log.index.start is None else head

    def _with_state(self, log: RunLog, head: RunHead | None) -> RunHead | None:
        """The head of a run that only another program wrote, completed from its snapshot."""
        with contextlib.suppress(FileNotFoundError, CorruptRecordError):
            saved_at = (log.directory / file_names.snapshot_name(None)).stat().st_mtime
            head = head or RunHead(status="", created_at=saved_at, updated_at=saved_at)
            snapshot = load_snapshot(log.run_id, log.directory, None, log.mark)
            if snapshot is not None:
                fields = load_state(log.run_id, snapshot)
                session_id = fields.get("session_id")
                is_later = not head.status or saved_at >= head.updated_at
                head = replace(
                    head,
                    status=(self._status_of(fields) if is_later else None) or head.status,
                    session_id=head.session_id or (session_id if isinstance(session_id, str) else ""),
                    updated_at=max(head.updated_at, saved_at),
                )
        return head


def _with_status(head: RunHead | None) -> RunHead | None:
    return replace(head, status="running") if head is not None and not head.status else head
