"""A run as a file: the lines that ``runstream export`` writes, as they are read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from runstream.history.exported import Export, json_lines
from runstream.history.merged import MergedRun
from runstream.web.access import Access
from runstream.web.path_ids import path_id
from runstream.web.problems import Refused
from runstream.web.queries import Parameter, Query

__all__ = ["EXPORT", "JSON_LINES", "Exporting"]

JSON_LINES = "application/x-ndjson"

_SKIP = Parameter("skip_corrupt", "true: what does not read is left out; else the file breaks off there.")

EXPORT = (_SKIP,)

_Lines: TypeAlias = Generator[str, None, None]

_AT_ONCE = 4
_PART_CHARACTERS = 256 * 1024
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Exporting:
    """The endpoint that gives a run as a file.

    Args:
        access: The runs, for those who may see them.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._free = _AT_ONCE

    async def export(self, request: Request) -> Response:
        """All events of a run as JSON lines, lossless, as `runstream export` writes them."""
        skip = Query(request, EXPORT).is_on(_SKIP)
        info = await self._access.run(request)
        name = info.run_id if _PLAIN_NAME.fullmatch(info.run_id) else path_id(info.run_id)[:100]
        headers = {"Content-Disposition": f'attachment; filename="{name}.jsonl"'}
        if request.method == "HEAD":
            return Response(headers=headers, media_type=JSON_LINES)
        if self._free <= 0:
            raise Refused(503, "as many runs as this app gives are on their way into files: try again later")
        thread = ThreadPoolExecutor(1, thread_name_prefix="runstream-export")
        store = await self._access.store_in_thread()
        try:
            merged = await asyncio.get_running_loop().run_in_executor(thread, MergedRun.load, store, info.run_id)
            if merged is None:
                raise Refused(501, "this store keeps no history that is exported: ask for the events of the run")
        except BaseException:
            thread.shutdown(wait=False)
            raise
        lines = json_lines(Export(merged, skip=skip))
        return StreamingResponse(self._parts(thread, lines), headers=headers, media_type=JSON_LINES)

    async def _parts(self, thread: ThreadPoolExecutor, lines: _Lines) -> AsyncGenerator[bytes, None]:
        """The lines, some at a time, each made when what came before has been sent."""
        self._free -= 1
        try:
            while part := await asyncio.get_running_loop().run_in_executor(thread, _some_of, lines):
                yield part
        finally:
            self._free += 1
            thread.submit(lines.close)  # in the thread that has opened what it reads
            thread.shutdown(wait=False)


def _some_of(lines: Iterator[str]) -> bytes:
    """The next lines, as many as make a part; none at the end."""
    found: list[str] = []
    size = 0
    for line in lines:
        found.append(line)
        size += len(line)
        if size >= _PART_CHARACTERS:
            break
    return "".join(found).encode()
