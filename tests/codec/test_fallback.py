"""What is not in the list of values: it becomes plain data in one way, or is refused with its path."""

from __future__ import annotations

import dataclasses
from array import array
from collections import Counter, OrderedDict, defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import msgpack
import numpy as np
import pydantic
import pydantic.v1
import pytest

from runstream.codec.fallback import plain_data
from runstream.codec.msgpack_values import Packer, unpack
from runstream.model.errors import EncodingError
from tests.support.samples import same

PACKER = Packer(None)


class Colour(Enum):
    RED = "red"
    PAIR = (1, "two")


class Level(IntEnum):
    HIGH = 3


class Large(IntEnum):
    HUGE = 2**70


class Word(str, Enum):
    YES = "yes"


@dataclasses.dataclass
class Point:
    x: int
    label: Any = None


class Model(pydantic.BaseModel):
    name: str
    colour: Colour = Colour.RED
    inner: Any = None


class Pair(NamedTuple):
    left: int
    right: str


class Bag(set[Any]):
    pass


class Text(str):
    """A string that says something else of itself."""

    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


PLAIN: dict[str, tuple[Any, Any]] = {
    "enum": (Colour.RED, "red"),
    "enum of a tuple": (Colour.PAIR, (1, "two")),
    "int enum": (Level.HIGH, 3),
    "str enum": (Word.YES, "yes"),
    "dataclass": (Point(1, Point(2, Colour.RED)), {"x": 1, "label": {"x": 2, "label": "red"}}),
    "pydantic": (
        Model(name="n", inner=Model(name="m")),
        {"name": "n", "colour": "red", "inner": {"name": "m", "colour": "red", "inner": None}},
    ),
    "numpy int": (np.int64(-5), -5),
    "numpy uint": (np.uint64(2**64 - 1), 2**64 - 1),
    "numpy float": (np.float32(0.5), 0.5),
    "numpy double": (np.float64(0.1), 0.1),
    "numpy bool": (np.bool_(True), True),
    "numpy text": (np.str_("text"), "text"),
    "numpy bytes": (np.bytes_(b"bytes"), b"bytes"),
    "path": (PurePosixPath("/a/b"), "/a/b"),
    "exception": (ValueError("no", 1), {"type": "ValueError", "message": "('no', 1)"}),
    "named tuple": (Pair(1, "r"), (1, "r")),
    "ordered dict": (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "default dict": (defaultdict(int, a=1), {"a": 1}),
    "str subclass": (Text("text"), "text"),
    "counter": (Counter("aab"), {"a": 2, "b": 1}),
    "set subclass": (Bag({1}), {1}),
    "as a key": ({Colour.RED: 1, Level.HIGH: 2, Pair(1, "x"): 3}, {"red": 1, 3: 2, (1, "x"): 3}),
    "in a set": ({Colour.RED, Word.YES}, {"red", "yes"}),
    "large int enum": (Large.HUGE, 2**70),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_not_listed_becomes_plain_data(name: str) -> None:
    value, expected = PLAIN[name]
    packer = Packer()
    assert same(unpack(packer.pack(value)), expected)
    assert same(unpack(packer.pack({"deep": [(value,)]})), {"deep": [(expected,)]})


@pytest.mark.parametrize(
    "value",
    [object(), int, Point, Model, lambda: 0, np.array([1, 2]), complex(1, 2), range(3), iter([])],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_anything_else_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(EncodingError, match=r"payload\.args\[3\]") as caught:
        Packer().pack({"args": [0, 1, 2, value]}, "payload")
    assert caught.value.path == "payload.args[3]"


@pytest.mark.parametrize("value", [Colour.RED, Path("x"), ValueError(), Point(1), np.int64(1)], ids=repr)
def test_a_strict_packer_takes_only_what_is_listed(value: Any) -> None:
    with pytest.raises(EncodingError) as caught:
        PACKER.pack({"a": {"b": (value,)}})
    assert caught.value.path == "a.b[0]"


@pytest.mark.parametrize("value", [bytearray(b"x"), memoryview(b"x")], ids=["bytearray", "memoryview"])
def test_bytes_that_can_change_come_back_as_bytes(value: Any) -> None:
    """They are equal to what went in, as a named tuple is to the tuple that it comes back as."""
    assert same(unpack(PACKER.pack({"a": value})), {"a": b"x"})
    assert value == b"x"


@pytest.mark.parametrize(
    "value",
    [Pair(1, "r"), Text("t"), Level.HIGH, OrderedDict(a=1), defaultdict(int), Counter("aab"), Word.YES, Bag({1})],
    ids=lambda value: type(value).__name__,
)
def test_a_subclass_is_no_listed_type(value: Any) -> None:
    """It has a type of its own, which does not come back: a strict store says so."""
    for packed in (value, [value], {"a": (value,)}):
        with pytest.raises(EncodingError, match="cannot store a value of type"):
            PACKER.pack(packed)


class Stamp(datetime):
    """A time that says another text of itself, as pandas.NaT does."""

    def isoformat(self, *_: Any, **__: Any) -> str:
        return "NaT"


class Span(timedelta):
    pass


class Money(Decimal):
    def __str__(self) -> str:
        return f"{super().__str__()} EUR"


class Id(UUID):
    def __str__(self) -> str:
        return "an id"


UNREADABLE: dict[str, Any] = {
    "a datetime of its own": Stamp(2026, 1, 1),
    "a timedelta of its own": Span(1),
    "a Decimal of its own": Money(1),
    "a UUID of its own": Id(int=1),
    "a timestamp of msgpack": msgpack.Timestamp(1, 0),
    "numpy's not-a-time": np.datetime64("NaT", "s"),
    "numpy's nanoseconds": np.datetime64("2026-01-01T00:00:00.000000001"),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("packer", [Packer(), PACKER], ids=["default", "strict"])
def test_what_nobody_could_read_again_is_refused(packer: Packer, name: str) -> None:
    """Whatever it is an instance of: deep down, as a key and in a set."""
    value = UNREADABLE[name]
    for packed, path in (
        ({"args": [0, 1, 2, value]}, "payload.args[3]"),
        ({"args": {"x": (value,)}}, "payload.args.x[0]"),
    ):
        with pytest.raises(EncodingError, match="cannot store") as caught:
            packer.pack(packed, "payload")
        assert caught.value.path == path
    with pytest.raises(EncodingError):
        packer.pack({value: 1})


def test_an_extension_type_of_the_users_own_is_not_taken_for_one_of_ours() -> None:
    forged = msgpack.ExtType(8, b"no number")
    with pytest.raises(EncodingError, match=r"x\[0\]: cannot store"):
        PACKER.pack({"x": [forged]})
    assert same(unpack(Packer().pack([forged])), [(8, b"no number")])  # a named tuple, as others are


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: int


class FrozenModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    x: int


class Listed(Enum):
    ITEMS = [1]  # noqa: RUF012 - a value that can change is the point


@pytest.mark.parametrize(
    "value", [Frozen(1), FrozenModel(x=1), ValueError("no"), Listed.ITEMS], ids=lambda value: type(value).__name__
)
def test_what_becomes_plain_data_that_has_no_hash_is_neither_a_key_nor_a_member(value: Any) -> None:
    for packed in ({"a": {value: 1}}, {"a": {value}}, {"a": frozenset({value})}, {"a": {(value, 1): 2}}):
        with pytest.raises(EncodingError) as caught:
            Packer().pack(packed, "payload")
        assert caught.value.path.startswith("payload.a[")


@pytest.mark.parametrize(
    "value",
    [
        {Colour.RED: 1, "red": 2},
        {Path("a"): 1, "a": 2},
        {Colour.RED, "red"},
        frozenset({Path("a"), PurePosixPath("b"), "a"}),
        {(Colour.RED,): 1, ("red",): 2},
    ],
    ids=["enum", "path", "set", "frozenset", "tuple"],
)
def test_keys_and_members_that_become_one_are_refused(value: Any) -> None:
    """Or one of them would be lost without a word."""
    with pytest.raises(EncodingError, match="are both") as caught:
        Packer().pack({"x": [value]}, "payload")
    assert caught.value.path.startswith("payload.x[0]")


def test_not_a_number_may_be_a_key_as_often_as_the_dict_has_it() -> None:
    value = {float("nan"): 1, float("nan"): 2, Level.HIGH: 3}
    found = unpack(Packer().pack(value))
    assert [repr(key) for key in found] == ["nan", "nan", "3"]


class Base(pydantic.BaseModel):
    text: str


class Derived(Base):
    score: float
    more: list[Base] = []


class Holder(pydantic.BaseModel):
    messages: list[Base]
    by_name: dict[str, Base] = {}


class OldBase(pydantic.v1.BaseModel):
    text: str


class OldDerived(OldBase):
    score: float


class OldHolder(pydantic.v1.BaseModel):
    messages: list[OldBase]


def test_a_model_keeps_the_fields_that_a_subclass_adds() -> None:
    derived = Derived(text="a", score=0.5, more=[Derived(text="b", score=1.5)])
    plain = {"text": "a", "score": 0.5, "more": [{"text": "b", "score": 1.5, "more": []}]}
    value = Holder(messages=[derived, Base(text="c")], by_name={"d": derived})
    expected = {"messages": [plain, {"text": "c"}], "by_name": {"d": plain}}
    assert same(unpack(Packer().pack(value)), expected)


def test_a_model_of_pydantic_1_is_a_model() -> None:
    value = OldHolder(messages=[OldDerived(text="a", score=0.5)])
    assert same(unpack(Packer().pack([value])), [{"messages": [{"text": "a", "score": 0.5}]}])


@dataclasses.dataclass
class Unset:
    there: int = 1
    never: int = dataclasses.field(init=False)


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


class Quiet(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


@pytest.mark.parametrize("value", [Unset(), Quiet(), NoRepr()], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("fallback", [plain_data, str], ids=["default", "str"])
def test_what_cannot_even_be_asked_is_a_typed_error(value: Any, fallback: Any) -> None:
    if fallback is str and isinstance(value, Unset):
        value = NoRepr()
    for packed in ({"a": [value]}, {"a": {value: 1}} if not isinstance(value, Unset) else {"a": (value,)}):
        with pytest.raises(EncodingError) as caught:
            Packer(fallback).pack(packed, "payload")
        assert caught.value.path.startswith("payload.a")


def test_the_habit_of_purpose_agent_is_that_of_json() -> None:
    """Subclasses of JSON's types are those, and anything else is its text."""
    value = [Word.YES, Level.HIGH, Pair(1, "r"), OrderedDict(a=1), complex(1, 2), Colour.RED, {Path("a"): 1}]
    expected = ["yes", 3, (1, "r"), {"a": 1}, "(1+2j)", "Colour.RED", {"a": 1}]
    assert same(unpack(Packer(str).pack(value)), expected)


def test_a_view_of_bytes_is_stored_if_it_is_equal_to_them() -> None:
    assert unpack(PACKER.pack([memoryview(b"abc")[::2], bytearray(b"x")])) == [b"ac", b"x"]
    for view in (memoryview(array("i", [1, 2])), memoryview(b"abcd").cast("B", (2, 2))):
        with pytest.raises(EncodingError, match=r"x\[1\]: .*not equal to its bytes"):
            PACKER.pack({"x": [0, view]})


def test_a_fallback_is_asked_until_it_gives_what_can_be_stored() -> None:
    assert unpack(Packer(str).pack({"x": object})) == {"x": "<class 'object'>"}
    assert unpack(Packer(lambda value: [plain_data(value)]).pack(Colour.RED)) == ["red"]
    for endless in (lambda value: value, lambda _: object()):
        with pytest.raises(EncodingError, match="fallback") as caught:
            Packer(endless).pack({"x": object()})
        assert caught.value.path == "x"


def test_a_fallback_that_fails_is_an_encoding_error() -> None:
    def fail(_: Any) -> Any:
        raise ValueError("no idea")

    with pytest.raises(EncodingError, match="no idea"):
        Packer(fail).pack([object()])
