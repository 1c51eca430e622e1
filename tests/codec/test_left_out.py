"""What a class leaves out of the dict that it was made from, and how it is put back."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any

import pytest

from runstream.codec.left_out import LeftOut, find_left_out, put_back
from runstream.codec.msgpack_values import Packer, unpack

PACKER = Packer()


def to_plain(value: Any) -> Any:
    return unpack(PACKER.pack(value))


class Colour(Enum):
    RED = "red"


@dataclasses.dataclass
class Node:
    done: bool


STORED = {
    "id": 1,
    "new": 2,
    "nodes": {"n": {"done": True, "new": 3}, "red": {"done": True, "new": 4}},
    "list": [{}],
}


@pytest.mark.parametrize(
    "given",
    [
        {"id": 1, "nodes": {"n": {"done": True}, "red": {"done": True}}, "list": [{}]},
        {"id": 1, "nodes": {"n": Node(True), "red": Node(True)}, "list": []},
        {"id": 1, "nodes": {"n": Node(True), Colour.RED: {"done": True}}, "list": ()},
    ],
    ids=["plain data", "objects within", "keys that become text"],
)
def test_what_is_stored_and_not_given_back_is_left_out(given: dict[Any, Any]) -> None:
    """Whatever becomes a dict when it is stored is compared as that dict; lists are the class's own."""
    left_out = find_left_out(STORED, given, to_plain)
    assert left_out == LeftOut(
        {"new": 2}, {"nodes": LeftOut({}, {"n": LeftOut({"new": 3}, {}), "red": LeftOut({"new": 4}, {})})}
    )
    before = {**given, "nodes": dict(given["nodes"])}
    assert to_plain(put_back(given, left_out, to_plain)) == {**STORED, "list": given["list"]}
    assert given == before


def test_it_is_put_back_where_its_dict_is_still_there_and_lacks_it() -> None:
    left_out = find_left_out(STORED, {"nodes": {"n": {}, "red": {}}}, to_plain)
    whole = put_back({"new": None, "nodes": {"n": {"new": "own"}, "other": {}}}, left_out, to_plain)
    assert whole == {
        "id": 1,
        "list": [{}],
        "new": None,
        "nodes": {"n": {"done": True, "new": "own"}, "other": {}},
    }
    others: tuple[dict[str, Any], ...] = ({"nodes": None}, {"nodes": [1]}, {"nodes": {}}, {})
    for other in others:
        assert put_back(other, left_out, to_plain) == {"id": 1, "new": 2, "list": [{}], **other}


@pytest.mark.parametrize("given", [STORED, {**STORED, "more": 1}, None, 5, [STORED], object], ids=str)
def test_nothing_is_left_out_of_what_is_given_back_whole_or_as_no_dict(given: Any) -> None:
    assert find_left_out(STORED, given, lambda value: value) is None
    assert put_back(given, None, to_plain) is given
