"""What each of many runs says last, on a line: for a list that is asked for again and again.

What is known of a run is kept until it goes on, and a minute at most: an event that is erased meanwhile is told no
longer. However many runs a list has, and whatever the size of their events, they are read for a moment only, a few
at a time: what is not known by then is not told, and is known the next time.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from runstream.codec.json_facts import event_facts
from runstream.integrations.langgraph.readable import readable_payload
from runstream.model.results import RunInfo

__all__ = ["LastEvents", "line_of"]

_KEPT = 4000
_KNOWN_SECONDS = 60.0
_READ_SECONDS = 0.3
_AT_ONCE = 8
_LONGEST = 200
_SAYS = ("text", "delta", "content", "message", "error", "question", "answer", "summary", "reason")


class _Known(NamedTuple):
    created_at: float
    last_offset: int
    until: float
    facts: dict[str, Any] | None


class LastEvents:
    """The last events of runs that lists have told."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def of(self, store: Any, infos: Sequence[RunInfo]) -> list[dict[str, Any] | None]:
        """The last event of each of some runs: None for one that has none, does not read, or is not known yet."""
        left = iter([info for info in infos if not self._is_known(info)])
        looking = [asyncio.create_task(self._look(store, left)) for _ in range(_AT_ONCE)]
        try:
            await asyncio.wait(looking, timeout=_READ_SECONDS)
        finally:
            for task in looking:
                task.cancel()
            await asyncio.gather(*looking, return_exceptions=True)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return [self._known[info.run_id].facts if self._is_known(info) else None for info in infos]

    def _is_known(self, info: RunInfo) -> bool:
        known = self._known.get(info.run_id)
        is_same = known is not None and (known.created_at, known.last_offset) == (
            info.created_at,
            info.last_offset,
        )
        return is_same and known is not None and time.monotonic() < known.until

    async def _look(self, store: Any, left: Iterator[RunInfo]) -> None:
        for info in left:
            try:
                facts = await _last_of(store, info.run_id)
            except Exception:  # noqa: BLE001 - an application's events may raise anything; who opens the run is told
                facts = None
            self._known.pop(info.run_id, None)
            until = time.monotonic() + _KNOWN_SECONDS
            self._known[info.run_id] = _Known(info.created_at, info.last_offset, until, facts)


async def _last_of(store: Any, run_id: str) -> dict[str, Any] | None:
    async with aclosing(store.read(run_id, limit=1, reverse=True, on_corrupt="skip")) as items:
        async for item in items:
            facts = event_facts(item)
            text = line_of(readable_payload(facts["kind"], facts["payload"]))
            return {"offset": item.offset, "lane_id": facts["lane_id"], "kind": facts["kind"], "text": text}
    return None


def line_of(payload: Any) -> str:
    """What an event says, on a line of at most 200 characters: its text, or the plain values of its payload."""
    if not isinstance(payload, Mapping):
        return ""
    messages = payload.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], Mapping):
        payload = messages[-1]
    said = next((payload[name] for name in _SAYS if isinstance(payload.get(name), str) and payload[name]), None)
    if said is None:
        plain = [(name, value) for name, value in payload.items() if isinstance(value, str | int | float)]
        said = ", ".join(f"{name}: {str(value)[:_LONGEST]}" for name, value in plain[:8])
    line = " ".join(said[: 4 * _LONGEST].split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
