"""The pages name files that are there, and their examples run."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from purpose_agent.runtime.checkpoint import SQLiteCheckpointer as ForeignCheckpointer

from runstream import JSONLCheckpointer, SQLiteCheckpointer
from runstream.stores.redis.namespace import namespace_of
from tests.project.test_project import check_command_line
from tests.support.commands import Place, run, shell_environment
from tests.support.servers import DEADLINE_SECONDS, eventually, needs_server

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "runstream"


@pytest.mark.parametrize(
    "page", ["docs/architecture.md", "docs/formats.md", "docs/protocol.md", "CONTRIBUTING.md"]
)
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    """A path is one of the repository, or one below ``src/runstream``, or the end of one that was named before."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w.]+/)*[\w.]+\.(?:py|lua|md|toml))`", text))
    named |= set(re.findall(r"`((?:\w+/)+)`", text))
    assert named
    files = [*PACKAGE.rglob("*"), *(ROOT / "tests").rglob("*"), *(ROOT / "docs").rglob("*")]
    ends = {path.relative_to(ROOT).as_posix() for path in [*files, *ROOT.iterdir()]}
    missing = [
        name for name in sorted(named) if not any(f"/{end}".endswith(f"/{name.rstrip('/')}") for end in ends)
    ]
    assert not missing


def test_the_page_of_the_protocol_names_every_script() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    scripts = {path.name for path in (PACKAGE / "stores" / "redis" / "scripts").glob("*.lua")}
    assert scripts == set(re.findall(r"`(\w+\.lua)`", page))


def test_every_link_of_a_page_leads_to_a_page_and_a_heading() -> None:
    """Within the repository; a heading by the name that GitHub gives it."""
    pages = {page: without_blocks(page) for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]}
    links = [
        (page, file, anchor)
        for page, text in pages.items()
        for file, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)", text)
    ]
    assert len(links) > 100
    for page, file, anchor in links:
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), (page.name, file)
        headings = re.findall(r"^#+ (.*)$", pages.get(target, ""), re.MULTILINE)
        names = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in names, (page.name, file, anchor)


def test_no_command_of_a_page_has_a_password_among_its_arguments() -> None:
    """Others on the machine see them."""
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        lines = re.findall(r"^ *(?:runstream|redis-cli) .*", page.read_text("utf-8"), re.MULTILINE)
        assert not [line for line in lines if re.search(r"://[^/\s]*:[^/\s]*@|redis-cli.* (-a|--pass) ", line)], (
            page
        )


def without_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    "page",
    [
        "docs/values.md",
        "docs/upcasts.md",
        "docs/people.md",
        "docs/lanes.md",
        "docs/erasing.md",
        "docs/look-ups.md",
        "docs/steps.md",
        "docs/diffs.md",
        "docs/following.md",
        "docs/forks.md",
        "docs/tags.md",
        "docs/web.md",
        "docs/tracing.md",
    ],
)
def test_the_examples_of_a_page_run_as_they_stand(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one directory, which is empty at first."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(
    "page",
    [
        "docs/rights.md",
        "docs/people.md",
        "docs/diffs.md",
        "docs/forks.md",
        "docs/tags.md",
        "docs/langgraph.md",
        "docs/monitoring.md",
        "docs/workers.md",
        "docs/backup.md",
        "docs/web.md",
        "docs/tracing.md",
    ],
)
def test_the_commands_of_a_page_are_commands(page: str) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    lines = [
        shlex.split(re.split(" [|&] ", line)[0], comments=True) for block in blocks for line in block.splitlines()
    ]
    commands = [line[1:] for line in lines if line[:1] == ["runstream"]]
    assert commands
    for arguments in commands:
        check_command_line(arguments)


def test_the_commands_of_the_page_about_upcasts_are_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the one that shows a run shows the page's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    text = (ROOT / "docs/upcasts.md").read_text("utf-8")
    first, second = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    exec(first, {})
    (tmp_path / "page_schema.py").write_text(second, encoding="utf-8")
    (commands,) = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line.split()[1:] for line in commands.splitlines()]
    for line in lines:
        check_command_line(line)
    said = run(*lines[0][:-1], "page_schema:upcasts", "--json")
    del sys.modules["page_schema"]
    assert [event["kind"] for event in said.document["events"]] == ["tool.started"]


OPERATIONS = re.findall(
    r"^```sh\n(.*?)^```", (ROOT / "docs/operations.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
)


@pytest.mark.exhaustive
def test_the_commands_of_the_page_about_operations_are_commands() -> None:
    lines = [line.partition(" &")[0] for block in OPERATIONS for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("runstream ")]
    assert len(commands) > 10
    for arguments in commands:
        check_command_line([word.removeprefix("@") for word in arguments])  # a file of @FILE is not there


@needs_server
@pytest.mark.exhaustive
def test_an_archive_is_added_by_the_steps_of_the_page_while_archiving_goes_on(tmp_path: Path) -> None:
    """Events come all the while; each is archived within seconds, and in the end both archives have all."""
    (steps,) = (block for block in OPERATIONS if "archives add" in block)
    waiting = "until grep -q 'old begins' said && grep -q 'new waits' said; do sleep 0.05; done"
    steps = steps.replace("& new=$!", f"& new=$!\n{waiting}")
    with closing(Place(tmp_path)) as place, (tmp_path / "said").open("w") as err:
        place.emit("r", 5)
        assert run("drain", "--url", place.url, "--to", f"sqlite:{tmp_path}/runs.db", "--once").code == 0
        script = subprocess.Popen(
            ["bash", "-ec", f"{steps}\nread _ || kill $new\nwait $new"],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=err,
            env=shell_environment(tmp_path, place.url),
            start_new_session=True,
        )
        try:
            seq, longest = _write_until_it_is_added(place)
            script.communicate(timeout=DEADLINE_SECONDS)  # its end of input
        finally:
            with suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)
            script.wait()
        said = (tmp_path / "said").read_text(encoding="utf-8")
        assert script.returncode == 0, said
        assert longest < DEADLINE_SECONDS / 3, said
        assert "is parked" not in said
    with SQLiteCheckpointer(tmp_path / "runs.db") as former, JSONLCheckpointer(tmp_path / "copy") as late:
        assert len(former.list_events("r")) == len(late.list_events("r")) == seq


def _write_until_it_is_added(place: Place) -> tuple[int, float]:
    """How many events were written, one after the other, and for how long one of them was not archived at most."""
    seq, longest = 5, 0.0
    until = time.monotonic() + DEADLINE_SECONDS
    while len(namespace_of(place.store).status().archives) < 2 or seq < 30:
        assert time.monotonic() < until
        began, seq = time.monotonic(), seq + 1
        place.emit("r", 1, first=seq)
        eventually(lambda seq=seq: place.archived("r") == seq)  # type: ignore[misc] # bound at once
        if seq > 6:  # the first waits until the workers are there
            longest = max(longest, time.monotonic() - began)
    return seq, longest


@needs_server
def test_the_page_about_purpose_agent_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/purpose-agent.md").read_text("utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    answers = re.findall(r"^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (commands,) = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for example, said in zip(examples, answers, strict=True):
        exec(example, {})
        assert capsys.readouterr().out == said
    status, *others = (run(*line.split()[1:]) for line in commands.splitlines())
    assert [one.code for one in (status, *others)] == [0, 0, 0, 0]
    assert "foreign events" in status.out
    with SQLiteCheckpointer("runs.db") as archive:
        assert [event.seq for event in archive.list_events("trip")] == [1, 2]
    theirs = ForeignCheckpointer("runs.db")
    assert [event.seq for event in theirs.list_events("trip")] == [1, 2]


def test_the_page_about_langgraph_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its examples go on with one another's graph and threads; the commands about its files show these threads."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/langgraph.md").read_text("utf-8")
    names: dict[str, object] = {"__name__": "__main__"}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(compile(block, "docs/langgraph.md", "exec", dont_inherit=True), names)
    assert "a person said no" in run("show", "trip-42-again", "--url", "sqlite:threads.db").out
