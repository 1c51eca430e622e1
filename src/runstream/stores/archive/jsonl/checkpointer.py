"""The archive of JSON lines as a user opens it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from runstream.codec.event_codec import DEFAULT_MAX_EVENT_BYTES, Codec
from runstream.codec.fallback import plain_data
from runstream.codec.upcasts import Upcasts
from runstream.model.protocols import Fallback
from runstream.model.results import E, S
from runstream.stores.archive.access import check_mode
from runstream.stores.archive.facade import ArchiveStore
from runstream.stores.archive.jsonl.drained_runs import DrainedRuns
from runstream.stores.archive.jsonl.operations import JSONLOperations
from runstream.stores.archive.snapshot_history import KeepSnapshots, check_keep
from runstream.stores.lifecycle import reopen_with
from runstream.stores.urls import check_path

__all__ = ["JSONLCheckpointer"]


class JSONLCheckpointer(ArchiveStore[E, S]):
    """Runs as JSON lines: ``DIR/RUN/events.jsonl`` and ``snapshot.json``, which purpose-agent's own reader reads.

    Threads and processes of one host may share the directory, the store survives a fork, and it is pickled by its
    directory. A write is on the disk when it returns. There are no leases.

    Args:
        base_dir: The directory. It is made if it is not there, and nothing else until the first write; a read
            makes nothing.
        event_type: The class of the events; None: :class:`~runstream.model.events.PAEvent`.
        state_type: The class of the states; None: :class:`~runstream.model.state.RunState`.
        fallback: Turns a value that cannot be stored into one that can; None: such a value is refused.
        max_event_bytes: How large an encoded event may be.
        upcasts: The program's schema version, and its rules to read what older versions of it wrote; None: what is
            stored is given as it is.
        busy_timeout_seconds: How long a writer waits for another one of the same run before it raises
            StoreUnavailable.
        keep_snapshots: How many of the snapshots that are saved through this object to keep in
            ``snapshots.jsonl``, of each run and of each of its lanes; up to twice as many take up room. None: as
            many as the archive keeps: what was asked for when it was made, else 20, and all of them if it was made
            before there was such a number. ``"all"``, or 0: none but the latest. A snapshot of 1 MB that is saved
            1,000 times takes 1 GB.
        mode: The permissions of the files that are made (0o640); a directory may be entered by whoever may read.
            None: 0o600, or in a directory that a group may write to 0o660, and the group's. What exists keeps its
            own.
        plain_names: Name the directory of a run that begins here as its id stands, so that purpose-agent's own
            writer and reader find it: an id of ASCII characters, but for slashes and ``%``, on a file system that
            distinguishes case. Without it, capitals and blanks are encoded. What has begun stays where it is.

    Attributes:
        base_dir: The directory, with its absolute path.

    Raises:
        ConfigurationError: ``base_dir`` is not a directory and cannot be made one.
        UnsupportedVersion: A newer runstream wrote it.
    """

    def __init__(
        self,
        base_dir: str | os.PathLike[str],
        *,
        event_type: type[E] | None = None,
        state_type: type[S] | None = None,
        fallback: Fallback | None = plain_data,
        max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES,
        upcasts: Upcasts | None = None,
        busy_timeout_seconds: float = 30.0,
        keep_snapshots: KeepSnapshots | None = None,
        mode: int | None = None,
        plain_names: bool = False,
    ) -> None:
        check_keep(keep_snapshots)
        check_mode(mode)
        check_path(base_dir)
        self.base_dir = path = Path(base_dir).absolute()
        codec: Codec[E, S] = Codec(event_type, state_type, fallback, max_event_bytes, upcasts=upcasts)
        operations = JSONLOperations(
            codec,
            path,
            busy_timeout_seconds=busy_timeout_seconds,
            keep_snapshots=keep_snapshots,
            mode=mode,
            plain_names=plain_names,
        )
        super().__init__(operations, DrainedRuns(operations._logs))
        reopen = partial(
            JSONLCheckpointer,
            event_type=event_type,
            state_type=state_type,
            fallback=fallback,
            max_event_bytes=max_event_bytes,
            upcasts=upcasts,
            busy_timeout_seconds=busy_timeout_seconds,
            keep_snapshots=keep_snapshots,
            mode=mode,
            plain_names=plain_names,
        )
        reopen_with(self, reopen, str(path))
