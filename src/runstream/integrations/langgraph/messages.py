"""Messages by their fields: what tells one from another, and makes it again in a fifth of the time of loading.

A chat's messages are loaded whenever its thread is, and again for each checkpoint of a list, though all but the
last are those of the time before. Nobody gets a message that another has. Nothing of LangGraph is imported here.
"""

from __future__ import annotations

import marshal
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgpack

from runstream.operations.forks import starts_anew

__all__ = ["Messages", "packed_fields"]

_MODULES = "langchain_core.messages."
"""Where the classes are defined whose values are made of their fields and of nothing else."""
_LIST_BYTES, _MESSAGE_BYTES = 300, 500  # what Python holds for a list, and for a message beside its fields, about


def packed_fields(objects: Iterable[Any], kinds: Iterable[type[Any]]) -> bytes | None:
    """The fields of messages of LangChain's own as one msgpack array: of all in one call of C.

    Args:
        objects: The messages.
        kinds: Their classes, each at least once.

    Returns:
        The array; None where one is no such message, or has more than plain data.
    """
    if not all(map(_is_of_messages, kinds)):
        return None
    try:
        packer = _free.pop()
    except IndexError:
        # strict: what is of another type than it looks like is refused, and so is a tuple
        packer = msgpack.Packer(strict_types=True, unicode_errors="surrogatepass")
    try:
        packed: bytes = packer.pack([[each.__dict__, each.__pydantic_extra__] for each in objects])
    except Exception:  # noqa: BLE001 - no plain data, of whatever kind
        return None
    if len(packed) <= _MOST_HELD:
        _free.append(packer)
    return packed


_free: list[msgpack.Packer] = []  # each with the memory that it has taken: new memory costs more than to pack
_MOST_HELD = 2**20  # bytes


def _is_of_messages(kind: type[Any]) -> bool:
    return kind.__module__.startswith(_MODULES)


def _fields_of(message: Any) -> bytes | None:
    """The fields of a message of LangChain's own, in the form that loads soonest; None of anything else."""
    if not _is_of_messages(type(message)):
        return None
    try:
        # the format 2 has nothing of how many others refer to a part, and refuses what is no plain data
        return marshal.dumps((message.__dict__, message.__pydantic_extra__), 2)
    except (ValueError, AttributeError):
        return None


class _Message(NamedTuple):
    """What makes a message again: its class, its fields, and the names of those that were given."""

    kind: type[Any]
    fields: bytes
    given: frozenset[str]


class Messages:
    """Lists of messages by the bytes that they were loaded from. Safe between threads, and bounded.

    Args:
        max_bytes: How many bytes to hold, about: those that were used last.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._begin_empty()
        starts_anew(self)

    def _begin_empty(self) -> None:
        self._lock = threading.Lock()
        self._lists: OrderedDict[bytes, tuple[Sequence[_Message] | None, int]] = OrderedDict()
        self._bytes = 0

    _start_anew = _begin_empty  # a fork of the process: what another thread was changing is not whole

    def made(self, stored: bytes) -> list[Any] | None:
        """The messages that these bytes are of, each a new one; None if they are not held."""
        with self._lock:
            found = self._lists.get(stored)
            if found is None or found[0] is None:
                return None
            self._lists.move_to_end(stored)
        return list(map(_made, found[0]))

    def note(self, stored: bytes, objects: Sequence[Any]) -> None:
        """Note what these bytes were found to be of; the second time, if it is messages of plain data, it is held.

        What is loaded once, as by a process that soon ends, costs no more than that.
        """
        with self._lock:
            if stored not in self._lists:
                self._keep(stored, None, len(stored) + _LIST_BYTES)
                return
        kept: list[_Message] = []
        size = len(stored) + _LIST_BYTES
        for each in objects:
            fields = _fields_of(each)
            if fields is None or each.__pydantic_private__ is not None:
                return
            kept.append(_Message(type(each), fields, frozenset(each.__pydantic_fields_set__)))
            size += len(fields) + _MESSAGE_BYTES
        with self._lock:
            self._keep(stored, kept, size)

    def _keep(self, stored: bytes, kept: Sequence[_Message] | None, size: int) -> None:
        self._bytes += size - self._lists.pop(stored, (None, 0))[1]
        self._lists[stored] = kept, size
        while self._bytes > self._max_bytes:
            self._bytes -= self._lists.popitem(last=False)[1][1]


def _made(message: _Message) -> Any:
    """A new message, with all that pydantic gives one that it copies."""
    made = object.__new__(message.kind)
    fields, extra = marshal.loads(message.fields)  # noqa: S302 - of this process's own
    _set(made, "__dict__", fields)
    _set(made, "__pydantic_extra__", extra)
    _set(made, "__pydantic_fields_set__", set(message.given))
    _set(made, "__pydantic_private__", None)
    return made


_set = object.__setattr__
