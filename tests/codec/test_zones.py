"""Times keep their instant, their clock and their zone, whatever rules of zones a machine has."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from importlib.resources import files
from pathlib import Path
from typing import Any
from zoneinfo import TZPATH, ZoneInfo

import pytest

from runstream.codec.extension_types import NamedOffset
from runstream.codec.lossless_json import dump_json, load_json
from runstream.codec.msgpack_values import Packer, pack_stored, unpack
from runstream.model.errors import EncodingError
from tests.support.samples import BERLIN, same

PACKER = Packer(None)

MOMENTS: dict[str, datetime | time] = {
    "a second time in autumn": datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    "a first time in autumn": datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN),
    "skipped in spring": datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN),
    "skipped in spring, after": datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN, fold=1),
    "a fold without a second time": datetime(2026, 7, 1, 2, 30, tzinfo=BERLIN, fold=1),
    "a naive fold": datetime(2026, 10, 25, 2, 30, fold=1),  # noqa: DTZ001 - one without a zone is a value too
    "a fold in a fixed zone": datetime(2026, 10, 25, 2, 30, tzinfo=timezone(timedelta(hours=1)), fold=1),
    "a fold in UTC": datetime(2026, 10, 25, 2, 30, tzinfo=UTC, fold=1),
    "a time with a zone": time(8, 30, tzinfo=BERLIN),
    "a time with a zone and a fold": time(2, 30, 0, 5, tzinfo=BERLIN, fold=1),
    "a naive time with a fold": time(2, 30, fold=1),
    "a time in a zone that never changes": time(8, 30, tzinfo=ZoneInfo("Etc/GMT+5")),
    "a time in the zone UTC": time(8, 30, tzinfo=ZoneInfo("UTC")),
    "the zone UTC": datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")),
    "a time at an offset": time(8, 30, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    "local mean time": datetime(1, 1, 1, tzinfo=BERLIN),
    "an unknown zone": datetime(2026, 1, 1, tzinfo=NamedOffset("Moon/Base", timedelta(hours=3))),
    "a time in an unknown zone": time(8, 30, tzinfo=NamedOffset("Moon/Base", None)),
}


def facts(moment: Any) -> tuple[Any, ...]:
    """All that a moment has."""
    return (moment.isoformat(), moment.fold, getattr(moment.tzinfo, "key", None), moment.utcoffset())


@pytest.mark.parametrize("name", MOMENTS)
def test_a_moment_comes_back_with_all_that_it_has(name: str) -> None:
    moment = MOMENTS[name]
    for back in (unpack(PACKER.pack(moment)), load_json(dump_json(moment))):
        assert back == moment
        assert facts(back) == facts(moment)
        assert pack_stored(back) == PACKER.pack(moment)


@pytest.mark.parametrize(
    "name", ["a first time in autumn", "the zone UTC", "a time at an offset", "local mean time"]
)
def test_a_moment_that_has_always_been_stored_has_the_form_that_it_always_had(name: str) -> None:
    (tag,) = json.loads(dump_json(MOMENTS[name]))
    assert tag in {"$datetime", "$time"}


SCRIPT = """
import json, sys, zoneinfo
{prepare}
from runstream.codec.lossless_json import dump_json, load_json
from runstream.codec.msgpack_values import pack_stored, unpack
for line in sys.stdin:
    packed, text = line.split(" ", 1)
    packed, text = bytes.fromhex(packed), text.rstrip("\\n")
    one, two = unpack(packed), load_json(text)
    assert pack_stored(one) == pack_stored(two) == packed, (text, one, two)
    assert dump_json(one) == dump_json(two) == text, (text, one, two)
    clock, zone = one.replace(tzinfo=None).isoformat(), getattr(one.tzinfo, "key", None)
    print(json.dumps([clock, zone, str(one.utcoffset())]))
"""
NO_ZONES = "sys.modules['tzdata'] = None; zoneinfo.reset_tzpath([])"
OTHER_RULES = "sys.modules['tzdata'] = None; zoneinfo.reset_tzpath([{0!r}])"


def told_elsewhere(prepare: str) -> list[list[Any]]:
    """What a process with other rules of zones reads: it must write the same bytes and texts again."""
    lines = "".join(f"{PACKER.pack(moment).hex()} {dump_json(moment)}\n" for moment in MOMENTS.values())
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(prepare=prepare)],
        input=lines,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def expected_elsewhere() -> list[list[Any]]:
    return [
        [
            moment.replace(tzinfo=None).isoformat(),
            getattr(moment.tzinfo, "key", None),
            str(moment.utcoffset()),
        ]
        for moment in MOMENTS.values()
    ]


@pytest.mark.exhaustive
def test_a_machine_that_knows_no_zones_reads_and_writes_the_same() -> None:
    assert told_elsewhere(NO_ZONES) == expected_elsewhere()


@pytest.mark.one_in(4)
@pytest.mark.parametrize("other", ["America/New_York", "Asia/Tokyo", "Australia/Lord_Howe", "UTC"])
def test_a_zone_whose_rule_was_changed_moves_no_instant(tmp_path: Path, other: str) -> None:
    """Its name now stands for the rules of another zone."""
    place = tmp_path / "Europe"
    place.mkdir()
    (place / "Berlin").write_bytes(rules_of(other))
    assert told_elsewhere(OTHER_RULES.format(str(tmp_path))) == expected_elsewhere()


def rules_of(zone: str) -> bytes:
    """A zone's file, of the system or of the package tzdata."""
    for directory in TZPATH:
        if (path := Path(directory, zone)).is_file():
            return path.read_bytes()
    area, _, name = zone.rpartition("/")
    package = ".".join(["tzdata", "zoneinfo", *filter(None, area.split("/"))])
    return files(package).joinpath(name).read_bytes()


@pytest.mark.parametrize(
    "name", ["Europe", "x" * 300, "../../etc/passwd", "", "a\x00b", "Moon/Tranquility", "\udcff"]
)
def test_a_zone_that_is_none_gives_the_same_instant(name: str) -> None:
    text = f"2026-11-23T08:00:00+01:00[{name}]"
    loaded = load_json(json.dumps({"$datetime": text}))
    assert loaded == datetime(2026, 11, 23, 7, tzinfo=UTC)
    if name:
        assert loaded.tzname() == name
        assert load_json(dump_json(loaded)).tzinfo == loaded.tzinfo


class Shifty(tzinfo):
    """A zone without a name, whose clocks show an hour twice."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        if moment is None:
            return None
        return timedelta(hours=1 if moment.hour == 2 and moment.fold else 2)

    def dst(self, _: datetime | None) -> None:
        return None

    def tzname(self, _: datetime | None) -> None:
        return None


class Raising(Shifty):
    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        raise LookupError("no such zone")


def test_a_zone_without_a_name_is_kept_as_its_offset_or_refused() -> None:
    moment = datetime(2026, 1, 1, 3, tzinfo=Shifty())
    assert unpack(PACKER.pack(moment)) == moment
    for value in (
        datetime(2026, 1, 1, 2, tzinfo=Shifty()),
        time(3, tzinfo=Shifty()),
        datetime(2026, 1, 1, tzinfo=Raising()),
        {"in": [datetime(2026, 1, 1, 2, tzinfo=Shifty())]},
    ):
        with pytest.raises(EncodingError) as caught:
            PACKER.pack({"at": value}, "payload")
        assert caught.value.path.startswith("payload.at")


def test_a_named_offset_is_a_time_zone_like_others() -> None:
    zone = NamedOffset("Moon/Base", timedelta(hours=3))
    moment = datetime(2026, 1, 1, 3, tzinfo=zone)
    for again in (copy.deepcopy(zone), pickle.loads(pickle.dumps(zone))):
        assert again == zone
        assert hash(again) == hash(zone)
    assert moment.astimezone(UTC) == datetime(2026, 1, 1, tzinfo=UTC)
    assert (moment.dst(), moment.tzname(), zone != BERLIN) == (None, "Moon/Base", True)
    assert "Moon/Base" in repr(zone)
    assert same(unpack(PACKER.pack(moment)), moment)
