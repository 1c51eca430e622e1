"""P6: a lease whose deadline was set by a clock that was ahead is in nobody's way."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from runstream import LeaseHeld, LeaseLost, SQLiteCheckpointer
from tests.stores.leases.lease_tools import abandoned, carrying
from tests.support.backends import RedisBackend
from tests.support.kinds import on_every_server
from tests.support.operations import operations_of, perform, session_of
from tests.support.samples import make_event

HOUR_SECONDS = 3600


class Clocked:
    """A store, and its clock as seen from the leases of run r."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def set_back(self, seconds: float) -> None:
        """Set the clock back: every deadline lies further ahead."""
        raise NotImplementedError


class ClockedRedis(Clocked):
    def __init__(self, backend: RedisBackend) -> None:
        super().__init__(backend.open())
        self._raw = backend.raw

    def set_back(self, seconds: float) -> None:
        meta = session_of(self.store).keys.run("r").meta
        for field, lease in self._raw.hgetall(meta).items():
            if field.startswith(b"lease"):
                epoch, expires, rest = lease.split(b" ", 2)
                self._raw.hset(meta, field, b"%b %d %b" % (epoch, int(expires) + int(seconds * 1e6), rest))


class ClockedFile(Clocked):
    def __init__(self, path: Path) -> None:
        super().__init__(SQLiteCheckpointer[Any, Any](path))
        self._path = path

    def set_back(self, seconds: float) -> None:
        connection = sqlite3.connect(self._path)
        with connection:
            connection.execute("UPDATE leases SET expires_at = expires_at + ?", (seconds,))
        connection.close()


def check_lease_of_the_dead(clocked: Clocked, lane_id: str | None, next_lane: str | None) -> None:
    store = clocked.store
    dead = abandoned(store, ttl=3.0, lane_id=lane_id)
    clocked.set_back(2.0)
    with pytest.raises(LeaseHeld) as held:
        store.lease("r", owner="b", lane_id=next_lane)
    assert held.value.expires_in <= 6.0
    clocked.set_back(HOUR_SECONDS)
    store.save_event(make_event("r", 1, lane_id="a"))
    with store.lease("r", owner="b", lane_id=next_lane) as lease:
        clocked.set_back(4.0)
        assert lease.epoch > dead.epoch
        with pytest.raises((LeaseLost, LeaseHeld)):
            store.append("r", [make_event("r", 2, lane_id="a")], lease=carrying(dead))
        lease.save_event(make_event("r", 3, lane_id="a"))
    assert [item.event.seq for item in store.read("r")] == [1, 3]


def check_lease_of_the_living(clocked: Clocked) -> None:
    with clocked.store.lease("r", owner="a", lane_id="a") as lease:
        clocked.set_back(HOUR_SECONDS)
        lease.save_event(make_event("r", 1, lane_id="a"))
        lease.check()
        with pytest.raises(LeaseHeld):
            clocked.store.lease("r", owner="b", lane_id="a")


LANES = pytest.mark.parametrize(("lane_id", "next_lane"), [("a", "a"), (None, None), (None, "a"), ("a", None)])


@LANES
@on_every_server
def test_a_dead_owner_s_lease_ends_though_the_server_s_clock_is_set_back(
    redis_backend: RedisBackend, lane_id: str | None, next_lane: str | None
) -> None:
    """It is held for at most twice as long as it lasts, whatever the step; its owner does not come back."""
    check_lease_of_the_dead(ClockedRedis(redis_backend), lane_id, next_lane)


@on_every_server
def test_a_living_owner_keeps_its_lease(redis_backend: RedisBackend) -> None:
    """As long as nobody has taken it: its next renewal puts its deadline right."""
    check_lease_of_the_living(ClockedRedis(redis_backend))


@on_every_server
def test_the_epoch_rises_though_the_clock_is_set_back_and_another_lane_s_lease_renewed(
    redis_backend: RedisBackend,
) -> None:
    """A renewed lease keeps its epoch, and the run the highest."""
    store: Any = redis_backend.open()
    with store.lease("r", owner="a", lane_id="a") as lease:
        meta, ahead = session_of(store).keys.run("r").meta, lease.epoch + HOUR_SECONDS * 1_000_000
        redis_backend.raw.hset(meta, "epoch", ahead)  # that of another one, before the clock was set back
        epochs = [ahead, lease.epoch]
        for lane_id in ("b", "c"):
            with store.lease("r", owner="b", lane_id=lane_id) as other:
                epochs.append(other.epoch)
            perform(store, operations_of(store).renew_lease(lease.grant))
    assert epochs == [ahead, lease.epoch, ahead + 1, ahead + 2]


@LANES
def test_a_file_s_lease_likewise(tmp_path: Path, lane_id: str | None, next_lane: str | None) -> None:
    """By the machine's clock."""
    clocked = ClockedFile(tmp_path / "a.db")
    with clocked.store:
        check_lease_of_the_dead(clocked, lane_id, next_lane)


def test_a_living_owner_keeps_its_lease_in_a_file(tmp_path: Path) -> None:
    clocked = ClockedFile(tmp_path / "a.db")
    with clocked.store:
        check_lease_of_the_living(clocked)
