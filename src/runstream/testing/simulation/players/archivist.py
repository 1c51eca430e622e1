"""Operators who add archives and drop some, as players."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import permutations
from typing import Any

from runstream.model.errors import StoreUnavailable
from runstream.repair.required_archives import add_archive, drop_archive
from runstream.stores.redis.namespace import namespace_of
from runstream.testing.simulation.players.player import Player
from runstream.testing.simulation.world import World

__all__ = ["ArchivistPlayer", "mend"]

_PAUSE_SECONDS = (0.0, 0.05, 0.3)
_MOST_ARCHIVES = 3


class ArchivistPlayer(Player):
    """Adds an archive, a new one or one that was dropped, or drops one; then processes are started with those.

    Its role is the number of times that it does so; then it sees to it that the same ones stay required, since
    what it has sent may come late. A successor begins with what was begun.
    """

    kind = "archivist"

    @property
    def is_done(self) -> bool:
        """Whether it has done all that it will."""
        return not self.role and self.world.archive_set.changing is None

    def act(self) -> None:
        """Add and drop, once workers have said which archives are required."""
        world = self.world
        with world.opened(self.process) as hot:
            self._hot, self._namespace = hot, namespace_of(hot)
            while not all(self._required()):
                world.sleep(0.05)
            while not world.is_enough.is_set():
                changing = world.archive_set.changing or self._wrong() or self._chosen()
                if changing and not world.is_enough.is_set():
                    self._change(*changing)
                world.sleep(self.world.choices.one_of(_PAUSE_SECONDS))

    def _required(self) -> list[set[str]]:
        """The names of the archives that each partition requires."""
        required = self._until_done(self._namespace.required_archives)
        return [{location.rpartition("/")[2] for location in archives.values()} for archives in required]

    def _wrong(self) -> tuple[str, str] | None:
        """What is to be done so that each partition requires what processes open."""
        names = set(self.world.archive_set.names)
        for required in self._required():
            for name in sorted(required ^ names):
                return "add" if name in names else "drop", name
        return None

    def _chosen(self) -> tuple[str, str] | None:
        if not self.role:
            return None
        self.role -= 1
        archives = self.world.archive_set
        if len(archives.names) == _MOST_ARCHIVES:
            return "drop", self.world.choices.one_of(archives.names)
        number = len(archives.names) + len(archives.dropped) + 1
        return "add", self.world.choices.one_of([f"added{number}.db", f"added{number}", *archives.dropped])

    def _change(self, what: str, name: str) -> None:
        world = self.world
        with world.archive_set.change(what, name):
            world.scheduler.note(f"{what}s {name}")
            self._until_done(lambda: self._add(name) if what == "add" else self._drop(name))
            world.scheduler.note(f"has done so: {', '.join(world.archive_set.names)} were required before")

    def _add(self, name: str) -> None:
        source = self.world.choices.one_of([one for one in self.world.archive_set.names if one != name])
        with closing(self.world.archive(name)) as archive, closing(self.world.archive(source)) as copy_from:
            add_archive(self._hot, archive, copy_from)

    def _drop(self, name: str) -> None:
        place = f"/{name}"
        for required in self._namespace.required_archives():
            for uuid, location in required.items():
                if location.endswith(place):
                    drop_archive(self._hot, uuid)
                    return

    def _until_done(self, call: Callable[[], Any]) -> Any:
        while True:
            try:
                return call()
            except StoreUnavailable:
                self.world.sleep(0.05)


def mend(world: World) -> None:
    """Give each archive what it lacks and another one has, and let the runs be drained that were parked for it."""
    with world.at_work(world.scheduler.process) as (hot, archives):
        for archive, source in permutations(archives, 2):
            add_archive(hot, archive, source)
        namespace = namespace_of(hot)
        namespace.unpark(list(namespace.status().parked))
