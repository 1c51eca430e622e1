"""The checkpoints of threads, the latest first, in the order of the log: no clock decides which one that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from runstream.integrations.langgraph.channels import located
from runstream.integrations.langgraph.context import Context
from runstream.integrations.langgraph.loading import (
    find_checkpoint,
    find_following,
    find_said,
    gather,
    give,
    is_cleared,
    kind_of,
    payloads_at,
    written_in,
)
from runstream.integrations.langgraph.mapping import CLEARED, SAVED, THREAD_TAGS, WRITES, Place, checkpoint_in
from runstream.integrations.langgraph.saved import Saved, Written
from runstream.integrations.langgraph.upstream import CheckpointTuple, RunnableConfig
from runstream.model.results import Recorded, RunInfo
from runstream.operations.arguments import ReadQuery, RunsQuery
from runstream.operations.filters import lane_of, payload_of
from runstream.operations.operation import Items, Operation, collect

__all__ = ["Backward", "Found", "list_checkpoints", "threads"]

_FIRST_PAGE, _LARGEST_PAGE = 16, 512  # events
_EVENTS_EACH, _EVENTS_MORE = 3, 2  # a checkpoint, and what mostly is written after one; and some for the latest
_TOGETHER = 32  # checkpoints whose values are loaded at once


class Found(NamedTuple):
    """A checkpoint that was come upon in the log.

    Attributes:
        place: Where it is.
        offset: The offset of its event.
        payload: The payload of that.
        written: What was written after it, of what came after it in the log.
        is_first: Whether what follows it may lie beyond where the reading began.
    """

    place: Place
    offset: int
    payload: Mapping[str, Any]
    written: Sequence[Written]
    is_first: bool

    @property
    def saved(self) -> Saved:
        """The checkpoint without its values."""
        return Saved.of(self.payload)


class Backward:
    """The checkpoints of a thread, back from an offset, page by page.

    Args:
        context: What the saver works with.
        thread_id: The thread.
        place: The place whose checkpoints are wanted; None: all of the thread.
        end: The offset before which to begin; None: the end of the log.
        with_cleared: Whether to give those too that are there no more, as far as they are.

    Attributes:
        read: How many events were read.
    """

    def __init__(
        self, context: Context, thread_id: str, place: Place | None, end: int | None, *, with_cleared: bool = False
    ) -> None:
        self._context = context
        self._thread_id = thread_id
        self._place = place
        self._end = end
        self._is_from_end = end is None
        self._with_cleared = with_cleared
        self._size = _FIRST_PAGE
        self.read = 0
        self._following: dict[Place, list[Written]] = {}
        self._apart: dict[tuple[Place, str], list[Written]] = {}
        self._passed: set[tuple[Place, str]] = set()

    def page(self, most: int | None = None) -> Operation[list[Found] | None]:
        """The next checkpoints, the latest first; none, or some; None where the log begins.

        What is wanted of them is to be :meth:`completed`.

        Args:
            most: How many events to read at most; None: as many as a page has.
        """
        size = self._size if most is None else min(most, self._size)
        query = ReadQuery(before=self._end, limit=size, reverse=True)
        items: list[Recorded[Any]] = yield from collect(self._context.operations.read(self._thread_id, query))
        if not items:
            return None
        self._end, self._size = items[-1].offset, min(2 * self._size, _LARGEST_PAGE)
        self.read += len(items)
        return [each for each in map(self._look, items) if each is not None]

    def _look(self, item: Recorded[Any]) -> Found | None:
        """Note what an event says; give the checkpoint if it has one."""
        place = Place.at(self._thread_id, lane_of(item.event))
        if place is None or self._place not in (None, place):
            return None
        kind, payload = kind_of(item), payload_of(item.event)
        if kind == WRITES:
            written = Written.of(payload, item.offset)
            if written.is_apart:
                self._apart.setdefault((place, written.checkpoint_id), []).append(written)
            else:
                self._following.setdefault(place, []).append(written)
        elif kind == CLEARED and not self._with_cleared:
            self._passed.add((place, payload["checkpoint"]))
        elif kind == SAVED:
            is_first = not self._is_from_end and place not in self._following
            following, self._following[place] = self._following.get(place, []), []
            named = place, payload["checkpoint"]["id"]
            if named not in self._passed:
                self._passed.add(named)  # what was saved again later holds
                own = [each for each in following if each.checkpoint_id == named[1]]
                return Found(place, item.offset, payload, own + self._apart.pop(named, []), is_first)
        return None

    def completed(self, found: list[Found]) -> Operation[list[Found]]:
        """Checkpoints of a page with all that was said of them, wherever that is in the log.

        Those that are there no more are left out.
        """
        unsure = [each for each in found if each.saved.is_preceded or not self._is_from_end]
        if not unsure:
            return found
        said = yield from find_said(self._context, [(each.place, each.saved.id) for each in unsure])
        completed = []
        for each in found:
            written, keyed = each.written, said.get((each.place, each.saved.id))
            if keyed is not None:
                if is_cleared(keyed) and not self._with_cleared:
                    continue
                written = [*(one for one in written if not one.is_apart), *written_in(keyed)]
            if each.is_first:
                apart = [one for one in written if one.is_apart]
                following = yield from find_following(self._context, each.place, each.saved.id, each.offset)
                written = [*apart, *following]
            completed.append(each._replace(written=written))
        return completed


def list_checkpoints(
    context: Context,
    config: RunnableConfig | None,
    wanted: Mapping[str, Any] | None,
    before: RunnableConfig | None,
    limit: int | None,
) -> Operation[None]:
    """The checkpoints that match, of one thread or of all."""
    if config is None:
        infos = yield from threads(context)
        places = [(Place(info.run_id), True) for info in infos]
    else:
        places = [(Place.of(config), config["configurable"].get("checkpoint_ns") is None)]
    left = limit
    for place, in_all in places:
        if left is not None and left <= 0:
            return
        checkpoint_id = None if config is None else checkpoint_in(config)
        if checkpoint_id is not None:
            given = yield from _list_one(context, place, checkpoint_id, wanted)
        else:
            given = yield from _list_place(context, place, wanted, before, left, in_all=in_all)
        left = None if left is None else left - given


def threads(context: Context, query: RunsQuery | None = None) -> Operation[list[RunInfo]]:
    """The threads of the store that match; all others of its runs are none of them."""
    query = query or RunsQuery()
    query = query._replace(tags={**THREAD_TAGS, **(query.tags or {})})
    return (yield from collect(context.operations.runs(query)))


def _list_one(
    context: Context, place: Place, checkpoint_id: str, wanted: Mapping[str, Any] | None
) -> Operation[int]:
    found = yield from find_checkpoint(context, place, checkpoint_id)
    if found is None or not _matches(context, found[0].saved, wanted):
        return 0
    yield Items([give(context, place, found[0].saved, found[0].channels, found[1])])
    return 1


def _list_place(
    context: Context,
    place: Place,
    wanted: Mapping[str, Any] | None,
    before: RunnableConfig | None,
    limit: int | None,
    *,
    in_all: bool,
) -> Operation[int]:
    older_than = None if before is None else checkpoint_in(before)
    whose, end = (place, None) if older_than is None else (yield from _position_of(context, place, older_than))
    log = Backward(context, place.thread_id, None if in_all else place, end)
    count, used = 0, dict[int, Mapping[str, Any]]()
    while (page := (yield from log.page(_events_for(limit, count, log.read)))) is not None:
        chosen = [each for each in page if _matches(context, each.saved, wanted)]
        if older_than is not None and end is None:  # nobody knows it here: then only its name can tell
            chosen = [each for each in chosen if each.saved.id < older_than]
        if whose != place and end is not None:
            chosen = yield from _of_earlier_steps(context, chosen, whose, end)
        if limit is not None:
            chosen = chosen[: limit - count]
        chosen = yield from log.completed(chosen)
        if limit == 1 and chosen:
            saved = chosen[0].saved  # a replay chooses so where to begin
            context.known.note_given(chosen[0].place, saved.id, saved.parent)
        at_hand = {each.offset: each.payload for each in page}
        for first in range(0, len(chosen), _TOGETHER):
            whole, used = yield from _whole(context, chosen[first : first + _TOGETHER], {**at_hand, **used})
            yield Items(whole)
        count += len(chosen)
        if count == limit:
            break
    if limit == 1 and older_than is not None and not count:
        context.known.note_given(place, "", None)  # there was nothing yet: a replay begins anew
    return count


def _events_for(limit: int | None, count: int, read: int) -> int | None:
    """How many events the checkpoints take that are still wanted, as far as those before tell; None: who knows.

    Args:
        limit: How many checkpoints are wanted in all.
        count: How many were found.
        read: How many events were read for these.
    """
    if limit is None or (read and not count):
        return None
    each = max(_EVENTS_EACH, -(-read // count)) if count else _EVENTS_EACH
    return (limit - count) * each + _EVENTS_MORE


def _whole(
    context: Context, chosen: Sequence[Found], at_hand: Mapping[int, Mapping[str, Any]]
) -> Operation[tuple[list[CheckpointTuple], dict[int, Mapping[str, Any]]]]:
    """Checkpoints with their values, which take one look at the events that are not at hand.

    Returns:
        The checkpoints, and the payloads that they are made of: those before them have many of them too.
    """
    wanted = {
        offset
        for each in chosen
        for entry in each.saved.channels.values()
        for offset in located(entry, each.offset)
    }
    further = yield from payloads_at(context, chosen[0].place, wanted.difference(at_hand))
    payloads: Mapping[int, Mapping[str, Any]] = {**at_hand, **further}
    whole = []
    for each in chosen:
        channels = yield from gather(context, each.place, each.saved, each.offset, payloads)
        context.known.note_located(each.place, each.saved.id, each.offset, each.saved.channels)
        whole.append(give(context, each.place, each.saved, channels, each.written))
    return whole, {offset: payloads[offset] for offset in wanted}


def _matches(context: Context, saved: Saved, wanted: Mapping[str, Any] | None) -> bool:
    if not wanted:
        return True
    metadata = saved.whole_metadata(context.values)
    return all(metadata.get(name) == value for name, value in wanted.items())


def _position_of(context: Context, place: Place, checkpoint_id: str) -> Operation[tuple[Place, int | None]]:
    """Where a checkpoint is, and its offset: it is of the place, or of one that this lies in; None for neither."""
    around = place.outwards()
    found = yield from context.operations.find(place.thread_id, [each.key(checkpoint_id) for each in around])
    known = [(each, offset) for each, offset in zip(around, found, strict=True) if offset is not None]
    return known[0] if known else (place, None)


def _of_earlier_steps(context: Context, found: Sequence[Found], above: Place, end: int) -> Operation[list[Found]]:
    """The checkpoints of subgraphs that were made in earlier steps of their graph.

    A graph saves in the background: what a subgraph saves in a step may come before the checkpoint of that step.

    Args:
        context: What the saver works with.
        found: The checkpoints.
        above: The place of the graph.
        end: The offset of a checkpoint of it: the steps before that are meant.
    """
    steps = [each.saved.metadata.get("parents", {}).get(above.namespace) for each in found]
    named = sorted({step for step in steps if step is not None})
    offsets = yield from context.operations.find(above.thread_id, [above.key(step) for step in named])
    later = {step for step, offset in zip(named, offsets, strict=True) if offset is None or offset >= end}
    return [each for each, step in zip(found, steps, strict=True) if step not in later]
