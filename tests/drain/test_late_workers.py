"""P9 and P4: a worker that was stopped for long and comes back when the world has gone on does no harm.

The worker is a process of its own, stopped by SIGSTOP where a test wants it: before it writes, after that, or
between its proof and settling. Meanwhile the primary fails over to its replica, runs are written to, drained by
others, deleted and made anew. When it goes on, it finds the promoted server at the same address.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from runstream import DrainWorker, JSONLCheckpointer, PAEvent, RedisCheckpointer, SQLiteCheckpointer, connect
from runstream.drain import Trim
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.admin.status import NamespaceStatus
from tests.support.archive_check import Archive, check_archives, check_drained
from tests.support.processes.child import Child
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import PROGRAMS, Pair, eventually, needs_server, primary_and_replica

pytestmark = needs_server

Hot = RedisCheckpointer[Any, Any]

MARK, KEPT, LOST = 4, 10, 15
"""Offsets: what was settled long before, what the replica has, what the primary has that is lost."""


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What is closed when the test is over."""
    with ExitStack() as opened:
        yield opened


class Scene:
    """A pair of servers with a run ``r``, its archives, and a worker that stands still in another process."""

    def __init__(self, program: str, directory: Path, opened: ExitStack) -> None:
        self._opened = opened
        self.trim: Trim = "archived"
        """What all workers trim."""
        self.pair: Pair = opened.enter_context(primary_and_replica(program))
        self.archives: list[Archive] = [
            opened.enter_context(JSONLCheckpointer(directory / "archive")),
            opened.enter_context(SQLiteCheckpointer(directory / "archive.db")),
        ]
        self.hot = self.open_hot()
        self.events = make_events("r", KEPT)
        self.hot.save_events(self.events[:MARK])
        self.hot.save_snapshot("r", make_state("r", purpose="old"))
        self.drain()
        self.hot.save_events(self.events[MARK:])
        self.pair.replicate()

    def open_hot(self) -> Hot:
        """Another process, for all that it knows."""
        store = self._opened.enter_context(connect(self.pair.url, partitions=1))
        assert isinstance(store, RedisCheckpointer)
        return store

    def write(self, count: int, *, name: str = "new") -> list[PAEvent]:
        """Append to the run, as somebody who knows nothing of what was lost, and save a snapshot."""
        events = [make_event("r", seq, span_id=f"{name}-{seq}") for seq in range(1, count + 1)]
        hot = self.open_hot()
        if events:
            hot.save_events(events)
            hot.save_snapshot("r", make_state("r", purpose=name))
        return events

    def stop_worker_at(self, moment: str) -> Child:
        """A worker that has claimed the run, stopped at this moment."""
        worker = Child(
            "drain",
            url=f"{self.pair.url}?partitions=1",
            archives=[archive.location for archive in self.archives],
            moment=moment,
            trim=self.trim,
            claim_seconds=0.1,
        )
        self._opened.enter_context(worker)
        assert worker.hear() == moment
        worker.stop()
        return worker

    def let_go_on(self, worker: Child) -> dict[str, int]:
        """Let it go on where it stood; gives its report when it has ended well."""
        worker.go_on()
        worker.tell("go on")
        report: dict[str, int] = json.loads(worker.hear())
        worker.end()
        return report

    def drain(self) -> None:
        """Another worker drains until nothing is due; parked runs are left."""
        worker = DrainWorker(self.open_hot(), self.archives, trim=self.trim)

        def is_drained() -> bool:
            worker.drain_once()
            status = self.status()
            return status.due == 0 and status.later == len(status.parked)

        eventually(is_drained)

    def status(self) -> NamespaceStatus:
        return namespace_of(self.hot).status()

    def picture(self) -> list[Any]:
        """All that the primary has of the run: entries, mark, snapshots."""
        keys, raw = namespace_of(self.hot).keys.run("r"), self.pair.primary.raw
        return [raw.xrange(keys.events), raw.hgetall(keys.meta), raw.hgetall(keys.snapshot(None))]


@pytest.fixture(params=PROGRAMS)
def scene(request: pytest.FixtureRequest, tmp_path: Path, opened: ExitStack) -> Scene:
    """On every server that there is."""
    return Scene(request.param, tmp_path, opened)


@pytest.fixture
def one_scene(tmp_path: Path, opened: ExitStack) -> Scene:
    """On one of them."""
    return Scene(next(iter(PROGRAMS)), tmp_path, opened)


@pytest.mark.one_in(6)
@pytest.mark.parametrize("anew", [0, 2, 5, 12])
def test_what_was_proven_of_a_history_that_was_lost_settles_nothing(scene: Scene, anew: int) -> None:
    """The failover lost what it had archived, and others have filled the offsets again: fewer, as many, more."""
    scene.pair.cut()
    lost = scene.write(LOST - KEPT, name="lost")
    worker = scene.stop_worker_at("proven")
    scene.pair.promote()
    scene.write(anew)
    before = scene.picture()
    report = scene.let_go_on(worker)
    assert scene.picture() == before
    assert (report["trimmed"], report["events"], report["parked"]) == (0, 0, 1)
    assert "lost" in scene.status().parked["r"]
    check_archives(scene.archives, {"r": scene.events + lost})  # it is kept, whatever becomes of it


@pytest.mark.one_in(6)
@pytest.mark.parametrize("anew", [2, 12])
@pytest.mark.parametrize("moment", ["write", "written", "proven"])
def test_nor_if_another_worker_has_gone_on_meanwhile(one_scene: Scene, moment: str, anew: int) -> None:
    """Where the archives had nothing of what was lost, that one has archived the new; else the run is parked."""
    scene = one_scene
    scene.pair.cut()
    lost = scene.write(LOST - KEPT, name="lost")
    worker = scene.stop_worker_at(moment)
    scene.pair.promote()
    new = scene.write(anew)
    scene.drain()
    assert bool(scene.status().parked) == (moment != "write")
    before = scene.picture()
    report = scene.let_go_on(worker)
    assert scene.picture() == before
    assert (report["trimmed"], report["events"]) == (0, 0)
    check_archives(scene.archives, {"r": scene.events + (new if moment == "write" else lost)})
    if moment == "write":  # nothing of the lost history has come into the archives, the snapshot neither
        assert report["parked"] == 0
        check_drained(scene.hot, scene.archives)


@pytest.mark.one_in(6)
@pytest.mark.parametrize("anew", [3, 2 * LOST])
@pytest.mark.parametrize("with_failover", [True, False])
@pytest.mark.parametrize("moment", ["write", "proven"])
def test_a_run_that_was_made_anew_is_not_touched(
    one_scene: Scene, anew: int, with_failover: bool, moment: str
) -> None:
    """Deleted and written again under the same name, on the same server or on the promoted one."""
    scene = one_scene
    worker = scene.stop_worker_at(moment)
    if with_failover:
        scene.pair.promote()
    assert scene.open_hot().delete_run("r")
    scene.write(anew)
    before = scene.picture()
    report = scene.let_go_on(worker)
    assert scene.picture() == before
    assert (report["trimmed"], report["events"], report["parked"]) == (0, 0, 0)
    assert scene.status().parked == {}
    check_archives(scene.archives, {"r": scene.events})


@pytest.mark.one_in(6)
@pytest.mark.parametrize(
    ("moment", "with_failover"), [("write", True), ("written", False), ("proven", True), ("proven", False)]
)
@pytest.mark.parametrize("trim", ["archived", "never"])
def test_what_others_have_settled_further_stays(
    one_scene: Scene, moment: str, with_failover: bool, trim: Trim
) -> None:
    """Another worker has archived all that this one had, and more; then more came, which is not settled yet."""
    scene = one_scene
    scene.trim = trim
    worker = scene.stop_worker_at(moment)
    further = scene.write(5, name="further")
    scene.drain()
    if with_failover:
        scene.pair.replicate()
        scene.pair.promote()
    latest = scene.write(3, name="latest")
    before = scene.picture()
    assert scene.let_go_on(worker)["trimmed"] == 0
    assert scene.picture() == before
    assert scene.status().parked == {}
    scene.drain()
    check_archives(scene.archives, {"r": [*scene.events, *further, *latest]})
    check_drained(scene.hot, scene.archives)


@pytest.mark.one_in(6)
@pytest.mark.parametrize("moment", ["write", "written", "proven"])
def test_a_failover_that_lost_nothing_lets_it_settle_what_it_has_proven(scene: Scene, moment: str) -> None:
    """And nothing of what came after: that stays, and the run stays due."""
    worker = scene.stop_worker_at(moment)
    scene.pair.promote()
    new = scene.write(5)
    report = scene.let_go_on(worker)
    assert (report["events"], report["trimmed"], report["parked"]) == (KEPT - MARK, KEPT - MARK, 0)
    info = scene.hot.run_info("r")
    assert info is not None
    assert (info.archived_offset, info.first_hot, info.last_offset) == (KEPT, KEPT + 1, KEPT + 5)
    scene.drain()
    check_archives(scene.archives, {"r": scene.events + new})
    check_drained(scene.hot, scene.archives)
