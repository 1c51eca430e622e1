"""The states of a run and of its lanes: as they are, as they were at an offset, and which are kept."""

from __future__ import annotations

from contextlib import aclosing, suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runstream.integrations.langgraph.readable import (
    LastCheckpoint,
    checkpoint_of,
    is_checkpoint,
    value_offsets,
)
from runstream.model.errors import ConfigurationError, EventsArchived
from runstream.model.results import Snapshot, SnapshotInfo
from runstream.web.access import Access
from runstream.web.problems import json_response
from runstream.web.queries import Parameter, Query
from runstream.web.reading import READABLE

__all__ = ["SNAPSHOTS", "STATE", "States"]

_MOST_SNAPSHOTS = 100
_SNAPSHOTS = 20
_SCANNED = 10_000  # events that are looked at for a checkpoint, or for what was asked since

_LANE = Parameter("lane", "The snapshot of this lane; the run's own where it is not given.")

STATE = (
    Parameter("at", "As of this offset; the latest where it is not given.", "integer"),
    _LANE,
    READABLE,
)

SNAPSHOTS = (
    _LANE,
    Parameter("before", "Only those that cover no event from this offset on.", "integer"),
    Parameter("limit", "How many to give at most.", "integer"),
)


class States:
    """The endpoints that give states.

    Args:
        access: The runs, for those who may see them.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

    async def state(self, request: Request) -> Response:
        """The state of a run, or of one of its lanes, as it was saved last, or last before an offset."""
        query = Query(request, STATE)
        info = await self._access.run(request)
        at, lane = query.number("at"), query.text("lane")
        store = await self._access.store()
        latest: Snapshot[Any] | None = await store.load_snapshot(info.run_id, lane_id=lane)
        found = latest if at is None else await _kept(store, info.run_id, lane, at, latest)
        state = None if found is None else _facts(found)
        if query.is_on(READABLE) and latest is not None and is_checkpoint(_facts(latest)):
            found, state = await _checkpoint(store, info.run_id, lane or "", at, found)
        return json_response(
            {
                "run_id": info.run_id,
                "lane_id": lane,
                "at": at,
                "offset": 0 if found is None else found.offset,
                "revision": 0 if found is None else found.revision,
                "state": state,
            }
        )

    async def snapshots(self, request: Request) -> Response:
        """The snapshots that are kept of a run, or of one of its lanes: the highest offset first."""
        query = Query(request, SNAPSHOTS)
        info = await self._access.run(request)
        lane, limit = query.text("lane"), query.number("limit", least=1, most=_MOST_SNAPSHOTS) or _SNAPSHOTS
        store = await self._access.store()
        kept: list[SnapshotInfo] = await store.kept_snapshots(info.run_id, lane_id=lane)
        before = query.number("before")
        found = [one._asdict() for one in kept if before is None or one.offset < before]
        following = query.with_other(before=found[limit - 1]["offset"]) if len(found) > limit else None
        found = found[:limit]
        return json_response({"run_id": info.run_id, "lane_id": lane, "snapshots": found, "next": following})


async def _kept(
    store: Any, run_id: str, lane: str | None, at: int, latest: Snapshot[Any] | None
) -> Snapshot[Any] | None:
    """The newest snapshot that covers no event after an offset, of those that are kept."""
    if latest is None or latest.offset <= at:
        return latest
    if not hasattr(store, "snapshot_at"):
        return None
    kept: Snapshot[Any] | None = await store.snapshot_at(run_id, at, lane_id=lane)
    return kept


async def _checkpoint(
    store: Any, run_id: str, lane: str, at: int | None, kept: Snapshot[Any] | None
) -> tuple[Snapshot[Any] | None, Any]:
    """The checkpoint of a lane as people read it, at an offset as its events say, and what it asks."""
    last = LastCheckpoint(lane)
    before = None if at is None else at + 1
    items = store.read(run_id, before=before, limit=_SCANNED, reverse=True, on_corrupt="skip")
    with suppress(EventsArchived):  # what was found by then holds
        async with aclosing(items):
            async for item in items:
                if not last.take(item):
                    break
    found = kept
    if at is not None and last.saved is not None:
        with suppress(ConfigurationError, EventsArchived):  # what it was made of is erased, or has left Redis
            events = await store.read_at(run_id, value_offsets(last.saved))
            found = checkpoint_of(last.saved, events) or kept
    return (None, None) if found is None else (found, last.readable(_facts(found)))


def _facts(snapshot: Snapshot[Any]) -> Any:
    """A state as plain values: as it is stored, with what its class does not know."""
    state = snapshot.state
    return dict(snapshot.stored) or (state if isinstance(state, dict) else state.to_dict())
