"""Agents, in all forms that there are, as players."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Self

from runstream.model.errors import ConcurrencyConflict, HistoryDiverged, StoreUnavailable
from runstream.stores.tiered.checkpointer import AsyncTieredCheckpointer, TieredCheckpointer
from runstream.testing.agent import Agent
from runstream.testing.agents import AGENTS, MOST_HOT_EVENTS
from runstream.testing.asking import Asking
from runstream.testing.simulation.calls import Calls, made_here, made_in_loop, made_once_there
from runstream.testing.simulation.choices import Dice
from runstream.testing.simulation.forks import forked
from runstream.testing.simulation.players.player import Player
from runstream.testing.simulation.world import Diary, World
from runstream.testing.stepping import Stepping
from runstream.testing.tagging import Finding, Tagging

__all__ = ["FORMS", "AgentPlayer", "LoopPlayer"]

_OTHERS: dict[str, type[Agent]] = {"asks": Asking, "steps": Stepping, "tags": Tagging, "finds": Finding}
FORMS: dict[str, type[Agent]] = {**AGENTS, **_OTHERS}
_PATIENCE_SECONDS = (0.0, 0.05, 10.0)


class AgentPlayer(Player):
    """An agent of the form that its role names, which writes so often, and looks in the end what became of it."""

    goes_on = False

    def prepare(self) -> None:
        """Begin a diary for each agent."""
        forms = (self.role,) if isinstance(self.role, str) else self.role
        self.diaries: list[Diary] = []
        self.diaries += [_SharedDiary(self.diaries) for _ in forms]
        self.world.diaries += self.diaries

    def act(self) -> None:
        """Write, and settle once the troubles are over."""
        world = self.world
        with ExitStack() as stack:
            store: Any = stack.enter_context(world.opened(self.process, **self._options([self.role])))
            make = made_here(world)
            if world.plan.is_tiered:
                archive, puts_back = self._archive(stack, store)
                make = made_once_there(make, puts_back)
                store = TieredCheckpointer(store, archive)
            calls = Calls(store, make)
            agent = self._agent(self.role, self.process.name, self.diaries[0], calls)
            for _ in range(world.plan.turns):
                if world.forks():
                    world.players.append(_ForkedPlayer(world, self.role, agent, store))
                agent.take_turn()
            self._settle(agent, self.diaries[0])

    @property
    def is_done(self) -> bool:
        """Whether it has written all that it will."""
        return all(diary.is_done for diary in self.diaries) and not self.process.is_dead

    def succeed(self) -> Self:
        """Let another agent begin, and remember that this one was killed."""
        for diary in self.diaries:
            diary.was_killed = True
        return super().succeed()

    def _options(self, forms: list[str]) -> dict[str, Any]:
        patience = self.world.choices.one_of(_PATIENCE_SECONDS)
        limit = MOST_HOT_EVENTS if "expects" in forms else None
        return {
            "retry_seconds": patience,
            "resend_lost": "resends" in forms,
            "max_hot_events": limit,
            "durability": self.world.plan.durability,
        }

    def _archive(self, stack: ExitStack, hot: Any) -> tuple[Any, Callable[[str], bool]]:
        """The archive that it has beside Redis, until the end of a stack, and what puts back a run from there."""
        archive = self.world.archives()[self.world.choices.below(2)]
        stack.callback(archive.close)
        return archive, partial(self._put_back, hot, archive)

    def _put_back(self, hot: Any, archive: Any, run_id: str) -> bool:
        """Put back a run that a failover has lost, unless somebody else does; False if it is there."""
        with suppress(StoreUnavailable, ConcurrencyConflict, HistoryDiverged):
            return self.world.put_back(hot, archive, run_id).outcome == "restored"
        return True

    def _agent(self, form: str, name: str, diary: Diary, store: Calls) -> Agent:
        dice: Any = Dice(self.world.choices)  # as far as an agent uses a Random
        return FORMS[form](store, name, self.world.runs, diary, dice)

    def _settle(self, agent: Agent, diary: Diary) -> None:
        diary.is_done = True
        self.world.may_settle.wait()
        agent.settle()


class _ForkedPlayer(AgentPlayer):
    """The same agent, in a child that its process has forked, with all that the parent has at hand."""

    def __init__(self, world: World, role: str, agent: Agent, store: Any) -> None:
        super().__init__(world, role)
        world.scheduler.note(f"forks {self.process.name}")
        instead = [(agent.told, self.diaries[0]), (store._driver._transport, world.way(self.process))]
        self._forked = forked(agent, world, store, instead)
        self._forked.name = self.process.name

    def act(self) -> None:
        """Go on as another one."""
        for _ in range(self.world.plan.turns // 2):
            self._forked.take_turn()
        self._settle(self._forked, self.diaries[0])

    def succeed(self) -> Any:
        """Let an agent begin that nobody has forked."""
        self.diaries[0].was_killed = True
        return AgentPlayer(self.world, self.role)


class LoopPlayer(AgentPlayer):
    """Agents of the forms that its role names, each a thread: their calls are tasks of one event loop."""

    kind = "loop"

    def act(self) -> None:
        """Let them all write, and wait for them."""
        world = self.world
        with ExitStack() as stack, world.loop(self.process) as loop:
            store: Any = world.open_async(self.process, **self._options(self.role))
            puts_back: Callable[[str], bool] | None = None
            if world.plan.is_tiered:
                archive, puts_back = self._archive(stack, stack.enter_context(world.opened(self.process)))
                store = AsyncTieredCheckpointer(store, archive)
            threads = []
            for form, diary in zip(self.role, self.diaries, strict=True):
                name = world.name(form)
                make = made_in_loop(world, loop, name)
                calls = Calls(store, made_once_there(make, puts_back) if puts_back else make)
                agent = self._agent(form, name, diary, calls)
                threads.append(world.threads.Thread(self._work, (agent, diary), name))
                threads[-1].start()
            for thread in threads:
                thread.join()

    def _work(self, agent: Agent, diary: Diary) -> None:
        for _ in range(self.world.plan.turns):
            agent.take_turn()
        self._settle(agent, diary)


class _SharedDiary(Diary):
    """The diary of an agent that shares a store object with others: what one is told to be lost, it is for all."""

    def __init__(self, together: list[Diary]) -> None:
        super().__init__()
        self._together = together

    def note(self, value: Any) -> None:
        """Write one more line, and one of a loss in the diaries of all."""
        for diary in self._together if value[0] == "lost" else [self]:
            Diary.note(diary, value)
