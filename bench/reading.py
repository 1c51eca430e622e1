"""What reading costs beside purpose-agent's SQLite store, with event classes of the caller's, and for checksums.

    python bench/reading.py [--quick]

As in bench.py: ratios of rates, ours to the baseline's, over rounds that alternate between the two.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from purpose_agent.runtime import PAEvent as TheirEvent
from purpose_agent.runtime import RunState as TheirState
from purpose_agent.runtime.checkpoint import SQLiteCheckpointer as TheirStore
from rich.console import Console

import runstream
from bench import Result, bench_server, event, interleaved, report, timed


class Subclass(runstream.PAEvent):
    """Ours, with a method more."""

    @property
    def tool(self) -> Any:
        return self.payload.get("tool")


@dataclasses.dataclass(frozen=True)
class Own:
    """Somebody's own class, with nothing to spare."""

    run_id: str
    session_id: str
    lane_id: str
    span_id: str
    parent_span_id: str | None
    seq: int
    ts: float
    kind: str
    visibility: str
    payload: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Own:
        return cls(**fields)


CLASSES: tuple[type[Any], ...] = (Subclass, Own, TheirEvent)


def stores(client: Any, directory: Path) -> dict[str, Callable[..., Any]]:
    """What opens each store."""
    return {
        "redis": partial(runstream.RedisCheckpointer, client),
        "sqlite": partial(runstream.SQLiteCheckpointer, str(directory / "ours.db")),
        "jsonl": partial(runstream.JSONLCheckpointer, str(directory / "ours")),
    }


def bench_states(
    name: str, open_store: Callable[..., Any], directory: Path, rounds: int, keys: int
) -> list[Result]:
    store, theirs = open_store(), TheirStore(str(directory / "theirs.db"))
    data: dict[str, Any] = {f"key-{number}": number for number in range(keys)}
    state, their_state = runstream.RunState("big", data=data), TheirState("big", data=data)
    store.save_snapshot("big", state)
    theirs.save_snapshot("big", their_state)
    assert store.load_latest("big") == state

    def load(one: Any) -> float:
        return timed(10, lambda: [one.load_latest("big") for _ in range(10)])

    def load_first() -> float:
        fresh = [open_store() for _ in range(10)]
        return timed(10, lambda: [one.load_latest("big") for one in fresh])

    def save(one: Any, what: Any) -> float:
        return timed(3, lambda: [one.save_snapshot("big", what) for _ in range(3)])

    beside = "purpose-agent's SQLite"
    what = f"of a state of {keys:,} keys, {name}"
    their_load = partial(load, theirs)
    return [
        interleaved(f"first load_latest {what}", beside, "states/s", rounds, load_first, their_load),
        interleaved(f"load_latest {what}", beside, "states/s", rounds, partial(load, store), their_load),
        interleaved(
            f"save_snapshot {what}",
            beside,
            "states/s",
            rounds,
            partial(save, store, state),
            partial(save, theirs, their_state),
        ),
    ]


def bench_classes(name: str, open_store: Callable[..., Any], rounds: int, count: int) -> list[Result]:
    ours = open_store()
    for first in range(0, count, 1000):
        ours.save_events([event("events", first + index) for index in range(1000)])
    fields = [one.to_dict() for one in ours.list_events("events")]
    results = []
    for event_type in CLASSES:
        other = open_store(event_type=event_type)
        assert [one.to_dict() for one in other.list_events("events")] == fields

        def read(one: Any) -> float:
            return timed(count, lambda: one.list_events("events"))

        results.append(
            interleaved(
                f"list_events as {event_type.__module__.partition('.')[0]}.{event_type.__qualname__}, {name}",
                "list_events as our PAEvent",
                "events/s",
                rounds,
                partial(read, other),
                partial(read, ours),
            )
        )
    return results


def bench_checksums(directory: Path, rounds: int, count: int) -> list[Result]:
    """What it costs that every read compares checksums: the same archives as an earlier version left them."""
    for kind in (runstream.SQLiteCheckpointer, runstream.JSONLCheckpointer):
        for name in ("with", "without"):
            with kind(directory / f"{name}.{kind.__name__}") as store:
                store.save_events([event("events", index) for index in range(count)])
    with closing(sqlite3.connect(directory / "without.SQLiteCheckpointer")) as file, file:
        file.execute("UPDATE events SET checksum = NULL")
    log = directory / "without.JSONLCheckpointer" / "events" / "events.jsonl"
    log.write_bytes(re.sub(rb',"\$checksum":\d+\}$', b"}", log.read_bytes(), flags=re.MULTILINE))

    def read(store: Any) -> float:
        return timed(count, lambda: store.list_events("events"))

    results = []
    for kind in (runstream.SQLiteCheckpointer, runstream.JSONLCheckpointer):
        ours, theirs = (kind(directory / f"{name}.{kind.__name__}") for name in ("with", "without"))
        assert len(ours.list_events("events")) == len(theirs.list_events("events")) == count
        results.append(
            interleaved(
                f"list_events of rows or lines with checksums, {kind.__name__}",
                "of ones without",
                "events/s",
                rounds,
                partial(read, ours),
                partial(read, theirs),
            )
        )
    return results


def bench_from_dict(rounds: int, count: int) -> list[Result]:
    """The part that is the class's own."""
    fields = [event("events", index).to_dict() for index in range(count)]

    def make(event_type: Any) -> float:
        return timed(count, lambda: [event_type.from_dict(one) for one in fields])

    return [
        interleaved(
            f"from_dict of {event_type.__module__.partition('.')[0]}.{event_type.__qualname__} alone",
            "from_dict of our PAEvent alone",
            "events/s",
            rounds,
            partial(make, event_type),
            partial(make, runstream.PAEvent),
        )
        for event_type in CLASSES
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: that it runs, not how fast")
    quick = parser.parse_args().quick
    scale, rounds = (5, 3) if quick else (1, 15)
    with bench_server() as (client, directory):
        results = bench_from_dict(rounds, 10_000 // scale)
        results += bench_checksums(directory, rounds, 10_000 // scale)
        for name, open_store in stores(client, directory).items():
            results += bench_states(name, open_store, directory, rounds, 5_000 // scale)
            results += bench_classes(name, open_store, rounds, 10_000 // scale)
        report(results, Console())


if __name__ == "__main__":
    main()
