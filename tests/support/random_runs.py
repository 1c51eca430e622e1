"""Runs as nobody would write them on purpose, and all that Redis has of them, in a form that can be compared."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from runstream import (
    ConcurrencyConflict,
    CorruptRecordError,
    DrainWorker,
    EventKind,
    EventsArchived,
    JSONLCheckpointer,
    RunStatus,
)
from runstream.codec.record import ERASED
from runstream.drain import Trim
from runstream.stores.archive.sqlite import SQLiteCheckpointer
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.namespace import namespace_of
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hot, open_hot
from tests.support.operations import session_of
from tests.support.samples import RICH_VALUES, make_event, make_state

__all__ = ["Author", "check_is_as_before", "damage", "erase", "lose_redis", "one_archive", "picture"]

_LANES = ("main", "side", "a:b %")
_PASSING = (
    *("mark", "trimmed", "peak", "proven", "lease", "epoch", "retired", "by"),
    *("heard", "swept", "forgotten", "indexed", "gaps", "unread", "tagsproven"),
)


class Author:
    """Writes runs at random, from two stores, and drains them now and then."""

    def __init__(self, backend: RedisBackend, archives: Sequence[Archive], seed: int) -> None:
        self.random = random.Random(seed)
        self.archives = archives
        self.stores = [open_hot(backend, partitions=2), open_hot(backend)]
        self.run_ids = ["r", "a:b", "run%3A", "ü"]
        self._seq = 0

    def write(self, steps: int, *, trims: Sequence[Trim] = ("covered", "archived", "never")) -> None:
        """So many steps; nothing is refused, but for a snapshot whose events have left Redis."""
        acts = [
            self._events,
            self._events,
            self._keyed,
            self._snapshot,
            self._lane_snapshot,
            self._ending,
            self._tags,
        ]
        for _ in range(steps):
            run_id, hot = self.random.choice(self.run_ids), self.random.choice(self.stores)
            if self.random.random() < 0.15:
                self.drain(self.random.choice(trims))
            act = self.random.choice(acts)
            try:
                act(hot, run_id)
            except (EventsArchived, ConcurrencyConflict, CorruptRecordError):
                hot.forget(run_id)

    def drain(self, trim: Trim = "covered") -> None:
        """Drain all; nothing is parked."""
        report = DrainWorker(self.stores[0], self.archives, trim=trim).drain_once()
        assert report.parked == 0

    def _event(self, run_id: str, **fields: Any) -> Any:
        self._seq += 1
        name = self.random.choice(list(RICH_VALUES))
        lane_id = self.random.choice(_LANES)
        return make_event(run_id, self._seq, lane_id=lane_id, payload={"value": RICH_VALUES[name]}, **fields)

    def _events(self, hot: Hot, run_id: str) -> None:
        session_id = self.random.choice(["", "s", "other"])
        hot.save_events([self._event(run_id, session_id=session_id) for _ in range(self.random.randint(1, 5))])

    def _keyed(self, hot: Hot, run_id: str) -> None:
        keys = [self.random.choice([None, f"k{self.random.randint(1, 20)}"]) for _ in range(2)]
        hot.append(run_id, [self._event(run_id), self._event(run_id)], keys=keys)

    def _snapshot(self, hot: Hot, run_id: str) -> None:
        if self.random.random() < 0.5:
            hot.recover(run_id)
        hot.save_snapshot(run_id, make_state(run_id, current_step=self._seq))

    def _lane_snapshot(self, hot: Hot, run_id: str) -> None:
        lane_id = self.random.choice(_LANES)
        if self.random.random() < 0.5:
            hot.recover(run_id, lane_id=lane_id)
        hot.save_snapshot(run_id, make_state(run_id, current_step=self._seq), lane_id=lane_id)

    def _tags(self, hot: Hot, run_id: str) -> None:
        events = [self._event(run_id) for _ in range(self.random.randint(0, 1))]
        names = self.random.sample(["user", "env", "a:b", "ü"], 2)
        hot.append(run_id, events, tags={name: self.random.choice(["1", "", "x:é", None]) for name in names})

    def _ending(self, hot: Hot, run_id: str) -> None:
        if self.random.random() < 0.5:
            hot.save_event(
                self._event(run_id, kind=self.random.choice([EventKind.RUN_STARTED, EventKind.RUN_FINISHED]))
            )
        else:
            hot.save_snapshot(run_id, make_state(run_id, status=RunStatus.COMPLETED))


def one_archive(kind: str, directory: Path) -> Archive:
    """An archive of that kind."""
    return SQLiteCheckpointer(directory / "a.db") if kind == "sqlite" else JSONLCheckpointer(directory / "j")


def damage(hot: Hot, run_id: str, record: bytes) -> None:
    """Append an event whose record arrives as that."""
    codec: Any = session_of(hot).codec
    encode = codec.encode_events
    codec.encode_events = lambda *args: [one._replace(record=record) for one in encode(*args)]
    try:
        hot.append(run_id, [make_event(run_id)])
    finally:
        del codec.encode_events


def erase(backend: RedisBackend, keys: RunKeys, offset: int) -> None:
    """Let nothing be left of an event but its place."""
    entries = backend.raw.xrange(keys.events)
    backend.raw.delete(keys.events)
    for entry_id, fields in entries:
        is_it = int(entry_id.partition(b"-")[0]) == offset
        backend.raw.xadd(keys.events, {b"e": ERASED} if is_it else fields, id=entry_id)


def lose_redis(backend: RedisBackend) -> Hot:
    """Nothing of the namespace is left; a store that opens it anew."""
    if names := backend.key_names():
        backend.raw.delete(*names)
    return open_hot(backend)


def picture(backend: RedisBackend, hot: Hot, *, without: Collection[str] = _PASSING) -> dict[str, Any]:
    """All that Redis has of the runs, but for what passes: producers, leases, how far the drain is."""
    found: dict[str, Any] = {}
    raw = backend.raw
    for run_id in hot.list_runs():
        keys = namespace_of(hot).keys.run(run_id)
        meta = raw.hgetall(keys.meta)
        lanes = [
            None if name == b"snapshot" else name[9:].decode() for name in meta if name.startswith(b"snapshot")
        ]
        snapshots = {lane: raw.hgetall(keys.snapshot(lane)) for lane in lanes}
        for snapshot in snapshots.values():
            snapshot.pop(b"saved", None)
        session = meta.get(b"session", b"").decode()
        found[run_id] = {
            "meta": {
                # the plus sign: an archive cannot tell whether seqs rise where some record does not read
                name: value.replace(b" +", b" ") if name.startswith(b"lane:") else value
                for name, value in meta.items()
                if name.split(b":")[0].decode() not in without
            },
            "events": raw.xrange(keys.events),
            "keys": raw.hgetall(keys.keys),
            "snapshots": snapshots,
            "tags": (tags := raw.hgetall(keys.tags)),
            "indexed": [
                raw.zscore(keys.partition.index(name.decode()), b"%d:%b%b" % (len(value), value, run_id.encode()))
                for name, value in tags.items()
                if name
            ],
            "listed": raw.zscore(keys.partition.runs, run_id) // 10**6,
            "in session": raw.zscore(keys.partition.session(session), run_id) is not None,
        }
    return found


def check_is_as_before(before: dict[str, Any], after: dict[str, Any], *, whole: bool) -> None:
    """Two pictures agree, as far as they must.

    From where a lane is recovered, the appends note with care: an archive tells it exactly, which can be later. So
    of the events there may be fewer at the beginning, unless all were put back.
    """
    assert before.keys() == after.keys()
    for run_id, former in before.items():
        now = after[run_id]
        assert {name: value for name, value in now.items() if name not in ("meta", "events")} == {
            name: value for name, value in former.items() if name not in ("meta", "events")
        }
        since, noted = (
            {name: int(value) for name, value in one["meta"].items() if name.startswith(b"since:")}
            for one in (former, now)
        )
        assert {name: value for name, value in now["meta"].items() if name not in noted} == {
            name: value for name, value in former["meta"].items() if name not in since
        }
        assert all(since[name] <= value for name, value in noted.items())
        assert now["events"] == former["events"][len(former["events"]) - len(now["events"]) :]
        assert not whole or now["events"] == former["events"]
