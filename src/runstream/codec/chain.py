"""The chain: a running fingerprint of a run's history.

``chainₙ = (chainₙ₋₁ · 1021 + crcₙ) mod (2⁴³ − 57)``, where crcₙ is the checksum in the n-th record and chain₀ is
random per creation of a run. It is a polynomial hash over the records' checksums, evaluated by Horner's rule, as
in the fingerprints of Rabin and Karp: "Efficient randomized pattern-matching algorithms", IBM Journal of Research
and Development 31 (1987). The modulus is prime and the multiplier has an inverse, so one step can be taken back.

Two histories that differ anywhere before n differ at n, up to a collision: it guards against loss and mistakes,
not against somebody who makes records to fit. The append script computes the same in Lua's doubles: every
intermediate value stays below 2⁵³, so both are exact.
"""

from __future__ import annotations

__all__ = ["CHAIN_MODULUS", "former_chain", "next_chain"]

CHAIN_MODULUS = 2**43 - 57
_MULTIPLIER = 1021
_INVERSE = pow(_MULTIPLIER, -1, CHAIN_MODULUS)


def next_chain(chain: int, crc: int) -> int:
    """The chain after one more record.

    Args:
        chain: The chain before it.
        crc: The checksum in the record (:func:`runstream.codec.record.record_crc`).
    """
    return (chain * _MULTIPLIER + crc) % CHAIN_MODULUS


def former_chain(chain: int, crc: int) -> int:
    """The chain before a record: undoes ``next_chain``.

    Args:
        chain: The chain after it.
        crc: The checksum in the record.
    """
    return (chain - crc) * _INVERSE % CHAIN_MODULUS
