"""Import threads from a file of langgraph-checkpoint-sqlite: all of their history, each checkpoint once.

Values are taken over as the bytes that they are: no class of the user's is imported, and none is needed. Each
checkpoint has its id as a key, so an import that was broken off, or whose file has grown, goes on where it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from runstream.integrations.imported import Imported, Notes, Unreadable
from runstream.integrations.langgraph.base import CACHE_BYTES
from runstream.integrations.langgraph.known import Known
from runstream.integrations.langgraph.loading import find_following, find_said, load, written_in
from runstream.integrations.langgraph.mapping import Place
from runstream.integrations.langgraph.saved import Written
from runstream.integrations.langgraph.saver import RunstreamSaver
from runstream.integrations.langgraph.saving import put, save_written
from runstream.integrations.langgraph.threads_file import CheckpointRow, ThreadsFile
from runstream.integrations.langgraph.upstream import Ext, JsonPlusSerializer
from runstream.integrations.langgraph.values import Values
from runstream.model.errors import (
    ConcurrencyConflict,
    CorruptRecordError,
    DurabilityNotReached,
    RunstreamError,
    StoreUnavailable,
)

__all__ = ["ThreadsImporter"]


class ThreadsImporter:
    """Saves the threads of a file in a store.

    Args:
        saver: A saver over the store.
        strict: Raise CorruptRecordError at the first row that does not read.
        dry_run: Write nothing.
        on_progress: Called with how many more rows are done.
        on_unreadable: Called with each row that does not read.
    """

    def __init__(
        self,
        saver: RunstreamSaver,
        *,
        strict: bool = False,
        dry_run: bool = False,
        on_progress: Callable[[int], None] = lambda _: None,
        on_unreadable: Callable[[Unreadable], None] = lambda _: None,
    ) -> None:
        self._runner = saver.store._runner
        self._context = saver._context._replace(values=Values(_UNTOUCHED), known=Known(CACHE_BYTES))
        self._dry_run = dry_run
        self._notes = Notes(strict, on_progress, on_unreadable)

    def run(self, source: ThreadsFile, thread_id: str) -> Imported:
        """Save what the store lacks of a thread. Doing it twice changes nothing more.

        Args:
            source: The file.
            thread_id: The thread.

        Returns:
            How much of it the store has now; a thread that has gone on there by itself is refused.

        Raises:
            StoreUnavailable: The same call is safe to make again.
            DurabilityNotReached: Likewise: it goes on after what was written.
            CorruptRecordError: With ``strict``, a row does not read.
        """
        done = Imported(thread_id)
        try:
            self._import(source, thread_id, done)
        except (StoreUnavailable, DurabilityNotReached, CorruptRecordError):
            raise
        except RunstreamError as error:
            done.refused = str(error)
        return done

    def _import(self, source: ThreadsFile, thread_id: str, done: Imported) -> None:
        names = source.names(thread_id)
        places = [(Place(thread_id, namespace), name) for namespace, name in names]
        keys = [place.key(name) for place, name in places]
        found = self._runner.run(self._context.operations.find(thread_id, keys))
        there = dict(zip(places, found, strict=True))
        if None in found:
            self._check_is_from_here(thread_id, {place for place, _ in places}, set(places))
        for row in source.checkpoints(thread_id, names):
            place = Place(thread_id, row.namespace)
            self._take(row, place, done, there[place, row.id])

    def _check_is_from_here(self, thread_id: str, places: set[Place], named: set[tuple[Place, str]]) -> None:
        """Raise ConcurrencyConflict if the thread has gone on in the store: what is missing would come after."""
        for place in places:
            loaded = self._runner.run(load(self._context, place))
            if loaded is not None and (place, loaded.head.saved.id) not in named:
                raise ConcurrencyConflict(
                    f"thread {thread_id!r} is in the store already and has gone on there, from checkpoint"
                    f" {loaded.head.saved.id!r}: nothing more of it was imported; import it into another store, or"
                    " delete the thread there",
                    expected=0,
                    actual=loaded.head.offset,
                )

    def _take(self, row: CheckpointRow, place: Place, done: Imported, offset: int | None) -> None:
        """Save what the store lacks of a checkpoint, whose event it has at an offset, or not at all (None)."""
        done.events += (row.saved is not None) + len(row.writes)
        try:
            written = _written(row, self._context.values)
            checkpoint = None if row.saved is None else _UNTOUCHED.loads_typed(row.saved)
            metadata = row.load_metadata()
        except (ValueError, TypeError, NotImplementedError) as error:
            done.unreadable += 1
            self._notes.take(Unreadable(f"thread {place.thread_id!r}, checkpoint {row.id!r}", str(error)))
            return
        if checkpoint is not None and offset is not None:
            done.there += 1
        elif checkpoint is not None:
            done.added += 1
            self._save(place, row.parent, checkpoint, metadata)
        lacking = _lacking(written, self._written_there(place, row.id, offset) if offset or not checkpoint else [])
        added = sum(len(each.writes) for each in lacking)
        done.there += len(row.writes) - added
        done.added += added
        for each in lacking:
            if not self._dry_run:
                self._runner.run(save_written(self._context, place, each))
        for _ in range((row.saved is not None) + len(row.writes)):
            self._notes.take(None)

    def _save(self, place: Place, parent: str | None, checkpoint: Any, metadata: dict[str, Any]) -> None:
        if self._dry_run:
            return
        config: Any = {"configurable": {"thread_id": place.thread_id, "checkpoint_ns": place.namespace}}
        if parent is not None:
            config["configurable"]["checkpoint_id"] = parent
        # none is said to be new: what has the version that it has in the parent is the same
        self._runner.run(put(self._context, config, checkpoint, metadata, {}, anywhere=True))

    def _written_there(self, place: Place, checkpoint_id: str, offset: int | None) -> list[Written]:
        """What the store has of what was written after a checkpoint, whose event it has at an offset."""
        said = self._runner.run(find_said(self._context, [(place, checkpoint_id)]))[place, checkpoint_id]
        if offset is None:
            return written_in(said)
        following = self._runner.run(find_following(self._context, place, checkpoint_id, offset))
        return [*following, *written_in(said)]


class _AsItIs:
    """A value of the old JSON serializer, whose classes are not looked for."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Untouched:
    """LangGraph's serializer, for which an object of any class is the bytes that it is in the file."""

    def __init__(self) -> None:
        self._serde = JsonPlusSerializer(__unpack_ext_hook__=Ext)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """A value; its objects are not made. Raises NotImplementedError for one that was pickled or encrypted."""
        kind, content = data
        if kind != "json":
            return self._serde.loads_typed((kind, bytes(content)))
        found = json.loads(content)
        if isinstance(found, dict) and "channel_values" in found:  # it is a checkpoint
            found["channel_values"] = {name: _AsItIs(each) for name, each in found["channel_values"].items()}
            return found
        return _AsItIs(found)

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """What the value was loaded from."""
        if isinstance(obj, _AsItIs):
            return "json", json.dumps(obj.value).encode()
        return self._serde.dumps_typed(obj)


_UNTOUCHED = _Untouched()


def _written(row: CheckpointRow, values: Values) -> list[Written]:
    """What tasks wrote after a checkpoint, task by task."""
    tasks: dict[tuple[str, str], list[list[Any]]] = {}
    for write in row.writes:
        value = values.dump(_UNTOUCHED.loads_typed((write.kind, write.data)))
        tasks.setdefault((write.task_id, write.task_path), []).append([write.number, write.channel, value])
    return [Written(row.id, *task, writes) for task, writes in tasks.items()]


def _lacking(written: list[Written], there: list[Written]) -> list[Written]:
    """What was written and is not there already."""
    has = {(each.task_id, index): (channel, value) for each in there for index, channel, value in each.writes}
    found = []
    for each in written:
        new = [write for write in each.writes if has.get((each.task_id, write[0])) != (write[1], write[2])]
        # of what a task writes the first counts; its interrupts and answers may be others by now
        new = [write for write in new if write[0] < 0 or (each.task_id, write[0]) not in has]
        if new:
            found.append(each._replace(writes=new))
    return found
