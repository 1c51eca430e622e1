"""The history of a fork is its own events and those that it shares, in order, whatever the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from runstream.model.errors import AcknowledgedWritesLost, HistoryDiverged
from runstream.model.results import Cursor, Recorded
from runstream.model.run_head import RunHead
from runstream.operations.arguments import ReadQuery, parse_position
from runstream.operations.lineage import Segment, find_in_segments, read_at_in_segments, read_segments, segments_of
from runstream.operations.messages import diverged
from runstream.operations.operation import Items, Operation, Stream, collect
from runstream.operations.runners import SyncRunner

RUN = SyncRunner().run


class Runs:
    """Runs by hand: the chain of an event of run ``x`` is its offset times ten, and the number of the run."""

    def __init__(self) -> None:
        self.heads: dict[str, RunHead] = {}
        self.asked: list[str] = []

    def add(self, run_id: str, last: int, parent: str | None = None, at: int = 0) -> None:
        identity, start = 1000 + len(self.heads), Cursor(0, 100 + len(self.heads))
        if parent is None:
            self.heads[run_id] = RunHead(start, Cursor(last, last * 10 + len(self.heads)))
            return
        start = self.cursor(parent, at)
        creation = self.heads[parent].creation
        end = Cursor(last, last * 10 + len(self.heads)) if last > at else start
        self.heads[run_id] = RunHead(start, end, parent=(parent, at), identity=identity, parent_identity=creation)

    def cursor(self, run_id: str, offset: int) -> Cursor:
        head = self.heads[run_id]
        if offset > head.start.offset:
            return Cursor(offset, offset * 10 + list(self.heads).index(run_id))
        return (
            head.start
            if head.parent is None or offset == head.start.offset
            else self.cursor(head.parent[0], offset)
        )

    def load(self, run_id: str) -> Operation[RunHead | None]:
        self.asked.append(run_id)
        yield from ()
        return self.heads.get(run_id)

    def segments(self, run_id: str) -> list[Segment]:
        return RUN(segments_of(run_id, self.heads[run_id], self.load))

    def read_own(self, run_id: str, query: ReadQuery) -> Stream:
        head, (low, cursor) = self.heads[run_id], parse_position(query.after)
        if cursor is not None and low > head.start.offset and cursor != self.cursor(run_id, low):
            raise diverged(run_id, cursor)
        high = head.last.offset if query.before is None else min(query.before - 1, head.last.offset)
        offsets = list(range(max(low, head.start.offset) + 1, high + 1))
        for offset in (offsets[::-1] if query.reverse else offsets)[: query.limit]:
            yield Items([Recorded(offset, str(self.cursor(run_id, offset)), (run_id, query.given_as))])

    def find_own(self, run_id: str, keys: Sequence[str]) -> Operation[list[int | None]]:
        self.asked.append(run_id)
        yield from ()
        head = self.heads[run_id]
        made = {f"{run_id}{offset}": offset for offset in range(head.start.offset + 1, head.last.offset + 1)}
        return [made.get(key) for key in keys]

    def read(self, run_id: str, **asked: Any) -> list[tuple[int, str]]:
        query = ReadQuery(**asked)
        items = RUN(collect(read_segments(run_id, self.segments(run_id), query, self.read_own)))
        assert {item.event[1] for item in items} <= {run_id}
        return [(item.offset, item.event[0]) for item in items]


@pytest.fixture
def runs() -> Runs:
    """A run, a fork of it, one of that, and one of that again which parts from it before it has an own event."""
    runs = Runs()
    runs.add("a", 6)
    runs.add("b", 8, "a", 3)
    runs.add("c", 9, "b", 5)
    runs.add("d", 4, "c", 2)
    return runs


ALL_OF_C = [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b"), (6, "c"), (7, "c"), (8, "c"), (9, "c")]


def test_a_fork_of_a_fork_reads_as_one_run_forwards_and_backwards_and_in_part(runs: Runs) -> None:
    assert runs.read("c") == ALL_OF_C
    assert runs.read("c", reverse=True) == ALL_OF_C[::-1]
    for low in range(10):
        for high in range(1, 11):
            for limit in (None, 0, 1, 4):
                part = [item for item in ALL_OF_C if low < item[0] < high]
                assert runs.read("c", after=low, before=high, limit=limit) == part[:limit]
                assert runs.read("c", after=low, before=high, limit=limit, reverse=True) == part[::-1][:limit]


def test_what_a_parent_did_after_the_fork_is_no_part_of_it_even_where_it_has_nothing_of_its_own(
    runs: Runs,
) -> None:
    assert runs.read("d") == [(1, "a"), (2, "a"), (3, "d"), (4, "d")]


def test_a_cursor_of_the_shared_part_is_checked_there_and_one_of_another_history_is_refused(runs: Runs) -> None:
    for offset in range(1, 10):
        assert runs.read("c", after=str(runs.cursor("c", offset))) == ALL_OF_C[offset:]
        for reverse in (False, True):
            with pytest.raises(HistoryDiverged):
                runs.read("c", after=str(Cursor(offset, 7)), reverse=reverse, limit=1)


def test_a_parent_that_is_gone_or_made_anew_or_has_lost_events_is_never_read_for_the_one_it_was(
    runs: Runs,
) -> None:
    lost = runs.heads["a"]
    runs.heads["a"] = replace(lost, last=Cursor(2, 20))
    with pytest.raises(AcknowledgedWritesLost):
        runs.read("c")
    runs.heads["a"] = replace(lost, start=Cursor(0, 99))
    with pytest.raises(HistoryDiverged, match="made anew"):
        runs.read("c")
    del runs.heads["a"]
    with pytest.raises(HistoryDiverged, match="not there"):
        runs.read("c")


def test_a_parent_whose_offsets_were_filled_again_after_a_loss_is_found_out_at_the_border(runs: Runs) -> None:
    runs.heads["b"] = replace(runs.heads["b"], start=Cursor(3, 99))
    for reverse in (False, True):
        with pytest.raises(HistoryDiverged):
            runs.read("b", reverse=reverse)


def test_keys_are_looked_up_in_the_ancestors_up_to_the_fork_and_no_further_than_needed(runs: Runs) -> None:
    segments = runs.segments("c")
    runs.asked.clear()
    assert RUN(find_in_segments(segments, ["c7", "c9"], runs.find_own)) == {"c7": 7, "c9": 9}
    assert runs.asked == ["c"]
    found = RUN(find_in_segments(segments, ["a3", "a4", "b5", "b6", "c6", "x"], runs.find_own))
    assert found == {"a3": 3, "b5": 5, "c6": 6}


def test_events_are_read_by_their_offsets_over_the_borders(runs: Runs) -> None:
    found = RUN(read_at_in_segments("c", runs.segments("c"), [(1, 4), (8, 9)], runs.read_own))
    assert {offset: item.event[0] for offset, item in found.items()} == {2: "a", 3: "a", 4: "b", 9: "c"}


def test_a_run_that_is_no_fork_asks_for_nobody_else_s_head_and_a_line_of_2000_forks_is_read(runs: Runs) -> None:
    assert runs.segments("a") == [Segment("a", 0)]
    assert not runs.asked
    former = "a"
    for depth in range(2000):
        runs.add(f"f{depth}", 4 + depth, former, 3 + depth)
        former = f"f{depth}"
    assert [offset for offset, _ in runs.read(former)] == list(range(1, 2004))
