"""What is not in the list of values: it becomes plain data in one way, or is refused with its path."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict
from enum import Enum, IntEnum
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pydantic
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


def test_subclasses_of_listed_types_are_listed_even_for_a_strict_packer() -> None:
    assert same(
        unpack(PACKER.pack([Pair(1, "r"), Text("t"), Level.HIGH, OrderedDict(a=1)])), [(1, "r"), "t", 3, {"a": 1}]
    )


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
