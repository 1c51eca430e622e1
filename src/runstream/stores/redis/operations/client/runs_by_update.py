"""The ids of runs by the time of their last update: of all that there are, or of the latest alone.

The sets of a partition have that time right to the second: of runs that share one, meta has the exact time.
"""

from __future__ import annotations

from collections import Counter

from runstream.model.identifiers import check_name
from runstream.operations.operation import Exchange, Operation, Refusal
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.replies import parse_scores
from runstream.stores.redis.scripts.calls import MICROSECONDS

__all__ = ["latest_run_ids", "lowest_score", "run_ids_by_update"]

_CHUNK = 200
_LATEST = 512  # of all partitions together
_LEAST = 4  # of each


def run_ids_by_update(
    keys: Keys, session_id: str | None = None, updated_after: float | None = None
) -> Operation[list[str]]:
    """The ids of all runs, or of those of a session, the most recently updated first.

    Args:
        keys: The namespace's keys.
        session_id: Only those of this session.
        updated_after: Only those that may have been updated after this time, in Unix seconds; of a session, all.
    """
    if session_id:
        check_name("session_id", session_id)
    # there is no set of the runs without a session
    sets = [partition.session(session_id) if session_id else partition.runs for partition in keys.partitions]
    low = lowest_score(None if session_id else updated_after)
    replies = yield Exchange([(b"ZRANGEBYSCORE", key, low, "+inf", b"WITHSCORES") for key in sets])
    return (yield from _by_update(keys, dict(pair for reply in replies for pair in parse_scores(reply))))


def latest_run_ids(keys: Keys, updated_after: float | None = None) -> Operation[list[str]]:
    """The ids of those that were updated last, in the order of ``run_ids_by_update``: some, if there are any.

    Each partition gives its latest ones, and they are all that there are of the seconds after the one in which a
    list ends that is not whole: it takes the same time however many there are, unless very many are of one second.
    """
    low = lowest_score(updated_after)
    most = max(_LEAST, _LATEST // len(keys.partitions))
    query = (b"+inf", low, b"WITHSCORES", b"LIMIT", 0, most)
    asked = [(b"ZREVRANGEBYSCORE", partition.runs, *query) for partition in keys.partitions]
    replies = yield Exchange(asked, permissive=True)
    for reply in replies:
        if isinstance(reply, Refusal):
            if reply.is_denied:  # by a rule that an earlier version has printed
                return []
            raise reply.error
    found = [parse_scores(reply) for reply in replies]
    # of a list that may go on. Members that are no runs are left out of what was parsed
    ends = [of_it[-1:] for of_it, reply in zip(found, replies, strict=True) if len(reply) >= most]
    if [] in ends:
        return []
    cut = max((time // MICROSECONDS for ((_, time),) in ends), default=-1)
    latest = {run_id: time for of_it in found for run_id, time in of_it if time // MICROSECONDS > cut}
    if not latest and cut >= 0:  # more were updated in one second
        replies = yield Exchange(
            [
                (b"ZRANGEBYSCORE", partition.runs, cut * MICROSECONDS, "+inf", b"WITHSCORES")
                for partition in keys.partitions
            ]
        )
        latest = dict(pair for reply in replies for pair in parse_scores(reply))
    return (yield from _by_update(keys, latest))


def _by_update(keys: Keys, updated: dict[str, int]) -> Operation[list[str]]:
    """These runs in the order of the times at which they were updated, which the sets have to the second."""
    shared = Counter(time // MICROSECONDS for time in updated.values())
    close = [run_id for run_id, time in updated.items() if shared[time // MICROSECONDS] > 1]
    for at in range(0, len(close), _CHUNK):
        chunk = close[at : at + _CHUNK]
        times = yield Exchange([(b"HGET", keys.run(run_id).meta, "updated") for run_id in chunk], tolerant=True)
        for run_id, time in zip(chunk, times, strict=True):
            if isinstance(time, bytes) and time.isdigit():  # otherwise it is damaged, or has just been deleted
                updated[run_id] = int(time)
    return sorted(updated, key=updated.__getitem__, reverse=True)


def lowest_score(updated_after: float | None) -> str:
    """The lowest score of a run that was updated after that: scores are right to the second."""
    return "-inf" if updated_after is None else f"{(updated_after - 1) * MICROSECONDS:.0f}"
