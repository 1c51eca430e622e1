"""P9 by value: an archive holds what Redis has, whoever wrote its text, and gives every record again."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import pytest

from runstream import DrainWorker, PAEvent
from runstream.codec.msgpack_values import Packer
from runstream.codec.record import ERASED, encode_record, seed
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker import load
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.commands import QUIET, Place
from tests.support.drain_tools import Hooked, Hot, ask, emit, first_hot, open_archives, open_hot, parked, put_raw
from tests.support.mortal import Killed
from tests.support.other_texts import rewrite
from tests.support.samples import RICH_VALUES, make_event, make_state, same
from tests.support.servers import DEADLINE_SECONDS, needs_server

TAGS = {f"tag {n}" for n in range(40)}
NANS = ["7ff8000000000000", "fff8000000000000", "7ff8000000000001", "ffffffffffffffff"]
"""A processor gives the second one: inf - inf."""
KINDS = {"sqlite": slice(1), "jsonl": slice(1, 2), "both": slice(2)}


@pytest.fixture
def hot(fake: RedisBackend) -> Hot:
    return open_hot(fake)


def fill(hot: Hot) -> list[PAEvent]:
    """A run with all values in its events and its states; all of it may be trimmed."""
    payloads: list[dict[str, Any]] = [{"value": value} for value in RICH_VALUES.values()]
    payloads += [{"nan": [struct.unpack(">d", bytes.fromhex(bits))[0] for bits in NANS]}]
    payloads += [{"n": 1, "x": 1e16}, {"tags": TAGS, "in": [frozenset({(frozenset(TAGS), 1)})]}]
    events = [make_event("r", seq, payload=payload) for seq, payload in enumerate(payloads, 1)]
    hot.save_events(events[:-1])
    hot.append("r", events[-1:], keys=["the key"])
    state = make_state("r")
    state.data.update(RICH_VALUES, tags=TAGS)
    hot.save_snapshot("r", state)
    hot.save_snapshot("r", state, lane_id="main")
    return events


def opened_anew(directory: Path, kinds: str) -> list[Archive]:
    """The archives as another process finds them."""
    return open_archives(directory)[KINDS[kinds]]


def archive_unsettled(hot: Hot, archives: Sequence[Archive]) -> None:
    """A worker is killed when all is committed, and nothing proven."""

    def die(*_: Any) -> None:
        raise Killed

    with pytest.raises(Killed):
        DrainWorker(hot, [*archives[:-1], Hooked(archives[-1], read_back=die)], trim="archived").drain_once()
    assert first_hot(hot, "r") == 1


def check_is_settled(hot: Hot, archives: Sequence[Archive], events: Sequence[PAEvent]) -> None:
    assert parked(hot) == {}
    assert first_hot(hot, "r") == len(events) + 1
    assert verify_run("r", hot=hot, sinks=archives).difference is None
    for archive in archives:
        assert same([one.event for one in archive.read("r")], list(events))


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("kinds", KINDS)
def test_what_somebody_else_has_spelled_otherwise_is_proven(hot: Hot, tmp_path: Path, kinds: str) -> None:
    """A worker was killed between commit and settling, and another process had sets in another order."""
    events = fill(hot)
    archive_unsettled(hot, opened_anew(tmp_path, kinds))
    for archive in opened_anew(tmp_path, kinds):
        rewrite(archive)
    archives = opened_anew(tmp_path, kinds)
    assert verify_run("r", hot=hot, sinks=archives).difference is None
    assert DrainWorker(hot, archives, trim="archived").drain_once().parked == 0
    check_is_settled(hot, archives, events)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kinds", KINDS)
def test_what_was_put_back_is_proven_by_value(hot: Hot, tmp_path: Path, kinds: str) -> None:
    """Restored from texts of another spelling, drained to where these are, and verified."""
    events = fill(hot)
    DrainWorker(hot, opened_anew(tmp_path, kinds), trim="archived").drain_once()
    for archive in opened_anew(tmp_path, kinds):
        rewrite(archive)
    saved = hot.load_snapshot("r")
    assert saved is not None
    for source in opened_anew(tmp_path, kinds):
        assert hot.delete_run("r")
        put_back(hot, source, "r", whole=True)
        archives = opened_anew(tmp_path, kinds)
        assert verify_run("r", hot=hot, sinks=archives).difference is None
        assert same([one.event for one in hot.read("r")], events)
        report = DrainWorker(hot, archives, trim="archived").drain_once()
        assert (report.events, report.parked) == (len(events), 0)
        check_is_settled(hot, archives, events)
        for store in (hot, *archives):
            snapshot = store.load_snapshot("r", lane_id="main")
            assert snapshot is not None
            assert same(snapshot.state.data, saved.state.data)


_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from runstream import DrainWorker, connect
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from tests.support.drain_tools import open_archives

hot, archives = connect(sys.argv[1]), open_archives(Path(sys.argv[2]))
drain = DrainWorker(hot, archives, trim="archived").drain_once
found = [verify_run("r", hot=hot, sinks=archives).difference, drain().parked]
for archive in archives:
    hot.delete_run("r")
    put_back(hot, archive, "r", whole=True)
    found += [verify_run("r", hot=hot, sinks=archives).difference, drain().parked]
print(found)
"""


@pytest.mark.exhaustive
@needs_server
def test_every_process_proves_what_any_other_has_written(tmp_path: Path) -> None:
    """Under whatever hash seed: what was committed and not settled, what was settled, what was put back."""
    with closing(Place(tmp_path)) as place:
        events = fill(place.store)
        archive_unsettled(place.store, open_archives(tmp_path))
        for hash_seed in ("1", "2"):
            done = subprocess.run(
                [sys.executable, "-c", _ANOTHER_PROCESS, place.url, str(tmp_path)],
                env={**QUIET, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                timeout=DEADLINE_SECONDS,
                check=False,
            )
            assert (done.stdout, done.stderr) == ("[None, 0, None, 0, None, 0]\n", "")
        check_is_settled(place.store, open_archives(tmp_path), events)


_OTHER_VALUES: dict[str, Callable[[str], str]] = {
    "of a set": lambda text: text.replace('"tag 7"', '"tag 70"'),
    "of a number's type": lambda text: text.replace('"n":1,', '"n":1.0,'),
    "of a float": lambda text: text.replace('"x":1e+16', '"x":10000000000000001').replace(
        '"x":1e16', '"x":10000000000000001'
    ),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kinds", ["sqlite", "jsonl"])
@pytest.mark.parametrize("other", _OTHER_VALUES)
def test_another_value_is_no_spelling(hot: Hot, tmp_path: Path, kinds: str, other: str) -> None:
    fill(hot)
    archive_unsettled(hot, opened_anew(tmp_path, kinds))
    rewrite(opened_anew(tmp_path, kinds)[0], _OTHER_VALUES[other])
    assert DrainWorker(hot, opened_anew(tmp_path, kinds), trim="archived").drain_once().parked == 1
    assert "does not hold event" in parked(hot)["r"]
    assert first_hot(hot, "r") == 1


# -- records that JSON does not give again ---------------------------------------------------------------


def body_of(further: Any = None, payload: Any = None, ts: Any = 1.0) -> list[Any]:
    return ["", "main", "", None, 5, ts, "x", "public", {} if payload is None else payload, further, "key"]


def packed(values: list[Any]) -> bytes:
    return Packer(None).pack(values)


def unsorted_set() -> bytes:
    there = packed(body_of(payload={"s": {1, 2}}))
    assert b"\x92\x01\x02" in there
    return there.replace(b"\x92\x01\x02", b"\x92\x02\x01")


OTHER_ENCODINGS: dict[str, bytes] = {
    "a float of 32 bits": packed(body_of(ts=0.5)).replace(
        b"\xcb" + struct.pack(">d", 0.5), b"\xca\x3f\x00\x00\x00"
    ),
    "an integer in more bytes than it needs": packed(body_of()).replace(
        b"\xa0\xa4main\xa0\xc0\x05", b"\xa0\xa4main\xa0\xc0\xcc\x05"
    ),
    "a set in another order": unsorted_set(),
    "a moment in another spelling": msgpack.packb(
        body_of(payload={"at": msgpack.ExtType(4, b"2026-01-01 00:00:00")})
    ),
    "nanoseconds": msgpack.packb(body_of(payload={"at": msgpack.ExtType(4, b"2026-01-01T00:00:00.123456789")})),
    "a key twice": packed(body_of(payload={"a": 1, "b": 2})).replace(b"\xa1b\x02", b"\xa1a\x02"),
    "further fields that are none": packed(body_of({})),
    "a further field that is an own one": packed(body_of({"seq": 5})),
    "a further field that is reserved": packed(body_of({"$offset": 7})),
    "a schema version that is none": packed(body_of({"$schema": "3"})),
}


def other_record(name: str) -> bytes:
    body = OTHER_ENCODINGS[name]
    return b"\x01" + zlib.crc32(body, seed("r")).to_bytes(4, "big") + body


@pytest.mark.one_in(5)
@pytest.mark.parametrize("name", OTHER_ENCODINGS)
def test_a_record_that_json_would_not_give_again_is_kept_as_it_is(hot: Hot, tmp_path: Path, name: str) -> None:
    """Its checksum is sound, so another program wrote it: what is archived can be restored, to the last byte."""
    archives = open_archives(tmp_path)
    emit(hot, "r", 2)
    record = put_raw(hot, "r", lambda _: other_record(name), key="key")
    emit(hot, "r", 2, first=4)
    kept, there = entries_in(hot), repr(list(hot.read("r", on_corrupt="raw")))
    report = DrainWorker(hot, archives, trim="archived").drain_once()
    assert (report.events, report.quarantined, report.trimmed, report.parked) == (4, 1, 5, 0)
    for archive in archives:
        ((run_id, entry),) = archive.quarantine()
        assert (run_id, entry.offset, entry.raw) == ("r", 3, record)
        assert entry.reason
        # a reader is not told where an event lies
        assert repr(list(archive.read("r", on_corrupt="raw"))) == there
    assert verify_run("r", hot=hot, sinks=archives).difference is None
    hot.delete_run("r")
    put_back(hot, archives[0], "r", whole=True)
    assert entries_in(hot) == kept
    assert hot.append("r", [make_event("r", 9)], keys=["key"]).first_offset == 3
    assert DrainWorker(hot, archives, trim="archived").drain_once().parked == 0
    assert verify_run("r", hot=hot, sinks=archives).difference is None


def entries_in(hot: Hot) -> Any:
    """What Redis has of the run: ids, and fields with records."""
    return ask(hot, b"XRANGE", namespace_of(hot).keys.run("r").events, "-", "+")


def change_record(hot: Hot, offset: int, record: bytes) -> None:
    """Put another record under the cursor of an event, as nothing but a person with a client can."""
    events, entries = namespace_of(hot).keys.run("r").events, entries_in(hot)
    ask(hot, b"DEL", events)
    for entry_id, fields in entries:
        at = int(entry_id.split(b"-")[0])
        ask(hot, b"XADD", events, entry_id, b"e", record if at == offset else fields[1])


def test_an_event_that_is_not_the_one_of_its_cursor_is_not_archived(hot: Hot, tmp_path: Path) -> None:
    """A sound record in the place of another: what comes before it is archived, and nothing from there on."""
    archives = open_archives(tmp_path)
    events = emit(hot, "r", 6)
    record = encode_record(Packer(None), seed("r"), body_of())
    change_record(hot, 4, record)
    report = DrainWorker(hot, archives, trim="archived").drain_once()
    assert (report.events, report.parked, first_hot(hot, "r")) == (3, 1, 4)
    assert re.search(r"event 4 .* is not the one that its cursor 4-\d+ is of", parked(hot)["r"])
    for archive in archives:
        assert [one.event for one in archive.read("r")] == events[:3]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("damaged", [b"\x01\xff\xff\xff\xffdamaged", bytes(64), b"\xff", b"not ours"])
def test_an_erased_event_and_a_damaged_record_prove_nothing_and_hold_up_nothing(
    hot: Hot, tmp_path: Path, damaged: bytes
) -> None:
    """They are archived and trimmed as they are, and come back so, whatever was damaged: the checksum too."""
    archives = open_archives(tmp_path)
    emit(hot, "r", 6)
    change_record(hot, 2, ERASED)
    change_record(hot, 4, damaged)
    before = entries_in(hot)
    report = DrainWorker(hot, archives, trim="archived").drain_once()
    assert (report.quarantined, report.trimmed, report.parked) == (1, 6, 0)
    for archive in archives:
        assert hot.delete_run("r")
        put_back(hot, archive, "r", whole=True)
        assert entries_in(hot) == before
        report = DrainWorker(hot, archives, trim="archived").drain_once()
        assert (report.quarantined, report.trimmed, report.parked) == (1, 6, 0)


def test_a_snapshot_that_json_would_not_give_again_covers_nothing(
    hot: Hot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of ours: what is in Redis is then all there is."""
    fill(hot)
    monkeypatch.setattr(load, "dump_json", lambda state: '{"run_id": "r"}')
    report = DrainWorker(hot, open_archives(tmp_path), trim="covered").drain_once()
    assert (report.snapshots, report.trimmed) == (0, 0)
    assert open_archives(tmp_path)[0].read_back_snapshots("r") == []


def test_verify_names_the_offset_of_a_record_of_a_newer_version(hot: Hot) -> None:
    emit(hot, "r", 1)
    body = packed(body_of())
    put_raw(hot, "r", lambda _: b"\xc8" + zlib.crc32(body, seed("r", 200)).to_bytes(4, "big") + body)
    difference = verify_run("r", hot=hot).difference
    assert difference is not None
    assert (difference.offset, difference.what) == (2, "a record is of a newer version")
