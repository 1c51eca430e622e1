"""Behind sentinels: whatever becomes of a primary under load, losses are seen, and nothing is there twice."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    AcknowledgedWritesLost,
    ConfigurationError,
    DrainWorker,
    HistoryDiverged,
    SQLiteCheckpointer,
    StoreUnavailable,
    connect,
    connect_async,
)
from runstream.stores.redis.namespace import namespace_of
from tests.support.kinds import REAL
from tests.support.samples import make_event
from tests.support.sentinels import Watched, watched
from tests.support.servers import Node, eventually, tcp_server

LOSSES = (AcknowledgedWritesLost, HistoryDiverged)
PATIENT = "&partitions=1&retry_seconds=20&socket_timeout=1"
"""A server that hangs is given up after a second."""


@pytest.fixture(params=REAL)
def sentinels(request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watched(request.param) as found:
        yield found


class Writer:
    """Appends to run r all the while; knows what it was told of, as long as it is not told that it is lost."""

    def __init__(self, url: str) -> None:
        self.acknowledged: list[str] = []
        self.count = 0
        """How often it was told of something new, or of a loss."""
        self.found: list[str] | None = None
        """What its own store finds in the run when all is over."""
        self._url, self._stop = url, threading.Event()

    def work(self) -> None:
        with connect(self._url) as store:
            while not self._stop.is_set():
                with self._told_of_losses(store):
                    self._go_on(store)
            while self.found is None:
                with self._told_of_losses(store):
                    self.found = [event.span_id for event in store.list_events("r")]

    def _go_on(self, store: Any) -> None:
        event = make_event("r", self.count + 1)
        store.append("r", [event], keys=[event.span_id])
        self._take(event.span_id)

    def _take(self, span_id: str) -> None:
        self.acknowledged.append(span_id)
        self.count += 1

    @contextmanager
    def _told_of_losses(self, store: Any) -> Iterator[None]:
        """A loss is that of what is missing when it is told, and excuses no other one."""
        try:
            yield
        except LOSSES:
            self.count += 1
            store.forget("r")
            with self._told_of_losses(store):
                there = {event.span_id for event in store.list_events("r")}
                self.acknowledged = [span_id for span_id in self.acknowledged if span_id in there]

    def stop(self) -> None:
        self._stop.set()


class Follower(Writer):
    """Reads run r as it comes, from where it was."""

    _last = 0

    def _go_on(self, store: Any) -> None:
        try:
            for item in store.follow("r", after=self._last, idle_timeout=0.2):
                assert item.offset == self._last + 1
                self._last = item.offset
                self._take(item.event.span_id)
                if self._stop.is_set():
                    break
        except LOSSES:
            self._last = 0
            self.acknowledged.clear()  # it begins once more, as another one
            raise
        except TimeoutError:
            pass


class Archivist(Writer):
    """A worker."""

    def __init__(self, url: str, archive: str) -> None:
        super().__init__(url)
        self._archive = archive

    def work(self) -> None:
        with connect(self._url) as store, connect(self._archive) as archive:
            assert isinstance(archive, SQLiteCheckpointer)
            worker = DrainWorker(store, [archive], trim="never", claim_seconds=2)
            while not self._stop.is_set():
                worker.drain_once()


@contextmanager
def at_work(*workers: Writer) -> Iterator[list[Exception]]:
    failures: list[Exception] = []

    def work(one: Writer) -> None:
        try:
            one.work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test fails of it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(one,), daemon=True) for one in workers]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        for one in workers:
            one.stop()
        for thread in threads:
            thread.join(40)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


def kill(sentinels: Watched, primary: Node, stack: ExitStack) -> None:
    primary.end()


def hang(sentinels: Watched, primary: Node, stack: ExitStack) -> None:
    stack.enter_context(primary.stopped())


def cut_off(sentinels: Watched, primary: Node, stack: ExitStack) -> None:
    stack.enter_context(sentinels.cut_off(primary))


@pytest.mark.timeout(120)
@pytest.mark.one_in(9, exhaustively=3)
@pytest.mark.parametrize("fate", [kill, hang, cut_off])
def test_a_failover_under_load_loses_nothing_unseen(
    sentinels: Watched, tmp_path: Path, fate: Callable[[Watched, Node, ExitStack], None]
) -> None:
    """Of writers, a follower and a worker each is told of the loss of what it had seen; the others go on."""
    url = sentinels.url + PATIENT
    archive = f"sqlite:{tmp_path}/archive.db"
    writers, follower = [Writer(url), Writer(url)], Follower(url)
    with at_work(*writers, follower, Archivist(url, archive)) as failures:
        eventually(lambda: failures or all(one.count > 50 for one in (*writers, follower)))
        former = sentinels.primary
        with ExitStack() as stack:
            fate(sentinels, former, stack)
            sentinels.await_another(former)
        if fate is not kill:
            eventually(lambda: former.raw.info("replication")["role"] == "slave")
        counts = [one.count for one in writers]
        eventually(
            lambda: failures or all(one.count > count + 20 for one, count in zip(writers, counts, strict=True))
        )
    with connect(url) as store, connect(archive) as archived:
        spans = [event.span_id for event in store.list_events("r")]
        assert len(set(spans)) == len(spans)
        for one in (*writers, follower):
            assert one.found is not None
            lost = set(one.acknowledged) - set(one.found)
            assert not lost, "what it had seen is lost, and it was not told"
        assert isinstance(archived, SQLiteCheckpointer)
        worker = DrainWorker(store, [archived], trim="never", claim_seconds=2)

        def is_settled() -> bool:
            """The archive has the same history, or it is said that it has another one."""
            worker.drain_once()  # the claim of one that was cut off may be in force still
            is_parked = "r" in namespace_of(store).status().parked
            return is_parked or [event.span_id for event in archived.list_events("r")] == spans

        eventually(is_settled)


@pytest.mark.one_in(3, exhaustively=3)
def test_tasks_find_the_primary_too(sentinels: Watched) -> None:
    async def write() -> None:
        async with connect_async(sentinels.url + PATIENT) as store:
            await store.save_event(make_event("r", 1))
            former = sentinels.primary
            with former.stopped():
                await store.save_event(make_event("r", 2))
                assert sentinels.primary is not former
            assert [event.seq for event in await store.list_events("r")] == [1, 2]

    asyncio.run(write())


@pytest.mark.parametrize(
    "url", ["redis+sentinel://", "redis+sentinel://host", "redis+sentinel:///name", "redis+sentinel://host:x/name"]
)
def test_what_names_no_sentinel_or_no_primary_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis\\+sentinel://host:26379,host:26379/mymaster"):
        connect(url)


def test_where_no_sentinel_answers_it_is_said() -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="mymaster") as caught:
        connect("redis+sentinel://:secret@127.0.0.1:1,127.0.0.1:2/mymaster?retry_seconds=0")
    assert "secret" not in str(caught.value)
    assert time.monotonic() - began < 10


async def _open_async(url: str) -> None:
    async with connect_async(url):
        pass


@pytest.mark.parametrize("opens", [connect, lambda url: asyncio.run(_open_async(url))], ids=["sync", "async"])
def test_sentinels_that_refuse_or_know_nothing_say_so(opens: Callable[[str], object]) -> None:
    """A password that is wrong, and what is no sentinel, are not taken for a failover."""
    with tcp_server("hunter2") as port:
        for password, said in (("hunter3", "refused the user name or password"), ("hunter2", "SENTINEL")):
            with pytest.raises(ConfigurationError, match=said):
                opens(f"redis+sentinel://127.0.0.1:{port}/mymaster?retry_seconds=0&sentinel_password={password}")
