"""Enlistment: a worker works as long as its archives are those that the namespace requires, and waits otherwise.

An archive is added without a pause: the workers that are to come are started before, with the archives that there
are to be, and wait; when those are required they begin, and the former ones wait until they are stopped.
"""

from __future__ import annotations

from collections.abc import Mapping

from runstream.drain.parts import OtherArchivesRequired, WorkerParts
from runstream.drain.stats import ARCHIVES
from runstream.model.errors import ConfigurationError

__all__ = ["Enlistment"]


class Enlistment:
    """Finds out whether one worker has the archives that its partitions require.

    Args:
        parts: The worker's parts.
    """

    def __init__(self, parts: WorkerParts) -> None:
        self._parts = parts
        self._is_valid = False
        self._has_begun = False
        self._is_strict = True

    def expire(self, *, is_refused: bool = False) -> None:
        """Ask again before the worker goes on: other archives may be required by now.

        ``is_refused``: they are, and one too many has been found to be in the way.
        """
        self._is_valid = False
        self._is_strict |= is_refused

    def check(self) -> None:
        """Ask Redis which archives are required, unless that is known. Where none is, the worker's own are now.

        Raises:
            OtherArchivesRequired: One is missing, or one too many; as long as that is not in the way, a worker
                that has begun goes on.
            ConfigurationError: Both, from the start: they are not the archives of this namespace.
        """
        if self._is_valid:
            return
        parts = self._parts
        parts.namespace.set_aside_foreign_keys(parts.partitions)
        for partition, required in parts.namespace.enlist(parts.archives, parts.partitions).items():
            self._compare(partition, required)
        self._is_valid = self._has_begun = True
        self._is_strict = False
        parts.outages.over(ARCHIVES)

    def _compare(self, partition: int, required: Mapping[str, str]) -> None:
        own = self._parts.archives
        missing = {location for one, location in required.items() if one not in own}
        spare = {location for one, location in own.items() if one not in required} if self._is_strict else set()
        if not missing and not spare:
            return
        reason = (
            f"partition {partition} requires the archives {', '.join(sorted(required.values()))}; this worker has"
            f" {', '.join(sorted(own.values()))}: start it with the same ones, or change what is required with"
            " `runstream archives`"
        )
        if others := missing & {*own.values()}:
            reason += f"; what is at {', '.join(sorted(others))} now is another archive than was required there"
        is_mistaken = missing and spare and not self._has_begun
        raise ConfigurationError(reason) if is_mistaken else OtherArchivesRequired(reason)
