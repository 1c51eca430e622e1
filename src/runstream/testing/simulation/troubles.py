"""What befalls a server, and those who take part in a game through it."""

from __future__ import annotations

from contextlib import closing
from typing import Any, TypeVar

import fakeredis

from runstream.stores.redis.connection.slots import slot_of_key
from runstream.stores.redis.keys import hash_tag
from runstream.testing.simulation.node import State
from runstream.testing.simulation.world import World

__all__ = ["Troubles"]

T = TypeVar("T")

_EVICTED = (":producers", ":runs", ":due", ":retire", ":retired")
_MOST_WEIGHT = 20  # of no trouble, against 1 of each that the plan names


class Troubles:
    """Trouble that comes now and then: each public method is one, by whose name a plan asks for it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def begin(self) -> None:
        """Let there be a replica, where it is to take the server's place, and a disk, where it loses power."""
        if self._world.plan.loses:
            self._world.server.replicate()
        if "lose_power" in self._world.plan.troubles:
            self._world.disk.watch(self._world.directory / "archive")
        if "put_back" in self._world.plan.troubles:
            self._backed_up = self._one_of(*self._world.archive_set.names)
            with closing(self._world.archive(self._backed_up)) as archive:
                self._backed_up_id = archive.archive_id  # of a JSONL directory it is made as it is first asked for
            self.back_up()

    def befall(self) -> None:
        """Let one of those come that the plan names, or none."""
        world = self._world
        trouble = world.choices.among([_MOST_WEIGHT, *(1 for _ in world.plan.troubles)])
        if trouble:
            name = world.plan.troubles[trouble - 1]
            world.scheduler.note(name)
            getattr(self, name)()

    def restart(self) -> None:
        """The server knows no script any more."""
        self._world.server.restart()

    def leave(self) -> None:
        """The server cannot be reached for a while."""
        self._world.server.is_away = True
        self._world.scheduler.wait(self._one_of(0.02, 0.5, 20.0))
        self._world.server.is_away = False

    def leap(self) -> None:
        """Time passes in which nobody does anything."""
        clock = self._world.clock
        clock.pass_until(clock.monotonic() + self._one_of(1.0, 40.0, 3600.0))

    def step_clock(self) -> None:
        """The server's clock is set, forwards or back."""
        primary = self._world.server.primary
        primary.skew_seconds = self._one_of(0.0, -60.0, 60.0, -3600.0, 3600.0)
        self._world.scheduler.note(f"the server's clock is set to {primary.skew_seconds:+g} s")

    def move_slot(self) -> None:
        """A partition, or what there is one of in a namespace, comes to another server of the cluster."""
        cluster = self._world.cluster
        tags = sorted({hash_tag(name) for name in self._raw.scan_iter()})
        if tags:
            tag, address = self._one_of(*tags), self._one_of(*cluster.addresses)
            self._world.scheduler.note(f"{tag} lies at {address[0]} from now on")
            cluster.move(slot_of_key(tag), address)

    def replicate(self) -> None:
        """The replica is as the server is."""
        self._world.server.replicate()

    def fail_over(self) -> None:
        """The replica takes the server's place: what was written last is lost. So it is after some restarts."""
        server = self._world.server
        server.promote(self._lost())
        if self._world.choices.below(3):  # clients find it before it is promoted
            self._be_for_a_while(State.READ_ONLY)
        server.replicate()

    def split(self) -> None:
        """The replica takes the server's place, and that goes on for those who are connected to it."""
        server = self._world.server
        former = server.promote(self._lost(), is_split=True)
        server.primary.skew_seconds = self._one_of(0.0, -60.0, 60.0, -3600.0, 3600.0)
        server.replicate()
        self._world.scheduler.wait(self._one_of(0.05, 0.5, 3.0))
        former.is_gone = True

    def fill(self) -> None:
        """The server has no memory left for a while."""
        self._be_for_a_while(State.FULL)

    def refuse(self) -> None:
        """The server loads its data, is busy, or cannot persist, for a while."""
        states = (State.LOADING, State.BUSY, State.CANNOT_PERSIST)
        self._be_for_a_while(self._world.choices.one_of(states))

    def evict(self) -> None:
        """The server removes a key, with producers or runs that it has noted."""
        names = sorted(name for name in self._raw.scan_iter() if name.endswith(_EVICTED))
        if names:
            name = self._world.choices.one_of(names)
            self._world.scheduler.note(f"the server evicts {name}")
            self._world.server.primary.client().delete(name)

    def unindex(self) -> None:
        """An index of tags is not there, and its partition is one that an earlier version has made."""
        names = sorted(name for name in self._raw.scan_iter() if ":tag:" in name)
        if names:
            name = self._world.choices.one_of(names)
            self._world.scheduler.note(f"{name} is gone")
            client = self._world.server.primary.client()
            client.hdel(f"{hash_tag(name)}:config", "tagged")
            client.delete(name)

    def lose_power(self) -> None:
        """The machine of workers, followers and archives loses power."""
        self._world.disk.lose_power()

    def back_up(self) -> None:
        """Somebody makes a copy of one of the archives, always the same one."""
        with self._world.disk.at_one_moment():
            self._world.archive_set.back_up(self._backed_up)

    def put_back(self) -> None:
        """That archive is lost, and somebody puts the copy in its place, at once or later."""
        disk, archives, scheduler = self._world.disk, self._world.archive_set, self._world.scheduler
        if not self._is_required():  # who comes while it is away would make another one, and require that
            return
        with disk.at_one_moment():
            archives.remove(self._backed_up, scheduler.steps)
        try:
            if self._world.choices.below(2):
                scheduler.wait(self._one_of(0.02, 0.5, 3.0))
        finally:
            with disk.at_one_moment():
                archives.put_back(self._backed_up, scheduler.steps)

    def _is_required(self) -> bool:
        """Whether each partition requires the archive that is backed up."""
        raw = self._raw
        tags = {hash_tag(name) for name in raw.scan_iter() if name.endswith(":config")}
        of_partitions = [tag for tag in tags if ":" in tag]  # the namespace has a config of its own
        required = [raw.hexists(f"{tag}:archives", self._backed_up_id) for tag in of_partitions]
        return bool(required) and all(required)

    @property
    def _raw(self) -> Any:
        """What the server has, which is looked at without its knowing."""
        return fakeredis.FakeRedis(server=self._world.server.fake, decode_responses=True)

    def _be_for_a_while(self, state: State) -> None:
        node = self._world.server.primary
        self._world.scheduler.note(f"the server is {state.name.lower().replace('_', ' ')}")
        node.state = state
        self._world.scheduler.wait(self._one_of(0.05, 0.5, 3.0))
        node.state = None

    def _lost(self) -> int:
        """How many of the commands that wrote are lost, at most."""
        return (0, 1, 2, 5, 1_000_000)[self._world.choices.below(5)]

    def _one_of(self, *values: T) -> T:
        return self._world.choices.one_of(values)
