"""An agent that takes durable steps, which all agents share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from runstream.model.errors import AcknowledgedWritesLost, EventsArchived, HistoryDiverged, StoreUnavailable
from runstream.testing.agents import InRuns

__all__ = ["Stepping"]

STEPS = 12
"""How many steps there are in each run."""


class _CallFailedError(Exception):
    """The call of a step has failed."""


class Stepping(InRuns):
    """Takes steps through a Run, of which some calls fail, and notes whose result each has given."""

    def take_turn(self) -> None:
        """Take a step, or write something."""
        if self.dice.random() < 0.4:
            super().take_turn()
            return
        run_id = self.dice.choice(self.run_ids)
        try:
            self._take_step(run_id, f"step-{self.dice.randrange(STEPS)}", fails=self.dice.random() < 0.2)
        except (AcknowledgedWritesLost, HistoryDiverged):
            self._lost(run_id)
        except StoreUnavailable:
            self._runs.pop(run_id, None)  # what it has kept would come after what this agent does next
            self._given_up.add(run_id)

    def _take_step(self, run_id: str, key: str, *, fails: bool) -> None:
        run, seconds = self._run(run_id), self.dice.choice((0.0, 0.001, 0.02))

        def call() -> Any:
            if _is_in_loop():
                return call_later()
            time.sleep(seconds)
            return act()

        async def call_later() -> str:
            await asyncio.sleep(seconds)
            return act()

        def act() -> str:
            self._number += 1
            mark = self.mark(self._number)
            self.told.note(["sends", run_id, [mark], None if fails else [f"once:{key}"]])
            if run.lane_id != self.name:
                self.told.note(["lane", run_id, run.lane_id, [mark]])
            if fails:
                raise _CallFailedError(mark)
            return mark

        try:
            result = self._until_taken(run, key, call)
        except _CallFailedError as error:
            self._note_last(run_id, run, None if hasattr(error, "__notes__") else str(error))
        except EventsArchived:  # it was taken, by whomever, and that has left Redis
            pass
        else:
            self.told.note(["took", run_id, key, result])
            self._note_last(run_id, run, result)

    def _until_taken(self, run: Any, key: str, call: Callable[[], Any]) -> Any:
        while True:
            try:
                return run.once(key, call)
            except StoreUnavailable as error:
                if error.is_final:
                    raise
                if error.resend is not None and self.dice.random() < 0.5:
                    return self._resent(error)
            time.sleep(0.002)

    def _note_last(self, run_id: str, run: Any, mark: str | None) -> None:
        """Note the event that this agent has written last, if it has; None: nobody knows whether that is there."""
        if mark is None:
            self._given_up.add(run_id)
        elif mark == self.mark(self._number):
            self._count(run, self._number)
            self._given_up.discard(run_id)


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
