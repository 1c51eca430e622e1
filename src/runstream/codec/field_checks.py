"""What an event's fields are, and may be: keys in Redis and columns in SQLite.

Whatever it is read from, an event was written under this rule, by the first version and by every later one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from runstream.codec.stored_fields import check_names
from runstream.model.errors import EncodingError
from runstream.model.identifiers import MAX_NAME_BYTES, check_name, shown

__all__ = [
    "DEFAULTS",
    "FIELDS",
    "OWN",
    "check_all_stored",
    "check_fields",
    "check_stored",
    "check_values",
    "values_in",
]

FIELDS = (
    "session_id",
    "lane_id",
    "span_id",
    "parent_span_id",
    "seq",
    "ts",
    "kind",
    "visibility",
    "payload",
)
"""The fields of an event in the order in which the body has them."""

values_in = itemgetter(*FIELDS)
"""The values of an event that has all of its fields, in their order."""

OWN = frozenset({"run_id", *FIELDS})
"""The names of an event's ten fields; any other is a further field."""

DEFAULTS: Mapping[str, Any] = {
    "session_id": "",
    "lane_id": "main",
    "span_id": "",
    "parent_span_id": None,
    "seq": 0,
    "visibility": "public",
    "payload": {},
}
"""What an event has for a field that it lacks."""

_TEXTS = tuple((name, FIELDS.index(name)) for name in ("session_id", "lane_id", "kind", "visibility"))
_SEQ, _TS = FIELDS.index("seq"), FIELDS.index("ts")


def check_values(values: Sequence[Any]) -> None:
    """Refuse an event whose fields could not be keys in Redis or columns in SQLite.

    Whatever it is read from, an event was written under this rule, by the first version and by every later one.

    Args:
        values: The event's values in the order of FIELDS.

    Raises:
        EncodingError: One cannot be; ``path`` is its field.
    """
    session_id, lane_id, _, _, _, _, kind, visibility = values[:8]
    if type(session_id) is type(lane_id) is type(kind) is type(visibility) is str:
        together = session_id + lane_id + kind + visibility
        is_sound = together.isascii() and len(together) <= MAX_NAME_BYTES  # as nearly all are
    else:
        is_sound = False
    if not is_sound:
        for name, index in _TEXTS:
            check_name(name, values[index])
    seq, ts = values[_SEQ], values[_TS]
    if not isinstance(seq, int) or not -(2**63) <= seq < 2**63:
        raise EncodingError(f"seq is an integer of 64 bits, not {shown(seq)}", path="seq")
    if not (type(ts) is float and ts - ts == 0) and not _is_time(ts):  # nearly all are floats, and finite
        raise EncodingError(f"ts is Unix time in seconds, not {shown(ts)}", path="ts")


def _is_time(ts: Any) -> bool:
    try:
        return isinstance(ts, int | float) and math.isfinite(ts)
    except OverflowError:  # an integer beyond what a column of floats holds
        return False


def _check_further(further: Mapping[str, Any]) -> None:
    """Refuse further fields that no event can have had."""
    check_names(further, is_stored=True)
    if not OWN.isdisjoint(further):
        raise EncodingError("a further field has the name of one of the ten")


def check_stored(values: Sequence[Any]) -> None:
    """Refuse what was unpacked unless it is an event, further fields and key included."""
    check_values(values)
    if len(values) > len(FIELDS):  # as few are
        further, *keys = values[len(FIELDS) :]
        if further is not None:
            if type(further) is not dict:
                raise EncodingError("its further fields are no map")
            _check_further(further)
        for key in keys:
            if key is not None:
                check_name("key", key)


def check_all_stored(events: Sequence[Sequence[Any]]) -> None:
    """Refuse events as ``check_stored`` does, many at once and column by column.

    Raises:
        EncodingError: One of them may be at fault: check each by itself.
        TypeError: Likewise.
    """
    columns = list(zip(*events, strict=False))
    for name, index in _TEXTS:
        for value in set(columns[index]):
            check_name(name, value)
    seqs, times = columns[_SEQ], columns[_TS]
    if set(map(type, seqs)) != {int} or not -(2**63) <= min(seqs) <= max(seqs) < 2**63:
        raise EncodingError("seq is an integer of 64 bits", path="seq")
    if not all(map(math.isfinite, times)):
        raise EncodingError("ts is Unix time in seconds", path="ts")
    for values in events:
        if len(values) > len(FIELDS):
            check_stored(values)


def check_fields(run_id: str, fields: Mapping[str, Any]) -> None:
    """Refuse fields that were read from an archive unless they are an event's.

    Args:
        run_id: The run that they were found in.
        fields: The fields by name; absent ones count as their defaults.

    Raises:
        EncodingError: They are not; ``path`` is the field at fault.
    """
    if fields.get("run_id") != run_id:
        raise EncodingError(f"it is an event of run {shown(fields.get('run_id'))}", path="run_id")
    check_values([fields[name] if name in fields else DEFAULTS.get(name) for name in FIELDS])
    if len(fields) > len(OWN) or not OWN.issuperset(fields):
        _check_further({name: part for name, part in fields.items() if name not in OWN})
