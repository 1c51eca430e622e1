"""Messages that are held are given as loading gives them, to nobody twice, and no more of them than was said."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from runstream.integrations.langgraph.messages import Messages
from runstream.integrations.langgraph.values import Values, in_array

CALL: Any = {"name": "look", "args": {"at": [1, {"b": 2.5}], "when": None}, "id": "1", "type": "tool_call"}
USAGE: Any = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
CHAT = [
    HumanMessage("hé", id="1", name="Ada"),
    HumanMessage([{"type": "text", "text": "a part"}, "another"]),
    AIMessage("", tool_calls=[CALL], usage_metadata=USAGE, response_metadata={"model": {"of": ["whom"]}}),
    AIMessage("said", of_its_own="more", additional_kwargs={"parsed": True}),
    AIMessageChunk(content="a chunk", id="2"),
    ToolMessage("42", tool_call_id="1", artifact={"a": (1, 2)}, status="error"),
    SystemMessage("be brief"),
    ChatMessage(content="as another", role="critic"),
    RemoveMessage(id="1"),
]


def array_of(values: Values, objects: list[Any]) -> bytes:
    stored = in_array([values.plain(each) for each in objects])
    assert isinstance(stored, bytes)
    return stored


def test_a_message_that_is_held_is_given_as_loading_gives_it() -> None:
    values = Values(JsonPlusSerializer(), 10**6)
    array = array_of(values, CHAT)
    loaded = values.load(array)
    for _ in range(4):
        given = values.load_arrays([array])
        assert given == loaded
        for one, expected in zip(given, loaded, strict=True):
            assert type(one) is type(expected)
            assert list(vars(one)) == list(vars(expected))
            assert one.model_dump() == expected.model_dump()
            assert one.model_fields_set == expected.model_fields_set
            assert one.model_extra == expected.model_extra
        for one in given:  # what is done with it, nobody else sees
            one.content = "changed"
            one.additional_kwargs["more"] = "changed"
            one.model_fields_set.clear()
            if isinstance(one, AIMessage) and one.tool_calls:
                one.tool_calls[0]["args"]["at"].append("changed")
    assert values._messages.made(array) == loaded  # it was not loaded anew each time


def test_lists_keep_their_order_whichever_of_their_parts_are_held() -> None:
    values = Values(JsonPlusSerializer(), 10**6)
    arrays = [array_of(values, [HumanMessage(f"{part}.{each}") for each in range(part)]) for part in range(1, 6)]
    for held in ((1, 3), (), (0, 1, 4)):
        for index in held:
            values.load_arrays([arrays[index]])
        for _ in range(2):
            given = values.load_arrays(arrays)
            assert [one.content for one in given] == [f"{n}.{each}" for n in range(1, 6) for each in range(n)]


@pytest.mark.parametrize(
    "objects", [[1, "text"], [HumanMessage("a"), {"b": 1}], [ToolMessage("a", tool_call_id="1", artifact=object)]]
)
def test_what_is_no_list_of_messages_of_plain_data_is_not_held(objects: list[Any]) -> None:
    held = Messages(10**6)
    for _ in range(3):
        held.note(b"stored", objects)
    assert held.made(b"stored") is None


def test_no_more_is_held_than_was_said() -> None:
    held = Messages(20_000)
    for number in range(100):
        stored = b"%d" % number
        for _ in range(2):
            held.note(stored, [HumanMessage("x" * 1_000)])
    kept = [number for number in range(100) if held.made(b"%d" % number) is not None]
    assert kept == [*range(kept[0], 100)]
    assert 5 <= len(kept) <= 20
    nothing = Messages(0)
    nothing.note(b"a", [HumanMessage("b")])
    nothing.note(b"a", [HumanMessage("b")])
    assert nothing.made(b"a") is None
