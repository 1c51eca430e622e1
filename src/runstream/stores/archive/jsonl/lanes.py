"""What a run's log notes of its lanes, as of the last refresh of the log."""

from __future__ import annotations

from collections.abc import Iterable

from runstream.codec.archive_entries import seq_of_entry
from runstream.model.run_head import UNKNOWN_TOKEN, EndedLane
from runstream.operations.lane_facts import LaneFacts
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.archive.jsonl.run_snapshots import latest_head, saved_lanes

__all__ = ["lacking_ends", "lane_facts", "seq_at"]


def seq_at(log: RunLog, offset: int) -> int:
    """The ``seq`` of the event at an offset. Raises CorruptRecordError where it does not read."""
    (entry,) = log.entries_between([log.span(offset - 1, offset)], offset, offset)
    return seq_of_entry(log.run_id, entry)


def lane_facts(log: RunLog) -> LaneFacts:
    """What the log notes of its lanes. There are no leases."""
    lasts = {lane_id: (offset, seq_at(log, offset)) for lane_id, offset in log.index.lanes.items()}
    heads = (latest_head(log, lane_id) for lane_id in saved_lanes(log))
    return LaneFacts(lasts, {head.lane_id: head for head in heads if head is not None}, log.index.ends)


def lacking_ends(log: RunLog, ends: Iterable[EndedLane]) -> list[EndedLane]:
    """Those of these ends that the log lacks, each with its snapshot's token, where Redis had none any more."""
    lacking = []
    for end in ends:
        if end.token == UNKNOWN_TOKEN:
            saved = latest_head(log, end.lane_id)
            known = end._replace(token="" if saved is None else saved.token)
        else:
            known = end
        held = log.index.ends.get(end.lane_id)
        if held is None or (held != known and held.offset <= known.offset):  # else a paused worker sent it late
            lacking.append(known)
    return lacking
