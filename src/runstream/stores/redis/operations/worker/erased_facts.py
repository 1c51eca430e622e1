"""What Redis still knows of events that were erased or truncated: their callers' keys, and where lanes were last.

The record of such an event tells nothing, or is not there. An archive that gets no more of it is told by these: a
key stays known, and a lane's number is not given again, when the run has left Redis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from runstream.model.archive_records import ArchiveEntry
from runstream.model.results import Cursor
from runstream.operations.operation import Exchange, Operation, Refusal
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.operations.worker.hot_run import lane_marks
from runstream.stores.redis.replies import parse_cursor, parse_map

__all__ = ["ErasedFacts", "erased_facts"]

_KEYS_AT_ONCE = 1000


class ErasedFacts(NamedTuple):
    """What is known of events by their offsets.

    Attributes:
        lasts: Lane and ``seq`` of those that are the last of their lanes; of any other a later one tells.
        keys: The callers' keys.
        chains: The chains of those that have a key.
    """

    lasts: Mapping[int, tuple[str, int]]
    keys: Mapping[int, str]
    chains: Mapping[int, int]

    def complete(self, entries: Sequence[ArchiveEntry]) -> list[ArchiveEntry]:
        """These entries, each that was erased with what is known of it."""
        return [self._completed(entry) if entry.is_erased else entry for entry in entries]

    def former(self, after: int, base: Cursor) -> list[ArchiveEntry]:
        """What is left of the events after an offset up to the base of a history, which were truncated.

        The chain of one that has no key, and is not the last of them, is not known: it is 0.
        """
        chains = {**self.chains, base.offset: base.chain}
        offsets = sorted(at for at in {*self.lasts, *self.keys} if after < at <= base.offset)
        return [self._completed(ArchiveEntry(at, chains.get(at, 0), None, None)) for at in offsets]

    def _completed(self, entry: ArchiveEntry) -> ArchiveEntry:
        lane_id, seq = self.lasts.get(entry.offset, (entry.lane_id, entry.seq))
        return entry._replace(key=self.keys.get(entry.offset, entry.key), lane_id=lane_id, seq=seq)


def erased_facts(keys: Keys, run_id: str, after: int) -> Operation[ErasedFacts]:
    """What is known of a run's events after an offset, of which some were erased or truncated."""
    run = keys.run(run_id)
    (meta,) = yield Exchange([(b"HGETALL", run.meta)])
    with parsing(run):
        lasts = {last: (lane, seq) for lane, (last, seq) in lane_marks(parse_map(meta)).items()}
    found: dict[int, str] = {}
    chains: dict[int, int] = {}
    at = b"0"
    while True:
        (reply,) = yield Exchange([(b"HSCAN", run.keys, at, b"COUNT", _KEYS_AT_ONCE)], tolerant=True)
        if isinstance(reply, Refusal):
            if reply.is_denied:
                raise reply.error
            return ErasedFacts(lasts, found, chains)  # of another type: whoever looks for a key is told
        at, page = reply
        for key, cursor in parse_map(page).items():
            with suppress(ValueError):
                if (there := parse_cursor(cursor)).offset > after:
                    found[there.offset], chains[there.offset] = key.decode(), there.chain
        if int(at) == 0:
            return ErasedFacts(lasts, found, chains)
