"""What a process sent and what was acknowledged to it, in a file that outlives it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Sent(NamedTuple):
    """A batch as it was sent last, and, once it was acknowledged, where it lies, as far as that was told."""

    lane_id: str
    number: int
    size: int
    keys: Sequence[str | None] | None = None
    expected: int | None = None
    acknowledged: bool = False
    first: int | None = None
    last: int | None = None


class Past(NamedTuple):
    """What a lane has behind it: the batches and events that were sent, and the last batch if it got no reply."""

    batches: int = 0
    events: int = 0
    unanswered: Sent | None = None


class Diary:
    """JSON values, line by line, whole up to the last moment of the process that writes them.

    Its threads share it: each line is one write to a file that is only appended to. A line that counts for the
    reader ends in a line break.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, value: Any) -> None:
        """Write one more."""
        os.write(self._file, json.dumps(value).encode() + b"\n")

    def lines(self) -> list[Any]:
        """All of them, in their order."""
        lines = self.path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def close(self) -> None:
        """Nothing more is written."""
        os.close(self._file)


class Journal(Diary):
    """What one process sent and what was acknowledged to it."""

    def sends(self, batch: Sent) -> None:
        """Note a batch that goes out now, or again."""
        self.note(["sends", *batch[:5]])

    def was_told(self, batch: Sent, first: int | None = None, last: int | None = None) -> None:
        """Note that the batch was acknowledged, before anything else is sent in its lane."""
        self.note(["was told", batch.lane_id, batch.number, first, last])

    def size(self) -> int:
        """In bytes."""
        return self.path.stat().st_size

    def batches(self) -> list[Sent]:
        """All batches, in the order in which they were sent."""
        found: dict[tuple[str, int], Sent] = {}
        for what, *facts in self.lines():
            if what == "sends":
                found[facts[0], facts[1]] = Sent(*facts)
            else:
                lane_id, number, first, last = facts
                told = found[lane_id, number]
                found[lane_id, number] = told._replace(acknowledged=True, first=first, last=last)
        return list(found.values())

    def past(self, lane_id: str) -> Past:
        """What a lane has behind it."""
        batches = [batch for batch in self.batches() if batch.lane_id == lane_id]
        if not batches:
            return Past()
        last = batches[-1]
        return Past(last.number, sum(batch.size for batch in batches), None if last.acknowledged else last)
