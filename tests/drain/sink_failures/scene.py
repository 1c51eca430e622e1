"""One archive, a worker that drains to it, and what a test does to the archive's files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runstream import (
    DrainReport,
    DrainWorker,
    EventKind,
    JSONLCheckpointer,
    PAEvent,
    RedisCheckpointer,
    SQLiteCheckpointer,
    StoreUnavailable,
    create_event,
)
from runstream.operations.operation import Exchange
from runstream.stores.redis.namespace import namespace_of
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import RedisBackend
from tests.support.operations import operations_of

BUSY_SECONDS = 0.2


class Scene:
    """Redis, one archive, one worker, and what was acknowledged."""

    def __init__(self, kind: str, backend: RedisBackend, directory: Path) -> None:
        self.kind = kind
        self.backend = backend
        self.path = directory / ("archive.db" if kind == "sqlite" else "archive")
        self.acknowledged: dict[str, list[PAEvent]] = {}
        self.archive = self.open()
        hot = backend.open()
        assert isinstance(hot, RedisCheckpointer)
        self.hot: RedisCheckpointer[Any, Any] = hot
        self.worker = self.new_worker()

    def open(self, **options: Any) -> Archive:
        """Another object on the archive."""
        options = {"busy_timeout_seconds": BUSY_SECONDS, **options}
        if self.kind == "sqlite":
            return SQLiteCheckpointer(self.path, **options)
        return JSONLCheckpointer(self.path, **options)

    def new_worker(self, **options: Any) -> DrainWorker:
        """A worker on the archive's object."""
        return DrainWorker(self.hot, [self.archive], **{"trim": "archived", "park_seconds": 0.001, **options})

    def emit(self, count: int = 10, *, run_ids: tuple[str, ...] = ("one", "two"), size: int = 100) -> None:
        """Append so many events to each run."""
        for run_id in run_ids:
            known = self.acknowledged.setdefault(run_id, [])
            events = [
                create_event(run_id, EventKind.TOOL_RESULT, seq=len(known) + number, text="x" * size)
                for number in range(1, count + 1)
            ]
            self.hot.save_events(events)
            known += events

    def hot_events(self) -> dict[str, int]:
        """How many events of each run Redis holds."""
        return {run_id: self._command(b"XLEN", run_id) for run_id in self.acknowledged}

    def _command(self, name: bytes, run_id: str) -> int:
        def operation() -> Any:
            (reply,) = yield Exchange([(name, namespace_of(self.hot).keys.run(run_id).events)])
            return reply

        return int(namespace_of(self.hot).run(operation()))

    def drain(self) -> DrainReport | StoreUnavailable:
        """What one drain gives, or why it was given up."""
        try:
            return self.worker.drain_once()
        except StoreUnavailable as error:
            return error

    def drain_in_vain(self, *said: str) -> None:
        """A drain while the archive is in trouble, twice: it says one of these things and trims nothing."""
        before = self.hot_events()
        for _ in range(2):
            error = self.drain()
            assert isinstance(error, StoreUnavailable), error
            assert any(words in str(error) for words in said), error
            assert str(self.path) in str(error)
            assert self.hot_events() == before

    def drain_and_check(self) -> None:
        """What is due is archived, and the archive is what it must be."""
        report = self.drain()
        assert isinstance(report, DrainReport), report
        assert report.parked == 0
        assert set(self.hot_events().values()) == {0}
        self.check()

    def check(self) -> None:
        """The archive is what it must be: to this object, and to one that opens it anew."""
        assert self.archive.check_integrity() == []
        check_archives([self.archive], self.acknowledged)
        self.archive.close()
        self.archive = self.open()
        check_archives([self.archive], self.acknowledged)
        self.worker = self.new_worker()

    def disconnect(self) -> None:
        """Let the archive's files be opened again at the next use, as after a fork."""
        if isinstance(self.archive, SQLiteCheckpointer):
            operations_of(self.archive)._file.before_fork()
            operations_of(self.archive)._file.after_fork()

    def files(self) -> list[Path]:
        """The archive's files and directories."""
        return sorted({self.path, *self.path.rglob("*"), *self.path.parent.glob(f"{self.path.name}-*")})

    def content(self) -> dict[Path, bytes]:
        """What is in the archive's files, but for those that are only there to be locked."""
        files = [path for path in self.files() if path.is_file()]
        return {
            path: path.read_bytes() for path in files if path.parent.name != ".locks" and "-shm" not in path.name
        }

    def close(self) -> None:
        self.archive.close()


# -- somebody else holds it --------------------------------------------------------------------------

HOLDER = """
import sqlite3, sys
from contextlib import closing
from pathlib import Path
from runstream.stores.archive.jsonl.file_locks import Locks
def wait():
    print("held", flush=True)
    sys.stdin.read()
if sys.argv[1] == "sqlite":
    with closing(sqlite3.connect(sys.argv[2], isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        wait()
        connection.execute("ROLLBACK")
else:
    with Locks(Path(sys.argv[2]), 30.0).held(["one", "two"]):
        wait()
"""


@contextmanager
def held(scene: Scene) -> Iterator[None]:
    """Another process is in the middle of a write."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, scene.kind, str(scene.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate()
    assert holder.returncode == 0
