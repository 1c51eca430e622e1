"""Values of channels as a store keeps them: what LangGraph's serializer makes of them.

A value is its bytes where the serializer calls them msgpack, as it does nearly always, else its type and bytes.
Values are compared before they are encrypted, as the same value becomes other bytes each time. Nothing of
LangGraph is imported here, so that what only reads needs none of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol, TypeAlias

import msgpack

from runstream.integrations.langgraph.messages import Messages, packed_fields

__all__ = [
    "Glances",
    "Serializer",
    "Stored",
    "Value",
    "Values",
    "elements",
    "in_array",
    "joined",
    "loads",
    "same_values",
    "size_of",
]

Value: TypeAlias = bytes | list[Any]
"""Bytes, or a type and bytes."""

Stored: TypeAlias = bytes | list[Any]
"""Elements of a list as they are kept: one msgpack array of them, or a list of values; or one value."""

_Glance: TypeAlias = Value | tuple[type[Any], bytes]
"""What an object is told by: its plain value, or its class and its fields."""

_USUAL = "msgpack"
_JOINED = ("langgraph.checkpoint.serde.jsonplus", "JsonPlusSerializer")
"""LangGraph's own serializer, whose msgpack is msgpack: values of it make an array."""
_ENCRYPTED = ("langgraph.checkpoint.serde.encrypted", "EncryptedSerializer")
"""LangGraph's own serializer that encrypts what another makes: its ``cipher`` and its ``serde``."""
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


class Serializer(Protocol):
    """What LangGraph's serializers do."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """An object as a type and bytes."""

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The object again."""


def loads(serde: Serializer, value: Value) -> Any:
    """The object that a value was made from."""
    return serde.loads_typed((_USUAL, value) if isinstance(value, bytes) else (value[0], value[1]))


def size_of(value: Value) -> int:
    """How many bytes a value has."""
    return len(value) if isinstance(value, bytes) else len(value[1])


def in_array(values: list[Value]) -> Stored:
    """Values as one msgpack array; the list of them if one is no msgpack."""
    return _array(len(values), values) if set(map(type, values)) == {bytes} else values


def elements(stored: Stored) -> list[Value]:
    """The values that are kept as elements of a list."""
    if not isinstance(stored, bytes):
        return stored
    count, begin = _head(stored)
    unpacker = msgpack.Unpacker(max_buffer_size=len(stored))
    unpacker.feed(stored)
    unpacker.read_array_header()
    found: list[Value] = []
    for _ in range(count):
        unpacker.skip()
        end = unpacker.tell()
        found.append(stored[begin:end])
        begin = end
    return found


def joined(parts: Sequence[Stored]) -> Stored:
    """The elements of several parts of a list as one."""
    arrays = [part for part in parts if isinstance(part, bytes)]
    if len(arrays) < len(parts):
        return [value for part in parts for value in elements(part)]
    heads = list(map(_head, arrays))
    bodies = [part[begin:] for part, (_, begin) in zip(arrays, heads, strict=True)]
    return _array(sum(count for count, _ in heads), bodies)


def _array(count: int, bodies: Sequence[Any]) -> bytes:
    if count < 2**4:
        head = bytes([0x90 | count])
    elif count < 2**16:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        head = b"\xdd" + count.to_bytes(4, "big")
    return b"".join([head, *bodies])


def _head(array: bytes) -> tuple[int, int]:
    """How many elements a msgpack array has, and where the first begins."""
    size = {0xDC: 2, 0xDD: 4}.get(array[0], 0)
    return (int.from_bytes(array[1 : 1 + size], "big") if size else array[0] & 0x0F), 1 + size


class Glances:
    """What tells the objects of a list from others: two are the same only if their plain values are.

    Args:
        each: What tells each of them; None of messages, which are told by what follows.
        kinds: Their classes.
        fields: Their fields as one msgpack array: a list that was added to begins with the same bytes.
    """

    __slots__ = ("_each", "_fields", "_kinds")

    def __init__(
        self, each: Sequence[_Glance] | None, kinds: Sequence[type[Any]] = (), fields: bytes = b""
    ) -> None:
        self._each = each
        self._kinds = kinds
        self._fields = fields

    def value(self, index: int) -> Value | None:
        """The plain value of an object, if that is what tells it."""
        glance = None if self._each is None else self._each[index]
        return None if isinstance(glance, tuple) else glance

    def same(self, now: Glances) -> int:
        """How many objects both lists begin with."""
        if self._each is now._each is None:
            count, begin = _head(self._fields)
            if now._kinds[:count] == self._kinds and now._fields.startswith(
                memoryview(self._fields)[begin:], _head(now._fields)[1]
            ):
                return count
        return same_values(self._one_by_one(), now._one_by_one())

    def _one_by_one(self) -> Sequence[_Glance]:
        if self._each is not None:
            return self._each
        fields: list[Any] = elements(self._fields)
        return list(zip(self._kinds, fields, strict=True))


def same_values(former: Iterable[_Glance], now: Iterable[_Glance]) -> int:
    """How many elements two lists begin with that are the same."""
    count = 0
    for was, each in zip(former, now, strict=False):
        if was != each:
            break
        count += 1
    return count


class Values:
    """Makes values, and objects of them.

    Args:
        serde: LangGraph's serializer.
        held_bytes: How many bytes of messages to hold, about, that are loaded again faster.
    """

    def __init__(self, serde: Serializer, held_bytes: int = 0) -> None:
        self.serde = serde
        self.held_bytes = held_bytes
        self._messages = Messages(held_bytes)
        of: Any = serde
        name = type(serde).__module__, type(serde).__qualname__
        is_encrypted = name == _ENCRYPTED
        self.is_joined = name == _JOINED
        inner = type(of.serde if is_encrypted else of)
        self._is_own = (inner.__module__, inner.__qualname__) == _JOINED
        self._cipher = of.cipher if is_encrypted else None
        self._dumps = of.serde.dumps_typed if is_encrypted else serde.dumps_typed

    def plain(self, obj: Any) -> Value:
        """An object as a value that is not encrypted yet: equal for equal objects."""
        kind, data = self._dumps(obj)
        return data if kind == _USUAL and type(data) is bytes else [kind, bytes(data)]

    def glances(self, objects: Sequence[Any]) -> Glances:
        """What tells each object from others: its plain value.

        Of messages of LangChain's, their fields, which are had in a fraction of the time.
        """
        if not self._is_own:
            return Glances(list(map(self.plain, objects)))
        kinds = list(map(type, objects))
        fields = packed_fields(objects, set(kinds))
        return Glances(list(map(self._glance, objects))) if fields is None else Glances(None, kinds, fields)

    def _glance(self, obj: Any) -> _Glance:
        fields = packed_fields((obj,), (type(obj),))
        return self.plain(obj) if fields is None else (type(obj), fields[1:])  # after the head of an array of one

    def sealed(self, value: Value) -> Value:
        """A plain value as it is kept."""
        if self._cipher is None:
            return value
        kind, data = (_USUAL, value) if isinstance(value, bytes) else (value[0], value[1])
        cipher, encrypted = self._cipher.encrypt(data)
        return [f"{kind}+{cipher}", encrypted]

    def opened(self, value: Value) -> Value:
        """The plain value of one that is kept."""
        if self._cipher is None or isinstance(value, bytes) or "+" not in value[0]:
            return value
        kind, _, cipher = value[0].partition("+")
        data = self._cipher.decrypt(cipher, value[1])
        return data if kind == _USUAL else [kind, data]

    def dump(self, obj: Any) -> Value:
        """An object as it is kept."""
        return self.sealed(self.plain(obj))

    def load(self, value: Value) -> Any:
        """The object of a value that is kept."""
        return loads(self.serde, value)

    def load_arrays(self, arrays: Sequence[bytes]) -> list[Any]:
        """The objects of msgpack arrays of values, in one list: those that are not held by one look at them."""
        found: list[Any] = []
        for is_held, made in groupby(((each, self._messages.made(each)) for each in arrays), _is_held):
            if is_held:
                for _, objects in made:
                    found += objects or ()
                continue
            lacking = [each for each, _ in made]
            objects = self.load(joined(lacking))
            found += objects
            for each in lacking:
                count, _ = _head(each)
                self._messages.note(each, objects[:count])
                objects = objects[count:]
        return found

    def dump_others(self, fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Value]]:
        """Those of some fields that are plain data, as they are; and the others as values."""
        plain = {name: value for name, value in fields.items() if _is_plain(value)}
        return plain, {name: self.dump(value) for name, value in fields.items() if name not in plain}

    def load_others(self, plain: Mapping[str, Any], others: Mapping[str, Value]) -> dict[str, Any]:
        """The fields again."""
        return {**plain, **{name: self.load(value) for name, value in others.items()}}


def _is_held(found: tuple[bytes, list[Any] | None]) -> bool:
    return found[1] is not None


def _is_plain(value: Any) -> bool:
    """Whether a store keeps a value just as it is: names with texts and numbers, in lists and dicts."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is dict:
        return all(type(key) is str for key in value) and all(map(_is_plain, value.values()))
    return kind in {list, tuple} and all(map(_is_plain, value))
