"""The Lua scripts, and their arguments in Python's terms. Each script's header says what it promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

from runstream.codec.event_codec import EncodedEvent
from runstream.codec.snapshot_fields import PackedState, state_checksum
from runstream.model.results import Cursor, LeaseGrant
from runstream.model.state import status_after
from runstream.operations.coverage import Covered
from runstream.stores.redis.exchange import Command, Script, script_call
from runstream.stores.redis.keys import Keys, PartitionKeys, RunKeys
from runstream.stores.redis.replies import place

__all__ = [
    "MICROSECONDS",
    "PRODUCER_WINDOW_SECONDS",
    "REFILL",
    "SCRIPTS",
    "SWITCH",
    "UNPARK",
    "Batch",
    "LaneSpan",
    "Seen",
    "Sending",
    "SnapshotWrite",
    "append_call",
    "claim_call",
    "delete_call",
    "drop_call",
    "enlist_call",
    "event_call",
    "extend_call",
    "forget_call",
    "lane_of_lease",
    "lease_call",
    "park_call",
    "report_call",
    "retire_call",
    "revisit_call",
    "settle_call",
    "snapshot_field",
]

MICROSECONDS = 1_000_000
PRODUCER_WINDOW_SECONDS = 600
"""For how long the server remembers a producer that is silent. A batch that is older is refused."""
DELETED_WINDOW_SECONDS = 7 * 24 * 3600
"""For how long it is remembered that a run was deleted rather than lost."""
WORKER_WINDOW_SECONDS = 24 * 3600
"""For how long the report of a worker that is silent is kept."""


def _source(name: str) -> str:
    return files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")


def _load(name: str) -> Script:
    source = _source("common") + _source(name)
    if name == "append":
        source = _source("ordinary") + source
    return Script(name, source)


_SCRIPT = {
    name: _load(name)
    for name in (
        *("append", "lease", "delete", "enlist", "drop", "claim", "extend", "settle", "park", "revisit"),
        *("retire", "forget", "report", "refill", "switch", "unpark"),
    )
}
_APPEND = _SCRIPT["append"]
REFILL, SWITCH, UNPARK = (_SCRIPT[name] for name in ("refill", "switch", "unpark"))
SCRIPTS = tuple(_SCRIPT.values())


def snapshot_field(lane_id: str | None) -> str:
    """The meta field that notes a snapshot."""
    return "snapshot" if lane_id is None else f"snapshot:{lane_id}"


def _lease_field(lane_id: str | None) -> str:
    """The meta field of a lease on a lane, or (None) on the whole run."""
    return "lease" if lane_id is None else f"lease:{lane_id}"


def lane_of_lease(field: str) -> str | None:
    """The lane whose lease that field is, None for the whole run's."""
    return field.partition(":")[2] if ":" in field else None


@dataclass(slots=True)
class SnapshotWrite:
    """A snapshot to save: the packed state, and the one that its writer knows, if any.

    It goes out as a difference from ``known_state``, or whole without one. ``compare`` refuses it
    where another has been saved since. ``covers`` is what the writer knows of the history; ``changes`` says
    that it is what the one before covers, and may be less than what has left Redis.
    """

    lane_id: str | None
    state: PackedState
    token: str
    covers: Covered
    known_token: str = ""
    known_revision: int = 0
    known_state: PackedState | None = None
    compare: bool = False
    changes: bool = False

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
            "change" if self.changes else "compare" if self.compare else "replace",
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


class LaneSpan(NamedTuple):
    """What a batch adds to a lane: the indexes (from 1) of its first and last event, and the latter's seq."""

    first: int
    last: int
    seq: int


class Batch(NamedTuple):
    """What one append does to one run. An empty status says nothing of the run's."""

    run_id: str
    events: Sequence[EncodedEvent]
    session_id: str
    status: str
    lanes: Mapping[str, LaneSpan]
    is_keyed: bool = False
    expected_offset: int | None = None
    grant: LeaseGrant | None = None
    snapshot: SnapshotWrite | None = None


class Seen(NamedTuple):
    """A place that a writer or reader saw, and the start of the history that it is in, as Redis tells them."""

    start: bytes
    place: bytes
    offset: int

    @property
    def cursor(self) -> Cursor:
        """The place."""
        return place(self.place)

    @property
    def history(self) -> int:
        """The history's first chain."""
        return place(self.start).chain


class Sending(NamedTuple):
    """How a batch is sent: under which producer and number, first when, and what its writer saw last.

    ``sent_at`` is server time in microseconds, None before it is known; ``max_hot_events`` is how many entries the
    run may have in Redis then, None for any number.
    """

    producer: str
    number: int
    sent_at: int | None
    seen: Seen | None
    max_hot_events: int | None = None


_NOTHING_ASKED = (None, None, None, 1, 0, 0, 0)


def event_call(
    keys: Keys,
    run_id: str,
    event: EncodedEvent,
    producer: str,
    number: int,
    sent_at: int | None,
    seen: Seen | None,
) -> Command:
    """Append one event, with nothing asked for besides; the rest is as in ``Sending``."""
    record, lane_id, _, session_id, seq, _ = event
    run = keys.run(run_id)
    names = (*run.of_append, run.partition.session(session_id)) if session_id else run.of_append
    place, words = _standpoint(keys, sent_at, seen)
    # what script_call makes, without a list in between
    head = (b"EVALSHA", _APPEND, len(names))
    args = (run_id, session_id, producer, number, place, words, lane_id, seq, record)
    return head + names + args


def _standpoint(keys: Keys, sent_at: int | None, seen: Seen | None) -> tuple[bytes, bytes]:
    """The place that the writer saw last, and the words that are beside it."""
    place, start = (b"-", b"-") if seen is None else (seen.place, seen.start)
    at = b"-" if sent_at is None else b"%d" % sent_at
    return place, b"%b %b %d %d" % (
        at,
        start,
        len(keys.partitions),
        PRODUCER_WINDOW_SECONDS * MICROSECONDS,
    )


def append_call(keys: Keys, batch: Batch, sending: Sending) -> Command:
    """Append events, a snapshot, or both."""
    run_id, events, session_id, status, lanes, is_keyed, expected, grant, snapshot = batch
    run = keys.run(run_id)
    names: tuple[str, ...] = run.of_append
    asked = (
        expected,
        sending.max_hot_events,
        status or None,
        len(lanes),
        len(events) if is_keyed else 0,
        int(grant is not None),
        int(snapshot is not None),
    )
    place, words = _standpoint(keys, sending.sent_at, sending.seen)
    is_plain = asked == _NOTHING_ASKED
    if not is_plain:
        more = " ".join("-" if word is None else str(word) for word in asked)
        place, words = b"-", b"%b %b %b" % (words, place, more.encode())
    args: list[Any] = [run_id, session_id, sending.producer, sending.number, place, words]
    for lane, (first, last, seq) in lanes.items():
        args += (lane, seq if is_plain else f"{seq} {first} {last}")
    if session_id:
        names = (*names, run.partition.session(session_id))
    if is_keyed:
        names = (*names, run.keys)
        args += _described(events, lanes)
    if grant is not None:
        args += (_lease_field(grant.lane_id), grant.token)
    if snapshot is not None:
        names = (*names, run.snapshot(snapshot.lane_id))
        args += snapshot.args()
    args += [event.record for event in events]
    return script_call(_APPEND, names, args)


def _described(events: Sequence[EncodedEvent], lanes: Mapping[str, LaneSpan]) -> list[str]:
    index_of = {lane: index for index, lane in enumerate(lanes, 1)}
    described = []
    for event in events:
        key = "" if event.key is None else f" {event.key}"
        described.append(f"{index_of[event.lane_id]} {event.seq} {status_after((event.kind,)) or '-'}{key}")
    return described


def lease_call(keys: Keys, action: str, grant: LeaseGrant) -> Command:
    """Take, renew or release a lease; a take gives it its epoch."""
    lasts = int(grant.ttl_seconds * MICROSECONDS)
    args = (action, _lease_field(grant.lane_id), grant.token, lasts, grant.owner)
    return script_call(_SCRIPT["lease"], (keys.run(grant.run_id).meta,), args)


def enlist_call(partition: PartitionKeys, archives: Mapping[str, str]) -> Command:
    """Enlist archives (UUID to location) in a partition that has none, and tell which it has."""
    return script_call(
        _SCRIPT["enlist"], (partition.archives,), [part for pair in archives.items() for part in pair]
    )


def claim_call(
    partition: PartitionKeys, due_until: int | None, count: int, seconds: float, farthest_seconds: float
) -> Command:
    """Claim up to ``count`` runs that came due up to ``due_until`` (microseconds; None: now), or that would come
    due further ahead than ``farthest_seconds``.
    """
    until = "" if due_until is None else due_until
    times = (int(seconds * MICROSECONDS), int(farthest_seconds * MICROSECONDS))
    return script_call(_SCRIPT["claim"], (partition.due,), (until, count, *times))


def extend_call(partition: PartitionKeys, run_ids: Sequence[str], seconds: float) -> Command:
    """Hold the claims on runs of one partition for so much longer."""
    return script_call(_SCRIPT["extend"], (partition.due,), (int(seconds * MICROSECONDS), *run_ids))


def report_call(workers: str, name: str, report: str) -> Command:
    """Note a worker's report, a JSON object that is not empty, in the hash ``workers``."""
    return script_call(_SCRIPT["report"], (workers,), (name, report, WORKER_WINDOW_SECONDS * MICROSECONDS))


def revisit_call(keys: Keys, run_id: str) -> Command:
    """Make a run due, if it is there."""
    run = keys.run(run_id)
    return script_call(_SCRIPT["revisit"], (run.partition.due, run.meta), (run_id,))


def drop_call(partition: PartitionKeys, archive_id: str) -> Command:
    """Require an archive of a partition no longer, unless it is the only one."""
    return script_call(_SCRIPT["drop"], (partition.archives,), (archive_id,))


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
) -> Command:
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
    return script_call(
        _SCRIPT["settle"],
        (run.events, run.meta, partition.due, partition.archives, partition.parked, partition.retire),
        args,
    )


def park_call(keys: Keys, run_id: str, *, start: Cursor | str, reason: str, seconds: float) -> Command:
    """Set a run aside for ``seconds``."""
    run = keys.run(run_id)
    return script_call(
        _SCRIPT["park"],
        (run.meta, run.partition.due, run.partition.parked),
        (run_id, str(start), reason, int(seconds * MICROSECONDS)),
    )


def delete_call(keys: Keys, run_id: str, *, start: str, session_id: str, lanes: Sequence[str | None]) -> Command:
    """Remove a run whose start, session and snapshots (by lane) are these."""
    run = keys.run(run_id)
    snapshots = (run.snapshot(lane_id) for lane_id in lanes)
    return script_call(
        _SCRIPT["delete"],
        (*_all_but_snapshots(run, session_id), *snapshots),
        (run_id, start, session_id, len(lanes), DELETED_WINDOW_SECONDS * MICROSECONDS),
    )


def _all_but_snapshots(run: RunKeys, session_id: str) -> tuple[str, ...]:
    partition = run.partition
    return (
        run.events,
        run.meta,
        run.producers,
        run.keys,
        partition.runs,
        partition.session(session_id),
        partition.due,
        partition.parked,
        partition.deleted,
        partition.retire,
        partition.retired,
    )


def retire_call(
    keys: Keys,
    run_id: str,
    *,
    start: str,
    quiet_seconds: float,
    archives: Sequence[str],
    snapshots: Mapping[str | None, str],
) -> Command:
    """Retire a run (``start`` "" if there is none) of which these archives have all, with these snapshots
    (token by lane), if it was quiet for so long.
    """
    run = keys.run(run_id)
    partition = run.partition
    args: list[Any] = [
        run_id,
        start,
        int(quiet_seconds * MICROSECONDS),
        PRODUCER_WINDOW_SECONDS * MICROSECONDS,
        len(archives),
        *archives,
    ]
    for lane_id, token in snapshots.items():
        args += (snapshot_field(lane_id), token)
    return script_call(
        _SCRIPT["retire"],
        (
            run.events,
            run.meta,
            run.producers,
            partition.due,
            partition.retire,
            partition.retired,
            partition.archives,
            *(run.snapshot(lane_id) for lane_id in snapshots),
        ),
        args,
    )


def forget_call(keys: Keys, run_id: str, *, start: str, session_id: str, retired_seconds: float) -> Command:
    """Forget a run (``start`` "" if there is none) that was retired so long ago."""
    return script_call(
        _SCRIPT["forget"],
        _all_but_snapshots(keys.run(run_id), session_id),
        (
            run_id,
            start,
            session_id,
            int(retired_seconds * MICROSECONDS),
            DELETED_WINDOW_SECONDS * MICROSECONDS,
        ),
    )
