"""A game: agents, workers and followers at work on some runs, what befalls them, and the judgement in the end."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker.sweep import BEGINNING
from runstream.testing.simulation.choices import Choices
from runstream.testing.simulation.clock import in_place
from runstream.testing.simulation.plan import Finding, Plan
from runstream.testing.simulation.players import mend, players_of
from runstream.testing.simulation.scheduler import Process
from runstream.testing.simulation.troubles import Troubles
from runstream.testing.simulation.verdict import faults_of, untold_gaps
from runstream.testing.simulation.world import World

__all__ = ["Game", "play"]

_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of our own is made there
_SECONDS_BETWEEN_TROUBLES = 0.05
_STEPS_BETWEEN_LOOKS = 50


class Game:
    """A game in this world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._troubles = Troubles(world)
        self._calm_since = 0
        """The step at which the troubles ended."""

    def play(self) -> list[str]:
        """Play it to its end, or until something is trimmed that no archive has; what is wrong then."""
        faults = self._play()
        return self.world.proof.faults or faults

    def _play(self) -> list[str]:
        world, scheduler = self.world, self.world.scheduler
        with world.open(Process("the host"), partitions=2) as hot:
            hot.runs()
        for archive in world.archives():
            archive.close()
        self._troubles.begin()
        world.players += players_of(world)
        surroundings = Process("the world")
        scheduler.spawn(surroundings, "the world", self._go_round)
        if not self._comes_to(self._all_have_written):
            return ["the agents do not come to an end"]
        scheduler.kill(surroundings)
        world.be_calm()
        self._calm_since = scheduler.steps
        if world.plan.resolvers and not self._comes_to(self._all_is_drained):
            return [f"not all is resolved: {self._status()}"]
        world.may_settle.set()
        if not self._comes_to(self._all_have_settled):
            return ["the agents do not settle"]
        if not self._comes_to(self._all_is_drained):
            return [f"not all is drained: {self._status()}"]
        if world.archive_set.replaced and (faults := self._mend()):
            return faults
        if world.server.losses and (faults := self._try_parked_again()):
            return faults
        world.were_parked.update(self._status().parked)
        if not self._comes_to(self._all_is_followed):
            return ["followers do not come to the end of what there is"]
        world.is_enough.set()
        if not self._comes_to(self._all_have_ended):
            return ["workers and followers do not come to an end"]
        return list(faults_of(world))

    def _comes_to(self, is_so: Callable[[], bool]) -> bool:
        """Go on until it is so; False if it does not come to that within the steps that there may be."""
        world, scheduler = self.world, self.world.scheduler
        proof, plan = world.proof, world.plan
        upto = self._calm_since + (plan.most_calm_steps if world.server.is_calm else plan.most_steps)
        return scheduler.run(lambda: bool(proof.faults) or is_so(), upto - scheduler.steps) and not proof.faults

    def _mend(self) -> list[str]:
        """Give archives that were put back what they lack; what is wrong before and after that."""
        world, scheduler = self.world, self.world.scheduler
        if faults := self._try_parked_again() or list(untold_gaps(world)):
            return faults
        has_ended = scheduler.spawn(Process("the operator"), "the operator", partial(mend, world))
        if not self._comes_to(lambda: has_ended() and self._all_is_drained()):
            return [f"not all is drained once archives are mended: {self._status()}"]
        for _ in range(world.plan.workers):  # each may find only now that a file was replaced which it has open
            if faults := self._try_parked_again():
                return faults
        return []

    def _try_parked_again(self) -> list[str]:
        """Let what was parked come due, as it does after some time; what is wrong then.

        An archive was away, or a failover had lost what is there again, as its writer has put it back.
        """
        if parked := self._status().parked:
            with self.world.open(Process("the host")) as hot:
                namespace_of(hot).unpark(list(parked))
        return [] if self._comes_to(self._all_is_drained) else [f"not all is drained again: {self._status()}"]

    def finding(self, faults: list[str]) -> Finding:
        """What came of it."""
        world, scheduler = self.world, self.world.scheduler
        told = sum(line[0] == "told" for diary in world.diaries for line in diary.lines)
        return Finding(
            world.choices.seed,
            faults,
            world.choices.made,
            scheduler.story,
            scheduler.steps,
            told,
            world.server.losses,
        )

    def close(self) -> None:
        """End all that is left."""
        self.world.be_calm()
        self.world.scheduler.close()
        self.world.close()

    def _go_round(self) -> None:
        """Let trouble come, and others take the places of those who were killed."""
        while True:
            self.world.scheduler.wait(_SECONDS_BETWEEN_TROUBLES)
            self._replace()
            self._troubles.befall()

    def _replace(self) -> None:
        for number, player in enumerate(self.world.players):
            if player.process.is_dead or (player.has_ended() and (player.goes_on or not player.is_done)):
                self.world.players[number] = player.succeed()

    def _all_have_written(self) -> bool:
        return all(player.is_done for player in self.world.players)

    def _all_have_settled(self) -> bool:
        return all(player.goes_on or player.has_ended() for player in self.world.players)

    def _all_is_followed(self) -> bool:
        """Whether each follower that lives has seen the last event of its run, unless that is parked."""
        world = self.world
        with world.open(Process("the host")) as hot:
            runs = dict.fromkeys(one.run_id for one in world.followed)
            known = {run_id: hot.run_info(run_id) for run_id in runs}
        return all(
            (one.seen[-1][0] if one.seen else 0) >= info.last_offset
            for one in world.followed
            if one.process is not None and not one.process.is_dead and one.run_id not in world.were_parked
            if (info := known[one.run_id]) is not None
        )

    def _all_have_ended(self) -> bool:
        return all(player.has_ended() for player in self.world.players)

    def _status(self) -> Any:
        with self.world.open(Process("the host")) as hot:
            return namespace_of(hot).status()

    def _all_is_drained(self) -> bool:
        self._replace()
        if self.world.scheduler.steps % _STEPS_BETWEEN_LOOKS:
            return False
        status = self._status()
        if not self._all_have_written() or (status.parked and self.world.plan.resolvers):
            return False
        return status.due == 0 and status.later == len(status.parked) and self._all_is_listed()

    def _all_is_listed(self) -> bool:
        """Whether each run is in the sets that it belongs to: what was evicted is found by sweeping."""
        if "evict" not in self.world.plan.troubles:
            return True
        with self.world.open(Process("the host")) as hot:
            return not namespace_of(hot).sweep_page(BEGINNING).relisted


@contextmanager
def a_directory() -> Iterator[Path]:
    # in memory where there is such a place: nothing of it is kept
    place = _IN_MEMORY if _IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="runstream-simulation-", dir=place) as directory:
        yield Path(directory)


def play(plan: Plan, choices: Choices) -> Finding:
    """Play a game in a directory of its own.

    Args:
        plan: Who takes part.
        choices: What happens.

    Returns:
        What was found.
    """
    with a_directory() as directory:
        world = World(plan, choices, directory)
        game = Game(world)
        surroundings = in_place(world.clock, choices.seed, world.sleep, world.skew, world.threads)
        with surroundings, world.disk.in_place():
            try:
                faults = game.play()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
                faults = ["".join(traceback.format_exception(error))]
            finally:
                game.close()
        return game.finding(faults)
