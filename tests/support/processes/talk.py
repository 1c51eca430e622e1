"""What a child of a test says to its parent, and how it waits for a word."""

from __future__ import annotations

import os
import sys


def wait_for_all() -> None:
    """Say that this process is ready, and wait until all are."""
    print("ready", flush=True)
    wait_for_word()


def wait_for_word() -> None:
    """Wait until the parent says anything; end if it is gone."""
    if not sys.stdin.readline():
        os._exit(1)
