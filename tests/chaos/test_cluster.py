"""P1 to P9 in a cluster: slots move, servers join, primaries are killed, and so are agents and workers."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis.crc import key_slot

from tests.chaos.game import Game, lengths
from tests.support.cluster import Cluster, cluster_of
from tests.support.servers import Node, needs_server

pytestmark = needs_server

SEED = int(os.environ.get("RUNSTREAM_TEST_SEED") or time.time_ns() % 2**32)
FORMS = ("plain", "async", "leases", "runs", "counts", "resends")
PARTITIONS = ("{runstream:0}", "{runstream:1}")


def game_on(cluster: Cluster, directory: Path, dice: random.Random, stack: ExitStack) -> Game:
    """Agents, followers and workers that find the cluster by its servers of now."""

    def find(key: str) -> object:
        return cluster.primary_of(key).raw

    return Game(cluster.url, find, directory, dice, stack, forms=FORMS, workers=2)


class Operator:
    """Whoever moves slots and adds servers while all others work."""

    def __init__(self, cluster: Cluster, game: Game, dice: random.Random) -> None:
        self._cluster, self._game, self._dice = cluster, game, dice

    def move_slot(self) -> None:
        """Key by key, and slowly: for a while some lie here, and some there."""
        tag = self._dice.choice(PARTITIONS)
        source = self._cluster.primary_of(tag)
        self._move(tag, self._dice.choice([node for node in self._cluster.primaries if node is not source]))

    def move_whole_slot(self) -> None:
        """In one step, where servers have such."""
        tag = self._dice.choice(PARTITIONS)
        source = self._cluster.primary_of(tag)
        target = self._dice.choice([node for node in self._cluster.primaries if node is not source])
        self._cluster.move_whole(key_slot(tag.encode()), source, target)

    def add_server(self) -> None:
        """And give it a slot."""
        self._move(self._dice.choice(PARTITIONS), self._cluster.add_primary())

    def _move(self, tag: str, target: Node) -> None:
        source, slot = self._cluster.primary_of(tag), key_slot(tag.encode())
        with self._cluster.moving(slot, source, target):
            while self._cluster.move_keys(slot, source, target, most=self._dice.randint(1, 4)):
                self._game.rest(self._dice.uniform(0, 0.05))


@pytest.mark.timeout(300)  # on a machine that is busy with other things
@pytest.mark.parametrize(("name", "blows"), lengths(12))
def test_slots_that_move_lose_nothing_and_double_nothing(
    name: str, blows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What servers say of slots on their way is said to those who work, who go on."""
    dice = random.Random(SEED)
    with cluster_of(name) as cluster, ExitStack() as stack:
        game = game_on(cluster, tmp_path, dice, stack)
        operator = Operator(cluster, game, dice)
        acts = [operator.move_slot, operator.add_server, game.kill_agent, game.kill_worker, game.stop_somebody]
        acts.append(operator.move_whole_slot if cluster.moves_whole_slots else operator.move_slot)
        try:
            game.play(acts, blows)
            said = cluster.errors_said()
            assert {"MOVED", "ASK", "TRYAGAIN"} <= said.keys(), f"none of these: {said}"
            game.finish()
        finally:
            with capsys.disabled():
                print(f"\nseed {SEED}: {game.acts.total()} blows", end=" ")


@pytest.mark.timeout(300)  # on a machine that is busy with other things
@pytest.mark.parametrize(("name", "failovers"), lengths(3))
def test_what_a_promotion_lost_is_told_and_nothing_is_doubled(
    name: str, failovers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A primary is killed, its replica promoted: whoever had an acknowledgement has it, or is told."""
    dice = random.Random(SEED)
    with cluster_of(name, replicas=1) as cluster, ExitStack() as stack:
        game = game_on(cluster, tmp_path, dice, stack)
        others: Sequence[Callable[[], None]] = [game.kill_agent, game.kill_worker, game.stop_somebody]
        try:
            for _ in range(failovers):
                victim = cluster.primary_of(dice.choice(PARTITIONS))
                victim.end()
                cluster.await_promotion(victim)
                game.rest(dice.uniform(0.3, 1.0))
                dice.choice(others)()
                cluster.add_replica(cluster.primary_of(dice.choice(PARTITIONS)))
            cluster.await_whole()
            game.finish(losses=True)
        finally:
            with capsys.disabled():
                print(f"\nseed {SEED}: {failovers} failovers", end=" ")
