"""Draw where a run comes from, and what was forked from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runstream.model.results import RunInfo
from runstream.operations.run_forks import Fork
from runstream.stores.capabilities import KnowsForks, part_of
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import Namespace

__all__ = ["ancestors_of", "branch_rows", "forks_of"]

_MOST_ANCESTORS = 50


def ancestors_of(store: RunStore[Any, Any], info: RunInfo) -> list[Fork]:
    """The runs that a run comes from, the nearest first, each with the offset at which the next parts from it."""
    found: list[Fork] = []
    seen, at = {info.run_id}, info.parent
    while at is not None and at[0] not in seen and len(found) < _MOST_ANCESTORS:
        found.append(Fork(*at))
        seen.add(at[0])
        parent = store.run_info(at[0])
        at = None if parent is None else parent.parent
    return found


def forks_of(store: RunStore[Any, Any], run_id: str) -> list[Fork]:
    """The runs that were forked from a run, as far as the store knows, in the order of the offsets."""
    holder, namespace = part_of(store, KnowsForks), part_of(store, Namespace)
    found = set() if holder is None else set(holder.forks_of(run_id))
    found |= set() if namespace is None else set(namespace.noted_forks(run_id))
    return sorted(found, key=lambda fork: (fork.at, fork.run_id))


def branch_rows(info: RunInfo, ancestors: list[Fork], forks: list[Fork]) -> Iterator[tuple[str, int | None]]:
    """The lines of the drawing: a run in each, and the offset at which it parts from the one above it."""
    at: int | None = None
    for depth, ancestor in enumerate(reversed(ancestors)):
        yield _line(depth, ancestor.run_id), at
        at = ancestor.at
    yield f"{_line(len(ancestors), info.run_id)} *", at
    for number, fork in enumerate(forks, 1):
        yield _line(len(ancestors) + 1, fork.run_id, is_last=number == len(forks)), fork.at


def _line(depth: int, run_id: str, *, is_last: bool = True) -> str:
    return f"{'   ' * (depth - 1)}{'└─ ' if is_last else '├─ '}{run_id}" if depth else run_id
