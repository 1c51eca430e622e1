"""Agents, in all forms that there are, as players."""

from __future__ import annotations

from typing import Self

from runstream.testing.agents import AGENTS
from runstream.testing.simulation.choices import Dice
from runstream.testing.simulation.players.player import Player
from runstream.testing.simulation.world import Diary

__all__ = ["AgentPlayer"]

_PATIENCE_SECONDS = (0.0, 0.05, 10.0)


class AgentPlayer(Player):
    """An agent of the form that its role names, which writes so often, and looks in the end what became of it."""

    goes_on = False

    def prepare(self) -> None:
        """Begin a diary."""
        self.diary = Diary()
        self.world.diaries.append(self.diary)

    def act(self) -> None:
        """Write, and settle once the troubles are over."""
        world, choices = self.world, self.world.choices
        patience = _PATIENCE_SECONDS[choices.below(len(_PATIENCE_SECONDS))]
        resend_lost = self.role == "resends"
        with world.opened(self.process, retry_seconds=patience, resend_lost=resend_lost) as store:
            dice = Dice(choices)
            agent = AGENTS[self.role](store, self.process.name, world.runs, self.diary, dice)  # type: ignore[arg-type] # as Random
            for _ in range(world.plan.turns):
                agent.take_turn()
            self.diary.is_done = True
            world.may_settle.wait()
            agent.settle()

    @property
    def is_done(self) -> bool:
        """Whether it has written all that it will."""
        return self.diary.is_done and not self.process.is_dead

    def succeed(self) -> Self:
        """Let another agent begin, and remember that this one was killed."""
        self.diary.was_killed = True
        return super().succeed()
