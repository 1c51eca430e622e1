"""In a cluster: replicas that are promoted, that lag, and that there are none of. Under load: tests/chaos."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    DrainWorker,
    DurabilityNotReached,
    RedisCheckpointer,
    SQLiteCheckpointer,
    StoreUnavailable,
    connect,
    connect_async,
)
from tests.faults.failover.failover_tools import keep_files
from tests.support.cluster import Cluster, cluster_of
from tests.support.drain_tools import running
from tests.support.kinds import REAL
from tests.support.operations import session_of
from tests.support.samples import make_event
from tests.support.servers import DEADLINE_SECONDS, Node, eventually

pytestmark = pytest.mark.exhaustive
RUNS = [f"run{number}" for number in range(24)]
LAST = 3
"""The number of the last event of each run that is followed."""
PATIENT = "?retry_seconds=30&socket_timeout=0.5"
"""A server that hangs is given up after half a second."""


@pytest.fixture(params=REAL)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three primaries, each with a replica."""
    with cluster_of(request.param, replicas=1) as cluster:
        yield cluster


def at(cluster: Cluster, store: Any, run_id: str) -> Node:
    """The server that has a run."""
    return cluster.primary_of(session_of(store).keys.run(run_id).meta)


def kill(cluster: Cluster, node: Node) -> None:
    node.end()


def hang(cluster: Cluster, node: Node) -> None:
    """Until the test is over."""
    cluster.keep(node.stopped())


class Followers:
    """Of one run and of all runs, of both facades: what each has got."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.found: dict[str, list[tuple[str, int]]] = {}
        works = (
            self._one,
            self._all,
            lambda: asyncio.run(self._one_async()),
            lambda: asyncio.run(self._all_async()),
        )
        self.threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self.threads:
            thread.start()

    def have(self, seq: int) -> bool:
        """Whether all of them have the events of that number."""
        alone, of_all = {(RUNS[0], seq)}, {(run_id, seq) for run_id in RUNS}
        return len(self.found) == len(self.threads) and all(
            found >= (of_all if name.startswith("all") else alone) for name, found in self._sets()
        )

    def _sets(self) -> list[tuple[str, set[tuple[str, int]]]]:
        return [(name, set(found)) for name, found in tuple(self.found.items())]

    def _take(self, name: str, run_id: str, item: Any) -> bool:
        """Returns whether that was the last."""
        found = self.found.setdefault(name, [])
        found.append((run_id, item.event.seq))
        return len(found) == LAST * (len(RUNS) if name.startswith("all") else 1)

    def _one(self) -> None:
        with connect(self._url) as store:
            for item in store.follow(RUNS[0]):
                if self._take("one", RUNS[0], item):
                    return

    def _all(self) -> None:
        with connect(self._url) as store:
            for run_id, item in store.follow_runs():
                if self._take("all", run_id, item):
                    return

    async def _one_async(self) -> None:
        async with connect_async(self._url) as store:
            async for item in store.follow(RUNS[0]):
                if self._take("one async", RUNS[0], item):
                    return

    async def _all_async(self) -> None:
        async with connect_async(self._url) as store:
            async for run_id, item in store.follow_runs():
                if self._take("all async", run_id, item):
                    return


@pytest.mark.timeout(DEADLINE_SECONDS * 2)
@pytest.mark.one_in(2)
@pytest.mark.parametrize("fate", [kill, hang])
def test_calls_wait_for_the_promotion(cluster: Cluster, fate: Callable[[Cluster, Node], None]) -> None:
    """Of both facades, for one run and for many; followers go on, too, and get each event once."""

    async def write_all() -> None:
        async with connect_async(cluster.url + PATIENT) as tasks:
            former = at(cluster, tasks, RUNS[0])
            fate(cluster, former)
            await asyncio.gather(*(tasks.save_event(make_event(run_id, 2)) for run_id in RUNS))
            cluster.leave(former)

    with connect(cluster.url + PATIENT) as store:
        store.save_events([make_event(run_id, 1) for run_id in RUNS])
        followers = Followers(cluster.url + PATIENT)
        eventually(lambda: followers.have(1))
        cluster.await_replicas()
        asyncio.run(write_all())
        store.save_events([make_event(run_id, LAST) for run_id in RUNS])
        for run_id in RUNS:
            assert [event.seq for event in store.list_events(run_id)] == [1, 2, LAST]
    eventually(lambda: followers.have(2) and followers.have(LAST))
    for thread in followers.threads:
        thread.join(DEADLINE_SECONDS)
    for found in followers.found.values():
        assert len(set(found)) == len(found)
        assert [seq for run_id, seq in found if run_id == RUNS[0]] == [1, 2, LAST]


def test_a_write_waits_for_the_replicas_of_its_own_server(cluster: Cluster) -> None:
    """One that stands still holds up no other; what is written to several is as durable as the least."""
    with connect(f"{cluster.url}{PATIENT}&durability=replicated=1") as store:
        store.save_events([make_event(run_id, 1) for run_id in RUNS])
        slow = at(cluster, store, RUNS[0])
        here = [run_id for run_id in RUNS if at(cluster, store, run_id) is slow]
        elsewhere = [run_id for run_id in RUNS if run_id not in here]
        with cluster.replica_of(slow).stopped():
            store.save_events([make_event(run_id, 2) for run_id in elsewhere])
            for several in (here, RUNS):
                with pytest.raises(DurabilityNotReached) as caught:
                    store.save_events([make_event(run_id, 2 if several is here else 3) for run_id in several])
                assert caught.value.run_id in here
                assert (caught.value.offset, caught.value.reached) == (2 if several is here else 3, "primary")
        assert {len(store.list_events(run_id)) for run_id in RUNS} == {3}


@pytest.mark.parametrize("cluster", ["valkey"], indirect=True)
def test_replicas_are_waited_for_until_their_files_have_it_where_those_of_every_server_keep_some(
    cluster: Cluster,
) -> None:
    """One whose replica keeps none gives that a replica has it, and no more."""
    replicas = [cluster.replica_of(primary) for primary in cluster.primaries]
    url = f"{cluster.url}?durability=replicated=1&socket_timeout=8"
    for count in range(len(replicas) + 1):
        for replica in replicas[:count]:
            keep_files(replica)
        for primary in cluster.primaries:
            primary.raw.config_resetstat()
        with connect(url) as store:
            told = [primary.raw.info("commandstats") for primary in cluster.primaries]
            assert all("cmdstat_waitaof" in calls for calls in told), "each was asked"
            for primary in cluster.primaries:
                primary.raw.config_resetstat()
            store.save_events([make_event(run_id, count) for run_id in RUNS])
        told = [primary.raw.info("commandstats") for primary in cluster.primaries]
        assert {("cmdstat_wait" in calls) for calls in told} == {count < len(replicas)}


def test_a_cluster_that_is_not_whole_says_so(cluster: Cluster) -> None:
    with connect(f"{cluster.url}?retry_seconds=0&socket_timeout=1") as store:
        lost = at(cluster, store, RUNS[0])
        here = [run_id for run_id in RUNS if at(cluster, store, run_id) is lost]
        other = next(run_id for run_id in RUNS if run_id not in here)
        cluster.replica_of(lost).end()
        lost.end()
        eventually(cluster.is_down)

        def said(run_id: str) -> str:
            with pytest.raises(StoreUnavailable) as caught:
                store.save_event(make_event(run_id, 1))
            return str(caught.value)

        assert "the cluster is not whole" in said(other)
        assert "CLUSTER" in said(other)
        assert any(why in said(here[0]) for why in ("cannot reach the server", "not whole"))


def test_where_a_part_of_the_slots_is_served_runs_of_that_part_go_on(cluster: Cluster, tmp_path: Path) -> None:
    """What concerns runs of a server that is gone says so: of it alone, of several, of all; so does an opening."""
    for node in cluster.alive:
        node.raw.config_set("cluster-require-full-coverage", "no")
    url = f"{cluster.url}?retry_seconds=0&socket_timeout=1"
    with connect(url) as store:
        assert isinstance(store, RedisCheckpointer)
        store.save_events([make_event(run_id, 1) for run_id in RUNS])
        lost = at(cluster, store, RUNS[0])
        here = [run_id for run_id in RUNS if at(cluster, store, run_id) is lost]
        others = [run_id for run_id in RUNS if run_id not in here]
        keys = session_of(store).keys
        served = [number for number, one in keys.numbered().items() if cluster.primary_of(one.tag) is not lost]
        cluster.replica_of(lost).end()
        lost.end()
        eventually(cluster.lacks_slots)
        assert not cluster.is_down()
        store.save_events([make_event(run_id, 2) for run_id in others])
        with store.lease(others[0], owner="o") as lease:
            lease.save_event(make_event(others[0], 3))
        assert [item.offset for item in islice(store.follow(others[1]), 2)] == [1, 2]
        with (
            SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive,
            running(DrainWorker(store, [archive], partitions=served)),
        ):
            eventually(lambda: sorted(archive.list_runs()) == sorted(others))
            store.save_event(make_event(others[1], 3))
            eventually(lambda: len(archive.list_events(others[1])) == 3)
        unserved: list[Callable[[], object]] = [
            lambda: store.save_event(make_event(here[0], 2)),
            lambda: store.list_events(here[0]),
            lambda: store.save_events([make_event(run_id, 4) for run_id in RUNS]),
            store.list_runs,
            lambda: connect(url),
        ]
        for call in unserved:
            with pytest.raises(StoreUnavailable, match=r"cannot reach the server|not whole"):
                call()
        assert [event.seq for event in store.list_events(others[1])][:2] == [1, 2]
