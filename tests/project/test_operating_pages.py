"""What the pages for operators say holds: backups, what is put back, several workers, the unit for systemd."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from runstream import DrainWorker, JSONLCheckpointer, SQLiteCheckpointer, connect
from runstream.cli import app
from tests.project.test_project import ROOT, check_command_line
from tests.support.commands import Place, run, shell_environment
from tests.support.samples import make_events, make_state
from tests.support.servers import DEADLINE_SECONDS, eventually, needs_server

UNIT = ROOT / "docs/systemd/runstream-drain.service"


def blocks(page: str, language: str, having: str = "") -> list[str]:
    """The blocks of a page in a language that have some text."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for block in found if having in block]


def command_of(page: str, *words: str) -> str:
    """The command of a page that has these words."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    (command,) = (line for line in lines if all(word in line for word in words))
    return command


def run_line(command: str, **environment: str) -> None:
    """Run a command of a page as it stands."""
    said = run(*shlex.split(command)[1:], **environment)
    assert said.code == 0, said.err


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A server, and a directory for archives, which is the current one."""
    monkeypatch.chdir(tmp_path)
    with closing(Place(tmp_path)) as place:
        yield place


@contextmanager
def busy(place: Place) -> Iterator[None]:
    """Events and states come all the while."""
    stop = threading.Event()

    def write() -> None:
        with closing(connect(place.url)) as store, store.open_run("busy") as run:
            while not stop.is_set():
                run.emit("tool.result", text="x" * 100)
                run.checkpoint()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


@contextmanager
def working(place: Place, archive: SQLiteCheckpointer[Any, Any]) -> Iterator[None]:
    """A worker archives all the while."""
    stop = threading.Event()
    worker = threading.Thread(target=DrainWorker(place.store, [archive], poll_seconds=0.01).run, args=(stop,))
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()


@needs_server
def test_a_backup_by_the_program_of_the_page_is_whole_while_a_worker_writes(place: Place) -> None:
    """It is proven by the page's own command, and has what was archived when it was made."""
    (program,) = blocks("backup.md", "python")
    with busy(place), SQLiteCheckpointer[Any, Any]("runs.db") as archive, working(place, archive):
        eventually(lambda: place.archived("busy") > 10)
        before = place.archived("busy")
        exec(program, {})
        eventually(lambda: place.archived("busy") > before + 10)
        with SQLiteCheckpointer[Any, Any]("backup.db") as backup:
            assert before <= len(backup.list_events("busy")) < len(archive.list_events("busy"))
    run_line(command_of("backup.md", "verify", "backup.db"))


@needs_server
@pytest.mark.exhaustive
def test_a_copy_of_a_directory_by_the_steps_of_the_page_is_whole_while_agents_write(place: Place) -> None:
    (steps,) = blocks("backup.md", "sh", "cp -a")
    script = f"runstream drain --to jsonl:runs & worker=$!\nread _\n{steps}\nread _ || kill $worker\nwait $worker"
    shell = subprocess.Popen(
        ["bash", "-ec", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=shell_environment(place.directory, place.url),
    )
    with shell, busy(place):
        assert shell.stdin is not None
        eventually(lambda: place.archived("busy") > 10)
        shell.stdin.write(b"\n")
        shell.stdin.flush()
        eventually((place.directory / "runs-backup").is_dir)
        before = place.archived("busy")
        eventually(lambda: place.archived("busy") > before + 10)  # the second worker works
        shell.stdin.close()
        assert shell.wait(DEADLINE_SECONDS) == 0
    run_line(command_of("backup.md", "verify", "runs-backup"))
    with JSONLCheckpointer[Any, Any]("runs-backup") as backup:
        assert 10 < len(backup.list_events("busy")) < place.archived("busy")


@needs_server
def test_a_lost_server_is_filled_from_a_backup_by_the_command_of_the_page(place: Place) -> None:
    """Agents go on from there: offsets and state are what they were."""
    place.emit("r", 20)
    state = make_state("r")
    place.store.save_snapshot("r", state)
    run_line("runstream drain --to sqlite:backup.db --once", RUNSTREAM_URL=place.url)
    place.kill_server()
    place.start_server()
    run_line(command_of("backup.md", "restore --from", "backup.db"), RUNSTREAM_URL=place.url)
    with closing(connect(place.url)) as store:
        assert store.load_latest("r") == state
        assert store.append("r", make_events("r", 1)).first_offset == 21


@needs_server
def test_each_run_is_in_the_archives_of_its_partition(place: Place) -> None:
    """By the commands of the page, each for half of the partitions: they have all between them, and none twice."""
    (commands,) = blocks("workers.md", "sh", "--partitions")
    run_ids = sorted(f"r{number}" for number in range(24))
    for run_id in run_ids:
        place.emit(run_id, 2)
    for line in commands.splitlines():
        run_line(line, RUNSTREAM_URL=place.url)
    run_line("runstream status --check", RUNSTREAM_URL=place.url)
    with SQLiteCheckpointer[Any, Any]("low.db") as low, SQLiteCheckpointer[Any, Any]("high.db") as high:
        assert sorted([*low.list_runs(), *high.list_runs()]) == run_ids
        assert low.list_runs()
        assert high.list_runs()


@needs_server
def test_what_has_ended_long_ago_is_deleted_by_the_program_of_the_page(place: Place) -> None:
    """In Redis and in the archive; what is younger, or has not ended, stays."""
    (program,) = blocks("workers.md", "python")
    program = program.replace("redis://localhost", place.url)
    for run_id in ("old", "open"):
        place.emit(run_id, 2)
    place.store.save_snapshot("old", make_state("old", status="completed"))
    run_line("runstream drain --to sqlite:runs.db --once", RUNSTREAM_URL=place.url)
    exec(program, {})
    assert sorted(place.store.list_runs()) == ["old", "open"]
    exec(program.replace("30 * 24 * 3600", "-60"), {})
    assert place.store.list_runs() == ["open"]
    with SQLiteCheckpointer[Any, Any]("runs.db") as archive:
        assert archive.list_runs() == ["open"]


def unit() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign] # names as they are written
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser


def test_the_unit_starts_a_worker_and_gives_it_time_to_end() -> None:
    service = unit()["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert program == "/opt/runstream/bin/runstream"
    check_command_line(arguments)
    assert f"/var/lib/{service['StateDirectory']}/" in service["ExecStart"]
    assert "redis:" not in service["ExecStart"], "a URL has a password"
    group: Any = get_command(app)
    (grace,) = (parameter.default for parameter in group.commands["drain"].params if parameter.name == "grace")
    assert float(service["TimeoutStopSec"]) > grace + 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_knows_every_line_of_the_unit(tmp_path: Path) -> None:
    """It checks that the program is there: another one stands for it."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/runstream/bin/runstream", "/bin/true"))
    check = ["systemd-analyze", "verify", str(copy)]
    done = subprocess.run(check, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")
