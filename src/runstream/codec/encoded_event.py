"""An event as bytes."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["EncodedEvent"]


class EncodedEvent(NamedTuple):
    """An event as bytes, with the fields that a store needs without decoding it again.

    Attributes:
        record: The wire record.
        lane_id: The lane that the event belongs to.
        kind: What happened.
        session_id: The session that its run belongs to.
        seq: The producer's own count within the lane.
        key: The caller's key, if there is one.
        untraced: The record without the trace context that it was encoded in; None: there was none.
    """

    record: bytes
    lane_id: str
    kind: str
    session_id: str
    seq: int
    key: str | None = None
    untraced: bytes | None = None

    @property
    def given(self) -> bytes:
        """The record as far as it is the caller's, who may repeat the event in another trace context."""
        return self.untraced or self.record

    @property
    def size(self) -> int:
        """The bytes of its records, for who holds it."""
        return len(self.record) + len(self.untraced or b"")
