"""Find what encoded events say between a run and people."""

from __future__ import annotations

from collections.abc import Sequence

from runstream.codec.encoded_event import EncodedEvent
from runstream.codec.record import decode_record, fields_of
from runstream.model.questions import NOTICE_KINDS, Notice, notice_of

__all__ = ["notices_of"]


def notices_of(run_id: str, events: Sequence[EncodedEvent]) -> list[tuple[int, Notice]]:
    """What these events say between the run and people; no others are decoded.

    Args:
        run_id: The run.
        events: The events.

    Returns:
        The index of each that says something, from 0, and what it says.
    """
    return [
        (index, notice)
        for index, event in enumerate(events)
        if event.kind in NOTICE_KINDS
        and (notice := notice_of(event.kind, event.lane_id, _payload(run_id, event))) is not None
    ]


def _payload(run_id: str, event: EncodedEvent) -> object:
    return fields_of(run_id, decode_record(run_id, 0, event.record))["payload"]
