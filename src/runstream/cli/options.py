"""Options that several commands have, and how they open the store that ``--url`` names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import typer

from runstream.connect import connect
from runstream.model.errors import ConfigurationError
from runstream.model.protocols import RunStore

__all__ = ["AsJson", "Url", "open_to_look"]

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

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the same facts as one JSON document, and nothing else on stdout.")
]

_PATH_SCHEMES = ("embedded", "sqlite", "jsonl")


def open_to_look(url: str | None) -> RunStore[Any, Any]:
    """The store at ``url`` (None: RUNSTREAM_URL), which must be there: a mistyped path is not created.

    Raises ConfigurationError for a path at which there is nothing, and what ``connect`` raises.
    """
    url = os.environ.get("RUNSTREAM_URL", "") if url is None else url
    scheme, _, rest = url.partition(":")
    path = unquote(rest.partition("?")[0])
    if scheme in _PATH_SCHEMES and path and not Path(path).exists():
        raise ConfigurationError(f"{scheme}:{path}: there is nothing at that path; check the URL")
    return connect(url)
