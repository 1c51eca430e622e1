"""Streams of what a blocking iterator gives, page by page."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from runstream.operations.operation import Items, Stream, blocking

__all__ = ["in_pages", "in_steps"]

_MOST_ITEMS = 500
_GROWTH = 8
_PAGE_SECONDS = 0.001


def in_pages(items: Iterator[Any], most: int = _MOST_ITEMS) -> Stream:
    """Make an iterator that blocks a stream, which takes little more of it at a time than its reader needs.

    The first page has one item, so that the reader has it at once. Pages then grow, as under asyncio each costs a
    change of threads; but one that takes a millisecond to read ends there, so that large items do not pile up.

    Args:
        items: The iterator; only the stream advances it.
        most: The largest number of items in a page.
    """
    size, is_over = 1, False
    while not is_over:
        page, is_over, error = yield from blocking(_next_page, items, size)
        if page:
            yield Items(page)
        if error is not None:
            raise error
        size = min(most, size * _GROWTH)


def _next_page(items: Iterator[Any], size: int) -> tuple[list[Any], bool, Exception | None]:
    """Take the next items. Returns them, whether there are no more, and the error that came after them."""
    page: list[Any] = []
    until = time.monotonic() + _PAGE_SECONDS
    try:
        for item in items:
            page.append(item)
            if len(page) == size or time.monotonic() > until:
                return page, False, None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised once those have been given
        return page, True, error
    return page, True, None


def in_steps(lists: Iterator[Sequence[Any]]) -> Stream:
    """Make an iterator that blocks a stream of the lists that it gives.

    Args:
        lists: The iterator; only the stream advances it. What has nothing is passed over.
    """
    while (found := (yield from blocking(next, lists, None))) is not None:
        if found:
            yield Items(found)
