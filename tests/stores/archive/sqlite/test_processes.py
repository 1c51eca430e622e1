"""Many processes, threads and forks over one SQLite archive."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runstream.model.results import Cursor
from runstream.stores.archive.sqlite import SQLiteCheckpointer
from tests.stores.archive.sqlite.database import CODEC, Archive, Open, chained, offsets, query, run_script
from tests.support.processes.template import Python
from tests.support.samples import make_events


@pytest.mark.exhaustive
def test_many_writers_of_one_file_all_get_their_turn(path: Path, open_archive: Open) -> None:
    """Processes with threads, each as fast as it can: no one waits so long that it gives up."""
    script = """
import sys, threading
from runstream.model.events import PAEvent
from runstream.stores.archive.sqlite import SQLiteCheckpointer
store = SQLiteCheckpointer(sys.argv[1], busy_timeout_seconds=20)
failed = []

def work(run_id):
    try:
        for turn in range(10):
            store.save_events([PAEvent(run_id, seq=100 * turn + n) for n in range(100)])
    except BaseException as error:  # in a thread, where it would be printed and forgotten
        failed.append(error)

threads = [threading.Thread(target=work, args=(f"{sys.argv[2]}-{n}",)) for n in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
"""
    writers = [Python([sys.executable, "-c", script, str(path), str(n)]) for n in range(3)]
    for writer in writers:
        assert writer.wait(100) == 0
    archive = open_archive()
    assert sorted(archive.list_runs()) == sorted(
        f"{process}-{thread}" for process in range(3) for thread in range(2)
    )
    for run_id in archive.list_runs():
        assert [event.seq for event in archive.list_events(run_id)] == list(range(1000))
    assert archive.check_integrity() == []


@pytest.mark.exhaustive
def test_a_store_that_nobody_closes_warns_of_nothing_and_gives_its_file_back(path: Path) -> None:
    run_script(
        """
import gc, os, sys
from runstream.stores.archive.sqlite import SQLiteCheckpointer
store = SQLiteCheckpointer(sys.argv[1])
assert os.path.exists(sys.argv[1] + "-wal")
del store
assert not os.path.exists(sys.argv[1] + "-wal")
store = SQLiteCheckpointer(sys.argv[1])
""",
        path,
    )
    assert not path.with_name(path.name + "-wal").exists()


@pytest.mark.exhaustive
def test_what_a_forked_child_commits_survives_its_parents_closing(path: Path) -> None:
    """SQLite keeps locks by process: a child beside an inherited connection would lose what it commits."""
    run_script(
        """
import os, sys
from runstream.model.events import PAEvent
from runstream.stores.archive.sqlite import SQLiteCheckpointer

store = SQLiteCheckpointer(sys.argv[1])
store.save_events([PAEvent("r", seq=seq) for seq in range(1500)])
found = store.read("r")
next(found)
from_child, to_parent = os.pipe()
from_parent, to_child = os.pipe()
child = os.fork()
if child == 0:
    store.save_event(PAEvent("r", seq=1500))
    os.write(to_parent, b"1")
    os.read(from_parent, 1)
    store.save_event(PAEvent("r", seq=1501))
    os._exit(0)
assert len(list(found)) == 1499
os.read(from_child, 1)
store.save_event(PAEvent("s"))
store.close()
os.write(to_child, b"2")
assert os.waitpid(child, 0)[1] == 0
with SQLiteCheckpointer(sys.argv[1]) as store:
    assert [event.seq for event in store.list_events("r")] == list(range(1502))
""",
        path,
    )


@pytest.mark.exhaustive
def test_a_fork_waits_for_other_threads_and_leaves_the_child_no_lock(path: Path) -> None:
    run_script(
        """
import os, sys, threading, warnings
from runstream.model.events import PAEvent
from runstream.stores.archive.sqlite import SQLiteCheckpointer

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
store = SQLiteCheckpointer(sys.argv[1])
stop = threading.Event()

def work():
    while not stop.is_set():
        store.save_event(PAEvent("r"))

thread = threading.Thread(target=work)
thread.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        store.save_event(PAEvent("children"))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
assert len(store.list_events("children")) == 5
assert [item.offset for item in store.read("r")] == list(range(1, store.run_info("r").last_offset + 1))
""",
        path,
    )


def test_all_who_open_a_new_file_at_once_open_the_same_archive(tmp_path: Path) -> None:
    ids: list[str] = []

    def open_one(path: Path, start: threading.Barrier) -> None:
        start.wait(20)
        with SQLiteCheckpointer(path) as archive:
            ids.append(archive.archive_id)

    for attempt in range(20):
        start = threading.Barrier(8)
        place = (tmp_path / f"{attempt}.db", start)
        threads = [threading.Thread(target=open_one, args=place) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(ids) == 160
    assert len(set(ids)) == 20


@pytest.mark.exhaustive
def test_processes_open_one_new_file_at_once_and_append_to_one_run(path: Path, open_archive: Open) -> None:
    script = """
import sys
from runstream.model.events import PAEvent
from runstream.stores.archive.sqlite import SQLiteCheckpointer
print("ready", flush=True)
sys.stdin.read()
with SQLiteCheckpointer(sys.argv[1]) as store:
    for seq in range(100):
        store.save_events([PAEvent("r", lane_id=sys.argv[2], seq=2 * seq + n) for n in range(2)])
"""
    writers = [
        Python(
            [sys.executable, "-c", script, str(path), f"lane{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # they set out together
        assert writer.stdin is not None
        writer.stdin.close()
        writer.stdin = None
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    archive = open_archive()
    assert offsets(archive) == list(range(1, 601))
    for n in range(3):
        assert [event.seq for event in archive.list_events("r") if event.lane_id == f"lane{n}"] == list(range(200))
    ((start,),) = query(path, "SELECT start_chain FROM runs")
    records = [item.record for item in CODEC.encode_events("r", archive.list_events("r"))]
    expected = chained("r", records, Cursor(0, start))
    assert [entry.content for entry in archive.read_back("r", 1, 600)] == [entry.content for entry in expected]


def test_nothing_is_left_of_a_transaction_whose_process_was_killed(archive: Archive, path: Path) -> None:
    archive.save_events(make_events("r", 2))
    script = """
import sys
from runstream.stores.archive.sqlite import SQLiteCheckpointer

store = SQLiteCheckpointer(sys.argv[1])
with store._operations._file.write() as connection:
    connection.execute("INSERT INTO runs VALUES ('k', '', '', 0, 0, 1, 1, 0, 0, NULL, NULL, 0, NULL, NULL, NULL)")
    # more than SQLite keeps in memory, so that part of it is in the log already
    rows = (("k", n, "x" * 5000) for n in range(5000))
    connection.executemany("INSERT INTO events (run_id, seq, ts, kind, data) VALUES (?, ?, 1.0, 'x', ?)", rows)
    print("in the transaction", flush=True)
    sys.stdin.read()
"""
    process = Python(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the transaction\n"
        assert path.with_name(path.name + "-wal").stat().st_size > 5_000_000
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert archive.list_runs() == ["r"]
    archive.append("r", make_events("r", 1), expected_offset=2)
    assert query(path, "SELECT run_id, offset FROM events") == [("r", 1), ("r", 2), ("r", 3)]
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
