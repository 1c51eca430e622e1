"""The world that a drain worker dies in at every point: what is in it, and what others do meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import redis

from runstream import (
    DrainWorker,
    EventKind,
    JSONLCheckpointer,
    PAEvent,
    RedisCheckpointer,
    RunState,
    RunStatus,
    Snapshot,
    SQLiteCheckpointer,
    StoreUnavailable,
    create_event,
)
from runstream.stores.redis.keys import Keys
from tests.support.archive_check import Archive
from tests.support.operations import session_of

__all__ = ["Hot", "World"]

Hot: TypeAlias = RedisCheckpointer[Any, Any]

PARTITIONS = 2
CLAIM_SECONDS = 600.0  # none runs out by itself: which operations there are must not hang on the machine's pace

WORKER_OPTIONS: dict[str, Any] = {"batch": 4, "claim_seconds": CLAIM_SECONDS, "retire_after_seconds": 0.0}
"""With runs that have ended leaving Redis at once."""

_LATER = {"busy": (4, 5), "long": (10, 11), "anew": (1, 5)}


def events_of(run_id: str, first: int, last: int, *, lane_id: str = "main") -> list[PAEvent]:
    """Events with these seqs."""
    return [
        create_event(run_id, EventKind.TOOL_RESULT, lane_id=lane_id, seq=seq, session_id="s", raw=b"\x00\xff")
        for seq in range(first, last + 1)
    ]


class World:
    """Runs of every kind, and archives that have some of it already.

    ``kind`` is ``"going on"``: a worker has been here before; or ``"from nothing"``: there are no archives yet.
    """

    def __init__(self, socket_path: str, namespace: str, kind: str, *, jsonl_first: bool) -> None:
        self.namespace = namespace
        self.is_new = kind == "from nothing"
        self.disk_is_full_at = None if self.is_new else 5
        self.keys = Keys(namespace, PARTITIONS)
        self.raw: Any = redis.Redis(unix_socket_path=socket_path)
        self.acknowledged: dict[str, list[PAEvent]] = {}
        self.snapshots: dict[tuple[str, str | None], Snapshot[Any]] = {}
        self.statuses: dict[str, str] = {}
        self.poison: dict[tuple[str, int], bytes] = {}
        self.later: dict[str, list[PAEvent]] = {}
        self.later_states: dict[str, RunState] = {}
        self.former: list[PAEvent] = []  # what was in the run that is made anew
        self._former_start = b""
        self._socket_path = socket_path
        self._jsonl_first = jsonl_first
        self._moments: dict[tuple[bytes, str], Any] = {}

    @contextmanager
    def hot(self) -> Iterator[Hot]:
        """A store of its own."""
        yield RedisCheckpointer(self.raw, namespace=self.namespace, partitions=PARTITIONS)

    @contextmanager
    def archives(self, directory: Path) -> Iterator[list[Archive]]:
        """The archives in a directory, in the order in which the worker has them."""
        with ExitStack() as opened:
            archives: list[Archive] = [
                opened.enter_context(SQLiteCheckpointer(directory / "sqlite" / "archive.db")),
                opened.enter_context(JSONLCheckpointer(directory / "jsonl" / "archive")),
            ]
            yield archives[::-1] if self._jsonl_first else archives

    def drain(self, hot: Hot, archives: Sequence[Archive]) -> None:
        """One drain, begun again when an archive has failed."""
        worker = DrainWorker(hot, archives, **WORKER_OPTIONS)
        for _ in range(5):
            try:
                worker.drain_once()
            except StoreUnavailable:
                continue
            return
        raise AssertionError("the archive fails again and again")

    # -- before the worker -------------------------------------------------------------------------

    def prepare(self, directory: Path) -> None:
        """Fill Redis, and the archives as far as they are there."""
        for name in ("sqlite", "jsonl"):
            (directory / name).mkdir(parents=True)
        with self.hot() as hot:
            self._add(hot, events_of("more", 1, 3), step=3)
            if not self.is_new:
                with self.archives(directory) as archives:
                    self.drain(hot, archives)
                self._fill(hot)
            for run_id in self.acknowledged:
                info = hot.run_info(run_id)
                assert info is not None
                self.statuses[run_id] = info.status

    def _fill(self, hot: Hot) -> None:
        """What the worker finds, and what comes later: the same objects each time."""
        self._add(hot, events_of("more", 4, 8), step=8)
        self._add(hot, events_of("lanes", 1, 2), step=2)
        self._add(hot, events_of("lanes", 1, 2, lane_id="second"), step=3, lane_id="second")
        self._add(hot, events_of("lanes", 3, 3), keys=["book-hotel"])
        for event in events_of("long", 1, 3):
            self._add(hot, [event])
        self._add(hot, events_of("long", 4, 9), step=9)
        finished = create_event("ended", EventKind.RUN_FINISHED, seq=3, session_id="s")
        self._add(hot, [*events_of("ended", 1, 2), finished], step=3, status=RunStatus.COMPLETED)
        self._add(hot, events_of("poison", 1, 1))
        self._add_poison(hot, "poison", 2)
        self._add(hot, events_of("poison", 3, 3), step=3)
        self._add(hot, events_of("busy", 1, 3), step=3)
        hot.save_snapshot("bare", RunState("bare", status=RunStatus.RUNNING, session_id="s"))
        self._note("bare", [], hot, None)
        self._add(hot, events_of("gone", 1, 3), step=3)
        self._add(hot, events_of("anew", 1, 3), step=3)
        self.former = self.acknowledged.pop("anew")
        self._former_start = self.raw.hget(self.keys.run("anew").meta, "start")
        self.later = {name: events_of(name, *seqs) for name, seqs in _LATER.items()}
        self.later_states = {
            name: RunState(name, current_step=5, status=RunStatus.RUNNING, session_id="s")
            for name in ("anew", "bare", "busy")
        }
        self._moments = {
            (b"EVALSHA", self.keys.run("gone").events): self.delete,
            (b"XRANGE", self.keys.run("anew").events): self.make_anew,
            (b"EVALSHA", self.keys.run("busy").events): self.append_more,
            (b"EVALSHA", self.keys.run("bare").events): self.save_more,
        }

    def _add(
        self,
        hot: Hot,
        events: Sequence[PAEvent],
        *,
        step: int = 0,
        lane_id: str | None = None,
        status: RunStatus = RunStatus.RUNNING,
        keys: Sequence[str] | None = None,
    ) -> None:
        """Append to a run, with a snapshot if there is a step."""
        run_id = events[0].run_id
        if step:
            state = RunState(
                run_id, current_step=step, status=status, session_id="s", data={"pair": (step, b"\xff")}
            )
            hot.append(run_id, events, keys=keys, snapshot=state, lane_id=lane_id)
            self._note(run_id, events, hot, lane_id)
        else:
            hot.append(run_id, events, keys=keys)
            self.acknowledged.setdefault(run_id, []).extend(events)

    def _note(self, run_id: str, events: Sequence[PAEvent], hot: Hot, lane_id: str | None) -> None:
        self.acknowledged.setdefault(run_id, []).extend(events)
        snapshot = hot.load_snapshot(run_id, lane_id=lane_id)
        assert snapshot is not None
        self.snapshots[run_id, lane_id] = snapshot

    def _add_poison(self, hot: Hot, run_id: str, offset: int) -> None:
        """Append an event of which a bit is flipped on its way into Redis."""
        codec = session_of(hot).codec
        encode = codec.encode_events

        def encode_damaged(run_id: str, events: Any, keys: Any = None) -> Any:
            (encoded,) = encode(run_id, events, keys)
            record = encoded.record[:-1] + bytes((encoded.record[-1] ^ 1,))
            self.poison[run_id, offset] = record
            return [encoded._replace(record=record)]

        codec.encode_events = encode_damaged  # a disk or wire that flips bits
        try:
            hot.append(run_id, events_of(run_id, offset, offset))
        finally:
            del codec.encode_events  # the instance's own, set above

    # -- what others do meanwhile: each may be done again, and then does nothing ---------------------

    def meddle(self, others: Hot, command: tuple[Any, ...], *, is_deleting: bool) -> None:
        """Come between two commands of the worker, the second of which is this."""
        name = command[3:4] if command[0] == b"EVALSHA" else command[1:2]
        act = self._moments.get((command[0], *name)) if name else None
        if act is not None and (is_deleting or act not in (self.delete, self.make_anew)):
            act(others)

    def delete(self, others: Hot) -> None:
        """A run is deleted."""
        if not self.is_new:
            others.delete_run("gone")

    def make_anew(self, others: Hot) -> None:
        """A run is deleted, and another is made under its name."""
        if not self.is_new and self.raw.hget(self.keys.run("anew").meta, "start") == self._former_start:
            others.delete_run("anew")
            # its snapshot covers no more than the former run had, so that the one could be taken for the other's
            others.append("anew", self.later["anew"][:2], snapshot=self.later_states["anew"])
            others.append("anew", self.later["anew"][2:])

    def append_more(self, others: Hot) -> None:
        """Events and a snapshot come."""
        if not self.is_new:
            others.recover("busy")
            others.append("busy", self.later["busy"], keys=["fourth", "fifth"], snapshot=self.later_states["busy"])

    def save_more(self, others: Hot) -> None:
        """A snapshot comes, and nothing else."""
        if not self.is_new and others.load_snapshot("bare") == self.snapshots["bare", None]:
            others.save_snapshot("bare", self.later_states["bare"])

    def append_late(self, others: Hot) -> None:
        """Events come while no worker is there."""
        if not self.is_new:
            others.save_events(self.later["long"])

    # -- what must be there in the end ---------------------------------------------------------------

    def expected_events(self) -> dict[str, list[PAEvent]]:
        """Of every run that is not deleted on the way."""
        runs = {run_id: events for run_id, events in self.acknowledged.items() if run_id != "gone"}
        return {run_id: events + self.later.get(run_id, []) for run_id, events in runs.items()}

    def expected_snapshots(self) -> dict[tuple[str, str | None], Snapshot[Any]]:
        """Of the same runs."""
        kept = {place: found for place, found in self.snapshots.items() if place[0] not in ("gone", "anew")}
        if not self.is_new:
            kept["busy", None] = Snapshot(self.later_states["busy"], 5, 2)
            kept["bare", None] = Snapshot(self.later_states["bare"], 0, 2)
        return kept

    # -- Redis ---------------------------------------------------------------------------------------

    def key_names(self) -> list[bytes]:
        """The names of all keys of the namespace."""
        names: list[bytes] = sorted(self.raw.keys(f"{{{self.namespace}*"))
        return names

    def saved(self) -> dict[bytes, bytes]:
        """All that Redis holds, to be put back."""
        return {name: self.raw.dump(name) for name in self.key_names()}

    def put_back(self, saved: Mapping[bytes, bytes]) -> None:
        """Let Redis hold just this."""
        names = self.key_names()
        if self.is_new:
            self.raw.script_flush()
        with self.raw.pipeline(transaction=False) as pipeline:
            if names:
                pipeline.delete(*names)
            for name, content in saved.items():
                pipeline.restore(name, 0, content)
            pipeline.execute()

    def let_claims_run_out(self) -> None:
        """As if the time of a claim had passed; what is parked waits on."""
        for partition in self.keys.partitions:
            parked = self.raw.hkeys(partition.parked)
            due = self.raw.zrange(partition.due, 0, -1, withscores=True)
            if earlier := {run_id: at - CLAIM_SECONDS * 1e6 for run_id, at in due if run_id not in parked}:
                self.raw.zadd(partition.due, earlier, xx=True)

    def parked(self) -> dict[str, str]:
        """The runs that are set aside, and why."""
        found = [self.raw.hgetall(partition.parked) for partition in self.keys.partitions]
        return {run_id.decode(): why.decode() for each in found for run_id, why in each.items()}

    def due(self) -> set[str]:
        """The runs that are due, now or later."""
        found = [self.raw.zrange(partition.due, 0, -1) for partition in self.keys.partitions]
        return {run_id.decode() for each in found for run_id in each}
