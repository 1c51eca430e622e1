"""A fork: what hangs on an agent, copied as a child's memory has it, over a way to the server of its own."""

from __future__ import annotations

import copy
import copyreg
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from runstream.operations import forks
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.scripts.script import Script
from runstream.testing.simulation.world import World

__all__ = ["forked"]

T = TypeVar("T")

_LOCKS = {type(threading.Lock()): threading.Lock, type(threading.RLock()): threading.RLock}


def forked(thing: T, world: World, store: RedisCheckpointer[Any, Any], instead: Sequence[tuple[Any, Any]]) -> T:
    """Copy what a process has, and let all of it start anew that does so in a forked child.

    Args:
        thing: What uses the store, between two of its calls.
        world: Is not copied.
        store: The store.
        instead: What is not copied, and what the child has in its place.
    """
    session = store._operations.session
    memo: dict[int, Any] = {id(one): one for one in (world, world.scheduler, world.choices, session.codec)}
    memo.update((id(one), other) for one, other in instead)
    with _all_is_copied():
        child = copy.deepcopy(thing, memo)
    siblings = memo[id(session)].siblings
    copies = [memo.get(id(sibling())) for sibling in session.siblings]
    siblings[:] = [weakref.ref(one, siblings.remove) for one in copies if one is not None]
    starting = {id(one) for one in forks._anew}
    for one, other in list(memo.items()):
        if one in starting:
            forks.starts_anew(other)
            other._start_anew()
    return child


@contextmanager
def _all_is_copied() -> Iterator[None]:
    """Let also be copied what a process copies by nothing but a fork: stores, and locks, which nobody holds."""
    table = copyreg.dispatch_table
    table[RedisCheckpointer] = lambda store: (copyreg.__newobj__, (type(store),), store.__dict__)  # type: ignore[attr-defined] # as object has it
    table[Script] = lambda _: "itself"  # any string: it is the same one
    table.update((kind, lambda _, make=make: (make, ())) for kind, make in _LOCKS.items())  # type: ignore[misc] # as above
    try:
        yield
    finally:
        for kind in (RedisCheckpointer, Script, *_LOCKS):
            del table[kind]
