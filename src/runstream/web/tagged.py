"""Documents with a tag of their content, by which who has one is told that it is the newest (RFC 9110, 13.1.2)."""

from __future__ import annotations

import hashlib

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["Tagged"]


class Tagged:
    """A document.

    Args:
        content: Its bytes.
        media_type: Of which type it is.
        caching: What is said of keeping it.
    """

    def __init__(self, content: bytes, media_type: str, caching: str = "no-cache") -> None:
        self._content, self._media_type = content, media_type
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self._tag, self._headers = tag, {"ETag": tag, "Cache-Control": caching}

    def response(self, request: Request) -> Response:
        """The document; for who has it already, which is asked each time, that alone."""
        had = (one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(","))
        if self._tag in had:
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, headers=self._headers, media_type=self._media_type)
