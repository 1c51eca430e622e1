"""Read a run page by page.

Offsets are dense, so a gap shows that something is missing: a page that does not go on where the last one ended is
an error, never a shorter list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import eq
from typing import Any, NamedTuple, TypeAlias

from runstream.codec.pages import TOGETHER, TOGETHER_BYTES, slices
from runstream.codec.plain_events import events_of_records
from runstream.codec.record import ERASED, LaneFilter
from runstream.model.errors import CorruptRecordError, EventRefused, StoreUnavailable, UnsupportedVersion
from runstream.model.protocols import OnCorrupt
from runstream.model.results import Cursor, E, Recorded, S
from runstream.model.run_head import Origins, RunHead, written_as
from runstream.operations.arguments import in_place_of
from runstream.operations.messages import diverged, lost
from runstream.operations.operation import Command, Exchange, Items, Operation, Refusal, Stream
from runstream.stores.redis.operations.client.archived_errors import events_archived
from runstream.stores.redis.operations.client.border import Border
from runstream.stores.redis.operations.client.run_head import (
    HEAD_FIELDS,
    checked_head,
    head_query,
    is_there,
    parse_head,
    retired_of,
)
from runstream.stores.redis.page_size import PageSize
from runstream.stores.redis.replies import (
    Retired,
    parse_cursor,
    parse_info,
    parse_map,
    parse_offset,
    parse_records,
    start_text,
)
from runstream.stores.redis.session.session import Session

__all__ = ["PAGE", "BackPage", "Page", "RunReader"]

PAGE = 1000
"""How many entries are fetched at once at most."""

_AT_END = 4  # of the last page, before what meta says of the sizes is known
_MOST_AT_END = 16  # and where it is

Page: TypeAlias = list[tuple[Cursor, bytes]]
"""Entries in order: cursor and wire record."""


class BackPage(NamedTuple):
    """Entries that were read backwards.

    Attributes:
        meta: The run's meta at that moment: all of it beside the last page, else its head and ``peak``.
        found: The entries, newest first, none missing between them: id and wire record.
        is_first: Redis had none before them.
    """

    meta: Mapping[bytes, bytes]
    found: Sequence[tuple[bytes, bytes]]
    is_first: bool


class RunReader:
    """Reads the pages of one run and checks that nothing is missing between them, and that it is one history.

    It gives events with their offsets and cursors; with ``bare``, the events alone; with ``lane_id``, those of
    that lane, and no others are decoded; with ``given_as``, as events of that run; with a ``border``, only of a
    run that is there and passes it.
    """

    def __init__(
        self,
        session: Session[E, S],
        run_id: str,
        on_corrupt: OnCorrupt,
        limit: int | None,
        *,
        bare: bool = False,
        lane_id: str | None = None,
        given_as: str | None = None,
        border: Border | None = None,
    ) -> None:
        self.session = session
        self.run_id = run_id
        self.on_corrupt = on_corrupt
        self.left = limit
        self.bare = bare
        self._lane = None if lane_id is None else LaneFilter(run_id, lane_id)
        self.seen: Cursor | None = None
        """The last cursor that was read forward, or the one to go on from."""
        self.retired: Retired | None = None
        """What is kept of what left Redis, as the run was opened."""
        self.noted: Sequence[bytes | None] = ()
        """The values of the further fields of meta that were asked for then."""
        self._keys = session.keys.run(run_id)
        self._pace = PageSize(PAGE)
        self._told_to = 0  # up to here, what meta said of the sizes holds
        self._origins: Origins = ()
        self._given_as = given_as or run_id
        self._border = border

    def open(self, cursor: Cursor | None) -> Operation[RunHead]:
        """Load where the run stands; check that it is the history that this store saw last, and the cursor's."""
        head, _ = yield from self.open_with(tuple, cursor=cursor)
        return head

    def open_at_end(self) -> Operation[tuple[RunHead, BackPage]]:
        """The same without a cursor, with the last page."""
        told = self.session.largest.get(self.run_id)
        pace = PageSize(_MOST_AT_END, told.largest)

        def pages() -> list[Command]:
            # of what came since meta was read, nothing is known
            since, before = str(told.offset + 1), str(told.offset)
            return [self._back_query("+", min(_AT_END, pace.count), since), self._back_query(before, pace.count)]

        all_meta = (b"HGETALL", self._keys.meta)
        head, (meta, entries, before) = yield from self.open_with(lambda: [all_meta, *pages()], pace)
        count = min(_AT_END, pace.count)
        if len(entries) < count:  # else there may be more between the two
            entries, count = [*entries, *before], len(entries) + pace.count
        return head, self._back_page(parse_map(meta), entries, head.last.offset, count)

    def open_with(
        self,
        beside: Callable[[], Sequence[Command]],
        pace: PageSize | None = None,
        *,
        cursor: Cursor | None = None,
        lane_id: str | None = None,
        fields: Sequence[str] = (),
    ) -> Operation[tuple[RunHead, Sequence[Any]]]:
        """The same, with the replies to further queries of that moment.

        Args:
            beside: Makes these queries.
            pace: How many entries they ask for: fewer, each time that the exchange has failed.
            cursor: A cursor to check.
            lane_id: The lane whose snapshot ``retired`` is to tell of.
            fields: Further fields of meta, whose values are ``noted``.
        """
        known = self.session.seen.get(self.run_id)
        queries = [head_query(self._keys.meta, lane_id, fields)]
        cursors = [at for at in (cursor, None if known is None else known.cursor) if at is not None]
        queries += [(b"XRANGE", self._keys.events, str(at.offset), str(at.offset)) for at in cursors]
        if known is not None:
            queries.append((b"ZSCORE", self._keys.partition.deleted, known.history))
        noted = len(queries)
        queries += () if self._border is None else self._border.queries(self._keys)
        asked = len(queries)
        if pace is None:
            queries += beside()
            exchange = Exchange(queries, atomic=len(queries) > 1)
        else:
            exchange = pace.exchange(lambda: [*queries, *beside()])
        meta, *replies = yield exchange
        replies, passing, besides = replies[: noted - 1], replies[noted - 1 : asked - 1], replies[asked - 1 :]
        if fields:
            meta, self.noted = meta[: -len(fields)], meta[-len(fields) :]
        head = yield from checked_head(self._keys, meta)
        self.retired = retired_of(meta)
        if self._border is not None:
            self._border.check(self.run_id, head, passing, is_there=is_there(meta))
        self._learn(head)
        if known is not None:
            *replies, entries, deleted = replies
            if is_there(meta) and head.creation == known.history:
                self.seen = known.cursor
                yield from self._check_history(head, [(parse_cursor(entry[0]), b"") for entry in entries])
            elif deleted is None:
                yield from self.report_lost(known.cursor.offset, head.last.offset)
            self.seen = None
        if cursor is not None and cursor.offset > head.lowest.offset:
            self.seen = cursor
            yield from self._check_history(head, [(parse_cursor(entry[0]), b"") for entry in replies[0]])
        elif cursor is not None and head.fork_of and cursor.offset == head.start.offset and cursor != head.start:
            raise diverged(self.run_id, cursor)
        return head, besides

    def page(self, after: int, upto: int | None, count: int | None = None) -> Operation[tuple[RunHead, Page]]:
        """The next entries after an offset, none missing; ``count`` of them, or what the page size allows."""
        # with the entry that was seen last, as long as it is there: it shows whether this is the same history
        again = self.seen is not None and self.seen.offset == after
        first = after if again else after + 1
        is_told = after < self._told_to
        ends = [at for at in (upto, self._told_to if is_told else None) if at is not None]
        end = str(min(ends)) if ends else "+"

        def queries() -> Sequence[Command]:
            # of what came since, nothing is known: with one entry of it comes what meta says now
            most = self._pace.count if is_told else 1
            query = (b"XRANGE", self._keys.events, str(first), end, b"COUNT", min(most, count or most) + again)
            return [head_query(self._keys.meta), query, *before]

        before: list[Command] = []
        if self.seen is not None and self.seen.offset < after:  # far from here: what lies between is not wanted
            before.append((b"XRANGE", self._keys.events, str(self.seen.offset), str(self.seen.offset)))
        meta, entries, *seen = yield self._pace.exchange(queries)
        head = parse_head(self._keys, meta)
        self._learn(head)
        high = head.last.offset if upto is None else min(upto, head.last.offset)
        cursors = (parse_cursor(entry_id) for entry_id, _ in entries)
        found = [item for item in zip(cursors, parse_records(entries), strict=True) if item[0].offset <= high]
        self._pace.adapt([len(record) for _, record in found])
        if seen:
            yield from self._check_history(head, [(parse_cursor(entry_id), b"") for entry_id, _ in seen[0]])
        if again:
            yield from self._check_history(head, found[:1])
            found = [item for item in found if item[0].offset > after][:count]  # that entry may have been trimmed
        yield from self.check_dense(head, found, max(after, head.before_first.offset) + 1, high)
        return head, found

    def take(self, head: RunHead, found: Page) -> tuple[RunHead, Page]:
        """The same, of entries that were brought here, and are proven to be the next ones."""
        self._learn(head)
        self._pace.adapt([len(record) for _, record in found])
        return head, found

    def check_dense(self, head: RunHead, found: Page, first: int, high: int) -> Operation[None]:
        """Raise unless entries go on from an offset without a gap; at least one, if ``high`` is no lower."""
        for expected, (at, _) in enumerate(found, first):
            if at.offset != expected:
                yield from self.report_missing(head, expected)
        if not found and first <= high:
            yield from self.report_missing(head, first)

    def page_back(self, high: int, most: int) -> Operation[BackPage]:
        """The entries from ``high`` down: ``most`` of them, or what the page size allows."""
        fields = (*HEAD_FIELDS, b"peak")  # not all of a run that has many lanes, beside each page

        def count() -> int:
            return min(most, self._pace.count)

        def queries() -> Sequence[Command]:
            return [(b"HMGET", self._keys.meta, *fields), self._back_query(str(high), count())]

        values, entries = yield self._pace.exchange(queries)
        meta = {name: value for name, value in zip(fields, values, strict=True) if value is not None}
        return self._back_page(meta, entries, high, count())

    def _back_query(self, end: str, count: int, first: str = "-") -> Command:
        return (b"XREVRANGE", self._keys.events, end, first, b"COUNT", count)

    def _back_page(self, meta: Mapping[bytes, bytes], entries: Sequence[Any], high: int, count: int) -> BackPage:
        offsets = [parse_offset(entry[0]) for entry in entries]
        # what lies behind the last cursor was left by an append that was refused in its midst
        behind = sum(offset > high for offset in offsets) if offsets and offsets[0] > high else 0
        entries, count = entries[behind:], count - behind
        records = parse_records(entries)
        self._pace.adapt(list(map(len, records)))
        # up to a gap, if there is one
        dense = sum(map(eq, offsets[behind:], range(high, 0, -1)))
        found = [(entry[0], record) for entry, record in zip(entries[:dense], records, strict=False)]
        return BackPage(meta, found, dense < count)

    def parts(self, found: Page) -> Iterator[Page]:
        """The page that came last, in parts that are decoded one at a time: events take many times their bytes."""
        count = self._pace.part
        return (found[first : first + count] for first in range(0, len(found), count))

    def give(self, found: Page) -> Stream:
        """The events of a page."""
        for part in self.parts(found):
            yield Items(self._counted((yield from self.decode(part))))

    def decode(self, found: Page) -> Operation[list[Any]]:
        """The events of a page, without those that were erased.

        Before the error for one that cannot be given is raised, the events in front of it are given to the reader.
        """
        recorded: list[Any] = []
        for part in slices((len(record) for _, record in found), TOGETHER, TOGETHER_BYTES):
            page = found[part] if self._lane is None else list(filter(self._may_be_wanted, found[part]))
            for name, stretch in self._made_as(page):
                records = [record for _, record in stretch]
                events = events_of_records(self.session.codec, name, records, self._given_as)
                if events is None:
                    recorded += yield from self._decode_each(name, stretch, recorded)
                else:
                    recorded += events if self.bare else map(_recorded, stretch, events)
        return recorded

    def _made_as(self, page: Page) -> Sequence[tuple[str, Page]]:
        """The page in stretches, each with the run as which its records were made."""
        if not self._origins:
            return [(self.run_id, page)]
        # rising, or falling
        return [(name, list(part)) for name, part in groupby(page, lambda entry: self.made_as(entry[0].offset))]

    def made_as(self, offset: int) -> str:
        """The run as which the record at an offset was made."""
        return written_as(self.run_id, self._origins, offset)

    def _decode_each(self, run_id: str, page: Page, before: list[Any]) -> Operation[list[Any]]:
        decode_event = self.session.codec.decode_event
        recorded: list[Any] = []
        for at, record in page:
            if record == ERASED:
                continue
            try:
                event: Any = decode_event(run_id, at.offset, record, self._given_as)
            except (CorruptRecordError, EventRefused) as error:
                if self.on_corrupt == "raise":
                    yield Items(before + recorded)
                event = in_place_of(error, self.on_corrupt)
                if event is None:
                    continue
            except UnsupportedVersion:
                yield Items(before + recorded)
                raise
            recorded.append(event if self.bare else _recorded((at, record), event))
        return recorded

    def _may_be_wanted(self, entry: tuple[Cursor, bytes]) -> bool:
        """Whether the entry is of the reader's lane, or does not tell."""
        try:
            return self._lane is None or self._lane.has(entry[1], self.made_as(entry[0].offset))
        except (CorruptRecordError, UnsupportedVersion):
            return True

    def remember(self, head: RunHead, at: Cursor) -> None:
        """Note that the run has this cursor, for this store's later calls."""
        self.session.seen.note(self.run_id, start_text(head).encode(), str(at).encode(), at.offset)

    def note(self, head: RunHead, at: Cursor) -> None:
        """Note how far the run was read, for the next page and for this store's later calls."""
        self.seen = at
        self.remember(head, at)
        if self.session.recent is not None:
            self.session.recent.mark_read(self.run_id, at.offset)

    def _check_history(self, head: RunHead, found: Page) -> Operation[None]:
        """Raise unless the cursor seen last is still in the run, or has been trimmed."""
        seen = self.seen
        if seen is None:
            return
        if head.last.offset < seen.offset:
            yield from self.report_lost(seen.offset, head.last.offset)
        here = [at for at, _ in found] + [head.mark, head.last]
        if any(at != seen for at in here if at.offset == seen.offset):
            raise diverged(self.run_id, seen)

    def report_lost(self, last_seen: int, last_present: int) -> Operation[None]:
        """Raise the error for events that were seen and are missing: lost, or not yet on this replica."""
        (info,) = yield Exchange([(b"INFO", "replication")], permissive=True, near=self._keys.meta)
        if isinstance(info, Refusal) and info.is_denied:
            raise info.error
        if not isinstance(info, Refusal) and parse_info(info).get("role") == "slave":
            raise StoreUnavailable(
                f"this replica has run {self.run_id!r} up to offset {last_present}; offset {last_seen} was seen"
                " elsewhere: it lags behind; read again a little later, or from the primary"
            )
        raise lost(self.run_id, last_seen, last_present)

    def report_missing(self, head: RunHead, expected: int) -> Operation[None]:
        """Raise the error that says why there is no event at ``expected``."""
        if expected > head.mark.offset:  # nobody may have trimmed what was never archived
            raise lost(self.run_id, head.last.offset, expected - 1)
        error = yield from events_archived(self.session, self.run_id, expected)
        if error.first_hot <= expected:  # another server has told that
            raise StoreUnavailable(
                f"event {expected} of run {self.run_id!r} had left Redis, and by now it has not: another server"
                " has taken the place of the one that was read from; read again"
            )
        raise error

    def _presume(self, end: int, count: int) -> None:
        """Ask for so many entries up to an offset, if they fit a page by what was told of their sizes."""
        told = self.session.largest.get(self.run_id)
        self._pace = PageSize(min(PAGE, count), told.largest if end <= told.offset else None)

    def _learn(self, head: RunHead) -> None:
        self._pace.largest = head.largest
        self.session.largest.note(self.run_id, head)
        self._told_to = head.last.offset
        self._origins = head.origins

    def _counted(self, recorded: list[Any]) -> list[Any]:
        if self.left is not None:
            self.left -= len(recorded)
        return recorded


def _recorded(entry: tuple[Cursor, bytes], event: Any) -> Recorded[Any]:
    (offset, chain), _ = entry
    return Recorded(offset, f"{offset}-{chain}", event)
