"""Forks in the stores of one machine: made in one atomic step, and a run that others need is not deleted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple

from runstream.model.identifiers import check_run_id
from runstream.model.results import E, Fork, RunInfo, S
from runstream.model.run_head import EndedLane, RunHead, SnapshotHead
from runstream.operations.lineage import Segment, is_gone, joined_origins
from runstream.operations.operation import in_one_call
from runstream.operations.run_forks import (
    ForkOptions,
    as_state_of,
    by_offset,
    check_fork,
    fork_head,
    forks_among,
    has_forks,
)
from runstream.stores.local.look_ups import LookUps

__all__ = ["ForkStart", "LocalForks"]


class ForkStart(NamedTuple):
    """What a fork begins with.

    Attributes:
        head: Its head, with the heads of its snapshots.
        states: What the store keeps of these, in the order of ``head.snapshots``.
        ended: The last end of each lane up to there: what has come to it since shows whether it is ended.
    """

    head: RunHead
    states: Sequence[Any]
    ended: Sequence[EndedLane]


class LocalForks(LookUps[E, S]):
    """The part of a local store's operations that makes forks, and knows those of a run."""

    _clock: Callable[[], float]

    @abstractmethod
    def _at_once(self, run_ids: Collection[str]) -> AbstractContextManager[Any]:
        """Make what is read and written of these runs meanwhile one atomic step."""

    @abstractmethod
    def _begin_fork(self, run_id: str, start: ForkStart) -> None:
        """Write what a new fork begins with; within ``_at_once``."""

    @abstractmethod
    def _states_at(self, run_id: str, upto: int) -> Iterable[tuple[SnapshotHead, dict[str, Any]]]:
        """The newest held snapshots, of the run and of each lane, that cover at most ``upto``, as plain data."""

    @abstractmethod
    def _children_of(self, run_id: str) -> Iterable[tuple[str, RunHead]]:
        """The ids and heads of the runs that name a run as their parent; there may be others among them."""

    @abstractmethod
    def _load_tagged(self, run_id: str) -> RunHead | None:
        """The run's head with its tags."""

    @abstractmethod
    def _keep_state(self, fields: Mapping[str, Any]) -> Any:
        """What the store keeps of a state, never the caller's own object."""

    @abstractmethod
    def _info(self, run_id: str, head: RunHead) -> RunInfo:
        """What a user is told of a run."""

    def forks_of(self, run_id: str, creation: int | None = None) -> list[Fork]:
        """The runs that were forked from a run, as it is now or as ``creation`` names it, and share with it."""
        head = self._load_head(run_id) if creation is None else None
        return forks_among(run_id, creation if head is None else head.creation, self._children_of(run_id))

    @in_one_call
    def forks(self, run_id: str) -> list[Fork]:
        """The runs that were forked from a run, by the offset at which."""
        check_run_id(run_id)
        return by_offset(self.forks_of(run_id))

    @in_one_call
    def fork(self, run_id: str, new_run_id: str, options: ForkOptions) -> RunInfo:
        """Make a run that shares this one's history up to an offset."""
        options.check(run_id, new_run_id)
        with self._at_once([run_id, new_run_id]):
            head, former = self._load_tagged(run_id), self._load_tagged(new_run_id)
            at = check_fork(run_id, head, new_run_id, former, options.at)
            if former is None and head is not None:
                begun = fork_head(run_id, head, self._cursor_of(run_id, head, at), options, self._clock())
                start = self._start_of(run_id, head, new_run_id, begun)
                self._begin_fork(new_run_id, start)
                former = start.head
        return self._info(new_run_id, former or RunHead())

    def _start_of(self, run_id: str, head: RunHead, new_run_id: str, begun: RunHead) -> ForkStart:
        """What the fork begins with: its head, and the newest snapshots of the history that it shares."""
        at = begun.start.offset
        heads, kept = {}, []
        for lane_id, (saved, fields) in self._shared_states(run_id, head, at).items():
            heads[lane_id] = saved
            kept.append(self._keep_state(as_state_of(new_run_id, fields)))
        ends = [end for end in self._own_lane_facts(run_id).ends.values() if end.offset <= at]
        return ForkStart(replace(begun, snapshots=heads), kept, ends)

    def _shared_states(
        self, run_id: str, head: RunHead, at: int
    ) -> dict[str | None, tuple[SnapshotHead, dict[str, Any]]]:
        """The newest held snapshots, of the run and of each lane, that cover at most an offset, by lane."""
        found: dict[str | None, tuple[SnapshotHead, dict[str, Any]]] = {}
        for segment in reversed(self._segments(run_id, head)):
            for saved, fields in self._states_at(segment.run_id, segment.upto(at)):
                found.setdefault(saved.lane_id, (saved, fields))
            if segment.after <= at:  # it began with those that were held there; what was saved since is not of it
                break
        return found

    @in_one_call
    def detach(self, run_id: str, of: str) -> None:
        """Give a fork of a run a copy of its own of all that it shares: it is a fork no more."""
        check_run_id(run_id)
        with self._at_once([run_id]):
            head = self._load_head(run_id)
            if head is not None and head.is_fork_of(of):
                self._take_over(run_id, self._detached(run_id, head), self._ancestry(run_id, head))

    def _detached(self, run_id: str, head: RunHead) -> RunHead:
        """The head of a fork once it has all of its history itself."""
        base, origins = head.base, head.origins
        if base is None:
            *shared, _ = self._segments(run_id, head)
            heads = [self._load_head(segment.run_id) or RunHead() for segment in shared]
            left = [each for each in zip(shared, heads, strict=True) if not is_gone(*each)]
            base = left[0][1].before_first if left else head.start
            origins = joined_origins(left)
        return replace(head, parent=None, parent_identity=0, base=base, origins=origins)

    @abstractmethod
    def _take_over(self, run_id: str, head: RunHead, shared: Sequence[Segment]) -> None:
        """Give a run what it has shared with others, and this head; within ``_at_once``.

        Of what comes before the head's base, it gets no more than the callers' keys and the lanes.
        """

    def _check_forks(self, run_id: str) -> None:
        """Check that no other run needs the history of a run that is to be deleted; within ``_at_once``.

        Raises:
            RunHasForks: There is one.
        """
        if forks := self.forks_of(run_id):
            raise has_forks(run_id, forks)
