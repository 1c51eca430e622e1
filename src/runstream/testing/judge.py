"""What became of all events, by the copies of their runs and by what those said who sent them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import dropwhile
from typing import Any

from runstream.testing.copies import Copy, Place, is_left
from runstream.testing.tagging import ToldTags


def _sender_of(mark: str) -> str:
    """By whom an event was sent."""
    return mark.strip("@").partition("/")[0]


@dataclass
class Sent:
    """A batch: its events' marks, their keys, and what its sender was told."""

    marks: Sequence[str]
    keys: Sequence[str | None] | None
    is_told: bool = False
    first: int | None = None
    is_refused: bool = False
    may_be_lost: bool = False
    """Its sender was told later that the run had lost something, or could not be told any more."""
    may_be_deleted: bool = False
    """Its sender has begun to delete the run since."""
    is_deleted: bool = False
    """Its sender was told that the run was deleted, in Redis and in each archive."""

    def keyed(self) -> Iterator[tuple[str, str]]:
        """The keys of its events that have one, each with the event's mark."""
        for key, mark in zip(self.keys or (), self.marks, strict=bool(self.keys)):
            if key is not None:
                yield key, mark


@dataclass
class Testimony:
    """What all agents say about one run."""

    sent: list[Sent] = field(default_factory=list)
    adds: int = 0
    added: int = 0
    epochs: dict[str | None, dict[str, set[int]]] = field(default_factory=dict)
    """By lane and mark: under which leases of the lane, by their epochs, the event was sent."""
    lanes: dict[str, str | None] = field(default_factory=dict)
    """By mark: the lane of the event, where that is another than its sender's own."""
    taken: dict[str, set[str]] = field(default_factory=dict)
    """By durable step: the marks of what it was told to have given."""

    tags: dict[str, ToldTags] = field(default_factory=dict)
    """By agent: what it says about the tags that it sets."""
    erasing: set[str] = field(default_factory=set)
    """The marks of events that somebody has begun to erase, or to truncate."""
    erased: set[str] = field(default_factory=set)
    """Those of which somebody was told that it is asked for."""
    erased_again: set[str] = field(default_factory=set)
    """Those of which it is, since nothing is lost any more."""

    def note_lane(self, lane: str | None, marks: Sequence[str], epoch: int | None = None) -> None:
        """Note in which lane events were sent, and under which lease of it, if under any."""
        for mark in marks:
            self.lanes[mark] = lane
            if epoch is not None:
                self.epochs.setdefault(lane, {}).setdefault(mark, set()).add(epoch)

    def note(self, what: str, name: Any, value: Any, *, was_killed: bool) -> None:
        """Note what a step gave; or that an agent has set its tags, or was told so, and if it was killed later."""
        if what == "took":
            self.taken.setdefault(name, set()).add(value)
        elif what == "erases":
            self.erasing.update(value)
        elif what == "erased":
            self.erased.update(value)
            self.erased_again.update(value if name == "again" else ())
        else:
            told = self.tags.setdefault(name, ToldTags())
            told.note(value, is_told=what == "tagged", is_settled=not was_killed)

    def gone(self, *, losses: bool) -> set[str]:
        """The marks of events whose content is to be nowhere; a server that loses something may lose a request."""
        return self.erased_again if losses else self.erased

    def kept(self) -> Iterator[Sent]:
        """The batches of which nobody has begun to erase anything."""
        return (batch for batch in self.sent if self.erasing.isdisjoint(batch.marks))

    def lane_of(self, mark: str) -> str:
        """The lane of an event."""
        return self.lanes.get(mark) or _sender_of(mark)


def hear(diaries: Iterable[tuple[Sequence[Any], bool]]) -> dict[str, Testimony]:
    """What the agents say, by run. Of each: its lines, and whether it was killed before it could settle."""
    heard: dict[str, Testimony] = defaultdict(Testimony)
    for lines, was_killed in diaries:
        own: dict[str, list[Sent]] = defaultdict(list)
        for what, run_id, *facts in lines:
            said = heard[run_id]
            if what == "sends":
                own[run_id].append(Sent(*facts))
            elif what == "told":
                own[run_id][-1].is_told, own[run_id][-1].first = True, facts[1]
            elif what == "refused":
                own[run_id][-1].is_refused = True
            elif what in ("lane", "leased"):
                said.note_lane(*facts)
            elif what in ("took", "tags", "tagged", "erases", "erased"):
                said.note(what, *facts, was_killed=was_killed)
            else:
                _hear_of_all(own[run_id], what)
                said.adds += what == "adds"
                said.added += what == "added"
        for run_id, batches in own.items():
            for batch in batches:
                batch.may_be_lost |= was_killed
            heard[run_id].sent += batches
    return heard


def _hear_of_all(batches: Sequence[Sent], what: str) -> None:
    """Note what became of all that an agent has sent to a run until then."""
    for batch in batches:
        batch.may_be_lost |= what == "lost"
        batch.may_be_deleted |= what == "deletes"
        batch.is_deleted |= what == "deleted"


def judge(
    hot: Copy,
    archives: Mapping[str, Copy],
    said: Testimony,
    steps: int,
    *,
    is_parked: bool,
    losses: bool,
    retires: bool = False,
    resolved: Collection[str] = (),
) -> Iterator[str]:
    """What is wrong with one run, its archives and its state.

    Args:
        hot: What its stream holds.
        archives: What each archive holds, by name.
        said: What the agents sent, and what they were told.
        steps: The step in its state, to which each agent that counts has added one at a time.
        is_parked: Workers have set it aside.
        losses: The server has lost what it had acknowledged; else no run may be set aside.
        retires: The run may have been retired since: what was trimmed then is of lanes that nobody knows.
        resolved: In which ways two histories of it were resolved: what an archive had may be there in part, and,
            of ``"both"``, late, and without keys that are others' by then.
    """
    for name, copy in archives.items():
        yield from faults_of_copy(name, copy)
        yield from _faults_of_mixture(name, copy, hot)
    if is_parked and not losses:
        yield "it is parked"
    if is_parked:  # what the archives have beside the stream is what was lost
        first = min((offset for offset, _ in hot), default=0)
        archives = {
            name: {place: mark for place, mark in copy.items() if place[0] < first}
            for name, copy in archives.items()
        }
    yield from find_faults(hot, archives, said, losses=losses, retires=retires, resolved=resolved)
    if not losses and not said.added <= steps <= said.adds:
        yield f"{steps} steps; {said.added} were told, {said.adds} sent"


def find_faults(
    hot: Copy,
    archives: Mapping[str, Copy],
    said: Testimony,
    *,
    losses: bool = False,
    retires: bool = False,
    resolved: Collection[str] = (),
) -> Iterator[str]:
    """What is wrong with one run.

    Args:
        hot: What its stream holds.
        archives: What each archive holds, by name.
        said: What the agents sent, and what they were told.
        losses: The server has lost what it had acknowledged: it may be missing if its sender was told so later.
        retires: See :func:`judge`.
        resolved: See :func:`judge`.
    """
    history = dict(hot)
    for copy in archives.values():
        history |= copy
    yield from faults_of_copy("the run", history)
    places = {mark: offset for (offset, _), mark in history.items() if not is_left(mark)}
    if "both" not in resolved:
        yield from _faults_of_lanes(history)
    if not losses:  # an epoch may be given twice after a failover
        yield from _faults_of_leases(history, said)
        yield from _faults_of_steps(said, places)
    sent_marks: set[str] = set()
    by_key: dict[str, set[str]] = defaultdict(set)
    for batch in said.sent:
        sent_marks.update(batch.marks)
        for key, mark in batch.keyed():
            by_key[key].add(mark)
    if strange := {mark for mark in places if "/last" not in mark} - sent_marks:
        yield f"nobody sent {sorted(strange)[:3]}"
    yield from (f"{mark} was erased and is there" for mark in sorted(said.gone(losses=losses) & places.keys()))
    if "both" not in resolved:
        yield from _faults_of_keys(by_key, places)
    first_hot = min((offset for offset, _ in hot), default=2**53)
    for batch in said.kept():
        if batch.is_deleted and not losses and (back := [mark for mark in batch.marks if mark in places]):
            yield f"{back} was deleted and is there"
        may_be_lost = losses and (batch.may_be_lost or _is_hidden(batch, places, said, first_hot, retires=retires))
        # of a run that a failover has lost whole, an archive has what had been drained
        is_in_part = bool(resolved) or (may_be_lost and not hot)
        yield from _faults_of_place(batch, places, may_be_in_part=is_in_part)
        yield from _faults_of_batch(batch, places, by_key, losses=losses, may_be_lost=may_be_lost)


def _is_hidden(batch: Sent, places: Mapping[str, int], said: Testimony, first_hot: int, *, retires: bool) -> bool:
    """Whether nothing shows that it was lost: it was trimmed, and others wrote its lane beyond, if one knows."""
    if batch.first is None or (last := batch.first + len(batch.marks) - 1) >= first_hot:
        return False
    if retires:
        return True
    sender, lane = _sender_of(batch.marks[0]), said.lane_of(batch.marks[0])
    others = (mark for mark, offset in places.items() if offset >= last and _sender_of(mark) != sender)
    return any(said.lane_of(mark) == lane for mark in others)


def _is_left_at(copy: Copy, place: Place) -> bool:
    return is_left(copy[place])


def faults_of_copy(name: str, copy: Copy) -> Iterator[str]:
    """What is wrong with one copy, or with all of a run, by itself."""
    # of what was truncated, an archive keeps the keys, in what is left of the events
    is_before_first = partial(_is_left_at, copy)
    offsets = [offset for offset, _ in dropwhile(is_before_first, sorted(copy))]
    if offsets != list(range(offsets[0], offsets[0] + len(offsets))) if offsets else False:
        doubled = [offset for offset, times in Counter(offsets).items() if times > 1]
        yield f"{name} has holes, or offsets twice: {doubled[:3]}"
    yield from (f"{name} has {mark} {times} times" for mark, times in Counter(copy.values()).items() if times > 1)


def _faults_of_mixture(name: str, copy: Copy, hot: Copy) -> Iterator[str]:
    """Whether an archive has another history than Redis up to an event that both have."""
    common, first = copy.keys() & hot.keys(), min(hot, default=(0, 0))[0]
    strange = [place for place in copy.keys() - hot.keys() if first <= place[0] < max(common, default=(0, 0))[0]]
    if strange:
        yield f"{name} has one history up to {max(strange)}, and another one at {max(common)}"


def _faults_of_lanes(history: Copy) -> Iterator[str]:
    last: dict[str, int] = {}
    for place in sorted(place for place, mark in history.items() if not is_left(mark)):
        lane, _, number = history[place].strip("@").partition("/")
        if not number.startswith("last"):
            if int(number) <= last.get(lane, 0):
                yield f"{history[place]} comes after {last[lane]}"
            last[lane] = int(number)


def _faults_of_keys(by_key: Mapping[str, set[str]], places: Mapping[str, int]) -> Iterator[str]:
    for key, marks in by_key.items():
        if len(there := marks & places.keys()) > 1:
            yield f"key {key!r} is there {len(there)} times: {sorted(there)}"


def _faults_of_steps(said: Testimony, places: Mapping[str, int]) -> Iterator[str]:
    """Whoever took a step was given one result, and that is there."""
    for step, marks in said.taken.items():
        if len(marks) > 1:
            yield f"step {step!r} has given {sorted(marks)}"
        if missing := marks - places.keys():
            yield f"step {step!r} has given {sorted(missing)}, and that is not there"


def _faults_of_leases(history: Copy, said: Testimony) -> Iterator[str]:
    """In no lane comes an event that was sent under a lease after one of a later lease."""
    for lane, epochs_of in said.epochs.items():
        latest = 0
        for place in sorted(history):
            epochs = epochs_of.get(history[place])
            if epochs is not None and max(epochs) < latest:
                yield f"{history[place]} was sent under lease {max(epochs)} of {lane}, and comes after {latest}"
            latest = min((epoch for epoch in epochs or () if epoch >= latest), default=latest)


def faults_of_snapshot(history: Copy, lane: str, covered: int, count: int) -> Iterator[str]:
    """What is wrong with a snapshot of a lane.

    Args:
        history: All of the run.
        lane: The lane, or of one that several agents write, the one that saved it, as marks name it.
        covered: The offset that the snapshot covers.
        count: The number of its last event of which it takes account.
    """
    numbers = {
        int(number): offset
        for (offset, _), mark in history.items()
        for of_lane, _, number in [mark.strip("@").partition("/")]
        if of_lane == lane and number.isdecimal()
    }
    if count and count not in numbers:
        yield f"a snapshot of {lane} is ahead: it has event {count}, which is not there"
    if behind := [number for number, offset in numbers.items() if offset <= covered and number > count]:
        yield f"a snapshot of {lane} covers offset {covered} and lacks event {behind[0]}: it has {count}"


def _faults_of_place(batch: Sent, places: Mapping[str, int], *, may_be_in_part: bool) -> Iterator[str]:
    there = [places[mark] for mark in batch.marks if mark in places]
    whole = range(there[0], there[0] + len(batch.marks)) if there else ()
    if there != (sorted(there) if may_be_in_part else list(whole)):
        yield f"{batch} lies at {there}"


def _faults_of_batch(
    batch: Sent, places: Mapping[str, int], by_key: Mapping[str, set[str]], *, losses: bool, may_be_lost: bool
) -> Iterator[str]:
    there = [places[mark] for mark in batch.marks if mark in places]
    if there and batch.is_refused:
        yield f"{batch} was refused and is there"
    if there or not batch.is_told:
        found = there
    else:  # another's event may have the key
        found = [places[mark] for key, _ in batch.keyed() for mark in by_key[key] if mark in places]
    if batch.is_told and len(found) < len(batch.marks) and not (batch.may_be_deleted or may_be_lost):
        yield f"{batch} was acknowledged and is not there"
    if found and batch.is_told and not losses and batch.first != found[0]:
        yield f"{batch} lies at {found[0]}"
