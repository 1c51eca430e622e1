"""What a saver knows of the threads that it writes: their latest checkpoints, and what it gave out of them."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from runstream.integrations.langgraph.channels import Channel, Table, located
from runstream.integrations.langgraph.mapping import Place
from runstream.integrations.langgraph.saved import Saved
from runstream.model.errors import ConcurrencyConflict
from runstream.model.protocols import Leased
from runstream.operations.forks import starts_anew

__all__ = ["FOLLOWS", "Head", "Known", "Located"]

FOLLOWS = -1
"""Stands for the number of what follows its checkpoint in the lane, and needs none."""

T = TypeVar("T")

_MOST_PLACES = 10_000
_MOST_LOCATED = 10_000  # checkpoints
_MOST_REMEMBERED = 1_000  # checkpoints of one place
_HEAD_BYTES = 2_000  # what Python holds for a checkpoint without its values, about


class Head(NamedTuple):
    """The latest checkpoint of a place.

    Attributes:
        saved: The checkpoint.
        channels: Its values.
        offset: The offset of its event.
    """

    saved: Saved
    channels: Mapping[str, Channel]
    offset: int

    @property
    def held_bytes(self) -> int:
        """What Python holds for it, about."""
        return _HEAD_BYTES + sum(channel.held_bytes for channel in self.channels.values())


class Located(NamedTuple):
    """Where a checkpoint lay.

    Attributes:
        offset: The offset of its event.
        parts: Those of the events that had its values, besides.
        next_id: The checkpoint that was saved next in its place; '' if that is not known.
        next_offset: The offset of that one's event.
    """

    offset: int
    parts: Sequence[int]
    next_id: str = ""
    next_offset: int = 0


@dataclass(slots=True)
class _Remembered:
    """What is remembered of a place beside its latest checkpoint.

    ``numbers``: the next number of what is said of a checkpoint. ``given``: the older checkpoints that were asked
    for by name, with their parents: a branch may begin at each, and a copy of it at its parent. ``was_empty``: the
    latest was asked for, when there was none. ``saves``: how often this saver has saved a checkpoint there.
    """

    numbers: OrderedDict[str, int] = field(default_factory=OrderedDict)
    given: OrderedDict[str, str | None] = field(default_factory=OrderedDict)
    was_empty: bool = False
    saves: int = 0


class Known:
    """What one saver knows. Safe between threads, and bounded: the latest checkpoints by their bytes.

    Args:
        max_bytes: How many bytes of the latest checkpoints to hold, about. One that does not fit is loaded again.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._begin_empty()
        starts_anew(self)

    def _begin_empty(self) -> None:
        self._lock = threading.Lock()
        self._heads: OrderedDict[Place, tuple[Head | None, int]] = OrderedDict()
        self._bytes = 0
        self._located: OrderedDict[tuple[Place, str], Located] = OrderedDict()
        self._remembered: OrderedDict[Place, _Remembered] = OrderedDict()
        self._leases: dict[str, Leased] = {}
        self._tasks: OrderedDict[str, set[Place]] = OrderedDict()
        self._saving: dict[Place, str] = {}
        self._writing: Counter[Place] = Counter()

    _start_anew = _begin_empty  # a fork of the process: what another thread was changing is not whole

    # -- the latest checkpoints --------------------------------------------------------------------------

    def head(self, place: Place) -> tuple[bool, Head | None]:
        """Whether the latest checkpoint of a place is known, or that it has none; and that checkpoint."""
        found = self._heads.get(place)
        return (False, None) if found is None else (True, found[0])

    def saves(self, place: Place) -> int:
        """How often this saver has saved a checkpoint of a place."""
        with self._lock:
            return self._of(place).saves

    def note_head(self, place: Place, head: Head | None, saves: int) -> None:
        """Note which checkpoint is the latest of a place, as it was loaded; None: it has none.

        Args:
            place: The place.
            head: What was loaded.
            saves: How often this saver had saved one there before that: if it has since, this is an older one.
        """
        with self._lock:
            if self._of(place).saves == saves:
                _, known = self.head(place)
                self._keep(place, known if known == head else head)  # it knows more of itself than what was loaded

    def _keep(self, place: Place, head: Head | None) -> None:
        size = _HEAD_BYTES if head is None else head.held_bytes
        self._drop(place)
        self._heads[place] = head, size
        self._bytes += size
        while self._bytes > self._max_bytes and len(self._heads) > 1:
            self._drop(next(iter(self._heads)))

    def forget_head(self, place: Place) -> None:
        """Take what is the latest checkpoint of a place as not known."""
        with self._lock:
            self._drop(place)

    def forget_thread(self, thread_id: str) -> None:
        """Forget all of a thread, but the lease that is held on it."""
        with self._lock:
            for place in [place for place in self._heads if place.thread_id == thread_id]:
                self._drop(place)
            for place in [place for place in self._remembered if place.thread_id == thread_id]:
                del self._remembered[place]
            self._tasks.pop(thread_id, None)

    def _drop(self, place: Place) -> None:
        former = self._heads.pop(place, None)
        if former is not None:
            self._bytes -= former[1]

    # -- where older ones lie ------------------------------------------------------------------------------

    def note_located(
        self, place: Place, checkpoint_id: str, offset: int, table: Table, former: Head | None = None
    ) -> None:
        """Note where the event of a checkpoint lies, and those that have its values.

        Args:
            place: Its place.
            checkpoint_id: Its id.
            offset: The offset of its event.
            table: Where its values lie, as that says.
            former: The checkpoint that was the latest of its place before it, if that is known.
        """
        parts = {each for entry in table.values() for each in located(entry, offset)}
        lies = Located(offset, tuple(parts - {offset}))
        with self._lock:
            known = self._located.get((place, checkpoint_id))
            self._located[place, checkpoint_id] = lies if known is None or known[:2] != lies[:2] else known
            if former is not None and (was := self._located.get((place, former.saved.id))) is not None:
                self._located[place, former.saved.id] = was._replace(next_id=checkpoint_id, next_offset=offset)
            if len(self._located) > _MOST_LOCATED:
                self._located.popitem(last=False)

    def located(self, place: Place, checkpoint_id: str) -> Located | None:
        """Where the event of a checkpoint lay, and those that had its values; None: that is not known.

        It may be there no more.
        """
        return self._located.get((place, checkpoint_id))

    # -- who may write -----------------------------------------------------------------------------------

    def note_given(self, place: Place, checkpoint_id: str, parent: str | None) -> None:
        """Note that an older checkpoint was asked for by name: a branch may begin there."""
        with self._lock:
            _remember(self._of(place).given, checkpoint_id, parent)

    def note_empty(self, place: Place) -> None:
        """Note that the latest checkpoint of a place was asked for, and nothing was there."""
        with self._lock:
            self._of(place).was_empty = True

    def check_follows(self, place: Place, head: Head | None, parent: str | None, step: int) -> None:
        """Raise ConcurrencyConflict for a checkpoint by one who does not know the latest one of its place.

        Args:
            place: Where it is to be saved.
            head: The latest checkpoint there; None: there is none.
            parent: The checkpoint that it was made from; None: from nothing.
            step: Its number, which is negative for the first of a thread.
        """
        if head is None or parent == head.saved.id:
            return
        with self._lock:
            remembered = self._of(place)
            may = parent is None and step >= 0 and not remembered.was_empty
            may = may or _given_for(remembered, parent) is not None
        if not may:
            raise _superseded(place, parent, head)

    @contextmanager
    def saving(self, place: Place, checkpoint_id: str) -> Iterator[None]:
        """Save one checkpoint of a place at a time; a run does, so two at once are of two runs.

        Raises:
            ConcurrencyConflict: Another is being saved.
        """
        with self._lock:
            if place in self._saving:
                raise _conflict(f"two runs write thread {place.thread_id!r} at once", self.head(place)[1])
            self._saving[place] = checkpoint_id
        try:
            yield
        finally:
            self._saving.pop(place, None)

    def note_saved(self, place: Place, parent: str | None, head: Head) -> None:
        """Note that a checkpoint was saved: it is the latest, and no branch begins at its parent unasked."""
        with self._lock:
            remembered = self._of(place)
            given = _given_for(remembered, parent)
            if given is not None:
                del remembered.given[given]
            remembered.saves += 1
            self._keep(place, head)

    # -- what else is said of checkpoints -----------------------------------------------------------------

    def is_writing(self, place: Place) -> bool:
        """Whether something is being written that is to follow the latest checkpoint of a place."""
        return self._writing[place] > 0

    def begin_writing(self, place: Place, checkpoint_id: str) -> int | None:
        """Begin to write what a task did after a checkpoint. What is asked here is asked in one step.

        Returns:
            FOLLOWS if that is the latest checkpoint of its place, and stays so until :meth:`end_writing`: to save
            the next one waits for that. Else a number, as :meth:`take_number` gives it. None while that very
            checkpoint is being saved: its snapshot would cover what nobody has told it.
        """
        with self._lock:
            if self._saving.get(place) == checkpoint_id:
                return None
            _, head = self.head(place)
            if head is not None and head.saved.id == checkpoint_id and place not in self._saving:
                self._writing[place] += 1
                return FOLLOWS
            return self._take_number(place, checkpoint_id)

    def end_writing(self, place: Place) -> None:
        """End to write what follows the latest checkpoint of a place."""
        with self._lock:
            self._writing[place] -= 1
            if not self._writing[place]:
                del self._writing[place]

    def take_number(self, place: Place, checkpoint_id: str) -> int:
        """A number for what is said of a checkpoint, which this saver has not given before."""
        with self._lock:
            return self._take_number(place, checkpoint_id)

    def _take_number(self, place: Place, checkpoint_id: str) -> int:
        numbers = self._of(place).numbers
        number = numbers.get(checkpoint_id, 0)
        _remember(numbers, checkpoint_id, number + 1)
        return number

    def was_written_after(self, place: Place, checkpoint_id: str) -> bool:
        """Whether something was said of a checkpoint."""
        with self._lock:
            return checkpoint_id in self._of(place).numbers

    def note_numbers(self, place: Place, checkpoint_id: str, count: int) -> None:
        """Note that so many things were said of a checkpoint, by whomever."""
        with self._lock:
            numbers = self._of(place).numbers
            _remember(numbers, checkpoint_id, max(count, numbers.get(checkpoint_id, 0)))

    def give_back(self, place: Place, checkpoint_id: str, number: int) -> None:
        """Take a number back of which it is not known whether it was used."""
        with self._lock:
            numbers = self._of(place).numbers
            _remember(numbers, checkpoint_id, min(number, numbers.get(checkpoint_id, number)))

    # -- lanes of single tasks ---------------------------------------------------------------------------

    def note_task(self, place: Place) -> None:
        """Note that the lane of one call of a subgraph was written to."""
        with self._lock:
            self._tasks.setdefault(place.thread_id, set()).add(place)
            if len(self._tasks) > _MOST_PLACES:
                self._tasks.popitem(last=False)

    def take_tasks(self, thread_id: str) -> list[Place]:
        """The lanes of calls of subgraphs that were written to: they are over at the graph's next checkpoint."""
        with self._lock:
            return sorted(self._tasks.pop(thread_id, ()))

    # -- leases and turns --------------------------------------------------------------------------------

    def lease_on(self, thread_id: str) -> Leased | None:
        """The lease that is held on a thread."""
        return self._leases.get(thread_id)

    @contextmanager
    def leased(self, thread_id: str, lease: Leased) -> Iterator[None]:
        """Let all that is written to a thread carry a lease meanwhile."""
        self._leases[thread_id] = lease
        try:
            yield
        finally:
            self._leases.pop(thread_id, None)

    def _of(self, place: Place) -> _Remembered:
        remembered = self._remembered.get(place)
        if remembered is None:
            remembered = self._remembered[place] = _Remembered()
            if len(self._remembered) > _MOST_PLACES:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(place)
        return remembered


def _given_for(remembered: _Remembered, parent: str | None) -> str | None:
    """The checkpoint that was given last of those after which one with this parent may come; None for none."""
    pairs = reversed(remembered.given.items())
    return next((given for given, of_it in pairs if parent in (given, of_it)), None)


def _superseded(place: Place, parent: str | None, head: Head) -> ConcurrencyConflict:
    of = "begins the thread" if parent is None else f"was made from checkpoint {parent!r}"
    what = f"the one to save {of}, and the latest is {head.saved.id!r} by now"
    return _conflict(f"another run has saved a checkpoint of thread {place.thread_id!r}: {what}", head)


def _conflict(what: str, head: Head | None) -> ConcurrencyConflict:
    return ConcurrencyConflict(f"{what}; {_HOW}", expected=0, actual=0 if head is None else head.offset)


def _remember(found: OrderedDict[str, T], name: str, value: T) -> None:
    found[name] = value
    found.move_to_end(name)
    if len(found) > _MOST_REMEMBERED:
        found.popitem(last=False)


_HOW = (
    "nothing was written; invoke the graph again to go on from the latest checkpoint, and hold"
    " saver.lease(thread_id) meanwhile to keep others out"
)
