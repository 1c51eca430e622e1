"""Two histories by a real failover, and the commands that a person resolves them with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    DrainWorker,
    JSONLCheckpointer,
    RedisCheckpointer,
    RunState,
    SQLiteCheckpointer,
    StoreUnavailable,
    connect,
)
from runstream.operations.operation import Exchange, Replies
from runstream.repair.resolve import Keep
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.scripts.script import script_of
from tests.repair.resolve.world import KEEPS, Hot, World, emit
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.commands import run
from tests.support.mortal import Killed
from tests.support.servers import PROGRAMS, Pair, needs_server, primary_and_replica


@pytest.fixture
def pair() -> Iterator[Pair]:
    with primary_and_replica(next(iter(PROGRAMS))) as pair:
        yield pair


@pytest.fixture
def failed_over(pair: Pair, tmp_path: Path) -> Iterator[World]:
    """A primary is lost with what its replica had not got; agents went on, and the worker has parked the run."""
    archives: list[Archive] = [SQLiteCheckpointer(tmp_path / "a.db"), JSONLCheckpointer(tmp_path / "j")]
    backend = OnPair(pair)
    world = World(backend, backend.open_hot(), archives)
    hot = world.hot
    world.common = emit(hot, "r", 8)
    hot.save_snapshot("r", RunState("r", current_step=8))
    assert world.drain().parked == 0
    with pair.losing():
        world.of_archive = emit(hot, "r", 5, first=9) + emit(hot, "r", 2, lane_id="side")
        hot.save_snapshot("r", RunState("r", current_step=13))
        assert world.drain().parked == 0
    pair.renew()
    backend.raw = pair.primary.raw
    world.hot = world.open()
    world.hot.recover("r")
    world.of_redis = emit(world.hot, "r", 12, first=9)
    assert world.drain().parked == 1
    yield world
    for archive in archives:
        archive.close()
    backend.close()


class OnPair(RedisBackend):
    """The one address of a pair, under a namespace of its own."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair.primary.raw, "runstream")
        self.pair = pair

    def client(self) -> Any:
        return self.pair.client()

    def open_hot(self) -> Hot:
        store = self.open()
        assert isinstance(store, RedisCheckpointer)
        return store

    def close(self) -> None:
        self._opened.close()


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@needs_server
@pytest.mark.parametrize("keep", KEEPS)
def test_after_a_real_failover_the_command_shows_both_and_does_as_told(
    failed_over: World, pair: Pair, keep: Keep
) -> None:
    world = failed_over
    places = ["--url", pair.url, *(part for one in world.archives for part in ("--to", one.location))]
    shown = run("resolve", "r", *places, "--json")
    assert shown.code == 0
    facts = shown.document
    assert facts["parted"]
    assert (facts["redis"]["own_events"], len(facts["redis"]["events"])) == (12, 12)
    for of_archive in facts["archives"]:
        assert of_archive["parts_after"].startswith("8-")
        assert [event["offset"] for event in of_archive["events"]] == list(range(9, 16))
        assert [event["span_id"] for event in of_archive["events"]] == [one.span_id for one in world.of_archive]
    text = run("resolve", "r", *places).out
    assert facts["archives"][0]["parts_after"] in text
    assert facts["archives"][0]["events"][0]["cursor"] in text
    assert "--keep" in text

    said = run("resolve", "r", "--keep", keep, *places, "--json")
    assert said.code == 0
    assert said.document["keep"] == keep
    assert said.document["appended"] == (7 if keep == "both" else 0)
    (name,) = said.document["branches"]
    assert name in run("runs", "--url", world.archives[0].location).out
    assert name.split("~")[1] in text
    parent = run("show", name, "--url", world.archives[1].location, "--json").document["run"]["parent"]
    assert parent == {"run_id": "r", "offset": 8}
    world.check(keep)
    pair.replicate()
    assert pair.replica.raw.xlen(namespace_of(world.hot).keys.run("r").events) == pair.primary.raw.xlen(
        namespace_of(world.hot).keys.run("r").events
    )
    again = run("resolve", "r", "--keep", keep, *places)
    assert (again.code, "nothing was to be decided" in again.err) == (0, True)


@needs_server
def test_a_full_server_unparks_and_keeps_its_own_history(failed_over: World, pair: Pair) -> None:
    """What must get it going again needs no memory."""
    world = failed_over
    pair.primary.raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="full"):
            world.resolve("archive")
        assert run("unpark", "r", "--url", pair.url).code == 0
        assert world.drain().parked == 1
        world.resolve("redis")
        assert world.parked() == {}
        assert world.drain().parked == 0
    finally:
        pair.primary.raw.config_set("maxmemory", 0)
    world.check("redis")


@needs_server
def test_what_was_refilled_and_never_put_in_place_goes_by_itself(failed_over: World) -> None:
    """Killed before the switch: the run is as it was, and what lies beside it has an end."""
    world = failed_over
    driver: Any = world.hot._driver
    exchange = driver.exchange_once

    def dying(one: Exchange) -> Replies:
        if any((script := script_of(command)) and script.name == "switch" for command in one.commands):
            raise Killed
        replies: Replies = exchange(one)
        return replies

    driver.exchange_once = dying
    with pytest.raises(Killed):
        world.resolve("archive")
    left = [name for name in world.backend.key_names() if ":refilled:" in name]
    assert left
    assert all(0 < world.backend.raw.ttl(name) <= 3600 for name in left)
    driver.exchange_once = exchange
    world.resolve("archive")
    assert [name for name in world.backend.key_names() if world.backend.raw.ttl(name) > 0] == left
    world.check("archive")


# -- the command line ----------------------------------------------------------------------------------


@needs_server
def test_unpark_lets_runs_come_due_and_says_which_were_not_parked(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path}/server"
    with EmbeddedServer(tmp_path / "server"), connect(url) as hot:
        assert isinstance(hot, RedisCheckpointer)
        for run_id in ("a", "b", "c"):
            emit(hot, run_id, 1)
        for loaded in namespace_of(hot).load_runs(["a", "b"]):
            assert loaded is not None
            namespace_of(hot).park(loaded.header, "for a test", 600)
        said = run("unpark", "a", "c", "nobody", "--url", url, "--json")
        assert (said.code, said.document) == (4, {"unparked": ["a"]})
        assert "'c', 'nobody'" in said.err
        facts = run("status", "--url", url, "--json").document
        assert (facts["due"], facts["later"], facts["parked"]) == (2, 1, {"b": "for a test"})
        said = run("unpark", "--all", "--url", url)
        assert (said.code, said.out.split()) == (0, ["unparked", "run", "b"])
        assert run("unpark", "--all", "--url", url, "--json").document == {"unparked": []}
        said = run("unpark", "--all", "--url", url)
        assert (said.code, said.out, said.err) == (0, "", "runstream: no run is parked\n")
        assert run("unpark", "--url", url).code == 2
        assert run("unpark", "a", "--all", "--url", url).code == 2
        assert run("unpark", "a", "--url", f"sqlite:{tmp_path}/a.db").code == 2


@needs_server
def test_resolve_says_what_it_cannot_do(tmp_path: Path) -> None:
    url, archive = f"embedded:{tmp_path}/server", f"sqlite:{tmp_path}/a.db"
    with EmbeddedServer(tmp_path / "server"), connect(url) as hot, connect(archive):
        assert isinstance(hot, RedisCheckpointer)
        emit(hot, "r", 1)
        assert run("resolve", "nobody", "--url", url, "--to", archive).code == 4
        said = run("resolve", "r", "--url", url)
        assert (said.code, "requires no archive yet" in said.err) == (2, True)
        assert run("resolve", "r", "--url", archive, "--to", archive).code == 2
        assert run("resolve", "r", "--url", url, "--to", f"sqlite:{tmp_path}/none.db").code == 2
        assert run("resolve", "r", "--url", url, "--to", "memory:").code == 2
        assert run("resolve", "r", "--url", url, "--to", archive, "--keep", "neither").code == 2
        said = run("resolve", "r", "--url", url, "--to", archive)
        assert (said.code, "nothing is to be decided" in said.err) == (0, True)
        assert run("resolve", "r", "--url", url, "--to", archive, "--json").document["parted"] is False


@needs_server
def test_resolve_looks_at_the_required_archives_unless_it_is_told_which(tmp_path: Path) -> None:
    """So that the command that the reason for parking names does it; a path may have any character."""
    url, directory = f"embedded:{tmp_path}/server", tmp_path / "100% sure?"
    directory.mkdir()
    with (
        EmbeddedServer(tmp_path / "server"),
        connect(url) as hot,
        SQLiteCheckpointer(directory / "a.db") as archive,
    ):
        assert isinstance(hot, RedisCheckpointer)
        emit(hot, "r", 1)
        assert DrainWorker(hot, [archive]).drain_once().runs == 1
        hot.delete_run("r")
        emit(hot, "r", 2)
        assert DrainWorker(hot, [archive]).drain_once().parked == 1
        said = run("resolve", "r", "--url", url, "--json")
        assert (said.code, said.document["parted"]) == (0, True)
        assert [one["location"] for one in said.document["archives"]] == [archive.location]
        (directory / "a.db").rename(directory / "b.db")
        said = run("resolve", "r", "--url", url)
        assert (said.code, "nothing at that path" in said.err) == (2, True)
