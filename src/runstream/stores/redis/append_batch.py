"""The arguments of the append script as values: what one append does to one run, and how it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from runstream.codec.encoded_event import EncodedEvent
from runstream.codec.snapshot_fields import PackedState, value_begin
from runstream.model.questions import Notice
from runstream.model.results import Cursor, LeaseGrant
from runstream.model.state import status_after
from runstream.model.tags import TagChanges
from runstream.operations.arguments import Sender
from runstream.operations.coverage import Covered
from runstream.stores.redis.made_change import MadeChange
from runstream.stores.redis.replies import parse_cursor, parse_start

__all__ = [
    "Batch",
    "LaneSpan",
    "Seen",
    "Sending",
    "Shared",
    "SnapshotWrite",
    "described",
    "notice_args",
    "snapshot_field",
    "tag_args",
]


def snapshot_field(lane_id: str | None) -> str:
    """The meta field that notes the snapshot of a lane, or (None) of the run."""
    return "snapshot" if lane_id is None else f"snapshot:{lane_id}"


LONGEST_KEPT_ANSWER = 65_536
"""The longest record of an answer, in bytes, that meta keeps."""


def notice_args(notices: Sequence[tuple[int, Notice]], events: Sequence[EncodedEvent]) -> list[Any]:
    """The append script's arguments for what events say between a run and people: index from 1, and words."""
    pairs = ((index + 1, _words(notice, events[index].record)) for index, notice in notices)
    return [part for pair in pairs for part in pair]


def tag_args(tags: TagChanges) -> list[str]:
    """The append script's arguments for the tags that change."""
    return [part for name, value in tags.items() for part in (name, "-" if value is None else f"={value}")]


def _words(notice: Notice, record: bytes) -> str:
    values = [notice.text.encode()]
    if notice.says == "answer":
        values = [_bytes(notice.question_id), record if len(record) <= LONGEST_KEPT_ANSWER else b""]
    elif notice.says == "ask":
        values = [_bytes(notice.lane_id), _bytes(notice.question_id), notice.text.encode()]
    return " ".join([notice.says, *(value.hex() for value in values)])


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogatepass")


@dataclass(slots=True)
class SnapshotWrite:
    """A snapshot to save.

    It is sent as the difference from ``known_state``, or in full if that is None.

    Attributes:
        lane_id: The lane whose snapshot it is; None for the run's own.
        state: The packed state to save.
        token: A random name for this snapshot.
        covers: The contiguous history that the writer knows, which the snapshot therefore covers.
        known_token: The token of the snapshot that the writer saved or loaded last; "" if there is none.
        known_revision: Its revision; 0 if there is none.
        known_state: Its packed state; None if it is not known, and the snapshot is sent in full.
        compare: Refuse the write if another snapshot was saved since the known one.
        changes: The snapshot changes the known one and covers what that covers, which may be less than what has
            left Redis.
        made: The change that ``update_state`` made; None for a state that the caller gave.
    """

    lane_id: str | None
    state: PackedState
    token: str
    covers: Covered
    known_token: str = ""
    known_revision: int = 0
    known_state: PackedState | None = None
    compare: bool = False
    changes: bool = False
    made: MadeChange | None = None

    def args(self, records: Sequence[bytes]) -> list[Any]:
        """The append script's arguments for this snapshot. None has a large value that a record has."""
        if self.known_state is None:
            form, sets = "whole", self.state.fields
            removes: list[bytes] = []
        else:
            form = "difference"
            sets, removes = self.state.changes_from(self.known_state)
        copies = copies_of(sets, records)
        args: list[Any] = [
            snapshot_field(self.lane_id),
            "change" if self.changes else "compare" if self.compare else "replace",
            self.known_token,
            self.token,
            self.covers.offset,
            "" if self.covers.history is None else self.covers.history,
            self.state.checksum,
            form,
            len(sets) - len(copies),
            len(removes),
            len(copies),
        ]
        for name, value in sets.items():
            if name not in copies:
                args += (name, value)
        args += removes
        for name, (record, begin, length, head) in copies.items():
            args += (name, f"{record} {begin} {length}", head)
        return args


_COPIED_BYTES = 512
"""A value of fewer bytes is sent again: to say where it is takes as many as are saved, or the search too long."""
_MOST_COPIED = 16


class Copy(NamedTuple):
    """A field's value that a record of the batch has: after ``head``, ``length`` bytes of it from ``begin`` on.

    Both the record and the byte are counted from 1.
    """

    record: int
    begin: int
    length: int
    head: bytes


def copies_of(fields: Mapping[bytes, bytes], records: Sequence[bytes]) -> dict[bytes, Copy]:
    """Where the records of a batch have the values of a state's fields, of the largest of them, by field.

    A field is ``[rank, value]`` in msgpack, and a record that has its value has the same bytes: wherever it has
    them, they are what the field needs.
    """
    large = [name for name, packed in fields.items() if len(packed) >= _COPIED_BYTES] if records else []
    copies = {}
    for name in sorted(large, key=lambda name: -len(fields[name]))[:_MOST_COPIED]:
        packed = fields[name]
        begin = value_begin(packed)
        value = packed[begin:]
        for index, record in enumerate(records, 1):
            at = record.find(value)
            if at >= 0:
                copies[name] = Copy(index, at + 1, len(value), packed[:begin])
                break
    return copies


HIGHEST_RISING = 10**15 - 1
"""The highest seq of which Redis notes that the seqs of a lane rise up to it: Lua compares no others exactly."""


class LaneSpan(NamedTuple):
    """What a batch adds to a lane.

    Attributes:
        first: The index, from 1, of the lane's first event in the batch.
        last: The index of its last one.
        first_seq: The first one's seq.
        last_seq: The last one's seq.
        rises: Whether none of its seqs in the batch is lower than one before it, and Redis can note that.
    """

    first: int
    last: int
    first_seq: int
    last_seq: int
    rises: bool

    def then(self, index: int, seq: int) -> LaneSpan:
        """The same with one more event."""
        return LaneSpan(
            self.first, index, self.first_seq, seq, self.rises and self.last_seq <= seq <= HIGHEST_RISING
        )

    @classmethod
    def of(cls, index: int, seq: int) -> LaneSpan:
        """One event."""
        return cls(index, index, seq, seq, 0 <= seq <= HIGHEST_RISING)


class Shared(NamedTuple):
    """What a fork shares of the events with the keys of a batch.

    Attributes:
        creation: Which run of its name the fork is.
        cursors: Their cursors, by key.
    """

    creation: int
    cursors: Mapping[str, Cursor]


def described(
    events: Sequence[EncodedEvent], lanes: Mapping[str, LaneSpan], shared: Shared | None = None
) -> list[str]:
    """The append script's arguments that describe each event, if some may have a key."""
    index_of = {lane: index for index, lane in enumerate(lanes, 1)}
    described = []
    for event in events:
        key = "" if event.key is None else f" {event.key}"
        known = None if shared is None or event.key is None else shared.cursors.get(event.key)
        lane = f"{index_of[event.lane_id]}" + ("" if known is None else f"={known}")
        described.append(f"{lane} {event.seq} {status_after((event.kind,)) or '-'}{key}")
    return described


class Batch(NamedTuple):
    """What one append does to one run.

    Attributes:
        run_id: The run.
        events: The events to append, in order; there may be none if there are snapshots.
        session_id: The session that the run belongs to; "" if the events do not say.
        status: The run's status after the append; "" leaves it as it is.
        lanes: What the batch adds to each of its lanes.
        is_keyed: Whether some of the events may have a key.
        expected_offset: The offset that the run must end at, or None.
        grant: The lease under which the batch is sent, or None.
        snapshots: The snapshots to save in the same step, each of another lane.
        sender: Who sends it.
        notices: What its events say between the run and people, by index from 0.
        end_lanes: The lanes to end.
        tags: What it changes of the run's tags.
    """

    run_id: str
    events: Sequence[EncodedEvent]
    session_id: str
    status: str
    lanes: Mapping[str, LaneSpan]
    is_keyed: bool = False
    expected_offset: int | None = None
    grant: LeaseGrant | None = None
    snapshots: Sequence[SnapshotWrite] = ()
    sender: Sender = "-"
    notices: Sequence[tuple[int, Notice]] = ()
    end_lanes: Sequence[str] = ()
    tags: TagChanges = {}  # noqa: RUF012 - nobody changes it; a read-only one could not be copied


class Seen(NamedTuple):
    """The last cursor that a writer or reader saw of a run, with the start of that history, as Redis writes them.

    ``offset`` is the cursor's offset, parsed. ``lane_id``, ``wrote`` and ``wrote_seq`` tell of the writer's own
    last event: its lane, its offset and its seq; "", 0 and 0 for none. ``since`` is the cursor from which on the
    writer has written all up to ``last`` itself, so that both are of one history; b"" if that is not known.
    """

    start: bytes
    last: bytes
    offset: int
    lane_id: str = ""
    wrote: int = 0
    wrote_seq: int = 0
    since: bytes = b""

    @property
    def cursor(self) -> Cursor:
        """The last cursor that was seen."""
        return parse_cursor(self.last)

    @property
    def history(self) -> int:
        """What names this creation of the run."""
        return parse_start(self.start).creation


class Sending(NamedTuple):
    """How a batch is sent.

    Attributes:
        producer: The producer's name.
        number: The producer's number for the batch.
        sent_at: When it is first sent, in microseconds of server time; None if the server's time is not known,
            0 if that is so long ago that the server may have forgotten the producer.
        seen: What its writer saw of the run last; None for nothing, or for no comparison.
        max_hot_events: How many entries the run may then have in Redis; None for any number.
        shared: What the run shares of the events with these keys, if it is a fork; None: that is not known.
    """

    producer: str
    number: int
    sent_at: int | None
    seen: Seen | None
    max_hot_events: int | None = None
    shared: Shared | None = None
