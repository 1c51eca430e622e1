"""P8 and P9 under real kills: workers, writers and Redis itself, and the process that holds SQLite.

``RUNSTREAM_TEST_ROUNDS=7`` plays every game that often: more than 100 kills; a run of the suite, once. Each game
prints its seed and its kills; ``RUNSTREAM_TEST_SEED`` gives the seed. It settles what is done to whom, not when
exactly that strikes.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from runstream import DrainWorker, JSONLCheckpointer, PAEvent, RedisCheckpointer, SQLiteCheckpointer, connect
from runstream.cli.support.exit_codes import ExitCode
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from runstream.stores.redis.namespace import namespace_of
from tests.support.archive_check import Archive, check_archives, check_drained
from tests.support.exhaustive import ROUNDS
from tests.support.processes.child import Child, Command
from tests.support.processes.players import Score, Turn
from tests.support.samples import make_event, make_state
from tests.support.servers import DEADLINE_SECONDS, PROGRAMS, Server, Servers, eventually, needs_valkey

pytestmark = needs_valkey

SEED = int(os.environ.get("RUNSTREAM_TEST_SEED") or time.time_ns() % 2**32)
KILLS = 5  # of each game; there are three in a round
WRITERS = 3
RUNS = [f"run-{number}" for number in range(5)]
CLAIM_SECONDS = 0.6
TRIM = {2: "archived", 1: "covered", 4: "covered"}
"""What the workers trim, by how many they are."""


def store_at(url: str) -> RedisCheckpointer[Any, Any]:
    store = connect(url)
    assert isinstance(store, RedisCheckpointer)
    return store


class Game:
    """A server, writers and workers that are killed, stopped and started again, as chance wills."""

    def __init__(self, directory: Path, dice: random.Random, workers: int, stack: ExitStack) -> None:
        self.kills: Counter[str] = Counter()
        self._directory = directory
        self._dice = dice
        self._trim = TRIM[workers]
        self._stack = stack
        self._server = stack.enter_context(EmbeddedServer(directory / "redis", program=PROGRAMS["valkey"]))
        self.url = f"unix://{self._server.socket_path}"
        self.archives = [f"sqlite:{directory / 'archive.db'}", f"jsonl:{directory / 'archive'}"]
        self._started = 0
        self._stopped: dict[int, float] = {}  # the number of a worker that is stopped, and when it goes on
        self.scores = {f"w{number}": Score(directory / f"w{number}.score") for number in range(WRITERS)}
        self._writers = {name: self._start_writer(name) for name in self.scores}
        self._workers = [self._start_worker() for _ in range(workers)]

    # -- the players

    def _url_of_one(self) -> str:
        """For one who waits within the store until the server is back, or who sees StoreUnavailable at once."""
        return f"{self.url}?retry_seconds={self._dice.choice(['0', '0.05', '10'])}"

    def _start_writer(self, name: str) -> Child:
        child = Child(
            "play",
            url=self._url_of_one(),
            name=name,
            run_ids=RUNS,
            seed=self._dice.getrandbits(32),
            score=str(self._directory / f"{name}.score"),
        )
        self._stack.enter_context(child)
        assert child.hear() == "ready"
        child.tell("go")
        return child

    def _start_worker(self) -> Command:
        self._started += 1
        options = ["drain", "--url", self._url_of_one(), "--end-with-parent", "--claim", str(CLAIM_SECONDS)]
        options += ["--log-level", "debug"]
        options += ["--batch", str(self._dice.choice([50, 200, 1000])), "--trim", self._trim]
        targets = [part for archive in self._dice.sample(self.archives, 2) for part in ("--to", archive)]
        worker = Command("drain", *options, *targets, log=self._directory / f"{self._started}.log")
        self._stack.enter_context(worker)
        return worker

    # -- chance

    def play(self, kills: int) -> None:
        """Let chance do its worst until so many were killed, each kind of them once at least."""
        acts = [self._kill_worker, self._kill_worker_as_it_writes, self._kill_server, self._kill_writer]
        plan = [*acts, *self._dice.choices(acts, (2, 3, 2, 1), k=kills - len(acts))]
        self._dice.shuffle(plan)
        for act in plan:
            for _ in range(self._dice.choice([0, 0, 1, 2])):
                self._tend(self._dice.uniform(0.05, 0.3))
                self._stop_worker()
            self._tend(self._dice.uniform(0.05, 0.5))
            act()

    def _tend(self, seconds: float = 0.0) -> None:
        """For so long, let those go on that were stopped long enough, and start those again that gave up."""
        until = time.monotonic() + seconds
        while True:
            for number, at in list(self._stopped.items()):
                if time.monotonic() >= at:
                    self._go_on(number)
            for number, worker in enumerate(self._workers):
                if (code := worker.process.poll()) is not None:
                    said = worker.log.read_text()
                    assert code == ExitCode.UNAVAILABLE, f"a worker ended with {code}: {said}"
                    assert not _has_begun(worker), (
                        f"only one that starts while the server is down gives up: {said}"
                    )
                    self._workers[number] = self._start_worker()
            if time.monotonic() >= until:
                return
            time.sleep(0.005)

    def _choose_worker(self) -> int:
        """One that is at work, or stopped in its work."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            self._tend()
            at_work = [n for n, worker in enumerate(self._workers) if b"settled" in worker.log.read_bytes()]
            if at_work:
                return self._dice.choice(at_work)
            assert time.monotonic() < deadline, "\n".join(self._log_of_all())
            time.sleep(0.005)

    def _kill_worker(self) -> None:
        number = self._choose_worker()
        what = "stopped worker" if self._stopped.pop(number, None) else "worker"
        self._workers[number].kill()
        self.kills[what] += 1
        self._workers[number] = self._start_worker()

    def _kill_worker_as_it_writes(self) -> None:
        """Aim: shortly after the SQLite file's log has grown."""
        log = self._directory / "archive.db-wal"
        number = self._choose_worker()
        before, until = _changed_at(log), time.monotonic() + 1
        while _changed_at(log) == before and time.monotonic() < until:
            pass
        until = time.monotonic() + self._dice.choice([0, 0.001, 0.005, 0.02])
        while time.monotonic() < until:
            pass
        self._stopped.pop(number, None)
        self._workers[number].kill()
        self.kills["worker as it writes"] += 1
        self._workers[number] = self._start_worker()

    def _stop_worker(self) -> None:
        number = self._choose_worker()
        if number not in self._stopped:
            self._workers[number].stop()
            self._stopped[number] = time.monotonic() + self._dice.uniform(0.1, 3 * CLAIM_SECONDS)

    def _go_on(self, number: int) -> None:
        del self._stopped[number]
        self._workers[number].go_on()

    def _kill_server(self) -> None:
        pid = self._server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        self.kills["Redis"] += 1
        eventually(lambda: self._server.pid is None)
        time.sleep(self._dice.choice([0, 0.05, 0.2]))  # a while in which it is not there
        self._server.open()

    def _kill_writer(self) -> None:
        name = self._dice.choice(list(self._writers))
        self._writers[name].kill()
        self.kills["writer"] += 1
        self._writers[name] = self._start_writer(name)

    # -- the end

    def finish(self) -> None:
        """Let the writers come to an end and the workers drain what is left; then they end well."""
        for writer in self._writers.values():
            writer.tell("enough")
            writer.end()
        for number in list(self._stopped):
            self._go_on(number)
        with store_at(self.url) as hot:
            archived, deadline = -1, 0.0
            while not self._is_drained(hot):
                before, archived = archived, sum(info.archived_offset for info in hot.runs())
                if archived != before:  # slow is no fault
                    deadline = time.monotonic() + DEADLINE_SECONDS
                assert time.monotonic() < deadline, "\n".join(self._log_of_all())
                self._tend(0.05)
        for worker in self._workers:
            if _has_begun(worker):  # else it has nothing to finish
                worker.end()

    @staticmethod
    def _is_drained(hot: RedisCheckpointer[Any, Any]) -> bool:
        status = namespace_of(hot).status()
        assert not status.parked, status.parked
        return status.due == status.later == 0

    def _log_of_all(self) -> Iterator[str]:
        for worker in self._workers:
            yield f"{worker.log}: {worker.log.read_text()[-2000:]}"


def _has_begun(worker: Command) -> bool:
    return b" begins" in worker.log.read_bytes()


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # between the last who closes it and the next who opens it
        return 0


@pytest.mark.one_in(3)
@pytest.mark.timeout(300)  # on a machine that is busy with other things
@pytest.mark.parametrize("workers", TRIM)
@pytest.mark.parametrize("game", range(ROUNDS))
def test_whatever_is_killed_the_archives_hold_everything_once(
    workers: int, game: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Workers, writers and Redis are killed and stopped; what was acknowledged is archived once and in order."""
    seed = SEED + 1000 * workers + game
    with ExitStack() as stack:
        played = Game(tmp_path, random.Random(seed), workers, stack)
        try:
            played.play(KILLS)
            played.finish()
            turns = [turn for score in played.scores.values() for turn in score.turns()]
            archives = [open_archive(stack, target) for target in played.archives]
            check(archives, turns)
            with store_at(played.url) as hot:
                check_drained(hot, archives)
                check_trimmed(hot, TRIM[workers])
        finally:
            with capsys.disabled():
                kills = ", ".join(f"{count} {what}" for what, count in sorted(played.kills.items()))
                print(f"\n{workers} workers, seed {SEED}: {played.kills.total()} kills ({kills})", end=" ")


def open_archive(stack: ExitStack, target: str) -> Archive:
    archive = stack.enter_context(connect(target))
    assert isinstance(archive, SQLiteCheckpointer | JSONLCheckpointer)
    return archive


def check(archives: Sequence[Archive], turns: Sequence[Turn]) -> None:
    """Each archive has what the writers were told: events, where they lie, and each lane's latest snapshot."""
    events, unanswered = events_of(turns)
    check_archives(archives, events, unanswered=unanswered)
    assert sum(map(len, events.values())) > 100
    for archive in archives:
        for run_id in RUNS:
            offsets = {item.event.span_id: item.offset for item in archive.read(run_id)}
            for turn in turns:
                if turn.run_id == run_id and turn.offset is not None:
                    told = range(turn.offset, turn.offset + len(turn.kinds))
                    assert [offsets[event.span_id] for event in turn.events()] == list(told)
        for (run_id, lane_id), possible in snapshots_of(turns).items():
            found = archive.load_snapshot(run_id, lane_id=lane_id)
            assert (None if found is None else found.state.purpose) in possible, (run_id, lane_id)
    with closing(sqlite3.connect(archives[0].location.removeprefix("sqlite:"))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def events_of(turns: Iterable[Turn]) -> tuple[dict[str, list[PAEvent]], list[set[str]]]:
    """The events of each run that were sent and not refused; the batches among them that got no reply."""
    events: dict[str, list[PAEvent]] = {}
    unanswered = []
    for turn in turns:
        if turn.outcome != "refused":
            events.setdefault(turn.run_id, []).extend(turn.events())
        if not turn.outcome:
            unanswered.append({event.span_id for event in turn.events()})
    return events, unanswered


def snapshots_of(turns: Iterable[Turn]) -> dict[tuple[str, str], set[str | None]]:
    """Which snapshot each lane of each run may have: the last that was told, or a later one that got no reply."""
    possible: dict[tuple[str, str], set[str | None]] = {}
    for turn in turns:
        if turn.snapshot and turn.outcome == "told":
            possible[turn.run_id, turn.snapshot] = {turn.name}
        elif turn.snapshot and not turn.outcome:
            possible.setdefault((turn.run_id, turn.snapshot), {None}).add(turn.name)
    return possible


def check_trimmed(hot: RedisCheckpointer[Any, Any], trim: str) -> None:
    """There was something to lose: entries have left Redis."""
    infos = list(hot.runs())
    left = sum(info.first_hot - 1 for info in infos)
    assert left == sum(info.last_offset for info in infos) if trim == "archived" else left > 0


# -- SQLite's process, in mid-transaction --------------------------------------------------------------


@pytest.fixture
def server(servers: Servers) -> Server:
    return servers.get("valkey")


@pytest.fixture
def url(server: Server, namespace: str) -> Iterator[str]:
    """Where the processes meet; what they leave is removed."""
    yield f"{server.url}?namespace={namespace}"
    if left := list(server.raw.scan_iter(f"{{{namespace}*", count=1000)):
        server.raw.delete(*left)


@pytest.mark.one_in(6)
@pytest.mark.parametrize(
    ("moment", "is_committed"),
    [
        ("BEGIN IMMEDIATE", False),
        ("INSERT INTO events", False),
        ("INSERT INTO runs", False),
        ("COMMIT", False),
        ("written", True),
        ("proven", True),
    ],
)
def test_a_transaction_is_there_whole_or_not_at_all(
    url: str, tmp_path: Path, moment: str, is_committed: bool
) -> None:
    """Killed around SQLite's commit, the worker has trimmed nothing, and the next one archives all of it once."""
    with (
        store_at(url) as hot,
        JSONLCheckpointer(tmp_path / "archive") as lines,
        SQLiteCheckpointer(tmp_path / "archive.db") as rows,
    ):
        events = [make_event("r", seq, payload={"text": "x" * 10_000}) for seq in range(1, 101)]
        hot.save_events(events)
        hot.save_snapshot("r", make_state("r"))
        arguments = {"trim": "archived", "claim_seconds": 0.1, "moment": moment}
        with Child("drain", url=url, archives=[lines.location, rows.location], **arguments) as worker:
            assert worker.hear() == moment
            if moment == "COMMIT":
                assert (tmp_path / "archive.db-wal").stat().st_size > 200_000, "its pages are not in the log yet"
            worker.kill()
        info = hot.run_info("r")
        assert info is not None
        assert (info.first_hot, info.archived_offset) == (1, 0)
        with closing(sqlite3.connect(tmp_path / "archive.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            (there,) = connection.execute("SELECT count(*) FROM events").fetchone()
            assert (there > 0) == is_committed
        survivor = DrainWorker(hot, [lines, rows], trim="archived")
        eventually(lambda: survivor.drain_once().runs == 1)
        check_archives([lines, rows], {"r": events})
        check_drained(hot, [lines, rows])
        check_trimmed(hot, "archived")
