"""Errors as problem documents (RFC 9457): one for each error of runstream, with its facts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from runstream.codec.lossless_json import dump_json
from runstream.model import errors

__all__ = [
    "LOST",
    "Refused",
    "document",
    "json_response",
    "on_error",
    "on_http_error",
    "status_of",
]

_log = logging.getLogger("runstream.web")

LOST = (errors.AcknowledgedWritesLost, errors.HistoryDiverged)
"""The errors of a position that the run's history does not have, or no more."""

_STATUSES: Mapping[type[Exception], int] = {
    errors.InvalidRunId: 404,
    errors.PayloadTooLarge: 413,
    errors.EncodingError: 400,
    errors.ConfigurationError: 400,
    errors.AcknowledgedWritesLost: 409,
    errors.HistoryDiverged: 409,
    errors.ConcurrencyConflict: 409,
    errors.LeaseHeld: 409,
    errors.LeaseLost: 409,
    errors.EventsArchived: 410,
    errors.TooManyHotEvents: 503,
    errors.StoreUnavailable: 503,
}

# the rest of an error's facts are bytes, contents, places of this machine, or runs that this reader may not know
_FACTS = frozenset(
    {
        *("run_id", "last_seen", "last_present", "offset", "first_hot", "expected", "actual"),
        *("path", "size", "limit", "found", "supported", "expires_in", "wanted", "reached"),
    }
)

_DETAILS: Mapping[type[Exception], str] = {
    errors.StoreUnavailable: "the store gave no answer: try again",
    errors.EventsArchived: "some of it has left this store, and this app reads no archive that has it",
    errors.ArchiveGap: "the archive lacks some of the run: whoever operates it is to look",
    errors.AcknowledgedWritesLost: "the server has lost events of the run: read it from its beginning",
    errors.HistoryDiverged: "the run has another history than that of the position: read it from its beginning",
    errors.CorruptRecordError: "a record does not read",
    errors.EventRefused: "an event or a state is none that this app can read",
    errors.UnsupportedVersion: "a newer version has written it than this app reads",
}
"""In place of an error's own words, which may name servers and files, and tell a program what to call next."""


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: The status of the answer.
        detail: What is wrong, and what to do.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def status_of(error: Exception) -> int:
    """The HTTP status that tells of an error of runstream."""
    if isinstance(error, Refused):
        return error.status
    return next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 500)


def document(error: Exception) -> dict[str, Any]:
    """The problem document of an error."""
    if isinstance(error, HTTPException):
        return _problem(error.status_code, "about:blank", HTTPStatus(error.status_code).phrase, error.detail)
    status = status_of(error)
    if isinstance(error, Refused):
        return _problem(status, "about:blank", HTTPStatus(status).phrase, str(error))
    name = type(error).__name__
    own = next((text for kind, text in _DETAILS.items() if isinstance(error, kind)), str(error))
    facts = {key: value for key, value in vars(error).items() if key in _FACTS}
    return {**facts, **_problem(status, f"urn:runstream:{name}", name, " ".join(own.split()))}


def _problem(status: int, kind: str, title: str, detail: str) -> dict[str, Any]:
    return {"type": kind, "title": title, "status": status, "detail": detail}


def json_response(value: Any, status: int = 200, **headers: str) -> Response:
    """A JSON document. Values that JSON has no type for are tagged as in the archive."""
    kind = "application/json" if status < 400 else "application/problem+json"
    return Response(dump_json(value), status, headers, media_type=kind)


async def on_error(_request: Request, error: Exception) -> Response:
    """The answer that tells of an error of runstream."""
    status = status_of(error)
    if status >= 500:
        _log.error("%s: %s", type(error).__name__, error)
    return json_response(document(error), status, **({"Retry-After": "2"} if status == 503 else {}))


async def on_http_error(_request: Request, error: Exception) -> Response:
    """The answer that tells of an error of Starlette's, or of the application's ``authorize``."""
    if not isinstance(error, HTTPException):
        raise error
    response = json_response(document(error), error.status_code)
    response.headers.update(error.headers or {})
    return response
