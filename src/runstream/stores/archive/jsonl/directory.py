"""The directory of an archive: its UUID and format, its runs' directories, and which histories were deleted."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import uuid
from collections.abc import Collection, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from runstream.codec.own_stack import with_room
from runstream.model.errors import ConfigurationError, HistoryDiverged, StoreUnavailable, UnsupportedVersion
from runstream.stores.archive.access import Access, access_for, give_access, make_directories, make_directory
from runstream.stores.archive.durable_files import sync_directory
from runstream.stores.archive.jsonl import file_names
from runstream.stores.archive.jsonl.file_locks import Locks, directories_in, names_in, unavailable, write_file
from runstream.stores.archive.jsonl.line_format import facts_of, is_header, load_header
from runstream.stores.archive.snapshot_history import KEPT_SNAPSHOTS

__all__ = ["ArchiveDirectory", "remove_run"]

# 1: lines and snapshots have no checksums; 2: commit marks have no tags; 3: no forks, and nothing is erased
_FORMAT = 4
_WAY_BACK = (
    "put the directory back as it was, or drop this archive from those that the namespace requires and add another"
)


class ArchiveDirectory:
    """The directory of an archive. It is made if it is not there when this is made, and never later.

    Args:
        path: The directory, absolute.
        wait_seconds: How long a writer waits for another one.
        mode: The permissions of new files; None: those that the directory suggests.
        plain_names: Name the directory of a new run as its id stands, where that is safe.
        keep_snapshots: How many snapshots of each run and of each lane a new archive keeps; None: all.

    Raises:
        ConfigurationError: It is not a directory and cannot be made one.
        UnsupportedVersion: A newer runstream wrote it.
    """

    def __init__(
        self,
        path: Path,
        wait_seconds: float,
        mode: int | None = None,
        *,
        plain_names: bool = False,
        keep_snapshots: int | None = KEPT_SNAPSHOTS,
    ) -> None:
        self.path = path
        self._about_path = path / file_names.ABOUT
        self.keep_snapshots = keep_snapshots
        """How many the archive keeps; None: all."""
        self._mode = mode
        self._plain_names = plain_names
        self.locks = Locks(path, wait_seconds, self.access)
        self._archive_id = ""
        self._is_durable = False
        self._found_format = _FORMAT
        self._about: tuple[int, int, int] | None = None  # device, inode and time of the file with the UUID
        try:
            make_directories(path, mode)
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be a directory of runs: {error.strerror or error}; name another"
            ) from error
        self._read_about()

    def access(self) -> Access:
        """What is given to what is made here: what was asked for, or as the archive's own file has it."""
        return access_for(self.path, self._mode, self._about_path)

    def archive_id(self) -> str:
        """The UUID of this archive, durable, which is made when it is first asked for. Takes a lock of its own."""
        if not self._archive_id and not self._read_about():
            with self.locks.held([file_names.ABOUT]), unavailable(self.path):
                if not self._read_about():
                    self._write_about(str(uuid.uuid4()))
        if not self._is_durable:  # who wrote it may have been killed before it was
            with unavailable(self.path):
                self._sync_names()
        return self._archive_id

    def upgrade(self) -> None:
        """Note that what is written from now on is of this version's format: an older runstream refuses it."""
        if self._found_format < _FORMAT:
            with self.locks.held([file_names.ABOUT]), unavailable(self.path):
                if self._read_about() and self._found_format < _FORMAT:
                    self._write_about(self._archive_id)

    def check(self) -> None:
        """Raise StoreUnavailable if this is not the archive any more that it was at its first use.

        A directory that was removed must not pass for an archive that knows no run.
        """
        if not self._archive_id:
            return
        path = self._about_path
        with unavailable(path):
            try:
                if _identity(path.stat()) == self._about:
                    return
            except (FileNotFoundError, NotADirectoryError) as error:
                raise StoreUnavailable(f"{path} was removed while it was in use: {_WAY_BACK}") from error
        known, self._archive_id = self._archive_id, ""
        try:
            self._read_about()
        except ConfigurationError as error:
            raise StoreUnavailable(str(error)) from error
        finally:
            found, self._archive_id = self._archive_id, known
        if found != known:
            self._about = None
            raise StoreUnavailable(
                f"{self.path} is not the archive {known} that it was while it was in use: {_WAY_BACK}"
            )

    def was_deleted(self, run_id: str, creation: int) -> bool:
        """Whether this creation of a run was deleted here for good."""
        return (run_id, creation) in self._deleted()

    def note_deleted(self, run_id: str, creations: Collection[int], now: float, seconds: float) -> None:
        """Note for so long that creations of a run were deleted; the caller holds the lock ``DELETED``."""
        known = {history: at for history, at in self._deleted().items() if at >= now - seconds}
        known |= dict.fromkeys(((run_id, creation) for creation in creations), now)
        lines = (json.dumps([*history, at]) for history, at in known.items())
        path = self.path / file_names.DELETED
        with unavailable(path):
            prepared = path.with_name(f"{file_names.DELETED}.prepared")
            write_file(prepared, "".join(f"{line}\n" for line in lines).encode(), self._about_path)
            prepared.replace(path)
            sync_directory(self.path)

    def _deleted(self) -> dict[tuple[str, int], float]:
        """The histories that were deleted, by run and creation, and when."""
        path, content = self.path / file_names.DELETED, ""
        with unavailable(path), contextlib.suppress(FileNotFoundError):
            content = path.read_text()
        try:
            lines = [with_room(json.loads, line) for line in content.splitlines()]
            return {(run_id, creation): at for run_id, creation, at in lines}
        except (ValueError, TypeError) as error:
            raise StoreUnavailable(
                f"{path} does not read: {error}; remove it if no drain was at work on a run that was deleted"
            ) from error

    def new_trash(self) -> Path:
        """A new name for a run's directory that is to be removed. Removes what earlier removals left."""
        for name in names_in(self.path):
            if name.startswith(file_names.TRASH):  # of somebody who was killed in the middle of this
                _remove_trash(self.path / name)
        return self.path / f"{file_names.TRASH}{secrets.token_hex(8)}"

    def directory_of(self, run_id: str) -> Path:
        """The run's directory, whether it exists or not.

        Raises:
            ConfigurationError: It is a symbolic link.
            HistoryDiverged: The run is in two directories, ours and one of another program.
        """
        name = file_names.encoded(run_id)
        directory = file_names.path_in(self.path, name)
        raw = None if name == run_id else self._raw(run_id)
        if raw is not None:
            if not _has_run(directory):
                directory = raw
            elif _has_run(raw):
                raise HistoryDiverged(
                    f"run {run_id!r} is in two directories, {directory} and {raw}, which another program has"
                    f" made: nothing of it was read or written; `runstream import {self.path}` puts the events of"
                    " both into another store, by their times; or append the lines of one's events.jsonl to the"
                    " other's and remove it",
                    run_id=run_id,
                    offset=0,
                )
        within = takewhile(lambda place: place != self.path, raw.parents) if directory is raw else ()
        for place in (directory, *within):
            if place.is_symlink():
                raise ConfigurationError(
                    f"{place} is a symbolic link: nothing is written outside {self.path}; move the run here"
                )
        return directory

    def begin(self, run_id: str) -> None:
        """Make the directory of a run that is to begin, if it is to have the id's own name; else do nothing.

        The caller holds the run's lock. Once it is there, whoever opens this archive takes it for the run's, as
        one that another program has made.
        """
        if not self._plain_names or not file_names.is_safe(run_id) or file_names.encoded(run_id) == run_id:
            return
        if not (self.path / file_names.ABOUT.upper()).exists():  # or it is a file system that ignores case
            with contextlib.suppress(OSError):  # its own name will do
                make_directory(self.path / run_id, self.access())

    def _raw(self, run_id: str) -> Path | None:
        """The directory that another program has made for a run, whether there is a run in it or not."""
        raw = self.path
        for part in file_names.raw_parts(run_id):
            if not (raw / part).is_dir() or not _is_spelt(raw, part):
                return None
            raw /= part
        return None if raw == self.path else raw

    def run_ids(self, since: float = 0.0) -> list[str]:
        """The ids that the directories here are named for, in any order; some may be empty.

        Those may be left out whose events were all written before ``since``, in Unix seconds.
        """
        found: dict[str, None] = {}
        for name in directories_in(self.path):
            if since and not _may_have_changed(f"{self.path}/{name}", since):
                continue
            is_hashed = file_names.is_hashed(name)
            run_id = _run_in(self.path / name) if is_hashed else file_names.named(name)
            if run_id is not None:
                found[run_id] = None
            # another program's: an id with slashes is one directory in the other
            found |= {below: None for below in self._raw_below(name) if file_names.raw_parts(below)}
        return list(found)

    def _raw_below(self, name: str) -> Iterator[str]:
        for below in directories_in(self.path / name):
            yield (inner := f"{name}/{below}")
            yield from self._raw_below(inner)

    def _read_about(self) -> bool:
        """Learn the archive's UUID; False if it has none yet."""
        path, content, identity = self._about_path, b"", None
        with unavailable(path), contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            identity, content = _identity(os.fstat(file.fileno())), file.read()
        if not content:
            return False
        try:
            about = with_room(json.loads, content)
            found, archive_id = int(about["format"]), str(about["archive_id"])
            kept = about.get("keep_snapshots")  # all, in one of before
            kept = None if kept is None else max(0, int(kept))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{path} does not read: {error}; restore it from a copy") from error
        if found > _FORMAT:
            raise UnsupportedVersion(
                f"{self.path} has format {found}; this runstream knows up to {_FORMAT}: upgrade it",
                found=found,
                supported=_FORMAT,
            )
        self._archive_id, self._about, self._found_format = archive_id, identity, found
        self.keep_snapshots = kept
        return True

    def _write_about(self, archive_id: str) -> None:
        path = self._about_path
        prepared = path.with_name(f"{file_names.ABOUT}.prepared")
        about: dict[str, Any] = {"format": _FORMAT, "archive_id": archive_id}
        if self.keep_snapshots is not None:
            about["keep_snapshots"] = self.keep_snapshots
        write_file(prepared, json.dumps(about).encode() + b"\n")
        # as what is made after it
        give_access(prepared, self.access())
        prepared.replace(path)
        self._sync_names()
        self._read_about()

    def _sync_names(self) -> None:
        for directory in (self.path, *self.path.parents):  # some of them may be as new as this
            try:
                sync_directory(directory)
            except OSError as error:
                # it was there before, or its file system syncs no directories
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL):
                    raise
        self._is_durable = True


def _is_spelt(directory: Path, name: str) -> bool:
    """Whether what a name finds in a directory is spelt so: some file systems find it in another case, or form."""
    other = name.swapcase()
    if name.isascii() and (other == name or not (directory / other).exists()):
        return True
    return name in names_in(directory)


def _has_run(directory: Path) -> bool:
    return any(map(file_names.is_run_file, names_in(directory)))


def remove_run(directory: Path, trash: Path) -> None:
    """Remove a run. Its directory is renamed to ``trash`` first: the run is gone at once or not at all.

    Files of other programs go back. Where there are directories in it, another program's runs, it is not renamed:
    the files go one by one, the log first.
    """
    if directories_in(directory):
        _remove_files(directory)
        sync_directory(directory)
        return
    directory.replace(trash)
    sync_directory(trash.parent)
    _remove_trash(trash, directory)


def _remove_trash(trash: Path, home: Path | None = None) -> None:
    """Remove the run's files from a directory that was renamed away, and the directory with them.

    Args:
        trash: What the directory is called now.
        home: Where files of other programs go back to; None: they stay in ``trash``.
    """
    _remove_files(trash)
    if not names_in(trash):
        trash.rmdir()
    elif home is not None:
        trash.replace(home)
    sync_directory(trash.parent)


def _remove_files(directory: Path) -> None:
    for name in sorted(filter(file_names.is_run_file, names_in(directory))):  # events.jsonl is the first
        (directory / name).unlink(missing_ok=True)


def _identity(facts: os.stat_result) -> tuple[int, int, int]:
    # an inode's number is given out again: its time distinguishes one file from the next
    return facts.st_dev, facts.st_ino, facts.st_ctime_ns


def _run_in(directory: Path) -> str | None:
    """The run whose id is too long to be a directory's name, from its first line."""
    try:
        with (directory / file_names.EVENTS).open("rb") as file:
            line = file.readline()
        if facts_of(line.removesuffix(b"\n")) is None or not is_header(line):
            return None
        run_id = load_header(line)[0]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return run_id if file_names.encoded(run_id) == directory.name else None


def _may_have_changed(directory: str, since: float) -> bool:
    """Whether a directory or the log in it may have been written to after that time, in Unix seconds."""
    with contextlib.suppress(FileNotFoundError):
        facts = os.lstat(directory)
        if facts.st_mtime >= since or facts.st_nlink != 2:  # there are directories in it, or nobody counts them
            return True
        return Path(f"{directory}/{file_names.EVENTS}").stat().st_mtime >= since
    return False
