"""What a Run is asked to emit, as values, and the payloads that it makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from runstream.model.errors import EncodingError
from runstream.model.events import EventKind, Visibility
from runstream.model.identifiers import one_of_kind, shown

__all__ = ["Emission", "check_kind", "emissions_of", "error_payload", "joined_payload"]


class Emission(NamedTuple):
    """An event to emit: what ``emit`` takes, as a value for ``emit_many``."""

    kind: EventKind | str
    payload: Mapping[str, Any] | None = None
    key: str | None = None
    parent_span_id: str | None = None
    visibility: Visibility | str = Visibility.PUBLIC

    @property
    def starts_run(self) -> bool:
        """Whether it is a ``run.started``, which opens a run that has ended."""
        return self.kind == EventKind.RUN_STARTED


def emissions_of(items: Iterable[Emission | tuple[Any, ...] | str]) -> list[Emission]:
    """The items of ``emit_many``, or a single kind. Raises EncodingError for one that is no event."""
    return [_emission(item) for item in ((items,) if isinstance(items, str) else items)]


def _emission(item: Emission | tuple[Any, ...] | str) -> Emission:
    if isinstance(item, str):
        return Emission(item)
    if isinstance(item, tuple) and 1 <= len(item) <= len(Emission._fields):
        return Emission(*item)
    raise EncodingError(f"an item of emit_many is an Emission, a tuple or a kind, not {shown(item)}", path="items")


def check_kind(kind: Any) -> None:
    """Refuse an event in place of its kind, and whatever else is no text. Raises EncodingError."""
    if not isinstance(kind, str | Enum):
        raise EncodingError(
            f'kind: it is a text such as "tool.result", not {one_of_kind(kind)}; a Run makes its events itself,'
            " and save_event takes one that is made",
            path="kind",
        )


def joined_payload(payload: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The payload with further entries. Raises EncodingError for one that is no mapping."""
    if payload is None:
        return dict(fields)
    if not isinstance(payload, Mapping):
        raise EncodingError(
            f"payload: it is a dict, not {type(payload).__qualname__}; put the value under a key", path="payload"
        )
    return {**payload, **fields}


def error_payload(error: BaseException | str) -> dict[str, Any]:
    """The payload that describes an error: its text, and its class if it is an exception."""
    return {"error": str(error), "type": None if isinstance(error, str) else type(error).__name__}
