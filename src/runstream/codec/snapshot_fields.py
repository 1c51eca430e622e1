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

import marshal
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from operator import itemgetter
from typing import Any, NamedTuple

from runstream.codec.msgpack_values import Packer, pack_stored, unpack, unpack_all
from runstream.codec.plain_values import STATE_VALUES_LEVEL
from runstream.model.errors import EncodingError

__all__ = [
    "PackedState",
    "SavedState",
    "pack_state",
    "read_saved",
    "state_checksum",
    "unpack_state",
    "value_begin",
]


_OWN_TYPES = frozenset({type(None), bool, int, float, str, bytes, list, dict})  # that become nothing else

_LARGE_BYTES = 1024  # to pack a smaller field again takes no longer than to know that it is the same
_UNCHANGING = frozenset({str, bytes})
_MOST = 2**53  # what Lua's doubles count to
_TOGETHER = 256  # fields that are packed at once


class _Large(NamedTuple):
    """The value of a large field, which nobody can change, and what the field adds to the checksum."""

    value: Any
    crc: int


@dataclass(slots=True)
class PackedState:
    """A state as the fields of a hash.

    Attributes:
        fields: The fields by name.
        ranks: The rank that each field was given, by name.
        large: What is held of its large fields, by name: if the next state has the same, they are the same.
    """

    fields: dict[bytes, bytes] = field(default_factory=dict)
    ranks: dict[bytes, int] = field(default_factory=dict)
    large: dict[bytes, _Large] = field(default_factory=dict, repr=False, compare=False)
    _whole: tuple[Callable[[bytes], Any], bytes] | None = field(default=None, repr=False, compare=False)
    _checksum: int | None = field(default=None, repr=False, compare=False)

    def unpack(self) -> dict[str, Any]:
        """The state as a dict, a new one each time.

        From the second time on it takes a tenth of the time, and as much memory again is held for that.
        """
        if self._whole is None:
            state, _ = unpack_state(self.fields)
            self._whole = _whole(state)
            return state
        load, whole = self._whole
        again: dict[str, Any] = load(whole)
        return again

    @property
    def checksum(self) -> int:
        """What :func:`state_checksum` gives for its fields."""
        if self._checksum is None:
            small = {name: value for name, value in self.fields.items() if name not in self.large}
            self._checksum = (state_checksum(small) + sum(one.crc for one in self.large.values())) % 2**32
        return self._checksum

    def changes_from(self, before: PackedState) -> tuple[dict[bytes, bytes], list[bytes]]:
        """The difference from another state.

        Args:
            before: The other state.

        Returns:
            The fields to set and the names of the fields to remove, to make ``before`` into this.
        """
        changed = {name: value for name, value in self.fields.items() if before.fields.get(name) != value}
        return changed, [name for name in before.fields if name not in self.fields]


def _whole(state: dict[str, Any]) -> tuple[Callable[[bytes], Any], bytes]:
    """A state in the form that loads soonest, and what loads it."""
    try:
        return marshal.loads, marshal.dumps(state)  # it never leaves this process
    except ValueError:  # it has types that are not Python's own
        return unpack, pack_stored(state)


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
    packed, before = PackedState(), before or PackedState()
    tops: list[tuple[Any, ...]] = []
    split: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        if type(value) not in _OWN_TYPES:
            value = packer.plain(value, key, STATE_VALUES_LEVEL)  # noqa: PLW2901 - what it becomes may be a dict, which is split
        if type(value) is dict:  # names and values are taken one after the other: nobody is to change it meanwhile
            value = value.copy()  # noqa: PLW2901 - as above
        if _is_split(value):
            split[key] = value
        tops.append(() if key in split else (value,))
    # the list with the rank stands for what holds the value
    siblings = _Siblings(b"=", "", STATE_VALUES_LEVEL - 1)
    _pack_siblings(packer, packed, before, siblings, list(state), tops)
    for key, value in split.items():
        name = _utf8(key)
        siblings = _Siblings(b"%d:%b:" % (len(name), name), f"{key}.", STATE_VALUES_LEVEL)
        _pack_siblings(packer, packed, before, siblings, list(value), list(zip(value.values())))
    return packed


class _Siblings(NamedTuple):
    """Fields that are ranked among each other: how their names and their paths begin, and their values' depth."""

    prefix: bytes
    path: str
    level: int


def _pack_siblings(
    packer: Packer,
    packed: PackedState,
    before: PackedState,
    of: _Siblings,
    keys: list[str],
    values: list[tuple[Any, ...]],
) -> None:
    """Pack the entries of a dict into fields with ranks; where there is no value, the field has only its rank."""
    names = [of.prefix + key.encode(errors="surrogatepass") for key in keys]
    ranks = _ranked(names, before.ranks)
    packed.ranks.update(zip(names, ranks, strict=True))
    if before.large and (others := _take_large(packed, before, names, values)) is not None:
        names, keys = [names[index] for index in others], [keys[index] for index in others]
        ranks, values = [ranks[index] for index in others], [values[index] for index in others]
    items = ([rank, *value] for rank, value in zip(ranks, values, strict=True))
    for first in range(0, len(names), _TOGETHER):
        part = slice(first, first + _TOGETHER)
        together = list(islice(items, _TOGETHER))  # so few that they are freed before Python's collector runs
        found = packer.pack_all(together, of.level)
        if found is None:  # rarely: one of them needs more than to be packed
            paths = [of.path + key for key in keys[part]]
            found = list(map(_pack_field, repeat(packer), together, paths, repeat(of.level)))
        packed.fields.update(zip(names[part], found, strict=True))
        for index, size in enumerate(map(len, found), first):
            if size >= _LARGE_BYTES and type(values[index][0]) in _UNCHANGING:
                name = names[index]
                crc = zlib.crc32(packed.fields[name], zlib.crc32(name))
                packed.large[name] = _Large(values[index][0], crc)


def _take_large(
    packed: PackedState, before: PackedState, names: list[bytes], values: list[tuple[Any, ...]]
) -> list[int] | None:
    """Take the large fields from the state before that are the same; the indexes of the others; None for all."""
    taken = set()
    for index, (name, value) in enumerate(zip(names, values, strict=True)):
        large = before.large.get(name)
        if large is not None and value and value[0] is large.value and packed.ranks[name] == before.ranks[name]:
            packed.fields[name], packed.large[name] = before.fields[name], large
            taken.add(index)
    return [index for index in range(len(names)) if index not in taken] if taken else None


def _pack_field(packer: Packer, item: list[Any], path: str, level: int) -> bytes:
    try:
        return packer.pack(item, level=level)
    except EncodingError:
        packer.pack(item[1], path, level + 1)  # the same failure, with the state's own path
        raise


def _ranked(names: Sequence[bytes], known: Mapping[bytes, int]) -> Sequence[int]:
    """Ranks that rise, those that are known where they do."""
    if not known:
        return range(len(names))
    ranks, last = [], -1
    for rank in map(known.get, names, repeat(-1)):
        last = rank if rank > last else last + 1
        ranks.append(last)
    return ranks


def unpack_state(fields: Mapping[bytes, bytes]) -> tuple[dict[str, Any], PackedState]:
    """Unpack a state from its fields.

    Args:
        fields: The fields by name.

    Returns:
        The state as a dict, and the fields with their ranks, to make differences from.

    Raises:
        ValueError: ``pack_state`` did not make them. (So may KeyError, TypeError and IndexError.)
    """
    names, (ranks, values, lone) = list(fields), _unpack_items(list(fields.values()))
    # where the fields are, by what their names begin with: that of the name before, mostly
    siblings: dict[bytes, list[int]] = {}
    prefix, group = b"=", siblings.setdefault(b"=", [])
    for index, name in enumerate(names):
        if not name.startswith(prefix):
            prefix = _prefix(name)
            group = siblings.setdefault(prefix, [])
        group.append(index)
    state: dict[str, Any] = {}
    tops = sorted(siblings[b"="], key=ranks.__getitem__)
    for key, top in zip(_keys(b"=", [names[index] for index in tops]), tops, strict=True):
        value = values[top]
        if value is _SPLIT:
            lone -= 1
            prefix = b"%d:%b:" % (len(names[top]) - 1, names[top][1:])
            order = sorted(siblings.get(prefix, ()), key=ranks.__getitem__)
            subs = _keys(prefix, list(map(names.__getitem__, order)))
            value = dict(zip(subs, map(values.__getitem__, order), strict=True))
        state[key] = value
    if lone:
        raise ValueError("a field has no value")
    return state, PackedState(dict(fields), dict(zip(names, ranks, strict=True)))


def _keys(prefix: bytes, names: list[bytes]) -> list[str]:
    """What follows the prefix in each name, as text."""
    together = b"\0".join(names)
    if together.count(b"\0") != len(names) - 1:  # rarely: a name has what stands between them; or there are none
        return [_text(name[len(prefix) :]) for name in names]
    first, *others = _text(together).split("\0" + _text(prefix))
    return [first[len(_text(prefix)) :], *others]


def _unpack_items(packed: list[bytes]) -> tuple[list[int], list[Any], int]:
    """The rank and the value in each field; _SPLIT for those that have none, and how many these are."""
    ranks: list[int] = []
    values: list[Any] = []
    lone = 0
    for first in range(0, len(packed), _TOGETHER):
        items = unpack_all(packed[first : first + _TOGETHER])
        if not set(map(type, items)) <= {list}:
            raise ValueError("a field is no value with its rank")
        ranks += map(_first, items)
        if lonely := list(map(len, items)).count(1):
            lone += lonely
            values += [item[1] if len(item) > 1 else _SPLIT for item in items]
        else:
            values += map(_second, items)
    if not set(map(type, ranks)) <= {int}:
        raise ValueError("a field is no value with its rank")
    return ranks, values, lone


def value_begin(packed: bytes) -> int:
    """Where the value begins in a field of a state that ``pack_state`` made: after the rank.

    Args:
        packed: The field, msgpack ``[rank, value]``.

    Returns:
        The index of the value's first byte.
    """
    return 2 + _RANK_SIZES.get(packed[1], 0)


_RANK_SIZES = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
"""How many bytes follow the first one of a rank that has more than that."""


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


def read_saved(saved: Mapping[bytes, bytes], known: PackedState | None = None) -> SavedState:
    """Read a snapshot's hash.

    Args:
        saved: All fields of the hash.
        known: A state that was proven before: if it is the same, it takes a fifth of the time.

    Returns:
        What they hold.

    Raises:
        ValueError: It is damaged, or lacks something.
    """
    try:
        header = _count(saved[b"offset"]), _count(saved[b"revision"]), saved[b"token"].decode()
        fields = dict(saved)
        for name in [name for name in saved if name[:1] not in _HEADS]:
            del fields[name]
        checksum = int(saved[b"checksum"])
        if known is not None and known.fields == fields and known.checksum == checksum:
            return SavedState(*header, known.unpack(), known)
        if checksum != state_checksum(fields):
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
    return type(value) is dict and set(map(type, value)) == {str}


_first: Callable[[Any], Any] = itemgetter(0)
_second: Callable[[Any], Any] = itemgetter(1)
_SPLIT = object()
"""What a field has for a dict whose entries are fields of their own."""


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
