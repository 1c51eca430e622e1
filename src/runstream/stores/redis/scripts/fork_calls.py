"""The calls of the Lua scripts by which forks are made, and looked after: fork_intent, fork, fork_end, give_up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from runstream.model.results import Cursor
from runstream.model.run_head import EndedLane, RunHead, SnapshotHead
from runstream.model.tags import TagSet
from runstream.operations.operation import Command
from runstream.stores.redis.append_batch import snapshot_field
from runstream.stores.redis.keys import Keys, RefilledKeys, RunKeys
from runstream.stores.redis.page_size import size_bound
from runstream.stores.redis.people_notes import questions_text
from runstream.stores.redis.replies import parent_text, start_text
from runstream.stores.redis.scripts.calls import MICROSECONDS
from runstream.stores.redis.scripts.erasure_calls import MOST_BYTES, MOST_ENTRIES, OUTLIVES_MILLISECONDS
from runstream.stores.redis.scripts.library import SCRIPT
from runstream.stores.redis.scripts.removal_calls import DELETED_WINDOW_SECONDS
from runstream.stores.redis.scripts.script import script_call

__all__ = [
    "CopiedSnapshot",
    "DetachStep",
    "detach_call",
    "fork_call",
    "fork_end_call",
    "give_up_call",
    "intent_call",
]

CopiedSnapshot = tuple[SnapshotHead, Mapping[bytes, bytes]]
"""A snapshot that a fork begins with: what is noted of it, and the fields of its state with their checksum."""


def intent_call(
    keys: Keys,
    run_id: str,
    head: RunHead,
    fork_id: str,
    fork: RunHead,
    *,
    archived: bool,
    erasures: bytes = b"",
) -> Command:
    """Note at a run that another one is about to be forked from it.

    Args:
        keys: The namespace's keys.
        run_id: The run.
        head: Where it stands.
        fork_id: The fork.
        fork: The head that it begins with.
        archived: Whether the cursor at which it begins comes from where the run's own stream has it no more.
        erasures: The run's last request to erase, as its meta had it when its snapshots were read; b"" for none.
    """
    run = keys.run(run_id)
    names = (run.events, run.meta, run.forks, run.partition.forking)
    word = "archived" if archived else "-"
    args = (run_id, start_text(head), str(fork.start), word, fork_id, fork.identity, erasures)
    return script_call(SCRIPT["fork_intent"], names, args)


def fork_call(
    keys: Keys,
    run_id: str,
    fork: RunHead,
    snapshots: Sequence[CopiedSnapshot],
    ends: Sequence[EndedLane],
    clean_of: bytes = b"",
) -> Command:
    """Make a fork.

    Args:
        keys: The namespace's keys.
        run_id: The fork.
        fork: The head that it begins with.
        snapshots: The snapshots that it begins with.
        ends: The ends of the lanes that it begins with as ended.
        clean_of: The number of the parent's last request to erase of which the snapshots have nothing.
    """
    run, tags = keys.run(run_id), fork.tags
    partition = run.partition
    names = [run.events, run.meta, run.producers, run.tags, partition.runs, partition.due, partition.config]
    names += [partition.deleted, partition.session(fork.session_id), *map(partition.index, tags.values)]
    names += [run.snapshot(noted.lane_id) for noted, _ in snapshots]
    args: list[Any] = [run_id, start_text(fork), len(keys.partitions), fork.session_id, *_tag_args(tags)]
    args.append(len(snapshots))
    fields: dict[str, Any] = {
        "last": str(fork.last),
        "mark": str(fork.last),
        "status": fork.status,
        "parent": parent_text(fork),
        "largest": str(size_bound(0)),
    }
    for noted, saved in snapshots:
        args.append(len(saved) + 3)
        for pair in saved.items():
            args += pair
        args += ("offset", noted.offset, "revision", noted.revision, "token", noted.token)
        fields[snapshot_field(noted.lane_id)] = f"{noted.offset} {noted.revision} {noted.token}"
    fields |= {f"end:{end.lane_id}": f"{end.offset} {end.token or '-'}" for end in ends}
    optional = {
        "session": fork.session_id,
        "tags": tags.version,
        "questions": questions_text(fork.questions),
        "cleanof": clean_of,
    }
    fields |= {name: value for name, value in optional.items() if value}
    for field in fields.items():
        args += field
    return script_call(SCRIPT["fork"], names, args)


def _tag_args(tags: TagSet) -> list[Any]:
    args: list[Any] = [tags.version, len(tags.values)]
    for pair in tags.values.items():
        args += pair
    return args


class DetachStep(NamedTuple):
    """A step of giving a fork a copy of its own of what it shares.

    Attributes:
        first: The cursor of the first entry that is put in front of those that it has itself; None: none is.
        archived_to: The cursor up to which every required archive has what is shared; None: all of it.
        largest: The size of the largest of these entries, in bytes.
        what: ``more``, if there are more entries or callers' keys to come; ``all``; ``unknown``, if lanes may have
            had events in what is shared that are not given.
        fields: What meta is to have, unless the fork was truncated.
        entries: Some of the entries.
        keys: Some of the callers' keys, with the cursors of their events.
        lanes: The lanes that what is shared has events of: name; offset and ``seq`` of the last one; offset of the
            first one that is copied, or ''.
    """

    first: Cursor | None
    archived_to: Cursor | None = None
    largest: int = 0
    what: str = "more"
    fields: Mapping[str, str] = {}
    entries: Sequence[tuple[Cursor, bytes]] = ()
    keys: Mapping[bytes, bytes] = {}
    lanes: Sequence[tuple[str, str, str]] = ()


def detach_call(run: RunKeys, seen: Mapping[bytes, bytes], token: str, step: DetachStep) -> Command:
    """Take a step in giving a fork a copy of its own of what it shares.

    Args:
        run: The fork's keys.
        seen: Its meta, as the copy is made for.
        token: Names the copy.
        step: The step.
    """
    partition = run.partition
    names = (run.events, run.meta, run.keys, RefilledKeys(run, token).events, partition.due)
    args: list[Any] = [run.run_id, seen[b"start"], seen[b"parent"]]
    args += [b"/".join(seen.get(name, b"") for name in (b"base", b"erasures", b"rebuilt"))]
    args += [f"{MOST_ENTRIES} {MOST_BYTES}", OUTLIVES_MILLISECONDS, str(step.first or "-")]
    args += [str(step.archived_to or ""), size_bound(step.largest), step.what]
    args += [f"{len(step.fields)} {len(step.entries)} {len(step.keys)}"]
    for pair in (*step.fields.items(), *step.entries, *step.keys.items()):
        args += (str(pair[0]) if isinstance(pair[0], Cursor) else pair[0], pair[1])
    for lane in step.lanes:
        args += lane
    return script_call(SCRIPT["detach"], (*names, run.lanes, run.rebuilt), args)


def fork_end_call(
    keys: Keys, run_id: str, creation: int, fork_id: str, identity: int, made: Cursor | None
) -> Command:
    """Note at a run that a fork of it was made.

    Args:
        keys: The namespace's keys.
        run_id: The run.
        creation: Which run of its name it is.
        fork_id: The fork.
        identity: The fork's identity.
        made: The cursor at which it begins; None: it is gone.
    """
    run = keys.run(run_id)
    args = (
        run_id,
        fork_id,
        identity,
        "gone" if made is None else "made",
        creation,
        "" if made is None else str(made),
    )
    return script_call(SCRIPT["fork_end"], (run.forks, run.partition.forking, run.meta), args)


def give_up_call(keys: Keys, fork_id: str, identity: int) -> Command:
    """Find out whether a fork is there, and see to it that it never is if it is not."""
    run = keys.run(fork_id)
    args = (identity, DELETED_WINDOW_SECONDS * MICROSECONDS)
    return script_call(SCRIPT["give_up"], (run.meta, run.partition.deleted), args)
