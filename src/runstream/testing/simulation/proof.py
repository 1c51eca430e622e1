"""Looks at each settling and retiring whether what leaves Redis is in the archives, by the bytes they have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fakeredis

from runstream.operations.operation import Exchange
from runstream.stores.redis.scripts.script import script_of
from runstream.testing.copies import copy_in_archive, copy_in_stream, lacks

__all__ = ["ProofWatch"]

_ARCHIVES_KEY = {"settle": 3, "retire": 6}
"""By the script that trims: which of its keys names the archives that are required."""


class ProofWatch:
    """Notes as a fault what left Redis while an archive that was required then did not have it.

    Args:
        server: Has the data: whichever is the primary.
        replaced: The step at which the files of an archive were removed or replaced, by its name. What a worker
            has read back before that step, it may have trimmed after it.
    """

    def __init__(self, server: Any, replaced: Mapping[str, int]) -> None:
        self.faults: list[str] = []
        self.trimmed = 0
        self._server, self._replaced = server, replaced

    @property
    def _raw(self) -> Any:
        return fakeredis.FakeRedis(server=self._server.fake)

    @contextmanager
    def watching(self, exchange: Exchange, since: int) -> Iterator[None]:
        """Compare the streams that an exchange trims with what they were before it.

        Args:
            exchange: The exchange.
            since: The step at which its worker has last asked for runs to drain.
        """
        trims = []
        for command in exchange.commands:
            script = script_of(command)
            if script is not None and script.name in _ARCHIVES_KEY:
                keys, run_id = command[3 : 3 + int(command[2])], str(command[3 + int(command[2])])
                required = keys[_ARCHIVES_KEY[script.name]]
                trims.append((run_id, keys[0], required, copy_in_stream(self._raw, keys[0])))
        yield
        for run_id, stream, required, before in trims:
            gone = before.items() - copy_in_stream(self._raw, stream).items()
            self._compare(run_id, gone, required, since)

    def _compare(self, run_id: str, gone: set[Any], required: str, since: int) -> None:
        if not gone:
            return
        self.trimmed += len(gone)
        locations = sorted(self._raw.hvals(required))
        if not locations:
            self.faults.append(f"{len(gone)} entries of {run_id} were trimmed, and no archive is required")
        for location in locations:
            path = Path(location.partition(b":")[2].decode())
            if since <= self._replaced.get(path.name, -1):
                continue
            copy = copy_in_archive(path, run_id)
            if lacking := {place: mark for place, mark in gone if lacks(copy, place, mark)}:
                self.faults.append(
                    f"{min(lacking.items())} of {run_id} was trimmed, and {path.name} does not have it"
                )
