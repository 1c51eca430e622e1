"""The Lua scripts, and their arguments in Python's terms. Each script's header says what it promises."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

from runstream.codec.shapes import EncodedEvent
from runstream.codec.snapshot import PackedState, state_checksum
from runstream.model.values import Cursor
from runstream.stores.coverage import Covered
from runstream.stores.redis.exchange import Script, ScriptCall
from runstream.stores.redis.keys import Keys, PartitionKeys

__all__ = [
    "MICROSECONDS",
    "Batch",
    "Seen",
    "Sending",
    "SnapshotWrite",
    "append_call",
    "claim_call",
    "delete_call",
    "enlist_call",
    "park_call",
    "settle_call",
    "snapshot_field",
]

MICROSECONDS = 1_000_000
DELETED_WINDOW_SECONDS = 7 * 24 * 3600
"""For how long it is remembered that a run was deleted rather than lost."""


def _load(name: str) -> Script:
    source = files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
    # the digest is the server's own name for a script, not a safeguard
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


_APPEND, _CLAIM, _SETTLE, _PARK, _DELETE, _ENLIST = (
    _load(name) for name in ("append", "claim", "settle", "park", "delete", "enlist")
)


def snapshot_field(lane_id: str | None) -> str:
    """The meta field that notes a snapshot."""
    return "snapshot" if lane_id is None else f"snapshot:{lane_id}"


@dataclass(slots=True)
class SnapshotWrite:
    """A snapshot to save: the packed state, and the one that its writer knows, if any.

    It goes out as a difference from ``known_state``, or whole without one. ``compare`` refuses it
    where another has been saved since. ``covers`` is what the writer knows of the history.
    """

    lane_id: str | None
    state: PackedState
    token: str
    covers: Covered
    known_token: str = ""
    known_state: PackedState | None = None
    compare: bool = False

    def args(self) -> list[Any]:
        """What the append script takes of it."""
        if self.known_state is None:
            form, sets = "whole", self.state.fields
            removes: list[bytes] = []
        else:
            form = "difference"
            sets, removes = self.state.changes_from(self.known_state)
        args: list[Any] = [
            snapshot_field(self.lane_id),
            "compare" if self.compare else "replace",
            self.known_token,
            self.token,
            self.covers.offset,
            "" if self.covers.history is None else self.covers.history,
            state_checksum(self.state.fields),
            form,
            len(sets),
            len(removes),
        ]
        for name, value in sets.items():
            args += (name, value)
        return args + removes


class Batch(NamedTuple):
    """What one append does to one run. An empty status says nothing of the run's."""

    run_id: str
    events: Sequence[EncodedEvent]
    session_id: str
    status: str
    expected_offset: int | None = None
    snapshot: SnapshotWrite | None = None

    def lanes(self) -> dict[str, tuple[int, int]]:
        """The lanes of the events, each with the indexes (from 1) of its first and last event."""
        found: dict[str, tuple[int, int]] = {}
        for index, event in enumerate(self.events, 1):
            known = found.get(event.lane_id)
            found[event.lane_id] = (index if known is None else known[0], index)
        return found


class Seen(NamedTuple):
    """A place that a writer or reader saw: the history's first chain, and the cursor in it."""

    history: int
    cursor: Cursor


class Sending(NamedTuple):
    """How a batch is sent: under which producer and number, first when, and what its writer saw last.

    ``sent_at`` is server time in microseconds, None before it is known; ``first_chain`` is for a run
    that is new.
    """

    producer: str
    number: int
    sent_at: int | None
    window_seconds: int
    first_chain: int
    seen: Seen | None


def append_call(keys: Keys, batch: Batch, sending: Sending) -> ScriptCall:
    """Append events, a snapshot, or both."""
    run = keys.run(batch.run_id)
    partition, snapshot, lanes = run.partition, batch.snapshot, batch.lanes()
    names = [
        run.events,
        run.meta,
        run.producers,
        partition.runs,
        partition.due,
        partition.config,
        partition.deleted,
    ]
    if batch.session_id:
        names.append(partition.session(batch.session_id))
    seen = "- -" if sending.seen is None else f"{sending.seen.history} {sending.seen.cursor}"
    # in one word list: redis-py takes longer over each argument than the script over all of these
    words = (
        f"{len(keys.partitions)} {sending.first_chain} {sending.producer} {sending.number}"
        f" {'-' if sending.sent_at is None else sending.sent_at} {sending.window_seconds * MICROSECONDS} {seen}"
        f" {'-' if batch.expected_offset is None else batch.expected_offset} {batch.status or '-'}"
        f" {len(lanes)} {0 if snapshot is None else 1}"
    )
    args: list[Any] = [batch.run_id, batch.session_id, words]
    for lane, (first, last) in lanes.items():
        args += (lane, first, last)
    if snapshot is not None:
        names.append(run.snapshot(snapshot.lane_id))
        args += snapshot.args()
    args += [event.record for event in batch.events]
    return ScriptCall(_APPEND, names, args)


def enlist_call(partition: PartitionKeys, archives: Mapping[str, str]) -> ScriptCall:
    """Enlist archives (UUID to location) in a partition that has none, and tell which it has."""
    return ScriptCall(_ENLIST, (partition.archives,), [part for pair in archives.items() for part in pair])


def claim_call(partition: PartitionKeys, due_until: int | None, count: int, seconds: float) -> ScriptCall:
    """Claim up to ``count`` runs that came due up to ``due_until`` (microseconds; None: now)."""
    until = "" if due_until is None else due_until
    return ScriptCall(_CLAIM, (partition.due,), (until, count, int(seconds * MICROSECONDS)))


def settle_call(
    keys: Keys,
    run_id: str,
    *,
    start: Cursor,
    proven: Cursor,
    trim: str,
    keep_seconds: float | None,
    archives: Sequence[str],
    snapshots: Mapping[str | None, str],
) -> ScriptCall:
    """Note that a run is archived up to ``proven``, with these snapshots (token by lane)."""
    run = keys.run(run_id)
    partition = run.partition
    args: list[Any] = [
        run_id,
        str(start),
        str(proven),
        trim,
        "" if keep_seconds is None else int(keep_seconds * MICROSECONDS),
        len(archives),
        *archives,
    ]
    for lane_id, token in snapshots.items():
        args += (snapshot_field(lane_id), token)
    return ScriptCall(
        _SETTLE,
        (run.events, run.meta, partition.due, partition.archives, partition.parked),
        args,
    )


def park_call(keys: Keys, run_id: str, *, start: Cursor, reason: str, seconds: float) -> ScriptCall:
    """Set a run aside for ``seconds``."""
    run = keys.run(run_id)
    return ScriptCall(
        _PARK,
        (run.meta, run.partition.due, run.partition.parked),
        (run_id, str(start), reason, int(seconds * MICROSECONDS)),
    )


def delete_call(
    keys: Keys, run_id: str, *, start: str, session_id: str, lanes: Sequence[str | None]
) -> ScriptCall:
    """Remove a run whose start, session and snapshots (by lane) are these."""
    run = keys.run(run_id)
    partition = run.partition
    return ScriptCall(
        _DELETE,
        (
            run.events,
            run.meta,
            run.producers,
            run.keys,
            partition.runs,
            partition.session(session_id),
            partition.due,
            partition.parked,
            partition.deleted,
            *(run.snapshot(lane_id) for lane_id in lanes),
        ),
        (run_id, start, session_id, len(lanes), DELETED_WINDOW_SECONDS * MICROSECONDS),
    )
