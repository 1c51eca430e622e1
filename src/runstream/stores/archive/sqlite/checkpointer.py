"""The SQLite archive as a user opens it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from runstream.codec.event_codec import DEFAULT_MAX_EVENT_BYTES, Codec
from runstream.codec.fallback import plain_data
from runstream.codec.upcasts import Upcasts
from runstream.model.clock import unix_seconds
from runstream.model.protocols import Fallback
from runstream.model.results import E, S
from runstream.stores.archive.access import check_mode
from runstream.stores.archive.facade import ArchiveStore
from runstream.stores.archive.snapshot_history import KeepSnapshots, check_keep
from runstream.stores.archive.sqlite.connection import absolute_path
from runstream.stores.archive.sqlite.drained_runs import DrainedRuns
from runstream.stores.archive.sqlite.operations import SQLiteOperations
from runstream.stores.lifecycle import reopen_with
from runstream.stores.urls import check_path

__all__ = ["SQLiteCheckpointer"]


class SQLiteCheckpointer(ArchiveStore[E, S]):
    """Runs in one SQLite file, which is created if it is not there.

    Threads and processes of one host may share it, it survives a fork, and it is pickled by its path. What a call
    has written survives a crash of the process and of the machine.

    Args:
        db_path: The file.
        event_type: The class of the events; None: :class:`~runstream.model.events.PAEvent`.
        state_type: The class of the states; None: :class:`~runstream.model.state.RunState`.
        fallback: Turns a value that cannot be stored into one that can; None: such a value is refused.
        max_event_bytes: How large an encoded event may be.
        upcasts: The program's schema version, and its rules to read what older versions of it wrote; None: what is
            stored is given as it is.
        busy_timeout_seconds: How long a writer waits for another one before it raises StoreUnavailable.
        require_lease: Refuse every write without a lease on what it touches.
        keep_snapshots: How many of the snapshots that are saved through this object to keep, of each run and of
            each of its lanes. None: as many as the file keeps: what was asked for when it was made, else 20, and
            all of them if it was made before there was such a number. ``"all"``, or 0: none but the latest. A
            snapshot of 1 MB that is saved 1,000 times takes 1 GB.
        mode: The permissions of the files that are made (0o640); a directory may be entered by whoever may read.
            None: 0o600, or in a directory that a group may write to 0o660, and the group's. What exists keeps its
            own.
        clock: Unix time in seconds; leases run out by it.

    Attributes:
        db_path: The file, with its absolute path.

    Raises:
        ConfigurationError: The path cannot be a database of this store.
        UnsupportedVersion: A newer version wrote the file.
    """

    def __init__(
        self,
        db_path: str | os.PathLike[str] = "runstream.db",
        *,
        event_type: type[E] | None = None,
        state_type: type[S] | None = None,
        fallback: Fallback | None = plain_data,
        max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES,
        upcasts: Upcasts | None = None,
        busy_timeout_seconds: float = 30.0,
        require_lease: bool = False,
        keep_snapshots: KeepSnapshots | None = None,
        mode: int | None = None,
        clock: Callable[[], float] = unix_seconds,
    ) -> None:
        check_keep(keep_snapshots)
        check_mode(mode)
        check_path(db_path)
        self.db_path: str = absolute_path(db_path)
        path = self.db_path
        codec: Codec[E, S] = Codec(event_type, state_type, fallback, max_event_bytes, upcasts=upcasts)
        operations = SQLiteOperations(
            codec,
            path,
            busy_timeout_seconds=busy_timeout_seconds,
            require_lease=require_lease,
            keep_snapshots=keep_snapshots,
            mode=mode,
            clock=clock,
        )
        super().__init__(operations, DrainedRuns(operations._file))
        self._one_look = operations._file.one_look
        reopen = partial(
            SQLiteCheckpointer,
            event_type=event_type,
            state_type=state_type,
            fallback=fallback,
            max_event_bytes=max_event_bytes,
            upcasts=upcasts,
            busy_timeout_seconds=busy_timeout_seconds,
            require_lease=require_lease,
            keep_snapshots=keep_snapshots,
            mode=mode,
            clock=clock,
        )
        reopen_with(self, reopen, path)

    def one_look(self) -> AbstractContextManager[None]:
        """Let what this thread reads meanwhile be of one moment: the file is looked after once for all of it."""
        return self._one_look()
