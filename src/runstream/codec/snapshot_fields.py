"""Pack a state into the fields of a snapshot's hash in Redis, unpack it, and take the difference of two.

==================  ===================================================================================
``=KEY``            a top-level key of the state: msgpack ``[rank, value]``, or ``[rank]`` where the
                    value is a dict that is split
``LEN:KEY:SUB``     one entry of the dict under KEY, which has LEN bytes: msgpack ``[rank, value]``
==================  ===================================================================================

A dict with nothing but string keys is split one level: of a dict that grows, only what is new in it is saved. A
hash has no order, but users' dicts have one: ``rank`` rises among siblings. A key keeps its rank from save to save
where it can, so that an addition at the end changes no other field.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

from runstream.codec.msgpack_values import NESTED_FLOOR, Packer, pack_stored, unpack
from runstream.codec.plain_values import STATE_VALUES_LEVEL
from runstream.model.errors import EncodingError

__all__ = [
    "PackedState",
    "SavedState",
    "pack_state",
    "plain_state",
    "read_saved",
    "state_checksum",
    "unpack_state",
]


_OWN_TYPES = frozenset({type(None), bool, int, float, str, bytes, list, dict})  # that become nothing else


_MOST = 2**53  # what Lua's doubles count to


@dataclass(slots=True)
class PackedState:
    """A state as the fields of a hash.

    Attributes:
        fields: The fields by name.
        ranks: The rank that each field was given, by name.
    """

    fields: dict[bytes, bytes] = field(default_factory=dict)
    ranks: dict[bytes, int] = field(default_factory=dict)
    _whole: bytes | None = field(default=None, repr=False, compare=False)

    def unpack(self) -> dict[str, Any]:
        """The state as a dict, a new one each time.

        From the second time on it takes a tenth of the time, and as much memory again is held for that.
        """
        if self._whole is not None:
            state: dict[str, Any] = unpack(self._whole)
            return state
        state, _ = unpack_state(self.fields)
        self._whole = pack_stored(state)
        return state

    def changes_from(self, before: PackedState) -> tuple[dict[bytes, bytes], list[bytes]]:
        """The difference from another state.

        Args:
            before: The other state.

        Returns:
            The fields to set and the names of the fields to remove, to make ``before`` into this.
        """
        changed = {name: value for name, value in self.fields.items() if before.fields.get(name) != value}
        return changed, [name for name in before.fields if name not in self.fields]


def pack_state(packer: Packer, state: Mapping[str, Any], before: PackedState | None = None) -> PackedState:
    """Pack a state into fields, ranked so that as few as possible differ from those of the state before.

    Args:
        packer: Packs its values.
        state: The state as a dict.
        before: The state that was saved before it, if it is known.

    Returns:
        The fields.

    Raises:
        EncodingError: A value cannot be stored.
    """
    packed = PackedState()
    known = before.ranks if before is not None else {}

    def put(name: bytes, last_rank: int, values: list[Any], path: str, level: int) -> int:
        rank = known.get(name, -1)
        rank = rank if rank > last_rank else last_rank + 1
        try:
            packed.fields[name] = packer.pack(
                [rank, *values], level=level
            )  # the list stands for what holds the value
        except EncodingError:
            packer.pack(values[0], path, level + 1)  # the same failure, with the state's own path
            raise
        packed.ranks[name] = rank
        return rank

    rank = -1
    for key, value in state.items():
        name = _utf8(key)
        if type(value) not in _OWN_TYPES:
            value = packer.plain(value, key, STATE_VALUES_LEVEL)  # noqa: PLW2901 - what it becomes may be a dict, which is split
        if not _is_split(value):
            rank = put(b"=" + name, rank, [value], key, STATE_VALUES_LEVEL - 1)
            continue
        rank = put(b"=" + name, rank, [], key, STATE_VALUES_LEVEL - 1)
        prefix, sub_rank = b"%d:%b:" % (len(name), name), -1
        for sub, part in value.items():
            sub_rank = put(prefix + _utf8(sub), sub_rank, [part], f"{key}.{sub}", STATE_VALUES_LEVEL)
    return packed


def plain_state(packer: Packer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a state into what every store gives back of it, and refuse what any of them would refuse.

    Args:
        packer: Packs its values.
        state: The state as a dict.

    Returns:
        The copy, which shares nothing with the state that can change.

    Raises:
        EncodingError: A value cannot be stored.
    """
    plain = {}
    for key, value in state.items():
        packed, nested, _ = packer.measured(value, key, STATE_VALUES_LEVEL)
        if nested > NESTED_FLOOR:  # rarely: the limit is that of each field of a hash
            plain.update(unpack_state(pack_state(packer, {key: value}).fields)[0])
        else:
            plain[key] = unpack(packed)
    return plain


def unpack_state(fields: Mapping[bytes, bytes]) -> tuple[dict[str, Any], PackedState]:
    """Unpack a state from its fields.

    Args:
        fields: The fields by name.

    Returns:
        The state as a dict, and the fields with their ranks, to make differences from.

    Raises:
        ValueError: ``pack_state`` did not make them. (So may KeyError, TypeError and IndexError.)
    """
    items = list(map(unpack, fields.values()))
    if not set(map(type, items)) <= {list} or not set(map(type, map(_rank, items))) <= {int}:
        raise ValueError("a field is no value with its rank")
    # what the names under one key begin with, and of each of them the rank, the rest of the name, and the item
    siblings: dict[bytes, list[tuple[int, bytes, list[Any]]]] = {}
    prefix, group = b"=", siblings.setdefault(b"=", [])
    for name, item in zip(fields, items, strict=True):
        if not name.startswith(prefix):  # rarely: it is that of the name before, mostly
            prefix = _prefix(name)
            group = siblings.setdefault(prefix, [])
        group.append((item[0], name[len(prefix) :], item))
    for group in siblings.values():
        group.sort(key=_rank)
    state: dict[str, Any] = {}
    for _, key, item in siblings[b"="]:
        parts = siblings.get(b"%d:%b:" % (len(key), key), ()) if len(item) == 1 else ()
        state[_text(key)] = (
            item[1] if len(item) > 1 else {sub.decode("utf-8", "surrogatepass"): part[1] for _, sub, part in parts}
        )
    return state, PackedState(dict(fields), dict(zip(fields, map(_rank, items), strict=True)))


class SavedState(NamedTuple):
    """The contents of a snapshot's hash.

    Attributes:
        offset: It covers the history up to this offset.
        revision: How many times a snapshot of this run or lane was saved.
        token: Names this very snapshot.
        state: The state as a dict.
        packed: The state as fields, to make differences from.
    """

    offset: int
    revision: int
    token: str
    state: dict[str, Any]
    packed: PackedState


def read_saved(saved: Mapping[bytes, bytes]) -> SavedState:
    """Read a snapshot's hash.

    Args:
        saved: All fields of the hash.

    Returns:
        What they hold.

    Raises:
        ValueError: It is damaged, or lacks something.
    """
    try:
        header = _count(saved[b"offset"]), _count(saved[b"revision"]), saved[b"token"].decode()
        fields = {name: value for name, value in saved.items() if name[:1] in _HEADS}
        if int(saved[b"checksum"]) != state_checksum(fields):
            raise ValueError("its checksum does not match")
        state, packed = unpack_state(fields)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return SavedState(*header, state, packed)


def _count(text: bytes) -> int:
    count = int(text)
    if not 0 <= count <= _MOST:
        raise ValueError(f"{text!r:.80} is no offset or revision")
    return count


def state_checksum(fields: Mapping[bytes, bytes]) -> int:
    """A fingerprint of a packed state's fields, the same in whatever order they come.

    The sum, modulo 2³², of the CRC-32 of each field's name and value.
    """
    return sum(map(zlib.crc32, fields.values(), map(zlib.crc32, fields))) % 2**32


_HEADS = frozenset(b"%c" % head for head in b"=0123456789")
"""What the names of a state's fields begin with."""


def _is_split(value: Any) -> bool:
    return type(value) is dict and bool(value) and all(type(key) is str for key in value)


_rank: Callable[[Any], Any] = itemgetter(0)


def _prefix(name: bytes) -> bytes:
    """``=``, or ``LEN:KEY:``: what a field's name begins with, up to the last part of it."""
    if name[:1] == b"=":
        return b"="
    size, _, rest = name.partition(b":")
    return name[: len(name) - len(rest) + int(size) + 1]


def _utf8(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _text(name: bytes) -> str:
    return name.decode(errors="surrogatepass")
