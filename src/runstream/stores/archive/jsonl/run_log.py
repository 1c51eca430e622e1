"""One run's directory: its log and its snapshots, written so that a batch is there completely or not at all.

A batch goes through four steps, each on the disk before the next begins:

1. its snapshots are added to their history (:mod:`~runstream.stores.archive.jsonl.snapshot_history_file`), where
   nothing counts whose token was not committed, and written to files of another name
   (``snapshot.json.prepared-TOKEN``); these may be lost with the power where the history has what is in them;
2. its lines are appended in one write; the last carries the commit mark, which names the tokens:
   from here on the batch is committed, and readers take the prepared files for the snapshots;
3. the prepared files are renamed to their own names;
4. the next writer finds nothing to finish, or finishes step 3, or removes what a batch left that
   never came to step 2. What such a batch left of its lines is moved to ``events.jsonl.torn-N``.

The caller holds the run's lock while it writes, and lets in one thread at a time. No file stays open
between calls, so there is nothing to share with a forked process.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunHeader
from runstream.model.errors import StoreUnavailable
from runstream.model.results import Cursor
from runstream.model.run_head import RunHead
from runstream.stores.archive.access import Access, make_directory, open_file
from runstream.stores.archive.durable_files import drop_from_cache, sync, sync_directory
from runstream.stores.archive.jsonl import file_names
from runstream.stores.archive.jsonl.commit_marks import Mark
from runstream.stores.archive.jsonl.directory import remove_run
from runstream.stores.archive.jsonl.file_locks import is_at, names_in, unavailable, write_all, write_file
from runstream.stores.archive.jsonl.growing_files import identity_of, made, stable_lines
from runstream.stores.archive.jsonl.line_format import batch_text
from runstream.stores.archive.jsonl.log_index import LogIndex
from runstream.stores.archive.jsonl.overtaking import Overtaken, blank, keep_aside, let_finish, written_before
from runstream.stores.archive.jsonl.replaced_log import replace_log
from runstream.stores.archive.jsonl.run_head import head_from_ends
from runstream.stores.archive.jsonl.snapshot_files import snapshot_text
from runstream.stores.archive.jsonl.snapshot_history_file import SnapshotHistoryFile
from runstream.stores.archive.jsonl.spans import Span, entries_in

__all__ = ["RunLog"]


class RunLog:
    """A run's directory, and what this process has read of it.

    Args:
        directory: The run's directory.
        run_id: Its id.
        keep_snapshots: Tells how many of each lane the history of snapshots keeps at least; None: all.
        access: Tells what the directory is given when it is made.
    """

    def __init__(
        self, directory: Path, run_id: str, keep_snapshots: Callable[[], int | None], access: Callable[[], Access]
    ) -> None:
        self.directory, self.run_id = directory, run_id
        self.keep_snapshots, self._access = keep_snapshots, access
        self.history = SnapshotHistoryFile(directory, run_id)  # of snapshots
        self._uncommitted: int | None = None  # where in it a batch begins that is not committed yet
        self.path = directory / file_names.EVENTS
        self.index = LogIndex(run_id)
        self._identity: tuple[int, int] | None = None  # device and inode; None: no file
        self._modified = 0.0
        self._size = 0
        self._proven = 0  # bytes that are known to be on the disk
        self._is_tidy = False  # nothing is left of former batches but what counts
        self._has_named = False  # names that must be on the disk before the next mark
        self._failed: tuple[int, bytes] | None = None  # a write that could not be taken back: where, what

    # -- reading -----------------------------------------------------------------------------------

    @property
    def mark(self) -> Mark | None:
        """The last commit mark."""
        return self.index.mark

    @property
    def has_failed(self) -> bool:
        """Whether a write failed and could not be taken back yet."""
        return self._failed is not None

    def refresh(self, *, durable: bool = False) -> bool:
        """Learn what others have written since. True if there is anything in the log.

        With ``durable`` what is known then is on the disk too, whoever wrote it: a process may have been
        killed between its write and its fsync. Where ``has_failed``, the caller then holds the run's lock.
        """
        if self._failed is not None:
            if not durable:
                return self.index.start is not None  # what was proven before can still be read
            self._take_back(*self._failed)
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            self._forget()
            return False
        try:
            self._scan(handle)
            if durable and self._proven < self.index.end:
                sync(handle)
                sync_directory(self.directory)
                if self._proven == 0:
                    sync_directory(self.directory.parent)
                self._proven = self.index.end
        finally:
            os.close(handle)
        return self.index.start is not None

    def head(self) -> RunHead | None:
        """The run's head, as of the last refresh; its status is '' if no line has one."""
        known, mark = self.index, self.mark
        if known.start is None:
            return None
        return RunHead(
            known.start,
            known.last,
            status=known.plain_status or (mark.status if mark is not None else ""),
            session_id=(mark.session_id if mark is not None else "") or known.plain_session,
            created_at=known.header.created_at,
            updated_at=self._modified if known.ends_plain or mark is None else mark.updated_at,
            parent=known.header.parent,
            identity=known.header.identity,
            parent_identity=known.header.parent_identity,
            base=known.header.base,
            origins=known.header.origins,
        )

    def head_from_ends(self) -> RunHead | None:
        """The head of a run that was not read yet, from its first and last line; None if they do not have it."""
        if self._identity is None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), self.path.open("rb") as file:
                return head_from_ends(self.run_id, file)
        return None

    def span(self, low: int, high: int) -> Span:
        """The span of the entries after ``low`` up to ``high``, as of the last refresh."""
        return self.index.span(low, high)._replace(file=self._identity)

    def spans_back(self, low: int, high: int) -> list[Span]:
        """The same as several spans, the last one first."""
        return [span._replace(file=self._identity) for span in self.index.spans_back(low, high)]

    def cursor_at(self, offset: int) -> Cursor | None:
        """The cursor at an offset, the start's included, as of the last refresh; None for nothing."""
        for known in (self.index.start, self.index.header.base):
            if known is not None and offset == known.offset:
                return known
        found = next(self.entries_between([self.span(offset - 1, offset)], offset, offset), None)
        return None if found is None else found.cursor

    def entries_between(
        self, spans: Sequence[Span], first: int, last: int, *, reverse: bool = False, from_disk: bool = False
    ) -> Iterator[ArchiveEntry]:
        """The entries of these stretches with offsets from ``first`` to ``last``, both included.

        With ``from_disk`` they do not come from the memory of the operating system.
        """
        with unavailable(self.path):
            for span in spans:
                entries: Iterable[ArchiveEntry] = self._entries(span, from_disk=from_disk)
                if reverse:
                    entries = reversed(list(entries))
                for entry in entries:
                    if first <= entry.offset <= last:
                        yield entry

    def _entries(self, span: Span, *, from_disk: bool) -> Iterator[ArchiveEntry]:
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

    # -- writing: the caller holds the run's lock and has refreshed-----------------------------------

    def make_ready(self) -> bool:
        """Make the directory, finish what is committed, set aside what is not. True if others wrote there."""
        if self._identity is None:
            with contextlib.suppress(FileExistsError):
                make_directory(self.directory, self._access())
                self._is_tidy = True
            # also where another made it, who may have been killed right after
            sync_directory(self.directory.parent)
        if self._size > self.index.end:
            let_finish(self.path, self.index.end)
            self.refresh()
        if self._size > self.index.end:
            self._set_aside()
        if self._is_tidy:
            return False
        self._tidy()
        self._sync_names()
        return True

    def prepare(self, saved: Sequence[ArchiveSnapshot], former: Callable[[], Iterable[ArchiveSnapshot]]) -> None:
        """Step 1: the snapshots are on the disk where nobody reads them yet; ``former`` gives those before."""
        if saved:
            self._is_tidy, keeps = False, self.keep_snapshots() != 0
            texts = list(map(snapshot_text, saved))
            for snapshot, text in zip(saved, texts, strict=True):
                like = self.directory / file_names.snapshot_name(snapshot.lane_id)
                write_file(self._prepared(snapshot.lane_id, snapshot.token), text, like, durable=not keeps)
            self._has_named |= not (keeps and self.history.exists())
            if keeps:
                self._uncommitted = self.history.append(texts, former)
        if self._has_named:
            if self._identity is None:
                self._identity = made(self.path)  # with a name that is on the disk from then on, too
            self._sync_names()

    def commit(self, header: RunHeader, entries: Sequence[ArchiveEntry], mark: Mark) -> bytes:
        """Step 2; gives what was written. If it fails, nothing of it is left, and OSError is raised.

        So is Overtaken, where the entries would have to follow what another program has appended meanwhile.
        """
        known = self.index
        at = known.last if known.start is not None else header.start
        text = batch_text(None if known.has_header else header, at, entries, mark)
        if known.is_cut:
            text = b"\n" + text
        uncommitted, self._uncommitted = self._uncommitted, None
        try:
            others_wrote = self._append(text)
        except (OSError, Overtaken):
            if uncommitted is not None and self._failed is None:  # else a mark may still name what is there
                self.history.cut(uncommitted)
            raise
        if others_wrote:
            self.refresh()
        else:
            known.scan(io.BytesIO(text))
        self._proven = self._size = known.end
        return text

    def drop_leftovers(self) -> None:
        """Remove all but the log and the snapshots that count: what was set aside, and what was dropped."""
        self._tidy()
        if self.history.exists():
            self.history.rewrite([one for one in self.history.kept(self.index.counts) if one.damage is None])
        for name in filter(file_names.is_leftover, names_in(self.directory)):
            (self.directory / name).unlink(missing_ok=True)
        self._sync_names()

    def rename_snapshots(self) -> None:
        """Step 3. Never fails: under either name the snapshots are found, until the next mark names others."""
        if not self._is_tidy:
            with contextlib.suppress(OSError):
                self._tidy()
                if (keep := self.keep_snapshots()) is not None:
                    self.history.drop_old(keep, self.index.counts)

    def discard(self, snapshots: Sequence[ArchiveSnapshot]) -> None:
        """Undo step 1, of a batch that did not come to step 2: on a full disk it takes up room."""
        for snapshot in snapshots:
            with contextlib.suppress(OSError):
                self._prepared(snapshot.lane_id, snapshot.token).unlink(missing_ok=True)
        if self._uncommitted is not None:
            self.history.cut(self._uncommitted)
            self._uncommitted = None

    def cut_back(self, end: int, written: bytes) -> None:
        """Take back what was written at ``end`` (bytes). If that fails, it is done before anything else is."""
        if self._failed is not None and self._failed[0] == end + len(written):
            written += self._failed[1]  # of a later batch, which has failed first
        self._failed = (end, written)
        with contextlib.suppress(OSError, StoreUnavailable):
            self._take_back(end, written)

    def replace(self, file: BinaryIO, content: Iterable[bytes]) -> None:
        """Replace the log, which is open as ``file``, atomically; ``make_ready`` comes first."""
        self._sync_names()
        replace_log(self.path, file, content, self.index.end)
        self._forget()
        self.refresh(durable=True)

    def remove(self, trash: Path) -> None:
        """Remove the run."""
        remove_run(self.directory, trash)
        self._forget()

    # -- inside ------------------------------------------------------------------------------------

    def _scan(self, handle: int) -> None:
        facts = os.fstat(handle)
        identity = facts.st_dev, facts.st_ino
        if identity != self._identity or not self._goes_on(handle, facts.st_size):
            self._forget()
        known = self.index
        if facts.st_size > known.end:
            with open(handle, "rb", closefd=False) as file:
                file.seek(before := known.end)
                known.scan(stable_lines(file))
            if known.end > before:
                self._is_tidy = False  # somebody else wrote: who knows what was left
        self._identity, self._size, self._modified = identity, max(facts.st_size, known.end), facts.st_mtime

    def _goes_on(self, handle: int, size: int) -> bool:
        """Whether the file is the one that was read before, or a longer one that begins with that."""
        known = self.index
        if size < known.end or (known.is_cut and size != known.end):
            return False
        # chains make a line unlike any of another run that was given the same inode
        return os.pread(handle, len(known.tail), known.end - len(known.tail)) == known.tail

    def _forget(self) -> None:
        if self._identity is not None or self.index.end:  # else nothing was read
            self.index = LogIndex(self.run_id)
        self._identity, self._size, self._proven, self._is_tidy = None, 0, 0, False

    def _append(self, text: bytes) -> bool:
        """Append to the file. True if others' lines that do not count stand before it."""
        # one that was removed since it was read must not begin in the middle of the run
        create = os.O_CREAT if self._identity is None else 0
        handle, end = open_file(self.path, os.O_RDWR | os.O_APPEND | create), self.index.end
        try:
            self._check(handle)
            write_all(handle, text)
            theirs = written_before(handle, end, text)
            if theirs.strip() and not self.index.is_drained:
                blank(self.path, end + len(theirs), len(text))
                raise Overtaken
            sync(handle)
            if self._identity is None:
                sync_directory(self.directory)
                self._identity = identity_of(handle)
            self._check(handle)
        except (OSError, StoreUnavailable):
            # a failed fsync may have dropped the pages it did not write: only what was proven before counts
            self.cut_back(end, text)
            raise
        finally:
            os.close(handle)
        return bool(theirs)

    def _check(self, handle: int) -> None:
        """Raise StoreUnavailable unless the file at the log's path is still the one that was read."""
        if self._identity not in (None, identity_of(handle)) or not is_at(self.path, handle):
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
        """Move what does not count to a file of its own; it is never deleted. What others append stays."""
        names, taken = (f"{file_names.EVENTS}.torn-{n}" for n in itertools.count(1)), names_in(self.directory)
        name = next(name for name in names if name not in taken)
        begin, length = self.index.end, self._size - self.index.end
        keep_aside(self.path, begin, length, self.directory / name)
        self.index.scan(io.BytesIO(blank(self.path, begin, length)))

    def _tidy(self) -> None:
        """Rename the committed snapshots to their own names, remove what other batches prepared."""
        for lane_id, token in self.mark.snapshots if self.mark is not None else ():
            with contextlib.suppress(FileNotFoundError):
                self._prepared(lane_id, token).replace(self.directory / file_names.snapshot_name(lane_id))
        for lane_id in self.mark.dropped if self.mark is not None else ():
            (self.directory / file_names.snapshot_name(lane_id)).unlink(missing_ok=True)
        # a snapshot that the history has is found there, whatever its file is called; one that was dropped is not
        self._has_named |= self.keep_snapshots() == 0 or (self.mark is not None and bool(self.mark.dropped))
        for name in filter(file_names.is_unfinished, names_in(self.directory)):
            (self.directory / name).unlink(missing_ok=True)
        self._is_tidy = True

    def _sync_names(self) -> None:
        sync_directory(self.directory)
        self._has_named = False

    def _prepared(self, lane_id: str | None, token: str) -> Path:
        return self.directory / file_names.prepared_name(lane_id, token)
