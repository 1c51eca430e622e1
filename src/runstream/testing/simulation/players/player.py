"""A part in a game, and the process that plays it."""

from __future__ import annotations

from typing import Any, Self

from runstream.model.errors import ArchiveGap, ConfigurationError, EventsArchived, StoreUnavailable
from runstream.testing.simulation.scheduler import Process
from runstream.testing.simulation.world import World

__all__ = ["Player"]


class Player:
    """Takes part until its work is done. Who is killed is followed by a successor.

    Args:
        world: Where it does so.
        role: What it is to be, for its kind.
    """

    kind = "player"
    goes_on = True
    """Until it is told to end (``World.is_enough``): if it ends before, another takes its place."""

    def __init__(self, world: World, role: Any = None) -> None:
        self.world = world
        self.role = role
        self.prepare()
        self.process = Process(world.name(role if isinstance(role, str) else self.kind))
        self.has_ended = world.scheduler.spawn(self.process, self.process.name, self._run)

    def prepare(self) -> None:
        """Make what outlives its process."""

    def act(self) -> None:
        """What its process does."""
        raise NotImplementedError

    @property
    def is_done(self) -> bool:
        """Whether nothing more is to be waited for before the troubles end."""
        return self.goes_on

    def succeed(self) -> Self:
        """Let another process take its place."""
        return type(self)(self.world, self.role)

    def _run(self) -> None:
        archives = self.world.archive_set
        as_of = archives.changes
        try:
            self.act()
        except StoreUnavailable:  # of an archive, as it opens: somebody starts another process
            pass
        except ConfigurationError:  # it is to be started with the archives of now
            if not (self.world.plan.archivists or archives.replaced):
                raise
        except (ArchiveGap, EventsArchived):  # likewise
            if not (archives.has_changed(as_of) or archives.replaced):
                raise
