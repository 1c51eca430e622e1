"""Payloads, states and times as people write them; text deltas joined; dates where the day changes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from runstream import EventKind, connect
from runstream.cli.support.output import clock, day
from runstream.cli.support.text_deltas import joined
from runstream.cli.support.value_texts import cut, payload_text, value_text
from runstream.codec.json_facts import iso_time
from runstream.model.results import Recorded
from tests.support.commands import Said, run
from tests.support.samples import make_event, make_state

MOMENT = datetime(2025, 11, 28, 23, 30, tzinfo=UTC).timestamp()
DEEP: Any = []
for _ in range(198):
    DEEP = [DEEP]


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("0.016563"), "0.016563"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        (date(2026, 1, 2), "2026-01-02"),
        (timedelta(seconds=3), "0:00:03"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"\x00a", "b'\\x00a'"),
        ((1, 2), "[1, 2]"),
        ({1}, "[1]"),
        (2**70, str(2**70)),
        (math.inf, "Infinity"),
        ("a ü\n", '"a ü\\n"'),
        ({"a": [None, True, {1: Decimal(1)}]}, '{"a": [null, true, {1: 1}]}'),
        ({"started_at": MOMENT, "size": MOMENT}, f'{{"started_at": 2025-11-28T23:30:00.000Z, "size": {MOMENT}}}'),
        ({"scored_at": 12.5, "ts": True}, '{"scored_at": 12.5, "ts": true}'),
        (DEEP, "[" * 199 + "]" * 199),
    ],
)
def test_a_value_is_written_as_people_do(value: Any, text: str) -> None:
    assert value_text(value) == text


def test_a_payload_is_pairs_and_is_cut() -> None:
    assert payload_text({"cost": Decimal("1.50"), "n": 1}) == "cost=1.50 n=1"
    assert payload_text(["old"]) == '["old"]'
    assert cut("x" * 100) == "x" * 100
    assert cut("x" * 101) == "x" * 99 + "…"


@pytest.mark.usefixtures("berlin")
def test_times_are_those_of_utc_or_of_the_machine() -> None:
    assert (iso_time(MOMENT), iso_time(MOMENT, local=True)) == (
        "2025-11-28T23:30:00.000Z",
        "2025-11-29T00:30:00.000+01:00",
    )
    assert (clock(MOMENT), clock(MOMENT, local=True)) == ("23:30:00.000", "00:30:00.000")
    assert (day(MOMENT), day(MOMENT, local=True)) == ("2025-11-28 UTC", "2025-11-29 CET")
    assert (clock(math.nan), day(math.nan)) == ("nan", ""), "a producer may write any number"


# -- events


def delta(offset: int, text: str, lane: str = "main") -> Recorded[Any]:
    event = make_event("r", offset, lane_id=lane, kind=EventKind.TEXT_DELTA, payload={"text": text}, ts=MOMENT)
    return Recorded(offset, f"{offset}-1", event)


def test_the_deltas_of_a_lane_are_joined_whatever_other_lanes_do_in_between() -> None:
    other = Recorded(4, "4-1", make_event("r", 4, lane_id="b"))
    items = [
        delta(1, "a"),
        delta(2, "x", "b"),
        delta(3, "b"),
        other,
        delta(5, "y", "b"),
        delta(6, "c"),
        None,
        delta(7, "d"),
    ]
    given = [(item.offset, item.event.payload.get("text")) for item in joined(items)]
    assert given == [(2, "x"), (4, None), (1, "abc"), (5, "y"), (7, "d")]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """An archive with a run of two days before today: a streamed text around midnight, and a state."""
    url = f"sqlite:{tmp_path}/a.db"
    with connect(url) as store:
        deltas = [
            delta(at, text).event
            for at, text in enumerate(["Twelve strikes ", "the clock, " * 20, "then one."], 1)
        ]
        result = make_event("r", 4, ts=MOMENT + 3600, kind="tool.result", payload={"cost": Decimal("0.5")})
        state = make_state("r", started_at=MOMENT, finished_at=0.0, data={"cost": Decimal("1.25")})
        store.append("r", [*deltas, result, make_event("r", 5, kind="run.finished")], snapshot=state)
    return url


def show(url: str, *options: str) -> Said:
    return run("show", "r", "--url", url, *options)


def test_the_date_stands_where_it_changes(url: str) -> None:
    today = day(time.time())
    rows = [line.split() for line in show(url).out.splitlines()]
    dates = [row for row in rows if row[1:] == ["UTC"]]
    assert dates == [["2025-11-28", "UTC"], ["2025-11-29", "UTC"], today.split()]
    with connect(url) as store:
        store.append("s", [make_event("s", 1, kind="run.finished", ts=time.time())])
    assert today not in run("show", "s", "--url", url).out.partition("offset")[2], "of today are those without one"


@pytest.mark.usefixtures("berlin")
def test_times_are_local_if_that_is_asked_for(url: str) -> None:
    shown = show(url, "--local").out
    assert "time (local)" in shown
    assert "2025-11-29 CET" in shown
    assert "00:30:00.000" in shown
    assert "2025-11-29T00:30:00.000+01:00" in shown, "the state's started_at"
    assert "2025-11-28" not in shown


def test_a_state_and_its_payloads_are_shown_as_people_write_them(url: str) -> None:
    shown = show(url).out
    assert "cost=0.5" in shown
    assert '{"cost": 1.25}' in shown
    assert "2025-11-28T23:30:00.000Z" in shown
    assert "finished_at" not in shown, "0 is no time"
    assert "$decimal" not in shown
    assert '"$decimal": "0.5"' in show(url, "--json").out, "for programs it is exact"


def test_text_is_joined_and_whole_if_that_is_asked_for(url: str) -> None:
    assert show(url).out.count("text.delta") == 3
    lines = [line for line in show(url, "--join").out.splitlines() if "text.delta" in line]
    assert len(lines) == 1
    assert lines[0].endswith(f'text="Twelve strikes {"the clock, " * 20}then one."')
    long = [line for line in show(url, "--wide").out.splitlines() if "the clock" in line]
    assert long[0].count("the clock, ") == 20, "and all of it where nothing is to be cut"
