"""Families of forks, grown at random, are what lists that were copied at each fork would be, in every store."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream import ConfigurationError, DrainWorker, RunHasForks
from runstream.stores.tiered import TieredCheckpointer
from tests.support.backends import FakeBackend, Store
from tests.support.samples import make_event, make_events, make_state

_numbers = itertools.count()

Step = tuple[str, int, int]

WHAT = ["append", "append", "known", "save", "fork", "fork", "delete", "detach", "truncate", "move"]
STEPS = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 7), st.integers(0, 30)), max_size=25)


@dataclass
class Copied:
    """A run whose history was copied when it was forked: the seq of each event, and the offset of each key.

    It begins after ``base``. ``at``: the offset at which it was forked; ``cut``: after which it was truncated.
    """

    parent: str | None = None
    at: int = 0
    base: int = 0
    cut: int = 0
    seqs: list[int] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)

    def fork(self, run_id: str, at: int) -> Copied:
        """A copy up to an offset."""
        keys = {key: offset for key, offset in self.keys.items() if offset <= at}
        return Copied(run_id, at, self.base, 0, self.seqs[:at], keys)

    def detach(self) -> None:
        """It is a fork no more."""
        self.parent, self.at, self.cut = None, 0, self.base


class Family:
    """Runs in a store, and beside it the lists that they should be."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.prefix = f"p{next(_numbers)}-"
        self.runs: dict[str, Copied] = {}
        self.count = itertools.count(1)

    def play(self, steps: Sequence[Step], move: Any) -> None:
        """Make the steps, and check every run at the end."""
        self._append(self._new(), Copied(), 0)
        make: dict[str, Callable[[str, Copied, int], None]] = {
            "append": self._append,
            "known": self._append_known,
            "save": self._save,
            "fork": self._fork,
            "delete": self._delete,
            "detach": self._detach,
            "truncate": self._truncate,
            "move": lambda _, __, number: move(number),
        }
        for what, which, number in steps:
            run_id = sorted(self.runs)[which % len(self.runs)]
            if len(self.runs) > 1 or what not in {"delete", "detach"}:
                make[what](run_id, self.runs[run_id], number)
        for run_id, run in self.runs.items():
            self._check(run_id, run)

    def _new(self) -> str:
        return f"{self.prefix}{next(self.count):03}"

    def _append(self, run_id: str, run: Copied, number: int) -> None:
        seqs = [next(self.count) for _ in range(1 + number % 3)]
        keys = [f"k{seq}" for seq in seqs]
        self.store.append(run_id, [make_event(run_id, seq) for seq in seqs], keys=keys)
        run.seqs += seqs
        run.keys |= {key: len(run.seqs) - len(keys) + index for index, key in enumerate(keys, 1)}
        self.runs[run_id] = run

    def _append_known(self, run_id: str, run: Copied, number: int) -> None:
        every = sorted({key for each in self.runs.values() for key in each.keys})
        key = every[number % len(every)] if every else "k"
        seq = next(self.count)
        appended = self.store.append(run_id, [make_event(run_id, seq)], keys=[key])
        if key not in run.keys:
            run.seqs.append(seq)
            run.keys[key] = len(run.seqs)
        assert appended.last_offset == run.keys[key]

    def _save(self, run_id: str, run: Copied, _: int) -> None:
        self._recover(run_id, run)
        self.store.save_snapshot(run_id, make_state(run_id, current_step=len(run.seqs)))

    def _fork(self, run_id: str, run: Copied, number: int) -> None:
        at, name = run.base + number % (len(run.seqs) - run.base + 1), self._new()
        assert self.store.fork(run_id, name, at=at).parent == (run_id, at)
        self.runs[name] = run.fork(run_id, at)

    def _delete(self, run_id: str, _: Copied, __: int) -> None:
        if any(each.parent == run_id for each in self.runs.values()):
            with pytest.raises(RunHasForks):
                self.store.delete_run(run_id)
        else:
            assert self.store.delete_run(run_id)
            del self.runs[run_id]

    def _detach(self, run_id: str, _: Copied, __: int) -> None:
        assert self.store.delete_run(run_id, detach=True)
        del self.runs[run_id]
        for each, run in self.runs.items():
            if run.parent == run_id:
                run.detach()
                assert self.store.run_info(each).parent is None

    def _truncate(self, run_id: str, run: Copied, number: int) -> None:
        base = max(run.at, run.base)
        base += number % (len(run.seqs) - base + 1)
        moves = base > run.cut
        needing = {
            each: fork for each, fork in self.runs.items() if moves and fork.parent == run_id and fork.at > run.cut
        }
        detaches, saved = number % 2 == 0, self.store.load_snapshot(run_id)
        if needing and not detaches:
            with pytest.raises(RunHasForks) as refused:
                self.store.truncate(run_id, before=base + 1)
            assert refused.value.forks == tuple(sorted(needing))
            return
        if moves and saved is not None and saved.offset < base:
            with pytest.raises(ConfigurationError, match="need events before"):
                self.store.truncate(run_id, before=base + 1, detach=detaches)
        else:
            self.store.truncate(run_id, before=base + 1, detach=detaches)
            run.base = run.cut = base
        for each, fork in needing.items():  # also where it was refused after that
            assert self.store.run_info(each).parent is None
            fork.detach()

    def _recover(self, run_id: str, run: Copied) -> None:
        """That the snapshot and the events after it make the run: its step is how many events it has seen."""
        found = self.store.recover(run_id)
        if found.state is not None:
            assert (found.state.run_id, found.state.current_step) == (run_id, found.offset)
        after = max(found.offset, run.base)
        assert [item.offset for item in found.events] == list(range(after + 1, len(run.seqs) + 1))

    def _check(self, run_id: str, run: Copied) -> None:
        items = list(self.store.read(run_id))
        assert {item.event.run_id for item in items} <= {run_id}
        assert [(item.offset, item.event.seq) for item in items] == list(enumerate(run.seqs, 1))[run.base :]
        assert list(self.store.read(run_id, reverse=True)) == items[::-1]
        middle = len(items) // 2
        if middle:
            assert list(self.store.read(run_id, items[middle - 1].cursor)) == items[middle:]
        self._recover(run_id, run)
        every = sorted({key for each in self.runs.values() for key in each.keys})
        assert self.store.find(run_id, every) == [run.keys.get(key) for key in every]
        lanes = [(one.last_offset, one.last_seq) for one in self.store.lanes(run_id)]
        if items or not run.seqs:  # else its last event, as it was forked, is gone
            assert lanes == ([(len(run.seqs), run.seqs[-1])] if run.seqs else [])


@pytest.mark.one_in(2)
@given(STEPS)
@settings(max_examples=12)
def test_a_family_of_forks_is_what_copied_lists_would_be(store: Store, steps: list[Step]) -> None:
    Family(store).play(steps, lambda _: None)


@given(STEPS)
@settings(max_examples=12)
def test_so_it_is_over_redis_and_an_archive_while_a_worker_moves_what_is_archived(
    fake: FakeBackend, archives: list[Any], steps: list[Step]
) -> None:
    archive = archives[0]
    hot: Any = fake.open()

    def move(number: int) -> None:
        trim: Any = ("archived", "covered", "never")[number % 3]
        idle = 0.0 if number % 2 else None
        assert DrainWorker(hot, [archive], trim=trim, retire_idle_seconds=idle).drain_once().parked == 0

    Family(TieredCheckpointer(hot, archive)).play(steps, move)


def test_what_a_fork_shared_is_not_truncated_while_its_forks_need_it(store: Store) -> None:
    """Also where they were forked within what it shared; they are named by where. Detached, each has all of it."""
    store.save_events(make_events("r", 4))
    store.fork("r", "f")
    store.save_events(make_events("f", 1, first=5))
    for fork, at in (("g", 5), ("h", 3)):
        store.fork("f", fork, at=at)
    for refuse in (lambda: store.truncate("f", before=5), lambda: store.delete_run("f")):
        with pytest.raises(RunHasForks, match=r"\('h' at 3, 'g' at 5\)") as refused:
            refuse()
        assert refused.value.forks == ("h", "g")
    store.truncate("f", before=5, detach=True)
    left = {run_id: [item.offset for item in store.read(run_id)] for run_id in "fgh"}
    assert left == {"f": [5], "g": [1, 2, 3, 4, 5], "h": [1, 2, 3]}
    assert store.delete_run("r", detach=True)
    assert left == {run_id: [item.offset for item in store.read(run_id)] for run_id in "fgh"}


def test_a_detached_fork_knows_where_a_lane_was_whose_last_event_was_erased(store: Store) -> None:
    store.append("r", [make_event("r", seq, lane_id="a") for seq in (1, 2)])
    store.fork("r", "f")
    store.erase("r", [2])
    assert store.delete_run("r", detach=True)
    assert [(lane.last_offset, lane.last_seq) for lane in store.lanes("f")] == [(2, 2)]
    with store.open_run("f", lane_id="a") as run:
        assert run.emit("agent.message").event.seq == 3


def test_a_snapshot_that_goes_with_what_a_fork_erased_is_still_known_of_its_parent(store: Store) -> None:
    """Both began with the same one; whoever has saved it goes on from it in the parent."""
    with store.open_run("r") as run:
        run.emit("agent.message")
    store.update_state("r", lambda state: state.data.update(n=1))  # it knows nothing of the event
    store.fork("r", "f")
    store.load_snapshot("f")
    store.append("f", [make_event("f", 2)])
    store.erase("f", [2], drop_snapshots=True)
    assert store.load_latest("f") is None
    assert store.append("r", [make_event("r", 2)], snapshot=make_state("r")).last_offset == 2


def test_a_fork_of_a_truncated_run_is_forked_where_that_begins_and_not_before(store: Store) -> None:
    store.save_events(make_events("r", 2))
    store.truncate("r", before=2)
    store.fork("r", "f")
    assert store.fork("f", "g", at=1).parent == ("f", 1)
    assert store.append("g", make_events("g", 1, first=7), expected_offset=1).last_offset == 2
    for run_id in ("r", "f"):
        with pytest.raises(ConfigurationError, match="cannot be forked at offset 0: it has 1 to 2"):
            store.fork(run_id, "h", at=0)


def test_a_detached_fork_of_nothing_that_is_left_has_all_of_its_own(store: Store) -> None:
    """Where its parent begins later than it by now: nobody stood in the way, as it shares none of that."""
    store.save_events(make_events("r", 4))
    store.fork("r", "f", at=0)
    store.truncate("r", before=3)
    store.fork("r", "g", at=2)
    store.truncate("r", before=5)
    for fork in "fg":
        store.save_events(make_events(fork, 2, first=7))
    assert store.delete_run("r", detach=True)
    assert [[item.offset for item in store.read(fork)] for fork in "fg"] == [[1, 2], [3, 4]]
    assert store.fork("f", "h", at=0).parent == ("f", 0)


def test_what_a_fork_has_of_one_that_shares_nothing_is_kept_as_it_is_detached(store: Store) -> None:
    """That one was forked at the beginning of a run which was truncated since: nobody stood in the way."""
    store.save_events(make_events("r", 4))
    store.fork("r", "f", at=0)
    store.save_events(make_events("f", 2, first=7))
    store.truncate("r", before=4)
    store.fork("f", "g")
    store.save_events(make_events("g", 1, first=9))
    assert store.fork("g", "h", at=0).parent == ("g", 0)
    assert store.delete_run("f", detach=True)
    assert [item.event.seq for item in store.read("g")] == [7, 8, 9]
