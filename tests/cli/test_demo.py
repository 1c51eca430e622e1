"""The demo and its example agent; above all, that the demo's checker can fail."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from runstream import (
    Appended,
    DrainWorker,
    EventKind,
    InMemoryCheckpointer,
    PAEvent,
    RedisCheckpointer,
    Sink,
    connect,
)
from runstream.cli.demo.agent import Outcome, Task, work
from runstream.cli.demo.checks import Check, check
from runstream.cli.demo.journal import Acknowledged, Journal, JournalTail, read_journal
from runstream.stores.redis.namespace import namespace_of
from tests.support.checksums import forget_checksums
from tests.support.mortal import Killed
from tests.support.servers import DEADLINE_SECONDS, needs_embedded_server

TASKS = [
    Task("orders", "planner", 4, leads=True, waits_for=("searcher",)),
    Task("orders", "searcher", 4),
    Task("support", "planner", 3, leads=True),
]


# -- the agent: killed anywhere, it neither repeats nor leaves out a step


def kill_after(appends: int) -> Callable[[Appended, Sequence[PAEvent]], None]:
    left = appends

    def acknowledged(_: Appended, __: Sequence[PAEvent]) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    return acknowledged


def told(store: InMemoryCheckpointer[Any, Any], run_id: str) -> list[tuple[object, ...]]:
    """What a history says, without what differs between two runs of one agent: times and span ids."""
    return [
        (item.offset, item.event.seq, item.event.kind, item.event.payload["step"]) for item in store.read(run_id)
    ]


def test_an_agent_that_is_killed_after_any_append_tells_the_same_story() -> None:
    task = Task("orders", "planner", 4, leads=True)
    unharmed: InMemoryCheckpointer[Any, Any] = InMemoryCheckpointer()
    work(unharmed, task)
    story = told(unharmed, "orders")
    appends = sum(1 for _ in kills_until_done(task))
    assert appends > 20
    for at in range(1, appends):
        store: InMemoryCheckpointer[Any, Any] = InMemoryCheckpointer()
        with pytest.raises(Killed):
            work(store, task, acknowledged=kill_after(at))
        outcome = work(store, task)
        assert outcome.resumed is not None
        assert told(store, "orders") == story


def kills_until_done(task: Task) -> Iterator[Outcome | None]:
    """Kill an agent after each of its appends, until it has nothing left to do."""
    store: InMemoryCheckpointer[Any, Any] = InMemoryCheckpointer()
    while True:
        try:
            yield work(store, task, acknowledged=kill_after(1))
        except Killed:
            yield None
        else:
            return


def test_a_resumed_agent_has_the_cost_of_all_its_steps() -> None:
    task = Task("orders", "planner", 4)
    *_, last = kills_until_done(task)
    assert last is not None
    assert last.cost == work(InMemoryCheckpointer(), task).cost


def test_only_a_leader_begins_and_ends_the_run() -> None:
    store: InMemoryCheckpointer[Any, Any] = InMemoryCheckpointer()
    for task in reversed(TASKS[:2]):  # the leader waits for the other lane, so that one comes first
        work(store, task)
    kinds = [(item.event.lane_id, item.event.kind) for item in store.read("orders")]
    assert kinds.count(("planner", EventKind.RUN_STARTED)) == kinds.count(("planner", EventKind.RUN_FINISHED)) == 1
    assert ("searcher", EventKind.RUN_STARTED) not in kinds
    assert kinds[-1] == ("planner", EventKind.RUN_FINISHED)
    info = store.run_info("orders")
    assert info is not None
    assert info.status == "completed"


def test_a_journal_is_followed_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    tail = JournalTail(path)
    assert list(tail.new()) == []
    store: InMemoryCheckpointer[Any, Any] = InMemoryCheckpointer()
    with Journal(path) as journal:
        work(store, Task("orders", "planner", 1), acknowledged=journal.note)
    first = list(tail.new())
    assert [line.seq for line in first] == list(range(1, 12))
    with path.open("a") as file:
        file.write('["orders"')  # a line that is not whole yet
    assert list(tail.new()) == []
    assert read_journal(path) == first


# -- the checker


@dataclass
class Played:
    """What is left when three agents have worked and all is archived."""

    hot: RedisCheckpointer[Any, Any]
    directory: Path
    acknowledged: list[Acknowledged]

    @property
    def urls(self) -> dict[str, str]:
        return {"SQLite": f"sqlite:{self.directory}/a.db", "JSONL": f"jsonl:{self.directory}/jsonl"}

    def drain(self) -> None:
        with ExitStack() as opened:
            sinks = [opened.enter_context(connect(url)) for url in self.urls.values()]
            DrainWorker(self.hot, [sink for sink in sinks if isinstance(sink, Sink)]).drain_once()

    def check(self) -> list[Check]:
        steps = {(task.run_id, task.lane_id): task.steps for task in TASKS}
        with ExitStack() as opened:
            archives = {name: opened.enter_context(connect(url)) for name, url in self.urls.items()}
            return check(self.hot, archives, self.acknowledged, steps)

    def problems(self) -> list[str]:
        return [problem for one in self.check() for problem in one.problems]

    def sql(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self.directory / "a.db")) as database, database:
            assert database.execute(statement, values).rowcount == 1
        forget_checksums(self.directory / "a.db")

    def lines(self, run_id: str, change: Callable[[list[str]], None]) -> None:
        path = self.directory / "jsonl" / run_id / "events.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        change(lines)
        path.write_text("".join(lines))

    def line_of(self, lines: list[str], offset: int) -> int:
        return next(at for at, line in enumerate(lines) if f'"$offset":{offset},' in line and "$run" not in line)


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    with connect(f"fake:{uuid.uuid4().hex}") as hot:
        assert isinstance(hot, RedisCheckpointer)
        journal = tmp_path / "journal"
        with Journal(journal) as notes:
            for task in reversed(TASKS):
                work(hot, task, acknowledged=notes.note)
        played = Played(hot, tmp_path, read_journal(journal))
        played.drain()
        yield played


def test_where_nothing_was_harmed_every_check_holds_and_has_looked_at_something(played: Played) -> None:
    checks = played.check()
    assert played.problems() == []
    assert all(one.holds and one.checked for one in checks)
    kept = next(one for one in checks if one.promise.startswith("each acknowledged"))
    assert kept.checked == len(played.acknowledged) > 100


def test_a_row_that_is_gone_from_sqlite_is_missed(played: Played) -> None:
    played.sql("DELETE FROM events WHERE run_id = 'orders' AND offset = 17")
    problems = played.problems()
    assert any("'orders', offset 17: acknowledged, but neither in Redis nor in SQLite" in one for one in problems)
    assert any("'orders', offset 17: an event is missing (sqlite:" in one for one in problems)


def test_the_last_row_that_is_gone_from_sqlite_is_missed(played: Played) -> None:
    last = played.acknowledged[-1]
    played.sql("DELETE FROM events WHERE run_id = ? AND offset = ?", last.run_id, last.offset)
    assert any(f"{last.run_id!r}, offset {last.offset}" in one for one in played.problems())


def test_a_line_that_stands_twice_in_jsonl_is_seen(played: Played) -> None:
    def double(lines: list[str]) -> None:
        lines.insert(played.line_of(lines, 9), lines[played.line_of(lines, 9)])

    played.lines("support", double)
    assert any("'support'" in one and "JSONL" in one for one in played.problems())


def test_a_line_that_is_gone_from_jsonl_is_missed(played: Played) -> None:
    played.lines("support", lambda lines: lines.__delitem__(played.line_of(lines, 9)))
    assert any("'support', offset 9" in one and "JSONL" in one for one in played.problems())


def test_a_payload_that_was_changed_is_seen(played: Played) -> None:
    played.sql(
        "UPDATE events SET data = replace(data, 'answered', 'evaded')"
        " WHERE run_id = 'support' AND kind = 'reasoning.summary' AND data LIKE '%step 2 answered%'"
    )
    problems = played.problems()
    offset = next(line.offset for line in played.acknowledged if line.run_id == "support" and line.seq == 20)
    assert f"run 'support', offset {offset}: SQLite holds something else than what was acknowledged" in problems
    differs = f"run 'support', offset {offset}: the event is not the one that its chain is of (sqlite:"
    assert any(one.startswith(differs) for one in problems)


def test_an_acknowledged_event_that_no_store_has_is_missed(played: Played) -> None:
    lost = played.acknowledged[-1]._replace(offset=999, span_id="gone")
    played.acknowledged.append(lost)
    assert any(f"{lost.run_id!r}, offset 999: acknowledged, but" in one for one in played.problems())


def test_two_events_that_changed_places_are_seen(played: Played) -> None:
    for former, later in ((5, 1000), (6, 5), (1000, 6)):
        played.sql("UPDATE events SET offset = ? WHERE run_id = 'support' AND offset = ?", later, former)
    assert any("'support', offset 5: SQLite holds something else" in one for one in played.problems())


def test_a_step_that_was_done_twice_is_seen(played: Played) -> None:
    again = next(item.event for item in read_all(played, "support") if item.event.kind == EventKind.MODEL_REQUEST)
    played.hot.append("support", [PAEvent(**{**again.__dict__, "span_id": "again"})])
    played.drain()
    problems = played.problems()
    assert any("'support', lane 'planner': the steps are [1, 2, 3, 1], not 1 to 3" in one for one in problems)
    assert any("lane 'planner' has seq 3, not" in one for one in problems)


def test_an_event_that_was_recorded_twice_is_seen(played: Played) -> None:
    again = read_all(played, "support")[4].event
    played.hot.append("support", [again])
    played.drain()
    assert any("the event of offset 5 again" in one for one in played.problems())


def read_all(played: Played, run_id: str) -> list[Any]:
    with connect(played.urls["SQLite"]) as store:
        return list(store.read(run_id))


def test_another_snapshot_in_an_archive_is_seen(played: Played) -> None:
    with connect(played.urls["SQLite"]) as store:
        state = store.load_snapshot("orders", lane_id="searcher").state  # type: ignore[union-attr]  # it is there
        state.current_step = 77
        store.save_snapshot("orders", state, lane_id="searcher")
    assert any("SQLite has another snapshot of lane 'searcher'" in one for one in played.problems())


def test_what_is_not_archived_yet_is_seen(played: Played) -> None:
    played.hot.append("support", [PAEvent("support", lane_id="planner", seq=99)])
    problems = played.problems()
    assert "1 runs are due" in problems
    assert any("'support'" in one and "Redis stands at" in one for one in problems)


def test_a_parked_run_is_seen(played: Played) -> None:
    (run,) = namespace_of(played.hot).load_runs(["support"])
    assert run is not None
    namespace_of(played.hot).park(run.header, "for a test", 60)
    assert any("run 'support' is parked: for a test" in one for one in played.problems())


def test_a_run_that_redis_lost_is_seen(played: Played) -> None:
    played.hot.delete_run("support")
    assert "run 'support': Redis does not know it" in played.problems()


# -- the whole of it


looks_into_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def processes_of(directory: Path) -> list[int]:
    """The processes that name the directory in their arguments, or work in it: agents, worker, server."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes()
            place = str((process / "cwd").readlink())
        except OSError:  # it has ended, or is not ours
            continue
        if os.fsencode(directory) in arguments or place.startswith(str(directory)):
            found.append(int(process.name))
    return found


def start_demo(directory: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "runstream", "demo", "--dir", str(directory), "--seed", "7", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@needs_embedded_server
@looks_into_proc
def test_the_demo_kills_an_agent_and_the_worker_and_finds_everything(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    began = time.monotonic()
    with start_demo(directory, "--json") as demo:
        out, progress = demo.communicate(timeout=60)
    took = time.monotonic() - began
    assert demo.returncode == 0, out + progress
    facts = json.loads(out)
    assert facts["holds"]
    assert [kill["process"] for kill in facts["kills"]] == ["agent", "worker"]
    assert facts["kills"][0]["step"] > 0
    assert facts["kills"][1]["archived"] > 0
    resumed = [agent["resumed"] for agent in facts["agents"] if agent["resumed"]]
    assert len(resumed) == 1
    assert resumed[0]["step"] >= facts["kills"][0]["step"]
    assert len(facts["agents"]) >= 4
    assert len({agent["run_id"] for agent in facts["agents"]}) >= 3
    assert all(one["holds"] and one["checked"] and not one["problems"] for one in facts["checks"])
    assert "is killed at step" in progress
    assert "\x1b" not in out + progress
    assert processes_of(directory) == []
    if "PYTEST_XDIST_WORKER" not in os.environ:  # other tests, which then run beside it, take its time
        assert took < 20
    with connect(facts["archives"]["SQLite"]) as archive:  # it is still there, for its user to look at
        assert sorted(archive.list_runs()) == ["invoices", "orders", "support"]


@pytest.mark.exhaustive
@needs_embedded_server
@looks_into_proc
@pytest.mark.timeout(300)
def test_the_runs_of_a_demo_are_shown_in_a_page_until_it_is_interrupted(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    with start_demo(directory, "--web", "--rm") as demo:
        try:
            assert demo.stderr is not None
            url = next(found[0] for line in demo.stderr if (found := re.search(r"http://\S+", line)))
            with httpx.Client(follow_redirects=True, headers={"accept": "text/html"}) as client:
                assert '<div id="page">' in client.get(url).text
                assert any("until Ctrl-C" in line for line in demo.stderr)
                runs = client.get(url.replace("/?", "/runs?"), headers={"accept": "application/json"}).json()[
                    "runs"
                ]
            assert {(run["run_id"], run["status"]) for run in runs} == {
                (name, "completed") for name in ("orders", "invoices", "support")
            }
            demo.send_signal(signal.SIGINT)
            out, errors = demo.communicate(timeout=DEADLINE_SECONDS)
        finally:
            demo.kill()
    assert demo.returncode == 0, errors
    assert "✓" in out
    assert processes_of(directory) == []
    assert not directory.exists()


@pytest.mark.exhaustive
@needs_embedded_server
@looks_into_proc
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.exhaustive)]
)
def test_a_demo_that_is_interrupted_leaves_no_process(tmp_path: Path, number: int, code: int) -> None:
    """Nor a file, with --rm; git ignores those that are there meanwhile."""
    directory = tmp_path / "demo"
    with start_demo(directory, "--rm") as demo:
        try:
            deadline = time.monotonic() + DEADLINE_SECONDS
            assert demo.stderr is not None
            assert "about 10 seconds" in demo.stderr.readline()
            assert not list(directory.glob("server/*.sock*")), "that comes before there is a server"
            journals = directory / "journals"
            while not any(journals.glob("*.jsonl")):
                assert demo.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert (directory / ".gitignore").read_text() == "*\n"
            demo.send_signal(number)
            out, errors = demo.communicate(timeout=DEADLINE_SECONDS)
        finally:
            demo.kill()
    assert demo.returncode == code
    assert "Traceback" not in errors
    assert out == ""
    assert processes_of(directory) == []
    assert not directory.exists()


@pytest.mark.exhaustive
@needs_embedded_server
@looks_into_proc
def test_a_demo_that_is_killed_leaves_no_process_for_long(tmp_path: Path) -> None:
    """Not even the server: its last user ends it."""
    directory = tmp_path / "demo"
    with start_demo(directory) as demo:
        try:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while len([pid for pid in processes_of(directory) if is_agent(pid)]) < 5:
                assert demo.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            demo.kill()
    try:
        while processes_of(directory):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        for pid in processes_of(directory):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.exhaustive
@needs_embedded_server
@looks_into_proc
def test_a_demo_whose_agent_cannot_work_fails_and_leaves_no_process(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    with start_demo(directory) as demo:
        try:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not (agents := [pid for pid in processes_of(directory) if is_agent(pid)]):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(agents[0], signal.SIGKILL)
            _, errors = demo.communicate(timeout=DEADLINE_SECONDS)
        finally:
            demo.kill()
    assert demo.returncode == 1
    assert "runstream: error:" in errors
    assert "ended with status -9" in errors
    assert processes_of(directory) == []


def is_agent(pid: int) -> bool:
    try:
        return b"\0agent\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.exhaustive
def test_the_demo_refuses_a_directory_with_other_things_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with start_demo(tmp_path) as demo:
        _, errors = demo.communicate(timeout=DEADLINE_SECONDS)
    assert demo.returncode == 2
    assert "is not empty" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
