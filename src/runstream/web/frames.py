"""Server-sent events (WHATWG HTML, section 9.2): their text, and the response that carries them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from starlette.responses import Response, StreamingResponse

from runstream.codec.lossless_json import dump_json
from runstream.model.errors import StoreUnavailable
from runstream.web.problems import Refused, document

__all__ = ["EVENT_STREAM", "KEEP_ALIVE_SECONDS", "StreamLimit", "frame", "opening", "patiently", "text_frame"]

_log = logging.getLogger("runstream.web")

KEEP_ALIVE_SECONDS = 15.0
"""After so long without a frame a comment is sent: proxies close what is silent; who has gone is noticed."""

EVENT_STREAM = "text/event-stream"

_RETRY_MILLISECONDS = 1000
_AHEAD = 16
_END: Any = object()

_HEADERS = {
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",  # nginx would collect 4 kB before it passes any on
}


def frame(value: Any = None, *, name: str | None = None, position: str | None = None) -> bytes:
    """One server-sent event.

    Args:
        value: What it says, as JSON on one line; None: nothing, so that a browser notes the position alone.
        name: Its name; None: ``message``, as of the events of runs.
        position: What a browser that reconnects sends as ``Last-Event-ID``; "" is none; None leaves it as it is.
    """
    return text_frame(None if value is None else dump_json(value), position, name)


def text_frame(text: str | None, position: str | None = None, name: str | None = None) -> bytes:
    """The same, of a text without an end of line in it."""
    lines = [f"event: {name}"] if name is not None else []
    if position is not None:
        lines.append(f"id: {position}")
    lines.append(f"data: {text}" if text is not None else ":")
    return ("\n".join(lines) + "\n\n").encode()


def opening() -> bytes:
    """What a stream begins with: how long a browser waits before it reconnects."""
    return f"retry: {_RETRY_MILLISECONDS}\n\n".encode()


async def patiently(items: AsyncGenerator[Any, None], seconds: float) -> AsyncGenerator[Any, None]:
    """The items as they come, and None each time that none has come for so many seconds. It closes them.

    A task of its own reads them, a few ahead: a task for each item that is waited for would take longer than to
    read it. What raises there is raised here after what came before.
    """
    queue: asyncio.Queue[tuple[Any, Exception | None]] = asyncio.Queue(_AHEAD)

    async def read_ahead() -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    await queue.put((item, None))
        except Exception as error:  # noqa: BLE001 - it is raised where the items are taken
            await queue.put((_END, error))
        else:
            await queue.put((_END, None))

    reading = asyncio.create_task(read_ahead())
    try:
        while True:
            try:
                async with asyncio.timeout(seconds if queue.empty() else None):
                    item, error = await queue.get()
            except TimeoutError:
                yield None
                continue
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading


class StreamLimit:
    """How many streams an app gives at a time.

    Args:
        most: The limit.
        why: What to do where it is reached.
    """

    def __init__(self, most: int, why: str) -> None:
        self._free, self._why = most, why

    def check(self) -> None:
        """Raise Refused where no further one is given."""
        if self._free <= 0:
            raise Refused(503, self._why)

    def response(self, frames: AsyncGenerator[bytes, None], *, is_head: bool = False) -> Response:
        """The response that carries frames; at most one waits to be sent, whatever the client reads."""
        self.check()
        if is_head:
            return Response(headers=_HEADERS, media_type=EVENT_STREAM)
        return StreamingResponse(self._counted(frames), headers=_HEADERS, media_type=EVENT_STREAM)

    async def _counted(self, frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        self._free -= 1
        try:
            async with aclosing(frames):
                yield opening()
                async for one in frames:
                    yield one
        except StoreUnavailable:
            raise  # who connects anew may find it back
        except Exception:  # noqa: BLE001 - an application's events may raise anything
            # a browser would connect anew for ever, to the same
            _log.exception("a stream cannot go on")
            failure = Refused(500, "the stream cannot go on: the log of whoever operates it says why")
            yield frame(document(failure), name="problem")
        finally:
            self._free += 1
