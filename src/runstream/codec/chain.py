"""The chain: a running fingerprint of a run's history.

``chainₙ = (chainₙ₋₁ · 1021 + crcₙ) mod (2⁴³ − 57)``, where crcₙ is the checksum in the n-th record.
The append script computes the same in Lua's doubles: every intermediate value stays below 2⁵³, so
both are exact. Two histories that differ anywhere before n differ at n.
"""

from __future__ import annotations

__all__ = ["CHAIN_MODULUS", "former_chain", "next_chain"]

CHAIN_MODULUS = 2**43 - 57
_MULTIPLIER = 1021
_INVERSE = pow(_MULTIPLIER, -1, CHAIN_MODULUS)


def next_chain(chain: int, crc: int) -> int:
    """The chain after one more record, whose checksum is ``crc``."""
    return (chain * _MULTIPLIER + crc) % CHAIN_MODULUS


def former_chain(chain: int, crc: int) -> int:
    """The chain before a record whose checksum is ``crc``, given the one after it."""
    return (chain - crc) * _INVERSE % CHAIN_MODULUS
