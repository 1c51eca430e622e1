"""What docker-compose.yml promises: its parts, their commands and options, and the files that it mounts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from runstream import connect
from runstream.cli import app
from tests.project.test_project import ROOT, check_command_line
from tests.support.commands import run
from tests.support.samples import make_event
from tests.support.servers import DEADLINE_SECONDS, PROGRAMS, Node, eventually, free_port

TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]
NODES = ["node-1", "node-2", "node-3"]


def of_profile(profile: str | None) -> set[str]:
    """The services that a profile starts; None: those that start without one."""
    wanted = [] if profile is None else [profile]
    return {name for name, facts in SERVICES.items() if facts.get("profiles", []) == wanted}


def option(service: str, name: str) -> str:
    """What a service's command line gives an option."""
    line: list[str] = SERVICES[service]["command"]
    return line[line.index(name) + 1]


def mounts(service: str) -> dict[str, str]:
    """What a service mounts, by where it finds it."""
    volumes = [volume.removesuffix(":ro").rpartition(":") for volume in SERVICES[service].get("volumes", [])]
    return {target: source for source, _, target in volumes}


def mounted(service: str, target: str) -> Any:
    """What is in a file that a service mounts."""
    text = (ROOT / mounts(service)[target]).read_text(encoding="utf-8")
    return json.loads(text) if target.endswith(".json") else yaml.safe_load(text)


def test_each_profile_has_the_parts_that_it_promises() -> None:
    assert of_profile(None) == {"redis", "drain", "researcher", "writer"}
    assert of_profile("metrics") == {"prometheus", "grafana"}
    assert of_profile("cluster") == {*NODES, "cluster"}
    (url,) = re.findall(r"RUNSTREAM_COMPOSE_URL=(\S+)", TEXT)
    assert url == f"redis+cluster://{','.join(NODES)}"
    assert sum(map(len, map(of_profile, (None, "metrics", "cluster")))) == len(SERVICES)


@pytest.mark.parametrize("service", [name for name, facts in SERVICES.items() if "build" in facts])
def test_every_service_of_ours_runs_a_command_that_exists(service: str) -> None:
    """Its name and all its options are accepted."""
    check_command_line(SERVICES[service]["command"])


def test_the_compose_file_has_the_parts_it_promises() -> None:
    """Redis with AOF and a health check, a worker that archives to a volume, two agents in lanes of one run."""
    assert SERVICES["redis"]["healthcheck"]["test"] == ["CMD", "redis-cli", "ping"]
    archive = next(target for target, source in mounts("drain").items() if source == "archive")
    sinks = [
        part.partition(":")[2] for part in SERVICES["drain"]["command"] if part.startswith(("sqlite:", "jsonl:"))
    ]
    assert len(sinks) == 2
    assert all(sink.startswith(f"{archive}/") for sink in sinks)
    agents = [SERVICES[name]["command"] for name in ("researcher", "writer")]
    runs, lanes = ([line[line.index(option) + 1] for line in agents] for option in ("--run", "--lane"))
    assert len(set(runs)) == 1
    assert len(set(lanes)) == 2
    for name in ("drain", "researcher", "writer"):
        assert SERVICES[name]["depends_on"]["redis"]["condition"] == "service_healthy"
        url = SERVICES[name]["environment"]["RUNSTREAM_URL"]
        assert url == "${RUNSTREAM_COMPOSE_URL:-redis://redis:6379/0}"


def test_all_that_is_mounted_is_there() -> None:
    """Files of the repository, and volumes that the file declares and no two of its servers share."""
    sources = [source for name in SERVICES for source in mounts(name).values()]
    files = {source for source in sources if source.startswith("./")}
    assert files
    assert all((ROOT / file).is_file() for file in files)
    volumes = [source for source in sources if source not in files]
    assert sorted(volumes) == sorted(yaml.safe_load(TEXT)["volumes"])


def test_the_compose_files_drain_has_a_health_check_at_its_own_port() -> None:
    """It asks where the worker listens; what it runs is tried in tests/cli/test_metrics.py."""
    drain = SERVICES["drain"]
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
    assert "--grace" not in SERVICES["drain"]["command"]
    assert float(SERVICES["drain"]["stop_grace_period"].removesuffix("s")) > grace + 1


# -- profile metrics


def test_prometheus_scrapes_the_worker_and_has_the_alert_rules() -> None:
    """What each file names is where the compose file puts it."""
    (config,) = re.findall(r"--config\.file=(\S+?)[\"\]]", TEXT)
    settings = mounted("prometheus", config)
    assert [mounted("prometheus", file)["groups"][0]["name"] for file in settings["rule_files"]] == ["runstream"]
    (scraped,) = settings["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": [f"drain:{option('drain', '--metrics-port')}"]}]
    (storage,) = re.findall(r"--storage\.tsdb\.path=(\S+?)[\"\]]", TEXT)
    assert mounts("prometheus")[storage] == "prometheus"


def test_grafana_has_the_dashboard_and_finds_prometheus() -> None:
    provisioned = "/etc/grafana/provisioning"
    (source,) = mounted("grafana", f"{provisioned}/datasources/runstream.yml")["datasources"]
    port = SERVICES["prometheus"]["ports"][0].rpartition(":")[2]
    assert source["url"] == f"http://prometheus:{port}"
    (provider,) = mounted("grafana", f"{provisioned}/dashboards/runstream.yml")["providers"]
    shown = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(shown).parent == Path(provider["options"]["path"])
    assert mounted("grafana", shown)["uid"] == "runstream-drain"


def test_what_is_published_is_so_on_this_machine_alone() -> None:
    """Neither asks who is there."""
    ports = [port for facts in SERVICES.values() for port in facts.get("ports", [])]
    assert ports == ["127.0.0.1:9090:9090", "127.0.0.1:3000:3000"]


# -- the servers


@contextmanager
def server(program: str, service: str, directory: Path, *options: str) -> Iterator[Node]:
    """A real server with a service's options."""
    directory.mkdir(exist_ok=True)
    node = Node(program, str(directory), *SERVICES[service]["command"][1:], *options)
    try:
        yield node
    finally:
        node.end()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("service", ["redis", "node-1"])
def test_the_compose_files_redis_options_are_accepted_by_a_real_server(
    program: str, service: str, tmp_path: Path
) -> None:
    """The server starts with them, and they are in force."""
    with server(program, service, tmp_path) as node:
        config = node.raw.config_get("*")
        assert config["appendonly"] == "yes"
        assert config["appendfsync"] == "everysec"
        assert config["maxmemory-policy"] == "noeviction"
        assert node.raw.info("cluster")["cluster_enabled"] == (service != "redis")


def test_the_nodes_are_alike_but_for_their_volume() -> None:
    first, *others = ({**SERVICES[name], "volumes": None} for name in NODES)
    assert all(other == first for other in others)
    assert [mounts(name) for name in NODES] == [{"/data": name} for name in NODES]
    assert set(SERVICES["cluster"]["depends_on"]) == set(NODES)


@pytest.mark.exhaustive
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs loopback addresses of its own")
@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="needs redis-cli")
@pytest.mark.parametrize("program", [name for name in PROGRAMS if name != "redis62"])
def test_the_nodes_become_a_cluster_also_after_they_have_got_other_addresses(program: str, tmp_path: Path) -> None:
    """The very script of the service, with addresses in place of the names that Docker's DNS resolves."""
    (tmp_path / "getent").write_text('#!/bin/sh\necho "$2 name"\n', encoding="utf-8")
    (tmp_path / "getent").chmod(0o755)
    port = str(free_port())
    for started_again, last_digits in ((False, (11, 12, 13)), (True, (11, 22, 23))):
        addresses = {name: f"127.0.0.{digits}" for name, digits in zip(NODES, last_digits, strict=True)}
        with ExitStack() as running:
            nodes = [
                running.enter_context(server(program, name, tmp_path / name, "--port", port, *at(address)))
                for name, address in addresses.items()
            ]
            assert run_script(addresses, port, tmp_path) == 0
            eventually(lambda nodes=nodes: all(is_whole(node.raw) for node in nodes))  # type: ignore[misc]
            url = f"redis+cluster://{','.join(f'{address}:{port}' for address in addresses.values())}"
            with closing(connect(url)) as store:
                kept = [len(store.list_events(f"r{n}")) for n in range(30)]
                assert kept == [int(started_again)] * 30
                store.save_events([make_event(f"r{n}", 1) for n in range(30)])
            archive = f"sqlite:{tmp_path}/runs.db"
            assert run("drain", "--url", url, "--to", archive, "--once", "--trim", "never").code == 0


def at(address: str) -> list[str]:
    """Options with which a server listens at an address, and is seen to come from it, as in a container."""
    return ["--bind", address, "--bind-source-addr", address]


def run_script(addresses: dict[str, str], port: str, directory: Path) -> int:
    shell, flag, script = SERVICES["cluster"]["command"]
    for name, address in addresses.items():
        script = script.replace(name, address)
    script = script.replace("$$", "$").replace("6379", port).replace("redis-cli", f"redis-cli -p {port}")
    path = f"{directory}:{os.environ['PATH']}"
    done = subprocess.run(
        [shell, flag, script], env={"PATH": path}, capture_output=True, timeout=DEADLINE_SECONDS, check=False
    )
    return done.returncode


def is_whole(client: Any) -> bool:
    facts = client.execute_command("CLUSTER INFO")
    return (facts["cluster_state"], facts["cluster_known_nodes"]) == ("ok", "3")
