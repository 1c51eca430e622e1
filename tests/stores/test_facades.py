"""The public face: what is exported is there and documented, and all stores have one shape."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any, get_type_hints

import pytest
from purpose_agent.runtime import checkpoint

import runstream
from runstream import (
    AsyncRedisCheckpointer,
    AsyncRunStore,
    AsyncTieredCheckpointer,
    Checkpointer,
    InMemoryCheckpointer,
    JSONLCheckpointer,
    RedisCheckpointer,
    RunStore,
    SQLiteCheckpointer,
    TieredCheckpointer,
)
from runstream.model.protocols import KeepsTags, LooksOnce, SnapshotHistory, TellsOfLanes
from runstream.run.lease import AsyncLease, Lease
from runstream.stores.async_facade import AsyncStore

SYNC_STORES = [
    RedisCheckpointer,
    InMemoryCheckpointer,
    JSONLCheckpointer,
    SQLiteCheckpointer,
    TieredCheckpointer,
]
STORES_WITH_OPTIONS = SYNC_STORES[:-1]  # the tiered store has those of its parts
ASYNC_STORES = [AsyncRedisCheckpointer, AsyncStore, AsyncTieredCheckpointer]
COUNTS = {"event_count", "snapshot_count"}
LIFECYCLE = {"__enter__", "__exit__", "__aenter__", "__aexit__"}
ITERATORS = {"read", "follow", "follow_runs", "runs"}
OPENINGS = {"lease", "open_run"}


def methods_of(protocol: type[Any]) -> list[str]:
    """The names of a Protocol's methods, without those of a context manager."""
    return sorted(
        {
            name
            for base in protocol.__mro__
            for name, value in vars(base).items()
            if inspect.isfunction(value) and not name.startswith("_")
        }
    )


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """Name, kind and default of every parameter."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def accepts(function: Any, wanted: Any) -> bool:
    """Whether every call that ``wanted`` takes can be made of ``function`` too, with the same defaults."""
    offered = inspect.signature(function).parameters
    positional = [p.name for p in offered.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    for index, parameter in enumerate(inspect.signature(wanted).parameters.values()):
        found = offered.get(parameter.name)
        if (
            found is None
            or found.default != parameter.default
            or (parameter.kind is parameter.POSITIONAL_OR_KEYWORD and positional[index] != parameter.name)
        ):
            return False
    required = [p.name for p in offered.values() if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    return not set(required) - set(inspect.signature(wanted).parameters)


def test_the_protocols_have_the_methods_of_the_design() -> None:
    four = {"save_event", "save_snapshot", "load_latest", "list_events"}
    more = {"save_events", "append", "read", "follow", "load_snapshot", "recover", "update_state"}
    more |= {"lease", "open_run", "answer", "request_cancel", "run_info", "runs", "list_runs", "delete_run"}
    more |= {
        "diff",
        "follow_runs",
        "forget",
        "close",
        "find",
        "lanes",
        "read_at",
        "erase",
        "truncate",
        "erasures",
        "fork",
    }
    more |= {
        "ancestors",
        "archiving_health",
        "forks",
        "kept_snapshots",
    }  # what a page of runs needs, beyond the design
    assert set(methods_of(Checkpointer)) == four
    assert set(methods_of(RunStore)) == set(methods_of(AsyncRunStore)) == four | more


def test_what_redis_has_besides_is_on_both_sides() -> None:
    assert parameters(RedisCheckpointer.forget) == parameters(AsyncRedisCheckpointer.forget)
    assert inspect.iscoroutinefunction(AsyncRedisCheckpointer.forget)


@pytest.mark.parametrize("name", methods_of(RunStore))
def test_sync_and_async_differ_only_in_the_waiting(name: str) -> None:
    sync, awaited = getattr(RedisCheckpointer, name), getattr(AsyncRedisCheckpointer, name)
    assert parameters(sync) == parameters(awaited)
    assert parameters(getattr(RunStore, name)) == parameters(getattr(AsyncRunStore, name))
    sync_result, async_result = (get_return(function) for function in (sync, awaited))
    if name in ITERATORS:
        assert not inspect.iscoroutinefunction(awaited)
        assert str(sync_result).replace("Iterator", "AsyncIterator") == str(async_result)
    elif name in OPENINGS:
        assert not inspect.iscoroutinefunction(awaited)
        assert f"Opening[Async{sync_result}]" == async_result
    else:
        assert inspect.iscoroutinefunction(awaited)
        assert not inspect.iscoroutinefunction(sync)
        assert sync_result == async_result


def get_return(function: Any) -> Any:
    return inspect.signature(function).return_annotation


def test_the_constructors_of_sync_and_async_take_the_same() -> None:
    assert parameters(RedisCheckpointer) == parameters(AsyncRedisCheckpointer)


@pytest.mark.parametrize("store", STORES_WITH_OPTIONS, ids=lambda kind: kind.__name__)
def test_every_store_names_its_options(store: type[Any]) -> None:
    """A misspelt option is refused, by mypy too; and what all stores take has one default."""
    options = inspect.signature(store).parameters
    assert not [p for p in options.values() if p.kind in {p.VAR_KEYWORD, p.VAR_POSITIONAL}]
    reference = inspect.signature(SQLiteCheckpointer).parameters
    for name in ("event_type", "state_type", "fallback", "max_event_bytes"):
        assert options[name].default == reference[name].default


def test_an_option_that_there_is_not_is_refused() -> None:
    options: dict[str, Any] = {"bogus": 1}
    with pytest.raises(TypeError, match="bogus"):
        InMemoryCheckpointer(**options)


def public(kind: type[Any]) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_the_async_store_lacks_nothing_that_the_sync_one_has() -> None:
    assert public(AsyncRedisCheckpointer) - public(RedisCheckpointer) == {"open"}
    assert public(RedisCheckpointer) <= public(AsyncRedisCheckpointer)


_KINDS: tuple[type[Any], ...] = (RunStore, TellsOfLanes, LooksOnce, KeepsTags, SnapshotHistory)


@pytest.mark.parametrize("store", [*SYNC_STORES, *ASYNC_STORES], ids=lambda kind: kind.__name__)
def test_a_store_shows_a_user_what_is_for_users(store: type[Any]) -> None:
    """Whoever types a dot after a store meets methods of stores, of sinks and of kept snapshots, and no others.

    But for what purpose-agent's own store of the kind offers besides.
    """
    methods = {name for kind in _KINDS for name in methods_of(kind)}
    theirs = public(getattr(checkpoint, store.__name__, object))
    assert public(store) <= {*methods, *theirs, *COUNTS, "archive_id", "location", "check_integrity", "open"}


@pytest.mark.parametrize("store", SYNC_STORES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", methods_of(RunStore))
def test_every_sync_store_takes_what_a_run_store_takes(store: type[Any], name: str) -> None:
    method = getattr(store, name)
    assert accepts(method, getattr(RunStore, name))
    assert not inspect.iscoroutinefunction(method)
    assert inspect.getdoc(method)


@pytest.mark.parametrize("store", ASYNC_STORES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", methods_of(AsyncRunStore))
def test_every_async_store_takes_what_an_async_run_store_takes(store: type[Any], name: str) -> None:
    method = getattr(store, name)
    assert accepts(method, getattr(AsyncRunStore, name))
    assert inspect.iscoroutinefunction(method) == (name not in ITERATORS | OPENINGS)
    assert inspect.getdoc(method)


@pytest.mark.parametrize("name", methods_of(Lease))
def test_a_lease_and_an_async_one_differ_only_in_the_waiting(name: str) -> None:
    sync, awaited = getattr(Lease, name), getattr(AsyncLease, name)
    assert parameters(sync) == parameters(awaited)
    assert inspect.iscoroutinefunction(awaited)
    assert get_return(sync) == get_return(awaited)
    assert public(Lease) == public(AsyncLease)


@pytest.mark.parametrize("name", sorted({"save_snapshot", *methods_of(RunStore)}))
def test_all_sync_stores_are_called_alike(name: str) -> None:
    """Beyond the Protocol too: a lane's snapshot, for one, is saved the same way in each."""
    first, *others = (parameters(getattr(store, name)) for store in SYNC_STORES)
    assert all(other == first for other in others)


@pytest.mark.parametrize("store", [*SYNC_STORES, *ASYNC_STORES], ids=lambda kind: kind.__name__)
def test_every_store_is_a_context_manager(store: type[Any]) -> None:
    enters = "__aenter__" if store in ASYNC_STORES else "__enter__"
    leaves = "__aexit__" if store in ASYNC_STORES else "__exit__"
    assert callable(getattr(store, enters))
    assert callable(getattr(store, leaves))


def test_a_store_is_known_by_its_protocol() -> None:
    with InMemoryCheckpointer[Any, Any]() as store:
        assert isinstance(store, Checkpointer)
        assert isinstance(store, RunStore)
    assert not isinstance(object(), Checkpointer)


@pytest.mark.parametrize("name", runstream.__all__)
def test_what_is_exported_is_there_and_documented(name: str) -> None:
    exported = getattr(runstream, name)
    assert name == "TERMINAL_KINDS" or inspect.getdoc(exported)
    if inspect.isclass(exported):
        assert exported.__doc__, "a docstring of its own, not of a base class"
        assert exported.__doc__.strip() != f"{name}()"
        for method, value in vars(exported).items():
            if inspect.isfunction(value) and not method.startswith("_") and exported is not AsyncRunStore:
                assert inspect.getdoc(value), method


def test_the_list_of_exports_is_sorted_and_without_doubles() -> None:
    assert len(set(runstream.__all__)) == len(runstream.__all__)
    assert set(runstream.__all__) <= set(dir(runstream))


def test_iterators_are_iterators() -> None:
    for name in ITERATORS:
        assert "AsyncIterator" in str(get_return(getattr(AsyncRunStore, name)))
    assert get_type_hints(RunStore.list_runs)["return"] == list[str]
    with InMemoryCheckpointer[Any, Any]() as store:
        assert isinstance(store.read("r"), Iterator)
        assert not isinstance(store.runs(), AsyncIterator)
