"""The runs of a stream of many: which it holds, how far each has been given, and which come and go.

It looks, now and then, which runs that match have been updated. Held is a run that is open, and one that was
created after the floor: the latest update that was seen, less a few seconds by which clocks of servers may differ.
When it has ended and all of it was given, it stays until the floor has passed its creation: else it would be new.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from typing import Any

from starlette.requests import Request

from runstream.model.results import Cursor, RunInfo
from runstream.model.state import ENDED_STATUSES
from runstream.operations.arguments import RunsQuery
from runstream.operations.filters import RunFilter
from runstream.operations.follow_runs import Position
from runstream.web.access import Access
from runstream.web.happenings import all_given
from runstream.web.problems import Refused
from runstream.web.tokens import MOST_HELD, MOST_OPEN, Token, fingerprint

__all__ = ["FollowedRuns"]

_SLACK_SECONDS = 5.0


class FollowedRuns:
    """The runs that a stream of many holds.

    Args:
        access: The runs, for those who may see them.
        request: Who reads.
        asked: The session and the tags of the runs, as ``runs`` takes them.
        token: Where the stream goes on; None: with the runs that are open now, each from its beginning.

    Attributes:
        positions: How far each run that is held has been given.
    """

    def __init__(self, access: Access, request: Request, asked: Mapping[str, Any], token: Token | None) -> None:
        self._access, self._request, self._asked = access, request, asked
        self._token = token
        self._begins_now = token is None
        self._floor = -math.inf if token is None else token.floor
        self._created: dict[str, float] = {}
        self._done: set[str] = set()
        self._left_out: set[str] = set()
        self.positions: dict[str, Position] = {}

    @property
    def open_ids(self) -> list[str]:
        """Those of which more may come."""
        return [run_id for run_id in self.positions if run_id not in self._done]

    @property
    def token(self) -> str:
        """Where the stream stands."""
        held = {fingerprint(run_id): _cursor(position) for run_id, position in self.positions.items()}
        return str(Token(self._floor, held))

    async def look(self) -> bool:
        """Look for runs that have come. Returns whether there are any.

        Raises:
            Refused: There are too many that are open.
        """
        store = await self._access.store()
        held = {} if self._token is None else self._token.held  # at first: what is held may be quiet for long
        after = self._floor if not held and math.isfinite(self._floor) else None
        latest, fresh, ended = self._floor, [], []
        async with aclosing(store.runs(**self._asked, updated_after=after)) as infos:
            async for info in infos:
                latest = max(latest, info.updated_at)
                is_held = fingerprint(info.run_id) in held
                if not (is_held or self._is_fresh(info, latest)) or self._is_known(info.run_id):
                    continue
                if not await self._access.may(self._request, "read", info):
                    continue
                if is_held:
                    self._hold(info, held[fingerprint(info.run_id)])
                    if info.status in ENDED_STATUSES:
                        ended.append(info.run_id)
                else:
                    fresh.append(info)
        self._token, self._begins_now = None, False
        await self.check(ended)
        return self._take(fresh, latest)

    async def check(self, run_ids: Iterable[str]) -> list[RunInfo]:
        """Those of some runs that have ended, and all was given: no more is to be awaited of them.

        One that is gone, or no more for this reader, is not held any more.
        """
        store = await self._access.store()
        found = []
        for run_id in run_ids:
            info = await self._access.readable(self._request, run_id)
            if info is None or not self._matches(info):
                self._drop(run_id)
            elif await all_given(store, info, self.positions[run_id]):
                self._done.add(run_id)
                found.append(info)
        return found

    def leave_out(self, run_id: str) -> None:
        """Give nothing more of a run that cannot be read: it holds up no other."""
        self._left_out.add(run_id)
        self._drop(run_id)

    def _is_known(self, run_id: str) -> bool:
        return run_id in self.positions or run_id in self._left_out

    def _matches(self, info: RunInfo) -> bool:
        return RunFilter(RunsQuery(**self._asked))(info)

    def _is_fresh(self, info: RunInfo, latest: float) -> bool:
        floor = latest - _SLACK_SECONDS if self._begins_now else self._floor
        return info.status not in ENDED_STATUSES or info.created_at > floor

    def _take(self, fresh: list[RunInfo], latest: float) -> bool:
        """Hold what has come, the open ones first, then the oldest; what finds no room comes later."""
        ended = [info for info in fresh if info.status in ENDED_STATUSES]
        fresh = [info for info in fresh if info.status not in ENDED_STATUSES]
        ended.sort(key=lambda info: info.created_at)
        left = min((info.created_at for info in ended), default=math.inf)
        for info in fresh:
            if not self._has_room(left):
                raise Refused(
                    413,
                    f"more than {MOST_OPEN} runs that match are open: narrow the stream with session= or tag=",
                )
            self._hold(info, None)
        while ended and self._has_room(left):
            self._hold(ended[0], None)
            fresh.append(ended.pop(0))
            left = min((info.created_at for info in ended), default=math.inf)
        # of what is left out nothing was given: the floor stays before it
        self._floor = max(self._floor, min(latest - _SLACK_SECONDS, math.nextafter(left, -math.inf)))
        for run_id in [one for one in self._done if self._created[one] <= self._floor]:
            self._drop(run_id)
        return bool(fresh)

    def _has_room(self, left: float) -> bool:
        """Whether one more run can be held. One that is done gives way, if it is older than what is left."""
        if len(self.open_ids) >= MOST_OPEN:
            return False
        if len(self.positions) >= MOST_HELD:
            oldest = min(self._done, key=lambda run_id: self._created[run_id])
            if self._created[oldest] >= left:
                return False
            self._floor = max(self._floor, self._created[oldest])
            self._drop(oldest)
        return True

    def _hold(self, info: RunInfo, cursor: Cursor | None) -> None:
        self.positions[info.run_id] = 0 if cursor is None else str(cursor)
        self._created[info.run_id] = info.created_at

    def _drop(self, run_id: str) -> None:
        self.positions.pop(run_id, None)
        self._created.pop(run_id, None)
        self._done.discard(run_id)


def _cursor(position: Position) -> Cursor | None:
    return Cursor.parse(position) if isinstance(position, str) else None
