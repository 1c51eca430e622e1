"""Make many events at once of what is stored, where all are plain and of a class that is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runstream.codec.archive_entries import plain_values
from runstream.codec.event_codec import Codec
from runstream.codec.record import decode_plain_records, further_fields
from runstream.model.archive_records import ArchiveEntry
from runstream.model.results import E, S

__all__ = ["events_of_entries", "events_of_records"]


def events_of_records(
    codec: Codec[E, S], run_id: str, records: Sequence[bytes], given_as: str | None = None
) -> list[E] | None:
    """Make the events of records.

    Args:
        codec: Makes events of the caller's type.
        run_id: The run that the records were found in.
        records: The records.
        given_as: The run that they are to be events of; None: their own.

    Returns:
        What ``decode_event`` gives for each; None if one of them may need more than to be made.
    """
    return _made(codec, given_as or run_id, lambda: decode_plain_records(run_id, records, is_for_json=False))


def events_of_entries(
    codec: Codec[E, S], run_id: str, entries: Sequence[ArchiveEntry], given_as: str | None = None
) -> list[E] | None:
    """Make the events of an archive's entries.

    Args:
        codec: Makes events of the caller's type.
        run_id: The run that the entries were found in.
        entries: The entries.
        given_as: The run that they are to be events of; None: their own.

    Returns:
        What ``read_event`` gives for the fields of each; None if one of them may need more than to be made.
    """
    return _made(codec, given_as or run_id, lambda: plain_values(run_id, entries))


def _made(codec: Codec[E, S], run_id: str, load: Callable[[], Sequence[Any] | None]) -> list[E] | None:
    make, upcasts = codec.event_maker, codec.upcasts
    values = None if make is None else load()
    if make is None or values is None:
        return None
    if upcasts is not None and not all(upcasts.is_current(further_fields(own)) for own in values):
        return None
    try:
        return [make(run_id, own) for own in values]
    except Exception:  # noqa: BLE001 - the class itself says it better
        return None
