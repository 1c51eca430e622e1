"""P1 to P9 while the server's operator does what operators do, and processes are killed and stopped."""

from __future__ import annotations

import os
import random
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from runstream.testing import Fault, FaultProxy
from tests.chaos.game import Game, lengths
from tests.support.servers import Node, needs_server

pytestmark = needs_server

SEED = int(os.environ.get("RUNSTREAM_TEST_SEED") or time.time_ns() % 2**32)
FORMS = ("plain", "async", "leases", "runs", "counts", "resends")


class Storm:
    """What strikes a server that keeps its data."""

    def __init__(self, node: Node, proxy: FaultProxy, dice: random.Random) -> None:
        self._node, self._proxy, self._dice = node, proxy, dice
        self._raw: Any = node.raw

    def kill_clients(self) -> None:
        self._raw.client_kill_filter(_type="normal", skipme=True)

    def kill_followers(self) -> None:
        for client in self._raw.client_list():
            if client["cmd"] in {"xread", "blocked"} or "b" in client["flags"]:
                with suppress(redis.ResponseError):
                    self._raw.client_kill_filter(_id=client["id"])

    def lose_replies(self) -> None:
        faults = [Fault.DROP_REPLY, Fault.CUT_REPLY, Fault.DROP_REQUEST, Fault.CUT_REQUEST]
        commands = self._dice.choice([["EVALSHA"], ["EVALSHA", "EVAL"], None])
        for _ in range(10):
            self._proxy.arm(self._dice.choice(faults), times=self._dice.randint(1, 4), commands=commands)
            time.sleep(self._dice.uniform(0.005, 0.03))
        self._proxy.disarm()

    def flush_scripts(self) -> None:
        self._raw.script_flush()

    def reload(self) -> None:
        self._raw.execute_command("DEBUG", "RELOAD")

    def fill_memory(self) -> None:
        used = self._raw.info("memory")["used_memory"]
        self._raw.config_set("maxmemory", max(1, used - 100_000))
        time.sleep(self._dice.uniform(0.05, 0.3))
        self._raw.config_set("maxmemory", 0)

    def drop_idle_clients(self) -> None:
        self._raw.config_set("timeout", 1)
        time.sleep(self._dice.uniform(0.1, 1.2))
        self._raw.config_set("timeout", 0)

    def pause(self) -> None:
        self._raw.client_pause(int(self._dice.uniform(50, 400)), all=self._dice.random() < 0.5)

    def stand_still(self) -> None:
        with self._node.stopped():
            time.sleep(self._dice.uniform(0.05, 0.5))

    def set_clock(self) -> None:
        self._node.set_clock(self._dice.choice([-3600, -60, 0, 60, 660, 3600]))

    def rewrite(self) -> None:
        for setting in ("yes", "no"):
            self._raw.config_set("appendonly", setting)

    def acts(self) -> list[Any]:
        """All of them."""
        return [
            self.lose_replies,
            self.kill_clients,
            self.kill_followers,
            self.flush_scripts,
            self.reload,
            self.fill_memory,
            self.drop_idle_clients,
            self.pause,
            self.stand_still,
            self.set_clock,
            self.rewrite,
        ]


@pytest.mark.timeout(300)  # on a machine that is busy with other things
@pytest.mark.parametrize(("name", "blows"), lengths(15, 1))
def test_a_storm_loses_nothing_and_doubles_nothing(
    name: str, blows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Connections cut, scripts flushed, memory full, clocks set, processes killed: each event is there once."""
    dice = random.Random(SEED)
    options = [] if name == "redis62" else ["--enable-debug-command", "yes"]
    with tempfile.TemporaryDirectory(prefix="runstream-") as directory, ExitStack() as stack:
        node = Node(name, directory, *options)
        stack.callback(node.end)
        proxy = stack.enter_context(FaultProxy(f"unix://{node.socket_path}"))
        game = Game(proxy.url, lambda _: node.raw, tmp_path, dice, stack, forms=FORMS, workers=2)
        storm = Storm(node, proxy, dice)
        try:
            game.play([*storm.acts(), game.kill_agent, game.kill_worker, game.stop_somebody], blows)
            game.finish()
        finally:
            with capsys.disabled():
                print(f"\nseed {SEED}: {game.acts.total()} blows", end=" ")
