"""Enlistment: a worker works as long as its archives are those that the namespace requires, and waits otherwise.

An archive is added without a pause: the workers that are to come are started before, with the archives that there
are to be, and wait; when those are required they begin, and the former ones wait until they are stopped.
"""

from __future__ import annotations

from collections.abc import Mapping

from runstream.drain.parts import WorkerParts
from runstream.drain.stats import ARCHIVES
from runstream.model.errors import ConfigurationError

__all__ = ["Enlistment", "OtherArchivesRequired"]


class OtherArchivesRequired(ConfigurationError):
    """The namespace requires an archive that the worker has not, or does not require one that it has."""


class Enlistment:
    """Finds out whether one worker has the archives that its partitions require.

    Args:
        parts: The worker's parts.
    """

    def __init__(self, parts: WorkerParts) -> None:
        self._parts = parts
        self._is_valid = False
        self._has_begun = False

    def expire(self) -> None:
        """Ask again before the worker goes on: what is required may be another set by now."""
        self._is_valid = False

    def check(self) -> None:
        """Ask Redis which archives are required, unless that is known. Where none is, the worker's own are now.

        Raises:
            OtherArchivesRequired: One is missing, or one too many: with that, one that has begun goes on.
            ConfigurationError: Both: they are not the archives of this namespace.
        """
        if self._is_valid:
            return
        parts = self._parts
        parts.namespace.set_aside_foreign_keys(parts.partitions)
        for partition, required in parts.namespace.enlist(parts.archives, parts.partitions).items():
            self._compare(partition, required)
        self._is_valid = self._has_begun = True
        parts.outages.over(ARCHIVES)

    def _compare(self, partition: int, required: Mapping[str, str]) -> None:
        own = self._parts.archives
        missing = {location for one, location in required.items() if one not in own}
        spare = set() if self._has_begun else {location for one, location in own.items() if one not in required}
        if not missing and not spare:
            return
        reason = (
            f"partition {partition} requires the archives {', '.join(sorted(required.values()))}; this worker has"
            f" {', '.join(sorted(own.values()))}: start it with the same ones, or change what is required with"
            " `runstream archives`"
        )
        raise ConfigurationError(reason) if missing and spare else OtherArchivesRequired(reason)
