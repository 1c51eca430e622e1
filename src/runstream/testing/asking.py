"""An agent that asks people, and that is one of them for the others."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from runstream.model.errors import (
    AcknowledgedWritesLost,
    ConcurrencyConflict,
    ConfigurationError,
    EventsArchived,
    HistoryDiverged,
    LeaseHeld,
    StoreUnavailable,
)
from runstream.model.questions import ANSWERS_LANE, answer_key
from runstream.testing.agents import InRuns

__all__ = ["Asking"]


class Asking(InRuns):
    """Asks people through a Run, answers what it finds that others ask, and takes its own answers."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._asked: dict[str, str] = {}
        self._answers: dict[tuple[str, str], Any] = {}

    def take_turn(self) -> None:
        """Ask, answer, or write something; then take an answer, if there is one."""
        run_id, chance = self.dice.choice(self.run_ids), self.dice.random()
        try:
            if chance < 0.3:
                self._ask(run_id)
            elif chance < 0.7:
                self._answer(run_id)
            else:
                super().take_turn()
            self._take_answer(run_id)
        except (AcknowledgedWritesLost, HistoryDiverged):
            self._lost(run_id)
        except StoreUnavailable:
            pass

    def _ask(self, run_id: str) -> None:
        run = self._run(run_id)
        mark, number = self._next_mark(), self._number
        key = mark.strip("@")
        self.told.note(["sends", run_id, [mark], [key]])
        if run.lane_id != self.name:
            self.told.note(["lane", run_id, run.lane_id, [mark]])
        former = run.state.current_step
        self._count(run, number)
        try:
            recorded = self._paused(run, key, mark)
        except (EventsArchived, ConcurrencyConflict, LeaseHeld):  # as of a checkpoint
            self.told.note(["refused", run_id])
            self._count(run, former)
            del self._runs[run_id]
            return
        self._asked[run_id] = key
        self.told.note(["told", run_id, [mark], recorded.offset])

    def _paused(self, run: Any, key: str, mark: str) -> Any:
        try:
            return run.pause("which?", key=key, mark=mark)
        except StoreUnavailable as error:
            return self._resent(error)

    def _answer(self, run_id: str) -> None:
        info = self.store.run_info(run_id)
        if info is None or not info.waiting_for:
            return
        question = self.dice.choice(info.waiting_for)
        mark, number = self._next_mark(), self._number
        self.told.note(["sends", run_id, [mark], [answer_key(question.question_id)]])
        self.told.note(["lane", run_id, ANSWERS_LANE, [mark]])
        try:
            recorded = self._until_answered(run_id, question.question_id, mark)
        except ConfigurationError:  # its lane has asked anew
            self.told.note(["refused", run_id])
            return
        except EventsArchived:  # it was answered, by whomever, and that has left Redis
            return
        if run_id in self._runs:
            self._count(self._runs[run_id], number)
        self.told.note(["told", run_id, [mark], recorded.offset])

    def _until_answered(self, run_id: str, question_id: str, mark: str) -> Any:
        while True:
            try:
                return self.store.answer(run_id, mark, question_id=question_id)
            except StoreUnavailable as error:
                if error.is_final:
                    raise
            time.sleep(0.002)

    def _take_answer(self, run_id: str) -> None:
        """What answers a question stays the same."""
        run, question_id = self._runs.get(run_id), self._asked.get(run_id)
        if run is None or question_id is None:
            return
        # a fork of its process may have asked anew in this lane
        with suppress(TimeoutError, EventsArchived, ConfigurationError):
            answer = run.wait(question_id, timeout=0)
            if self._answers.setdefault((run_id, question_id), answer) != answer:
                raise AssertionError(
                    f"{question_id} was answered by {self._answers[run_id, question_id]} and {answer}"
                )

    def _next_mark(self) -> str:
        self._number += 1
        return f"@{self.name}/{self._number}@"

    def begin_anew(self, run_id: str) -> None:
        """Take a run as it is now, and ask anew."""
        self._asked.pop(run_id, None)
        self._answers = {known: answer for known, answer in self._answers.items() if known[0] != run_id}
        super().begin_anew(run_id)
