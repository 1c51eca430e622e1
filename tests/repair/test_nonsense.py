"""P12: a record whose checksum holds, and which decodes to nonsense, is kept aside and holds up nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest

from runstream import CorruptRecordError, DrainWorker, EventKind, create_event
from runstream.codec.record import FIELDS
from runstream.repair.quarantine import retry
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from tests.support.archive_check import Archive
from tests.support.backends import Backend, ServerBackend
from tests.support.commands import run
from tests.support.drain_tools import Hot, emit, open_hot, parked, put_raw
from tests.support.kinds import REAL
from tests.support.samples import sealed

SOUND: list[Any] = ["s", "main", "span", None, 1, 1.5, "agent.progress", "public", {"n": 1}]


def body(*further: Any, **fields: Any) -> bytes:
    """The body of a record with these fields changed, and with these behind them."""
    values = list(SOUND)
    for name, value in fields.items():
        values[FIELDS.index(name)] = value
    packed: bytes = msgpack.packb([*values, *further], unicode_errors="surrogatepass")
    return packed


def zoned(zone: str) -> msgpack.ExtType:
    """A moment in a zone of that name."""
    return msgpack.ExtType(4, f"2026-11-23T08:00:00+00:00[{zone}]".encode())


NONSENSE: dict[str, bytes] = {
    "further fields that are no map": body([1, 2]),
    "further fields that are a text": body("abc"),
    "a further field without a name": body({1: 2}),
    "a further field of the store's": body({"$offset": 2}),
    "a further field that the event has": body({"lane_id": 7}),
    "a key that is no text": body(None, 5),
    "a key that is too long": body(None, "k" * 513),
    "a key that UTF-8 cannot carry": body(None, "\ud800"),
    "a seq that is a text": body(seq="one"),
    "a seq that is a float": body(seq=1.0),
    "a seq of 80 bits": body(seq=msgpack.ExtType(10, b"f" * 20)),
    "a time that is a text": body(ts="now"),
    "a time that is no number": body(ts=float("nan")),
    "a huge time": body(ts=msgpack.ExtType(10, b"f" * 400)),
    "a kind that is a list": body(kind=["a", "b"]),
    "a kind that is a map": body(kind={"a": 1}),
    "a visibility that is a list": body(visibility=[]),
    "a lane that is None": body(lane_id=None),
    "a lane that is too long": body(lane_id="x" * 600),
    "a lane that UTF-8 cannot carry": body(lane_id="\udc00"),
    "a session that is a number": body(session_id=12),
}
"""Bodies that decode, and are no event."""

ODD: dict[str, bytes] = {
    "a payload that is a list": body(payload=[1, {"a": 2}]),
    "a payload that is a text": body(payload="done"),
    "a payload that is nothing": body(payload=None),
    "a seq that is a truth value": body(seq=True),
    "a time that is whole": body(ts=7),
    "a span that is a list": body(span_id=[1], parent_span_id={"a": 1}),
}
"""Bodies of events that version 0.1.0 took, or that are as good as those."""


ZONED: dict[str, bytes] = {
    "a zone that is a directory": body(payload={"at": zoned("Europe")}),
    "a zone of 300 characters": body(payload={"at": zoned("x" * 300)}),
    "a zone that climbs": body(payload={"at": zoned("../../etc/passwd")}),
    "a zone with a zero byte": body(payload={"at": zoned("a\0b")}),
}
"""Bodies of events with a moment in a zone that no machine knows."""

ALL = {"nonsense": NONSENSE, "odd": ODD, "zoned": ZONED}


@pytest.fixture
def backend(make_backend: Callable[[str], Backend]) -> ServerBackend:
    """A namespace on a real server."""
    made = make_backend(next(iter(REAL)))
    assert isinstance(made, ServerBackend)
    return made


@dataclass
class Written:
    """A run that has one of each of these bodies between sound events, and the offsets of what does not read."""

    hot: Hot
    bad: list[int]
    good: list[int]


def _sealed(packed: bytes, _: bytes) -> bytes:
    return sealed(1, packed)


def write(backend: ServerBackend, bodies: dict[str, bytes]) -> Written:
    hot = open_hot(backend)
    for number, packed in enumerate(bodies.values()):
        emit(hot, "r", 1, first=2 * number + 1)
        put_raw(hot, "r", partial(_sealed, packed))
    hot.save_event(create_event("r", EventKind.RUN_FINISHED, seq=99))
    last = 2 * len(bodies) + 1
    bad = list(range(2, last, 2)) if bodies is NONSENSE else []
    return Written(hot, bad, [offset for offset in range(1, last + 1) if offset not in bad])


@pytest.mark.parametrize("kind", ALL)
def test_one_of_each_holds_up_nothing(backend: ServerBackend, archives: list[Archive], kind: str) -> None:
    """Reported with its offset, skipped, given as bytes, quarantined, verified, restored with its neighbours."""
    written = write(backend, ALL[kind])
    hot, bad, good = written.hot, written.bad, written.good
    for offset in bad:
        with pytest.raises(CorruptRecordError) as caught:
            next(hot.read("r", offset - 1))
        assert (caught.value.run_id, caught.value.offset) == ("r", offset)
    assert [item.offset for item in hot.read("r", on_corrupt="skip")] == good
    assert [item.offset for item in hot.read("r", on_corrupt="skip", reverse=True)] == good[::-1]
    assert [type(item.event) is bytes for item in hot.read("r", on_corrupt="raw")] == [
        offset in bad for offset in range(1, good[-1] + 1)
    ]

    report = DrainWorker(hot, archives, trim="never").drain_once()
    assert (report.events, report.quarantined, report.parked) == (len(good), len(bad), 0)
    assert parked(hot) == {}
    for archive in archives:
        assert [entry.offset for _, entry in archive.quarantine("r")] == bad
        assert [item.offset for item in archive.read("r", on_corrupt="skip")] == good
        assert [one.offset for one in retry(archive, "r") if not one.reason] == []
    verdict = verify_run("r", hot=hot, sinks=archives)
    assert verdict.is_sound, verdict.difference
    assert [one.quarantined for one in verdict.checked] == [len(bad)] * 3

    events = [item.event for item in hot.read("r", on_corrupt="raw")]
    for archive in archives:
        assert hot.delete_run("r")
        assert put_back(hot, archive, "r", whole=True).first_hot == 1
        assert [item.event for item in hot.read("r", on_corrupt="raw")] == events
        DrainWorker(hot, archives, trim="never").drain_once()
        assert parked(hot) == {}


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("kind", ALL)
def test_every_command_goes_on(backend: ServerBackend, archives: list[Archive], tmp_path: Path, kind: str) -> None:
    """show, tail, verify, export and quarantine give what reads, and say what does not."""
    written = write(backend, ALL[kind])
    DrainWorker(written.hot, archives, trim="never").drain_once()
    hot_url = f"{backend.server.url}?namespace={backend.namespace}"
    for url in (hot_url, *(archive.location for archive in archives)):
        shown = run("show", "r", "--url", url, "--json").document
        assert [event["offset"] for event in shown["events"]] == written.good
        assert shown["unreadable"] == written.bad
        assert run("show", "r", "--url", url).code == 0
        out = tmp_path / f"{url.partition(':')[0]}.csv"
        assert run("export", "r", "--url", url, "--to", str(out), "--skip-corrupt").code in (0, 1)
        assert len(out.read_text().splitlines()) >= len(written.good)
    tailed = run("tail", "r", "--url", hot_url, "--lines", "1000", "--idle-timeout", "5")
    told = [line for line in tailed.out.splitlines() if not re.fullmatch(r"\d{4}-\d\d-\d\d UTC", line)]
    assert (tailed.code, len(told)) == (0, len(written.good)), tailed.err
    assert all(f"offset {offset} does not read" in tailed.err for offset in written.bad)
    to = [part for archive in archives for part in ("--archive", archive.location)]
    assert run("verify", "r", "--url", hot_url, *to).code == 0
    for archive in archives:
        listed = run("quarantine", "--url", archive.location, "--json").document["records"]
        assert [one["offset"] for one in listed] == written.bad
        for offset in written.bad[::7]:
            assert run("quarantine", "show", "r", str(offset), "--url", archive.location).code == 0
