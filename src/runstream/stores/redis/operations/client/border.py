"""Whether a run in Redis goes on from where an archive ends that had its beginning from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from runstream.codec.chain import former_chain
from runstream.codec.record import is_sound, record_crc
from runstream.model.results import Cursor
from runstream.model.run_head import RunHead, written_as
from runstream.operations.interface import RunElsewhere
from runstream.operations.operation import Command
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.replies import parse_cursor, parse_records

__all__ = ["Border"]


class Border(NamedTuple):
    """Where an archive ends that has the beginning of a run.

    Attributes:
        end: The cursor of the last event there; None: it does not know the run, so there is nothing to compare.
        may_be_absent: Whether the run may be in neither.
    """

    end: Cursor | None
    may_be_absent: bool = False

    def queries(self, run: RunKeys) -> list[Command]:
        """What to ask for beside the run's head: nothing, or the first entry from there on."""
        if self.end is None:
            return []
        at = self.end.offset
        return [(b"XRANGE", run.events, str(at), str(at + 1), b"COUNT", 1)]

    def check(self, run_id: str, head: RunHead, replies: Sequence[Any], *, is_there: bool) -> None:
        """Raise RunElsewhere unless the run is there, and passes it."""
        if not is_there and self.end is None and self.may_be_absent:
            return
        if not (is_there and self.is_passed(run_id, head, replies)):
            raise RunElsewhere

    def is_passed(self, run_id: str, head: RunHead, replies: Sequence[Any]) -> bool:
        """Whether the run passes it; False as well where the run ends before.

        Where Redis has neither the entry there nor the one after it, nor notes that cursor, nothing refutes it.

        Args:
            run_id: The run.
            head: Where it stands.
            replies: The replies to the queries.
        """
        end = self.end
        if end is None:
            return True
        if end.offset <= head.lowest.offset:
            return end == head.lowest
        known = [head.mark, head.last]
        (entries,) = replies
        for entry, record in zip(entries, parse_records(entries), strict=True):
            at = parse_cursor(entry[0])
            if at.offset == end.offset:
                known.append(at)
            # the chain before an entry can be told from it and its checksum
            elif is_sound(written_as(run_id, head.origins, at.offset), record):
                known.append(Cursor(at.offset - 1, former_chain(at.chain, record_crc(record))))
        return end.offset <= head.last.offset and all(at == end for at in known if at.offset == end.offset)
