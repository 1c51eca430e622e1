"""``runstream demo``: kill agents and the worker on your own machine, and see that nothing is lost."""

from __future__ import annotations

import secrets
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from runstream.cli.demo.agent import Task
from runstream.cli.demo.checks import Check, check
from runstream.cli.demo.display import Display
from runstream.cli.demo.journal import read_journal
from runstream.cli.demo.page import shown_page
from runstream.cli.demo.processes import Interruption
from runstream.cli.demo.scenario import DemoFiles, Scenario, ScenarioResult, plan
from runstream.cli.support.exit_codes import ExitCode
from runstream.cli.support.options import AsJson
from runstream.cli.support.output import emit_json, print_table, printable, say
from runstream.connect import connect
from runstream.model.errors import ConfigurationError
from runstream.stores.capabilities import part_of
from runstream.stores.facade import Store
from runstream.stores.redis.namespace import Namespace

__all__ = ["EPILOG", "demo"]

EPILOG = """Examples:

runstream demo

runstream demo --web

runstream demo --rm --json"""

_POLL_SECONDS = 0.1
_SHOWN_PROBLEMS = 5  # of each check, in the table's words
_QUERY = "SELECT kind, count(*) FROM events GROUP BY kind"


def demo(
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            file_okay=False,
            help="A new or empty directory for server, archives and logs.",
            show_default="runstream-demo-XXXX in the current one",
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep/--rm",
            " /--no-keep",
            help="Keep the directory, or remove it at the end, and at Ctrl-C; one that fails is kept.",
        ),
    ] = True,
    seed: Annotated[
        int | None,
        typer.Option(help="Who is killed, and what the agents say, follows from it.", show_default="random"),
    ] = None,
    web: Annotated[
        bool,
        typer.Option("--web", help="Show the runs in the browser, live, and after the checks until Ctrl-C."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Kill agents and the drain worker, and check that no acknowledged event is lost, doubled or out of order.

    Starts a server of its own, five agents in three runs and a worker that archives to SQLite and JSONL;
    kills an agent and the worker with SIGKILL, starts them again, and compares Redis and both archives
    with what was acknowledged. Takes about 10 seconds; exits with 1 if anything does not hold.
    """
    began = time.monotonic()
    seed = secrets.randbelow(10_000) if seed is None else seed
    tasks = plan(seed)
    with Interruption() as interruption:
        files = DemoFiles(_new_directory(directory))
        say(f"starts a server of its own in {files.directory}, and agents; all takes about 10 seconds")
        with _removed_if_interrupted(files, not keep), ExitStack() as opened:
            store = _open_server(opened, files)
            if web:
                say(f"the page of its runs: {opened.enter_context(shown_page(files))}")
            with Display(tasks) as display:
                scenario = Scenario(files, store, tasks, seed=seed, display=display, interruption=interruption)
                outcome = scenario.run()
            checks = [_agent_resumed(outcome), *_check(files, store, tasks)]
            interruption.check()
            holds = all(one.holds for one in checks)
            is_kept = keep or not holds
            if as_json:
                facts = {"seed": seed, "holds": holds, "directory": str(files.directory), "kept": is_kept}
                took = round(time.monotonic() - began, 2)
                emit_json({**facts, **_facts(files, outcome, checks), "seconds": took})
            else:
                _print(files, outcome, checks, is_kept=is_kept)
            if web:
                say("the page is there until Ctrl-C")
                while not interruption.has_come:
                    time.sleep(_POLL_SECONDS)
    if not is_kept:
        shutil.rmtree(files.directory)
    if not holds:
        raise typer.Exit(ExitCode.DOES_NOT_HOLD)


def _new_directory(directory: Path | None) -> Path:
    try:
        if directory is None:
            return Path(Path(tempfile.mkdtemp(prefix="runstream-demo-", dir=Path.cwd())).name)
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise ConfigurationError(f"{directory} is not empty; the demo needs a new or empty directory")
    except OSError as error:
        raise ConfigurationError(f"no directory for the demo: {error}; name one with --dir") from error
    return directory


@contextmanager
def _removed_if_interrupted(files: DemoFiles, is_asked: bool) -> Iterator[None]:
    try:
        yield
    except SystemExit:
        if is_asked:
            shutil.rmtree(files.directory)
        raise


def _open_server(opened: ExitStack, files: DemoFiles) -> Store[Any, Any]:
    try:
        files.build()
        store = opened.enter_context(connect(files.server_url))
    except BaseException:  # whatever it is: nothing was begun, so there is nothing to keep
        shutil.rmtree(files.directory)
        raise
    if part_of(store, Namespace) is None:
        raise ConfigurationError(f"{files.server_url} is not Redis")
    return store


def _check(files: DemoFiles, store: Store[Any, Any], tasks: Mapping[str, Task]) -> list[Check]:
    acknowledged = [line for task in tasks.values() for line in read_journal(files.journal(task))]
    steps = {(task.run_id, task.lane_id): task.steps for task in tasks.values()}
    with ExitStack() as opened:
        archives = {name: opened.enter_context(connect(url)) for name, url in files.archive_urls.items()}
        return check(store, archives, acknowledged, steps)


def _agent_resumed(outcome: ScenarioResult) -> Check:
    """Check the agent that was killed: its journal has how far it was, its report from where it went on."""
    result = Check("an agent that was killed goes on where it was", "agents")
    for kill in outcome.kills:
        if kill["process"] == "agent":
            result.checked += 1
            resumed = outcome.agents[kill["name"]]["resumed"]
            if resumed is None or resumed["step"] < kill["step"]:
                found = "from its beginning" if resumed is None else f"at step {resumed['step']}"
                result.problems.append(f"{kill['name']} was killed at step {kill['step']} and went on {found}")
    return result


def _facts(files: DemoFiles, outcome: ScenarioResult, checks: Sequence[Check]) -> dict[str, Any]:
    return {
        "archives": files.archive_urls,
        "kills": outcome.kills,
        "agents": list(outcome.agents.values()),
        "worker": outcome.worker,
        "checks": [
            {"promise": one.promise, "checked": one.checked, "holds": one.holds, "problems": one.problems}
            for one in checks
        ],
        "play_seconds": round(outcome.seconds, 2),
    }


def _print(files: DemoFiles, outcome: ScenarioResult, checks: Sequence[Check], *, is_kept: bool) -> None:
    for name, agent in outcome.agents.items():
        if (resumed := agent["resumed"]) is not None:
            typer.echo(
                f"\n{name} was killed; it resumed at step {resumed['step']} from the snapshot at offset"
                f" {resumed['snapshot_offset']} and {resumed['replayed_events']} later events.\n"
            )
    print_table(["", "what was checked", "how many"], [_row(one) for one in checks])
    for one in checks:
        for problem in one.problems[:_SHOWN_PROBLEMS]:
            typer.echo(printable(f"✗ {problem}"))
        if len(one.problems) > _SHOWN_PROBLEMS:
            typer.echo(f"✗ … {len(one.problems)} of these in all; --json tells each")
    if not is_kept:
        return
    sqlite = files.archive_urls["SQLite"]
    typer.echo()
    typer.echo(printable(f"The archive is in {files.directory}. Look at it:"))
    typer.echo(printable(f"  runstream runs --url {sqlite}"))
    typer.echo(printable(f"  runstream show orders --url {sqlite} --limit 20"))
    typer.echo(printable(f"  {shlex.join(['sqlite3', sqlite.removeprefix('sqlite:'), _QUERY])}"))


def _row(one: Check) -> tuple[str, str, str]:
    return "✓" if one.holds else "✗", one.promise, f"{one.checked} {one.unit}"
