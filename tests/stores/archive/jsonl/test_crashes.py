"""A JSONL directory after a crash at any step, and on a disk that fails: all of a batch is there, or nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.runtime import checkpoint as theirs
from purpose_agent.runtime import events as their_events

from runstream.model.errors import StoreUnavailable
from runstream.stores.archive.jsonl import JSONLCheckpointer
from runstream.stores.archive.jsonl.file_locks import Locks
from runstream.testing.simulation.durable_files import DurableFiles
from tests.stores.archive.jsonl.lines import (
    Store,
    event,
    files_below,
    log_of,
    numbers,
    readable,
    state,
)
from tests.support.mortal import Killed
from tests.support.operations import operations_of
from tests.support.servers import DEADLINE_SECONDS, eventually


@pytest.mark.exhaustive
@pytest.mark.one_in(3)
@pytest.mark.parametrize("first", range(3))
def test_after_a_cut_at_any_byte_of_the_last_batch_just_the_committed_prefix_is_read(
    tmp_path: Path, first: int
) -> None:
    """Every third byte, from that one on."""
    whole = tmp_path / "whole"
    with JSONLCheckpointer(whole) as store:
        store.save_events([event("r", 1), event("r", 2)])
        committed = log_of(whole).stat().st_size
        store.save_events([event("r", 3, text="é"), event("r", 4)])
    content = log_of(whole).read_bytes()
    for size in range(committed + first, len(content), 3):
        directory = tmp_path / "cut"
        shutil.copytree(whole, directory)
        log_of(directory).write_bytes(content[:size])
        with JSONLCheckpointer(directory) as store:
            assert numbers(store, "r") == [1, 2]
            position = store.position("r")
            assert position is not None
            assert position.cursor.offset == 2
            assert log_of(directory).read_bytes() == content[:size]  # a read changes nothing
            assert store.append("r", [event("r", 9)], expected_offset=2).last_offset == 3
            assert numbers(store, "r") == [1, 2, 9]
        with JSONLCheckpointer(directory) as store:
            assert numbers(store, "r") == [1, 2, 9]
        torn = sorted(directory.glob("r/events.jsonl.torn-*"))
        assert [path.read_bytes() for path in torn] == ([content[committed:size]] if size > committed else [])
        shutil.rmtree(directory)


def test_a_block_of_a_torn_batch_that_reads_as_zeros_tears_the_whole_batch(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_events([event("r", 1), event("r", 2)])
        committed = log_of(tmp_path).stat().st_size
        store.save_events([event("r", 3), event("r", 4), event("r", 5)])
    content = bytearray(log_of(tmp_path).read_bytes())
    content[committed + 40 : committed + 300] = bytes(260)
    log_of(tmp_path).write_bytes(content)
    with JSONLCheckpointer(tmp_path) as store:
        assert numbers(store, "r") == [1, 2]
        store.save_event(event("r", 3))
        assert numbers(store, "r") == [1, 2, 3]


def test_another_program_going_on_after_a_torn_batch_keeps_both_its_event_and_the_order(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
        committed = log_of(tmp_path).stat().st_size
        store.save_events([event("r", 2), event("r", 3)])
    first_line = log_of(tmp_path).read_bytes()[committed:].splitlines(keepends=True)[0]
    log_of(tmp_path).write_bytes(log_of(tmp_path).read_bytes()[:committed] + first_line)
    theirs.JSONLCheckpointer(str(tmp_path)).save_event(their_events.PAEvent("r", payload={"number": 7}))
    for expected in ([1, 7], [1, 7, 8], [1, 7, 8, 8]):
        with JSONLCheckpointer(tmp_path) as store:
            assert numbers(store, "r") == expected
            store.save_event(event("r", 8))


# -- crashes


CALLS = ("write", "fsync", "replace", "ftruncate", "unlink", "mkdir")


def break_call(
    monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException, calls: tuple[str, ...] = CALLS
) -> Callable[[], bool]:
    """Raise at the number-th of these calls to the system. Gives a function that says whether it came to that."""
    count = 0

    def breaking(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                raise error
            return call(*args, **options)

        return counted

    for name in calls:
        monkeypatch.setattr(os, name, breaking(getattr(os, name)))
    return lambda: count >= number


def every_crash(
    tmp_path: Path,
    before: Callable[[Store], object],
    act: Callable[[Store], object],
    error: BaseException | None = None,
) -> Iterator[tuple[Path, int]]:
    """The directory as each call to the system that ``act`` makes leaves it when it is the last."""
    whole = tmp_path / "before"
    with JSONLCheckpointer(whole) as store:
        before(store)
    for number in range(1, 1000):
        directory = tmp_path / f"crash-{number}"
        shutil.copytree(whole, directory)
        store = JSONLCheckpointer(directory)
        with pytest.MonkeyPatch.context() as patch:
            came_to_it = break_call(patch, number, error or Killed())
            try:
                act(store)
            except (Killed, StoreUnavailable):
                assert came_to_it()
        yield directory, number
        if not came_to_it():
            assert number > 3, "the act makes calls that are not broken"
            return


def test_a_crash_at_any_step_leaves_both_events_and_snapshot_or_neither(tmp_path: Path) -> None:
    def before(store: Store) -> None:
        store.append("r", [event("r", 1)], snapshot=state("r", 1))

    def act(store: Store) -> None:
        store.recover("r")
        store.append("r", [event("r", 2), event("r", 3)], snapshot=state("r", 3))

    seen = set()
    for directory, _ in every_crash(tmp_path, before, act):
        for _ in range(2):  # as a reader finds it, and as another does after a writer has tidied up
            with JSONLCheckpointer(directory) as store:
                recovery = store.recover("r")
                assert recovery.state is not None
                step = recovery.state.current_step
                assert [number for number in numbers(store, "r") if number] == list(range(1, step + 1))
                assert recovery.offset == step
                seen.add(step)
                position = store.position("r")
                assert position is not None
                assert position.snapshots == {None: store.read_back_snapshots("r")[0].token}
                store.save_event(event("r", 0))
        assert not list(directory.glob("r/*.prepared-*"))
        assert json.loads((directory / "r" / "snapshot.json").read_text())["current_step"] in (1, 3)
    assert seen == {1, 3}


def test_each_step_is_on_the_disk_before_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of calls of a first batch: what a crash of the machine may keep of it follows from that.

    The snapshot's own file need not be: the history has what is in it.
    """
    calls: list[tuple[str, int]] = []
    fsync, write, replace = os.fsync, os.write, os.replace

    def noted(name: str, call: Callable[..., Any], inode: Callable[[Any], int]) -> None:
        def noting(first: Any, *rest: Any) -> Any:
            calls.append((name, inode(first)))
            return call(first, *rest)

        monkeypatch.setattr(os, name, noting)

    named: list[str] = []  # when a directory was last synced

    def synced(handle: int) -> int:
        facts = os.fstat(handle)
        named[:] = os.listdir(handle) if stat.S_ISDIR(facts.st_mode) else named
        return facts.st_ino

    with JSONLCheckpointer(tmp_path) as store:
        assert store.archive_id
        noted("fsync", fsync, synced)
        noted("write", write, lambda handle: os.fstat(handle).st_ino)
        noted("replace", replace, lambda path: Path(path).stat().st_ino)
        store.append("r", [event("r", 1), event("r", 2)], snapshot=state("r", 2))
        store.append("r", [event("r", 3)])
        store.append("r", [event("r", 4)])
    base, run = tmp_path.stat().st_ino, (tmp_path / "r").stat().st_ino
    log, snapshot = (path.stat().st_ino for path in (log_of(tmp_path), tmp_path / "r" / "snapshot.json"))
    history = (tmp_path / "r" / "snapshots.jsonl").stat().st_ino
    order = [("fsync", base), ("write", snapshot), ("write", history), ("fsync", history), ("fsync", run)]
    assert {"events.jsonl", "snapshots.jsonl"} <= {*named}
    order += [("write", log), ("fsync", log), ("replace", snapshot)]
    order += [("write", log), ("fsync", log), ("write", log), ("fsync", log)]
    assert [call for call in calls if call in order][-len(order) :] == order
    assert calls.count(("write", log)) == 3


@pytest.mark.one_in(2)
@pytest.mark.parametrize("way", range(3))
@pytest.mark.parametrize("keep", [None, 0])
def test_what_is_saved_outlives_a_loss_of_power_and_other_programs_read_it_after_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int | None, way: int
) -> None:
    """Of what is not on the disk nothing is left (0), or all (1), or a part of the content (2)."""
    disk = DurableFiles(tmp_path)
    fsync = os.fsync

    def noted(handle: int) -> None:
        fsync(handle)
        disk.note_sync(handle)

    def lose_power() -> None:
        disk.lose_power(lambda ways: min(way, ways - 1))
        for path in tmp_path.glob("r/*"):  # else a reader waits for another program to finish it
            os.utime(path, (0, 0))

    monkeypatch.setattr(os, "fsync", noted)
    for number in range(1, 6):
        with JSONLCheckpointer(tmp_path, keep_snapshots=keep) as store:
            store.save_snapshot("r", state("r", number))
            store.save_snapshot("r", state("r", 10 * number), lane_id="side")
            store.save_event(event("r", number))
            store.save_event(event("r", number))
        lose_power()
        for _ in range(2):  # as a reader finds it, and as another does after a writer has tidied up
            with JSONLCheckpointer(tmp_path, keep_snapshots=keep) as store:
                for lane_id, step in ((None, number), ("side", 10 * number)):
                    loaded = store.load_snapshot("r", lane_id=lane_id)
                    assert loaded is not None
                    assert loaded.state.current_step == step
                    assert store.lanes("r")
                assert store.check_integrity() == []
                store.save_event(event("r", number))
            theirs_now = json.loads((tmp_path / "r" / "snapshot.json").read_text())
            assert theirs_now["current_step"] == number
    disk.close()


def test_a_crash_in_the_first_write_of_a_run_leaves_all_or_nothing(tmp_path: Path) -> None:
    def act(store: Store) -> None:
        store.append("r", [event("r", 1)], snapshot=state("r", 1))

    seen = set()
    for directory, _ in every_crash(tmp_path, lambda store: store.archive_id, act):
        with JSONLCheckpointer(directory) as store:
            recovery = store.recover("r")
            seen.add((recovery.state is not None, len(recovery.events) + recovery.offset))
            assert store.list_runs() == (["r"] if recovery.state is not None else [])
            last = store.append("r", [event("r", 2)]).last_offset
            assert numbers(store, "r") == [1, 2][-last:]
    assert seen == {(False, 0), (True, 1)}


def test_a_crash_while_a_torn_tail_is_set_aside_loses_none_of_it(tmp_path: Path) -> None:
    tail = b'{"run_id":"r","torn'

    def before(store: Store) -> None:
        store.save_event(event("r", 1))
        with log_of(operations_of(store)._logs.path).open("ab") as file:
            file.write(tail)

    for directory, _ in every_crash(tmp_path, before, lambda store: store.save_event(event("r", 2))):
        with JSONLCheckpointer(directory) as store:
            store.save_event(event("r", 3))
            assert numbers(store, "r") in ([1, 3], [1, 2, 3])
        assert tail in [path.read_bytes() for path in directory.glob("r/events.jsonl.torn-*")]


def test_a_crash_while_a_run_is_deleted_leaves_it_whole_or_gone(tmp_path: Path) -> None:
    def before(store: Store) -> None:
        store.append("r", [event("r", 1)], snapshot=state("r", 1))
        store.save_snapshot("r", state("r", 1), lane_id="side")

    seen = set()
    for directory, _ in every_crash(tmp_path, before, lambda store: store.delete_run("r")):
        with JSONLCheckpointer(directory) as store:
            is_there = store.list_runs() == ["r"]
            seen.add(is_there)
            assert numbers(store, "r") == ([1] if is_there else [])
            assert (store.load_latest("r") is not None) is is_there
            store.save_event(event("r", 2))
            assert store.delete_run("r")
            assert store.list_runs() == []
        assert {path.name for path in directory.iterdir()} == {".locks", ".runstream.json"}
    assert seen == {True, False}


def test_a_failing_disk_writes_all_or_nothing_and_the_same_call_again_writes_once(tmp_path: Path) -> None:
    """At each call, with an error the process lives to see: from the same object and from another."""

    def before(store: Store) -> None:
        store.append("r", [event("r", 1)], snapshot=state("r", 1))

    for fresh in (False, True):
        stores: list[Store] = []
        failed: list[bool] = []

        def act(store: Store, stores: list[Store] = stores, failed: list[bool] = failed) -> None:
            stores.append(store)
            failed.append(True)
            store.recover("r")
            store.append("r", [event("r", 2), event("r", 3)], snapshot=state("r", 3))
            failed[-1] = False

        error = OSError(errno.EIO, "the disk fails")
        for directory, _ in every_crash(tmp_path / str(fresh), before, act, error):
            with JSONLCheckpointer(directory) if fresh else stores[-1] as store:
                assert numbers(store, "r") == ([1] if failed[-1] else [1, 2, 3])
                recovered = store.recover("r")
                assert recovered.state is not None
                assert recovered.state.current_step == (1 if failed[-1] else 3)
                if failed[-1]:
                    store.append("r", [event("r", 2), event("r", 3)], snapshot=state("r", 3))
                assert numbers(store, "r") == [1, 2, 3]
            with JSONLCheckpointer(directory) as store:
                assert numbers(store, "r") == [1, 2, 3]
                loaded = store.load_latest("r")
                assert loaded is not None
                assert loaded.current_step == 3
        assert {True, False} == set(failed)


def test_a_full_disk_in_the_middle_of_a_write_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_events([event("r", 1), event("q", 1)])
        content = files_below(tmp_path)
        write = os.write

        def short_write(handle: int, data: bytes) -> int:
            if len(data) < 2000:
                return write(handle, data)
            write(handle, data[:1000])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", short_write)
        with pytest.raises(StoreUnavailable) as caught:
            store.save_events([event("q", 2), event("r", 2, text="x" * 5000)])
        assert isinstance(caught.value.__cause__, OSError)
        assert files_below(tmp_path) == content
        monkeypatch.undo()
        store.save_events([event("q", 2), event("r", 2, text="x" * 5000)])
        assert numbers(store, "r") == numbers(store, "q") == [1, 2]


def test_what_could_not_be_cut_back_is_cut_back_before_anything_else_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "the disk fails")

    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
        monkeypatch.setattr(os, "fsync", fail)
        monkeypatch.setattr(os, "ftruncate", fail)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                store.save_event(event("r", 2))
            assert readable(store, "r") == [1]  # and what was proven can still be read
        monkeypatch.undo()
        store.save_event(event("r", 2))
        assert numbers(store, "r") == [1, 2]
    with JSONLCheckpointer(tmp_path) as store:
        assert numbers(store, "r") == [1, 2]


def test_a_directory_that_cannot_be_written_is_unavailable_to_writers_and_open_to_readers(tmp_path: Path) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
        with pytest.MonkeyPatch.context() as patch:
            open_ = os.open

            def read_only(path: Any, flags: int, *args: Any, **options: Any) -> int:
                if flags & (os.O_WRONLY | os.O_RDWR):
                    raise OSError(errno.EROFS, "Read-only file system")
                return open_(path, flags, *args, **options)

            patch.setattr(os, "open", read_only)
            with pytest.raises(StoreUnavailable):
                store.save_event(event("r", 2))
            assert numbers(store, "r") == [1]


def test_a_failed_batch_is_not_taken_back_from_under_somebody_who_went_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two runs' batches the second fails; another writer goes on from the first before it is taken back."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "the disk fails")

    write = os.write

    def fail_second(handle: int, data: bytes) -> int:
        if b'"run_id":"q"' in bytes(data):
            fail()
        return write(handle, data)

    with JSONLCheckpointer(tmp_path) as store, JSONLCheckpointer(tmp_path) as another:
        store.save_events([event("r", 1), event("q", 1)])
        monkeypatch.setattr(os, "write", fail_second)
        monkeypatch.setattr(os, "ftruncate", fail)
        with pytest.raises(StoreUnavailable):
            store.save_events([event("r", 2), event("q", 2)])
        monkeypatch.undo()
        another.save_event(event("r", 3))
        assert numbers(another, "r") == [1, 2, 3]
        for use in (store.position, store.run_info, lambda run_id: store.save_event(event(run_id, 4))):
            use("r")
            assert numbers(another, "r")[:3] == [1, 2, 3]
        assert numbers(store, "r") == [1, 2, 3, 4]
        assert numbers(store, "q") == [1]


def test_a_failed_batch_is_taken_back_only_by_who_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader leaves it alone: another writer may be in the middle of going on from it."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "the disk fails")

    with JSONLCheckpointer(tmp_path, busy_timeout_seconds=0.05) as store:
        store.save_event(event("r", 1))
        monkeypatch.setattr(os, "fsync", fail)
        monkeypatch.setattr(os, "ftruncate", fail)
        with pytest.raises(StoreUnavailable):
            store.save_event(event("r", 2))
        monkeypatch.undo()
        content = log_of(tmp_path).read_bytes()
        with Locks(tmp_path, 0.0).held(["r"]):
            assert readable(store, "r") == [1]
            for use in (store.position, store.read_back_snapshots, lambda run_id: store.read_back(run_id, 1, 1)):
                with pytest.raises(StoreUnavailable, match="another process has held"):
                    use("r")
            assert log_of(tmp_path).read_bytes() == content
        position = store.position("r")
        assert position is not None
        assert position.cursor.offset == 1
        assert len(log_of(tmp_path).read_bytes()) < len(content)


@pytest.mark.exhaustive
def test_who_waits_for_a_lock_whose_file_is_removed_takes_the_one_that_others_take(tmp_path: Path) -> None:
    first, second, third = (Locks(tmp_path, seconds) for seconds in (0.0, 1.0, 0.0))
    entered: list[str] = []

    def wait() -> None:
        try:
            with second.held(["r"]):
                entered.append("the second, beside the third")
        except StoreUnavailable:
            entered.append("nobody")

    waiter = threading.Thread(target=wait)
    with ExitStack() as former:
        former.enter_context(first.held(["r"]))
        waiter.start()
        (lock,) = (tmp_path / ".locks").iterdir()
        eventually(lambda: len(handles_of(lock)) == 2)  # the second has opened it too
        lock.unlink()
        with third.held(["r"]):
            former.close()
            waiter.join(DEADLINE_SECONDS)
    assert entered == ["nobody"]


def handles_of(path: Path) -> list[str]:
    """The handles that this process has on a file."""
    found = []
    for handle in Path("/dev/fd").iterdir():
        with suppress(OSError):  # one that is closed by now
            if os.path.samestat(os.fstat(int(handle.name)), path.stat()):
                found.append(handle.name)
    return found


def test_a_new_runs_name_is_on_the_disk_even_if_another_made_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody was killed between making the directory and its fsync."""
    synced: list[int] = []
    fsync = os.fsync

    def noted_fsync(handle: int) -> None:
        fsync(handle)
        synced.append(os.fstat(handle).st_ino)

    with JSONLCheckpointer(tmp_path) as store:
        assert store.archive_id
        (tmp_path / "r").mkdir()
        monkeypatch.setattr(os, "fsync", noted_fsync)
        store.save_event(event("r", 1))
    log, run, base = log_of(tmp_path).stat().st_ino, (tmp_path / "r").stat().st_ino, tmp_path.stat().st_ino
    assert synced.index(base) < synced.index(log)
    assert run in synced[synced.index(log) :]


@pytest.mark.parametrize("is_known", [False, True], ids=["made here", "made by one that was killed then"])
def test_all_directories_that_a_new_archive_lies_in_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    """Before its UUID is given to anybody who may note it elsewhere."""
    if is_known:
        with JSONLCheckpointer(tmp_path / "a" / "b" / "c") as killed:
            assert killed.archive_id
    synced: set[int] = set()
    fsync = os.fsync

    def noted_fsync(handle: int) -> None:
        fsync(handle)
        synced.add(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    with JSONLCheckpointer(tmp_path / "a" / "b" / "c") as store:
        assert store.archive_id
    places = [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"]
    assert {place.stat().st_ino for place in places} <= synced


def test_a_file_system_that_syncs_no_directories_above_it_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, above = os.fsync, tmp_path.stat().st_ino

    def fsync_of_files(handle: int) -> None:
        if os.fstat(handle).st_ino == above:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fsync_of_files)
    with JSONLCheckpointer(tmp_path / "runs") as store:
        store.save_event(event("r", 1))
        assert numbers(store, "r") == [1]
