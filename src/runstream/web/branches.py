"""Where a run comes from, and what was forked from it."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runstream.model.results import RunInfo
from runstream.operations.run_forks import Fork
from runstream.stores.redis.operations.worker.noted_forks import noted_forks
from runstream.web.access import Access
from runstream.web.path_ids import path_id
from runstream.web.problems import json_response
from runstream.web.queries import Query

__all__ = ["Branches"]

_MOST_ANCESTORS = 50
_MOST_FORKS = 200


class Branches:
    """The endpoint that tells it.

    Args:
        access: The runs, for those who may see them.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

    async def forks(self, request: Request) -> Response:
        """The runs that a run comes from, the nearest first, and those that were forked from it."""
        Query(request, ())
        info = await self._access.run(request)
        noted = await self._access.ask(partial(noted_forks, run_id=info.run_id)) or []
        held = await self._access.held_forks(info.run_id)
        forks = sorted({*noted, *held}, key=lambda fork: (fork.at, fork.run_id))
        seen = [one for fork in forks[:_MOST_FORKS] if (one := await self._fork(request, fork)) is not None]
        return json_response(
            {
                "run_id": info.run_id,
                "ancestors": await self._ancestors(request, info),
                "forks": seen,
                "more": len(forks) > _MOST_FORKS,
            }
        )

    async def _ancestors(self, request: Request, info: RunInfo) -> list[dict[str, Any]]:
        """Those that the sender may see: what lies behind one that he may not is not told."""
        found: list[dict[str, Any]] = []
        seen, at = {info.run_id}, info.parent
        while at is not None and at[0] not in seen and len(found) < _MOST_ANCESTORS:
            parent = await self._access.readable(request, at[0])
            if parent is None:
                break
            found.append(_facts(parent, at[1]))
            seen.add(at[0])
            at = parent.parent
        return found

    async def _fork(self, request: Request, fork: Fork) -> dict[str, Any] | None:
        info = await self._access.readable(request, fork.run_id)
        return None if info is None else _facts(info, fork.at)


def _facts(info: RunInfo, offset: int) -> dict[str, Any]:
    facts = {"run_id": info.run_id, "status": info.status, "last_offset": info.last_offset}
    return {"id": path_id(info.run_id), **facts, "offset": offset}
