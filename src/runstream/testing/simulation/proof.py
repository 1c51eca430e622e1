"""Looks at each settling and retiring whether what leaves Redis is in the archives, by the bytes they have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fakeredis

from runstream.operations.operation import Exchange
from runstream.stores.redis.scripts.script import script_of
from runstream.testing.judge import copies_in_archives, copy_in_stream

__all__ = ["ProofWatch"]

_ARCHIVES_KEY = {"settle": 3, "retire": 6}
"""By the script that trims: which of its keys names the archives that are required."""


class ProofWatch:
    """Notes as a fault what left Redis while an archive that was required then did not have it.

    Args:
        server: Has the data: whichever is the primary.
        directory: Where the archives lie.
    """

    def __init__(self, server: Any, directory: Path) -> None:
        self.faults: list[str] = []
        self.trimmed = 0
        self._server, self._directory = server, directory

    @property
    def _raw(self) -> Any:
        return fakeredis.FakeRedis(server=self._server.fake)

    @contextmanager
    def watching(self, exchange: Exchange) -> Iterator[None]:
        """Compare the streams that an exchange trims with what they were before it."""
        trims = []
        for command in exchange.commands:
            script = script_of(command)
            if script is not None and script.name in _ARCHIVES_KEY:
                keys, run_id = command[3 : 3 + int(command[2])], str(command[3 + int(command[2])])
                required = keys[_ARCHIVES_KEY[script.name]]
                trims.append((run_id, keys[0], required, copy_in_stream(self._raw, keys[0])))
        yield
        for run_id, stream, required, before in trims:
            self._compare(run_id, before.items() - copy_in_stream(self._raw, stream).items(), required)

    def _compare(self, run_id: str, gone: set[Any], required: str) -> None:
        if not gone:
            return
        self.trimmed += len(gone)
        copies = copies_in_archives(self._directory, run_id)
        names = {location.partition(b":")[0].decode() for location in self._raw.hvals(required)}
        if not names:
            self.faults.append(f"{len(gone)} entries of {run_id} were trimmed, and no archive is required")
        for name in sorted(names):
            if lacking := gone - copies[name].items():
                self.faults.append(f"{min(lacking)} of {run_id} was trimmed, and {name} does not have it")
