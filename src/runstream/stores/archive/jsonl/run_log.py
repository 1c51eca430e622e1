"""One run's directory: its log and its snapshots, written so that a batch is there whole or not at all.

A batch goes through four steps, each on the disk before the next begins:

1. its snapshots are written to files of another name (``snapshot.json.prepared-TOKEN``), and added to their
   history (:mod:`~runstream.stores.archive.jsonl.snapshot_history_file`), where nothing counts whose token was not
   committed;
2. its lines are appended in one write; the last carries the commit mark, which names the tokens:
   from here on the batch is committed, and readers take the prepared files for the snapshots;
3. the prepared files are renamed into place;
4. the next writer finds nothing to finish, or finishes step 3, or removes what a batch left that
   never came to step 2. What such a batch left of its lines is moved to ``events.jsonl.torn-N``.

The caller holds the run's lock while it writes, and hands out no two threads. No file stays open
between calls, so there is nothing to share with a forked process.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunHeader
from runstream.model.errors import StoreUnavailable
from runstream.stores.archive.durable_files import drop_from_cache, sync, sync_directory
from runstream.stores.archive.jsonl import file_names
from runstream.stores.archive.jsonl.file_locks import is_at, names_in, unavailable, write_all, write_file
from runstream.stores.archive.jsonl.line_format import Mark, batch_text
from runstream.stores.archive.jsonl.log_index import History, Span, entries_in
from runstream.stores.archive.jsonl.run_head import Standing, glance
from runstream.stores.archive.jsonl.snapshot_files import all_snapshots, snapshot_text
from runstream.stores.archive.jsonl.snapshot_history_file import SnapshotLog
from runstream.stores.archive.snapshot_history import KeptSnapshot, latest_of
from runstream.stores.local.append_plan import SavedSnapshot

__all__ = ["RunLog", "bury"]

_COPY_BYTES = 1 << 20


class RunLog:
    """A run's directory, and what this process knows of it.

    ``keep_snapshots`` is how many of each lane the history of snapshots keeps at least; None: all.
    """

    def __init__(self, directory: Path, run_id: str, keep_snapshots: int | None = None) -> None:
        self.directory = directory
        self.run_id = run_id
        self._keep_snapshots = keep_snapshots
        self._snapshot_log = SnapshotLog(directory)
        self._snapshot_log_end: int | None = None  # where a batch that is not committed yet has begun in it
        self.path = directory / file_names.EVENTS
        self.history = History(run_id)
        self._identity: tuple[int, int] | None = None  # device and inode; None: no file
        self._modified = 0.0
        self._size = 0
        self._proven = 0  # bytes that are known to be on the disk
        self._is_settled = False  # nothing is left of former batches but what counts
        self._failed: tuple[int, bytes] | None = None  # a write that could not be taken back: where, what

    # -- reading -----------------------------------------------------------------------------------

    @property
    def mark(self) -> Mark | None:
        """The last commit mark."""
        return self.history.mark

    @property
    def has_failed(self) -> bool:
        """Whether a write failed and could not be taken back yet."""
        return self._failed is not None

    def look(self, *, durable: bool = False) -> bool:
        """Learn what others have written since. True if there is anything in the log.

        With ``durable`` what is known then is on the disk too, whoever wrote it: a process may have been
        killed between its write and its fsync. Where ``has_failed``, the caller then holds the run's lock.
        """
        if self._failed is not None:
            if not durable:
                return self.history.start is not None  # what was proven before can still be read
            self._take_back(*self._failed)
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            self._forget()
            return False
        with open(handle, "rb") as file:  # noqa: PTH123 - of a handle, not of a path
            self._refresh(file)
            if durable and self._proven < self.history.end:
                sync(handle)
                sync_directory(self.directory)
                if self._proven == 0:
                    sync_directory(self.directory.parent)
                self._proven = self.history.end
        return self.history.start is not None

    def standing(self) -> Standing | None:
        """Where the run stands, as of the last look."""
        known, mark = self.history, self.mark
        if known.start is None:
            return None
        return Standing(
            known.start,
            known.last,
            (mark.session_id if mark is not None else "") or known.plain_session,
            known.plain_status or (mark.status if mark is not None else None),
            known.created_at,
            self._modified if known.ends_plain or mark is None else mark.updated_at,
            mark is None,
            known.parent,
        )

    def glance(self) -> Standing | None:
        """Where the run stands, from its first and last line where these tell all."""
        if self._identity is None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), self.path.open("rb") as file:
                found = glance(self.run_id, file)
                if found is not None:
                    return found
        self.look()
        return self.standing()

    def span(self, low: int, high: int) -> Span:
        """Where the entries after ``low`` up to ``high`` are, as of the last look."""
        return self.history.span(low, high)._replace(file=self._identity)

    def spans_back(self, low: int, high: int) -> list[Span]:
        """The same in pieces, the last first."""
        return [span._replace(file=self._identity) for span in self.history.spans_back(low, high)]

    def entries(self, span: Span, *, from_disk: bool = False) -> Iterator[ArchiveEntry]:
        """The entries of a stretch; ``from_disk``: not from the memory of the operating system."""
        if span.begin >= span.end:
            return
        with self.path.open("rb") as file:
            facts = os.fstat(file.fileno())
            if span.file is not None and span.file != (facts.st_dev, facts.st_ino):
                raise StoreUnavailable(f"{self.path} was rewritten while it was read; read it again")
            if from_disk:
                drop_from_cache(file.fileno(), span.begin, span.end - span.begin)
            file.seek(span.begin)
            yield from entries_in(self.run_id, span, file)

    def kept_snapshots(self) -> list[KeptSnapshot]:
        """The history of snapshots as of the last look; the latest at the end where the history lacks them."""
        kept = self._snapshot_log.kept(self.history.tokens.__contains__)
        known = {one.saved.token for one in kept}
        for one in all_snapshots(self.run_id, self.directory, self.mark, on_corrupt="skip"):
            if one.token not in known:
                kept.append(KeptSnapshot(SavedSnapshot(one.lane_id, one.offset, one.revision, one.token), None))
        return latest_of(kept, self._keep_snapshots)

    def load_kept(self, kept: KeptSnapshot) -> ArchiveSnapshot | None:
        """One of that history; None if it has been dropped since."""
        return self._snapshot_log.load(self.run_id, kept)

    # -- writing: the caller holds the run's lock and has looked --------------------------------------

    def make_ready(self) -> None:
        """Make the directory, finish what is committed, set aside what is not."""
        if self._identity is None:
            with contextlib.suppress(FileExistsError):
                self.directory.mkdir()
                self._is_settled = True
            # also where another made it, who may have been killed right after
            sync_directory(self.directory.parent)
        if self._identity is not None and self._size > self.history.end:
            self._set_aside()
        if not self._is_settled:
            self._settle()

    def prepare(self, snapshots: Sequence[ArchiveSnapshot]) -> None:
        """Step 1: the snapshots are on the disk under names that nobody reads yet."""
        if snapshots:
            self._is_settled = False
            for snapshot in snapshots:
                write_file(self._prepared(snapshot.lane_id, snapshot.token), snapshot_text(snapshot))
            if self._keep_snapshots != 0:
                former: list[ArchiveSnapshot] = []
                if not self._snapshot_log.exists():  # of a version that kept none
                    former += all_snapshots(self.run_id, self.directory, self.mark, on_corrupt="skip")
                self._snapshot_log_end = self._snapshot_log.append([*former, *snapshots])
            sync_directory(self.directory)

    def commit(self, header: RunHeader, entries: Sequence[ArchiveEntry], mark: Mark) -> bytes:
        """Step 2; gives what was written. If it fails, nothing of it is left, and OSError is raised."""
        known = self.history
        first = None if known.has_header else header
        at = known.last if known.start is not None else header.start
        text = batch_text(first, at, entries, mark)
        if known.is_cut:
            text = b"\n" + text
        snapshot_log_end, self._snapshot_log_end = self._snapshot_log_end, None
        try:
            self._append(text)
        except OSError:
            if snapshot_log_end is not None and self._failed is None:  # else a mark may still name what is there
                self._snapshot_log.cut(snapshot_log_end)
            raise
        known.scan(io.BytesIO(text))
        self._proven = self._size = known.end
        return text

    def place_snapshots(self) -> None:
        """Step 3. Never fails: the batch is committed, and the next writer finishes this if need be."""
        if not self._is_settled:
            with contextlib.suppress(OSError):
                self._settle()
                if self._keep_snapshots is not None:
                    self._snapshot_log.drop_old(self._keep_snapshots, self.history.tokens.__contains__)

    def discard(self, snapshots: Sequence[ArchiveSnapshot]) -> None:
        """Undo step 1, of a batch that did not come to step 2: on a full disk it takes up room."""
        for snapshot in snapshots:
            with contextlib.suppress(OSError):
                self._prepared(snapshot.lane_id, snapshot.token).unlink(missing_ok=True)
        if self._snapshot_log_end is not None:
            self._snapshot_log.cut(self._snapshot_log_end)
            self._snapshot_log_end = None

    def cut_back(self, end: int, written: bytes) -> None:
        """Take back what was written at ``end`` (bytes). If that fails, it is done before anything else is."""
        if self._failed is not None and self._failed[0] == end + len(written):
            written += self._failed[1]  # of a later batch, which has failed first
        self._failed = (end, written)
        with contextlib.suppress(OSError, StoreUnavailable):
            self._take_back(end, written)

    def replace(self, content: Iterable[bytes]) -> None:
        """Put another log in the place of this one: on the disk as a whole, or not at all.

        Nothing may be left to finish or to set aside: ``make_ready`` comes first.
        """
        rewritten = self.directory / file_names.REWRITTEN
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(rewritten, flags, 0o666)
        try:
            for part in content:
                write_all(handle, part)
            sync(handle)
        finally:
            os.close(handle)
        rewritten.replace(self.path)
        sync_directory(self.directory)
        self._forget()
        self.look(durable=True)

    def remove(self, grave: Path) -> None:
        """Remove the run. The directory goes to ``grave`` first, so that the run is gone at once or not at all."""
        self.directory.replace(grave)
        sync_directory(grave.parent)
        self._forget()
        bury(grave, self.directory)

    # -- inside ------------------------------------------------------------------------------------

    def _refresh(self, file: io.BufferedReader) -> None:
        facts = os.fstat(file.fileno())
        identity, known = _identity(file.fileno()), self.history
        if identity != self._identity or not self._goes_on(file.fileno(), facts.st_size):
            self._forget()
            known = self.history
        if facts.st_size > known.end:
            file.seek(known.end)
            before = known.end
            known.scan(file)
            if known.end > before:
                self._is_settled = False  # somebody else wrote: who knows what was left
        self._identity, self._size, self._modified = identity, max(facts.st_size, known.end), facts.st_mtime

    def _goes_on(self, handle: int, size: int) -> bool:
        """Whether the file is the one that was read before, or a longer one that begins with that."""
        known = self.history
        if size < known.end or (known.is_cut and size != known.end):
            return False
        # chains make a line unlike any of another run that was given the same place on the disk
        return os.pread(handle, len(known.tail), known.end - len(known.tail)) == known.tail

    def _forget(self) -> None:
        self.history = History(self.run_id)
        self._identity, self._size, self._proven, self._is_settled = None, 0, 0, False

    def _append(self, text: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        # one that was removed since it was read must not begin in the middle of the run
        handle = os.open(self.path, flags | (os.O_CREAT if self._identity is None else 0), 0o666)
        try:
            self._check(handle)
            write_all(handle, text)
            sync(handle)
            if self._identity is None:
                sync_directory(self.directory)
                self._identity = _identity(handle)
            self._check(handle)
        except (OSError, StoreUnavailable):
            # a failed fsync may have dropped the pages it did not write: only what was proven before counts
            self.cut_back(self.history.end, text)
            raise
        finally:
            os.close(handle)

    def _check(self, handle: int) -> None:
        """Raise StoreUnavailable unless the file is the one that was read, at the place where others will look."""
        if self._identity not in (None, _identity(handle)) or not is_at(self.path, handle):
            raise StoreUnavailable(
                f"{self.path} was removed or replaced while it was written; put it back, or let it be written"
                " anew, and send the same call again"
            )

    def _take_back(self, end: int, written: bytes) -> None:
        """Cut the log back, unless somebody else has gone on from what was to be taken back."""
        with unavailable(self.path):
            try:
                handle = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                self._failed = None
                return
            try:
                size = os.fstat(handle).st_size
                if written.startswith(os.pread(handle, len(written) + 1, end)):
                    os.ftruncate(handle, min(size, end))
                    sync(handle)
            finally:
                os.close(handle)
        self._failed = None
        self._forget()

    def _set_aside(self) -> None:
        """Move what does not count to a file of its own: it is never deleted."""
        taken = names_in(self.directory)
        number = next(n for n in range(1, len(taken) + 2) if f"{file_names.EVENTS}.torn-{n}" not in taken)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        aside = os.open(self.directory / f"{file_names.EVENTS}.torn-{number}", flags, 0o666)
        try:
            with self.path.open("rb+") as file:
                file.seek(self.history.end)
                while chunk := file.read(_COPY_BYTES):
                    write_all(aside, chunk)
                sync(aside)
                sync_directory(self.directory)
                os.ftruncate(file.fileno(), self.history.end)
                sync(file.fileno())
        finally:
            os.close(aside)
        self._size = self.history.end

    def _settle(self) -> None:
        """Rename the committed snapshots into place, remove what other batches prepared."""
        for lane_id, token in self.mark.snapshots if self.mark is not None else ():
            with contextlib.suppress(FileNotFoundError):
                self._prepared(lane_id, token).replace(self.directory / file_names.snapshot_name(lane_id))
        for lane_id in self.mark.dropped if self.mark is not None else ():
            (self.directory / file_names.snapshot_name(lane_id)).unlink(missing_ok=True)
        # on the disk before the next mark, which does not name them
        sync_directory(self.directory)
        for name in names_in(self.directory):
            is_rewritten = name in (file_names.REWRITTEN, file_names.SNAPSHOTS_REWRITTEN)
            if is_rewritten or (".prepared-" in name and file_names.is_run_file(name)):
                (self.directory / name).unlink(missing_ok=True)
        self._is_settled = True

    def _prepared(self, lane_id: str | None, token: str) -> Path:
        return self.directory / file_names.prepared_name(lane_id, token)


def _identity(handle: int) -> tuple[int, int]:
    facts = os.fstat(handle)
    return facts.st_dev, facts.st_ino


def bury(grave: Path, home: Path | None = None) -> None:
    """Remove the run's files from a directory that was renamed away, and the directory with them.

    Files of other programs stay: with ``home`` they go back to where they were.
    """
    for name in names_in(grave):
        if file_names.is_run_file(name):
            (grave / name).unlink(missing_ok=True)
    if not names_in(grave):
        grave.rmdir()
    elif home is not None:
        grave.replace(home)
    sync_directory(grave.parent)
