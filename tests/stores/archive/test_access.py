"""Who may read an archive: its owner, or the group of a directory that this may write to."""

from __future__ import annotations

import grp
import os
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runstream import ConfigurationError, JSONLCheckpointer, SQLiteCheckpointer, connect
from tests.support.samples import make_event, make_events, make_state

KINDS = ["sqlite", "jsonl"]
needs_root = pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root may be two users")

ONE, OTHER, STRANGER, GROUP, NO_GROUP = 64_001, 64_002, 64_003, 64_100, 64_101


def use(url: str, first: int = 1) -> None:
    """Write two runs with snapshots, and delete one: whatever an archive makes."""
    with connect(url) as store:
        for run_id in ("r", "s"):
            store.append(run_id, make_events(run_id, 3, first=first))
            store.save_snapshot(run_id, make_state(run_id))
            store.save_snapshot(run_id, make_state(run_id), lane_id="b")
        store.append("gone", [make_event("gone", first)])
        assert store.delete_run("gone")
        assert len(store.list_events("r")) >= 3


def modes(place: Path) -> dict[str, tuple[str, int]]:
    """Kind, permissions and group of all that is there, by path."""
    found = {}
    for path in sorted(place.rglob("*")):
        facts = path.lstat()
        kind = "d" if stat.S_ISDIR(facts.st_mode) else "f"
        found[str(path.relative_to(place))] = (f"{kind}{stat.S_IMODE(facts.st_mode):o}", facts.st_gid)
    return found


def kinds_of(place: Path) -> set[str]:
    return {mode for mode, _ in modes(place).values()}


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Whatever a process is started with."""
    former = os.umask(request.param)
    yield request.param
    os.umask(former)


def held_open(url: str) -> Any:
    """A store that has written, and still has its log and index."""
    store = connect(url)
    store.save_event(make_event("r"))
    return store


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_archive_is_its_owners_alone(tmp_path: Path, kind: str, umask: int) -> None:
    """Log, index and locks too, in a directory that others may read, as most are."""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o755)
    url = f"{kind}:{place}/archive"
    with held_open(url):
        use(url)
        assert kinds_of(place) <= {"f600", "d700"}
        assert len(modes(place)) >= 3


def test_the_directories_above_it_are_made_so_too(tmp_path: Path, umask: int) -> None:
    use(f"jsonl:{tmp_path}/a/b/c")
    assert kinds_of(tmp_path) == {"f600", "d700"}


def test_an_archive_in_a_directory_that_was_made_for_it(tmp_path: Path, umask: int) -> None:
    """The directory stays as it is."""
    place = tmp_path / "archive"
    place.mkdir()
    place.chmod(0o755)
    use(f"jsonl:{place}")
    assert stat.S_IMODE(place.stat().st_mode) == 0o755
    assert kinds_of(place) == {"f600", "d700"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mode_that_was_asked_for(tmp_path: Path, kind: str, umask: int) -> None:
    url = f"{kind}:{tmp_path}/archive?mode=0640"
    with held_open(url):
        use(url)
        assert kinds_of(tmp_path) <= {"f640", "d750"}
        assert "f640" in kinds_of(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_exists_keeps_its_mode(tmp_path: Path, kind: str) -> None:
    """An archive of an earlier version, which others may read: what is made in it takes after it."""
    url = f"{kind}:{tmp_path}/archive"
    use(url)
    for path in [*tmp_path.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    with held_open(f"{url}?keep_snapshots=1"):
        with connect(f"{url}?keep_snapshots=1") as store:
            for number in range(4):
                store.append("new", [make_event("new", number)], snapshot=make_state("new", current_step=number))
            store.save_snapshot("r", make_state("r", current_step=1))
            store.delete_run("s")
        assert kinds_of(tmp_path) <= {"f644", "d755"}


@pytest.mark.parametrize("mode", ["0400", "0777", "0800", "rw", "", "-1"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_mode_is_refused(tmp_path: Path, kind: str, mode: str) -> None:
    with pytest.raises(ConfigurationError, match="mode"):
        connect(f"{kind}:{tmp_path}/archive?mode={mode}")
    wrong: Any = mode
    with pytest.raises(ConfigurationError, match="mode"):
        (SQLiteCheckpointer if kind == "sqlite" else JSONLCheckpointer)(tmp_path / "archive", mode=wrong)
    assert list(tmp_path.iterdir()) == []


# -- two users -------------------------------------------------------------------------------------------


def as_user(user: int, groups: list[int], work: Callable[[], object]) -> str:
    """Do it in a child that is this user; "" if it went well, else what was raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = ""
        try:
            os.setgroups(groups)
            os.setgid(user)
            os.setuid(user)
            os.umask(0o022)
            work()
        except BaseException:  # noqa: BLE001 - the parent tells
            said = traceback.format_exc()
        os.write(writer, said.encode()[-4000:])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that a group may write to, where everybody may come to."""
    with tempfile.TemporaryDirectory(prefix="runstream-") as directory:
        Path(directory).chmod(0o755)
        place = Path(directory, "shared")
        place.mkdir()
        os.chown(place, 0, GROUP)
        place.chmod(0o775)
        yield place


@pytest.mark.one_in(2)
@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_two_users_of_a_group_share_an_archive(shared: Path, kind: str) -> None:
    """Each reads and writes what the other made; a stranger does neither."""
    assert GROUP not in {group.gr_gid for group in grp.getgrall()}
    shared.chmod(0o770)
    url = f"{kind}:{shared}/archive"
    assert as_user(ONE, [GROUP], lambda: use(url)) == ""
    assert as_user(OTHER, [GROUP], lambda: use(url, 4)) == ""
    with connect(url):
        assert as_user(ONE, [GROUP], lambda: use(url, 7)) == ""
    for path, (mode, group) in modes(shared).items():
        assert (mode, group) in {("f660", GROUP), ("d2770", GROUP)}, path
    assert "Error" in as_user(STRANGER, [NO_GROUP], lambda: use(url))


@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_who_is_not_of_the_group_keeps_it_to_himself(shared: Path, kind: str) -> None:
    """Who may write to the directory for another reason cannot give it to the group."""
    os.chown(shared, ONE, GROUP)
    assert as_user(ONE, [], lambda: use(f"{kind}:{shared}/archive")) == ""
    assert kinds_of(shared) <= {"f600", "d700"}


@pytest.mark.one_in(2)
@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_another_user_reads_nothing_of_a_new_archive(shared: Path, kind: str) -> None:
    shared.chmod(0o755)
    os.chown(shared, ONE, NO_GROUP)
    url = f"{kind}:{shared}/archive"
    assert as_user(ONE, [], lambda: use(url)) == ""
    for path in [path for path in shared.rglob("*") if path.is_file()]:
        assert "PermissionError" in as_user(OTHER, [], path.read_bytes)
    assert "Error" in as_user(OTHER, [], lambda: connect(url).list_runs())


@pytest.mark.one_in(2)
@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_who_may_read_by_its_mode_reads(shared: Path, kind: str) -> None:
    """Of the owner's group, in a directory that all may enter. SQLite's readers write to its index."""
    shared.chmod(0o755)
    os.chown(shared, ONE, NO_GROUP)
    url = f"{kind}:{shared}/archive?mode=0640"
    assert as_user(ONE, [], lambda: use(url)) == ""
    assert {mode for mode, _ in modes(shared).values()} <= {"f640", "d750"}
    for path in [path for path in shared.rglob("*") if path.is_file()]:
        assert as_user(OTHER, [ONE], path.read_bytes) == ""
        assert "PermissionError" in as_user(STRANGER, [], path.read_bytes)
