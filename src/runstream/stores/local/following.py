"""Follow the runs of one machine's stores: their history, then what comes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from runstream.model.clock import unix_seconds
from runstream.model.errors import AcknowledgedWritesLost, HistoryDiverged
from runstream.model.identifiers import check_run_id
from runstream.model.results import E, Recorded, S
from runstream.model.run_head import RunHead
from runstream.model.state import ENDED_STATUSES
from runstream.operations.arguments import FollowQuery, ReadQuery, RunsQuery, parse_position
from runstream.operations.filters import EventFilter
from runstream.operations.follow_runs import SLACK_SECONDS, UNREADABLE, FollowedRuns, FollowRunsQuery, Updates
from runstream.operations.idle_timeout import IdleTimeout
from runstream.operations.operation import Operation, Stream, blocking, pass_on
from runstream.stores.local.erasing import Erasing

__all__ = ["Following"]

T = TypeVar("T")


class Following(Erasing[E, S]):
    """The part of a local store's operations that follows runs.

    A medium tells how one waits in it. Whoever waits looks at the heads of runs, and reads what they have more.
    """

    @abstractmethod
    def read(self, run_id: str, query: ReadQuery) -> Stream:
        """The events between two offsets, as they are at the first step."""

    @abstractmethod
    def _find_heads(self, query: RunsQuery) -> list[tuple[str, RunHead]]:
        """The ids and heads of the runs that match, the most recently updated first."""

    @abstractmethod
    def _until(self, look: Callable[[], T | None], idle: IdleTimeout) -> Operation[T | None]:
        """Wait until a look, a blocking call, finds something. It may end without, while there is time left."""

    def _heads_since(
        self, query: FollowRunsQuery, updated_after: float | None, written_after: float
    ) -> list[tuple[str, RunHead]]:
        """The runs that match, the most recently updated first; also without those where nothing can be new.

        Args:
            query: Which runs.
            updated_after: Leave those out that were last updated before, in Unix seconds by the clock of their
                writers; None: give all.
            written_after: Else, where it is known when a run was last written here, leave those out that were so
                before, in Unix seconds.
        """
        del updated_after, written_after
        return self._find_heads(query.runs_query())

    def follow(self, run_id: str, query: FollowQuery) -> Stream:
        """History, then live events."""
        check_run_id(run_id)
        after = query.after
        offset, _ = parse_position(after)
        wanted = EventFilter(query)
        idle = IdleTimeout(run_id, query.idle_timeout)

        def choose(items: Sequence[Recorded[Any]]) -> list[Recorded[Any]]:
            nonlocal after, offset
            after, offset = items[-1].cursor, max(offset, items[-1].offset)
            return [item for item in items if wanted(item.event)]

        def look() -> RunHead | None:
            """The head of the run where it has more, has ended, or is another one than was read."""
            now = self._load_head(run_id)
            if now is None or (now.creation == head.creation and not _has_more(now, offset)):
                return None
            return now

        while True:
            head = (yield from blocking(self._load_head, run_id)) or RunHead()
            yield from pass_on(self.read(run_id, ReadQuery(after)), choose, idle.restart)
            offset = max(offset, head.last.offset)  # what was erased has not come
            while (now := (yield from self._until(look, idle))) is None:
                idle.check()
            if now.creation == head.creation and now.last.offset <= offset:
                return

    def follow_runs(self, query: FollowRunsQuery) -> Stream:
        """The events of many runs: history, then live."""
        runs, idle = FollowedRuns(query), IdleTimeout(None, query.idle_timeout)
        lookout = _Lookout(runs, partial(self._heads_since, query), self._load_head)
        found: Sequence[tuple[str, RunHead]] | None = yield from blocking(lookout.find)
        while runs.run_ids is None or runs.run_ids:
            for run_id, head in lookout.news(found or ()):
                yield from self._give(runs, run_id, head, idle)
            while (found := (yield from self._until(lookout.look, idle))) is None:
                idle.check()
            if not lookout.has_news(found):
                return

    def _give(self, runs: FollowedRuns, run_id: str, head: RunHead, idle: IdleTimeout) -> Stream:
        """Give what a run has more, which had this head."""
        query = ReadQuery(runs.position(run_id))
        try:
            yield from pass_on(self.read(run_id, query), partial(runs.give, run_id), idle.restart)
            runs.note(run_id, head.last.offset)
        except UNREADABLE as error:
            runs.leave_out(run_id, error)
        except (AcknowledgedWritesLost, HistoryDiverged):
            now = yield from blocking(self._load_head, run_id)
            if runs.run_ids is not None or (now is not None and now.creation == head.creation):
                raise  # else it has been deleted meanwhile


def _has_more(head: RunHead, offset: int) -> bool:
    return head.last.offset > offset or head.status in ENDED_STATUSES


class _Lookout:
    """Looks which of the runs that are followed have more than was given.

    Args:
        runs: The runs.
        heads_since: The runs that match, without those where nothing can be new; see ``_heads_since``.
        load_head: The head of one run; None for one that is not there.
    """

    def __init__(
        self,
        runs: FollowedRuns,
        heads_since: Callable[[float | None, float], Sequence[tuple[str, RunHead]]],
        load_head: Callable[[str], RunHead | None],
    ) -> None:
        self._runs, self._heads_since, self._load_head = runs, heads_since, load_head
        self._updates, self._looked_at = Updates(), 0.0
        self._creations: dict[str, int] = {}

    def find(self) -> Sequence[tuple[str, RunHead]]:
        """The heads of the runs that were named, or of those that may have been updated since the last look."""
        if self._runs.run_ids is not None:
            heads = ((run_id, self._load_head(run_id)) for run_id in self._runs.run_ids)
            return [(run_id, head) for run_id, head in heads if head is not None]
        since, former, self._looked_at = self._updates.since(), self._looked_at, unix_seconds()
        found = self._heads_since(since, former - SLACK_SECONDS)
        updated = [head.updated_at for _, head in found]
        self._updates.note(updated or ([self._looked_at] if since is None else ()))
        return found[::-1]  # the oldest first

    def look(self) -> Sequence[tuple[str, RunHead]] | None:
        """What is found if there is news, or if all runs were named and have ended."""
        found = self.find()
        named = self._runs.run_ids
        ended = sum(head.status in ENDED_STATUSES for _, head in found)
        return found if self.has_news(found) or (named is not None and ended == len(named)) else None

    def has_news(self, found: Iterable[tuple[str, RunHead]]) -> bool:
        """Whether one of these runs has more than was given, or is another one than that of which it was."""
        return any(self._is_another(*each) or self._has_more(*each) for each in found)

    def news(self, found: Iterable[tuple[str, RunHead]]) -> Iterator[tuple[str, RunHead]]:
        """Those of these runs that have more; one that was deleted and made anew has all."""
        for run_id, head in found:
            if self._is_another(run_id, head):
                self._runs.positions.pop(run_id, None)
            self._creations[run_id] = head.creation
            if self._has_more(run_id, head):
                yield run_id, head

    def _has_more(self, run_id: str, head: RunHead) -> bool:
        return self._runs.has_more(run_id, head.last.offset)

    def _is_another(self, run_id: str, head: RunHead) -> bool:
        return self._creations.get(run_id, head.creation) != head.creation
