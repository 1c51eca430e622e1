"""What the files around the code promise: the README, docker-compose.yml, the Dockerfile, .ci/run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from typer.main import get_command

from runstream.cli import app
from tests.support.servers import PROGRAMS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def check_command_line(arguments: list[str]) -> None:
    """Parse a command line of runstream without running it; click raises what it does not accept."""
    group: Any = get_command(app)  # typer's own classes, which its types do not show
    name, *rest = arguments
    command = group.commands[name]
    with command.make_context(name, rest):
        pass


def test_the_readme_examples_print_what_the_readme_says(tmp_path: Path) -> None:
    """They are run as they stand, in an empty directory; the one that repeats a step, twice."""
    first, second = blocks("python")
    first_prints, second_prints = blocks("text")[:2]
    for example, prints in ((first, first_prints), (second, second_prints), (second, second_prints)):
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", example],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout == prints


def test_every_command_in_the_readme_is_one() -> None:
    """Names and options of runstream's own commands, as the README writes them."""
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("runstream ")]
    assert commands
    for line in commands:
        check_command_line(shlex.split(line, comments=True)[1:])


def test_ci_runs_the_readmes_own_test_command() -> None:
    """`.ci/run` takes the command out of the README: there is one, and it is whole."""
    commands = re.findall(r"^(python3 -m venv .*-m pytest.*)$", README, re.MULTILINE)
    assert len(commands) == 1
    assert "sed -n 's/^\\(python3 -m venv .*-m pytest.*\\)$/\\1/p' README.md" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("service", [name for name, facts in COMPOSE["services"].items() if "build" in facts])
def test_every_service_of_ours_runs_a_command_that_exists(service: str) -> None:
    """Its name and all its options are accepted."""
    check_command_line(COMPOSE["services"][service]["command"])


def test_the_compose_file_has_the_parts_it_promises() -> None:
    """Redis with AOF and a health check, a worker that archives to a volume, two agents in lanes of one run."""
    services = COMPOSE["services"]
    assert set(services) == {"redis", "drain", "researcher", "writer"}
    assert services["redis"]["healthcheck"]["test"] == ["CMD", "redis-cli", "ping"]
    mounts = [volume.partition(":") for facts in services.values() for volume in facts.get("volumes", [])]
    assert {volume for volume, _, _ in mounts} == set(COMPOSE["volumes"])
    archive = next(target for volume, _, target in mounts if volume == "archive")
    sinks = [
        part.partition(":")[2] for part in services["drain"]["command"] if part.startswith(("sqlite:", "jsonl:"))
    ]
    assert len(sinks) == 2
    assert all(sink.startswith(f"{archive}/") for sink in sinks)
    agents = [services[name]["command"] for name in ("researcher", "writer")]
    runs, lanes = ([line[line.index(option) + 1] for line in agents] for option in ("--run", "--lane"))
    assert len(set(runs)) == 1
    assert len(set(lanes)) == 2
    for name in ("drain", "researcher", "writer"):
        assert services[name]["depends_on"]["redis"]["condition"] == "service_healthy"
        assert services[name]["environment"]["RUNSTREAM_URL"].startswith("redis://redis:")


def option(service: str, name: str) -> str:
    """What a service's command line gives an option."""
    line: list[str] = COMPOSE["services"][service]["command"]
    return line[line.index(name) + 1]


def test_the_compose_files_drain_has_a_health_check_at_its_own_port() -> None:
    """It asks where the worker listens; what it runs is tried in tests/cli/test_metrics.py."""
    drain = COMPOSE["services"]["drain"]
    port = option("drain", "--metrics-port")
    assert drain["expose"] == [port]
    assert option("drain", "--metrics-host") == "0.0.0.0"
    kind, program, flag, code = drain["healthcheck"]["test"]
    assert (kind, program, flag) == ("CMD", "python", "-c")
    assert f"http://127.0.0.1:{port}/health" in code
    assert "metrics" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_compose_file_gives_a_worker_longer_to_end_than_it_needs() -> None:
    """A platform that kills sooner than the worker gives up would make its promise untrue."""
    group: Any = get_command(app)
    (grace,) = (parameter.default for parameter in group.commands["drain"].params if parameter.name == "grace")
    assert "--grace" not in COMPOSE["services"]["drain"]["command"]
    assert float(COMPOSE["services"]["drain"]["stop_grace_period"].removesuffix("s")) > grace + 1


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Poll until the condition holds, as long as the process lives."""
    deadline = time.monotonic() + 20
    while not condition():
        assert process.poll() is None, "the server refused its options"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_compose_files_redis_options_are_accepted_by_a_real_server(name: str) -> None:
    """The server starts with them, and they are in force."""
    _, *options = COMPOSE["services"]["redis"]["command"]
    with tempfile.TemporaryDirectory() as directory:
        place = f"{directory}/s"
        process = subprocess.Popen(
            [PROGRAMS[name], *options, "--port", "0", "--unixsocket", place, "--dir", directory],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            with redis.Redis(unix_socket_path=place) as client:
                until(lambda: answers(client), process)
                config: Any = client.config_get("*")
                assert config["appendonly"] == "yes"
                assert config["appendfsync"] == "everysec"
                assert config["maxmemory-policy"] == "noeviction"
        finally:
            process.terminate()
            process.wait(20)


def test_the_image_runs_the_command_line_without_root() -> None:
    """The Dockerfile copies only what there is, ends as another user than root, and starts runstream."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    stages = [line for line in lines if line.startswith("FROM ")]
    assert all("slim" in stage for stage in stages)
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users[-1:] == ["runstream"]
    assert 'ENTRYPOINT ["runstream"]' in lines
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in allowed
