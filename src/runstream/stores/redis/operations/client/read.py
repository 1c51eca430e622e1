"""Read, follow and recover.

Offsets are dense, so density is the proof that nothing is missing: a page that does not go on where
the last one ended is an error, never a shorter list.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from runstream.codec.record import ERASED
from runstream.model.errors import CorruptRecordError, EventsArchived, StoreUnavailable
from runstream.model.events import EventKind, Visibility
from runstream.model.identifiers import check_name, check_run_id
from runstream.model.protocols import OnCorrupt
from runstream.model.results import Cursor, E, Recorded, Recovery, S
from runstream.model.state import ENDED_STATUSES
from runstream.operations.filters import EventFilter, check_read, lane_of, origin, seq_of
from runstream.operations.messages import diverged, lost
from runstream.stores.redis.exchange import Exchange, Items, Operation, Paging, Refusal, Stream
from runstream.stores.redis.operations.client.archived_errors import events_archived, retired_away
from runstream.stores.redis.operations.client.send import settle
from runstream.stores.redis.operations.client.snapshots import decode_snapshot
from runstream.stores.redis.page_size import Pace
from runstream.stores.redis.replies import Retired, as_map, parse_info, place, records_of, retired_of
from runstream.stores.redis.session.session import Context

__all__ = [
    "Standing",
    "collect",
    "follow",
    "has_recovered",
    "last_seq",
    "list_events",
    "read",
    "recover",
    "retired_token",
    "standing_of",
    "standing_query",
    "start_of",
]

PAGE = 1000
_MAX_SEQUENCE = 2**64 - 1
_RECOVER_ATTEMPTS = 10


class Standing(NamedTuple):
    """Where a run stands, as its meta has it; a run that is not there stands at 0.

    Of a tombstone the mark is the last place: all was archived before it was retired.
    """

    exists: bool
    start: Cursor
    last: Cursor
    mark: Cursor
    status: str
    retired: Retired | None = None

    @property
    def has_retired_events(self) -> bool:
        """Whether events left Redis with all that was known of their lanes."""
        if self.retired is None:
            return False
        upto = self.last.offset if self.retired.offset is None else self.retired.offset
        return upto > self.start.offset


def standing_query(meta_key: str) -> tuple[Any, ...]:
    """The command whose reply :func:`standing_of` reads."""
    return (b"HMGET", meta_key, "start", "last", "mark", "status", "retired")


def standing_of(reply: Sequence[bytes | None]) -> Standing:
    """Where the run stands."""
    start, last, mark, status, left = reply
    at_start = place(start) if start else Cursor(0, 0)
    at_last = place(last) if last else at_start
    retired = retired_of(left)
    unmarked = at_start if retired is None else at_last
    return Standing(
        start is not None,
        at_start,
        at_last,
        place(mark) if mark else unmarked,
        status.decode() if status else "",
        retired,
    )


def read(
    context: Context[E, S],
    run_id: str,
    after: int | str = 0,
    *,
    before: int | None = None,
    limit: int | None = None,
    reverse: bool = False,
    on_corrupt: OnCorrupt = "raise",
) -> Stream:
    """The events between two offsets, as they stand at the first exchange, in pages."""
    check_run_id(run_id)
    check_read(before, limit, on_corrupt)
    low, cursor = origin(after)
    reader = _Reader(context, run_id, on_corrupt, limit)
    standing = yield from reader.open(cursor)
    high = standing.last.offset if before is None else min(before - 1, standing.last.offset)
    low = max(low, standing.start.offset)
    if reverse:
        yield from reader.backward(low, high)
    else:
        yield from reader.forward(low, high)


def list_events(context: Context[E, S], run_id: str, since_seq: int = 0) -> Operation[list[E]]:
    """The events whose ``seq`` is over ``since_seq``, in log order."""
    check_run_id(run_id)
    reader = _Reader(context, run_id, "raise", None, bare=True)
    standing = yield from reader.open(None)
    events: list[E] = yield from collect(reader.forward(standing.start.offset, standing.last.offset))
    return events if since_seq <= 0 else [event for event in events if seq_of(event) > since_seq]


def recover(context: Context[E, S], run_id: str, *, lane_id: str | None = None) -> Operation[Recovery[S, E]]:
    """The latest snapshot and the events after it, of the run or of one lane."""
    check_run_id(run_id)
    keys = context.keys.run(run_id)
    queries = [(b"HGETALL", keys.snapshot(lane_id)), standing_query(keys.meta)]
    if lane_id is not None:
        check_name("lane_id", lane_id)
        queries.append((b"HGET", keys.meta, f"since:{lane_id}"))
    yield from settle(context, [run_id])  # what is on its way is part of what is gone on from
    revision = -1
    for _ in range(_RECOVER_ATTEMPTS):
        saved, meta, *since = yield Exchange(queries, atomic=True)
        standing = standing_of(meta)
        snapshot = decode_snapshot(context, run_id, lane_id, as_map(saved))
        if snapshot is None:
            is_unknown_lane = lane_id is not None and since[0] is None
            yield from _without_snapshot(context, run_id, lane_id, standing, is_unknown_lane=is_unknown_lane)
        covered = standing.start.offset if snapshot is None else snapshot.offset
        recorded: list[Recorded[E]] = []
        try:
            if lane_id is None:
                recorded = yield from collect(read(context, run_id, covered, before=standing.last.offset + 1))
            elif since[0] is not None:
                # a lane needs its own events and no others, wherever those have gone
                first = max(covered, int(since[0]) - 1)
                recorded = yield from collect(read(context, run_id, first, before=standing.last.offset + 1))
        except EventsArchived:
            # trimmed between the two steps, which takes a newer snapshot: go on from that one
            if snapshot is None or snapshot.revision == revision:
                raise
            revision = snapshot.revision
            continue
        if lane_id is not None:
            recorded = [item for item in recorded if lane_of(item.event) == lane_id]
        context.coverage.recovered(run_id, lane_id, standing.start, standing.last.offset)
        return Recovery(None if snapshot is None else snapshot.state, covered, recorded)
    raise EventsArchived(
        f"run {run_id!r} is trimmed faster than it can be recovered from Redis; read its archive",
        run_id=run_id,
        first_hot=standing.last.offset + 1,
    )


def _without_snapshot(
    context: Context[E, S], run_id: str, lane_id: str | None, standing: Standing, *, is_unknown_lane: bool
) -> Operation[None]:
    """Raise EventsArchived if what there was to recover from was retired; else know that there is none."""
    retired = standing.retired
    if retired is not None and (
        retired.had_snapshot(lane_id) or (is_unknown_lane and standing.has_retired_events)
    ):
        raise (yield from retired_away(context, run_id, lane_id))
    context.snapshots.drop(run_id, lane_id)


def has_recovered(
    context: Context[E, S], run_id: str, offset: int, *, lane_id: str | None = None
) -> Operation[None]:
    """Note that the history up to an offset was read, partly elsewhere, in order to go on from there."""
    keys = context.keys.run(run_id)
    meta, has_snapshot = yield Exchange(
        [standing_query(keys.meta), (b"EXISTS", keys.snapshot(lane_id))], atomic=True
    )
    standing = standing_of(meta)
    context.coverage.recovered(run_id, lane_id, standing.start, offset)
    if standing.retired is not None and not has_snapshot:
        context.snapshots.put(run_id, lane_id, standing.retired.token(lane_id), 0, None)


def retired_token(context: Context[E, S], run_id: str, *, lane_id: str | None = None) -> Operation[str]:
    """What stands for the token of the latest snapshot if that was retired; '' if it is here, or was never."""
    keys = context.keys.run(run_id)
    meta, has_snapshot = yield Exchange(
        [standing_query(keys.meta), (b"EXISTS", keys.snapshot(lane_id))], atomic=True
    )
    retired = standing_of(meta).retired
    return "" if retired is None or has_snapshot else retired.token(lane_id)


def start_of(context: Context[E, S], run_id: str) -> Operation[Cursor | None]:
    """The place before the run's first event, or None for a run that is not there."""
    check_run_id(run_id)
    (meta,) = yield Exchange([standing_query(context.keys.run(run_id).meta)])
    standing = standing_of(meta)
    return standing.start if standing.exists else None


def last_seq(context: Context[E, S], run_id: str, lane_id: str) -> Operation[int]:
    """The seq of the lane's last event, 0 for a lane that has none."""
    check_run_id(run_id)
    check_name("lane_id", lane_id)
    yield from settle(context, [run_id])  # a number that is on its way is not free
    meta_key = context.keys.run(run_id).meta
    queries = [(b"HGET", meta_key, f"lane:{lane_id}"), standing_query(meta_key)]
    lane, meta = yield Exchange(queries, atomic=True)
    if not lane and standing_of(meta).has_retired_events:
        raise (yield from retired_away(context, run_id, lane_id))  # a number that was used is not given again
    return int(lane.partition(b" ")[2]) if lane else 0


def follow(
    context: Context[E, S],
    run_id: str,
    after: int | str = 0,
    *,
    idle_timeout: float | None = None,
    lane_id: str | None = None,
    kinds: Collection[EventKind | str] | None = None,
    visibility: Visibility | str | None = None,
) -> Stream:
    """History, then live, until the run has ended and all was given."""
    check_run_id(run_id)
    wanted = EventFilter(lane_id, kinds, visibility)
    keys = context.keys.run(run_id)
    position, cursor = origin(after)
    reader = _Reader(context, run_id, "raise", None)
    yield from reader.open(cursor)
    given_at = context.clock()
    while True:
        standing, found = yield from reader.page(position, None)
        if found:
            reader.note(standing, found[-1][0])
            position = found[-1][0].offset
            matching = [item for item in (yield from reader.decode(found)) if wanted(item.event)]
            if matching:
                given_at = context.clock()
                yield Items(matching)
                given_at = context.clock()
            continue
        if standing.status in ENDED_STATUSES and standing.last.offset <= position:
            return
        wait = context.max_block_seconds
        if idle_timeout is not None:
            left = given_at + idle_timeout - context.clock()
            if left <= 0:
                raise TimeoutError(f"run {run_id!r} had no event to give for {idle_timeout} seconds")
            wait = min(wait, left)
        # only the bell: what came is read as a page, with all its checks
        bell = (b"XREAD", b"COUNT", 1, b"BLOCK", max(1, int(wait * 1000)), b"STREAMS", keys.events)
        yield Exchange([(*bell, f"{position}-{_MAX_SEQUENCE}")])


def collect(stream: Stream) -> Operation[list[Any]]:
    """All the items of a stream as one result."""
    collected: list[Any] = []
    replies: Any = None
    while True:
        try:
            step = stream.send(replies)
        except StopIteration:
            return collected
        if isinstance(step, Items):
            collected.extend(step.items)
            replies = None
        else:
            replies = yield step


_Found = list[tuple[Cursor, bytes]]


class _Reader:
    """Reads the pages of one run and checks that nothing is missing between them, and that it is one history.

    What it gives are events with their places; ``bare``, without.
    """

    def __init__(
        self,
        context: Context[E, S],
        run_id: str,
        on_corrupt: OnCorrupt,
        limit: int | None,
        *,
        bare: bool = False,
    ) -> None:
        self.context = context
        self.run_id = run_id
        self.on_corrupt = on_corrupt
        self.left = limit
        self.bare = bare
        self.seen: Cursor | None = None
        """The last place that was read forward, or the cursor to go on from."""
        self._keys = context.keys.run(run_id)
        self._pace = Pace(PAGE)

    def open(self, cursor: Cursor | None) -> Operation[Standing]:
        """Where the run stands, checked to be the history that this store saw last, and the cursor's."""
        known = self.context.seen.get(self.run_id)
        queries = [standing_query(self._keys.meta)]
        places = [at for at in (cursor, None if known is None else known.cursor) if at is not None]
        queries += [(b"XRANGE", self._keys.events, str(at.offset), str(at.offset)) for at in places]
        if known is not None:
            queries.append((b"ZSCORE", self._keys.partition.deleted, known.history))
        meta, *replies = yield Exchange(queries, atomic=len(queries) > 1)
        standing = standing_of(meta)
        if known is not None:
            *replies, entries, deleted = replies
            if standing.exists and standing.start.chain == known.history:
                self.seen = known.cursor
                yield from self._check_history(standing, [(place(entry[0]), b"") for entry in entries])
            elif deleted is None:
                yield from self._report_lost(known.cursor.offset, standing.last.offset)
            self.seen = None
        if cursor is not None and cursor.offset > standing.start.offset:
            self.seen = cursor
            yield from self._check_history(standing, [(place(entry[0]), b"") for entry in replies[0]])
        return standing

    def page(self, after: int, upto: int | None, count: int | None = None) -> Operation[tuple[Standing, _Found]]:
        """The next entries after an offset, none missing; so many, or what the pace allows."""
        count = self._pace.count if count is None else count
        # with the entry that was seen last, as long as it is there: it tells whether this is the same history
        again = self.seen is not None and self.seen.offset == after
        first = after if again else after + 1
        end = "+" if upto is None else str(upto)
        query = (b"XRANGE", self._keys.events, str(first), end, b"COUNT", count + again)
        meta, entries = yield Exchange([standing_query(self._keys.meta), query], atomic=True)
        standing = standing_of(meta)
        high = standing.last.offset if upto is None else min(upto, standing.last.offset)
        places = (place(entry_id) for entry_id, _ in entries)
        found = [item for item in zip(places, records_of(entries), strict=True) if item[0].offset <= high]
        self._pace.saw(record for _, record in found)
        if again:
            yield from self._check_history(standing, found[:1])
            found = [item for item in found if item[0].offset > after][:count]  # that entry may have been trimmed
        first = max(after, standing.start.offset) + 1
        for expected, (at, _) in enumerate(found, first):
            if at.offset != expected:
                yield from self._report_missing(standing, expected)
        if not found and first <= high:
            yield from self._report_missing(standing, first)
        return standing, found

    def forward(self, low: int, high: int) -> Stream:
        """The events from ``low + 1`` to ``high``."""
        while low < high and self.left != 0:
            standing, found = yield from self.page(low, high, self._next_count())
            if not found:  # deleted, or forgotten, since this began
                yield from self._report_lost(high, standing.last.offset)
            self.note(standing, found[-1][0])
            low = found[-1][0].offset
            yield Items(self._counted((yield from self.decode(found))))

    def backward(self, low: int, high: int) -> Stream:
        """The events from ``high`` down to ``low + 1``."""
        if self.left is None and low < high:
            yield from self.page(low, high, 1)  # say at once, not after half of it, that the rest has moved
        while low < high and self.left != 0:
            count = self._next_count()
            standing, found = yield from self.page(max(low, high - count), high, count)
            if not found:  # as above
                yield from self._report_lost(high, standing.last.offset)
            if found[-1][0].offset < high:
                yield from self._report_missing(standing, found[-1][0].offset + 1)
            high = found[0][0].offset - 1
            yield Items(self._counted((yield from self.decode(found[::-1]))))

    def decode(self, found: _Found) -> Paging[list[Any]]:
        """The events of a page, without those that were erased.

        At one that does not read, what came before it is handed on first.
        """
        decode_event, run_id = self.context.codec.decode_event, self.run_id
        recorded: list[Any] = []
        for at, record in found:
            if record == ERASED:
                continue
            try:
                event = decode_event(run_id, at.offset, record)
            except CorruptRecordError:
                if self.on_corrupt == "skip":
                    continue
                yield Items(recorded)
                raise
            recorded.append(event if self.bare else Recorded(at.offset, f"{at.offset}-{at.chain}", event))
        return recorded

    def note(self, standing: Standing, at: Cursor) -> None:
        """Note how far the run was read, for the next page and for whatever this store does next."""
        self.seen = at
        self.context.seen.note(self.run_id, str(standing.start).encode(), str(at).encode(), at.offset)
        if self.context.recent is not None:
            self.context.recent.has_read(self.run_id, at.offset)

    def _check_history(self, standing: Standing, found: _Found) -> Operation[None]:
        """Raise unless what was seen last is there still, or has been trimmed."""
        seen = self.seen
        if seen is None:
            return
        if standing.last.offset < seen.offset:
            yield from self._report_lost(seen.offset, standing.last.offset)
        here = [at for at, _ in found] + [standing.mark, standing.last]
        if any(at != seen for at in here if at.offset == seen.offset):
            raise diverged(self.run_id, seen)

    def _report_lost(self, last_seen: int, last_present: int) -> Operation[None]:
        """Raise the error for events that were seen and are not there: a replica may not have them yet."""
        (info,) = yield Exchange([(b"INFO", "replication")], tolerant=True)
        if not isinstance(info, Refusal) and parse_info(info).get("role") == "slave":
            raise StoreUnavailable(
                f"this replica has run {self.run_id!r} up to offset {last_present}; offset {last_seen} was seen"
                " elsewhere: it lags behind; read again a little later, or from the primary"
            )
        raise lost(self.run_id, last_seen, last_present)

    def _report_missing(self, standing: Standing, expected: int) -> Operation[None]:
        """Raise the error that says why the event at ``expected`` is not there."""
        if expected > standing.mark.offset:  # nobody may have trimmed what was never archived
            raise lost(self.run_id, standing.last.offset, expected - 1)
        raise (yield from events_archived(self.context, self.run_id, expected))

    def _next_count(self) -> int:
        return self._pace.count if self.left is None else min(self._pace.count, self.left)

    def _counted(self, recorded: list[Any]) -> list[Any]:
        if self.left is not None:
            self.left -= len(recorded)
        return recorded
