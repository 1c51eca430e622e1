"""Writes runs, and keeps a book of what was acknowledged that does not come from what is read back."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runstream import (
    DrainReport,
    DrainWorker,
    EventKind,
    JSONLCheckpointer,
    PAEvent,
    RedisCheckpointer,
    RunState,
    SQLiteCheckpointer,
    connect,
)
from tests.kept.neutral import fields_of

__all__ = ["BEGAN", "PARTITIONS", "Author"]

PARTITIONS = 16
BEGAN = 1_700_000_000.0  # Unix time in seconds: what is made again has the same events


class Author:
    """One namespace, an archive of each kind, and the book: for each run what it must read as."""

    def __init__(self, raw: Any, url: str, namespace: str, directory: Path) -> None:
        directory.mkdir()
        self.raw = raw
        self.namespace = namespace
        self.url = f"{url}?namespace={namespace}"
        self.sqlite_path, self.jsonl_path = directory / "archive.db", directory / "archive_jsonl"
        self.archives: list[Any] = [SQLiteCheckpointer(self.sqlite_path), JSONLCheckpointer(self.jsonl_path)]
        self.hot = self.open()
        self.book: dict[str, dict[str, Any]] = {}
        self._count = 0

    def open(self) -> RedisCheckpointer[Any, Any]:
        """Another store, which has seen nothing."""
        store = connect(self.url)
        assert isinstance(store, RedisCheckpointer)
        return store

    # -- writing -----------------------------------------------------------------------------------

    def event(self, run_id: str, payload: dict[str, Any] | None = None, **fields: Any) -> PAEvent:
        """The next event, the same whenever the files are made again."""
        self._count += 1
        given = {"kind": EventKind.TOOL_RESULT, "payload": {"n": self._count} if payload is None else payload}
        return PAEvent(
            run_id, seq=self._count, ts=BEGAN + self._count / 8, span_id=f"span{self._count:06}", **given | fields
        )

    def write(
        self, run_id: str, events: Sequence[Any], plain: Sequence[Any] | None = None, **options: Any
    ) -> list[str]:
        """Append, and enter it in the book; ``plain`` are the events as they are to read, if that is otherwise."""
        before = len(self.cursors(run_id)), self.entries(run_id)[-1:]
        self.hot.append(run_id, events, **options)
        cursors = self.cursors(run_id)[before[0] :]
        assert len(cursors) == len(events), "a key was known"
        keys = options.get("keys") or [None] * len(events)
        for cursor, key, event in zip(cursors, keys, plain or events, strict=True):
            entry = {"cursor": cursor, "key": key, "event": fields_of(event.to_dict())}
            self.entries(run_id).append(entry)
        offsets = [int(entry["cursor"].partition("-")[0]) for entry in self.entries(run_id)]
        assert offsets == list(range(1, len(offsets) + 1))
        if "snapshot" in options:
            self.note_snapshot(run_id, options["snapshot"], options.get("lane_id"))
        return cursors

    def events(self, run_id: str, count: int, **fields: Any) -> list[str]:
        """Append so many events."""
        return self.write(run_id, [self.event(run_id, **fields) for _ in range(count)])

    def state(self, run_id: str, **fields: Any) -> RunState:
        """A state, the same whenever the files are made again."""
        times = {"started_at": BEGAN, "updated_at": BEGAN + self._count / 8}
        return RunState(run_id, **{"status": "running", "current_step": self._count, **times, **fields})

    def snapshot(self, run_id: str, lane_id: str | None = None, **fields: Any) -> None:
        """Save a state of the run, or of a lane of it."""
        state = self.state(run_id, **fields)
        self.hot.save_snapshot(run_id, state, lane_id=lane_id)
        self.note_snapshot(run_id, state, lane_id)

    def note_snapshot(self, run_id: str, state: Any, lane_id: str | None = None) -> None:
        """Enter a snapshot in the book: its offset and revision are the store's to give."""
        found = self.hot.load_snapshot(run_id, lane_id=lane_id)
        assert found is not None
        facts = {"offset": found.offset, "revision": found.revision, "state": fields_of(state.to_dict())}
        self.run(run_id)["snapshots"][lane_id or ""] = facts

    # -- the book ----------------------------------------------------------------------------------

    def run(self, run_id: str) -> dict[str, Any]:
        """What the book has of a run."""
        return self.book.setdefault(
            run_id, {"entries": [], "snapshots": {}, "archived": 0, "archive_snapshots": {}}
        )

    def entries(self, run_id: str) -> list[dict[str, Any]]:
        """The events of a run, in order."""
        entries: list[dict[str, Any]] = self.run(run_id)["entries"]
        return entries

    def strike(self, run_id: str) -> None:
        """The run is gone."""
        del self.book[run_id]

    def finish(self) -> None:
        """Note how Redis has each run at the end."""
        for run_id, facts in self.book.items():
            info = self.hot.run_info(run_id)
            cursors = self.cursors(run_id)
            facts["hot"] = None
            facts.pop("is_set_aside", None)
            if info is not None:
                last = len(facts["entries"])
                first = int(cursors[0].partition("-")[0]) if cursors else last + 1
                assert (info.last_offset, info.first_hot) == (last, first), run_id
                facts["hot"] = {"first": first, "archived": info.archived_offset}
                facts |= {"status": info.status, "session_id": info.session_id}

    # -- draining ----------------------------------------------------------------------------------

    def drain(self, trim: Any = "covered", *, parked: Sequence[str] = (), **options: Any) -> DrainReport:
        """Drain, with these runs parked and no others; the book has what the archives have then."""
        report = DrainWorker(self.hot, self.archives, name="keeper", trim=trim, **options).drain_once()
        assert report.parked == len(parked), report
        for run_id, facts in self.book.items():
            if run_id in parked or facts.get("is_set_aside"):
                facts["is_set_aside"] = True
                continue
            facts["archived"] = len(facts["entries"])
            for lane, snapshot in facts["snapshots"].items():
                kept = facts["archive_snapshots"].setdefault(lane, [])
                if snapshot not in kept:
                    kept.append(dict(snapshot))
        return report

    def resolve(self, run_id: str, keep: str) -> None:
        """Let one of the two histories of a run be the run's, as an operator does."""
        targets = [f"--to=sqlite:{self.sqlite_path}", f"--to=jsonl:{self.jsonl_path}"]
        command = [
            sys.executable,
            "-m",
            "runstream",
            "resolve",
            run_id,
            "--keep",
            keep,
            "--url",
            self.url,
            *targets,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.hot.close()
        self.hot = self.open()

    # -- behind the store's back -------------------------------------------------------------------

    def key(self, run_id: str, what: str) -> str:
        """The name of one of a run's keys."""
        partition = zlib.crc32(run_id.encode()) % PARTITIONS
        escaped = run_id.replace("%", "%25").replace(":", "%3A")
        return f"{{{self.namespace}:{partition}}}:run:{escaped}:{what}"

    def cursors(self, run_id: str) -> list[str]:
        """The entries' ids in Redis."""
        return [entry_id.decode() for entry_id, _ in self.raw.xrange(self.key(run_id, "events"))]

    def damage(self, run_id: str, offset: int, record: Any) -> None:
        """Let an entry hold what ``record`` makes of it; the place is the same. It is no event any more."""
        name = self.key(run_id, "events")
        entries = self.raw.xrange(name)
        self.raw.delete(name)
        for entry_id, fields in entries:
            held = fields[b"e"]
            if int(entry_id.partition(b"-")[0]) == offset:
                held = record(held)
                self.entries(run_id)[offset - 1] |= {"event": None, "raw": held.hex()}
            self.raw.xadd(name, {b"e": held}, id=entry_id)

    def write_newer(self, run_id: str) -> None:
        """Append a record of a version that is far from being written: one of this version, renumbered."""
        codec: Any = self.hot._operations.codec
        encode = codec.encode_events

        def renumbered(*args: Any) -> Any:
            return [one._replace(record=_renumbered(run_id, one.record)) for one in encode(*args)]

        codec.encode_events = renumbered
        try:
            self.events(run_id, 1)
        finally:
            del codec.encode_events  # the instance's own, set above
        _, fields = self.raw.xrevrange(self.key(run_id, "events"), count=1)[0]
        self.entries(run_id)[-1] |= {"event": None, "raw": fields[b"e"].hex()}

    def remember(self, run_id: str) -> dict[bytes, bytes]:
        """All of a run that Redis has, as a replica would have it."""
        names = list(self.raw.scan_iter(match=self.key(run_id, "*"), count=1000))
        return {name: self.raw.dump(name) for name in names}

    def come_back(self, run_id: str, remembered: dict[bytes, bytes]) -> None:
        """Redis has what a replica had of that run when it was promoted, and a store that has seen nothing."""
        self.raw.delete(*self.raw.scan_iter(match=self.key(run_id, "*"), count=1000))
        for name, dumped in remembered.items():
            self.raw.restore(name, 0, dumped)
        self.hot.close()
        self.hot = self.open()

    def close(self) -> None:
        """Close everything: the files are complete then."""
        self.hot.close()
        for archive in self.archives:
            archive.close()

    def hide_places(self, shown: str) -> None:
        """Write another place where the archives' own is noted: it says nothing to whoever reads this."""
        here = str(self.sqlite_path.parent).encode()
        for name in self.raw.scan_iter(match=f"{{{self.namespace}*", count=1000):
            if self.raw.type(name) != b"hash":
                continue
            for field, value in self.raw.hgetall(name).items():
                if here in value:
                    self.raw.hset(name, field, value.replace(here, shown.encode()))

    def copy_archives(self, to: Path) -> None:
        """Put the closed archives where they are to be kept."""
        assert not list(self.sqlite_path.parent.glob("*-wal")), "the database was not closed"
        shutil.copy(self.sqlite_path, to / "archive.db")
        shutil.copytree(self.jsonl_path, to / "archive_jsonl", ignore=shutil.ignore_patterns(".locks"))


def _renumbered(run_id: str, record: bytes) -> bytes:
    version, body = bytes([200]), record[5:]
    return version + zlib.crc32(run_id.encode() + version + body).to_bytes(4, "big") + body
