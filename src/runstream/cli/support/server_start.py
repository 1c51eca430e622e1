"""Wait for a server that is not up yet, as at the start of a machine, where all begins at once."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from typing import Annotated

import typer

from runstream.cli.support.output import say
from runstream.connect import SERVER_SCHEMES, connect
from runstream.model.errors import StoreUnavailable

__all__ = ["START_SECONDS", "StartTimeout", "wait_for_server"]

START_SECONDS = 30.0
"""For how long a command waits for a server that is not up yet, unless it is told or waits for ever."""

StartTimeout = Annotated[
    float, typer.Option("--start-timeout", min=0.0, help="Seconds to wait for a server that is not up yet.")
]

_SHORTEST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


def wait_for_server(
    url: str | None,
    seconds: float,
    *,
    stop: threading.Event | None = None,
    tell: Callable[[str], None] = say,
) -> bool:
    """Wait until a store at this URL can be opened, and say so in one line if that is not at once.

    Args:
        url: The store; None: RUNSTREAM_URL. One that needs no server is not waited for.
        seconds: For how long to wait; infinite: for ever.
        stop: Ends the waiting when it is set.
        tell: Says the line.

    Returns:
        Whether it can be opened; False if the waiting was ended.

    Raises:
        StoreUnavailable: It could not be opened in that time.
        ConfigurationError: It cannot be opened, and waiting would not help.
    """
    url = os.environ.get("RUNSTREAM_URL", "") if url is None else url
    if url.partition(":")[0] not in SERVER_SCHEMES:
        return True
    stop = stop or threading.Event()
    deadline, length, is_said = time.monotonic() + seconds, _SHORTEST_PAUSE_SECONDS, False
    while True:
        try:
            connect(url, retry_seconds=0).close()
        except StoreUnavailable as error:
            if time.monotonic() + length > deadline:
                raise
            if not is_said:
                until = "until it is there" if math.isinf(seconds) else f"for at most {seconds:g} s"
                tell(f"{error.reason}; waits {until}")
                is_said = True
            if stop.wait(length):
                return False
            length = min(2 * length, _LONGEST_PAUSE_SECONDS)
        else:
            return True
