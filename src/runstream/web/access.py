"""Who may do what: the application's ``authorize``, asked of each run, and the origin of what acts."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Literal, TypeAlias, get_args

from starlette.requests import Request

from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import shown
from runstream.model.results import RunInfo
from runstream.web.opened import OpenedStore
from runstream.web.path_ids import run_id_in
from runstream.web.problems import Refused

__all__ = ["Access", "Action", "Authorize", "parse_actions"]

Action: TypeAlias = Literal["read", "answer", "cancel", "fork"]
"""What somebody wants with a run. The first is always there, the others where the app is given them."""

Authorize: TypeAlias = Callable[[Request, Action, RunInfo], bool | Awaitable[bool]]
"""Whether the sender of a request may do that with a run."""

_ACTING: frozenset[str] = frozenset(get_args(Action)) - {"read"}


def parse_actions(actions: Collection[str], authorize: Authorize | None) -> frozenset[str]:
    """What an app lets people do.

    Raises:
        ConfigurationError: There is no such action, or nobody is asked who may.
    """
    found = frozenset((actions,) if isinstance(actions, str) else actions)
    if not found <= _ACTING:
        raise ConfigurationError(f"actions={shown(actions)}: there are {', '.join(sorted(_ACTING))}")
    if found and authorize is None:
        raise ConfigurationError("actions= needs authorize=: who may act on which run")
    return found


class Access:
    """The runs of a store, for those who may see them.

    Args:
        opened: The store.
        authorize: Asked before anything is told of a run, or done with it; None: everybody reads everything.
        origins: The origins that may act beside the app's own, as ``https://example.org``.
    """

    def __init__(
        self, opened: OpenedStore, authorize: Authorize | None = None, origins: Collection[str] = ()
    ) -> None:
        self._opened = opened
        self._authorize = authorize
        self._origins = frozenset(origins)
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let some work go on beside the answer to a request, until it ends, or the app is closed."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End what goes on, and close what was opened here."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._opened.close()

    async def store(self) -> Any:
        """The store."""
        return await self._opened.get()

    async def store_in_thread(self) -> Any:
        """The store as what reads histories in a thread takes it."""
        return await self._opened.in_thread()

    async def may(self, request: Request, action: Action, info: RunInfo) -> bool:
        """Whether the sender of a request may do that with a run."""
        if self._authorize is None:
            return True
        answer = self._authorize(request, action, info)
        return bool(await answer if inspect.isawaitable(answer) else answer)

    async def readable(self, request: Request, run_id: str) -> RunInfo | None:
        """What is known of a run; None for one that is not there, or that the sender may not read."""
        info: RunInfo | None = await (await self.store()).run_info(run_id)
        return info if info is not None and await self.may(request, "read", info) else None

    async def may_name(self, request: Request, run_id: str) -> bool:
        """Whether the sender of a request may know that there is such a run."""
        return self._authorize is None or await self.readable(request, run_id) is not None

    async def run(self, request: Request) -> RunInfo:
        """The run that the path names.

        Raises:
            Refused: It is not there, or the sender may not read it, which is told alike.
        """
        run_id = run_id_in(request.path_params["id"])
        info = await self.readable(request, run_id)
        if info is None:
            raise Refused(404, f"there is no run {run_id!r:.100}")
        return info

    async def run_to(self, request: Request, action: Action) -> RunInfo:
        """The run that the path names, for an action.

        Raises:
            Refused: The request is of another site, or its sender may not do that.
        """
        self._check_origin(request)
        info = await self.run(request)
        if not await self.may(request, action, info):
            raise Refused(403, f"you may read run {info.run_id!r:.100}, and not {action} it")
        return info

    def _check_origin(self, request: Request) -> None:
        """Refuse what a page of another site lets a browser send, with the cookies of this one."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "send application/json, which no form of another site can")
        origin = request.headers.get("origin")
        if origin is not None:
            host = request.headers.get("host", "")  # a proxy may speak TLS for the app
            own = {f"{request.url.scheme}://{host}", f"https://{host}"}
            allowed = origin in own or origin in self._origins
        else:
            allowed = request.headers.get("sec-fetch-site", "none") in {"none", "same-origin"}
        if not allowed:
            raise Refused(403, "the request comes from another origin: name it in origins= if it may act")
