"""What Redis still knows of events that were erased: their callers' keys, and where their lanes were last.

The record of such an event tells nothing. An archive that gets it so is told by these: a key stays known, and a
lane's number is not given again, when the run has left Redis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from runstream.model.archive_records import ArchiveEntry
from runstream.operations.operation import Exchange, Operation, Refusal
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.operations.worker.hot_run import lane_marks
from runstream.stores.redis.replies import parse_map, parse_offset

__all__ = ["ErasedFacts", "erased_facts"]

_KEYS_AT_ONCE = 1000


class ErasedFacts(NamedTuple):
    """What is known of events by their offsets.

    Attributes:
        lasts: Lane and ``seq`` of those that are the last of their lanes; of any other a later one tells.
        keys: The callers' keys.
    """

    lasts: Mapping[int, tuple[str, int]]
    keys: Mapping[int, str]

    def complete(self, entries: Sequence[ArchiveEntry]) -> list[ArchiveEntry]:
        """These entries, each that was erased with what is known of it."""
        return [self._completed(entry) if entry.is_erased else entry for entry in entries]

    def _completed(self, entry: ArchiveEntry) -> ArchiveEntry:
        lane_id, seq = self.lasts.get(entry.offset, (entry.lane_id, entry.seq))
        return entry._replace(key=self.keys.get(entry.offset, entry.key), lane_id=lane_id, seq=seq)


def erased_facts(keys: Keys, run_id: str, after: int) -> Operation[ErasedFacts]:
    """What is known of a run's events after an offset, of which some were erased."""
    run = keys.run(run_id)
    (meta,) = yield Exchange([(b"HGETALL", run.meta)])
    with parsing(run):
        lasts = {last: (lane, seq) for lane, (last, seq) in lane_marks(parse_map(meta)).items()}
    found: dict[int, str] = {}
    at = b"0"
    while True:
        (reply,) = yield Exchange([(b"HSCAN", run.keys, at, b"COUNT", _KEYS_AT_ONCE)], tolerant=True)
        if isinstance(reply, Refusal):
            if reply.is_denied:
                raise reply.error
            return ErasedFacts(lasts, found)  # of another type: whoever looks for a key is told
        at, page = reply
        for key, cursor in parse_map(page).items():
            with suppress(ValueError):
                if (offset := parse_offset(cursor)) > after:
                    found[offset] = key.decode()
        if int(at) == 0:
            return ErasedFacts(lasts, found)
