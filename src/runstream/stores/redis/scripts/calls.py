"""The calls of the Lua scripts, with arguments in Python's terms: seconds, values, runs.

The header of each script states its keys, arguments and replies, and what holds after it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from runstream.codec.encoded_event import EncodedEvent
from runstream.model.results import Cursor, LeaseGrant
from runstream.operations.arguments import Sender
from runstream.operations.operation import Command
from runstream.stores.redis.append_batch import (
    HIGHEST_RISING,
    Batch,
    Seen,
    Sending,
    SnapshotWrite,
    described,
    notice_args,
    snapshot_field,
    tag_args,
)
from runstream.stores.redis.keys import Keys, RunKeys
from runstream.stores.redis.scripts.library import SCRIPT
from runstream.stores.redis.scripts.script import script_call, script_of

__all__ = [
    "ADOPT",
    "ASIDE",
    "GATHER",
    "INDEX_TAGS",
    "MICROSECONDS",
    "PRODUCER_WINDOW_SECONDS",
    "REFILL",
    "RELIST",
    "SWITCH",
    "TAGGED",
    "UNPARK",
    "LanesAfter",
    "append_call",
    "archive_args",
    "calls_one_of",
    "event_call",
    "gather_call",
    "gathers_with",
    "is_append",
    "lane_of_lease",
    "lease_args",
    "lease_call",
    "load_call",
    "park_call",
    "revoke_call",
    "saving_call",
    "settle_call",
    "uncovered_call",
]

MICROSECONDS = 1_000_000
PRODUCER_WINDOW_SECONDS = 600
"""The deduplication window: for how long the server remembers a silent producer. An older batch is refused."""


class LanesAfter(NamedTuple):
    """The lanes of all events of a run after an offset, up to the cursor that is settled."""

    offset: int
    names: Collection[str]


_APPEND, GATHER = SCRIPT["append"], SCRIPT["gather"]
_EVENT_ARGS = 9  # of event_call: the first two are the same for all of a run and session
REFILL, SWITCH, UNPARK = (SCRIPT[name] for name in ("refill", "switch", "unpark"))
ADOPT, ASIDE, RELIST = (SCRIPT[name] for name in ("adopt", "aside", "relist"))
INDEX_TAGS, TAGGED = (SCRIPT[name] for name in ("index_tags", "tagged"))


def _lease_field(lane_id: str | None) -> str:
    """The meta field of a lease on a lane, or (None) on the whole run."""
    return "lease" if lane_id is None else f"lease:{lane_id}"


def lease_args(grant: LeaseGrant) -> tuple[str, str]:
    """A lease that is carried, as scripts take it."""
    return _lease_field(grant.lane_id), f"{grant.epoch} {grant.token}"


def lane_of_lease(field: str) -> str | None:
    """The lane of a lease by the lease's meta field, or None for the whole run's."""
    return field.partition(":")[2] if ":" in field else None


_NOTHING_ASKED = (None, None, None, 1, 0, 0, 0, 0, 0, 0)
"""The options of a batch that only appends events of one lane: none."""


def event_call(
    keys: Keys,
    run_id: str,
    event: EncodedEvent,
    producer: str,
    number: int,
    sent_at: int | None,
    seen: Seen | None,
    sender: Sender = "-",
) -> Command:
    """The call that appends one event and nothing else. The arguments after the event are those of ``Sending``."""
    record, lane_id, _, session_id, seq, _, _ = event
    run = keys.run(run_id)
    names = (*run.of_append, run.partition.session(session_id)) if session_id else run.of_append
    last, words = _seen_words(keys, sent_at, seen, lane_id, sender)
    mark = f"+{seq}" if 0 <= seq <= HIGHEST_RISING else seq
    head = (b"EVALSHA", _APPEND, len(names))  # what script_call makes, without a list in between
    args = (run_id, session_id, producer, number, last, words, lane_id, mark, record)
    return head + names + args


def gathers_with(call: Command) -> Command:
    """What calls of ``event_call`` that may be sent together have in common: the run's keys, and the session's."""
    return call[2:-_EVENT_ARGS]


def gather_call(calls: Sequence[Command]) -> Command:
    """The call that makes several calls of ``event_call`` to one run, each as if it had been sent alone."""
    first = calls[0]
    head = (b"EVALSHA", GATHER, *first[2 : 2 - _EVENT_ARGS])
    return head + tuple(chain.from_iterable(call[2 - _EVENT_ARGS :] for call in calls))


def saving_call(
    keys: Keys,
    run_id: str,
    event: EncodedEvent,
    session_id: str,
    snapshot: SnapshotWrite,
    sending: Sending,
    sender: Sender,
) -> Command:
    """The call that appends one event with a key, and saves a snapshot of its lane: what ``append_call`` gives."""
    record, lane_id, seq = event.record, event.lane_id, event.seq
    run = keys.run(run_id)
    of_session = (run.partition.session(session_id),) if session_id else ()
    names = (*run.of_append, *of_session, run.keys, run.snapshot(lane_id), run.lanes)
    seen, words = _seen_words(keys, sending.sent_at, sending.seen, lane_id, sender)
    words = b"%b %b - - - 1 1 0 1 0 0 0" % (words, seen)  # what is asked for; no kind that says what a run is at
    sign = "+" if 0 <= seq <= HIGHEST_RISING else ""
    of_lane = (lane_id, f"{sign}{seq} {seq} 1 1", f"1 {seq} - {event.key}")
    args = (run_id, session_id, sending.producer, sending.number, b"-", words, *of_lane)
    return (b"EVALSHA", _APPEND, len(names), *names, *args, *snapshot.args((record,)), record)


def calls_one_of(*names: str) -> Callable[[Command], bool]:
    """Tells whether a command calls one of these scripts."""

    def is_call(command: Command) -> bool:
        script = script_of(command)
        return script is not None and script.name in names

    return is_call


def is_append(command: Command) -> bool:
    """Whether it is a call of the append script."""
    return command[:2] == (b"EVALSHA", _APPEND)


def _seen_words(
    keys: Keys, sent_at: int | None, seen: Seen | None, lane_id: str, sender: Sender
) -> tuple[bytes, bytes]:
    """The append script's arguments 5 and 6: the cursor that the writer saw last, and the words after it."""
    last, start = (b"-", b"-") if seen is None else (seen.last, seen.start)
    wrote = b"0" if seen is None else b"%d+%d" % (seen.wrote, seen.wrote_seq)
    if seen is not None and seen.wrote and seen.lane_id != lane_id:
        wrote += b"=%b" % seen.lane_id.encode().hex().encode()
    at = b"-" if sent_at is None else b"%d" % sent_at
    window = PRODUCER_WINDOW_SECONDS * MICROSECONDS
    return last, b"%b %b %b %d %d %b" % (at, start, wrote, len(keys.partitions), window, sender.encode())


def _described_word(batch: Batch, sending: Sending) -> int | str:
    """How many events are described; and of which fork it is known what it shares of those with their keys."""
    if not batch.is_keyed:
        return 0
    return len(batch.events) if sending.shared is None else f"{len(batch.events)}:{sending.shared.creation}"


def append_call(keys: Keys, batch: Batch, sending: Sending) -> Command:
    """The call that appends events, saves snapshots, ends lanes, changes tags, or does all of it."""
    run_id, events, session_id, status, lanes, is_keyed, expected, grant, snapshots, sender = batch[:10]
    notices, ends, tags = batch[10:]
    run = keys.run(run_id)
    names: tuple[str, ...] = run.of_append
    asked = (
        expected,
        sending.max_hot_events,
        status or None,
        len(lanes),
        _described_word(batch, sending),
        int(grant is not None),
        len(snapshots),
        len(notices),
        len(ends),
        len(tags),
    )
    seen, words = _seen_words(keys, sending.sent_at, sending.seen, next(iter(lanes), ""), sender)
    is_plain = asked == _NOTHING_ASKED
    if not is_plain:
        more = " ".join("-" if word is None else str(word) for word in asked)
        seen, words = b"-", b"%b %b %b" % (words, seen, more.encode())
    args: list[Any] = [run_id, session_id, sending.producer, sending.number, seen, words]
    for lane, (first, last, first_seq, last_seq, rises) in lanes.items():
        seqs = f"+{last_seq}" if rises else str(last_seq)
        if len(events) > 1 or not is_plain:
            seqs += f" {first_seq}" if is_plain else f" {first_seq} {first} {last}"
        args += (lane, seqs)
    if session_id:
        names = (*names, run.partition.session(session_id))
    if tags:
        names = (*names, run.tags, *map(run.partition.index, tags))
    if is_keyed:
        names = (*names, run.keys)
        args += described(events, lanes, sending.shared)
    if grant is not None:
        args += lease_args(grant)
    args += notice_args(notices, events)
    args += ends
    args += tag_args(tags)
    records = [event.record for event in events]
    for snapshot in snapshots:
        args += snapshot.args(records)
    if snapshots or ends:
        names = (*names, *(run.snapshot(snapshot.lane_id) for snapshot in snapshots), run.lanes)
    args += records
    return script_call(_APPEND, names, args)


def revoke_call(keys: Keys, run_id: str, sending: Sending) -> Command:
    """The call that finds out what became of a batch, and sees to it that it is not applied later."""
    run = keys.run(run_id)
    at = b"-" if sending.sent_at is None else b"%d" % sending.sent_at
    return script_call(
        SCRIPT["revoke"],
        (run.meta, run.producers, run.partition.config, run.partition.leftovers),
        (run_id, sending.producer, sending.number, at, PRODUCER_WINDOW_SECONDS * MICROSECONDS),
    )


def lease_call(keys: Keys, action: str, grant: LeaseGrant) -> Command:
    """Take, renew or release a lease. The reply to a take has its epoch."""
    lasts = int(grant.ttl_seconds * MICROSECONDS)
    args = (action, _lease_field(grant.lane_id), grant.token, lasts, grant.owner, grant.run_id, grant.epoch)
    run = keys.run(grant.run_id)
    return script_call(SCRIPT["lease"], (run.meta, run.partition.leftovers), args)


def archive_args(archives: Mapping[str, str]) -> list[Any]:
    """The number of archives, and the UUID and location of each, as scripts take them."""
    return [len(archives), *(part for pair in archives.items() for part in pair)]


def load_call(run: RunKeys) -> Command:
    """Load what is noted of a run, as far as whoever archives it needs it."""
    return script_call(SCRIPT["load"], (run.meta, run.lanes), ())


def settle_call(
    keys: Keys,
    run_id: str,
    *,
    start: str,
    proven: Cursor,
    trim: str,
    keep_seconds: float | None,
    archives: Mapping[str, str],
    snapshots: Mapping[str | None, str],
    span: str,
    lanes: LanesAfter | None,
    ended: Collection[str],
    tags: str = "",
    erased: int = 0,
    retry_seconds: float = 0,
) -> Command:
    """Note up to where a run is archived, and trim what is no longer needed.

    Args:
        keys: The namespace's keys.
        run_id: The run.
        start: The run's start, which names this very run, and whether it is a fork, as settle.lua takes it.
        proven: The cursor up to which the archives are proven to have it.
        trim: What leaves Redis, and whether an idle run may be retired, as settle.lua takes it.
        keep_seconds: For how long to keep the claim; None: give it back.
        archives: These archives, UUID to location.
        snapshots: The tokens of the snapshots that they have, by lane.
        span: The highest seq of what is to be trimmed, as settle.lua takes it; "" if it is not known.
        lanes: The lanes of what is archived with it; None if they are not known.
        ended: The lanes that were ended.
        tags: The version of the tags that they have; '' for none.
        erased: The number of the last request to erase that is carried out; 0 for none.
        retry_seconds: After what time the run is due again if more is to be done for it.
    """
    run = keys.run(run_id)
    partition = run.partition
    args: list[Any] = [
        run_id,
        start,
        str(proven),
        trim,
        "" if keep_seconds is None else int(keep_seconds * MICROSECONDS),
        span,
        *(("", 0) if lanes is None else (lanes.offset, len(lanes.names), *lanes.names)),
        len(ended),
        *ended,
        *archive_args(archives),
    ]
    for lane_id, token in snapshots.items():
        args += (snapshot_field(lane_id), token)
    args += ("tags", tags) if tags else ()
    args += ("erased", erased) if erased else ()
    args += ("retry", int(retry_seconds * MICROSECONDS)) if retry_seconds else ()
    names = (
        run.events,
        run.meta,
        partition.due,
        partition.archives,
        partition.parked,
        partition.retire,
        run.lanes,
    )
    return script_call(SCRIPT["settle"], (*names, *map(run.snapshot, ended)), args)


def park_call(keys: Keys, run_id: str, *, start: bytes, reason: str, seconds: float, unless: str = "") -> Command:
    """Park a run for ``seconds``, with the reason; ``start`` is b"" where its meta has none that can be read.

    It stays as it is if its reason is another one that begins with what ``unless`` says.
    """
    run = keys.run(run_id)
    return script_call(
        SCRIPT["park"],
        (run.meta, run.partition.due, run.partition.parked, run.events, run.keys, run.run_snapshot),
        (run_id, start, reason, int(seconds * MICROSECONDS), unless),
    )


def uncovered_call(run: RunKeys, lane_id: str | None, bounds: tuple[int, int, int], but_last: int) -> Command:
    """Read the first page of the events that the snapshot of a run, or of a lane of it, does not cover.

    Args:
        run: The run.
        lane_id: The lane; None: the run itself.
        bounds: At most so many entries; at most so many bytes, at the size of the run's largest record; and at
            most so many entries where meta does not tell that size.
        but_last: Without so many of the run's last entries.
    """
    keys = (run.meta, run.snapshot(lane_id), run.events)
    of_lane = () if lane_id is None else (lane_id,)
    return script_call(SCRIPT["uncovered"], keys, (*bounds, but_last, *of_lane))
