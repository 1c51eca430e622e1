"""The page that shows runs: its built files, which lie in the package.

Its source is in ``page/``; ``npm ci && npm run build`` there makes ``assets/`` anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runstream.web.tagged import Tagged

__all__ = ["page_routes"]

# what the machine says of the types of files may be anything
_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def page_routes() -> Sequence[Route]:
    """The routes of the page: ``/``, and the files that it names, relative to wherever the app is mounted."""
    return [Route("/" if name == "index.html" else f"/{name}", partial(_file, name)) for name in _TYPES]


async def _file(name: str, request: Request) -> Response:
    """A file of the page; a browser that has it asks each time, and is told that it has the newest."""
    return _read(name).response(request)


@cache
def _read(name: str) -> Tagged:
    return Tagged(files("runstream.web").joinpath("assets", name).read_bytes(), _TYPES[name])
