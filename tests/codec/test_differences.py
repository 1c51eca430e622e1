"""What two states differ in, part by part."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.codec.differences import differences
from runstream.model.run_diff import StateDifference


def of(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(one.path, one.what, one.old, one.new) for one in differences(old, new)]


def test_each_difference_is_named_by_its_path() -> None:
    old = {"step": 1, "data": {"plan": ["a", "b", {"x": 1}], "gone": 0, 7: "seven"}, "same": {"y": [math.nan]}}
    new = {"step": 2, "data": {"plan": ["a", "c"], 7: "eight", "more": None}, "same": {"y": [math.nan]}, "late": 1}
    assert of(old, new) == [
        ("step", "changed", 1, 2),
        ("data.plan[1]", "changed", "b", "c"),
        ("data.plan[2]", "removed", {"x": 1}, None),
        ("data.gone", "removed", 0, None),
        ("data[7]", "changed", "seven", "eight"),
        ("data.more", "added", None, None),
        ("late", "added", None, 1),
    ]


def test_what_is_stored_in_another_way_differs() -> None:
    assert of({"a": 1, "b": (1,), "c": {1, 2}}, {"a": 1.0, "b": [1], "c": {2, 1}}) == [
        ("a", "changed", 1, 1.0),
        ("b", "changed", (1,), [1]),
    ]
    assert of({"a": -0.0, "b": True}, {"a": 0.0, "b": 1}) == [
        ("a", "changed", -0.0, 0.0),
        ("b", "changed", True, 1),
    ]


def test_the_deepest_states_are_compared() -> None:
    old: Any = 1
    new: Any = 2
    for _ in range(190):
        old, new = [old], [new]
    ((path, what, _, _),) = of({"a": old}, {"a": new})
    assert (path, what) == ("a" + "[0]" * 190, "changed")


VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
STATES = st.dictionaries(st.text(max_size=2), VALUES, max_size=3)


@pytest.mark.exhaustive
@given(STATES, STATES)
def test_there_are_none_only_between_equals_and_the_other_way_round_they_are_reversed(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    assert differences(old, old) == []
    there, back = differences(old, new), differences(new, old)
    assert (repr(old) == repr(new)) <= (there == [])
    reverse = {"added": "removed", "removed": "added", "changed": "changed"}
    turned = [StateDifference(one.path, reverse[one.what], one.new, one.old) for one in back]  # type: ignore[arg-type]  # one of the three
    assert sorted(map(repr, turned)) == sorted(map(repr, there))
