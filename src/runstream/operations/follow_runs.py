"""Follow many runs at once: the followers of single runs, side by side, as one stream.

Each run that is followed has its own follower, which reads, checks and waits as if it were alone. What all of them
wait for is one step (:class:`~runstream.operations.operation.WaitAny`), so that a follower goes on when something
has come in its run. Those that have much to give are given turns, page by page. New runs are found by looking, now
and then, which runs have been updated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from runstream.model.clock import monotonic_seconds
from runstream.model.errors import (
    AcknowledgedWritesLost,
    ConfigurationError,
    CorruptRecordError,
    EventRefused,
    HistoryDiverged,
    RunstreamError,
    UnsupportedVersion,
)
from runstream.model.identifiers import check_run_id, shown
from runstream.model.results import Recorded, RunInfo
from runstream.model.state import ENDED_STATUSES
from runstream.operations.arguments import RunsQuery, check_seconds, parse_position
from runstream.operations.idle_timeout import IdleTimeout
from runstream.operations.operation import Items, News, Operation, Pause, Stream, Wait, WaitAny, collect

__all__ = [
    "SLACK_SECONDS",
    "UNREADABLE",
    "FollowRunsQuery",
    "FollowedRuns",
    "Position",
    "Updates",
    "following_runs",
]

_log = logging.getLogger("runstream.followers")

_LOOK_SECONDS = 0.5
"""How often to look for new runs."""

_WHOLE_LOOK_SECONDS = 60.0
"""How often to look at all of them: a server's clock may have been set back."""

SLACK_SECONDS = 5.0
"""How far the times of updates may lie apart: on the servers of a cluster, and as files are written."""

Position: TypeAlias = int | str

UNREADABLE = (CorruptRecordError, EventRefused, UnsupportedVersion)
"""The errors of one run of which something does not read."""


class FollowRunsQuery(NamedTuple):
    """Which runs to follow, and from where; see :meth:`runstream.stores.facade.Store.follow_runs`."""

    run_ids: Iterable[str] | None = None
    session_id: str | None = None
    tags: Mapping[str, str] | None = None
    after: Mapping[str, Position] | None = None
    idle_timeout: float | None = None

    def runs_query(self, updated_after: float | None = None) -> RunsQuery:
        """What to ask for the runs that match."""
        return RunsQuery(self.session_id, updated_after=updated_after, tags=self.tags)


class FollowedRuns:
    """The runs that are followed, and how far each has been given.

    Args:
        query: What was asked.

    Raises:
        ConfigurationError: Nobody can follow that.
        InvalidRunId: A run cannot be called that.
    """

    def __init__(self, query: FollowRunsQuery) -> None:
        run_ids: Any = query.run_ids
        if isinstance(run_ids, str) or not (run_ids is None or hasattr(type(run_ids), "__iter__")):
            raise ConfigurationError(f"run_ids={shown(run_ids)}: pass a list of run ids, or None for all runs")
        if run_ids is not None and (query.session_id is not None or query.tags is not None):
            raise ConfigurationError(
                "run_ids= excludes session_id= and tags=: name the runs, or what they have in common"
            )
        if query.after is not None and not isinstance(query.after, Mapping):
            raise ConfigurationError(
                f"after={shown(query.after)}: pass a dict of offsets or cursors by run id, or None"
            )
        check_seconds("idle_timeout", query.idle_timeout)
        query.runs_query().check()
        self.run_ids: list[str] | None = None if run_ids is None else list(dict.fromkeys(run_ids))
        """The runs that were named; None: those that match are followed."""
        self.left_out: set[str] = set()
        self.positions: dict[str, Position] = dict(query.after or {})
        for run_id in (*(self.run_ids or ()), *self.positions):
            check_run_id(run_id)
        for position in self.positions.values():
            parse_position(position)

    def position(self, run_id: str) -> Position:
        """How far a run has been given."""
        return self.positions.get(run_id, 0)

    def has_more(self, run_id: str, last_offset: int) -> bool:
        """Whether a run that goes up to this offset has more than has been given."""
        return run_id not in self.left_out and last_offset > parse_position(self.position(run_id))[0]

    def give(self, run_id: str, items: Sequence[Recorded[Any]]) -> list[tuple[str, Recorded[Any]]]:
        """Events that come next in a run, as they are given."""
        self.positions[run_id] = items[-1].cursor
        return [(run_id, item) for item in items]

    def note(self, run_id: str, last_offset: int) -> None:
        """Note that all that a run had was looked at: the last of it may have been erased."""
        if self.has_more(run_id, last_offset):
            self.positions[run_id] = last_offset

    def leave_out(self, run_id: str, error: RunstreamError) -> None:
        """Leave a run out that does not read, and say so: it holds up no other. One that was named raises it."""
        if self.run_ids is not None:
            raise error
        self.left_out.add(run_id)
        _log.error("a run is left out: %s", error)


class Updates:
    """From when on the updates of runs are looked for: from the latest that was found, and now and then from ever.

    Args:
        clock: The time in seconds.
        whole_seconds: How often to look for all.
    """

    def __init__(
        self, clock: Callable[[], float] = monotonic_seconds, whole_seconds: float = _WHOLE_LOOK_SECONDS
    ) -> None:
        self._clock, self._whole_seconds = clock, whole_seconds
        self._next_whole_at = self._then_whole_at = 0.0  # the latter once what is found was noted
        self._latest: float | None = None  # by the store's clock

    def since(self) -> float | None:
        """After which time, by the store's clock, the runs were updated that are to be found; None: all."""
        now = self._clock()
        if self._latest is not None and now < self._next_whole_at:
            return self._latest - SLACK_SECONDS
        self._then_whole_at = now + self._whole_seconds
        return None

    def note(self, found: Iterable[float]) -> None:
        """Note when the runs were updated that were found."""
        self._latest = max(found, default=self._latest)
        self._next_whole_at = self._then_whole_at

    def begin_anew(self) -> None:
        """Look for all the next time: not all was found that was looked for."""
        self._latest = None


@dataclass(slots=True, eq=False)
class _Follower:
    """The follower of one run, what it waits for (news, a moment, or neither: its turn), and what came of it."""

    run_id: str
    stream: Stream
    wait: Wait | None = None
    news: News | None = None
    due: float | None = None


@dataclass(slots=True)
class _Followers:
    """The followers of many runs.

    Attributes:
        runs: The runs.
        follow: Follows one of them.
        idle: How long nothing may come.
        was_deleted: Whether the run of that name of which events were given has been deleted.
        clock: The time in seconds.
        by_run: The followers.
    """

    runs: FollowedRuns
    follow: Callable[[str, Position], Stream]
    idle: IdleTimeout
    was_deleted: Callable[[str], Operation[bool]]
    clock: Callable[[], float]
    by_run: dict[str, _Follower] = field(default_factory=dict)

    def add(self, run_id: str) -> None:
        """Follow one more run, unless it is followed."""
        if run_id not in self.by_run and run_id not in self.runs.left_out:
            self.by_run[run_id] = _Follower(run_id, self.follow(run_id, self.runs.position(run_id)))

    def add_new(self, infos: Iterable[RunInfo]) -> None:
        """Follow those of some runs of which there is, or may be, something to give."""
        for info in infos:
            if info.status not in ENDED_STATUSES or self.runs.has_more(info.run_id, info.last_offset):
                self.add(info.run_id)

    def give_turns(self) -> Stream:
        """Let each follower that does not wait go on: to its next page of events, or to where it waits."""
        now = self.clock()
        for follower in list(self.by_run.values()):
            if follower.due is not None and follower.due <= now:
                follower.due = None
            if follower.wait is None and follower.due is None:
                yield from self._go_on(follower)

    def wait(self, seconds: float | None) -> Stream:
        """Wait until one of them may go on, for so many seconds at most."""
        waiting, now = list(self.by_run.values()), self.clock()
        if any(one.wait is None and one.due is None for one in waiting):
            return
        limits = [seconds, self.idle.remaining, *(one.due - now for one in waiting if one.due is not None)]
        seconds = min((max(0.0, limit) for limit in limits if limit is not None), default=None)
        followers = [one for one in waiting if one.wait is not None]
        woken = yield WaitAny([one.wait for one in followers if one.wait is not None], seconds)
        for index, news in woken.items():
            followers[index].wait, followers[index].news = None, news

    def close(self) -> None:
        """End them all."""
        for follower in self.by_run.values():
            follower.stream.close()

    def _go_on(self, follower: _Follower) -> Stream:
        try:
            yield from self._take_steps(follower)
        except UNREADABLE as error:
            del self.by_run[follower.run_id]
            self.runs.leave_out(follower.run_id, error)
        except (AcknowledgedWritesLost, HistoryDiverged):
            if self.runs.run_ids is not None or not (yield from self.was_deleted(follower.run_id)):
                raise
            del self.by_run[follower.run_id]
            self.runs.positions.pop(follower.run_id, None)  # another one of that name is given from its beginning

    def _take_steps(self, follower: _Follower) -> Stream:
        stream, result = follower.stream, follower.news
        follower.news = None
        error: BaseException | None = None
        while True:
            try:
                step = stream.send(result) if error is None else stream.throw(error)
            except StopIteration:
                del self.by_run[follower.run_id]
                return
            result = error = None
            if isinstance(step, Items):
                yield Items(self.runs.give(follower.run_id, step.items))
                self.idle.restart()
                return
            if isinstance(step, Wait):
                follower.wait = step
                return
            if isinstance(step, Pause):
                follower.due = self.clock() + step.seconds
                return
            try:
                result = yield step
            except BaseException as raised:  # noqa: BLE001 - the follower decides what to do about it
                error = raised


def following_runs(
    query: FollowRunsQuery,
    look: Callable[[RunsQuery], Stream],
    follow: Callable[[str, Position], Stream],
    was_deleted: Callable[[str], Operation[bool]],
    clock: Callable[[], float] = monotonic_seconds,
) -> Stream:
    """Follow many runs.

    Args:
        query: Which, and from where.
        look: Lists runs. What it lists first are all that match, and then those that were updated.
        follow: Follows one run, without an idle timeout.
        was_deleted: Tells whether the run of that name of which events were given has been deleted.
        clock: The time in seconds.
    """
    runs = FollowedRuns(query)
    followers = _Followers(runs, follow, IdleTimeout(None, query.idle_timeout, clock), was_deleted, clock)
    lookout = _Lookout(query, look, clock)
    try:
        for run_id in runs.run_ids or ():
            followers.add(run_id)
        while runs.run_ids is None or followers.by_run:
            if runs.run_ids is None:
                followers.add_new((yield from lookout.updated()))
            yield from followers.give_turns()
            followers.idle.check()
            if runs.run_ids is None or followers.by_run:
                yield from followers.wait(None if runs.run_ids is not None else lookout.remaining)
    finally:
        followers.close()


class _Lookout:
    """Looks for the runs that have been updated."""

    def __init__(
        self, query: FollowRunsQuery, look: Callable[[RunsQuery], Stream], clock: Callable[[], float]
    ) -> None:
        self._query, self._look, self._clock = query, look, clock
        self._next_at = 0.0
        self._updates = Updates(clock)

    @property
    def remaining(self) -> float:
        """The seconds until it looks again."""
        return max(0.0, self._next_at - self._clock())

    def updated(self) -> Operation[Iterator[RunInfo]]:
        """The runs that may have been updated since the last look; none if that was just now."""
        if self._clock() < self._next_at:
            return iter(())
        asked = self._query.runs_query(self._updates.since())
        found: list[RunInfo] = yield from collect(self._look(asked))
        self._next_at = self._clock() + _LOOK_SECONDS
        self._updates.note(info.updated_at for info in found)
        return reversed(found)  # the oldest first
