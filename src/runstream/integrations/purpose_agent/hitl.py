"""The checkpoints of purpose-agent's HITLOrchestrator in a store, in place of its directory."""

from __future__ import annotations

import copy
import errno
import hashlib
import inspect
import re
from collections.abc import Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from runstream.codec.stored_fields import EventFields
from runstream.integrations.purpose_agent.checks import check_store, purpose_agent
from runstream.model.errors import ConfigurationError, EncodingError, EventRefused
from runstream.model.events import EventKind, Visibility
from runstream.model.identifiers import check_run_id, shown
from runstream.model.protocols import Leased
from runstream.model.results import Recorded
from runstream.operations.filters import field_of, lane_of, payload_of, text_of
from runstream.stores.facade import Store

if TYPE_CHECKING:
    from purpose_agent.hitl import Checkpoint

__all__ = ["HITLCheckpoints"]

H = TypeVar("H")

_LANE = "hitl"
_KIND = EventKind.CHECKPOINT_SAVED.value
_REFERENCE = re.compile(r"(.*)@([1-9][0-9]{0,14})", re.DOTALL)


class HITLCheckpoints:
    """The checkpoints of one task of purpose-agent's ``HITLOrchestrator``, as events of a run.

    Each is an event ``checkpoint.saved`` of the lane ``hitl``, which is its own; other lanes may have whatever
    belongs to the run. It is kept when ``save`` returns. Processes may save at once: none takes another's place,
    not even under the same id. Threads may share it.

    Args:
        store: Where they go; it stays the caller's to close.
        run_id: The run: one for each task that is to be resumed.
        session_id: The session of that run, if it begins here.
        lease: What its writes are valid under; None: no lease.

    Raises:
        ConfigurationError: The store is none, or an async one.
        InvalidRunId: The id cannot name a run.
    """

    def __init__(
        self, store: Store[Any, Any], run_id: str, *, session_id: str = "", lease: Leased | None = None
    ) -> None:
        check_store(store)
        check_run_id(run_id)
        self._store = store
        self._run_id = run_id
        self._session_id = session_id
        self._lease = lease

    def __repr__(self) -> str:
        """The run, and the store that it is in."""
        return f"<HITLCheckpoints of {self._run_id!r} in {self._store!r}>"

    def __format__(self, spec: str) -> str:
        """Refuse to be a part of a path, which an orchestrator that has this as its directory would make of it."""
        raise ConfigurationError(f"{self!r} is no directory: attach(orchestrator) lets an orchestrator save here")

    def attach(self, orchestrator: H) -> H:
        """Let an orchestrator save its checkpoints here, list these, and resume from them.

        Its ``run_task`` then takes what ``load`` takes for ``resume_from``, beside its own files and Checkpoints.

        Args:
            orchestrator: A ``HITLOrchestrator``. A ``checkpoint_dir`` that it has is not written to any more.

        Returns:
            The same orchestrator.

        Raises:
            ConfigurationError: It is none.
        """
        kind: Any = type(orchestrator)
        if not callable(getattr(kind, "_save_checkpoint", None)):
            raise ConfigurationError(f"{shown(orchestrator)} is no HITLOrchestrator of purpose-agent")
        attached: Any = orchestrator

        def save_checkpoint(*args: Any, **options: Any) -> Checkpoint:
            unsaved = copy.copy(attached)  # without a directory it makes a checkpoint and writes nothing
            unsaved.checkpoint_dir, unsaved._checkpoints = None, []
            checkpoint: Checkpoint = kind._save_checkpoint(unsaved, *args, **options)
            self.save(checkpoint)
            attached._checkpoints.append(checkpoint)
            return checkpoint

        @wraps(kind.run_task)
        def run_task(*args: Any, **options: Any) -> Any:
            given = inspect.signature(kind.run_task).bind(attached, *args, **options)
            resume_from = given.arguments.get("resume_from")
            if isinstance(resume_from, str) and resume_from:
                given.arguments["resume_from"] = self._find(resume_from) or resume_from
            return kind.run_task(*given.args, **given.kwargs)

        attached.checkpoint_dir = self  # what is true makes it save
        attached._save_checkpoint = save_checkpoint
        attached.list_checkpoints = self.list_checkpoints
        attached.run_task = run_task
        return orchestrator

    def save(self, checkpoint: Checkpoint) -> str:
        """Record a checkpoint as it is now. One that is equal to one that is recorded is not written again.

        Args:
            checkpoint: The checkpoint.

        Returns:
            What names it, and no other: ``ID@OFFSET``, for ``load`` and ``resume_from``.

        Raises:
            EncodingError: It is no Checkpoint, or has what cannot be stored; PayloadTooLarge where it is over the
                store's limit.
            LeaseHeld: Somebody else's lease on the lane ``hitl``, or on the run, is in the way.
            LeaseLost: The lease has passed on or run out.
            StoreUnavailable: It may be recorded or not: save it again, from any process.
            RunstreamError: What the store's ``append`` raises.
        """
        if not isinstance(checkpoint, _checkpoint_type()):
            raise EncodingError(f"{shown(checkpoint)} is no Checkpoint of purpose-agent")
        fields = {
            "run_id": self._run_id,
            "session_id": self._session_id,
            "lane_id": _LANE,
            "span_id": "",
            "parent_span_id": None,
            "seq": checkpoint.step_index,
            "ts": checkpoint.timestamp,
            "kind": _KIND,
            "visibility": Visibility.INTERNAL.value,
            "payload": dict(vars(checkpoint)),
        }
        if type(checkpoint.checkpoint_id) is not str:
            raise EncodingError("checkpoint_id is a string", path="checkpoint_id")
        # what it holds is its key: its id has a step and a second in it, which two processes may share
        (encoded,) = self._store._operations.codec.encode_events(self._run_id, [EventFields(fields)])
        digest = hashlib.sha256(encoded.record).hexdigest()
        event: Any = EventFields({**fields, "span_id": digest[:12]})
        appended = self._store.append(self._run_id, [event], keys=[f"hitl:{digest}"], lease=self._lease)
        return _reference(checkpoint.checkpoint_id, appended.first_offset)

    def load(self, checkpoint_id: str) -> Checkpoint:
        """The checkpoint of this name.

        Args:
            checkpoint_id: What ``save`` returned and ``list_checkpoints`` gives as ``file``; or an id, for the one
                of this id that was saved last.

        Raises:
            FileNotFoundError: There is none, as ``Checkpoint.load`` has it for a file.
            ConfigurationError: It is no string, or an empty one.
            EventRefused: purpose-agent's class for checkpoints refuses what is recorded.
            RunstreamError: What the store's ``read`` raises.
        """
        if not isinstance(checkpoint_id, str) or not checkpoint_id:
            raise ConfigurationError(f"checkpoint_id={shown(checkpoint_id)}: pass the id of a checkpoint")
        found = self._find(checkpoint_id)
        if found is None:
            raise FileNotFoundError(
                errno.ENOENT, f"run {self._run_id!r:.80} has no such checkpoint", checkpoint_id
            )
        return found

    def latest(self) -> Checkpoint | None:
        """The checkpoint that was saved last, by whichever process; None if there is none.

        Raises:
            EventRefused: purpose-agent's class for checkpoints refuses what is recorded.
            RunstreamError: What the store's ``read`` raises.
        """
        item = next(self._saved(reverse=True), None)
        return None if item is None else self._made(item)

    def list_checkpoints(self) -> list[dict[str, Any]]:
        """All checkpoints, in the order in which they were saved.

        Returns:
            Of each its ``step``, its ``id``, its ``timestamp``, and as ``file`` what ``load`` and ``resume_from``
            take for this one alone.

        Raises:
            RunstreamError: What the store's ``read`` raises.
        """
        listed = []
        for item in self._saved():
            payload = payload_of(item.event)
            name = payload.get("checkpoint_id")
            listed.append(
                {
                    "file": _reference(name, item.offset),
                    "step": payload.get("step_index"),
                    "id": name,
                    "timestamp": payload.get("timestamp"),
                }
            )
        return listed

    # -- inside ------------------------------------------------------------------------------------

    def _saved(self, **where: Any) -> Iterator[Recorded[Any]]:
        for item in self._store.read(self._run_id, **where):
            if lane_of(item.event) == _LANE and text_of(field_of(item.event, "kind")) == _KIND:
                yield item

    def _find(self, name: str) -> Checkpoint | None:
        if parts := _REFERENCE.fullmatch(name):
            for item in self._saved(after=int(parts[2]) - 1, limit=1):
                if payload_of(item.event).get("checkpoint_id") == parts[1]:
                    return self._made(item)
        for item in self._saved(reverse=True):
            if payload_of(item.event).get("checkpoint_id") == name:
                return self._made(item)
        return None

    def _made(self, item: Recorded[Any]) -> Checkpoint:
        kind, payload = _checkpoint_type(), payload_of(item.event)
        try:
            checkpoint: Checkpoint = kind(**payload)
        except TypeError as error:
            raise EventRefused(
                f"the checkpoint at offset {item.offset} of run {self._run_id!r:.80} reads, and"
                f" {kind.__qualname__} refuses it: {error}",
                run_id=self._run_id,
                offset=item.offset,
                event_type=kind.__qualname__,
                fields=payload,
            ) from error
        return checkpoint


def _reference(name: Any, offset: int) -> str:
    return f"{name}@{offset}"


def _checkpoint_type() -> Any:
    return purpose_agent("hitl").Checkpoint
