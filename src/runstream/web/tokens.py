"""The position in a stream of many runs, packed into a token of at most 4 kB.

A token has the floor of the stream and, of each run that it holds, a fingerprint of its id (8 bytes of BLAKE2b),
the offset (LEB128) and the chain (6 bytes) up to which it has been given: 17 bytes for most. The floor is a time
by the store's clock: of a run that was created until then and is not held, nothing is to be given any more.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from runstream.model.results import Cursor
from runstream.web.problems import Refused

__all__ = ["MOST_HELD", "MOST_OPEN", "Token", "fingerprint"]

MOST_OPEN = 100
"""How many runs that have not ended a stream has at most."""

MOST_HELD = 120
"""How many runs a token holds at most, some of them ended: these leave it seconds after all of them was given."""

_VERSION = 1
_HEAD = struct.Struct(">Bd")
_FINGERPRINT_BYTES, _CHAIN_BYTES = 8, 6


def fingerprint(run_id: str) -> bytes:
    """What stands for a run's id in a token."""
    return hashlib.blake2b(run_id.encode(), digest_size=_FINGERPRINT_BYTES).digest()


@dataclass(frozen=True, slots=True)
class Token:
    """A position in a stream of many runs.

    Attributes:
        floor: Unix time in seconds, by the store's clock.
        held: How far each run has been given, by its fingerprint; None: nothing of it.
    """

    floor: float
    held: Mapping[bytes, Cursor | None] = field(default_factory=dict)

    def __str__(self) -> str:
        """The text that a browser sends back."""
        parts = [_HEAD.pack(_VERSION, self.floor)]
        for name, cursor in self.held.items():
            offset, chain = (0, 0) if cursor is None else cursor
            parts += [name, _leb128(offset), chain.to_bytes(_CHAIN_BYTES, "big") if offset else b""]
        return base64.urlsafe_b64encode(b"".join(parts)).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read a token.

        Raises:
            Refused: It is none.
        """
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            version, floor = _HEAD.unpack_from(data)
            if version != _VERSION or math.isnan(floor):
                raise ValueError(version)
            held: dict[bytes, Cursor | None] = {}
            at = _HEAD.size
            while at < len(data):
                name, at = data[at : at + _FINGERPRINT_BYTES], at + _FINGERPRINT_BYTES
                offset, at = _read_leb128(data, at)
                chain = data[at : at + _CHAIN_BYTES] if offset else b""
                at += len(chain)
                if offset and len(chain) < _CHAIN_BYTES:
                    raise ValueError(at)
                if len(held) == MOST_HELD:
                    raise ValueError(MOST_HELD)
                held[name] = Cursor(offset, int.from_bytes(chain, "big")) if offset else None
        except (binascii.Error, ValueError, IndexError, struct.error) as error:
            raise Refused(
                400,
                "that is no position of a stream of many runs: send the id of its last event",
            ) from error
        return cls(floor, held)


def _leb128(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _read_leb128(data: bytes, at: int) -> tuple[int, int]:
    number, shift = 0, 0
    while True:
        number |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return number, at
        shift += 7
