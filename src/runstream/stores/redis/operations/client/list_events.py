"""List the events whose ``seq`` is over a number: from the run's end backwards, as far as there can be any.

``seq`` is the producer's: each lane counts for itself, and need not rise. Where a lane's mark says that its seqs
have risen ever since the run was created, no event before one that is not over the number is over it either. Where
that cannot be said of every lane, the run is read to its beginning, though only the answer is decoded.

What has left Redis is not needed where all of it is known to be no higher: by the lanes' marks, or by meta's field
``peak``, which settling keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runstream.codec.record import ERASED, lane_and_seq
from runstream.model.identifiers import check_run_id
from runstream.model.results import E, S
from runstream.model.run_head import RunHead
from runstream.operations.arguments import ReadQuery, check_since_seq
from runstream.operations.operation import Items, Operation, Stream, collect
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.operations.client.border import Border
from runstream.stores.redis.operations.client.log_reader import LogReader
from runstream.stores.redis.operations.client.read import read_shared
from runstream.stores.redis.operations.client.reader import PAGE, BackPage, Page, RunReader
from runstream.stores.redis.operations.client.run_head import head_in
from runstream.stores.redis.replies import parse_cursor, parse_peak
from runstream.stores.redis.session.session import Session

__all__ = ["list_events"]

_GROWTH = 8


def list_events(
    session: Session[E, S], run_id: str, since_seq: int, border: Border | None = None
) -> Operation[list[E]]:
    """The events whose ``seq`` is over ``since_seq``, in log order.

    Args:
        session: The store's.
        run_id: The run.
        since_seq: The number.
        border: Where an archive ends that has what came before.

    Raises:
        RunElsewhere: The run does not pass that border.
    """
    check_run_id(run_id)
    since_seq = check_since_seq(since_seq)
    reader = LogReader(session, run_id, "raise", None, bare=True, border=border)
    if since_seq > 0:
        return (yield from collect(_events_over(reader, since_seq)))
    head = yield from reader.open_for(ReadQuery())
    shared = yield from _shared(reader, head, since_seq)
    return shared + (yield from collect(reader.forward(head.before_first.offset, head.last.offset)))


def _shared(reader: RunReader, head: RunHead, since_seq: int) -> Operation[list[Any]]:
    """The events over ``since_seq`` that a fork shares; none of any other run."""
    items = yield from collect(read_shared(reader.session, reader.run_id, head))
    return [item.event for item in items if since_seq <= 0 or item.event.seq > since_seq]


def _events_over(reader: RunReader, since_seq: int) -> Stream:
    head, page = yield from reader.open_at_end()
    if page.found:
        reader.note(head, parse_cursor(page.found[0][0]))
    run = reader.session.keys.run(reader.run_id)
    with parsing(run):
        lanes = _Lanes(page.meta, since_seq)
    high, low = head.last.offset, head.before_first.offset
    over = lanes.choose(reader.made_as, page, high)
    high -= len(page.found)
    while low < high and lanes.may_have_more:
        if page.is_first:
            with parsing(run):
                peak = parse_peak(page.meta)
            if peak is not None and high <= peak.offset and peak.seq <= since_seq:
                break
            now = head_in(run, page.meta)
            yield from reader.report_missing(now, low + 1 if high <= now.mark.offset else high)
        page = yield from reader.page_back(high, lanes.next_count)
        now = head_in(run, page.meta)
        if now.start != head.start:  # deleted since this began
            yield from reader.report_lost(high, now.last.offset)
        over += lanes.choose(reader.made_as, page, high)
        high -= len(page.found)
    shared = yield from _shared(reader, head, since_seq)
    yield Items(shared + (yield from reader.decode(over[::-1])))


class _Lanes:
    """The lanes of a run, of which some may have further events over ``since_seq`` as it is read backwards.

    Args:
        meta: The run's meta.
        since_seq: The number.
    """

    def __init__(self, meta: Mapping[bytes, bytes], since_seq: int) -> None:
        marks = {name[5:].decode(): mark for name, mark in meta.items() if name.startswith(b"lane:")}
        self._since_seq = since_seq
        # of a run that was retired, or of which lanes have ended, not all lanes are known
        self._all_rise = not {b"retired", b"ended"} & meta.keys() and all(b" +" in mark for mark in marks.values())
        last = {lane_id: int(mark.split()[1]) for lane_id, mark in marks.items()}
        self._open = {lane_id: seq for lane_id, seq in last.items() if seq > since_seq}
        self._chosen = self._passed = 0  # entries

    @property
    def may_have_more(self) -> bool:
        """Whether there may be events over ``since_seq`` before those that were read."""
        return bool(self._open) or not self._all_rise

    @property
    def next_count(self) -> int:
        """How many entries to look at next: of one lane that counts its events, no more than it has.

        Where others lie between, several times more than of those that were passed: they may be many.
        """
        if len(self._open) != 1 or not self._all_rise:
            return PAGE
        left = max(self._open.values()) - self._since_seq - self._chosen
        return min(left + 1 + _GROWTH * self._passed, PAGE) if left > 0 else PAGE

    def choose(self, made_as: Callable[[int], str], page: BackPage, high: int) -> Page:
        """Choose the entries over ``since_seq`` out of the next page, which begins with offset ``high``."""
        chosen = []
        for below, (entry_id, record) in enumerate(page.found):
            if not self.may_have_more:
                break
            if record == ERASED:
                continue
            lane_id, seq = lane_and_seq(made_as(high - below), high - below, record)
            if seq > self._since_seq:
                chosen.append((parse_cursor(entry_id), record))
            else:
                self._open.pop(lane_id, None)
        self._chosen += len(chosen)
        self._passed += len(page.found) - len(chosen)
        return chosen
