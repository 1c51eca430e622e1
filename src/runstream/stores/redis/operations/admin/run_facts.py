"""Load what Redis notes of a run beside its history, to check one against the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runstream.operations.operation import Command, Exchange, Operation
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.replies import parse_map

__all__ = ["RunFacts", "key_cursors", "run_facts"]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The fields of a run's meta, how many entries it has, whether it has producers, and where it is listed."""

    meta: Mapping[str, str]
    entries: int
    has_producers: bool
    is_listed: bool
    is_due: bool
    is_in_session: bool


def run_facts(keys: Keys, run_id: str, session_id: str) -> Operation[RunFacts]:
    """Load what is noted of a run of this session."""
    run = keys.run(run_id)
    partition = run.partition
    commands: list[Command] = [
        (b"HGETALL", run.meta),
        (b"XLEN", run.events),
        (b"EXISTS", run.producers),
        (b"ZSCORE", partition.runs, run_id),
        (b"ZSCORE", partition.due, run_id),
        (b"ZSCORE", partition.session(session_id), run_id),
    ]
    meta, entries, producers, listed, due, in_session = yield Exchange(commands)
    with parsing(run):
        fields = {name.decode(): value.decode() for name, value in parse_map(meta).items()}
    is_in = (score is not None for score in (listed, due, in_session))
    return RunFacts(fields, int(entries), bool(producers), *is_in)


def key_cursors(keys: Keys, run_id: str, wanted: Sequence[str]) -> Operation[dict[str, str]]:
    """The cursors, as text, of the events that have these callers' keys, of those keys that the run knows."""
    if not wanted:
        return {}
    (cursors,) = yield Exchange([(b"HMGET", keys.run(run_id).keys, *wanted)])
    found = zip(wanted, cursors, strict=True)
    return {key: cursor.decode(errors="backslashreplace") for key, cursor in found if cursor is not None}
