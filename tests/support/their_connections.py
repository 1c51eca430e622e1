"""Close the connections of purpose-agent's SQLite store, which closes none: from 3.13 on Python warns of each."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import suppress
from functools import partial
from types import SimpleNamespace

__all__ = ["close_theirs"]


class _Closed(sqlite3.Connection):
    """Closed where its ``with`` ends."""

    def __exit__(self, *error: object) -> None:  # type: ignore[override]  # it never swallows one
        super().__exit__(*error)  # type: ignore[arg-type]
        self.close()


def close_theirs() -> None:
    """Let each of them be closed where its ``with`` ends, as all of them have one."""
    if sys.version_info >= (3, 13):
        with suppress(ImportError):
            from purpose_agent.runtime import checkpoint  # noqa: PLC0415 - most tests of other Pythons need it not

            vars(checkpoint)["sqlite3"] = SimpleNamespace(connect=partial(sqlite3.connect, factory=_Closed))
