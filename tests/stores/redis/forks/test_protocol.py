"""A fork is made whole or not at all, and its parent stays as long as it is there, whoever dies and when."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any

import pytest

from runstream import ConfigurationError, RunHasForks
from runstream.operations.run_forks import without_forks
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker import noted_forks
from runstream.stores.redis.operations.worker.sweep import BEGINNING
from tests.stores.redis.forks.forking_tools import (
    LENGTH,
    Stepped,
    fork,
    forking,
    make_parent,
    noted_at,
)
from tests.support.backends import FakeBackend, info_of
from tests.support.drain_tools import Hot, open_hot
from tests.support.operations import operations_of, session_of
from tests.support.samples import make_event

MOST_STEPS = 7


@pytest.fixture
def hot(fake: FakeBackend) -> Hot:
    """A store with a parent."""
    store = open_hot(fake, partitions=2)
    make_parent(store)
    return store


@pytest.fixture
def intents_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noted_forks, "_INTENT_MICROSECONDS", 0)


def sweep(store: Hot) -> None:
    """A worker's sweep, all of it."""
    position = BEGINNING
    while (position := namespace_of(store).sweep_page(position).position) != BEGINNING:
        pass


def stopped(store: Hot, operation: Any, count: int) -> Stepped:
    """An operation, stopped after so many of its exchanges."""
    stepped = Stepped(store, operation)
    for _ in range(count):
        if not stepped.is_over:
            stepped.step()
    return stepped


def has_fork(store: Hot) -> bool:
    """Whether the fork is there; if it is, it is whole and its parent is there, and knows it."""
    if store.run_info("f") is None:
        return False
    assert [(item.offset, item.event.run_id) for item in store.read("f")] == [
        (offset, "f") for offset in range(1, LENGTH + 1)
    ]
    recovery = store.recover("f")
    assert (recovery.state is not None, [item.offset for item in recovery.events]) == (True, [4, 5])
    with pytest.raises(RunHasForks):
        store.delete_run("p")
    return True


@pytest.mark.one_in(2)
@pytest.mark.usefixtures("intents_are_old")
@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("count", range(MOST_STEPS))
def test_who_dies_while_forking_leaves_a_fork_or_nothing(
    fake: FakeBackend, hot: Hot, count: int, *, is_lost: bool
) -> None:
    """Once a worker has swept: before an exchange, or after it, its reply lost. Repeating it makes the fork."""
    before = fake.footprint()
    stepped = stopped(hot, forking(hot, "p", "f"), count)
    if is_lost and not stepped.is_over:
        stepped.request()
    other = open_hot(fake, partitions=2)
    sweep(other)
    sweep(other)
    if has_fork(other):
        assert noted_at(fake.raw, other) == {"f": "fork"}
    else:
        assert fake.footprint() == before
    assert fork(other, "p", "f", LENGTH).parent == ("p", LENGTH)
    assert has_fork(other)
    assert other.delete_run("f")
    assert other.delete_run("p")
    assert not [name for name in fake.key_names() if ":run:" in name or "forking" in name]


@pytest.mark.usefixtures("intents_are_old")
@pytest.mark.parametrize("count", range(MOST_STEPS))
def test_a_request_that_comes_when_its_intent_was_given_up_makes_nothing(
    fake: FakeBackend, hot: Hot, count: int
) -> None:
    """The process stands still for longer than an intent lasts: what it goes on with is refused, or begun anew."""
    stepped = stopped(hot, forking(hot, "p", "f"), count)
    other = open_hot(fake, partitions=2)
    sweep(other)
    was_there = has_fork(other)
    late = stepped.request() if not stepped.is_over else None
    sweep(other)
    if late != [b"ok"] and late != [[b"ok"]] and not was_there:
        assert not has_fork(other)
    stepped.finish()
    assert stepped.error is None
    assert has_fork(other)
    sweep(other)
    assert noted_at(fake.raw, other) == {"f": "fork"}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("age", ["young", "old"])
@pytest.mark.parametrize("count", range(MOST_STEPS))
def test_a_run_that_is_deleted_while_it_is_forked_is_deleted_or_forked(
    fake: FakeBackend, hot: Hot, monkeypatch: pytest.MonkeyPatch, count: int, age: str
) -> None:
    """Whichever comes first; never is there a fork without its parent."""
    if age == "old":
        monkeypatch.setattr(noted_forks, "_INTENT_MICROSECONDS", 0)
    stepped = stopped(hot, forking(hot, "p", "f"), count)
    other = open_hot(fake, partitions=2)
    try:
        assert other.delete_run("p")
        is_deleted = True
    except RunHasForks:
        is_deleted = False
    stepped.finish()
    assert isinstance(stepped.error, ConfigurationError if is_deleted else type(None))
    assert has_fork(open_hot(fake, partitions=2)) == (not is_deleted)


@pytest.mark.parametrize("count", range(MOST_STEPS))
def test_a_fork_that_is_made_while_those_of_its_parent_are_detached_has_all_of_it_or_is_none(
    fake: FakeBackend, hot: Hot, count: int
) -> None:
    """Who deletes the parent lets none go that is only about to be made."""
    stepped = stopped(hot, forking(hot, "p", "f"), count)
    with suppress(RunHasForks):
        open_hot(fake, partitions=2).delete_run("p", detach=True)
    stepped.finish()
    check_all_or_none(open_hot(fake, partitions=2), stepped.error)


@pytest.mark.parametrize("count", range(MOST_STEPS))
def test_a_fork_that_is_made_while_the_parent_is_being_deleted_without_any_has_all_of_it_or_is_none(
    fake: FakeBackend, hot: Hot, count: int
) -> None:
    """The other way round: between any two steps of who detaches and deletes."""
    operations, error = operations_of(hot), None
    stopped(hot, forking(hot, "p", "f"), 3)  # is about to be made
    deleting = stopped(hot, without_forks(lambda: operations.delete_run("p"), operations.detach), count)
    other = open_hot(fake, partitions=2)
    try:
        fork(other, "p", "f")
    except ConfigurationError as refused:
        error = refused
    deleting.finish()
    assert deleting.error is None
    check_all_or_none(other, error)


def check_all_or_none(store: Hot, error: Exception | None) -> None:
    """That the fork has all of its history, or was refused, and is not there."""
    assert isinstance(error, ConfigurationError if store.run_info("f") is None else type(None))
    if error is None:
        assert [item.offset for item in store.read("f")] == list(range(1, LENGTH + 1))


@pytest.mark.parametrize("age", ["young", "old"])
def test_a_fork_of_another_run_stays_one_where_one_of_its_name_was_only_about_to_be_made(
    fake: FakeBackend, hot: Hot, monkeypatch: pytest.MonkeyPatch, age: str
) -> None:
    if age == "old":
        monkeypatch.setattr(noted_forks, "_INTENT_MICROSECONDS", 0)
    stopped(hot, forking(hot, "p", "f"), 3)
    assert noted_at(fake.raw, hot) == {"f": "intent"}
    make_parent(hot, "q")
    fork(hot, "q", "f")
    with nullcontext() if age == "old" else pytest.raises(RunHasForks):
        hot.delete_run("p", detach=True)
    assert info_of(hot, "f").parent == ("q", LENGTH)


@pytest.mark.parametrize("count", range(MOST_STEPS))
def test_a_request_that_comes_once_more_when_the_fork_was_deleted_does_not_hold_its_parent(
    fake: FakeBackend, hot: Hot, count: int
) -> None:
    stepped = stopped(hot, forking(hot, "p", "f"), count)
    late = (lambda: None) if stepped.is_over else stepped.late()
    stepped.finish()
    assert hot.delete_run("f")
    late()
    assert hot.run_info("f") is None
    hot.truncate("p", before=3)
    assert hot.delete_run("p")
    assert not [name for name in fake.key_names() if ":run:" in name or "forking" in name]


@pytest.mark.parametrize("count", range(MOST_STEPS))
def test_a_run_that_is_forked_while_it_is_deleted_is_deleted_or_forked(
    fake: FakeBackend, hot: Hot, count: int
) -> None:
    """The other way round."""
    deleting = hot._operations.delete_run("p")
    stepped = stopped(hot, deleting, count)
    other = open_hot(fake, partitions=2)
    try:
        fork(other, "p", "f")
        is_forked = True
    except ConfigurationError:
        is_forked = False
    stepped.finish()
    assert isinstance(stepped.error, RunHasForks if is_forked else type(None))
    assert has_fork(open_hot(fake, partitions=2)) == is_forked


@pytest.mark.parametrize("count", range(MOST_STEPS))
def test_a_fork_that_is_deleted_in_part_does_not_hold_its_parent(fake: FakeBackend, hot: Hot, count: int) -> None:
    """Whoever deletes it dies before the parent is told."""
    fork(hot, "p", "f")
    stopped(hot, hot._operations.delete_run("f"), count)
    other = open_hot(fake, partitions=2)
    if other.run_info("f") is not None:
        assert has_fork(other)
        assert other.delete_run("f")
    assert other.delete_run("p")


def test_a_fork_whose_note_a_failover_has_lost_is_noted_again(fake: FakeBackend, hot: Hot) -> None:
    """By the sweep: its parent lies on another server, which may have lost what it was told."""
    fork(hot, "p", "f")
    fake.raw.delete(session_of(hot).keys.run("p").forks)
    sweep(hot)
    assert noted_at(fake.raw, hot) == {"f": "fork"}
    assert has_fork(hot)


def test_two_forks_of_one_name_are_one_or_the_second_is_refused(fake: FakeBackend, hot: Hot) -> None:
    """At one offset it is the same fork; at another one it is another run, and says so."""
    first = fork(hot, "p", "f", 3)
    hot.append("f", [make_event("f", 9)])
    other = open_hot(fake, partitions=2)
    assert fork(other, "p", "f", 3).created_at == first.created_at
    for at in (2, LENGTH):
        with pytest.raises(ConfigurationError, match="not this fork"):
            fork(other, "p", "f", at)
    hot.append("q", [make_event("q", 1)])
    with pytest.raises(ConfigurationError, match="not this fork"):
        fork(other, "q", "f")
    assert noted_at(fake.raw, hot, "q") == {}


def test_a_run_that_is_made_anew_while_it_is_forked_is_not_the_parent(fake: FakeBackend, hot: Hot) -> None:
    """The fork that is made is one of the run that is there by then."""
    for count in range(MOST_STEPS):
        stepped = stopped(hot, forking(hot, "p", f"f{count}", 1), count)
        other = open_hot(fake, partitions=2)
        if other.run_info(f"f{count}") is not None or noted_at(fake.raw, other):
            break
        assert other.delete_run("p")
        other.append("p", [make_event("p", 7)])
        stepped.finish()
        assert [item.event.seq for item in other.read(f"f{count}")] == [7]
        assert other.delete_run(f"f{count}")
    assert count == 2  # where the intent is noted
