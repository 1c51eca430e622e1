"""The list of the runs of a SQLite archive, in parts: whoever wants a few need not wait for the list of all."""

from __future__ import annotations

from collections.abc import Callable

from runstream.model.results import RunInfo
from runstream.operations.arguments import RunsQuery
from runstream.operations.operation import Items, Stream, blocking

__all__ = ["listed_runs"]

_FIRST = 100


def listed_runs(find: Callable[[RunsQuery], list[RunInfo]], query: RunsQuery) -> Stream:
    """Give the first runs that match, then all others.

    One that is updated in between is among the others, if it was not among the first: none is missed, or comes
    twice.

    Args:
        find: Finds the runs that match a query, in order, as they are at one moment.
        query: Which runs.
    """
    query.check()
    left, given = query.limit, set[str]()
    if query.page is None and (left is None or left > _FIRST):
        first = yield from blocking(find, query._replace(limit=_FIRST))
        yield Items(first)
        given.update(info.run_id for info in first)
    found = yield from blocking(find, query)
    yield Items(
        [info for info in found if info.run_id not in given][: None if left is None else left - len(given)]
    )
