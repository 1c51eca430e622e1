"""Server-sent events of AG-UI from a store, which a client that was cut off takes up again where it was."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Any

from runstream.codec.lossless_json import dump_json
from runstream.integrations.purpose_agent.checks import purpose_agent
from runstream.integrations.purpose_agent.subscriptions import Delivery
from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import shown
from runstream.model.results import Recorded

if TYPE_CHECKING:
    from purpose_agent.protocols.agui import AGUIAdapter

__all__ = ["agui_sse"]


def agui_sse(
    items: AsyncIterable[Recorded[Any]] | AsyncIterable[Delivery[Any]], adapter: AGUIAdapter | None = None
) -> AsyncIterator[str]:
    """What purpose-agent's ``sse_generator`` gives, each with its event's cursor as ``id``.

    A browser that reconnects sends the last one that it has as ``Last-Event-ID``: begin there (``after=``), and it
    has each event once. An event that is not durable yet has no ``id``, and comes again then: take deliveries with
    ``durable=True``. Closing this, or cancelling who waits for it, closes ``items``.

    Args:
        items: The events with their cursors: a bus's ``deliveries``, or ``follow`` or ``read`` of an async store.
        adapter: Which events are shown, and as what; None: an ``AGUIAdapter()``.

    Returns:
        The texts, for a ``StreamingResponse``.

    Raises:
        ConfigurationError: purpose-agent is not installed, or ``items`` is no such thing.
        RunstreamError: What ``items`` raises.
    """
    if not isinstance(items, AsyncIterable):
        raise ConfigurationError(f"{shown(items)} gives nothing to async for: pass a bus's deliveries(...)")
    return _texts(items, purpose_agent("protocols.agui").AGUIAdapter() if adapter is None else adapter)


async def _texts(items: AsyncIterable[Any], adapter: Any) -> AsyncIterator[str]:
    try:
        async for item in items:
            if not isinstance(item, Recorded | Delivery):
                raise ConfigurationError(
                    f"{shown(item)} has no cursor: pass deliveries(...) of a bus, not subscribe(...)"
                )
            event = adapter.convert(item.event)
            if event is not None:
                name = "" if item.cursor is None else f"id: {item.cursor}\n"
                yield f"{name}data: {_json(event.to_dict())}\n\n"
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


def _json(fields: dict[str, Any]) -> str:
    """The text that purpose-agent writes, or where a browser could not read that, the one that an archive has."""
    try:
        return json.dumps(fields, default=str, allow_nan=False)
    except (TypeError, ValueError):
        return dump_json(fields)
