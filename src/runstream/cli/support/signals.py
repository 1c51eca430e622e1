"""End a worker by a signal: in good order, or after a while by force.

Python runs a signal's handler between two steps of the main thread, and that thread may be in a call that does
not return for half a minute: to a file that is locked, to a server that hangs. So a thread of its own takes the
signals, from the pipe to which Python writes a signal's number at the very moment when it comes.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runstream.cli.support.exit_codes import ExitCode

__all__ = ["stopping_on_signals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAY_SECONDS = 1.0

_log = logging.getLogger("runstream.drain")


@contextmanager
def stopping_on_signals(grace_seconds: float) -> Iterator[threading.Event]:
    """An event that the first SIGTERM or SIGINT sets.

    This must be left within ``grace_seconds`` of that signal: else the process ends with exit code 3, and at a
    second signal it ends at once with 128 and the signal's number. Neither unwinds anything, so both are as safe
    as a kill, and no call that hangs can hold them up (a reader of stderr who does not read: the first by at most
    a second). Only the main thread may enter this.
    """
    stop = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # as Python wants it
    former_writer = signal.set_wakeup_fd(writer)
    former = {number: signal.signal(number, _leave_it_to_the_pipe) for number in _SIGNALS}
    watcher = threading.Thread(target=_watch, args=(reader, stop, grace_seconds), daemon=True)
    watcher.start()
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(former_writer)
        os.write(writer, bytes([0]))  # the number of no signal: it was left
        watcher.join()
        os.close(reader)
        os.close(writer)


def _leave_it_to_the_pipe(number: int, frame: Any) -> None:
    """Without a handler Python would end the process, or write nothing to the pipe."""


def _watch(reader: int, stop: threading.Event, grace_seconds: float) -> None:
    first = _next_signal(reader, None)
    if not first:
        return
    deadline = time.monotonic() + grace_seconds
    stop.set()
    name = signal.Signals(first).name
    _say(
        logging.INFO,
        f"{name}: finishes the batch in hand, within {grace_seconds:g} s; a second signal ends it at once",
    )
    second = _next_signal(reader, max(0.0, deadline - time.monotonic()))
    if second is None:
        _say(
            logging.ERROR,
            f"not ended within {grace_seconds:g} s of {name}, so it ends where it stands: nothing is lost, what is"
            " not settled the next worker does again",
        )
        os._exit(ExitCode.UNAVAILABLE)
    if second:
        os._exit(128 + second)


def _next_signal(reader: int, seconds: float | None) -> int | None:
    """The number of the next signal, 0 when all is left; None if neither has come in so many seconds."""
    ready, _, _ = select.select([reader], [], [], seconds)
    return os.read(reader, 1)[0] if ready else None


def _say(level: int, text: str) -> None:
    """Log it, and go on if that does not end: whoever should read stderr may be what hangs."""
    line = threading.Thread(target=_log.log, args=(level, text), daemon=True)
    line.start()
    line.join(_SAY_SECONDS)
