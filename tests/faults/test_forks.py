"""A busy process forks: no child hangs, and nobody gets a reply to what another process sent."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from runstream import DrainWorker, SQLiteCheckpointer
from runstream.drain.metrics import DrainCollector
from runstream.operations.forks import was_held
from runstream.stores.redis.operations.admin.status import NamespaceStatus
from tests.support.backends import RedisBackend
from tests.support.exhaustive import ROUNDS
from tests.support.kinds import REAL
from tests.support.servers import Servers, eventually

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")

PLACES = ("memory", "fake", "sqlite", "jsonl", "embedded", "tiered", *REAL, *(f"client-{name}" for name in REAL))


@pytest.mark.exhaustive
@pytest.mark.one_in(16, exhaustively=3)
@pytest.mark.parametrize("how", ["threads", "tasks"])
@pytest.mark.parametrize("place", PLACES)
def test_children_of_a_busy_process_start_anew(
    servers: Servers, namespace: str, tmp_path: Path, place: str, how: str
) -> None:
    """Stores, leases and runs, sync and async: children use what their parent's threads or tasks use meanwhile."""
    is_forking(servers, namespace, tmp_path, place, how, 5)


@pytest.mark.one_in(1, exhaustively=5)
@pytest.mark.exhaustive
@pytest.mark.parametrize("how", ["threads", "tasks"])
@pytest.mark.parametrize("place", PLACES)
def test_many_children_start_anew(servers: Servers, namespace: str, tmp_path: Path, place: str, how: str) -> None:
    """The same, at many more moments."""
    is_forking(servers, namespace, tmp_path, place, how, 15 * ROUNDS)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_lock_that_a_thread_had_just_got_was_held() -> None:
    """It is not free in the child, though `locked()` would say so: the thread had not run yet to note it."""
    lock, ended = threading.Lock(), threading.Event()

    def work() -> None:
        while not ended.is_set():
            with lock:
                sum(range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                os._exit(0 if was_held(lock) or lock.acquire(timeout=0.2) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def is_forking(servers: Servers, namespace: str, tmp_path: Path, place: str, how: str, forks: int) -> None:
    name = place.removeprefix("client-")
    server = servers.get(name) if name in REAL else None
    url = {
        "memory": "memory:",
        "fake": "fake:forking",
        "sqlite": f"sqlite:{tmp_path}/runs.db",
        "jsonl": f"jsonl:{tmp_path}/runs",
    }.get(place, f"embedded:{tmp_path}/server" if server is None else f"{server.url}?namespace={namespace}")
    if server is not None and name != place:
        url = f"client:{server.socket_path}?{namespace}"
    archive = f"sqlite:{tmp_path}/archive.db" if place == "tiered" else ""
    command = [sys.executable, "-W", "ignore:.*multi-threaded.*fork:DeprecationWarning"]
    command += ["-m", "tests.support.processes.forking", how, url, archive, str(forks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    if server is not None:
        server.raw.flushall()
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_worker_in_a_forked_child_has_a_name_of_its_own_and_its_metrics(
    fake: RedisBackend, tmp_path: Path
) -> None:
    """Two of one name would take each other's reports back; a thread of the parent's answers nobody here."""
    hot, held = fake.open(), threading.Event()
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        worker, named = DrainWorker(hot, [archive]), DrainWorker(hot, [archive], name="mine")
        collector = DrainCollector(worker, hot, [archive.location])
        reader = collector._reader
        read = reader._read

        def read_later() -> NamespaceStatus:
            held.wait()
            return read()

        reader._read = read_later
        asking = threading.Thread(target=reader.latest)
        asking.start()
        eventually(lambda: reader._question is not None)
        before = worker.name
        child = os.fork()
        if child == 0:
            reader._read = read
            is_own = worker.name != before and str(os.getpid()) in worker.name and named.name == "mine"
            os._exit(0 if is_own and reader.latest() is not None else 1)
        held.set()
        asking.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert worker.name == before
