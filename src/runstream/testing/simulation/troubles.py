"""What befalls a server, and those who take part in a game through it."""

from __future__ import annotations

from runstream.testing.simulation.node import State
from runstream.testing.simulation.world import World

__all__ = ["Troubles"]

_MOST_WEIGHT = 20  # of no trouble, against 1 of each that the plan names


class Troubles:
    """Trouble that comes now and then: each public method is one, by whose name a plan asks for it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def begin(self) -> None:
        """Let there be a replica, where it is to take the server's place, and a disk, where it loses power."""
        if {"fail_over", "split"} & set(self._world.plan.troubles):
            self._world.server.replicate()
        if "lose_power" in self._world.plan.troubles:
            self._world.disk.watch(self._world.directory / "archive")

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
        self._world.server.primary.skew_seconds = self._one_of(0.0, -60.0, 60.0, -3600.0, 3600.0)

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
        self._be_for_a_while(states[self._world.choices.below(len(states))])

    def lose_power(self) -> None:
        """The machine of workers, followers and archives loses power."""
        self._world.disk.lose_power()

    def _be_for_a_while(self, state: State) -> None:
        node = self._world.server.primary
        self._world.scheduler.note(f"the server is {state.name.lower().replace('_', ' ')}")
        node.state = state
        self._world.scheduler.wait(self._one_of(0.05, 0.5, 3.0))
        node.state = None

    def _lost(self) -> int:
        """How many of the commands that wrote are lost, at most."""
        return (0, 1, 2, 5, 1_000_000)[self._world.choices.below(5)]

    def _one_of(self, *values: float) -> float:
        return values[self._world.choices.below(len(values))]
