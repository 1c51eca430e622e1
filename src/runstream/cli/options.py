"""Options that several commands have, and how they open the store that ``--url`` names."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import typer

from runstream.connect import connect
from runstream.model.errors import ConfigurationError
from runstream.model.protocols import RunStore

__all__ = ["AsJson", "EndWithParent", "OfArchive", "Url", "ending_with_parent", "open_to_look"]

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="RUNSTREAM_URL",
        help="The store: redis://, rediss://, unix://, embedded:DIR, sqlite:PATH or jsonl:DIR;"
        " options may stand in its query (?namespace=dev).",
        show_default=False,
    ),
]

OfArchive = Annotated[
    str | None,
    typer.Option(
        "--archive",
        help="The archive that a drain worker writes from that server, sqlite:PATH or jsonl:DIR: what has left"
        " Redis is read there.",
        show_default=False,
    ),
]

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the same facts as one JSON document, and nothing else on stdout.")
]

EndWithParent = Annotated[
    bool,
    typer.Option("--end-with-parent", hidden=True, help="End as with SIGTERM when stdin, a pipe, is closed."),
]

_PATH_SCHEMES = ("embedded", "sqlite", "jsonl")


def open_to_look(url: str | None, archive: str | None = None) -> RunStore[Any, Any]:
    """The store at ``url`` (None: RUNSTREAM_URL), which must be there: a mistyped path is not created.

    With ``archive``, which must be there too, it is the tiered store. Raises ConfigurationError for a path at
    which there is nothing, and what ``connect`` raises.
    """
    url = os.environ.get("RUNSTREAM_URL", "") if url is None else url
    for each in (url, archive or ""):
        scheme, _, rest = each.partition(":")
        path = unquote(rest.partition("?")[0])
        if scheme in _PATH_SCHEMES and path and not Path(path).exists():
            raise ConfigurationError(f"{scheme}:{path}: there is nothing at that path; check the URL")
    return connect(url, archive=archive)


@contextmanager
def ending_with_parent(is_asked: bool) -> Iterator[None]:
    """Send this process SIGTERM when its stdin is closed, if that is asked for.

    For a child whose stdin is a pipe that its parent holds and writes nothing to: the kernel closes it when the
    parent ends, even by SIGKILL. SIGTERM raises SystemExit here, unless there is a handler for it already.
    """
    if not is_asked:
        yield
        return

    def watch() -> None:
        os.read(0, 1)  # not sys.stdin: its lock would be held at exit
        os.kill(os.getpid(), signal.SIGTERM)

    former = signal.getsignal(signal.SIGTERM)
    if former is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
