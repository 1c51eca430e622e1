"""What stands in Redis beside a run's history, for whoever compares the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runstream.stores.redis.exchange import Command, Exchange, Operation
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.replies import as_map

__all__ = ["Noted", "noted", "noted_keys"]


@dataclass(frozen=True, slots=True)
class Noted:
    """The fields of a run's meta, how many entries its stream has, and in which sorted sets it is."""

    meta: Mapping[str, str]
    entries: int
    is_listed: bool
    is_due: bool
    is_in_session: bool


def noted(keys: Keys, run_id: str, session_id: str) -> Operation[Noted]:
    """What is noted of a run in this session."""
    run = keys.run(run_id)
    partition = run.partition
    commands: list[Command] = [
        (b"HGETALL", run.meta),
        (b"XLEN", run.events),
        (b"ZSCORE", partition.runs, run_id),
        (b"ZSCORE", partition.due, run_id),
        (b"ZSCORE", partition.session(session_id), run_id),
    ]
    meta, entries, listed, due, in_session = yield Exchange(commands)
    fields = {name.decode(): value.decode() for name, value in as_map(meta).items()}
    return Noted(fields, int(entries), listed is not None, due is not None, in_session is not None)


def noted_keys(keys: Keys, run_id: str, wanted: Sequence[str]) -> Operation[dict[str, str | None]]:
    """The places that the run has noted for these callers' keys; None for one that it does not know."""
    if not wanted:
        return {}
    (places,) = yield Exchange([(b"HMGET", keys.run(run_id).keys, *wanted)])
    return {key: None if found is None else found.decode() for key, found in zip(wanted, places, strict=True)}
