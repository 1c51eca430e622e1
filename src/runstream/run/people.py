"""The writer of a lane that asks people, waits for what they answer, and ends where they want it cancelled."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Generic

from runstream.model.errors import RunCancelled
from runstream.model.events import EventKind
from runstream.model.identifiers import check_name
from runstream.model.questions import answer_key
from runstream.model.results import E, Recorded, S
from runstream.model.state import ENDED_STATUSES, RunStatus
from runstream.operations.filters import payload_of
from runstream.operations.operation import Operation, Stream, pass_on
from runstream.operations.people import waiting
from runstream.run.checkpointing import CheckpointingWriter
from runstream.run.emission import Emission, error_payload
from runstream.run.state_fields import ended, paused, resume
from runstream.run.write_call import WriteCall

__all__ = ["AskingWriter"]


class AskingWriter(CheckpointingWriter[E, S], Generic[E, S]):
    """The writer of one lane, and what it has to do with people."""

    _question_id: str | None = None

    @staticmethod
    def _asking(question: Any, key: str | None, fields: Mapping[str, Any]) -> Emission:
        """The event that asks. With a key, that names the question, so that it is asked once."""
        if key is not None:
            check_name("key", key)
            check_name("key", answer_key(key))  # of the answer to it
        payload = {**fields, "question_id": secrets.token_hex(6) if key is None else key, "question": question}
        return Emission(EventKind.HUMAN_APPROVAL_REQUESTED, payload, key)

    def _pausing(self, emission: Emission, call: WriteCall[E]) -> Operation[Recorded[E]]:
        yield from self._going_first(call)
        if call.events is None:
            yield from self._operations.inbox(self.run_id)  # which a store refuses where nobody can wait
        with paused(self.state, call.began):
            (recorded,) = yield from self._recording([emission], call, self.state)
        self._question_id = (emission.payload or {})["question_id"]
        return recorded

    def _sending_first(self, call: WriteCall[E]) -> Operation[None]:
        """Send what must go before an answer is waited for. That is not kept from the one who waits."""
        call.puts_off = True
        yield from self._going_first(call)

    def _waiting(self, question_id: str | None, timeout: float | None) -> Stream:
        """Wait for an answer, and give it: one value."""
        question_id = self._question_id if question_id is None else question_id

        def take(events: Sequence[E]) -> list[Any]:
            resume(self.state)
            return [payload_of(event).get("answer") for event in events]

        try:
            yield from pass_on(waiting(self._operations, self.run_id, self.lane_id, question_id, timeout), take)
        except RunCancelled:
            self._is_cancelled = True
            raise

    def _cancelling(self, error: BaseException | None) -> Operation[None]:
        if (yield from self._operations.inbox(self.run_id)).status in ENDED_STATUSES:
            return  # by itself, or by another lane
        cause = error if isinstance(error, RunCancelled) else None
        payload = error_payload(
            "the run was cancelled" if cause is None else cause.reason or "the run was cancelled"
        )
        call: WriteCall[E] = WriteCall(sender="-", status=RunStatus.CANCELLED.value)
        emission = Emission(EventKind.RUN_ERROR, {**payload, "type": RunCancelled.__name__})
        with ended(self.state, RunStatus.CANCELLED, call.began):
            yield from self._recording([emission], call, self.state)
