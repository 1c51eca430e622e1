"""What is not known of a run any more since lines of its log were damaged: whoever asks for it is told."""

from __future__ import annotations

from collections.abc import Iterable

from runstream.model.errors import CorruptRecordError
from runstream.stores.archive.jsonl.damaged_lines import came_whole, is_damaged_header, may_have_key, tokens_in
from runstream.stores.archive.jsonl.line_format import facts_of

__all__ = ["LogDamage"]

_NEXT = "restore the directory from a copy"


class LogDamage:
    """The damage to a run's log.

    Attributes:
        lines: The lines of entries that do not read, by offset.
        is_mark: Whether the last commit mark was damaged.
        has_marks: Whether any was: which snapshots were committed is not known then.
        tokens: The snapshots that were committed as far as damaged marks tell.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._is_header = False
        self.lines: dict[int, bytes] = {}
        self.is_mark = self.has_marks = False
        self.tokens: set[str] = set()

    @property
    def last(self) -> int:
        """The offset of the last entry that does not read; 0 for none."""
        return max(self.lines, default=0)

    def note(self, line: bytes) -> None:
        """Note a line that does not read."""
        if is_damaged_header(line):
            self._is_header = True
        elif came_whole(line) or facts_of(line) is not None:
            self.is_mark = self.has_marks = True
            self.tokens |= tokens_in(line)

    def check_head(self, last: int) -> None:
        """Raise CorruptRecordError where the run's header or its last commit mark was damaged.

        Args:
            last: The offset of the run's last event.
        """
        if not self._is_header and not self.is_mark:
            return
        what = "header" if self._is_header else f"last commit mark, after event {last},"
        raise CorruptRecordError(
            f"the {what} of run {self._run_id!r} does not read: its line was damaged; {_NEXT}; the run's events"
            " can be read",
            run_id=self._run_id,
            offset=last if self.is_mark else 0,
        )

    def check_keys(self, keys: Iterable[str]) -> None:
        """Raise CorruptRecordError where a damaged line may have one of these keys, which no other line has."""
        for offset, line in self.lines.items():
            if any(may_have_key(line, key) for key in keys):
                raise self._doubt(offset, "it may be the event that has one of these keys")

    def check_lane(self, lane_id: str, last: int) -> None:
        """Raise CorruptRecordError where a damaged line may be of this lane, after the last known one of it."""
        if self.last > last:
            raise self._doubt(self.last, f"it may be the last of lane {lane_id!r}")

    def _doubt(self, offset: int, why: str) -> CorruptRecordError:
        return CorruptRecordError(
            f"event {offset} of run {self._run_id!r} does not read, and {why}; {_NEXT}",
            run_id=self._run_id,
            offset=offset,
        )
