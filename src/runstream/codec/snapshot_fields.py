"""A state to the fields of a snapshot's hash and back, and the difference between two of them.

==================  ===================================================================================
``=KEY``            a top-level key of the state: msgpack ``[rank, value]``, or ``[rank]`` where the
                    value is a dict that is split
``LEN:KEY:SUB``     one entry of the dict under KEY, which has LEN bytes: msgpack ``[rank, value]``
==================  ===================================================================================

A dict with nothing but string keys is split one level, so that a growing dict is saved by what is new
in it. A hash has no order, and users' dicts do: ``rank`` rises among siblings. A key keeps its rank
from save to save where it can, so that an addition at the end changes no other field.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runstream.codec.msgpack_values import Packer, unpack
from runstream.model.errors import EncodingError

__all__ = ["PackedState", "SavedState", "pack_state", "read_saved", "state_checksum", "unpack_state"]


@dataclass(frozen=True, slots=True)
class PackedState:
    """A state as the fields of a hash, with the rank that each field was given."""

    fields: dict[bytes, bytes] = field(default_factory=dict)
    ranks: dict[bytes, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many bytes the fields have, names and values."""
        return sum(map(len, self.fields)) + sum(map(len, self.fields.values()))

    def changes_from(self, before: PackedState) -> tuple[dict[bytes, bytes], list[bytes]]:
        """The fields to set and the fields to remove that make ``before`` into this."""
        changed = {name: value for name, value in self.fields.items() if before.fields.get(name) != value}
        return changed, [name for name in before.fields if name not in self.fields]


def pack_state(packer: Packer, state: Mapping[str, Any], before: PackedState | None = None) -> PackedState:
    """The state's fields, ranked so that as few as possible differ from ``before``.

    Raises EncodingError for a value that cannot be stored.
    """
    packed = PackedState()
    known = before.ranks if before is not None else {}

    def put(name: bytes, last_rank: int, values: list[Any], path: str) -> int:
        rank = known.get(name, -1)
        rank = rank if rank > last_rank else last_rank + 1
        try:
            packed.fields[name] = packer.pack([rank, *values])
        except EncodingError:
            packer.pack(values[0], path)  # the same failure, with the state's own path
            raise
        packed.ranks[name] = rank
        return rank

    rank = -1
    for key, value in state.items():
        name = _utf8(key)
        if not _is_split(value):
            rank = put(b"=" + name, rank, [value], key)
            continue
        rank = put(b"=" + name, rank, [], key)
        prefix, sub_rank = b"%d:%b:" % (len(name), name), -1
        for sub, part in value.items():
            sub_rank = put(prefix + _utf8(sub), sub_rank, [part], f"{key}.{sub}")
    return packed


def unpack_state(fields: Mapping[bytes, bytes]) -> tuple[dict[str, Any], PackedState]:
    """The state that these fields hold, and the fields with their ranks, to make differences from.

    Other fields are passed over. Raises ValueError for fields that no one packed.
    """
    packed = PackedState()
    top: list[tuple[int, str, list[Any]]] = []
    parts: dict[str, list[tuple[int, str, Any]]] = {}
    for name, value in fields.items():
        if not name[:1].isdigit() and name[:1] != b"=":
            continue
        rank, *rest = unpack(value)
        packed.fields[name], packed.ranks[name] = value, rank
        if name[:1] == b"=":
            top.append((rank, _text(name[1:]), rest))
        else:
            size, _, names = name.partition(b":")
            key, sub = names[: int(size)], names[int(size) + 1 :]
            parts.setdefault(_text(key), []).append((rank, _text(sub), rest[0]))
    state: dict[str, Any] = {}
    for _, text, rest in sorted(top, key=_rank):
        state[text] = rest[0] if rest else {sub: part for _, sub, part in sorted(parts.get(text, []), key=_rank)}
    return state, packed


class SavedState(NamedTuple):
    """What a snapshot's hash holds: its header, the state as plain data, and the packed fields."""

    offset: int
    revision: int
    token: str
    state: dict[str, Any]
    packed: PackedState


def read_saved(saved: Mapping[bytes, bytes]) -> SavedState:
    """What a snapshot's hash holds. Raises ValueError for one that is damaged or lacks something."""
    try:
        header = int(saved[b"offset"]), int(saved[b"revision"]), saved[b"token"].decode()
        checksum = int(saved[b"checksum"])
        state, packed = unpack_state(saved)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if checksum != state_checksum(packed.fields):
        raise ValueError("its checksum does not match")
    return SavedState(*header, state, packed)


def state_checksum(fields: Mapping[bytes, bytes]) -> int:
    """A fingerprint of a packed state's fields, in whatever order they come."""
    return sum(zlib.crc32(value, zlib.crc32(name)) for name, value in fields.items()) % 2**32


def _is_split(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(type(key) is str for key in value)


def _rank(item: tuple[int, str, Any]) -> int:
    return item[0]


def _utf8(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _text(name: bytes) -> str:
    return name.decode(errors="surrogatepass")
