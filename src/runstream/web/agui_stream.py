"""The frames of an AG-UI stream: one for each AG-UI event, each with an id after which it goes on."""

from __future__ import annotations

from collections.abc import Iterator

from ag_ui.core import BaseEvent

from runstream.model.results import RunInfo
from runstream.web.agui import AgUiRun
from runstream.web.frames import text_frame
from runstream.web.happenings import Failed, Given, Happening, Lost, Unreadable
from runstream.web.problems import document

__all__ = ["AgUiEncoding"]


class AgUiEncoding:
    """Encodes what happens in a run as AG-UI events.

    Of the frames that one event gives, the last has its cursor as id; each before it has the cursor before, and
    how many of them were sent: ``12-345+1``. What an event gives depends on those before it, which are noted first
    where a stream goes on.

    Args:
        info: The run.
        position: Where the stream begins: the cursor, or 0.
        skip: How many frames of what comes next were sent.
    """

    needs_history = True

    def __init__(self, info: RunInfo, position: str, skip: int) -> None:
        self._run = AgUiRun(info.run_id, info.session_id)
        self._position, self._skip = position or "0", skip

    def note(self, given: Given) -> None:
        """Note an event that was sent before."""
        self._run.tell(given.item.event)

    def tell(self, happening: Happening, position: str) -> Iterator[bytes]:
        """The frames that tell what happens."""
        if isinstance(happening, Given):
            yield from self._frames(self._run.tell(happening.item.event), position)
        elif isinstance(happening, Unreadable):
            facts = {"offset": happening.offset, "problem": type(happening.error).__name__}
            yield from self._frames(self._run.custom("runstream.unreadable", facts), position)
        elif isinstance(happening, Lost | Failed):
            problem = document(happening.error)
            yield from self._frames(self._run.fail(problem["title"], problem["detail"]), position)
        else:
            yield text_frame(None, self._position)

    def end(self, info: RunInfo, position: str) -> Iterator[bytes]:
        """The frames that tell the end, where no event has done so."""
        for event in self._run.end(info.status):
            yield text_frame(event.model_dump_json(by_alias=True), f"{position}+1")

    def _frames(self, events: list[BaseEvent], position: str) -> Iterator[bytes]:
        for number, event in enumerate(events, 1):
            if number > self._skip:
                name = position if number == len(events) else f"{self._position}+{number}"
                yield text_frame(event.model_dump_json(by_alias=True), name)
        if events:
            self._skip = 0
        self._position = position
