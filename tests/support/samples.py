"""Events, states and values that the tests write, and the comparison that P11 asks for."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from runstream.model.events import EventKind, PAEvent
from runstream.model.state import RunState, RunStatus


def make_event(run_id: str, seq: Any = 0, **fields: Any) -> PAEvent:
    """An event that tells itself apart by its seq."""
    return PAEvent(run_id, seq=seq, **{"kind": EventKind.AGENT_PROGRESS, "payload": {"n": seq}, **fields})


def make_events(run_id: str, count: int, *, first: int = 1, **fields: Any) -> list[PAEvent]:
    """Events whose seqs rise from ``first``."""
    return [make_event(run_id, seq, **fields) for seq in range(first, first + count)]


def make_state(run_id: str, **fields: Any) -> RunState:
    """A running state."""
    return RunState(run_id, **{"status": RunStatus.RUNNING, **fields})


def sealed(version: int, body: bytes, run_id: str = "r") -> bytes:
    """A wire record whose checksum holds, whatever is in it."""
    start = zlib.crc32(bytes((version,)), zlib.crc32(run_id.encode()))
    return bytes((version,)) + zlib.crc32(body, start).to_bytes(4, "big") + body


BERLIN = ZoneInfo("Europe/Berlin")

RICH_VALUES: dict[str, Any] = {
    "none": None,
    "bools": [True, False],
    "ints": [0, -1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**40, -(10**40)],
    "floats": [0.0, -0.0, 0.1, 1e308, 5e-324, math.nan, math.inf, -math.inf, 1.0],
    "texts": ["", "plain", "ünï日本🎉", '\x00\n\r\t"\\', "\ud800 alone", "$tuple", "\u2028"],
    "bytes": [b"", b"\x00\xff\xfe", b"text"],
    "list": [[], [[]], [1, [2, [3]]]],
    "tuples": [(), (1,), (1, (2, [3], {"k": (4,)}))],
    "dicts": [{}, {"b": 1, "a": 2}, {1: "int", (1, 2): "tuple", None: 0, b"b": 1, 1.5: 2, frozenset({1}): 3}],
    "sets": [set(), {1, "1", (1, 2)}, frozenset(), frozenset({b"x", None})],
    "datetimes": [
        datetime(2026, 11, 23, 8, 0, 0, 123456),  # noqa: DTZ001 - one without a zone is a value too
        datetime(2026, 11, 23, 8, 0, tzinfo=UTC),
        datetime(2026, 11, 23, 8, 0, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
        datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN),
        datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
        datetime.min,  # noqa: DTZ901 - without a zone on purpose
        datetime.max,  # noqa: DTZ901 - without a zone on purpose
    ],
    "dates": [date(2026, 11, 23), date.min, date.max],
    "times": [time(8, 30), time(23, 59, 59, 999999), time(8, 30, tzinfo=UTC)],
    "spans": [timedelta(0), timedelta(days=-1, microseconds=1), timedelta.max, timedelta.min],
    "decimals": [Decimal("0.10"), Decimal("-0"), Decimal("1E+400"), Decimal("NaN"), Decimal("-Infinity")],
    "uuid": UUID(int=2**127 + 5),
    "looks like tags": [
        {"$tuple": [1]},
        {"$dict": []},
        {"$": 0},
        {"$str": "x", "b": 1},
        {"$unknown": {"$set": 1}},
    ],
}
"""One of everything that P11 lists, nested."""


def same(left: Any, right: Any) -> bool:
    """Equal, of the same types at every depth, in the same order; not-a-number is the same as itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left), list(right)) and same(list(left.values()), list(right.values()))
    if isinstance(left, set | frozenset):
        return len(left) == len(right) and all(any(same(one, other) for other in right) for one in left)
    if isinstance(left, PAEvent | RunState):
        return same(vars(left), vars(right))
    if isinstance(left, float):
        return repr(left) == repr(right)  # tells 0.0 from -0.0, and knows not-a-number
    if isinstance(left, Decimal):
        return bool(left.as_tuple() == right.as_tuple())
    if isinstance(left, datetime | time):
        facts = [
            (moment.isoformat(), moment.fold, getattr(moment.tzinfo, "key", None)) for moment in (left, right)
        ]
        return facts[0] == facts[1]
    return bool(left == right)


any_text = st.text(st.characters(categories=["Cs", "L", "N", "P", "S", "Z", "C"]))


def _scalars() -> st.SearchStrategy[Any]:
    zones = st.none() | st.timezones() | st.just(UTC) | _fixed_zones()
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(2**80), 2**80),
        st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1]),
        st.floats(),
        any_text,
        st.sampled_from(["$", "$tuple", "$dict", "$str", "$bytes", "$float", "$set", "$int"]),
        st.binary(),
        st.datetimes(timezones=zones),
        st.dates(),
        st.times(timezones=zones),
        st.builds(lambda moment, fold: moment.replace(fold=fold), st.times(timezones=zones), st.integers(0, 1)),
        st.builds(
            lambda moment, fold: moment.replace(fold=fold), st.datetimes(timezones=zones), st.integers(0, 1)
        ),
        st.timedeltas(),
        st.decimals().filter(lambda number: not number.is_snan()),  # that one cannot even be compared
        st.uuids(),
    )


def _fixed_zones() -> st.SearchStrategy[Any]:
    spans = st.timedeltas(min_value=timedelta(hours=-23), max_value=timedelta(hours=23))
    # those of less than a second have an edge case of their own, rather than a failure now and then
    return spans.filter(lambda span: abs(span) >= timedelta(seconds=1)).map(timezone)


def _grown(leaves: st.SearchStrategy[Any], grow: Callable[[Any], Any], size: int) -> st.SearchStrategy[Any]:
    return st.recursive(leaves, grow, max_leaves=size)


hashables = _grown(
    _scalars(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    4,
)

values = _grown(
    _scalars() | hashables,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(hashables, max_size=4),
        st.dictionaries(any_text, inner, max_size=4),
        st.dictionaries(hashables, inner, max_size=3),
        st.dictionaries(st.sampled_from(["$tuple", "$dict", "$str", "$x", "$"]), inner, min_size=1, max_size=1),
    ),
    12,
)
"""Any value of P11."""
