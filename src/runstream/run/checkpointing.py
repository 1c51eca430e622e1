"""The writer of a lane as a Checkpointer: what a program saves that makes its events and states itself."""

from __future__ import annotations

from typing import Any, Generic

from runstream.model.errors import InvalidRunId
from runstream.model.identifiers import shown, snapshot_lane
from runstream.model.results import E, S
from runstream.operations.operation import Operation
from runstream.run.lane import LaneWriter
from runstream.run.write_call import WriteCall

__all__ = ["CheckpointingWriter"]


class CheckpointingWriter(LaneWriter[E, S], Generic[E, S]):
    """The writer of one lane, which is a :class:`~runstream.model.protocols.Checkpointer` for its run."""

    def _saving_event(self, event: E, call: WriteCall[E]) -> Operation[None]:
        run_id: Any = getattr(event, "run_id", None)
        self._check_run(run_id)
        yield from self._going_first(call)
        lane_id, seq = getattr(event, "lane_id", None), getattr(event, "seq", None)
        seqs = [seq] if lane_id == self.lane_id and isinstance(seq, int) else []
        yield from self._appending([event], seqs, call)

    def _saving_snapshot(self, run_id: str, state: S, call: WriteCall[E]) -> Operation[None]:
        self._check_run(run_id)
        yield from self._going_first(call)
        yield from self._sending(
            call, lambda: self._operations.save_snapshot(run_id, state, snapshot_lane(self.lane_id), self.lease)
        )
        self._note_left_out(None)  # the whole was replaced

    def _loading_latest(self, run_id: str) -> Operation[S | None]:
        self._check_run(run_id)
        snapshot = yield from self._operations.load_snapshot(run_id, snapshot_lane(self.lane_id))
        self._note_left_out(snapshot)  # it is the one that the next checkpoint follows
        return None if snapshot is None else snapshot.state

    def _listing_events(self, run_id: str, since_seq: int) -> Operation[list[E]]:
        self._check_run(run_id)
        return (yield from self._operations.list_events(run_id, since_seq))

    def _check_run(self, run_id: Any) -> None:
        if run_id != self.run_id:
            raise InvalidRunId(
                f"this Run is of run {shown(self.run_id)}, not of {shown(run_id)}: write that through its store"
            )
