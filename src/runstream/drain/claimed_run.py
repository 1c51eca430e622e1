"""A claimed run, and the chunks of it that are archived one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from operator import eq
from shlex import quote
from typing import NamedTuple, TypeAlias

from runstream.codec.archive_entries import archive_pages
from runstream.codec.chain import next_chain
from runstream.codec.record import record_crc
from runstream.model.archive_records import (
    ArchiveEntry,
    ArchiveSnapshot,
    PlainEntries,
    Position,
    RunBatch,
    joined,
    last_cursor,
)
from runstream.model.erasures import ErasureNote
from runstream.model.errors import ArchiveGap, HistoryDiverged, UnsupportedVersion
from runstream.model.results import Cursor
from runstream.model.run_head import UNKNOWN_TOKEN
from runstream.model.state import ENDED_STATUSES, RunStatus
from runstream.model.tags import TagSet
from runstream.stores.archive.eraser import without_erased
from runstream.stores.redis.operations.worker.drain import LanesAfter
from runstream.stores.redis.operations.worker.erased_facts import ErasedFacts
from runstream.stores.redis.operations.worker.hot_run import HotRun
from runstream.stores.redis.operations.worker.load import LoadedEntries, LoadRequest

__all__ = ["Chunk", "ClaimedRun", "Erased", "Positions", "explain_parking", "until_mended"]

Positions: TypeAlias = Sequence[tuple[str, Position | None]]
"""The location of each archive and how far it has a run, in the order of the worker's sinks."""


def explain_parking(error: ArchiveGap | HistoryDiverged) -> str:
    """Say why a run is parked that an archive cannot take, and what to do about it."""
    if isinstance(error, HistoryDiverged):
        return f"{error}; decide which is to be the run's: `runstream resolve {quote(error.run_id)}`"
    return f"{error}; bring the archive back that has it, then: `runstream unpark {quote(error.run_id)}`"


def until_mended(reason: str, run_id: str) -> str:
    """Say why a run is parked until what the reason names is put right, and what to do then."""
    return f"{reason}; once that is put right: `runstream unpark {quote(run_id)}`"


class Erased(NamedTuple):
    """What has become of the erasures of a run.

    Attributes:
        number: The number of the last one that is done in Redis and in every archive; 0: of those that were asked
            for, some are not.
        notes: What was asked for.
        refusal: Why it cannot be done in an archive as that is now; '' if it can.
        hindrance: Why it is not done everywhere yet, which passes; '' if it is.
        unknown: Why Redis cannot be asked for what an archive has erased and it does not know; '' if it knows all.
    """

    number: int = 0
    notes: Sequence[ErasureNote] = ()
    refusal: str = ""
    hindrance: str = ""
    unknown: str = ""


_NOTHING_ERASED = Erased()


@dataclass(slots=True)
class ClaimedRun:
    """A claimed run on its way into the archives.

    Attributes:
        run: The run as it was loaded.
        positions: How far each archive has it.
        proven: The cursor up to which it is archived and proven.
        lanes: The lanes (None: the run itself) whose snapshots are still to be archived.
        tags: Whether its tags are.
        erased: What has become of its erasures.
        facts: What Redis knows of those of its events that were erased; None: that was not asked for.
        former: What is left of those that were truncated, for an archive that has not got the run.
    """

    run: HotRun
    positions: Positions
    proven: Cursor
    lanes: Sequence[str | None]
    tags: bool = False
    erased: Erased = _NOTHING_ERASED
    facts: ErasedFacts | None = None
    former: Sequence[ArchiveEntry] = ()

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.run.run_id

    @property
    def left(self) -> int:
        """How many entries are not proven yet."""
        return self.run.head.last.offset - self.proven.offset

    def completed(self, entries: Sequence[ArchiveEntry]) -> Sequence[ArchiveEntry]:
        """These entries, each that was erased with what is known of it."""
        if self.facts is None or isinstance(entries, PlainEntries):
            return entries
        return self.facts.complete(entries)

    def next_request(self, room: int) -> LoadRequest:
        """What to load next, at most ``room`` entries; the snapshots come with the last of them."""
        count = min(room, self.left)
        lanes = self.lanes if count == self.left else ()
        first, last = self.proven.offset + 1, self.proven.offset + count
        tags = self.tags and count == self.left
        return LoadRequest(self.run_id, first, last, lanes, self.run.head.largest, tags, self.run.head.origins)

    def advance(self, end: Cursor, noted_to: int) -> None:
        """Go on after a chunk was settled: the mark and the positions are now as this worker has left them."""
        self.proven = end
        head = replace(self.run.head, mark=max(self.run.head.mark, end))
        self.run = replace(self.run, head=head, noted_to=noted_to)
        self.positions = [
            (
                location,
                Position(end, erasures=len(self.erased.notes))
                if held is None
                else replace(held, cursor=max(held.cursor, end)),
            )
            for location, held in self.positions
        ]

    @classmethod
    def begin(cls, run: HotRun, positions: Positions) -> ClaimedRun:
        """Begin to archive a run.

        It begins at the archived mark, or before it where an archive is behind: what others wrote
        after the mark is not proven yet, and neither are snapshots that no settling has noted as proven.

        Args:
            run: The run as it was loaded.
            positions: How far each archive has it.

        Raises:
            HistoryDiverged: An archive is ahead of Redis.
        """
        head = run.head
        proven = head.mark
        held: list[Mapping[str | None, str]] = []
        for location, position in positions:
            cursor = head.before_first if position is None else position.cursor
            if cursor.offset > head.last.offset or (cursor.offset == head.last.offset and cursor != head.last):
                raise HistoryDiverged(
                    f"{location} has run {run.run_id!r} up to {cursor}, Redis up to {head.last}: events were"
                    " lost in Redis, or the run was deleted there and made anew; both are kept",
                    run_id=run.run_id,
                    offset=cursor.offset,
                )
            proven = min(proven, cursor)
            held.append({} if position is None else position.snapshots)
        held.append(run.proven_tokens)
        lanes = [lane for lane, token in head.tokens.items() if any(h.get(lane) != token for h in held)]
        version = head.tags.version
        of_tags = {run.proven_tags, *("" if position is None else position.tags for _, position in positions)}
        return cls(run, positions, proven, lanes, bool(version) and of_tags != {version})


@dataclass(slots=True)
class Chunk:
    """What is written, read back and settled of a run in one go.

    Attributes:
        claimed: The run.
        entries: Its next entries.
        status: The run's status: a snapshot that was saved since the run was loaded may have changed it.
        last: The offset of the run's last event when that was its status.
        snapshots: The snapshots that go with them.
        broken: The lanes whose snapshots do not read, with why.
        blocked: Why the run cannot go on after this chunk, a record of a newer version; '' if it can.
        fresh_bytes: The size of the records after the mark.
        tags: The tags that go with them; None: those are archived.
        later: The lanes of which an archive has a later snapshot than these.
    """

    claimed: ClaimedRun
    entries: Sequence[ArchiveEntry]
    status: str
    last: int
    snapshots: list[ArchiveSnapshot] = field(default_factory=list)
    broken: Mapping[str | None, str] = field(default_factory=dict)
    blocked: str = ""
    fresh_bytes: int = 0
    tags: TagSet | None = None
    later: set[str | None] = field(default_factory=set)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.claimed.run_id

    @property
    def end(self) -> Cursor:
        """The cursor up to which the archives have the run when they have this chunk."""
        return last_cursor(self.entries) if self.entries else self.claimed.proven

    @property
    def is_last(self) -> bool:
        """Whether nothing that was there when the run was loaded is left after this chunk."""
        return not self.blocked and self.end.offset == self.claimed.run.head.last.offset

    @property
    def tokens(self) -> dict[str | None, str]:
        """The tokens of the snapshots that count as archived once this chunk is, by lane."""
        tokens = {**self.claimed.run.head.tokens, **{one.lane_id: one.token for one in self.snapshots}}
        return {lane: token for lane, token in tokens.items() if lane not in self.later}

    @property
    def tags_version(self) -> str:
        """The version of the tags that count as archived once this chunk is."""
        return (self.tags or self.claimed.run.head.tags).version

    @property
    def lanes(self) -> LanesAfter | None:
        """The lanes of its events; None where one does not tell, as its record does not read or was erased."""
        if isinstance(self.entries, PlainEntries):
            names = self.entries.columns[7]
        elif any(entry.kind is None for entry in self.entries):
            return None
        else:
            names = [entry.lane_id for entry in self.entries]
        return LanesAfter(self.claimed.proven.offset, dict.fromkeys(names))

    def batch(self, sink: int) -> RunBatch:
        """What an archive gets: the one of that index among the worker's sinks."""
        run, (_, position) = self.claimed.run, self.claimed.positions[sink]
        ends_later = self.status in ENDED_STATUSES and self.end.offset < self.last
        # who follows the archive goes on until it has what ended the run, too
        status = RunStatus.RUNNING.value if ends_later else self.status
        header = replace(run.header, status=status, tags=self.tags)
        # also of lanes that were opened again since: settling removes them; a fork at an earlier offset has them
        ends = run.ends.values() if self.is_last else ()
        return RunBatch(
            header,
            self.claimed.proven,
            self.entries,
            self.snapshots,
            ended=[end for end in ends if end in run.ended or end.token != UNKNOWN_TOKEN],
            tags_seen="" if position is None else position.tags,
            erasures_seen=len(self.claimed.erased.notes) if position is None else position.erasures,
            snapshots_seen=self.seen(sink),
            former=self.claimed.former if position is None else (),
        )

    def seen(self, sink: int) -> Mapping[str | None, str]:
        """The tokens of the snapshots that an archive had before these were loaded, by lane."""
        _, position = self.claimed.positions[sink]
        return {} if position is None else position.snapshots

    @classmethod
    def make(cls, claimed: ClaimedRun, request: LoadRequest, loaded: LoadedEntries) -> Chunk:
        """Make the chunk of what was loaded.

        Raises:
            ArchiveGap: Entries have left Redis unarchived.
            HistoryDiverged: What was loaded is not of the history that the run was claimed with.
        """
        chunk = cls(claimed, [], loaded.status, loaded.last, broken=loaded.broken)
        head = claimed.run.head
        if loaded.creation != head.creation:
            raise _diverged(claimed)
        chunk.entries, chunk.blocked = _entries(request, loaded)
        strange = _first_strange(claimed.proven.chain, chunk.entries, loaded.records)
        if strange == 0:  # what was loaded does not follow what is proven
            raise _diverged(claimed)
        if strange is not None:
            cursor = chunk.entries[strange].cursor
            chunk.entries = chunk.entries[:strange]
            chunk.blocked = (
                f"the record of event {cursor.offset} of run {claimed.run_id!r} is not the one that its cursor"
                f" {cursor} is of: it was changed in Redis, and nothing from there on was archived"
            )
        chunk.entries = without_erased(claimed.completed(chunk.entries), claimed.erased.notes)
        fresh = max(0, head.mark.offset + 1 - request.first)
        chunk.fresh_bytes = sum(map(len, loaded.records[fresh : len(chunk.entries)]))
        if chunk.blocked:
            return chunk
        last = request.first - 1 + len(chunk.entries)
        if last != loaded.upto:
            raise ArchiveGap(
                f"event {last + 1} of run {claimed.run_id!r} is neither in Redis nor in every archive: it was"
                " lost there, or trimmed for an archive that is not the one at hand",
                run_id=claimed.run_id,
                expected=last + 1,
                found=loaded.upto + 1,
            )
        chunk.tags = loaded.tags
        # one that was saved since the run was loaded may cover events that are not in this chunk
        chunk.snapshots = [snapshot for snapshot in loaded.snapshots if snapshot.offset <= head.last.offset]
        return chunk


def _entries(request: LoadRequest, loaded: LoadedEntries) -> tuple[Sequence[ArchiveEntry], str]:
    """The entries that were loaded as asked for, up to a gap; and why a record ends them, if one does."""
    offsets, chains = loaded.offsets_and_chains
    are_next = list(map(eq, offsets, count(request.first)))
    dense = are_next.index(False) if False in are_next else len(offsets)
    pages: list[Sequence[ArchiveEntry]] = []
    try:
        records = loaded.records[:dense]
        for page in archive_pages(request.run_id, offsets[:dense], chains[:dense], records, request.origins):
            pages.append(page)  # noqa: PERF402 - pages before a record of a newer version stay
    except UnsupportedVersion as error:
        return joined(pages), str(error)
    return joined(pages), ""


def _first_strange(before: int, entries: Sequence[ArchiveEntry], records: Sequence[bytes]) -> int | None:
    """The index of the first event whose record does not give its chain; a damaged record shows nothing."""
    chains = list(entries.columns[1] if isinstance(entries, PlainEntries) else (entry.chain for entry in entries))
    made = list(map(next_chain, [before, *chains], map(record_crc, records[: len(chains)])))
    if made == chains:
        return None
    strange = (i for i, entry in enumerate(entries) if made[i] != entry.chain and entry.data is not None)
    return next(strange, None)


def _diverged(claimed: ClaimedRun) -> HistoryDiverged:
    return HistoryDiverged(
        f"what Redis has of run {claimed.run_id!r} after {claimed.proven} does not follow from there: the run was"
        " deleted and made anew, or events were lost in Redis; nothing of it was written",
        run_id=claimed.run_id,
        offset=claimed.proven.offset,
    )
