"""The namespace: what the drain worker and the operator's commands do in Redis, as methods.

Each operation is written once, in :mod:`~runstream.stores.redis.operations.worker` or
:mod:`~runstream.stores.redis.operations.admin`, as a function of the namespace's keys. Here each becomes a method
that runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import one_of_kind
from runstream.operations.operation import Operation
from runstream.operations.runners import SyncRunner
from runstream.stores.capabilities import part_of
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.operations import unfinished
from runstream.stores.redis.operations.admin import append_again as appending
from runstream.stores.redis.operations.admin import cursor_check, held, restore
from runstream.stores.redis.operations.admin import required_archives as archives
from runstream.stores.redis.operations.admin import run_facts as facts
from runstream.stores.redis.operations.admin import status as inspection
from runstream.stores.redis.operations.worker import (
    detached,
    drain,
    erased_facts,
    erasing,
    inherited_erasures,
    load,
    mend,
    noted_forks,
    sweep,
    tag_index,
)
from runstream.stores.redis.operations.worker import retire as retiring

__all__ = ["Namespace", "namespace_of"]

P = ParamSpec("P")
T = TypeVar("T")


def _method(
    operation: Callable[Concatenate[Keys, P], Operation[T]],
) -> Callable[Concatenate[Namespace, P], T]:
    """The method of a Namespace that runs this operation on its keys."""

    @wraps(operation)
    def run(namespace: Namespace, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return namespace.run(operation(namespace.keys, *args, **kwargs))

    return run


class Namespace:
    """A namespace in Redis, for whoever drains, checks or repairs its runs. Threads may share it.

    A RedisCheckpointer is made with one; :func:`namespace_of` gives it.

    Args:
        keys: The names of its keys.
        runner: Runs the operations; it repeats a round trip while the server is away.
        once: Runs operations too, but repeats nothing.
    """

    def __init__(self, keys: Keys, runner: SyncRunner, once: SyncRunner) -> None:
        self.keys = keys
        self._runner = runner
        self._once = once

    @property
    def once(self) -> Namespace:
        """The same namespace, of which no operation is repeated while the server is away."""
        return Namespace(self.keys, self._once, self._once)

    def run(self, operation: Operation[T]) -> T:
        """Run any operation on this namespace."""
        return self._runner.run(operation)

    # -- for the drain worker ----------------------------------------------------------------------

    enlist = _method(drain.enlist)
    check_eviction = _method(drain.check_eviction)
    claim = _method(drain.claim)
    extend = _method(drain.extend)
    release = _method(drain.release)
    load_runs = _method(load.load_runs)
    load_due = _method(load.load_due)
    load_entries = _method(load.load_entries)
    load_peaks = _method(load.load_peaks)
    settle = _method(drain.settle)
    park = _method(drain.park)
    park_unread = _method(drain.park_unread)
    take_off = _method(drain.take_off)
    sweep_page = _method(sweep.sweep_page)
    relist = _method(sweep.relist)
    give_up_left = _method(noted_forks.give_up_left)
    noted_forks = _method(noted_forks.noted_forks)
    unindexed = _method(tag_index.unindexed)
    index_again = _method(tag_index.index_again)
    set_aside_foreign_keys = _method(mend.set_aside_foreign_keys)
    once_shared = _method(detached.once_shared)
    erased_facts = _method(erased_facts.erased_facts)
    load_erasures = _method(erasing.load_erasures)
    ask_again = _method(erasing.ask_again)
    rebuild = _method(erasing.rebuild)
    erase_inherited = _method(inherited_erasures.erase_inherited)
    note_archived = _method(erasing.note_archived)
    report = _method(drain.report)
    sign_off = _method(drain.sign_off)
    find_quiet = _method(retiring.find_quiet)
    retire = _method(retiring.retire)
    forget = _method(retiring.forget)
    clear_leftovers = _method(retiring.clear_leftovers)
    is_due = _method(retiring.is_due)
    put_off = _method(retiring.put_off)

    # -- for the operator's commands ---------------------------------------------------------------

    run_ids = _method(sweep.run_ids)
    status = _method(inspection.namespace_status)
    held_runs = _method(held.held_runs)
    snapshot_lanes = _method(inspection.snapshot_lanes)
    required_archives = _method(archives.required_archives)
    archives_of_run = _method(archives.archives_of_run)
    require_archives = _method(archives.require_archives)
    drop_archive = _method(archives.drop_archive)
    make_due = _method(archives.make_due)
    first_hot = _method(load.first_hot)
    cursor_at = _method(restore.cursor_at)
    check_cursor = _method(cursor_check.check_cursor)
    key_cursors = _method(facts.key_cursors)
    run_facts = _method(facts.run_facts)
    put_entries = _method(restore.put_entries)
    put_snapshot = _method(restore.put_snapshot)
    switch_history = _method(restore.switch_history)
    append_again = _method(appending.append_again)
    unpark = _method(restore.unpark)
    adopt = _method(unfinished.adopt)


def namespace_of(store: Any) -> Namespace:
    """The namespace of a Redis store.

    Raises:
        ConfigurationError: The store is not in Redis.
    """
    namespace = part_of(store, Namespace)
    if namespace is None:
        raise ConfigurationError(
            f"{one_of_kind(store)} is not in Redis: pass a RedisCheckpointer, or what"
            " runstream.connect gives of a redis: URL"
        )
    return namespace
