"""Who takes part in a game: each plays one part, in a process of its own."""

from __future__ import annotations

from runstream.testing.simulation.players.agent import AgentPlayer, LoopPlayer
from runstream.testing.simulation.players.archivist import ArchivistPlayer, mend
from runstream.testing.simulation.players.brancher import BrancherPlayer
from runstream.testing.simulation.players.follower import (
    AllFollowerPlayer,
    AsyncAllFollowerPlayer,
    AsyncFollowerPlayer,
    FollowerPlayer,
)
from runstream.testing.simulation.players.operator import OperatorPlayer
from runstream.testing.simulation.players.player import Player
from runstream.testing.simulation.players.reader import ReaderPlayer
from runstream.testing.simulation.players.resolver import ResolverPlayer
from runstream.testing.simulation.players.worker import WorkerPlayer
from runstream.testing.simulation.world import World

__all__ = ["Player", "mend", "players_of"]


def players_of(world: World) -> list[Player]:
    """Let all begin that the plan names."""
    plan = world.plan
    return [
        *(AgentPlayer(world, form) for form in plan.forms),
        *(LoopPlayer(world, forms) for forms in plan.loops),
        *(WorkerPlayer(world) for _ in range(plan.workers)),
        *(FollowerPlayer(world, number) for number in range(plan.followers)),
        *(AsyncFollowerPlayer(world, number) for number in range(plan.async_followers)),
        *(AllFollowerPlayer(world, number) for number in range(plan.all_followers)),
        *(AsyncAllFollowerPlayer(world, number) for number in range(plan.async_all_followers)),
        *(OperatorPlayer(world, number) for number in range(plan.operators)),
        *(BrancherPlayer(world, number) for number in range(plan.branchers)),
        *(ArchivistPlayer(world, plan.turns // 2) for _ in range(plan.archivists)),
        *(ResolverPlayer(world) for _ in range(plan.resolvers)),
        *(ReaderPlayer(world, number) for number in range(plan.readers)),
    ]
