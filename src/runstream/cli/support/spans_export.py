"""A run on its way to what takes spans: from where the last command left off, if that was noted."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from runstream.cli.support.output import say
from runstream.codec.archive_entries import entry_fields
from runstream.history.exported import Export
from runstream.history.merged import MergedRun
from runstream.integrations.opentelemetry.spans import Attributes, Link, RunIdentity, RunSpans, Span
from runstream.model.errors import ConfigurationError, CorruptRecordError, HistoryDiverged
from runstream.model.results import Cursor, RunInfo
from runstream.model.state import ENDED_STATUSES

__all__ = ["OTLP", "send_spans"]

OTLP = "otlp:"
"""What begins with this names a receiver, and no file."""

_BATCH = 512
_BATCH_BYTES = 4 * 2**20
"""What a request has at most before it is compressed, unless a single span is larger: receivers take no more than
some megabytes."""


class _Note(NamedTuple):
    """What a file says of how far a run was sent: an event's cursor, and whether the end was told after it."""

    run_id: str
    to: str
    cursor: str
    ended: bool

    @classmethod
    def read(cls, path: Path | None, run_id: str, to: str) -> _Note:
        """What the file says; nothing was sent where there is none.

        Raises:
            ConfigurationError: It is no such file, or of another run or receiver.
        """
        if path is None or not path.exists():
            return cls(run_id, to, "", ended=False)
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{path} is no note of what was sent: name another file") from error
        if (found.run_id, found.to) != (run_id, to):
            raise ConfigurationError(
                f"{path} notes what of run {found.run_id!r} was sent to {found.to}: name a file for each"
            )
        return found

    def write(self, path: Path) -> None:
        """Put it in the place of what the file says."""
        partial = path.with_name(f".{path.name[:150]}.{secrets.token_hex(6)}.partial")
        with partial.open("x", encoding="utf-8") as file:
            json.dump(self._asdict(), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


class Sent(NamedTuple):
    """How many spans were sent, and the name of the receiver."""

    spans: int
    to: str


def send_spans(exported: Export, info: RunInfo, to: str, noted_in: Path | None, *, has_content: bool) -> Sent:
    """Send the spans of a run that have ended since, and note after each batch how far that is.

    What the receiver says that it will never take is told and passed over: all others are sent.

    Args:
        exported: The run.
        info: What is known of it.
        to: The receiver's URL.
        noted_in: The file that says how far it was sent; None: from the beginning, and it is not noted.
        has_content: See :class:`~runstream.integrations.opentelemetry.spans.RunSpans`.

    Raises:
        ConfigurationError: The extra is missing, or the receiver refuses spans.
        HistoryDiverged: The run has another history than what was sent.
        StoreUnavailable: The receiver does not answer.
    """
    try:
        otlp = import_module("runstream.integrations.opentelemetry.otlp")
    except ImportError as error:
        raise ConfigurationError("spans need opentelemetry-proto; run: pip install 'runstream[otel]'") from error
    receiver = otlp.Receiver(to)
    sending = _Sending(receiver, noted_in)
    for last, found in _ended(
        exported, info, _Note.read(noted_in, info.run_id, receiver.name), has_content=has_content
    ):
        for span in found:
            sending.add(otlp.encoded(span))
        sending.last = last
    sending.flush()
    if sending.has_refusals:
        raise ConfigurationError(
            f"{receiver.name} does not take all spans of run {info.run_id!r}, as said above; it has all"
            " others, and a command that goes on from --cursor-file does not send them again"
        )
    return Sent(sending.sent, receiver.name)


class _Sending:
    """Spans on their way in batches, of so many and so many bytes.

    Attributes:
        last: Of the last event whose spans have all been added, what is to be noted when they are sent.
        sent: How many spans were sent.
        has_refusals: Whether the receiver has refused some.
    """

    def __init__(self, receiver: Any, noted_in: Path | None) -> None:
        self.last: _Note | None = None
        self.sent = 0
        self.has_refusals = False
        self._receiver, self._noted_in = receiver, noted_in
        self._spans: list[Any] = []
        self._bytes = 0

    def add(self, span: Any) -> None:
        """Add an encoded span, and send those before it if it goes beyond their batch."""
        size = span.ByteSize()
        if self._spans and (len(self._spans) == _BATCH or self._bytes + size > _BATCH_BYTES):
            self.flush()
        self._spans.append(span)
        self._bytes += size

    def flush(self) -> None:
        """Send what has been added, note how far that is, and then say what was refused."""
        refused: list[str] = []
        if self._spans:
            refused = self._receiver.send(self._spans)
            self.sent += len(self._spans)
            self._spans, self._bytes = [], 0
        if self._noted_in is not None and self.last is not None:
            self.last.write(self._noted_in)
            self.last = None
        for why in refused:
            say(f"{self._receiver.name} refuses {why}")
            self.has_refusals = True


def _ended(
    exported: Export, info: RunInfo, note: _Note, *, has_content: bool
) -> Iterator[tuple[_Note, list[Span]]]:
    """How far a run has come, event by event, and the spans that end there: those that were not sent."""
    run = exported.run
    identity = RunIdentity(run.run_id, run.header.creation)
    spans = RunSpans(identity, info.session_id, _to_parent(run), has_content=has_content)
    noted = Cursor.parse(note.cursor) if note.cursor else None
    last = 0
    for entry, fields in exported.own_entries(run):
        found = [] if fields is None else spans.add(entry.offset, fields)
        last = entry.offset
        if noted is None or last > noted.offset:
            yield note._replace(cursor=str(entry.cursor), ended=False), found
        elif last == noted.offset:
            if entry.cursor != noted:
                raise _other_history(run.run_id, noted.offset)
            if note.ended:
                spans.end()
    if noted is not None and last < noted.offset:
        raise _other_history(run.run_id, noted.offset)
    # what came since it was looked says itself whether the run has ended
    if info.status in ENDED_STATUSES and info.last_offset == run.last.offset and (found := spans.end()):
        yield note._replace(cursor=str(run.last), ended=True), found


def _to_parent(run: MergedRun) -> Link | None:
    """Of a fork, the link to the run that it comes from, in whatever trace that is."""
    parent = run.parent()
    if parent is None or run.header.parent is None:
        return None
    identity, first = RunIdentity(parent.run_id, parent.header.creation), dict[str, Any]()
    for entry in parent.own_entries():
        with suppress(CorruptRecordError):
            if (fields := entry_fields(parent.run_id, entry)) is not None:
                first = fields
                break
    about: Attributes = {"runstream.forked_at": run.header.parent[1]}
    return Link(identity.trace_id(first), identity.span_id("run", 0), about)


def _other_history(run_id: str, offset: int) -> HistoryDiverged:
    return HistoryDiverged(
        f"run {run_id!r} has another history than was sent up to offset {offset}: it was made anew, or lost"
        " events; name another file to send all of it",
        run_id=run_id,
        offset=offset,
    )
