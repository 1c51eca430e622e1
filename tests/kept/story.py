"""What the kept files hold: runs in every condition that a namespace and its archives know."""

from __future__ import annotations

import dataclasses
import enum
import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy
import pydantic

from runstream import EventKind, Visibility
from tests.kept.author import Author
from tests.kept.neutral import fields_of

__all__ = ["DIVERGED", "GAP", "NEWER", "tell", "tell_sets"]

BERLIN = ZoneInfo("Europe/Berlin")

VALUES: dict[str, Any] = {
    "none": None,
    "bools": [True, False],
    "ints": [0, 1, -1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**40, -(10**40)],
    "floats": [0.0, -0.0, 0.1, 1e308, 5e-324, 1.0, math.nan, math.inf, -math.inf],
    "texts": ["", "plain", "ünï日本🎉", '\x00\n\r\t"\\', "\ud800 alone", "$tuple", "\u2028"],
    "bytes": [b"", b"\x00\xff\xfe", b"text"],
    "lists": [[], [[]], [1, [2, [3]]]],
    "tuples": [(), (1,), (1, (2, [3], {"k": (4,)}))],
    "dicts": [{}, {"b": 1, "a": 2}, {1: "int", (1, 2): "tuple", None: 0, b"b": 1, 1.5: 2, frozenset({1}): 3}],
    "keys": {date(2024, 2, 29): "date", UUID(int=7): "uuid", Decimal("1.50"): "decimal", 2**70: "int", "": "text"},
    "sets": [set(), {1, "1", (1, 2)}, frozenset(), frozenset({b"x", None})],
    "datetimes": [
        datetime(2024, 2, 29, 8, 0, 0, 123456),  # noqa: DTZ001 - one without a zone is a value too
        datetime(2024, 2, 29, 8, 0, tzinfo=UTC),
        datetime(2024, 2, 29, 8, 0, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
        datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN),
        datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
        datetime.min,  # noqa: DTZ901 - without a zone on purpose
        datetime.max,  # noqa: DTZ901 - without a zone on purpose
    ],
    "dates": [date(2024, 2, 29), date.min, date.max],
    "times": [time(8, 30), time(23, 59, 59, 999999), time(8, 30, tzinfo=UTC)],
    "spans": [timedelta(0), timedelta(days=-1, microseconds=1), timedelta.max, timedelta.min],
    "decimals": [Decimal("0.10"), Decimal("-0"), Decimal("1E+400"), Decimal("NaN"), Decimal("-Infinity")],
    "uuid": UUID(int=2**127 + 5),
    "look like tags": [{"$tuple": [1]}, {"$dict": []}, {"$": 0}, {"$str": "x", "b": 1}, {"$unknown": {"$set": 1}}],
}
"""One of everything that is promised to come back as it was, nested."""

SETTLED = {name: value for name, value in VALUES.items() if name != "sets"} | {
    "sets": [set(), {3}, frozenset({1})]
}
"""Of these 0.1.0 writes the same JSON in every process."""

ODD = [
    *("../../x", "a/b", "UPPER", "upper", "x" * 500, "日本🎉", "run%3A", "a:b", "a b", ".", "tab\t", "NUL"),
    *("é" * 128, "-", "~", "{tag}"),
]

DIVERGED, GAP, NEWER = "diverged", "gap", "newer"
"""The runs that are parked."""


def tell(author: Author) -> dict[str, Any]:
    """Write all of it. Gives what the book has no place for: leases, and what the archives set aside."""
    _forgotten(author)
    _retired(author)
    _covered(author)
    _trimmed(author)
    _written_into_archives(author)
    _deleted(author)
    branch = _resolved(author)
    _parked(author)
    _never_drained(author)
    return {"branch": branch, "leases": _leased(author)}


def tell_sets(author: Author) -> None:
    """Write a state of which 0.1.0 writes another JSON in every process: in a set, texts have the order of hashes.

    There are so many that no other process has them in the same order.
    """
    texts = {f"text {n}" for n in range(20)}
    author.write("sets", [author.event("sets", {"texts": texts})])
    author.snapshot("sets", data={"texts": texts, "bytes": frozenset(text.encode() for text in texts)})
    author.drain()


def _forgotten(author: Author) -> None:
    """In the archives alone."""
    author.run("forgotten").update(status="completed", session_id="s1")
    author.events("forgotten", 3, session_id="s1")
    author.write("forgotten", [author.event("forgotten", kind=EventKind.RUN_FINISHED, session_id="s1")])
    report = author.drain(retire_after_seconds=0.0, forget_after_seconds=0.0)
    assert (report.retired, report.forgotten) == (1, 1)


def _retired(author: Author) -> None:
    """A tombstone is left of them; one has gone on since."""
    for run_id in ("retired", "retired-late"):
        author.write(
            run_id, [author.event(run_id, session_id="s1") for _ in range(4)], keys=["k1", None, "k2", None]
        )
        author.snapshot(run_id, "side", data={"of": "a lane"})
        author.write(
            run_id,
            [author.event(run_id, kind=EventKind.RUN_FINISHED, session_id="s1")],
            snapshot=author.state(run_id, status="completed", session_id="s1"),
        )
    author.events("failed", 2)
    author.write("failed", [author.event("failed", {"error": "no"}, kind=EventKind.RUN_ERROR)])
    assert author.drain(retire_after_seconds=0.0).retired == 3


def _covered(author: Author) -> None:
    """What their snapshots cover has left Redis. Some went on, and have been drained again or not."""
    for run_id in ("covered", "covered-more"):
        for step in range(3):  # each is the latest when a worker looks: a history of three
            author.events(run_id, 2, session_id="s2")
            author.snapshot(run_id, data={"step": step, "pair": (step, {step})}, session_id="s2")
            author.events(run_id, 1, session_id="s2")
            author.drain()
    author.events("lanes", 2, lane_id="a")
    author.events("lanes", 2, lane_id="b:c %")
    author.snapshot("lanes", "a", data={"lane": "a"})
    author.events("lanes", 1, lane_id="a")
    author.snapshot("lanes", "b:c %", data={"lane": "b"})
    author.events("lanes", 1, lane_id="b:c %")
    author.drain()
    author.snapshot("lanes", "a", data={"lane": "a", "again": True})
    author.write("keyed", [author.event("keyed") for _ in range(3)], keys=["first", None, "ключ\n\x00"])
    author.snapshot("keyed")
    author.events("corrupt", 3)
    author.damage("corrupt", 2, lambda held: held[:-1] + bytes([held[-1] ^ 0xFF]))
    for status in ("completed", "cancelled"):
        author.events(status, 2)
        author.snapshot(status, status=status)
    author.events("alone", 1)
    assert author.drain().quarantined == 1
    author.snapshot("only-a-snapshot", data={"n": 1})
    author.drain()
    with author.open() as store, store.open_run("agent", lane_id="booker", lease_ttl=30, owner="booker-1") as run:
        emitted = [run.emit("tool.result", key="book", room=101), run.emit("agent.progress", step=(1, 2))]
        run.state.data["hotel"] = 101
        run.checkpoint()
        emitted.append(run.emit("text.delta", text="…"))
        for key, recorded in zip(("book", None, None), emitted, strict=True):
            entry = {"cursor": recorded.cursor, "key": key, "event": fields_of(recorded.event.to_dict())}
            author.entries("agent").append(entry)
        author.note_snapshot("agent", run.state, "booker")
    author.drain()


def _trimmed(author: Author) -> None:
    """Nothing of their events is in Redis any more, whatever their snapshots cover."""
    author.events("trimmed", 3)
    author.snapshot("trimmed", data={"at": 3})
    author.events("trimmed", 3)
    for run_id in ("values", *ODD):
        author.write(run_id, [author.event(run_id, {"value": value}) for value in _values(run_id)])
    author.snapshot("values", data=SETTLED, metadata={"nested": {"values": VALUES["tuples"]}})
    author.drain("archived")


def _values(run_id: str) -> list[Any]:
    return list(VALUES.values()) if run_id == "values" else [run_id]


def _written_into_archives(author: Author) -> None:
    """Each archive as a store of its own, without a drain."""
    for archive, name in zip(author.archives, ("sqlite", "jsonl"), strict=True):
        run_id = f"direct-{name}"
        events = [author.event(run_id, {"n": n, "pair": (n,)}, session_id="s3") for n in range(3)]
        archive.append(run_id, events, keys=["d1", None, "d2"])
        state = author.state(run_id, session_id="s3")
        archive.save_snapshot(run_id, state)
        entries = author.entries(run_id)
        for recorded, key in zip(archive.read(run_id), ("d1", None, "d2"), strict=True):
            entries.append(
                {"cursor": recorded.cursor, "key": key, "event": fields_of(events[len(entries)].to_dict())}
            )
        snapshot = {"offset": 3, "revision": 1, "state": fields_of(state.to_dict())}
        author.run(run_id).update(
            archive_snapshots={"": [snapshot]}, archived=3, only=name, status="running", session_id="s3"
        )


def _deleted(author: Author) -> None:
    """Gone from Redis and both archives; one of them was begun again."""
    for run_id in ("deleted", "deleted-again"):
        author.events(run_id, 2)
        author.snapshot(run_id)
        author.drain()
        assert author.hot.delete_run(run_id)
        for archive in author.archives:
            assert archive.delete_run(run_id)
        author.strike(run_id)
    author.events("deleted-again", 3)
    author.drain()


def _part(author: Author, run_id: str) -> list[dict[str, Any]]:
    """After a failover Redis lacks what the archives have; somebody has written in its place. Gives theirs."""
    author.events(run_id, 3)
    author.snapshot(run_id, data={"of": "both"})
    author.drain()
    behind = author.remember(run_id)
    common = len(author.entries(run_id))
    author.write(run_id, [author.event(run_id, {"of": "archive"}) for _ in range(2)], keys=["lost", None])
    author.drain()
    theirs = list(author.entries(run_id))
    author.come_back(run_id, behind)
    del author.entries(run_id)[common:]
    author.events(run_id, 3)
    return theirs


def _resolved(author: Author) -> dict[str, Any]:
    """Two histories, of which Redis's was kept; the other one is a branch in each archive."""
    theirs = _part(author, "resolved")
    author.drain(parked=["resolved"])
    author.resolve("resolved", "redis")
    del author.run("resolved")["is_set_aside"]
    author.drain()
    return {"name": f"resolved~{theirs[-1]['cursor']}", "start": 3, "entries": theirs[3:]}


def _parked(author: Author) -> None:
    """Runs that the archives cannot take."""
    theirs = _part(author, DIVERGED)
    author.run(DIVERGED).update(archived=len(theirs), archive_entries=theirs)
    author.events(GAP, 2)
    author.snapshot(GAP)
    author.drain(parked=[DIVERGED])
    author.archives[1].delete_run(GAP)  # one archive has lost it
    author.events(GAP, 1)
    author.events(NEWER, 1)
    author.write_newer(NEWER)
    author.events(NEWER, 1)
    author.drain(parked=[GAP, NEWER])
    author.run(NEWER)["archived"] = 1  # what is before the record is fine


def _never_drained(author: Author) -> None:
    """Runs, and ends of runs that were drained before, which are in Redis alone."""
    author.events("covered-more", 2, session_id="s2")
    author.hot.recover("covered")
    author.snapshot("covered", data={"step": "last"}, session_id="s2")
    author.events("lanes", 1, lane_id="b:c %")
    author.hot.recover("lanes", lane_id="b:c %")
    author.snapshot("lanes", "b:c %", data={"lane": "b", "again": True})
    author.write("keyed", [author.event("keyed"), author.event("keyed")], keys=["fourth", None])
    for run_id in ODD:
        author.events(run_id, 1)
    author.events("hot", 5, session_id="s1")
    author.snapshot("hot", data={"k": {"deep": (1, [b"x"])}})
    author.write("hot", [author.event("hot", kind="of.tomorrow", visibility=Visibility.DEBUG, parent_span_id="p")])
    author.write("hot-values", [author.event("hot-values", {name: value}) for name, value in VALUES.items()])
    author.snapshot("hot-values", data=dict(VALUES))
    author.write("hot-keyed", [author.event("hot-keyed") for _ in range(2)], keys=["h1", None])
    author.events("retired-late", 2, session_id="s1")
    author.events("hot-corrupt", 3)
    author.damage("hot-corrupt", 2, lambda held: held[:-1] + bytes([held[-1] ^ 0xFF]))
    given, plain = _fallback()
    event = author.event("fallback", given)
    author.write("fallback", [event], plain=[dataclasses.replace(event, payload=plain)])


class _Colour(enum.Enum):
    RED = "red"


class _Level(enum.IntEnum):
    HIGH = 3


class _Model(pydantic.BaseModel):
    name: str
    pair: tuple[int, int] = (1, 2)


@dataclasses.dataclass
class _Data:
    when: date
    colour: _Colour = _Colour.RED


class _Text(str):
    __slots__ = ()


def _fallback() -> tuple[dict[str, Any], dict[str, Any]]:
    """Values that become plain data, and the plain data that they become."""
    given = {
        "enum": [_Colour.RED, _Level.HIGH],
        "pydantic": _Model(name="x"),
        "dataclass": _Data(date(2024, 2, 29)),
        "numpy": [numpy.float64(0.5), numpy.int64(7), numpy.bool_(True)],
        "path": PurePosixPath("a/b"),
        "error": ValueError("no"),
        "text": _Text("t"),
    }
    plain = {
        "enum": ["red", 3],
        "pydantic": {"name": "x", "pair": (1, 2)},
        "dataclass": {"when": date(2024, 2, 29), "colour": "red"},
        "numpy": [0.5, 7, True],
        "path": "a/b",
        "error": {"type": "ValueError", "message": "no"},
        "text": "t",
    }
    return given, plain


def _leased(author: Author) -> list[dict[str, Any]]:
    """Leases that nobody gave back. The last one is of a server whose clock was years ahead."""
    leases = []
    for run_id, lane_id in (("leased-run", None), ("leased-lane", "main"), ("leased-ahead", None)):
        author.events(run_id, 2)
        lease = author.hot.lease(run_id, owner="owner-1", lane_id=lane_id, ttl=30.0)
        grant = lease.grant
        assert grant is not None
        author.write(run_id, [author.event(run_id)], lease=lease)
        facts = dataclasses.asdict(grant)
        if run_id == "leased-ahead":
            facts["epoch"] = 4_000_000_000_000_000  # microseconds: the year 2096
            author.raw.hset(author.key(run_id, "meta"), "epoch", facts["epoch"])
        leases.append(facts)
    return leases
