"""The directory of an archive: its UUID and format, and which of its directories is which run's."""

from __future__ import annotations

import contextlib
import json
import uuid
from pathlib import Path

from runstream.model.errors import ConfigurationError, UnsupportedVersion
from runstream.stores.jsonl import names
from runstream.stores.jsonl.disk import Locks, names_in, sync_directory, unavailable, write_file
from runstream.stores.jsonl.lines import facts_of, is_header, load_header

__all__ = ["Home"]

_FORMAT = 1
_ABOUT = ".runstream.json"


class Home:
    """The directory that an archive lies in.

    It is made if it is not there. Raises ConfigurationError where it cannot be, or is not a directory,
    and UnsupportedVersion where a newer runstream wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.locks = Locks(path)
        self._archive_id = ""
        try:
            if not path.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                sync_directory(path.parent)
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be a directory of runs: {error.strerror or error}; name another"
            ) from error
        self._read_about()

    def archive_id(self) -> str:
        """The UUID of this archive, which is made when it is first asked for. Takes a lock of its own."""
        if not self._archive_id and not self._read_about():
            with self.locks.held([_ABOUT]), unavailable(self.path):
                if not self._read_about():
                    self._make_about()
        return self._archive_id

    def directory_of(self, run_id: str) -> Path:
        """The run's directory, whether it exists or not. Raises ConfigurationError for a symbolic link."""
        name = names.encoded(run_id)
        directory = self.path / name
        if name != run_id and names.may_be_raw(run_id) and not directory.exists():
            raw = self.path / run_id
            # looked up in the list: some file systems find a name in another case
            if raw.is_dir() and run_id in names_in(self.path):
                directory = raw
        if directory.is_symlink():
            raise ConfigurationError(
                f"{directory} is a symbolic link: nothing is written outside {self.path}; move the run here"
            )
        return directory

    def run_ids(self) -> list[str]:
        """The ids that the directories here are named for, in any order; some may be empty."""
        found: dict[str, None] = {}
        for entry in self.path.iterdir():
            if entry.name.startswith(".") or entry.is_symlink() or not entry.is_dir():
                continue
            run_id = _run_in(entry) if names.is_hashed(entry.name) else names.named(entry.name)
            if run_id is not None:
                found[run_id] = None
        return list(found)

    def _read_about(self) -> bool:
        """Learn the archive's UUID; False if it has none yet."""
        path, content = self.path / _ABOUT, b""
        with unavailable(path), contextlib.suppress(FileNotFoundError):
            content = path.read_bytes()
        if not content:
            return False
        try:
            about = json.loads(content)
            found, archive_id = int(about["format"]), str(about["archive_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{path} does not read: {error}; restore it from a copy") from error
        if found > _FORMAT:
            raise UnsupportedVersion(
                f"{self.path} has format {found}; this runstream knows up to {_FORMAT}: upgrade it",
                found=found,
                supported=_FORMAT,
            )
        self._archive_id = archive_id
        return True

    def _make_about(self) -> None:
        archive_id = str(uuid.uuid4())
        path = self.path / _ABOUT
        prepared = path.with_name(f"{_ABOUT}.prepared")
        write_file(prepared, json.dumps({"format": _FORMAT, "archive_id": archive_id}).encode() + b"\n")
        prepared.replace(path)
        sync_directory(self.path)
        self._archive_id = archive_id


def _run_in(directory: Path) -> str | None:
    """The run whose id is too long to be a directory's name, from its first line."""
    try:
        with (directory / names.EVENTS).open("rb") as file:
            line = file.readline()
        if facts_of(line.removesuffix(b"\n")) is None or not is_header(line):
            return None
        run_id = load_header(line)[0]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return run_id if names.encoded(run_id) == directory.name else None
