"""``runstream web``: runs in the browser, and over HTTP as JSON and as streams that are resumed."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Annotated, Any
from urllib.parse import quote

import typer

from runstream.cli.support.options import (
    EndWithParent,
    OfArchive,
    OfUpcasts,
    Url,
    ending_with_parent,
    open_existing,
    open_to_read,
)
from runstream.cli.support.output import say
from runstream.cli.support.server_start import START_SECONDS, StartTimeout, wait_for_server
from runstream.cli.support.upcasts import load_upcasts
from runstream.connect import connect_async
from runstream.model.errors import ConfigurationError
from runstream.stores.async_facade import AsyncStore
from runstream.stores.tiered.checkpointer import with_archive_to_come_async
from runstream.stores.tiered.late_archive import ArchiveToCome
from runstream.stores.urls import archive_beside

__all__ = ["EPILOG", "web"]

EPILOG = """Examples:

runstream web --url redis://localhost --archive sqlite:archive.db

runstream web --url embedded:./state --port 0 --allow answer --allow cancel

runstream web --url sqlite:runs.db --port 8080"""

_PORT = 8321
_ACTIONS = ("answer", "cancel", "fork")
_END_SECONDS = 1
"""For how long streams are given a chance to end by themselves: they would go on as long as their runs."""


def web(
    url: Url = None,
    archive: OfArchive = None,
    upcasts: OfUpcasts = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port; 0: one that is free.")] = _PORT,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ACTION",
            help="What may be done beside reading: answer, cancel or fork; may be repeated.",
            show_default="nothing",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="RUNSTREAM_WEB_TOKEN",
            help="The token that is asked for; the same for all replicas.",
            show_default="a random one",
        ),
    ] = None,
    start_timeout: StartTimeout = START_SECONDS,
    end_with_parent: EndWithParent = False,
) -> None:
    """Show runs in the browser, and serve them over HTTP: documents, and streams that go on where a reader was.

    The URL that is printed opens the page. It has a token; whoever has it reads all runs of the store, and does
    what --allow names. What else is served is told by /openapi.json. It speaks plain HTTP: to serve others than
    this machine, put a proxy with TLS in front. Any number of processes may serve the same runs, and a reader may
    go from one to another.
    """
    if token is not None and not (token.isascii() and token.isprintable() and len(token) >= 6):
        raise typer.BadParameter("pass 6 printable ASCII characters or more", param_hint="--token")
    if unknown := set(allow or ()).difference(_ACTIONS):
        raise typer.BadParameter(f"{unknown.pop()!r:.80}: there are {', '.join(_ACTIONS)}", param_hint="--allow")
    uvicorn, app, guarded = _load()
    token = token or secrets.token_urlsafe(24)
    wait_for_server(url, start_timeout)
    with open_to_read(url, archive, upcasts):  # so that what does not fit is told before anything listens
        pass
    with _listen(host, port) as listener, ending_with_parent(end_with_parent):
        say(f"serves {_address(host, listener)}/?token={quote(token, safe='')}; Ctrl-C ends it")
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn ends by them, and raises them again at its end
            signal.signal(number, lambda *_: None)
        opening = partial(_open, url, archive, upcasts)

        def make_app(store: AsyncStore[Any, Any]) -> Any:
            return guarded(app(store, authorize=lambda *_: True, actions=allow or ()), token)  # the token says who

        asyncio.run(_serve(uvicorn, opening, make_app, listener))


def _load() -> tuple[Any, Any, Any]:
    """What serves. Raises ConfigurationError where the extra is missing."""
    try:
        uvicorn = import_module("uvicorn")
        return uvicorn, import_module("runstream.web").app, import_module("runstream.web.token_guard").guarded
    except ImportError as error:
        raise ConfigurationError("this command needs uvicorn; run: pip install 'runstream[web]'") from error


async def _serve(
    uvicorn: Any,
    opening: Callable[[], Awaitable[AsyncStore[Any, Any]]],
    make_app: Callable[[Any], Any],
    listener: socket.socket,
) -> None:
    async with await opening() as store:
        config = uvicorn.Config(
            make_app(store), log_config=None, access_log=False, timeout_graceful_shutdown=_END_SECONDS
        )
        await uvicorn.Server(config).serve(sockets=[listener])


async def _open(url: str | None, archive: str | None, upcasts: str | None) -> AsyncStore[Any, Any]:
    """The store for asyncio; that of an embedded server reads the archive beside it, once there is one."""
    options: dict[str, Any] = {"state_type": dict}
    if upcasts is not None:
        options["upcasts"] = load_upcasts(upcasts)
    beside = None if url is None or archive is not None else archive_beside(url)
    if beside is None:
        opened: AsyncStore[Any, Any] = await connect_async(url, archive=archive, **options)
        return opened
    hot: Any = await connect_async(url, **options)
    open_it: Any = partial(open_existing, beside, None, upcasts)
    return with_archive_to_come_async(hot, ArchiveToCome(beside, open_it))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(f"cannot listen at {host} port {port}: {error}; see --host and --port") from error
    # its connections inherit it, and asyncio sets it only where it has made the listener itself: else a frame
    # waits until the reader's system has acknowledged the one before, 40 ms
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _address(host: str, listener: socket.socket) -> str:
    with suppress(ValueError):
        if ipaddress.ip_address(host).version == 6:
            host = f"[{host}]"
    return f"http://{host}:{listener.getsockname()[1]}"
