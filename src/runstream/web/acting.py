"""What people do with runs: answer, cancel, fork. It is there where the app is given it, for whom it allows."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runstream.codec.json_facts import event_facts
from runstream.model.errors import DurabilityNotReached
from runstream.operations.filters import payload_of
from runstream.operations.operation import carried_result
from runstream.web.access import Access
from runstream.web.problems import Refused, json_response
from runstream.web.reading import facts_of

__all__ = ["Acting"]

_MOST_BYTES = 2**20

_log = logging.getLogger("runstream.web")


class Acting:
    """The endpoints that act.

    Args:
        access: The runs, for those who may do something with them.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

    async def answer(self, request: Request) -> Response:
        """Answer the question that a run waits with; where it was answered before, that answer holds."""
        info = await self._access.run_to(request, "answer")
        body = await _body(request, {"answer": object, "lane_id": str, "question_id": str}, "answer")
        store = await self._access.store()
        recorded, told = await _settled(
            store.answer(
                info.run_id, body["answer"], lane_id=body.get("lane_id"), question_id=body.get("question_id")
            )
        )
        holds = payload_of(recorded.event).get("answer") == body["answer"]
        return json_response({"run_id": info.run_id, "holds": holds, "event": event_facts(recorded), **told})

    async def cancel(self, request: Request) -> Response:
        """Ask a run to stop: its agent is told at its next event, or where it waits."""
        info = await self._access.run_to(request, "cancel")
        body = await _body(request, {"reason": str})
        store = await self._access.store()
        recorded, told = await _settled(store.request_cancel(info.run_id, body.get("reason") or ""))
        return json_response({"run_id": info.run_id, "holds": True, "event": event_facts(recorded), **told})

    async def fork(self, request: Request) -> Response:
        """Make a run that shares this one's history up to an offset, and goes on by itself."""
        info = await self._access.run_to(request, "fork")
        body = await _body(request, {"run_id": str, "at": int, "tags": dict}, "run_id")
        store = await self._access.store()
        made, told = await _settled(
            store.fork(info.run_id, body["run_id"], at=body.get("at"), tags=body.get("tags"))
        )
        (facts,) = await facts_of(self._access, request, made)
        return json_response({**facts, **told})


async def _settled(write: Awaitable[Any]) -> tuple[Any, Mapping[str, Any]]:
    """What a write returned, and what is told beside it: it is done too where it is not as durable."""
    try:
        return await write, {}
    except DurabilityNotReached as error:
        _log.error("%s: %s", type(error).__name__, error)
        return carried_result(error), {"durability": {"wanted": error.wanted, "reached": error.reached}}


class _Nothing:
    """The type of a field that there is not."""


async def _body(request: Request, known: dict[str, type[Any]], needed: str | None = None) -> dict[str, Any]:
    """The document of a request.

    Args:
        request: The request.
        known: The fields that there are, each with its type; None may stand for each but the needed one.
        needed: The field that there has to be.

    Raises:
        Refused: It is something else, or too large.
    """
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > _MOST_BYTES:
            raise Refused(413, f"send at most {_MOST_BYTES} bytes")
    try:
        body = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "that is no JSON") from error
    if not isinstance(body, dict) or (needed is not None and needed not in body):
        raise Refused(400, f"send a JSON object with {needed or ', '.join(known)}")
    for name, value in body.items():
        kind = known.get(name, _Nothing)
        is_kind = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
        if not is_kind and (value is not None or kind is _Nothing or name == needed):
            what = f"there are {', '.join(known)}, of the types that /openapi.json names"
            raise Refused(400, f"{name!r:.80}: {what}")
    return body


def _no_number(text: str) -> Any:
    raise ValueError(text)
