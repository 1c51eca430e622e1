"""The calls of the Lua scripts that erase content of a run, or let its history begin later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runstream.model.results import Cursor, LeaseGrant
from runstream.operations.operation import Command
from runstream.stores.redis.append_batch import snapshot_field
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.scripts.calls import lease_args
from runstream.stores.redis.scripts.library import SCRIPT
from runstream.stores.redis.scripts.script import script_call

__all__ = [
    "MOST_BYTES",
    "MOST_ENTRIES",
    "OUTLIVES_MILLISECONDS",
    "erase_call",
    "note_erasure_call",
    "rebuild_call",
]

MOST_ENTRIES, MOST_BYTES = 1000, 1 << 20
"""What one step copies at most: a few milliseconds of the server's time."""
OUTLIVES_MILLISECONDS = 3_600_000


def erase_call(
    run: RunKeys,
    *,
    start: str,
    token: str,
    what: str,
    lease: LeaseGrant | None,
    before: Cursor | None = None,
    seen: Cursor | None = None,
    drops_snapshots: bool = False,
    away: bytes = b"",
    dropped: Sequence[str | None] = (),
    sound: Mapping[str | None, str] | None = None,
) -> Command:
    """Note what is to be erased of a run.

    Args:
        run: The run's keys.
        start: The run's start, as meta has it.
        token: Names the request, however often it is sent.
        what: The offsets, or where the history is to begin, as the text of an ErasureNote.
        lease: The lease that the caller holds.
        before: The cursor before the event with which the history is to begin.
        seen: The cursor that the caller saw last of the run: of another history, nothing is erased.
        drops_snapshots: Whether snapshots may go with it.
        away: What was noted of snapshots that left Redis: they hold, or need, nothing of it.
        dropped: The lanes whose snapshots go.
        sound: The tokens of the snapshots that hold nothing of it, by lane.
    """
    args: list[str | bytes] = [run.run_id, start, token, *(("", "") if lease is None else lease_args(lease)), what]
    args += ["" if at is None else str(at) for at in (before, seen)]
    args += ["1" if drops_snapshots else away, str(len(dropped))]
    args += map(snapshot_field, dropped)
    for lane_id, its_token in (sound or {}).items():
        args += (snapshot_field(lane_id), its_token)
    names = (run.meta, run.erasures, run.partition.due, run.forks, run.events)
    return script_call(SCRIPT["erase"], (*names, *map(run.snapshot, dropped)), args)


def rebuild_call(run: RunKeys, *, start: str, number: int, what: str) -> Command:
    """Take the next step in making a run's stream anew, for the request of that number; ``what`` it is to lack."""
    most = f"{MOST_ENTRIES} {MOST_BYTES}"
    names = (run.events, run.meta, run.erasures, run.rebuilt)
    return script_call(SCRIPT["rebuild"], names, (start, number, most, OUTLIVES_MILLISECONDS, what))


def note_erasure_call(run: RunKeys, *, start: str, field: str, value: str) -> Command:
    """Note what has become of a run's erasures in one place."""
    return script_call(SCRIPT["note_erasure"], (run.meta, run.erasures), (start, field, value))
