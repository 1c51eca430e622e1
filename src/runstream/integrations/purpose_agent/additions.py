"""Append what purpose-agent's own writer added, in an archive, to runs that came by a drain.

There it took no offsets, which are Redis's to give. Appended to Redis it gets them, and comes back to the archive
with the next drain. Each event has a key that names it, so doing it twice adds nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from runstream.codec.stored_fields import EventFields, StateFields
from runstream.history.hot import HotHistory
from runstream.integrations.imported import Imported, Notes, Unreadable
from runstream.integrations.purpose_agent.importer import CODEC
from runstream.integrations.purpose_agent.source import SourceEvent, event_in, object_in
from runstream.model.errors import (
    ConfigurationError,
    CorruptRecordError,
    DurabilityNotReached,
    EncodingError,
    EventRefused,
    EventsArchived,
    HistoryDiverged,
    InvalidRunId,
    RunstreamError,
    StoreUnavailable,
)
from runstream.model.identifiers import one_of_kind
from runstream.operations.arguments import AppendOptions
from runstream.stores.capabilities import Archive, HoldsForeign, MarksRecovered, part_of
from runstream.stores.facade import Store
from runstream.stores.redis.namespace import Namespace

__all__ = ["Additions"]

_BATCH = 500


class Additions:
    """Appends, to the runs of a Redis store, what another program added to them in an archive.

    Args:
        store: The Redis store, opened with ``state_type=dict``.
        archive: The archive that is drained to from there.
        dry_run: Write nothing.
        strict: Raise CorruptRecordError at the first event that does not read.
        on_unreadable: Called with each event or state that does not read.

    Raises:
        ConfigurationError: The store is not Redis, or the archive is none.
    """

    def __init__(
        self,
        store: Store[Any, Any],
        archive: Store[Any, Any],
        *,
        dry_run: bool = False,
        strict: bool = False,
        on_unreadable: Callable[[Unreadable], None] = lambda _: None,
    ) -> None:
        namespace, marks = part_of(store, Namespace), part_of(store, MarksRecovered)
        if namespace is None or marks is None:
            raise ConfigurationError(
                "what was added beside a drain goes through Redis: name that store with --url"
            )
        kept, foreign = part_of(archive, Archive), part_of(archive, HoldsForeign)
        if kept is None or foreign is None:
            raise ConfigurationError(f"{one_of_kind(archive)} is no archive: pass a SQLite or JSONL store")
        self._store, self._namespace, self._marks = store, namespace, marks
        self._archive, self._foreign = kept, foreign
        self._dry_run = dry_run
        self._notes = Notes(strict, on_unreadable=on_unreadable)

    def run_ids(self) -> list[str]:
        """The runs to which something was added, and those that the archive refuses since it was."""
        added = [rows.run_id for rows in self._foreign.foreign() if rows.events or rows.has_state]
        return [*added, *self._foreign.refused()]

    def run(self, run_id: str) -> Imported:
        """Append what was added to a run, and save the state, unless something was written to the run after it.

        Args:
            run_id: The run.

        Returns:
            How much of it the run has now; why nothing more was added, where that is refused.

        Raises:
            StoreUnavailable: The same call is safe to make again.
            DurabilityNotReached: Likewise: it goes on after what was written.
            CorruptRecordError: With ``strict``, an event does not read.
        """
        done = Imported(run_id)
        try:
            there = self._find(run_id)
            known = self._keys(there) if self._dry_run else frozenset[str]()
            for batch in self._batches(done):
                self._append(done, batch, known)
            self._save(done, there)
        except (StoreUnavailable, DurabilityNotReached, ConfigurationError, CorruptRecordError):
            raise
        except RunstreamError as error:
            done.refused = str(error)
        return done

    def _find(self, run_id: str) -> HotHistory:
        """The run in Redis. Raises HistoryDiverged where it is not the one that the archive has."""
        there, header = HotHistory.load(self._namespace, run_id), self._archive.header(run_id)
        if there is not None and header is not None and there.header.start == header.start:
            return there
        raise HistoryDiverged(
            f"Redis has {'no' if there is None else 'another'} run {run_id!r}: nothing was added;"
            " `runstream restore` puts the archive's back",
            run_id=run_id,
            offset=0,
        )

    @staticmethod
    def _keys(there: HotHistory) -> frozenset[str]:
        return frozenset(entry.key for entry in there.entries(there.first - 1) if entry.key is not None)

    def _batches(self, done: Imported) -> Iterator[list[SourceEvent]]:
        batch: list[SourceEvent] = []
        for key, data in self._foreign.foreign_events(done.run_id):
            item = event_in(self._where(done.run_id, key), data, is_ours=False, key=key)
            if isinstance(item, SourceEvent):
                try:
                    CODEC.encode_events(done.run_id, [EventFields(item.fields)], [item.key])
                except (EncodingError, InvalidRunId) as error:
                    item = Unreadable(item.where, str(error), data)
            if isinstance(item, Unreadable):
                done.unreadable += 1
                self._notes.take(item)
                continue
            done.events += 1
            batch.append(item)
            if len(batch) == _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def _append(self, done: Imported, batch: Sequence[SourceEvent], known: frozenset[str]) -> None:
        keys = [item.key for item in batch]
        if self._dry_run:
            there = len(known.intersection(key for key in keys if key is not None))
        else:
            options: AppendOptions[Any] = AppendOptions(keys=keys)
            events = [EventFields(item.fields) for item in batch]
            there = len(
                self._store._runner.run(self._store._operations.append(done.run_id, events, options)).known
            )
        done.there += there
        done.added += len(batch) - there

    def _save(self, done: Imported, there: HotHistory) -> None:
        """Save the state that was put in the place of the run's, if nothing was written to the run after it."""
        run_id, state = done.run_id, self._foreign.foreign_state(done.run_id)
        if state is None or state.saved_at <= there.header.updated_at:
            return
        found = object_in(self._where(run_id, "state"), state.data, is_ours=False)
        if isinstance(found, Unreadable):
            done.unreadable += 1
            self._notes.take(found)
            return
        done.snapshots += 1
        if self._dry_run:
            return
        with suppress(EventsArchived, CorruptRecordError, EventRefused):
            self._store.load_snapshot(run_id)
        now = HotHistory.load(self._namespace, run_id) or there
        self._store._runner.run(self._marks.mark_recovered(run_id, now.last.offset, None))
        self._store.append(run_id, [], snapshot=StateFields(found))

    def _where(self, run_id: str, what: str) -> str:
        return f"{self._archive.location}, run {run_id!r}, {what}"
