"""Processes that write to many runs, in every way that there is, whatever becomes of the server."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from runstream import (
    Appended,
    EventKind,
    EventsArchived,
    PAEvent,
    RunState,
    StoreUnavailable,
    connect,
)
from runstream.model.events import member_or_text
from tests.support.processes.journal import Diary
from tests.support.processes.talk import wait_for_all, wait_for_word

RUSH = 200
"""Turns that a player takes one right after the other."""


class Turn(NamedTuple):
    """One call of a player: events of one lane that follow ``first``, with what goes with them.

    ``snapshot`` is the lane that one is of, "" for the run's own, None for none; its purpose is the turn's name.
    """

    number: int
    run_id: str
    lane_id: str
    first: int
    kinds: Sequence[str]
    keys: Sequence[str] | None = None
    snapshot: str | None = None
    outcome: str = ""
    """"told" for one that was acknowledged, "refused" for one that wrote nothing, "" where no reply came."""
    offset: int | None = None
    """Where it was told that its first event lies."""

    @property
    def name(self) -> str:
        """Tells it from every other turn of every player."""
        return f"{self.lane_id}/{self.number}"

    def events(self) -> list[PAEvent]:
        """Its events, for the player and for the checker."""
        return [
            PAEvent(
                self.run_id,
                lane_id=self.lane_id,
                span_id=f"{self.run_id}/{self.lane_id}/{seq}",
                seq=seq,
                ts=float(seq),
                kind=member_or_text(EventKind, kind),
                payload={"raw": b"\x00\xff", "pair": (seq, self.name), "text": "x" * (seq % 300)},
            )
            for seq, kind in enumerate(self.kinds, self.first)
        ]

    def state(self) -> RunState:
        """The state that its snapshot has."""
        return RunState(self.run_id, purpose=self.name, current_step=self.first, started_at=1.0, updated_at=1.0)


class Score(Diary):
    """The turns of one player: each as it is taken, and again with what came of it before the next is."""

    def turns(self) -> list[Turn]:
        """All turns, in the order in which they were taken."""
        return list({turn.number: turn for turn in (Turn(*line) for line in self.lines())}.values())


def play(url: str, name: str, run_ids: Sequence[str], seed: int, score: str) -> None:
    """Write to many runs, in a lane of each, until the parent says anything. An outage is sat out.

    A player that was killed goes on behind what it has sent.
    """
    noted, enough = Score(score), threading.Event()
    with connect(url) as store:
        player = _Player(store, name, run_ids, noted, random.Random(f"{seed} {name} {len(noted.turns())}"))
        wait_for_all()

        def wait() -> None:
            wait_for_word()
            enough.set()

        threading.Thread(target=wait, daemon=True).start()
        while not enough.is_set():
            player.take_turn()


class _Player:
    def __init__(self, store: Any, name: str, run_ids: Sequence[str], score: Score, dice: random.Random) -> None:
        self._store = store
        self._name = name
        self._score = score
        self._dice = dice
        self._taken = 0
        self._number = 0
        self._next = dict.fromkeys(run_ids, 1)
        for turn in score.turns():
            self._number = turn.number
            self._next[turn.run_id] = turn.first + len(turn.kinds)
        for run_id, first in self._next.items():
            if first > 1:  # a process that goes on first recovers, or its snapshots would cover nothing
                self._recover(run_id, name)

    def take_turn(self) -> None:
        """Do one thing to one run."""
        ways = (self._single, self._batch, self._keys, self._with_snapshot, self._snapshot)
        (way,) = self._dice.choices(ways, (10, 5, 3, 2, 1))
        way(self._dice.choice(list(self._next)))
        # a rush first, then a trickle: a drain has a chance on any machine
        self._taken += 1
        time.sleep(self._dice.uniform(0, 0.01 if self._taken < RUSH else 0.2))

    def _single(self, run_id: str) -> None:
        turn = self._begin(run_id, 1)
        self._take(turn, lambda: self._store.save_event(turn.events()[0]))

    def _batch(self, run_id: str) -> None:
        turn = self._begin(run_id, self._dice.randint(2, 30))
        self._take(turn, lambda: self._store.save_events(turn.events()))

    def _keys(self, run_id: str) -> None:
        """Events with keys; now and then they come again, as from an agent that repeats a step."""
        size = self._dice.randint(1, 5)
        keys = [f"{self._name}/{self._number + 1}/{n}" for n in range(size)]
        turn = self._begin(run_id, size, keys=keys)
        self._take(turn, lambda: self._store.append(run_id, turn.events(), keys=keys))
        if self._dice.random() < 0.5:
            self._until_told(lambda: self._store.append(run_id, turn.events(), keys=keys))

    def _with_snapshot(self, run_id: str) -> None:
        turn = self._begin(run_id, self._dice.randint(1, 5), snapshot=self._name)
        self._take(
            turn,
            lambda: self._store.append(run_id, turn.events(), snapshot=turn.state(), lane_id=self._name),
        )

    def _snapshot(self, run_id: str) -> None:
        """A snapshot alone: the lane's, or, in every other run, the run's own, of all that is in it."""
        is_of_run = list(self._next).index(run_id) % 2 == 1 and self._dice.random() < 0.5
        if is_of_run:
            self._recover(run_id, None)
        turn = self._begin(run_id, 0, snapshot="" if is_of_run else self._name)
        lane_id = None if is_of_run else self._name
        self._take(turn, lambda: self._store.save_snapshot(run_id, turn.state(), lane_id=lane_id))

    def _begin(self, run_id: str, size: int, **facts: Any) -> Turn:
        self._number += 1
        kinds = self._dice.choices(
            ("tool.result", "run.finished", "run.started", "of a later version"), (20, 1, 1, 1), k=size
        )
        turn = Turn(self._number, run_id, self._name, self._next[run_id], kinds, **facts)
        self._next[run_id] += size
        self._score.note(turn)
        return turn

    def _take(self, turn: Turn, call: Callable[[], Any]) -> None:
        try:
            at = self._until_told(call)
        except EventsArchived:  # this process has not recovered what the snapshot would have to cover
            self._score.note(turn._replace(outcome="refused"))
        else:
            offset = at.first_offset if isinstance(at, Appended) else None
            self._score.note(turn._replace(outcome="told", offset=offset))

    def _recover(self, run_id: str, lane_id: str | None) -> None:
        with suppress(EventsArchived):
            self._until_told(lambda: self._store.recover(run_id, lane_id=lane_id))

    @staticmethod
    def _until_told(call: Callable[[], Any]) -> Any:
        while True:
            with suppress(StoreUnavailable):
                return call()
