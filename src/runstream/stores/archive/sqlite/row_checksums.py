"""The checksums in the rows of a SQLite archive: they show that a row is as it was written. Pure.

Each is a crc32, which differs wherever up to 32 bits in a row have changed. It covers what a reader takes from the
row, and the run that it is asked for: an index that leads to another row shows as well. That of an event covers
run, offset, chain, key and text; its further columns are in the text too. That of a snapshot's row covers the
checksum of its text, which has a column of its own: a list of snapshots is checked without reading the states.

NULL is in the rows that an earlier version or another program wrote.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

__all__ = [
    "aside_checksum",
    "entry_checksum",
    "entry_checksums",
    "row_checksum",
    "run_checksum",
    "run_seed",
    "snapshot_checksums",
    "text_checksum",
]

_encode = json.JSONEncoder(default=repr).encode
_COLUMNS_OF_A_RUN = 11  # of version 3, but for the checksum


def run_seed(run_id: str) -> int:
    """Where the checksums of a run's entries begin."""
    return zlib.crc32(run_id.encode(errors="surrogatepass"))


def entry_checksum(seed: int, offset: int, chain: int, key: str | None, text: str | None) -> int:
    """The checksum in the row of an event, or of one that was erased (its text is None).

    Args:
        seed: As ``run_seed`` gives it.
        offset: The event's offset.
        chain: The chain up to there.
        key: The caller's key.
        text: The event's JSON.
    """
    covered = f"{offset}-{chain}-{'' if key is None else len(key)}:{key or ''}{text or ''}"
    return zlib.crc32(covered.encode(errors="surrogatepass"), seed)


def entry_checksums(
    run_id: str, offsets: Iterable[int], chains: Iterable[int], keys: Iterable[str | None], texts: Iterable[str]
) -> Iterator[int]:
    """The checksums of many events of one run, given as columns."""
    return map(entry_checksum, repeat(run_seed(run_id)), offsets, chains, keys, texts)


def aside_checksum(run_id: str, offset: int, chain: int, key: str | None, raw: bytes, *noted: Any) -> int:
    """The checksum in the row of a record that is kept aside; ``noted`` are the reason and the time."""
    return zlib.crc32(raw, row_checksum(run_id, offset, chain, key, *noted))


def row_checksum(*columns: Any) -> int:
    """The checksum over columns that are not long: numbers, texts and NULL."""
    return zlib.crc32(_encode(columns).encode())


def run_checksum(*columns: Any) -> int:
    """The checksum over the columns of a run; without those at the end that are NULL, as in a row of version 3."""
    count = len(columns)
    while count > _COLUMNS_OF_A_RUN and columns[count - 1] is None:
        count -= 1
    return row_checksum(*columns[:count])


def text_checksum(text: bytes) -> int:
    """The checksum of a state: of its JSON, in UTF-8, or of its msgpack."""
    return zlib.crc32(text)


def snapshot_checksums(run_id: str, snapshot: Sequence[Any]) -> tuple[int, int]:
    """The two checksums in the row of a snapshot: over its columns, and over its text.

    Args:
        run_id: The run.
        snapshot: Lane, offset, revision, token and text; or bytes, of a state that is kept as msgpack.
    """
    text = snapshot[4]
    of_text = text_checksum(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    return row_checksum(run_id, *snapshot[:4], of_text), of_text
