"""Where a run stands: one type for all stores."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from runstream.model.questions import Question, pending_of
from runstream.model.results import Cursor, RunInfo
from runstream.model.state import RunStatus
from runstream.model.tags import NO_TAGS, TagSet

__all__ = [
    "UNKNOWN_TOKEN",
    "EndedLane",
    "Origin",
    "Origins",
    "RunHead",
    "RunStart",
    "SnapshotHead",
    "last_unneeded",
    "recovery_bounds",
    "stretches",
    "written_as",
]

_NOWHERE = Cursor(0, 0)


def last_unneeded(last: int, covered: Mapping[str | None, int], since: Mapping[str, int]) -> int:
    """The last offset up to which a recovery needs no event, of the run or of a lane: as settle.lua has it.

    Args:
        last: The last offset that may be meant.
        covered: Up to where the snapshot of each lane (None: of the run) covers the history.
        since: The first offset of each lane that no snapshot of it covers.
    """
    return min([last, *(offset for offset, _ in recovery_bounds(covered, since))])


def recovery_bounds(
    covered: Mapping[str | None, int], since: Mapping[str, int]
) -> Iterator[tuple[int, str | None]]:
    """The last offset that the recovery of each lane (None: of the run) does not need, for those that need any.

    Args:
        covered: As of ``last_unneeded``.
        since: Likewise.
    """
    of_run = covered.get(None)
    if of_run is not None:
        yield of_run, None
    # a lane without a snapshot of its own is covered by the run's, if there is one
    yield from ((first - 1, lane) for lane, first in since.items() if lane in covered or of_run is None)


class SnapshotHead(NamedTuple):
    """What a store keeps of a snapshot beside its state.

    Attributes:
        lane_id: The lane whose snapshot it is; None: the run's own.
        offset: It covers the history up to this offset.
        revision: How many times a snapshot of this run or lane was saved, this one included.
        token: Names this very snapshot: a revision can be given out twice after a failover.
    """

    lane_id: str | None
    offset: int
    revision: int
    token: str


UNKNOWN_TOKEN = "?"  # noqa: S105 - of a snapshot, no secret
"""Stands for the token of a snapshot that may have left Redis."""


class EndedLane(NamedTuple):
    """The end of a lane. What comes to the lane after it opens it again.

    Attributes:
        lane_id: The lane.
        offset: Where the run ended then.
        token: That of the lane's snapshot then; '' for none, :data:`UNKNOWN_TOKEN` if it may have left Redis: then
            it is the one that an archive has.
    """

    lane_id: str
    offset: int
    token: str

    def is_end_of(self, last: int, token: str) -> bool:
        """Whether a lane is ended that has its last event and its snapshot there; 0 and '' for none."""
        return last <= self.offset and (token == self.token or (not token and self.token == UNKNOWN_TOKEN))


class Origin(NamedTuple):
    """Which run the first records of a copied history were made as: their checksums are of its name.

    Attributes:
        upto: The last offset of which that is so, from where the origin before it ends, or the beginning.
        run_id: The run.
    """

    upto: int
    run_id: str


Origins: TypeAlias = tuple[Origin, ...]
"""The origins of a history, in the order of their offsets; what comes after the last of them is the run's own."""


def written_as(run_id: str, origins: Origins, offset: int) -> str:
    """The run as which the record at an offset of a run was made.

    Args:
        run_id: The run.
        origins: Its origins.
        offset: The offset.
    """
    return next((origin.run_id for origin in origins if offset <= origin.upto), run_id)


def stretches(run_id: str, origins: Origins, offsets: Sequence[int]) -> Iterator[tuple[str, slice]]:
    """The run as which the records at some offsets were made, stretch by stretch.

    Args:
        run_id: The run that has them.
        origins: Its origins.
        offsets: The offsets, rising.
    """
    begin = 0
    for origin in origins:
        end = bisect_right(offsets, origin.upto, begin)
        if end > begin:
            yield origin.run_id, slice(begin, end)
            begin = end
    if begin < len(offsets):
        yield run_id, slice(begin, len(offsets))


class RunStart(NamedTuple):
    """Where a run begins, and which run of its name it is.

    Attributes:
        offset: The offset before its first event; 0 for a fork, too: what it shares is a part of its history.
        creation: As of :attr:`RunHead.creation`.
    """

    offset: int
    creation: int


@dataclass(frozen=True, slots=True)
class RunHead:
    """Where a run stands: its start, its end, its status. Without arguments, the head of a run that is not there.

    A store fills in what it was asked for; what only one kind of store knows stays beside this.

    Attributes:
        start: The cursor before the run's first event: a fork's is its parent's at the offset at which they part.
        last: The cursor of its last event, or ``start``.
        mark: The cursor up to which every required archive was proven to have it; 0-0 in a store that no worker
            drains.
        status: One of :data:`~runstream.model.state.STATUSES`.
        session_id: The session that the run belongs to; '' for none.
        created_at: When it was created: Unix time in seconds, by the store's clock.
        updated_at: When it was last written to: Unix time in seconds, by the store's clock.
        parent: The run that this one is a branch of, and the offset at which it parts from it.
        snapshots: Its latest snapshots, by lane; None: the run's own.
        largest: No record of it in Redis has more bytes; None: that is not known.
        questions: What each of its lanes has asked last.
        cancel: Why it is to be cancelled; None: nobody asked for that.
        tags: Its tags.
        identity: A fork's random number, of the range of a chain; 0 for a run that is no fork. See ``creation``.
        parent_identity: The ``creation`` of the run that a fork was forked from; 0 for a run that is no fork (a
            branch has a parent, too, and no part of its history).
        base: The cursor before the first event that is there, where that is not ``start``: the history was
            truncated, or it is a fork's that got a copy of all that it had shared.
        origins: The runs as which its first records were made, where they were copied from these.
        left: What is noted of what has left the store: another text each time that a snapshot does.
    """

    start: Cursor = _NOWHERE
    last: Cursor = _NOWHERE
    mark: Cursor = _NOWHERE
    status: str = "running"
    session_id: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    parent: tuple[str, int] | None = None
    snapshots: Mapping[str | None, SnapshotHead] = field(default_factory=dict)
    largest: int | None = None
    questions: tuple[Question, ...] = ()
    cancel: str | None = None
    tags: TagSet = NO_TAGS
    identity: int = 0
    parent_identity: int = 0
    base: Cursor | None = None
    origins: Origins = ()
    left: str = field(default="", compare=False)

    @property
    def before_first(self) -> Cursor:
        """The cursor before the first event that is there."""
        return self.base or self.start

    @property
    def begin(self) -> int:
        """The offset after which its history begins, with what it shares: of which less may be there."""
        return self.run_start.offset if self.base is None else self.base.offset

    @property
    def lowest(self) -> Cursor:
        """The cursor before all that it has, or had, itself."""
        return min(self.start, self.before_first)

    @property
    def creation(self) -> int:
        """The number that names this very creation of the run: what was made anew has another one.

        A run that is no fork has its start's chain, which is random; forks at one offset share theirs.
        """
        return self.identity or self.start.chain

    @property
    def run_start(self) -> RunStart:
        """Where its history begins, and its ``creation``."""
        return RunStart(0 if self.identity else self.start.offset, self.creation)

    @property
    def fork_of(self) -> tuple[str, int] | None:
        """The run whose history this one shares, and up to which offset; None for a run that is no fork."""
        return self.parent if self.parent_identity else None

    def is_fork_of(self, run_id: str) -> bool:
        """Whether the run shares the history of that one."""
        return self.fork_of is not None and self.fork_of[0] == run_id

    @property
    def was_fork(self) -> bool:
        """Whether the run was made as a fork, and has all of its history itself by now."""
        return bool(self.identity) and self.fork_of is None

    @property
    def shares_to(self) -> int:
        """The offset up to which it has its history from another run; 0 for a run that is no fork."""
        return self.start.offset if self.parent_identity else 0

    def info(self, run_id: str) -> RunInfo:
        """What a user is told of the run of that id."""
        pending = pending_of(self.status, self.questions)
        return RunInfo(
            run_id,
            self.session_id,
            RunStatus.PAUSED.value if pending else self.status,
            self.last.offset,
            self.mark.offset,
            self.before_first.offset + 1,
            self.created_at,
            self.updated_at,
            self.parent,
            pending,
            self.tags.values,
        )

    @property
    def tokens(self) -> dict[str | None, str]:
        """The tokens of the snapshots, by lane."""
        return {lane_id: snapshot.token for lane_id, snapshot in self.snapshots.items()}
