"""The archives of a game: SQLite files and JSONL directories, of which operators add some and drop some."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runstream.model.errors import StoreUnavailable
from runstream.stores.archive.jsonl import JSONLCheckpointer
from runstream.stores.archive.sqlite import SQLiteCheckpointer
from runstream.testing.copies import Copy, copy_in_archive

__all__ = ["ArchiveSet"]


class ArchiveSet:
    """Which archives processes open, by their names: those that are required, as the operators take it.

    Args:
        directory: Where they lie.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.names = ["archive.db", "archive"]
        self.dropped: list[str] = []
        self.changing: tuple[str, str] | None = None
        """What an operator has begun to do with which archive, and has not done yet."""
        self.changes = 0  # odd while something is being changed
        self.replaced: dict[str, int] = {}
        """The step at which the files of an archive were last removed or replaced, by its name."""
        self.away: set[str] = set()
        """The archives that are lost, and not put back yet."""

    def open(self, name: str) -> Any:
        """The archive of this name, which is made if there is none. Raises StoreUnavailable while it is away."""
        path = self.directory / name
        if name in self.away:
            # one that is being made as the copy comes would write its log beside that: SQLite opens it by its name
            raise StoreUnavailable(f"{path} is not there")
        return SQLiteCheckpointer(path) if path.suffix else JSONLCheckpointer(path)

    @contextmanager
    def change(self, what: str, name: str) -> Iterator[None]:
        """Change what is required, and then what processes open from there on."""
        self.changes += self.changing is None
        self.changing = what, name
        yield
        for names in (self.names, self.dropped):
            if name in names:
                names.remove(name)
        (self.names if what == "add" else self.dropped).append(name)
        self.changing = None
        self.changes += 1

    def has_changed(self, since: int) -> bool:
        """Whether a process that has begun as of this number of changes may have others open than are required."""
        return since % 2 == 1 or self.changes != since

    # -- its files, as a backup has them

    def back_up(self, name: str) -> None:
        """Make a copy of an archive's files as they are now, in the place of the last one."""
        self._remove(f"copy-of-{name}")
        self._copy(name, f"copy-of-{name}")

    def remove(self, name: str, step: int) -> None:
        """Remove an archive's files."""
        self.replaced[name] = step
        self.away.add(name)
        self._remove(name)

    def put_back(self, name: str, step: int) -> None:
        """Put the copy of an archive in its place."""
        self.remove(name, step)
        self._copy(f"copy-of-{name}", name)
        self.away.remove(name)

    def _remove(self, name: str) -> None:
        for path in self._files(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _copy(self, name: str, to: str) -> None:
        for path in self._files(name):
            target = path.with_name(path.name.replace(name, to))
            shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)

    def _files(self, name: str) -> list[Path]:
        """The files and directories of an archive that are there: of SQLite its log and the log's index too."""
        paths = (self.directory / f"{name}{suffix}" for suffix in ("", "-wal", "-shm"))
        return [path for path in paths if path.exists()]

    # -- what it holds

    def files(self) -> list[Path]:
        """Every file of those that processes open."""
        found = [path for name in self.names for path in self._files(name)]
        return [
            file for path in found for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()
        ]

    def copies(self, run_id: str) -> Mapping[str, Copy]:
        """What each archive that processes open holds of a run."""
        return {name: copy_in_archive(self.directory / name, run_id) for name in self.names}
