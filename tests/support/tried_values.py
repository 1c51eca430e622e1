"""Values that a store takes or refuses, with what is to come out of every store: the table of P11."""

from __future__ import annotations

import dataclasses
from collections import Counter, OrderedDict, defaultdict
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import numpy as np
import pydantic
import pydantic.v1

from runstream.codec.extension_types import NamedOffset
from runstream.codec.plain_values import MAX_DEPTH, MAX_TAGGED_DEPTH
from tests.support.samples import BERLIN, RICH_VALUES

__all__ = ["TRIED", "Refused", "Tried"]


class Refused(NamedTuple):
    """It is refused, and the error names this part of ``payload.value``."""

    part: str = ""


class Tried(NamedTuple):
    """A value, and what comes out: the same, what it becomes, or a refusal."""

    value: Any
    expected: Any


class Colour(Enum):
    RED = "red"
    LIST = [1]  # noqa: RUF012 - a value that can change is the point


class Level(IntEnum):
    HIGH = 3


class Word(StrEnum):
    YES = "yes"


class Access(Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: int
    right: str


class Text(str):
    __slots__ = ()


class Moment(datetime):
    """As pandas.NaT is: an instance of datetime, with a text of its own."""

    def isoformat(self, *_: Any, **__: Any) -> str:
        return "NaT"


class Money(Decimal):
    pass


class Id(UUID):
    pass


class Span(timedelta):
    pass


@dataclasses.dataclass(frozen=True)
class Point:
    x: Any


@dataclasses.dataclass
class Unset:
    never: int = dataclasses.field(init=False)


class Base(pydantic.BaseModel):
    text: str


class Derived(Base):
    score: float


class Holder(pydantic.BaseModel):
    messages: list[Base]


class Told(pydantic.BaseModel):
    secret: Annotated[str, pydantic.PlainSerializer(lambda _: "***")]
    spelt: Annotated[complex, pydantic.PlainSerializer(str)]
    told: list[Base] = []
    shouted: str = "a"

    @pydantic.field_serializer("shouted")
    def _shout(self, text: str) -> str:
        return text.upper()


class Root(pydantic.RootModel[list[Base]]):
    pass


class OldRoot(pydantic.v1.BaseModel):
    __root__: list[int]


class Tricky(bytearray):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # as of a bytearray


class OldModel(pydantic.v1.BaseModel):
    inner: Any


class NoText:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Nameless(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None if moment is None else timedelta(hours=1 if moment.fold else 2)

    def dst(self, _: datetime | None) -> None:
        return None

    def tzname(self, _: datetime | None) -> None:
        return None


def _nested(depth: int, grow: Any) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = grow(value)
    return value


def _endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _released() -> memoryview:
    view = memoryview(b"x")
    view.release()
    return view


_TWICE = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)
_TEXTS = {"one", "two", "three", "four"}
_LARGE = "x" * 2**20

_TAKEN: dict[str, Any] = {
    **RICH_VALUES,
    "texts in a set": _TEXTS,
    "texts in a frozenset as a key": {frozenset(_TEXTS): [frozenset({frozenset(_TEXTS), 1})]},
    "naive fold": datetime(2026, 10, 25, 2, 30, fold=1),  # noqa: DTZ001 - one without a zone is a value too
    "fold at an offset": datetime(2026, 10, 25, 2, 30, tzinfo=UTC, fold=1),
    "fold in summer": datetime(2026, 7, 1, 2, 30, tzinfo=BERLIN, fold=1),
    "time in a zone": time(8, 30, tzinfo=BERLIN),
    "time with a fold": time(2, 30, tzinfo=BERLIN, fold=1),
    "offset of a microsecond": datetime(2026, 1, 1, tzinfo=timezone(timedelta(microseconds=1))),
    "large integer as a key": {2**70: -(10**5000)},
    "deep lists": _nested(MAX_DEPTH - 1, lambda inner: [inner]),
    "deep dicts": _nested(MAX_DEPTH - 1, lambda inner: {1: inner}),
    "deep tuples": _nested(MAX_TAGGED_DEPTH, lambda inner: (inner,)),
    "huge integer as the only key": {10**5000: 1, (2, frozenset({-(10**4400)})): [{-(10**4301): 0}]},
    "moment shown twice as a key": {datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1): 1},
    "control characters": "".join(map(chr, range(32))) + "\x7f\x85\u2028\u2029",
}
_BECOMES: dict[str, Tried] = {
    "enum": Tried([Colour.RED, Word.YES, Level.HIGH, Access.READ | Access.WRITE], ["red", "yes", 3, 3]),
    "enum as a key": Tried({Colour.RED: 1, Level.HIGH: 2}, {"red": 1, 3: 2}),
    "defaultdict": Tried(defaultdict(int, a=1), {"a": 1}),
    "Counter": Tried(Counter("aab"), {"a": 2, "b": 1}),
    "OrderedDict": Tried(OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "named tuple": Tried(Pair(1, "r"), (1, "r")),
    "subclass of str": Tried({Text("k"): Text("v")}, {"k": "v"}),
    "dataclass": Tried(Point(Point(Colour.RED)), {"x": {"x": "red"}}),
    "model with a subclass within": Tried(
        Holder(messages=[Derived(text="a", score=0.5)]), {"messages": [{"text": "a", "score": 0.5}]}
    ),
    "model with serializers of its own": Tried(
        Told(secret="s", spelt=1j, told=[Derived(text="a", score=0.5)]),
        {"secret": "***", "spelt": "1j", "told": [{"text": "a", "score": 0.5}], "shouted": "A"},
    ),
    "root model": Tried(Root([Derived(text="a", score=0.5)]), [{"text": "a", "score": 0.5}]),
    "model of pydantic 1": Tried(OldModel(inner=[OldModel(inner=1)]), {"inner": [{"inner": 1}]}),
    "root model of pydantic 1": Tried(OldRoot(__root__=[1]), [1]),
    "numpy scalar": Tried([np.int64(-5), np.float32(0.5), np.bool_(True)], [-5, 0.5, True]),
    "path": Tried(PurePosixPath("/a/b"), "/a/b"),
    "exception": Tried(ValueError("no"), {"type": "ValueError", "message": "no"}),
    "bytearray": Tried([bytearray(b"x"), memoryview(b"y")], [b"x", b"y"]),
}
_REFUSED: dict[str, Tried] = {
    "datetime of its own": Tried([Moment(2026, 1, 1)], Refused("[0]")),
    "Decimal of its own": Tried({"a": Money(1)}, Refused(".a")),
    "UUID of its own": Tried(Id(int=1), Refused()),
    "timedelta of its own": Tried((Span(1),), Refused("[0]")),
    "timestamp of msgpack": Tried([0, msgpack.Timestamp(1, 0)], Refused("[1]")),
    "numpy's not-a-time": Tried(np.datetime64("NaT", "s"), Refused()),
    "array": Tried(np.array([1, 2]), Refused()),
    "mapping that is no dict": Tried(MappingProxyType({"a": 1}), Refused()),
    "object": Tried([[object()]], Refused("[0][0]")),
    "class": Tried({"a": int}, Refused(".a")),
    "frozen dataclass as a key": Tried({Point(1): 1}, Refused("[key ")),
    "exception in a set": Tried({ValueError("no")}, Refused("[")),
    "enum of a list as a key": Tried({Colour.LIST: 1}, Refused("[key ")),
    "keys that become one": Tried({Colour.RED: 1, "red": 2}, Refused(".red")),
    "path and text as keys": Tried({PurePosixPath("a"): 1, "a": 2}, Refused(".a")),
    "members that become one": Tried({Colour.RED, "red"}, Refused("[")),
    "field that was never set": Tried([Unset()], Refused("[0]")),
    "no text": Tried([NoText()], Refused("[0]")),
    "bytearray of its own": Tried([Tricky(b"x")], Refused("[0]")),
    "released view": Tried({"a": _released()}, Refused(".a")),
    "unequal view": Tried([memoryview(b"abcd").cast("B", (2, 2))], Refused("[0]")),
    "nameless zone at a time shown twice": Tried([datetime(2026, 1, 1, tzinfo=Nameless())], Refused("[0]")),
    "zone of a name that UTF-8 cannot carry": Tried(
        [datetime(2026, 1, 1, tzinfo=NamedOffset("\ud800", timedelta(0)))], Refused("[0]")
    ),
    "another object of a zone at a time shown twice": Tried(
        [datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo.no_cache("Europe/Berlin"))], Refused("[0]")
    ),
    "two keys of one instant": Tried({_TWICE: 1, _TWICE.astimezone(UTC): 2}, Refused("[")),
    "two members of one instant": Tried({(_TWICE,), (_TWICE.astimezone(UTC),)}, Refused("[")),
    "time in a zone without an offset": Tried(time(8, tzinfo=Nameless()), Refused()),
    "too deep": Tried(_nested(MAX_DEPTH, lambda inner: [inner]), Refused("[0][0]")),
    "tuples too deep": Tried(_nested(MAX_TAGGED_DEPTH + 1, lambda inner: (inner,)), Refused("[0][0]")),
    "tuples too large for their depth": Tried(
        _nested(14, lambda inner: (_LARGE if inner == 1 else inner,)), Refused()
    ),
    "endless": Tried(_endless(), Refused("[0][0]")),
}
TRIED: dict[str, Tried] = {
    **{name: Tried(value, value) for name, value in _TAKEN.items()},
    **_BECOMES,
    **_REFUSED,
}
"""All that is tried, by name."""
