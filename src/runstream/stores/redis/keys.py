"""Every key name in Redis.

A namespace has a fixed number of partitions; a run belongs to ``crc32(run_id) % partitions``. All keys
of a partition carry the same hash tag, so whatever one script touches lies in one slot of a cluster.
In a run's keys, ``%`` and ``:`` of the run id are percent-encoded: otherwise run ``a:snapshot`` and a
lane ``events`` of run ``a`` would share a key.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from runstream.model.errors import ConfigurationError

__all__ = ["DEFAULT_PARTITIONS", "MAX_PARTITIONS", "Keys", "RunKeys"]

DEFAULT_PARTITIONS = 16
MAX_PARTITIONS = 4096

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class RunKeys:
    """The keys of one run and of the partition that it belongs to."""

    tag: str
    name: str

    @property
    def events(self) -> str:
        """Stream: one entry per event, id OFFSET-CHAIN, one field with the wire record."""
        return f"{self.tag}:run:{self.name}:events"

    @property
    def meta(self) -> str:
        """Hash: what is known of the run besides its history."""
        return f"{self.tag}:run:{self.name}:meta"

    @property
    def producers(self) -> str:
        """Hash: the last batch of each producer."""
        return f"{self.tag}:run:{self.name}:producers"

    @property
    def keys(self) -> str:
        """Hash: caller's key to offset."""
        return f"{self.tag}:run:{self.name}:keys"

    def snapshot(self, lane_id: str | None) -> str:
        """Hash: the latest snapshot of the run, or of one lane."""
        lane = "" if lane_id is None else f":{lane_id}"
        return f"{self.tag}:run:{self.name}:snapshot{lane}"


class Keys:
    """The key names of one namespace."""

    def __init__(self, namespace: str, partitions: int) -> None:
        check_namespace(namespace)
        if not 1 <= partitions <= MAX_PARTITIONS:
            raise ConfigurationError(f"partitions={partitions}: a namespace has 1 to {MAX_PARTITIONS}")
        self.namespace = namespace
        self.partitions = partitions
        self._tags = [f"{{{namespace}:{partition}}}" for partition in range(partitions)]

    def partition_of(self, run_id: str) -> int:
        """The partition that a run belongs to."""
        return zlib.crc32(run_id.encode()) % self.partitions

    def run(self, run_id: str) -> RunKeys:
        """The keys of a run."""
        name = run_id
        if "%" in run_id or ":" in run_id:
            name = run_id.replace("%", "%25").replace(":", "%3A")
        return RunKeys(self._tags[self.partition_of(run_id)], name)

    def config(self, partition: int) -> str:
        """Hash: how many partitions the namespace has, as this partition knows it."""
        return f"{self._tags[partition]}:config"

    def runs(self, partition: int) -> str:
        """Sorted set: run ids by last update, in microseconds of server time."""
        return f"{self._tags[partition]}:runs"

    def session(self, partition: int, session_id: str) -> str:
        """Sorted set: the run ids of a session by last update, in microseconds of server time."""
        return f"{self._tags[partition]}:session:{session_id}"

    def due(self, partition: int) -> str:
        """Sorted set: runs to archive by when they come due, in microseconds of server time."""
        return f"{self._tags[partition]}:due"

    def archives(self, partition: int) -> str:
        """Hash: the archives that the partition requires, UUID to location."""
        return f"{self._tags[partition]}:archives"

    def parked(self, partition: int) -> str:
        """Hash: runs that a drain has set aside, run id to reason."""
        return f"{self._tags[partition]}:parked"


def namespace_config(namespace: str) -> str:
    """Hash: the namespace's number of partitions."""
    check_namespace(namespace)
    return f"{{{namespace}}}:config"


def check_namespace(namespace: str) -> None:
    """Raise ConfigurationError for a namespace whose keys could be taken for others."""
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise ConfigurationError(
            f"namespace {namespace!r:.80}: use 1 to 64 of the letters a-z, A-Z, digits, '.', '_' and '-'"
        )
