"""What a drain worker does to Redis: claim runs, load what is new in them, settle, park.

The worker decides; these are the round trips. Times are seconds; due times are microseconds of server
time, as the sorted sets hold them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from runstream.codec.lossless_json import dump_json
from runstream.codec.snapshot_fields import read_saved
from runstream.model.archive_records import ArchiveSnapshot, RunHeader
from runstream.model.results import Cursor
from runstream.stores.redis.exchange import Command, Exchange, Operation
from runstream.stores.redis.keys import Keys, PartitionKeys
from runstream.stores.redis.replies import as_map, place, records_of, scored
from runstream.stores.redis.scripts.calls import (
    MICROSECONDS,
    claim_call,
    enlist_call,
    extend_call,
    park_call,
    report_call,
    settle_call,
)

__all__ = [
    "FARTHEST_SECONDS",
    "DueRun",
    "Loaded",
    "LoadedRun",
    "Proven",
    "Settled",
    "Wanted",
    "claim",
    "enlist",
    "extend",
    "load",
    "load_entries",
    "park",
    "park_unread",
    "release",
    "report",
    "server_time",
    "settle",
    "sign_off",
]


FARTHEST_SECONDS = 24 * 3600.0


class DueRun(NamedTuple):
    """A run that was claimed, and when it came due."""

    run_id: str
    due_at: int


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A run as a worker finds it: header, archived mark, last place, and its snapshots' tokens by lane.

    ``proven`` has the tokens of the snapshots that were proven to be archived when the run was last settled.
    """

    header: RunHeader
    mark: Cursor
    last: Cursor
    tokens: Mapping[str | None, str]
    proven: Mapping[str | None, str]


class Settled(NamedTuple):
    """What settling one run did: ``outcome`` is 'ok', 'gone', 'diverged' or 'archives' (see settle.lua)."""

    outcome: str
    trimmed: int = 0
    detail: str = ""


def enlist(
    keys: Keys, archives: Mapping[str, str], only: Collection[int] | None = None
) -> Operation[dict[int, dict[str, str]]]:
    """The archives (UUID to location) that each partition requires; one that has none takes these.

    ``only`` limits this to some partitions, by their numbers.
    """
    partitions = keys.numbered(only)
    replies = yield Exchange([enlist_call(partition, archives) for partition in partitions.values()])
    return {
        number: {uuid.decode(): location.decode() for uuid, location in as_map(reply).items()}
        for number, reply in zip(partitions, replies, strict=True)
    }


def server_time() -> Operation[int]:
    """The server's time in microseconds."""
    (reply,) = yield Exchange([(b"TIME",)])
    return int(reply[0]) * MICROSECONDS + int(reply[1])


def claim(
    keys: Keys,
    due_until: int | None,
    count: int,
    seconds: float,
    only: Collection[int] | None = None,
    farthest_seconds: float = FARTHEST_SECONDS,
) -> Operation[list[DueRun]]:
    """Claim up to ``count`` runs of each partition that came due up to then (None: now).

    ``only`` limits this to some partitions, by their numbers. A run that would come due further ahead than
    ``farthest_seconds`` is claimed too: a server whose clock was ahead has left it there.
    """
    partitions = keys.numbered(only).values()
    replies = yield Exchange(
        [claim_call(partition, due_until, count, seconds, farthest_seconds) for partition in partitions]
    )
    return [DueRun(run_id, due_at) for _, due in replies for run_id, due_at in scored(due)]


def extend(keys: Keys, run_ids: Sequence[str], seconds: float) -> Operation[None]:
    """Hold claims for so much longer."""
    together: dict[PartitionKeys, list[str]] = {}
    for run_id in run_ids:
        together.setdefault(keys.run(run_id).partition, []).append(run_id)
    yield Exchange([extend_call(partition, of_it, seconds) for partition, of_it in together.items()])


def release(keys: Keys, claimed: Sequence[DueRun]) -> Operation[None]:
    """Give claims up, so that another worker need not wait until they run out."""
    if claimed:
        yield Exchange([(b"ZADD", keys.run(run_id).partition.due, b"XX", at, run_id) for run_id, at in claimed])


def load(keys: Keys, run_ids: Sequence[str]) -> Operation[list[LoadedRun | None]]:
    """What is known of these runs; None for one that is not there."""
    replies = yield Exchange([(b"HGETALL", keys.run(run_id).meta) for run_id in run_ids])
    return [_loaded(run_id, as_map(reply)) for run_id, reply in zip(run_ids, replies, strict=True)]


def _loaded(run_id: str, meta: dict[bytes, bytes]) -> LoadedRun | None:
    if b"start" not in meta:
        return None
    start = place(meta[b"start"])
    tokens: dict[str | None, str] = {}
    proven: dict[str | None, str] = {}
    for field, value in meta.items():
        name, colon, lane = field.partition(b":")
        if name in (b"snapshot", b"proven"):
            of = tokens if name == b"snapshot" else proven
            of[lane.decode() if colon else None] = value.rpartition(b" ")[2].decode()
    header = RunHeader(
        run_id,
        start,
        meta.get(b"session", b"").decode(),
        meta[b"status"].decode(),
        int(meta[b"created"]) / MICROSECONDS,
        int(meta[b"updated"]) / MICROSECONDS,
    )
    last = place(meta[b"last"])
    # of a tombstone all is archived; what goes on after one has a mark
    unmarked = last if b"retired" in meta else start
    return LoadedRun(header, place(meta[b"mark"]) if b"mark" in meta else unmarked, last, tokens, proven)


class Wanted(NamedTuple):
    """What to load of a run: the entries with ``first <= offset <= last``, and the snapshots of these lanes."""

    run_id: str
    first: int
    last: int
    lanes: Sequence[str | None] = ()


class Loaded(NamedTuple):
    """The entries' ids and records, and the snapshots; one that does not read is in ``broken``, with why.

    ``start`` is the run's after all that was read: where it is another, or None, so may what was read be.
    """

    # bytes alone: a pair for each would be a thousand objects for Python's collector to look through
    ids: list[bytes]
    records: list[bytes]
    snapshots: list[ArchiveSnapshot]
    broken: dict[str | None, str]
    start: Cursor | None

    @property
    def places(self) -> tuple[list[int], list[int]]:
        """The entries' offsets, and their chains."""
        numbers = list(map(int, b"-".join(self.ids).split(b"-"))) if self.ids else []
        return numbers[::2], numbers[1::2]

    @property
    def entries(self) -> list[tuple[Cursor, bytes]]:
        """The entries' places and records, in order."""
        return list(zip(map(place, self.ids), self.records, strict=True))


def load_entries(keys: Keys, wanted: Sequence[Wanted]) -> Operation[list[Loaded]]:
    """Entries and snapshots of many runs in one round trip."""
    commands: list[Command] = []
    for run_id, first, last, lanes in wanted:
        run = keys.run(run_id)
        commands.append((b"XRANGE", run.events, str(first), str(last)))
        commands += [(b"HGETALL", run.snapshot(lane_id)) for lane_id in lanes]
        commands.append((b"HGET", run.meta, b"start"))
    replies = iter((yield Exchange(commands)))
    found = []
    for want in wanted:
        entries = next(replies)
        loaded = Loaded([entry_id for entry_id, _ in entries], records_of(entries), [], {}, None)
        for lane_id in want.lanes:
            _add_snapshot(loaded, lane_id, as_map(next(replies)))
        start = next(replies)
        found.append(loaded._replace(start=None if start is None else place(start)))
    return found


def _add_snapshot(loaded: Loaded, lane_id: str | None, saved: dict[bytes, bytes]) -> None:
    try:
        offset, revision, token, state, _ = read_saved(saved)
        loaded.snapshots.append(ArchiveSnapshot(lane_id, offset, revision, token, dump_json(state)))
    except (ValueError, RecursionError) as error:  # damaged, or nested beyond JSON's depth
        loaded.broken[lane_id] = str(error)


class Proven(NamedTuple):
    """What a worker has proven of a run: archived up to ``cursor``, with these snapshots (token by lane)."""

    header: RunHeader
    cursor: Cursor
    tokens: Mapping[str | None, str]
    trim: str
    keep_seconds: float | None


def settle(keys: Keys, proven: Sequence[Proven], archives: Sequence[str]) -> Operation[list[Settled]]:
    """Note how far these runs are archived, trim, and give up the claims that are not to be kept."""
    replies = yield Exchange(
        [
            settle_call(
                keys,
                item.header.run_id,
                start=item.header.start,
                proven=item.cursor,
                trim=item.trim,
                keep_seconds=item.keep_seconds,
                archives=archives,
                snapshots=item.tokens,
            )
            for item in proven
        ]
    )
    return [_settled(reply) for reply in replies]


def _settled(reply: Sequence[bytes]) -> Settled:
    outcome = reply[0].decode()
    if outcome == "ok":
        return Settled(outcome, int(reply[1]))
    return Settled(outcome, detail=reply[1].decode() if len(reply) > 1 else "")


def park(keys: Keys, header: RunHeader, reason: str, seconds: float) -> Operation[None]:
    """Set a run aside; it comes due again in so many seconds."""
    yield Exchange([park_call(keys, header.run_id, start=header.start, reason=reason, seconds=seconds)])


def park_unread(keys: Keys, run_id: str, reason: str, seconds: float) -> Operation[None]:
    """As ``park``, for a run that could not be loaded."""
    (start,) = yield Exchange([(b"HGET", keys.run(run_id).meta, b"start")])
    if start is not None:
        text = start.decode(errors="replace")
        yield Exchange([park_call(keys, run_id, start=text, reason=reason, seconds=seconds)])


def report(keys: Keys, name: str, said: Mapping[str, object]) -> Operation[None]:
    """Note what a worker says of itself."""
    yield Exchange([report_call(keys.workers, name, json.dumps(said))])


def sign_off(keys: Keys, name: str) -> Operation[None]:
    """Remove what a worker said of itself: it has ended in good order."""
    yield Exchange([(b"HDEL", keys.workers, name)])
