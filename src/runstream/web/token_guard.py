"""A token for an app that is served alone: it stands in the URL that is printed, and then in a cookie."""

from __future__ import annotations

import hashlib
import secrets
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from runstream.web.headers import SafeHeaders
from runstream.web.problems import Refused, document, json_response

__all__ = ["guarded"]


def guarded(app: ASGIApp, token: str) -> ASGIApp:
    """The app for those alone who have a token.

    It is accepted as ``Authorization: Bearer TOKEN``, as ``?token=TOKEN``, and as the cookie that a browser gets
    that opens a page with it: its address has no token then.

    Args:
        app: The app.
        token: The token.
    """
    return SafeHeaders(_TokenGuard(app, token))


class _TokenGuard:
    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()
        # cookies know no port: several apps of one host have each a cookie of its own
        self._cookie = f"runstream-{hashlib.sha256(self._token).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        given = request.query_params.get("token")
        if given is not None and self._is(given):
            rest = urlencode([one for one in parse_qsl(request.url.query, True) if one[0] != "token"])
            if "text/html" in request.headers.get("accept", ""):
                await self._enter(request.url.path, rest)(scope, receive, send)
                return
            scope = {**scope, "query_string": rest.encode()}
        elif not self._is_known(request):
            refused = Refused(401, "open the URL that was printed, or send its token: Authorization: Bearer TOKEN")
            response = json_response(document(refused), 401, **{"WWW-Authenticate": "Bearer"})
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_known(self, request: Request) -> bool:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        return (scheme.lower() == "bearer" and self._is(bearer)) or self._is(request.cookies.get(self._cookie, ""))

    def _is(self, given: str) -> bool:
        return secrets.compare_digest(given.encode("utf-8", "replace"), self._token)

    def _enter(self, path: str, query: str) -> Response:
        """Send a browser to the same place without the token, which it keeps where no script can read it."""
        # one slash: two would be another host
        response = RedirectResponse(f"/{path.lstrip('/')}" + (f"?{query}" if query else ""), 303)
        response.set_cookie(self._cookie, self._token.decode(), httponly=True, samesite="strict")
        return response
