"""Many processes, threads and forks over one JSONL directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runstream.stores.archive.jsonl import JSONLCheckpointer
from tests.stores.archive.jsonl.lines import event, numbers
from tests.support.operations import operations_of
from tests.support.processes.template import Python
from tests.support.servers import DEADLINE_SECONDS

WRITER = """
import sys
from runstream.stores.archive.jsonl import JSONLCheckpointer
from runstream.model.events import create_event
from runstream.model.state import RunState
directory, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = JSONLCheckpointer(directory)
for number in range(1, count + 1):
    events = [create_event("r", "text.delta", lane_id=name, seq=number, number=number, part=p) for p in (1, 2)]
    snapshot = RunState(run_id="r", current_step=number) if number % 3 == 0 else None
    made = store.append("r", events, snapshot=snapshot, lane_id=name if snapshot else None)
    print(number, made.last_offset, flush=True)
"""


def start_writer(directory: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(directory), name, str(count)]
    return Python(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_append_to_one_run_without_a_gap_or_a_mix(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path, name, 60) for name in ("a", "b")]
    for writer in writers:
        output, _ = writer.communicate(timeout=DEADLINE_SECONDS)
        assert writer.returncode == 0
        assert len(output.splitlines()) == 60
    with JSONLCheckpointer(tmp_path) as store:
        assert len(numbers(store, "r")) == 240
        events = store.list_events("r")
        for name in ("a", "b"):
            mine = [(each.payload["number"], each.payload["part"]) for each in events if each.lane_id == name]
            assert mine == [(number, part) for number in range(1, 61) for part in (1, 2)]
        lanes = [each.lane_id for each in events]
        assert lanes[::2] == lanes[1::2]  # batches do not run into each other
        for name in ("a", "b"):
            snapshot = store.load_snapshot("r", lane_id=name)
            assert snapshot is not None
            assert (snapshot.state.current_step, snapshot.revision) == (60, 20)


@pytest.mark.exhaustive
def test_a_writer_killed_again_and_again_keeps_all_that_it_was_told_is_kept(tmp_path: Path) -> None:
    kept = 0
    for turn in range(8):
        with start_writer(tmp_path, f"turn-{turn}", 100_000) as writer:
            assert writer.stdout is not None
            for _ in range(5 + turn * 7):
                kept = int(writer.stdout.readline().split()[1])
            writer.send_signal(signal.SIGKILL)
            writer.wait(DEADLINE_SECONDS)
            for line in writer.stdout.read().splitlines(keepends=True):
                if line.endswith("\n"):  # the last one may be cut
                    kept = int(line.split()[1])
        with JSONLCheckpointer(tmp_path) as store:
            found = numbers(store, "r")
            assert kept <= len(found) <= kept + 2
            assert len(found) % 2 == 0  # batches are whole
            events = [each for each in store.list_events("r") if each.lane_id == f"turn-{turn}"]
            snapshot = store.load_snapshot("r", lane_id=f"turn-{turn}")
            step = 0 if snapshot is None else snapshot.state.current_step
            assert step == len(events) // 2 // 3 * 3  # the snapshot is there just as far as its events


def test_threads_share_one_object(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:

        def work(thread: int) -> None:
            for number in range(20):
                store.save_event(event("r", thread * 100 + number))

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        assert sorted(numbers(store, "r")) == [
            thread * 100 + number for thread in range(4) for number in range(20)
        ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # pytest-timeout has a thread
def test_a_forked_child_writes_on_even_if_a_thread_of_the_parent_held_the_mutex(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
        held, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with operations_of(store)._logs._mutex:
                held.set()
                go_on.wait(DEADLINE_SECONDS)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(DEADLINE_SECONDS)
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # a child that waits for the mutex waits for ever
            code = 1
            try:
                store.save_event(event("r", 2))
                code = 0
            finally:
                os._exit(code)
        go_on.set()
        thread.join(DEADLINE_SECONDS)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        store.save_event(event("r", 3))
        assert numbers(store, "r") == [1, 2, 3]
