"""Long lists are kept by element: what is loaded is what was saved, and a thread does not grow with its square."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from copy import deepcopy
from datetime import date
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.base import CipherProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from runstream.integrations.langgraph import RunstreamSaver
from runstream.integrations.langgraph.channels import Channel, split
from runstream.integrations.langgraph.values import Values, elements, in_array, joined, same_values, size_of
from tests.integrations.langgraph.checkpoints import checkpoint, config_of, new_thread, save
from tests.integrations.langgraph.savers import Places


class Scrambled(CipherProtocol):
    """A cipher that gives other bytes each time."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        key = random.randbytes(4)
        return "scrambled", key + bytes(each ^ 0x55 for each in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        assert ciphername == "scrambled"
        return bytes(each ^ 0x55 for each in ciphertext[4:])


PLAIN = Values(JsonPlusSerializer())
ENCRYPTED = Values(EncryptedSerializer(Scrambled(), JsonPlusSerializer()))

SHORT = (st.integers(-5, 5), st.text(max_size=3), st.none(), st.binary(max_size=3))
ELEMENTS = st.one_of(*SHORT, st.just("long" * 100))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(ELEMENTS, max_size=4)),
        st.tuples(st.just("cut"), st.integers(0, 12)),
        st.tuples(st.just("change"), st.integers(0, 12)),
        st.tuples(st.just("set"), ELEMENTS),
    ),
    max_size=25,
)


def follow(steps: Any, values: Values) -> list[tuple[Any, Channel]]:
    """What a channel is after each step, and how it is kept."""
    now: Any = []
    channel = None
    kept = []
    for offset, (what, how) in enumerate(steps, 1):
        before = now if isinstance(now, list) else []
        if what == "add":
            now = [*before, *how]
        elif what == "cut":
            now = before[:how]
        elif what == "change":
            now = [*before[:how], "changed", *before[how + 1 :]]
        else:
            now = how
        channel = split(channel, now, values).written_at(offset)
        kept.append((now, channel))
    return kept


@pytest.mark.parametrize("values", [PLAIN, ENCRYPTED], ids=["plain", "encrypted"])
@given(steps=STEPS)
def test_what_is_loaded_of_the_parts_is_what_was_split(values: Values, steps: Any) -> None:
    for now, channel in follow(steps, values):
        assert channel.load(values) == now
        again = Channel(channel.is_list, channel.parts)  # as it is loaded
        assert again.load(values) == now
        assert again.plain(values) == list(map(PLAIN.plain, now if isinstance(now, list) and now else [now]))


@pytest.mark.parametrize("count", [1, 2, 15, 16, 300, 70_000])
def test_values_make_an_array_and_come_out_of_it(count: int) -> None:
    objects = [{"n": number} for number in range(count)]
    values = list(map(PLAIN.plain, objects))
    array = in_array(values)
    assert PLAIN.load(array) == objects
    assert elements(array) == values
    assert joined([array, in_array(values[:1])]) == in_array([*values, values[0]])
    assert joined([array, [["null", b""]]]) == [*values, ["null", b""]]


@given(steps=STEPS)
def test_what_was_encrypted_once_is_not_encrypted_again(steps: Any) -> None:
    plain, encrypted = follow(steps, PLAIN), follow(steps, ENCRYPTED)
    for (_, one), (_, other) in zip(plain, encrypted, strict=True):
        assert one.is_list == other.is_list
        assert [part.offset for part in one.parts][-1] <= len(steps)
    for (_, former), (_, channel) in pairwise(encrypted):
        for part in channel.parts:
            for earlier in former.parts:
                if part.offset == earlier.offset:
                    assert part.stored == earlier.stored


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", [10, pytest.param(1000, marks=pytest.mark.exhaustive)])
def test_a_list_that_grows_is_written_as_often_as_its_logarithm_says_and_lies_in_few_parts(size: int) -> None:
    written, channel, messages = 0, None, []
    for count in range(1, 2001):
        messages.append("x" * size)
        channel = split(channel, messages, PLAIN)
        fresh = channel.fresh
        assert fresh is not None
        written += fresh.count
        assert isinstance(fresh.stored, bytes)  # one array
        channel = channel.written_at(count)
        assert len(channel.parts) <= 7 * (1 + math.log(count * (size + 5), 8))
    assert written <= 2000 * (1 + math.log(2000, 8))


def test_a_large_part_is_not_written_again_until_what_follows_weighs_as_much() -> None:
    messages = ["x" * 100_000]
    channel = split(None, messages, PLAIN).written_at(1)
    for count in range(2, 200):
        messages.append("y" * 50)
        channel = split(channel, messages, PLAIN)
        assert channel.fresh is not None
        assert channel.fresh.size < 20_000
        channel = channel.written_at(count)
    assert sum(map(size_of, channel.plain(PLAIN))) > 100_000


def test_no_part_of_a_list_that_grows_is_too_large_for_an_event() -> None:
    channel, messages = None, []
    for count in range(1, 121):
        messages.append(f"{count:05}" * 20_000)
        channel = split(channel, messages, PLAIN).written_at(count)
        assert max(part.size for part in channel.parts) <= 2**20
    assert channel is not None
    assert channel.load(PLAIN) == messages


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["memory", "fake"])
@pytest.mark.parametrize("serde", [None, ENCRYPTED.serde], ids=["plain", "encrypted"])
def test_the_history_of_a_chat_does_not_grow_with_its_square(name: str, serde: Any, places: Places) -> None:
    def bytes_of(turns: int) -> int:
        """What all events of a chat have as the values of its channel, in bytes."""
        with places.sync(name) as opened:
            saver = type(opened)(opened.store, serde=serde)
            thread_id, parent, messages = new_thread(), None, []
            for turn in range(turns):
                messages.append(f"{turn:04}" * 25)
                parent = save(saver, thread_id, {"messages": messages}, turn, parent)
            found = saver.get_tuple(config_of(thread_id))
            assert found is not None
            assert found.checkpoint["channel_values"] == {"messages": messages}
            events: Any = opened.store.list_events(thread_id)
            return sum(sum(map(size_of, elements(event.payload["values"]["messages"]))) for event in events)

    short, long = bytes_of(40), bytes_of(160)
    assert long < 4 * short * 1.6  # with the square it were sixteen times


def test_a_checkpoint_beside_one_that_stays_takes_little(places: Places) -> None:
    with places.sync("memory") as saver:
        thread_id, document = new_thread(), "x" * 100_000
        first = save(saver, thread_id, {"document": document, "count": 0}, -1)
        versions = {"document": 1, "count": 2}
        made: Any = {**_latest(saver, thread_id), "id": "later"}
        made["channel_values"], made["channel_versions"] = {"document": document, "count": 1}, versions
        saver.put(config_of(thread_id, first), made, {"source": "loop", "step": 0, "parents": {}}, {"count": 2})
        events: Any = saver.store.list_events(thread_id)
        assert list(events[-1].payload["values"]) == ["count"]
        assert _latest(saver, thread_id)["channel_values"] == {"document": document, "count": 1}
        found = saver.get_tuple(config_of(thread_id, first))
        assert found is not None
        assert found.checkpoint["channel_values"] == {"document": document, "count": 0}


def test_a_value_that_is_said_to_be_new_is_kept_whatever_its_version(places: Places) -> None:
    with places.sync("memory") as saver:
        thread_id, parent = new_thread(), None
        for value in ("a", "b", "b"):
            made = checkpoint({"x": value}, {"x": 1})
            saver.put(config_of(thread_id, parent), made, {"source": "loop", "step": 0, "parents": {}}, {"x": 1})
            parent = made["id"]
        assert [found.checkpoint["channel_values"]["x"] for found in saver.list(config_of(thread_id))] == [
            "b",
            "b",
            "a",
        ]


def test_a_branch_with_the_versions_of_another_keeps_its_own_values(places: Places) -> None:
    with places.sync("memory") as saver:
        thread_id = new_thread()
        first = save(saver, thread_id, {"x": 0}, -1)
        save(saver, thread_id, {"x": "of the first branch"}, 0, first)
        saver.get_tuple(config_of(thread_id, first))
        made = checkpoint({"x": "of the second branch"}, {"x": 2})
        saver.put(config_of(thread_id, first), made, {"source": "loop", "step": 0, "parents": {}}, {})
        assert _latest(saver, thread_id)["channel_values"] == {"x": "of the second branch"}


def _latest(saver: Any, thread_id: str) -> Any:
    return saver.get_tuple(config_of(thread_id)).checkpoint


CHANGES: dict[str, Callable[[Any], object]] = {
    "content": lambda one: setattr(one, "content", "other"),
    "a part of the content": lambda one: one.content[0].update(text="other"),
    "nested": lambda one: one.additional_kwargs["deep"][0].append(3),
    "a number that is a truth": lambda one: one.additional_kwargs.update(count=True),
    "a number of another kind": lambda one: one.additional_kwargs.update(count=1.0),
    "id": lambda one: setattr(one, "id", None),
    "a field of its own": lambda one: setattr(one, "further", "other"),
    "a call of a tool": lambda one: one.tool_calls[0]["args"].update(city="Lisbon"),
    "an object": lambda one: one.additional_kwargs.update(at=date(2026, 11, 30)),
}


@pytest.mark.parametrize("values", [PLAIN, ENCRYPTED], ids=["plain", "encrypted"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_message_that_was_changed_in_place_is_written_again(values: Values, change: str) -> None:
    call = {"name": "look", "args": {"city": "Porto"}, "id": "1", "type": "tool_call"}
    message = AIMessage([{"type": "text", "text": "what"}], id="i", tool_calls=[call], further="more", name="n")
    message.additional_kwargs.update(count=1, deep=[[1, 2]])
    messages = [HumanMessage("before"), message]
    former = split(None, messages, values).written_at(1)
    assert split(former, messages, values).fresh is None
    CHANGES[change](message)
    channel = split(former, messages, values)
    assert channel.fresh is not None
    assert PLAIN.plain(channel.load(values)) == PLAIN.plain(messages)


MESSAGES = st.builds(
    lambda kind, content, more, name: kind(content, additional_kwargs=more, name=name, tool_call_id="t"),
    st.sampled_from([HumanMessage, AIMessage, ToolMessage]),
    st.sampled_from(["a", "b", "\ud800"]),
    st.dictionaries(
        st.sampled_from("xy"), st.sampled_from([0, False, 0.0, "", b"", (), [], {}, None, date(2026, 1, 1)])
    ),
    st.sampled_from([None, "", "n"]),
)


@given(messages=st.lists(MESSAGES | st.just({}), max_size=3), others=st.lists(MESSAGES | st.just({}), max_size=3))
def test_objects_that_are_told_to_be_the_same_have_one_value(messages: list[Any], others: list[Any]) -> None:
    for values in (PLAIN, ENCRYPTED):
        glances = values.glances(messages)
        assert glances.same(values.glances([*deepcopy(messages), *others])) == len(messages)
        plain = list(map(values.plain, messages)), list(map(values.plain, others))
        assert glances.same(values.glances(others)) <= same_values(*plain)


def test_a_message_is_turned_into_bytes_once() -> None:
    """Not again with each checkpoint of a chat, be that loaded in between or not."""
    with RunstreamSaver.from_url("memory:") as saver:
        thread, messages, dumped = new_thread(), list[Any](), list[Any]()
        values = saver._context.values
        dump = values._dumps

        def note(obj: Any) -> Any:
            dumped.append(obj)
            return dump(obj)

        values._dumps = note
        parent: str | None = None
        for turn in range(30):
            messages.append(HumanMessage(f"{turn}"))
            parent = save(saver, thread, {"messages": messages}, turn, parent)
            if turn % 3 == 0:
                saver.get_tuple(config_of(thread))
        assert [obj.content for obj in dumped if isinstance(obj, HumanMessage)] == [
            f"{turn}" for turn in range(30)
        ]
