"""The names of all keys in Redis.

A namespace has a fixed number of partitions; a run belongs to ``crc32(run_id) % partitions``. All keys of a
partition carry the same hash tag, so that all that one script touches lies in one slot of a cluster. In a run's
keys, ``%`` and ``:`` of the run id are percent-encoded: otherwise run ``a:snapshot`` and lane ``events`` of run
``a`` would share a key.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection
from functools import lru_cache
from typing import Self

from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import glimpse, shown

__all__ = [
    "DEFAULT_PARTITIONS",
    "MAX_PARTITIONS",
    "Keys",
    "PartitionKeys",
    "RefilledKeys",
    "RunKeys",
    "TrialNamespace",
    "check_namespace",
    "expected_type",
    "hash_tag",
    "namespace_config",
    "run_of_key",
]

DEFAULT_PARTITIONS = 16
MAX_PARTITIONS = 4096

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OF_RUN = re.compile(r"\{[^}]*\}:run:([^:]*):")
_WHAT = re.compile(r"\{[^}]*\}:(?:run:[^:]*:)?([a-z]+)(?::|$)")
_TYPES = {
    **dict.fromkeys(("events", "rebuilt"), "stream"),
    **dict.fromkeys(
        (
            *(
                "archives",
                "config",
                "erasures",
                "forks",
                "keys",
                "meta",
                "parked",
                "producers",
                "snapshot",
                "tags",
            ),
            "workers",
        ),
        "hash",
    ),
    **dict.fromkeys(
        ("deleted", "due", "forking", "lanes", "leftovers", "retire", "retired", "runs", "session", "tag"), "zset"
    ),
}


class PartitionKeys:
    """The keys of one partition."""

    __slots__ = (
        "archives",
        "config",
        "deleted",
        "due",
        "forking",
        "leftovers",
        "parked",
        "retire",
        "retired",
        "rights",
        "runs",
        "tag",
    )

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.config = f"{tag}:config"
        """Hash: how many partitions the namespace has; each partition has a copy."""
        self.runs = f"{tag}:runs"
        """Sorted set: run ids by last update, in microseconds of server time, right to the second."""
        self.due = f"{tag}:due"
        """Sorted set: runs to archive, by when they come due, in microseconds of server time."""
        self.archives = f"{tag}:archives"
        """Hash: the archives that the partition requires, UUID to location."""
        self.deleted = f"{tag}:deleted"
        """Sorted set: identities of runs deleted or given up lately, by time, in microseconds of server time."""
        self.parked = f"{tag}:parked"
        """Hash: parked runs, run id to reason."""
        self.retire = f"{tag}:retire"
        """Sorted set: ended runs that are all archived, by last update, in microseconds of server time."""
        self.retired = f"{tag}:retired"
        """Sorted set: retired runs, by when they were retired, in microseconds of server time."""
        self.leftovers = f"{tag}:leftovers"
        """Sorted set: runs that are retired or not there, of which something is left that may go from then on."""

        self.forking = f"{tag}:forking"
        """Sorted set: forks that are to be made, behind their parents, by when, in microseconds of server time."""
        self.rights = f"{tag}:rights"
        """No key: scripts that find out what may be called try it on this name; see rights.lua."""

    def session(self, session_id: str) -> str:
        """Sorted set: the run ids of a session by last update, as in ``runs``."""
        return f"{self.tag}:session:{session_id}"

    def index(self, tag: str) -> str:
        """Sorted set, in the order of its members: the runs that have a tag, each behind the tag's value."""
        return f"{self.tag}:tag:{_name_of(tag)}"


class RunKeys:
    """The keys of one run, and those of its partition."""

    __slots__ = (
        "erasures",
        "events",
        "forks",
        "keys",
        "lanes",
        "meta",
        "of_append",
        "partition",
        "producers",
        "rebuilt",
        "run_id",
        "run_snapshot",
        "tags",
    )

    def __init__(self, partition: PartitionKeys, run_id: str) -> None:
        run = f"{partition.tag}:run:{_name_of(run_id)}"
        self.run_id = run_id
        self.partition = partition
        self.events = f"{run}:events"
        """Stream: one entry per event, id OFFSET-CHAIN, one field with the wire record."""
        self.meta = f"{run}:meta"
        """Hash: the run's start, last cursor, archived mark, status, lanes, snapshots, leases and times."""
        self.producers = f"{run}:producers"
        """Hash: the last batch of each producer."""
        self.keys = f"{run}:keys"
        """Hash: caller's key to the cursor of the event that has it."""
        self.forks = f"{run}:forks"
        """Hash: the runs that were forked from it, or are about to be; see fork_intent.lua."""
        self.lanes = f"{run}:lanes"
        """Sorted set, where meta has many fields: those that a worker has to look at; see settle.lua."""
        self.erasures = f"{run}:erasures"
        """Hash: what was to be erased, by number, and what is done of it; see erase.lua."""
        self.rebuilt = f"{run}:rebuilt"
        """Stream: the events anew, as far as they are copied, without what was erased. It expires."""
        self.run_snapshot = f"{run}:snapshot"
        """Hash: the latest snapshot of the run."""
        self.tags = f"{run}:tags"
        """Hash: the value of each of the run's tags by name, and under '' the version of them all."""
        self.of_append = (
            self.events,
            self.meta,
            self.producers,
            partition.runs,
            partition.due,
            partition.config,
            partition.deleted,
        )
        """The keys that every append needs, in the order of the append script's KEYS."""

    def snapshot(self, lane_id: str | None) -> str:
        """Hash: the latest snapshot of the run, or of one lane."""
        return self.run_snapshot if lane_id is None else f"{self.run_snapshot}:{lane_id}"


class RefilledKeys:
    """The keys of a history that is refilled beside its run, to replace the run's own. They expire."""

    __slots__ = ("_name", "events", "keys")

    def __init__(self, run: RunKeys, token: str) -> None:
        self._name = f"{run.meta.removesuffix('meta')}refilled:{token}"
        self.events = f"{self._name}:events"
        self.keys = f"{self._name}:keys"

    def snapshot(self, lane_id: str | None) -> str:
        """Hash: the snapshot of the run, or of one lane."""
        return f"{self._name}:snapshot" + ("" if lane_id is None else f":{lane_id}")


class Keys:
    """The key names of one namespace.

    Args:
        namespace: The namespace's name.
        partitions: Its number of partitions.

    Raises:
        ConfigurationError: There can be no such namespace, or not with so many partitions.
    """

    def __init__(self, namespace: str, partitions: int) -> None:
        check_namespace(namespace)
        if not 1 <= partitions <= MAX_PARTITIONS:
            raise ConfigurationError(f"partitions={partitions}: a namespace has 1 to {MAX_PARTITIONS}")
        self.namespace = namespace
        self.workers = f"{{{namespace}}}:workers"
        """Hash: the drain workers, name to the report of each on itself, as JSON."""
        self.partitions = [PartitionKeys(f"{{{namespace}:{number}}}") for number in range(partitions)]
        # an append needs them all, and one run is appended to many times
        self.run = lru_cache(maxsize=4096)(self._run)
        """The keys of a run, by its id."""

    def numbered(self, only: Collection[int] | None = None) -> dict[int, PartitionKeys]:
        """The partitions by number.

        Args:
            only: The numbers of those that are wanted; None: all.

        Raises:
            ConfigurationError: A number is none of a partition's, or there are none.
        """
        count = len(self.partitions)
        if only is None:
            return dict(enumerate(self.partitions))
        for number in only:
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < count:
                raise ConfigurationError(
                    f"partition {shown(number)} is none of this namespace's: they are numbered 0 to {count - 1}"
                )
        if not only:
            raise ConfigurationError("the list of partitions is empty: name some, or leave it out for all")
        return {number: self.partitions[number] for number in only}

    def _run(self, run_id: str) -> RunKeys:
        return RunKeys(self.partitions[zlib.crc32(run_id.encode()) % len(self.partitions)], run_id)


def _name_of(run_id: str) -> str:
    """The name of a run, or of a tag, in its keys."""
    return run_id.replace("%", "%25").replace(":", "%3A") if "%" in run_id or ":" in run_id else run_id


def hash_tag(key: str) -> str:
    """What all keys of a partition begin with, and no others do."""
    return key[: key.index("}") + 1]


def run_of_key(key: str) -> str | None:
    """The run whose key this is; None for a key of a partition, or of somebody else."""
    found = _OF_RUN.match(key)
    return None if found is None else found[1].replace("%3A", ":").replace("%25", "%")


def expected_type(key: str) -> str | None:
    """The type that the server must give for a key of these names; None for the key of somebody else."""
    what = _WHAT.match(key)
    return None if what is None else _TYPES.get(what[1])


def namespace_config(namespace: str) -> str:
    """The key of a hash with the namespace's number of partitions."""
    check_namespace(namespace)
    return f"{{{namespace}}}:config"


class TrialNamespace(str):
    """A namespace for a trial, whose keys are taken for none of another one's, and may be used by whose keys are.

    Its name, which no other namespace can have, stands where the keys of the namespace have a partition's number.

    Args:
        beside: The namespace.
        token: What makes it another one each time; "": what the names of all begin with.
    """

    __slots__ = ()

    def __new__(cls, beside: str, token: str) -> Self:
        """Name it. Raises ConfigurationError where there can be no such namespace beside it."""
        check_namespace(beside)
        return super().__new__(cls, f"{beside}:doctor-{token}")


def check_namespace(namespace: str) -> None:
    """Raise ConfigurationError for a namespace whose keys could be taken for others."""
    if isinstance(namespace, TrialNamespace):
        return
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise ConfigurationError(
            f"namespace {glimpse(namespace)}: use 1 to 64 of the letters a-z, A-Z, digits, '.', '_' and '-'"
        )
