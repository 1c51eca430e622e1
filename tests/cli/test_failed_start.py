"""A start that fails leaves no new archive: neither its file nor its directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from runstream import ConfigurationError, StoreUnavailable, connect, connect_async
from tests.support.commands import Place, run
from tests.support.servers import free_port

ARCHIVES = ["sqlite:{tmp}/new.db", "jsonl:{tmp}/new"]


@pytest.fixture(params=ARCHIVES)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.param).format(tmp=tmp_path)


@pytest.fixture
def nowhere() -> str:
    return f"redis://localhost:{free_port()}?retry_seconds=0"


def names_in(directory: Path) -> list[str]:
    return [each.name for each in directory.iterdir()]


def test_a_worker_without_a_server(archive: str, nowhere: str, tmp_path: Path) -> None:
    said = run("drain", "--url", nowhere, "--to", archive, "--once", "--start-timeout", "0")
    assert said.code == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        ["--url", "memory:"],
        ["--url", "fake:", "--partitions", "99"],
        ["--url", "fake:", "--to", "sqlite:{tmp}"],
    ],
)
def test_a_worker_that_is_misconfigured(archive: str, options: list[str], tmp_path: Path) -> None:
    said = run("drain", "--to", archive, "--once", *(option.format(tmp=tmp_path) for option in options))
    assert (said.code, said.out) == (2, "")
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_told_of_no_archive(tmp_path: Path) -> None:
    """An embedded server's lies beside it; with another, it is asked for."""
    said = run("drain", "--url", "fake:", "--once")
    assert (said.code, "--to" in said.err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_an_agent_without_a_place_for_its_journal(archive: str, tmp_path: Path) -> None:
    agent = ["agent", "--run", "r", "--lane", "l", "--steps", "1"]
    assert run(*agent, "--url", archive, "--journal", f"{tmp_path}/none/journal").code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_refused_because_others_are_required(archive: str, place: Place) -> None:
    place.emit("r", 1)
    required = [
        "--url",
        place.url,
        "--once",
        "--trim",
        "archived",
        "--to",
        f"sqlite:{place.directory}/required.db",
    ]
    assert run("drain", *required).code == 0
    before = sorted(place.directory.iterdir())
    said = run("drain", "--url", place.url, "--once", "--to", archive)
    assert said.code == 2
    assert "requires the archives" in said.err
    said = run("archives", "add", archive, "--url", place.url, "--copy-from", archive)
    assert said.code == 2
    assert sorted(place.directory.iterdir()) == before
    assert run("archives", "add", archive, "--url", place.url).code == 2, "what left Redis it has not"
    assert sorted(place.directory.iterdir()) == before


def test_one_that_is_required_or_was_there_stays(archive: str, place: Place, nowhere: str) -> None:
    assert run("drain", "--url", place.url, "--once", "--to", archive).code == 0
    there = sorted(place.directory.iterdir())
    assert there
    assert run("drain", "--url", nowhere, "--to", archive, "--once", "--start-timeout", "0").code == 3
    assert run("drain", "--url", place.url, "--to", archive, "--once", "--partitions", "99").code == 2
    assert sorted(place.directory.iterdir()) == there


async def test_a_tiered_store_without_a_server(archive: str, nowhere: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        connect(nowhere, archive=archive)
    with pytest.raises(StoreUnavailable):
        await connect_async(nowhere, archive=archive)
    with pytest.raises(ConfigurationError):
        connect("memory:", archive=archive)
    assert names_in(tmp_path) == []
