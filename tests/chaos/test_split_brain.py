"""P4 and P8 through failovers: two primaries at once for a while, whose clocks differ by minutes and hours."""

from __future__ import annotations

import os
import random
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.game import Game, lengths
from tests.support.servers import Pair, needs_server, primary_and_replica

pytestmark = needs_server

SEED = int(os.environ.get("RUNSTREAM_TEST_SEED") or time.time_ns() % 2**32)
FORMS = ("plain", "async", "leases", "runs", "resends")
CLOCKS_SECONDS = (-3600, -60, 0, 60, 660, 3600)


def fail_over(pair: Pair, dice: random.Random, game: Game) -> None:
    """The replica lags, takes over with a clock of its own, and the old primary goes on for a while."""
    pair.replicate()
    pair.replica.set_clock(dice.choice(CLOCKS_SECONDS))
    if dice.random() < 0.3:
        with pair.losing():
            game.rest(dice.uniform(0.05, 0.4))
    else:
        with pair.split():
            game.rest(dice.uniform(0.05, 0.4))
    game.rest(dice.uniform(0.3, 1.0))
    pair.renew()


@pytest.mark.timeout(300)  # on a machine that is busy with other things
@pytest.mark.parametrize(("name", "failovers"), lengths(4))
def test_what_a_failover_lost_is_told_and_nothing_is_doubled(
    name: str, failovers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each acknowledged event is there once, or its writer was told; archives hold no event twice."""
    dice = random.Random(SEED)
    with primary_and_replica(name) as pair, ExitStack() as stack:
        game = Game(pair.url, lambda _: pair.primary.raw, tmp_path, dice, stack, forms=FORMS, workers=2)
        try:
            for _ in range(failovers):
                fail_over(pair, dice, game)
                dice.choice([game.kill_agent, game.kill_worker, game.stop_somebody])()
            game.finish(losses=True)
        finally:
            with capsys.disabled():
                print(f"\nseed {SEED}: {failovers} failovers", end=" ")
