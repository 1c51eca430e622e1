"""Import runs into a store: each event once, also when it is repeated, and nothing over what others wrote.

What the store has of a run is compared by its chain: made from the source's own events, it proves with one number
that they are, to the last byte, those that are there. So an import that was broken off goes on after what it has
appended, and one that was completed finds nothing to do, without a mark in the store that says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.lossless_json import dump_json, load_json
from runstream.codec.record import record_crc
from runstream.codec.snapshot_fields import pack_state
from runstream.codec.stored import STORED_PACKER
from runstream.codec.stored_fields import EventFields, StateFields
from runstream.codec.upcasts import without_mark
from runstream.history.archived import ArchivedHistory
from runstream.history.base import History
from runstream.history.hot import HotHistory
from runstream.integrations.imported import Imported, Notes, Unreadable
from runstream.integrations.purpose_agent.source import Item, SourceEvent, SourceRun, SourceSnapshot
from runstream.model.errors import (
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    DurabilityNotReached,
    EncodingError,
    EventRefused,
    EventsArchived,
    InvalidRunId,
    RunstreamError,
    StoreUnavailable,
)
from runstream.model.identifiers import check_run_id
from runstream.model.results import Cursor
from runstream.model.state import ENDED_STATUSES, status_after
from runstream.stores.capabilities import Archive, MarksRecovered, part_of
from runstream.stores.facade import Store
from runstream.stores.redis.namespace import Namespace

__all__ = ["CODEC", "Importer"]

_BATCH = 500
_BATCH_BYTES = 4 * 2**20

CODEC: Codec[Any, Any] = Codec(state_type=dict, fallback=None, limits=False)
"""What has been stored once is stored again, whatever the limits of the store at hand."""


class Importer:
    """Appends runs of a source to a store.

    Args:
        store: A Redis store or an archive, opened with ``state_type=dict``: a state may be of any class.
        strict: Raise CorruptRecordError at the first line or row that does not read.
        dry_run: Write nothing.
        on_progress: Called with how many more events are done.
        on_unreadable: Called with each line or row that does not read.

    Raises:
        ConfigurationError: The store is gone when the process is, or is another one than these.
    """

    def __init__(
        self,
        store: Store[Any, Any],
        *,
        strict: bool = False,
        dry_run: bool = False,
        on_progress: Callable[[int], None] = lambda _: None,
        on_unreadable: Callable[[Unreadable], None] = lambda _: None,
    ) -> None:
        self._target = _Target(store)
        self._dry_run = dry_run
        self._notes = Notes(strict, on_progress, on_unreadable)

    def run(self, source: SourceRun) -> Imported:
        """Append what the store lacks of a run, and save its states. Doing it twice changes nothing more.

        Where the store has another run of this name, or somebody else writes to it meanwhile, or holds its lease,
        the run is refused, and what was appended until then stays.

        Args:
            source: The run.

        Returns:
            How much of it the store has now.

        Raises:
            StoreUnavailable: The same call is safe to make again.
            DurabilityNotReached: Likewise: it goes on after what was written.
            CorruptRecordError: With ``strict``, a line or row does not read.
        """
        done = Imported(source.run_id)
        try:
            check_run_id(source.run_id)
            _Import(self._target, source, done, self._notes.take, dry_run=self._dry_run).run()
        except (StoreUnavailable, DurabilityNotReached, ConfigurationError, CorruptRecordError):
            raise
        except RunstreamError as error:
            done.refused = str(error)
        return done


class _Target:
    """The store that is imported into, and the parts of it that this takes."""

    def __init__(self, store: Store[Any, Any]) -> None:
        namespace, archive = part_of(store, Namespace), part_of(store, Archive)
        marks = part_of(store, MarksRecovered)
        if (namespace is None) == (archive is None) or marks is None:
            raise ConfigurationError("import into a Redis store (redis:, embedded:), or into sqlite: or jsonl:")
        self.store = store
        self._namespace = namespace
        self._archive = archive
        self._marks = marks

    def load_history(self, run_id: str) -> History | None:
        """What the store has of a run now."""
        if self._archive is not None:
            return ArchivedHistory.load(self._archive, run_id)
        return None if self._namespace is None else HotHistory.load(self._namespace, run_id)

    def mark_recovered(self, run_id: str, offset: int, lane_id: str | None) -> None:
        """Let the next snapshot cover the events up to an offset."""
        self.store._runner.run(self._marks.mark_recovered(run_id, offset, lane_id))


class _Import:
    """The import of one run."""

    def __init__(
        self,
        target: _Target,
        source: SourceRun,
        done: Imported,
        note: Callable[[Unreadable | None], None],
        *,
        dry_run: bool,
    ) -> None:
        self._target = target
        self._store = target.store
        self._source = source
        self._run_id = source.run_id
        self._done = done
        self._note = note
        self._dry_run = dry_run
        self._there = target.load_history(source.run_id)
        self._at = Cursor(0, 0) if self._there is None else self._there.header.start
        self._last = self._at if self._there is None else self._there.last
        self._sent = self._last.offset
        self._status: str | None = None
        self._batch: list[SourceEvent] = []
        self._batch_bytes = 0

    def run(self) -> None:
        """Append what is new, then save the states."""
        for item in self._source.events():
            self._take(item)
        states = [state for state in map(self._checked, self._source.snapshots()) if state is not None]
        if self._there is not None and self._at.offset < self._last.offset:
            # the run has gone on here, and from what the source has, or it is another one
            self._check(self._there.at(self._at.offset))
            return
        states = [state for state in states if self._is_wanted(state)]
        self._done.snapshots = len(states)
        of_run = next((state for state in states if state.lane_id is None), None)
        tail: list[SourceEvent] = []
        if of_run is not None and of_run.is_older and self._status in ENDED_STATUSES:
            tail = _from_last_word(self._batch)
        self._send(self._batch[: len(self._batch) - len(tail)], of_run)
        self._send(tail, None)
        for state in states:
            if state.lane_id is not None:
                self._send([], state)

    def _take(self, item: Item) -> None:
        """Take one line or row of the source."""
        if isinstance(item, Unreadable):
            self._unreadable(item)
            return
        try:
            (encoded,) = CODEC.encode_events(self._run_id, [EventFields(item.fields)], [item.key])
        except (EncodingError, InvalidRunId) as error:
            self._unreadable(Unreadable(item.where, str(error)))
            return
        self._at = Cursor(self._at.offset + 1, next_chain(self._at.chain, record_crc(encoded.record)))
        self._status = status_after([encoded.kind]) or self._status
        self._done.events += 1
        self._note(None)
        if self._at.offset <= self._last.offset:
            self._done.there += 1
            if self._at.offset == self._last.offset:
                self._check(self._last)
            return
        # the last batch is kept back: the state goes with it
        if len(self._batch) == _BATCH or self._batch_bytes > _BATCH_BYTES:
            self._send(self._batch, None)
            self._batch, self._batch_bytes = [], 0
        self._batch.append(item)
        self._batch_bytes += len(encoded.record)

    def _checked(self, found: SourceSnapshot | Unreadable) -> SourceSnapshot | None:
        """The state, if it is one that can be saved."""
        if isinstance(found, SourceSnapshot):
            try:
                pack_state(STORED_PACKER, CODEC.snapshot_fields(self._run_id, StateFields(found.fields)))
            except (EncodingError, InvalidRunId) as error:
                found = Unreadable(found.where, str(error))
            else:
                return found
        self._unreadable(found)
        return None

    def _unreadable(self, found: Unreadable) -> None:
        self._done.unreadable += 1
        self._note(found)

    def _check(self, there: Cursor | None) -> None:
        """Raise ConcurrencyConflict unless what the store has up to here is what the source has."""
        if there == self._at:
            return
        offset = self._at.offset
        what = "has other events" if there is not None else "has gone on, and cannot tell any more what it had"
        raise ConcurrencyConflict(
            f"run {self._run_id!r} is in the store already and {what} up to offset {offset}: nothing of it was"
            " imported; import it into another store, or delete the run there",
            expected=self._at.offset,
            actual=self._last.offset,
        )

    def _is_wanted(self, state: SourceSnapshot) -> bool:
        """Whether to save a state: not over an equal one, nor, where no event is new, over one that is newer."""
        grows = self._at.offset > self._last.offset
        try:
            saved = self._store.load_snapshot(self._run_id, lane_id=state.lane_id)
        except EventsArchived:  # the run was retired
            return grows
        except CorruptRecordError:
            return True
        except EventRefused as error:  # it is sound: it is compared as it is stored
            held: Any = error.fields
        else:
            if saved is None:
                return True
            held = saved.state
        if _comparable(held) == _comparable(without_mark(state.fields)):
            return False
        return grows or (self._there is not None and state.saved_at > self._there.header.updated_at)

    def _send(self, events: Sequence[SourceEvent], state: SourceSnapshot | None) -> None:
        """Append events and a state right after what the store has, or not at all."""
        if not events and state is None:
            return
        self._done.added += len(events)
        if self._dry_run:
            return
        lane_id = None if state is None else state.lane_id
        if state is not None and (self._there is not None or self._sent):
            with suppress(EventsArchived, CorruptRecordError, EventRefused):
                self._store.load_snapshot(self._run_id, lane_id=lane_id)
            # it was compared, or appended here: what the source's state covers, this one does
            self._target.mark_recovered(self._run_id, self._sent, lane_id)
        appended = self._store.append(
            self._run_id,
            [EventFields(event.fields) for event in events],
            expected_offset=self._sent,
            keys=[event.key for event in events],
            snapshot=None if state is None else StateFields(state.fields),
            lane_id=lane_id,
        )
        if appended.last_offset != self._sent + len(events):
            raise ConcurrencyConflict(
                f"run {self._run_id!r} has events with keys of those that were to come after offset {self._sent}:"
                " somebody else has written them; import it into another store, or delete the run there",
                expected=self._sent + len(events),
                actual=appended.last_offset,
            )
        self._sent = appended.last_offset


def _from_last_word(events: Sequence[SourceEvent]) -> list[SourceEvent]:
    """The events from the last one on that changes the run's status; none if no event does."""
    for index in range(len(events) - 1, -1, -1):
        if status_after([str(events[index].fields.get("kind"))]) is not None:
            return list(events[index:])
    return []


def _comparable(state: Any) -> bytes:
    """A state's value packed, in which the order of its keys does not count."""
    return STORED_PACKER.pack(load_json(json.dumps(json.loads(dump_json(state)), sort_keys=True)))
