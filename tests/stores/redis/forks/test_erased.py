"""A fork that is made while something is erased of its parent, or that is truncated."""

from __future__ import annotations

import pytest

from runstream import ConfigurationError, RunHasForks
from tests.stores.redis.forks.forking_tools import Stepped, forking, make_parent
from tests.support.backends import FakeBackend
from tests.support.drain_tools import Hot, open_hot

STEPS = 7


@pytest.fixture
def hot(fake: FakeBackend) -> Hot:
    """A store with a parent."""
    store = open_hot(fake, partitions=2)
    make_parent(store)
    return store


@pytest.mark.parametrize("count", range(STEPS))
def test_a_fork_keeps_no_snapshot_of_what_is_erased_as_it_is_made(fake: FakeBackend, hot: Hot, count: int) -> None:
    """It may have read that before. Nothing is told to be erased as long as it is about to be made."""
    stepped, other = Stepped(hot, forking(hot, "p", "f")), open_hot(fake, partitions=2)
    for _ in range(count):
        stepped.step()
    (place,) = other.erase("p", [2], drop_snapshots=True).places
    was_done, has_begun = place.done, other.run_info("f") is not None
    stepped.finish()
    assert stepped.error is None
    if was_done or has_begun:
        assert other.recover("f").state is None
    assert other.erasures("p")[0].places[0].done
    assert other.recover("f").state is None
    assert [item.offset for item in other.read("f")] == [1, 3, 4, 5]


@pytest.mark.parametrize("count", range(STEPS))
def test_a_run_that_is_truncated_as_it_is_forked_is_one_or_the_other(
    fake: FakeBackend, hot: Hot, count: int
) -> None:
    """Nothing that the fork needs is gone."""
    stepped, other = Stepped(hot, forking(hot, "p", "f", 1)), open_hot(fake, partitions=2)
    for _ in range(count):
        stepped.step()
    try:
        other.truncate("p", before=4)
        is_truncated = True
    except (ConfigurationError, RunHasForks):
        is_truncated = False
    stepped.finish()
    assert isinstance(stepped.error, ConfigurationError if is_truncated else type(None))
    if not is_truncated:
        assert [item.offset for item in other.read("f")] == [1]
