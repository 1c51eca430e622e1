"""Give a fork a copy of its own of all that it shares: then it is a fork no more, and its parent may go.

The parent lies in another slot, so what is shared is read from there, page by page, and put into a copy of the
fork's stream, which takes that one's place in one step (detach.lua). What is half done when this is killed
expires. Only when it is done the parent forgets the fork: what is erased of the parent until then is erased of the
copy too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from runstream.codec.record import ERASED, lane_and_seq
from runstream.model.errors import (
    ConfigurationError,
    CorruptRecordError,
    EventsArchived,
    StoreUnavailable,
    UnsupportedVersion,
)
from runstream.model.identifiers import check_run_id, random_token
from runstream.model.results import Cursor, E, S
from runstream.model.run_head import RunHead
from runstream.operations.lineage import Segment, is_gone, joined_origins
from runstream.operations.operation import Exchange, Operation
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.keys import Keys, RunKeys
from runstream.stores.redis.operations.client.lineage import ancestry_here
from runstream.stores.redis.operations.client.send import resolve_unanswered
from runstream.stores.redis.operations.worker.erasing import load_erasures, rebuild
from runstream.stores.redis.operations.worker.hot_run import HotRun, Lasts, lane_marks, run_of
from runstream.stores.redis.operations.worker.inherited_erasures import erase_inherited
from runstream.stores.redis.operations.worker.load import LoadRequest, first_hot, load_entries, load_runs
from runstream.stores.redis.operations.worker.noted_forks import fork_notes
from runstream.stores.redis.replies import origins_text, parse_cursor, parse_map, parse_texts
from runstream.stores.redis.scripts.fork_calls import DetachStep, detach_call, fork_end_call
from runstream.stores.redis.session.session import Session

__all__ = ["detach", "let_go"]

_ATTEMPTS = 10
_KEYS_AT_ONCE = 1000


@dataclass(slots=True)
class _Shared:
    """What a fork shares, as Redis has it.

    Attributes:
        parts: The segments that it has from others, the oldest first, each with its run and that one's meta.
        head: The head of the fork.
        scanned: The offset from which on Redis has all of it, and it was read; past its end for nothing.
        first: The cursor of the first entry that the fork is to get.
        lasts: The last events of the lanes that are known.
        firsts: The first events of lanes from ``first`` on, by lane.
        largest: The size of the largest record from ``first`` on.
        are_all: Whether no other lane can have had an event.
    """

    parts: Sequence[_Part]
    head: RunHead
    scanned: int
    first: Cursor | None = None
    lasts: Lasts = field(default_factory=dict)
    firsts: dict[str, int] = field(default_factory=dict)
    largest: int = 0
    are_all: bool = True

    @property
    def read(self) -> Sequence[_Part]:
        """Those parts that are read as the fork's history; where it, or one of them, was truncated, not all."""
        found: list[_Part] = []
        for part in () if self.head.base else reversed(self.parts):
            if is_gone(part.segment, part.run.head):
                break
            found.insert(0, part)
            if part.run.head.base is not None:
                break
        return found

    @property
    def base(self) -> Cursor:
        """The cursor before the first event of the fork's history."""
        read = self.read
        return read[0].run.head.before_first if read else self.head.before_first

    def add(self, made_as: str, at: Cursor, record: bytes) -> None:
        """Add the next entry of what Redis has."""
        self.largest = max(self.largest, len(record))
        if record == ERASED:
            return
        try:
            lane, seq = lane_and_seq(made_as, at.offset, record)
        except (CorruptRecordError, UnsupportedVersion):
            return
        self.firsts.setdefault(lane, at.offset)
        self.lasts[lane] = at.offset, seq

    def note_lanes(self) -> None:
        """Add what is noted of lanes, where that is more than what their events that were read tell."""
        unknown: set[str] = set()
        for segment, _, meta in reversed(self.parts):
            is_read = self.scanned <= segment.after + 1
            marks = lane_marks(meta)
            for lane in marks.keys() - unknown:
                if segment.has(marks[lane][0]):  # also one that was erased, whose record tells of no lane
                    self.lasts[lane] = max(marks[lane], self.lasts.get(lane, (0, 0)))
                elif lane not in self.lasts and not is_read and marks[lane][0] > segment.after:
                    unknown.add(lane)
            if not is_read and (unknown or {b"retired", b"ended"} & meta.keys()):
                self.are_all = False

    def archived_to(self) -> Cursor | None:
        """The cursor up to which every required archive has it; None: all of it.

        Where Redis has all of it, it is archived again, as the fork's: what archives have may go with the parent.
        """
        if self.first is not None and not self.has_left:
            return self.base
        for segment, run, _ in self.read:
            if segment.end is not None and run.head.mark < segment.end:
                return max(run.head.mark, run.head.before_first)
        return None

    @property
    def has_left(self) -> bool:
        """Whether some of what is read of it has left Redis."""
        first = self.head.start.offset + 1 if self.first is None else self.first.offset
        return bool(self.read) and first > self.base.offset + 1

    def last_step(self) -> DetachStep:
        """The step that puts the copy in its place."""
        origins = joined_origins((part.segment, part.run.head) for part in self.read)
        fields = {"base": str(self.base), "origin": origins_text(origins)}
        lanes = [
            (lane, f"{offset} {seq}", str(self.firsts.get(lane, ""))) for lane, (offset, seq) in self.lasts.items()
        ]
        return DetachStep(
            self.first,
            self.archived_to(),
            self.largest,
            "all" if self.are_all else "unknown",
            {name: value for name, value in fields.items() if value},
            lanes=lanes,
        )


class _Part(NamedTuple):
    """A segment that a fork has from another run, and that run."""

    segment: Segment
    run: HotRun
    meta: Mapping[bytes, bytes]


def detach(session: Session[E, S], run_id: str, of: str, archive_id: str | None = None) -> Operation[None]:
    """Give a fork of a run a copy of its own of all that it shares: it is a fork no more, else nothing changes.

    A fork of another run stays one.

    Args:
        session: The session.
        run_id: The fork.
        of: The run.
        archive_id: The archive that is to get a copy, too, before the parent is let go; None: none is at hand.
            Others that are required copy what they have themselves, when a worker archives the fork.

    Raises:
        ConfigurationError: Some of what it shares, or of what follows, has left Redis, and not every archive has
            the fork yet.
        EventsArchived: Some of it has left Redis, and no archive is at hand.
        StoreUnavailable: There was no answer, or what is to be erased of the runs that it comes from cannot be
            erased now; send the same again.
    """
    check_run_id(run_id)
    yield from resolve_unanswered(session, [run_id])
    for _ in range(_ATTEMPTS):
        (run,) = yield from load_runs(session.keys, [run_id])
        if run is None or not run.head.is_fork_of(of) or (yield from _detached(session, run, archive_id)):
            return
    raise StoreUnavailable(f"run {run_id!r} changed all the while that it was detached: send the same call again")


def let_go(keys: Keys, run_id: str, of: str) -> Operation[None]:
    """Let a run not count another one as its fork any more, which was detached from it.

    What is to be erased of the run by then is erased there, too. One that is its fork stays: it was made just now,
    or a failover has lost that it was detached; or it is about to be made.
    """
    (fork,) = yield from load_runs(keys, [run_id])
    if fork is None or fork.head.is_fork_of(of):
        return
    for noted in (yield from fork_notes(keys, of)):
        if (noted.run_id, noted.identity) == (run_id, fork.head.identity):
            yield from _erase_shared(keys, of)
            yield Exchange([fork_end_call(keys, of, 0, run_id, noted.identity, None)])


def _erase_shared(keys: Keys, run_id: str) -> Operation[None]:
    """Carry out, in Redis, what was to be erased of a run, in its forks as well."""
    noted = yield from load_erasures(keys, run_id)
    if not noted.last:
        return
    (run,) = yield from load_runs(keys, [run_id])
    reason = "" if run is None else (yield from rebuild(keys, run.header))
    reason = reason or (yield from erase_inherited(keys, run_id, noted.notes.values()))
    if reason:
        raise StoreUnavailable(
            f"what is to be erased of run {run_id!r} is not erased yet: {reason}; send it again"
        )


def _detached(session: Session[E, S], run: HotRun, archive_id: str | None) -> Operation[bool]:
    """Make the copy, and put it in its place. False if something has changed: then it is to be begun anew."""
    keys, run_id = session.keys, run.run_id
    ancestry = yield from ancestry_here(session, run_id, run.head)
    for segment in ancestry:
        yield from _erase_shared(keys, segment.run_id)
    own = keys.run(run_id)
    (reply,) = yield Exchange([(b"HGETALL", own.meta)])
    seen = parse_map(reply)
    parts = yield from _parts(keys, ancestry)
    if not parts or b"parent" not in seen:
        return False
    shared = _Shared(parts, run.head, (yield from _first_of(keys, parts)))
    is_joined = run.head.base is None and (yield from _is_joined(keys, run))
    step = partial(_take, own, seen, random_token())
    for part in parts:
        if not (yield from _copy_entries(keys, part, shared, step, is_joined=is_joined)):
            return False
        if not (yield from _copy_keys(keys, part, shared, step)):
            return False
    if shared.has_left:
        yield from _check_archived(own, shared, archive_id)
    archived = shared.archived_to()
    if archived is not None and (shared.first is None or shared.first.offset > archived.offset + 1):
        raise _unarchived(run_id)
    shared.note_lanes()
    outcome = b"more"
    while outcome == b"more":
        outcome = yield from step(shared.last_step())
    if outcome == b"unarchived":
        raise _unarchived(run_id)
    return outcome == b"done"


def _parts(keys: Keys, ancestry: Sequence[Segment]) -> Operation[list[_Part]]:
    """The segments with their runs; none where one of those is not there any more."""
    parts = []
    replies = yield Exchange([(b"HGETALL", keys.run(segment.run_id).meta) for segment in ancestry])
    for segment, meta in zip(ancestry, map(parse_map, replies), strict=True):
        with parsing(keys.run(segment.run_id)):
            run = run_of(segment.run_id, meta, is_partial=False)
        if run is None:
            return []
        parts.append(_Part(segment, run, meta))
    return parts


def _take(own: RunKeys, seen: Mapping[bytes, bytes], token: str, step: DetachStep) -> Operation[bytes]:
    ((outcome,),) = yield Exchange([detach_call(own, seen, token, step)])
    return bytes(outcome)


def _first_of(keys: Keys, parts: Sequence[_Part]) -> Operation[int]:
    """The offset from which on Redis has all entries of these parts; past their end for none."""
    found = parts[-1].segment.upto() + 1
    for segment, _, _ in reversed(parts):
        if not segment.has(segment.upto()):
            continue  # the next was forked where it began
        first = yield from first_hot(keys, segment.run_id)
        if first is None or first >= found:
            break
        found = max(first, segment.after + 1)
        if found > segment.after + 1:
            break
    return found


def _is_joined(keys: Keys, run: HotRun) -> Operation[bool]:
    """Whether the entries that Redis has of a fork itself go on where what it shares ends."""
    first = yield from first_hot(keys, run.run_id)
    if first is None:
        return run.head.last == run.head.start and not run.is_tombstone
    return first == run.head.start.offset + 1


def _copy_entries(
    keys: Keys, part: _Part, shared: _Shared, step: Callable[[DetachStep], Operation[bytes]], *, is_joined: bool
) -> Operation[bool]:
    """Read what Redis has of a part, and let the copy begin with it. False if something has changed."""
    segment, run, _ = part
    low, high = max(shared.scanned, segment.after + 1), segment.upto(run.head.last.offset)
    while low <= high:
        request = LoadRequest(segment.run_id, low, high, largest=run.head.largest)
        (loaded,) = yield from load_entries(keys, [request])
        if loaded.creation != run.head.creation or loaded.offsets_and_chains[0] != list(
            range(low, loaded.upto + 1)
        ):
            return False
        page = [item for item in loaded.entries if is_joined and item[0].offset > shared.base.offset]
        for at, record in loaded.entries:
            shared.add(run.header.written_as(at.offset), at, record)
        if page:
            shared.first = shared.first or page[0][0]
            if (yield from step(DetachStep(shared.first, entries=page))) != b"more":
                return False
        low = loaded.upto + 1
    return True


def _copy_keys(
    keys: Keys, part: _Part, shared: _Shared, step: Callable[[DetachStep], Operation[bytes]]
) -> Operation[bool]:
    """Let the fork know the callers' keys of a part itself. False if something has changed."""
    at = b"0"
    while True:
        query = (b"HSCAN", keys.run(part.segment.run_id).keys, at, b"COUNT", _KEYS_AT_ONCE)
        ((at, found),) = yield Exchange([query])
        known = {
            key: cursor
            for key, cursor in parse_map(found).items()
            if part.segment.knows(parse_cursor(cursor).offset)
        }
        if known and (yield from step(DetachStep(shared.first, keys=known))) != b"more":
            return False
        if int(at) == 0:
            return True


def _check_archived(own: RunKeys, shared: _Shared, archive_id: str | None) -> Operation[None]:
    """Check that an archive is at hand that has what has left Redis of what a fork shares.

    And that every other one knows the fork: it keeps the runs that it comes from until it has a copy itself.
    """
    queries = [(b"HGETALL", own.partition.archives), (b"ZSCORE", own.partition.due, own.run_id)]
    required, due = yield Exchange(queries)
    archives = parse_texts(required)
    locations = tuple(sorted(archives.values()))
    if archive_id is None:
        raise EventsArchived(
            f"run {own.run_id!r} was not detached: some of what it shares has left Redis for"
            f" {', '.join(locations)}; use a tiered store (archive=), which has that",
            run_id=own.run_id,
            first_hot=shared.base.offset + 1 if shared.first is None else shared.first.offset,
            archives=locations,
        )
    if not (archives.keys() <= {archive_id} or due is None or shared.head.mark > shared.head.start):
        raise _unarchived(own.run_id)


def _unarchived(run_id: str) -> ConfigurationError:
    return ConfigurationError(
        f"run {run_id!r} was not detached: not all of what it shares is in Redis, nor in every archive; let a"
        " drain worker archive it, and the runs that it comes from, first"
    )
