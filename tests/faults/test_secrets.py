"""A password shows nowhere: in no error, log, output, report or archive, and in no argument of a process."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis

from runstream import ConfigurationError, DrainWorker, RunstreamError, SQLiteCheckpointer, connect, connect_async
from runstream.stores.redis.namespace import namespace_of
from tests.support.commands import Worker, run
from tests.support.samples import make_events
from tests.support.servers import Node, eventually, free_port, needs_server, needs_valkey, tcp_server

SECRET = "hunter2"
WRONG = (
    f"redis://u:{SECRET}@[::1/0",
    f"redis://u:{SECRET}@h:{SECRET}",
    f"redis://u:a?{SECRET}@h:6379/0",
    f"redis://u:{SECRET}@h/{SECRET}",
    f"redis://u@h?password={SECRET}&no_such=1",
    f"redis://h?socket_timeout={SECRET}",
    f"rediss://u:{SECRET}@h?ssl_certfile=/{SECRET}&ssl_password={SECRET}",
    f"redis+sentinel://u:{SECRET}@/main",
    f"redis+cluster://u:{SECRET}@h:{SECRET}",
    f"redis+sentinel://u:{SECRET}@h:{SECRET}/main?sentinel_password={SECRET}",
    f"redi://u:{SECRET}@h",
    f"u:{SECRET}@h",
    f"postgres://u:{SECRET}@h/db",
    f"sqlite://u:{SECRET}@h/db",
    f"embedded://u:{SECRET}@h/db",
    f"sqlite:runs.db?password={SECRET}",
    f"fake:?password={SECRET}",
)
"""URLs that nobody can open."""


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """See that nothing logs it, at any level, or writes it."""
    caplog.set_level(logging.DEBUG)
    yield
    assert SECRET not in caplog.text
    assert SECRET not in "".join(capfd.readouterr())


def shown(error: BaseException) -> str:
    """All that a traceback shows of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__)


def fails(url: str, **options: Any) -> None:
    """Opening the store fails, in both façades and by commands, and nothing that is said shows the password."""
    with pytest.raises(RunstreamError) as caught:
        connect(url, **options)
    assert SECRET not in shown(caught.value)

    async def opened() -> None:
        async with connect_async(url, **options) as store:
            await store.list_runs()

    with pytest.raises(RunstreamError) as caught:
        asyncio.run(opened())
    assert SECRET not in shown(caught.value)
    for arguments in (
        ["--debug", "runs", "--url", url],
        ["status", "--url", url, "--json", "--start-timeout", "0.1"],
    ):
        said = run(*arguments)
        assert said.code != 0
        assert SECRET not in said.out + said.err


@pytest.mark.one_in(3)
@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("url", WRONG)
def test_a_url_that_does_not_read(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as an archive's, and where no URL belongs."""
    monkeypatch.chdir(tmp_path)
    fails(url)
    with pytest.raises(ConfigurationError) as caught:
        connect("fake:", archive=url)
    assert SECRET not in shown(caught.value)
    for arguments in (
        ["drain", "--url", "fake:", "--to", url, "--once"],
        ["verify", "--url", "fake:", "--archive", url],
        ["archives", "add", url, "--url", "fake:"],
        ["runs", url],
    ):
        said = run(*arguments)
        assert said.code != 0, arguments
        assert SECRET not in said.out + said.err


@pytest.mark.usefixtures("heard")
def test_a_url_in_place_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run, a file, an archive to drop, rules, a worker's name: what is said of it has no password."""
    monkeypatch.chdir(tmp_path)
    for url in (f"redis://u:{SECRET}@h/0?retry_seconds=0", f"u:{SECRET}@h", f"redis://h?x=1&password={SECRET}"):
        for arguments in (
            ["show", url],
            ["verify", url],
            ["import", url],
            ["archives", "drop", url],
            ["show", "r", "--upcasts", url],
            ["drain", "--to", "sqlite:a.db", "--name", url, "--once"],
        ):
            said = run("--debug", *arguments, "--url", "fake:")
            assert said.code != 0, arguments
            assert SECRET not in said.out + said.err, arguments
    said = run("show", "redis://h/0", "--url", "fake:")
    assert "redis://h/0" in said.err, "without a password it is shown"


@needs_server
@pytest.mark.usefixtures("heard")
def test_a_server_that_is_not_there_or_refuses() -> None:
    """With a wrong password, no TLS, no rights, or no database of that number."""
    quick = "retry_seconds=0&socket_timeout=0.2&socket_connect_timeout=0.2"
    port = free_port()
    fails(f"redis://u:{SECRET}@127.0.0.1:{port}?{quick}")
    fails(f"redis+sentinel://u:{SECRET}@127.0.0.1:{port}/main?sentinel_password={SECRET}&{quick}")
    fails(f"redis+cluster://u:{SECRET}@127.0.0.1:{port}?{quick}")
    fails(f"unix://u:{SECRET}@/nowhere/at/all?{quick}")
    with tcp_server("another") as port:
        for place in (f"redis://:{SECRET}@", f"redis+cluster://u:{SECRET}@", f"rediss://u:{SECRET}@"):
            fails(f"{place}127.0.0.1:{port}?{quick}")
        with redis.Redis(port=port, password="another") as raw:
            raw.execute_command("ACL", "SETUSER", "u", "on", f">{SECRET}", "-@all")
        fails(f"redis://u:{SECRET}@127.0.0.1:{port}?{quick}")
        fails(f"redis://u:{SECRET}@127.0.0.1:{port}/99?{quick}")


@needs_valkey
@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("hidden", ["HELLO", "AUTH"])
def test_a_server_that_repeats_what_it_does_not_know(hidden: str) -> None:
    """A server tells with which arguments a command was called that it does not know: here, with the password."""
    with tempfile.TemporaryDirectory(prefix="runstream-") as directory, ExitStack() as opened:
        node = Node("valkey", directory, "--rename-command", hidden, "")
        opened.callback(node.end)
        protocol = "2" if hidden == "AUTH" else "3"
        fails(f"unix://:{SECRET}@{node.socket_path}?protocol={protocol}&retry_seconds=0")


@needs_valkey
@pytest.mark.usefixtures("heard")
def test_a_worker_that_works(tmp_path: Path) -> None:
    """Neither its arguments, its log, what it reports and serves, nor what it archives."""
    with tempfile.TemporaryDirectory(prefix="runstream-") as directory, ExitStack() as opened:
        node = Node("valkey", directory)
        opened.callback(node.end)
        node.raw.execute_command("ACL", "SETUSER", "u", "on", f">{SECRET}", "~*", "&*", "+@all")
        url = f"unix://u:{SECRET}@{node.socket_path}?client_name=c"
        place = tmp_path / "url"
        place.write_text(f"{url}\n", encoding="utf-8")
        archive = SQLiteCheckpointer[Any, Any](tmp_path / "a.db")
        with connect(url) as store, closing(archive):
            store.append("r", make_events("r", 3))
            objects = [store, namespace_of(store), store.lease("r", owner="o"), DrainWorker(store, [archive])]
            objects += [connect_async(url), store.open_run("r")]
            assert not [one for one in objects if SECRET in repr(one)]
        archives = ("--to", f"sqlite:{tmp_path}/a.db", "--to", f"jsonl:{tmp_path}/a")
        with Worker("--url", f"@{place}", *archives, "--metrics-port", "0", "--log-level", "debug") as worker:
            worker.says("begins")
            arguments = Path(f"/proc/{worker.process.pid}/cmdline")
            assert not arguments.exists() or SECRET.encode() not in arguments.read_bytes()
            eventually(lambda: node.raw.hlen("{runstream}:workers"))
            said = run("status", "--url", f"@{place}", "--json")
            assert said.code == 0, said.err
            assert SECRET not in said.out + worker.get("/metrics")[1] + worker.get("/health")[1]
            worker.process.terminate()
            assert worker.end() == 0
            assert SECRET not in worker.err + str(worker.document)
        kept = [node.raw.dump(key) for key in node.raw.scan_iter(count=1000)]
        kept += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != place]
        assert len(kept) > 10
        assert not [content for content in kept if content and SECRET.encode() in content]


@pytest.fixture
def url_file(tmp_path: Path) -> Path:
    place = tmp_path / "url"
    place.write_text("fake:of-a-file?namespace=dev\n", encoding="utf-8")
    return place


def test_the_url_may_be_in_a_file(url_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is read by a store and by commands, from the option and from the environment."""
    with connect(f"@{url_file}") as store:
        assert "namespace 'dev'" in repr(store)
        store.append("r", make_events("r", 2))
        assert run("runs", "--url", f"@{url_file}", "--json").document["runs"]
        assert "it is for tests" in run("doctor", f"@{url_file}").out
        assert run("runs", "--json", RUNSTREAM_URL=f"@{url_file}").document["runs"]
        monkeypatch.setenv("RUNSTREAM_URL", f"@{url_file}")
        with connect() as other:
            assert other.list_runs() == ["r"]


def test_a_file_that_is_not_there_is_named(url_file: Path) -> None:
    url_file.unlink()
    with pytest.raises(ConfigurationError, match=rf"@{url_file}.*No such file"):
        connect(f"@{url_file}")
    said = run("runs", "--url", f"@{url_file}")
    assert (said.code, str(url_file) in said.err) == (2, True)
