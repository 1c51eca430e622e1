"""Join the pieces of text that an agent streamed, for people who read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Any

import typer

from runstream.model.events import EventKind, PAEvent
from runstream.model.results import Recorded

__all__ = ["Join", "is_delta", "joined"]

Join = Annotated[
    bool,
    typer.Option(
        "--join", help="Join the text deltas of a lane that follow one another, and show all their text."
    ),
]


def is_delta(event: PAEvent) -> bool:
    """Whether that is a piece of text."""
    return event.kind == EventKind.TEXT_DELTA and isinstance(event.payload.get("text"), str)


def joined(items: Iterable[Recorded[PAEvent] | None]) -> Iterator[Recorded[PAEvent]]:
    """The events; in place of text deltas that follow one another in their lane, the first with all their text.

    It comes when something else comes in that lane, at the end, and where there is None among the items, which
    stands for a while without any.
    """
    held: dict[str, list[Recorded[PAEvent]]] = {}
    for item in items:
        if item is None:
            yield from map(_joined, held.values())
            held.clear()
        elif is_delta(item.event):
            held.setdefault(item.event.lane_id, []).append(item)
        else:
            if (deltas := held.pop(item.event.lane_id, None)) is not None:
                yield _joined(deltas)
            yield item
    yield from map(_joined, held.values())


def _joined(deltas: list[Recorded[PAEvent]]) -> Recorded[PAEvent]:
    first = deltas[0].event
    payload: dict[str, Any] = {**first.payload, "text": "".join(item.event.payload["text"] for item in deltas)}
    return deltas[0]._replace(event=replace(first, payload=payload))
