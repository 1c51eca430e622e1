"""A run in Redis and in two archives, and what changes one of the three behind its back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runstream.repair.verify import Verdict, verify_run
from runstream.stores.redis.namespace import namespace_of
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.checksums import forget_checksums
from tests.support.drain_tools import Hot, open_hot
from tests.support.random_runs import one_archive

KINDS = ("sqlite", "jsonl")


@dataclass
class World:
    """Run ``r`` in Redis, of which events 1 to 10 have left it, and in one archive of each kind."""

    backend: RedisBackend
    hot: Hot
    archives: list[Archive]

    @property
    def keys(self) -> Any:
        return namespace_of(self.hot).keys.run("r")

    @property
    def sqlite(self) -> Path:
        return Path(self.archives[0].location.partition(":")[2])

    @property
    def jsonl(self) -> Path:
        return Path(self.archives[1].location.partition(":")[2]) / "r"

    def verify(self, *, hot: bool = True, archives: str = "both") -> Verdict:
        chosen = {"both": [0, 1], "sqlite": [0], "jsonl": [1], "none": []}[archives]
        # opened anew: a store may know what it has written
        sinks = [one_archive(KINDS[at], self.sqlite.parent) for at in chosen]
        try:
            return verify_run("r", hot=open_hot(self.backend) if hot else None, sinks=sinks)
        finally:
            for sink in sinks:
                sink.close()


def open_archives_named(directory: Path) -> list[Archive]:
    return [one_archive(kind, directory) for kind in KINDS]


R = "run_id = 'r'"


def change(world: World, script: str) -> None:
    with closing(sqlite3.connect(world.sqlite)) as file:
        file.executescript(script)
    forget_checksums(world.sqlite)


STATES = {"another status", "another session", "a snapshot gone"}
