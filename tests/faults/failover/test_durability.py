"""A write is as durable as was asked for when its call returns, or the call says what was reached."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    ConfigurationError,
    DrainWorker,
    DurabilityNotReached,
    JSONLCheckpointer,
    RedisCheckpointer,
    StoreUnavailable,
    connect,
    connect_async,
)
from runstream.stores.redis.replies import ServerVersion
from runstream.testing import Fault, FaultProxy
from tests.faults.failover.failover_tools import Hot, keep_files, on_every_pair
from tests.support.operations import session_of
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import PROGRAMS, Node, Pair, eventually, needs_embedded_server

ONE = "replicated=1"
ASKED = ("waitaof", "config", "config|get")


def switch_file_on(node: Node) -> None:
    """Let a server keep an append-only file, until it is whole."""
    node.raw.config_set("appendonly", "yes")
    eventually(lambda: not node.raw.info("persistence")["aof_rewrite_in_progress"])


SHORT_WAITS = "socket_timeout=0.4&retry_seconds=5"
"""The server waits for half of the client's timeout at most."""


@pytest.fixture
def store(pair: Pair) -> Iterator[Hot]:
    """A store whose writes are on the replica, too, when a call returns."""
    with connect(f"{pair.url}?partitions=1&durability={ONE}&{SHORT_WAITS}") as store:
        assert isinstance(store, RedisCheckpointer)
        yield store


WRITES: dict[str, Callable[[Hot], Any]] = {
    "save_event": lambda store: store.save_event(make_event("r", 2)),
    "save_events": lambda store: store.save_events(make_events("r", 2, first=2)),
    "append": lambda store: store.append("r", make_events("r", 2, first=2), snapshot=make_state("r")),
    "save_snapshot": lambda store: store.save_snapshot("r", make_state("r")),
    "update_state": lambda store: store.update_state("r", lambda state: state),
    "tags": lambda store: store.append("r", [], tags={"user": "42"}),
}


@on_every_pair
def test_each_way_to_write_waits_for_the_replica(pair: Pair, store: Hot) -> None:
    """Where it does not come the call says so; the write is there once, and those after it are no worse off."""
    store.append("r", [make_event("r", 1)])
    for name, write in WRITES.items():
        before = len(store.list_events("r"))
        with pair.replica.stopped(), pytest.raises(DurabilityNotReached) as caught:
            write(store)
        error = caught.value
        written = len(store.list_events("r")) - before
        assert written == {"save_event": 1, "save_events": 2, "append": 2}.get(name, 0), name
        assert (error.run_id, error.offset, error.wanted, error.reached) == ("r", before + written, ONE, "primary")
        write(store)  # and with the replica it is reached
    assert (info := store.run_info("r")) is not None
    assert info.tags == {"user": "42"}


@on_every_pair
def test_what_was_acknowledged_as_replicated_survives_its_primary(pair: Pair, store: Hot) -> None:
    acknowledged = make_events("r", 50)
    for event in acknowledged:
        store.save_event(event)
    store.append("r", make_events("r", 50, first=51))
    pair.promote()
    with connect(f"{pair.url}?partitions=1") as after:
        assert [event.seq for event in after.list_events("r")] == [*range(1, 101)]


def test_a_call_may_ask_for_more_or_less_than_its_store(pair: Pair, store: Hot) -> None:
    with connect(f"{pair.url}?partitions=1&{SHORT_WAITS}") as plain:
        plain.append("r", [make_event("r", 1)], durability=ONE)
        with pair.replica.stopped():
            plain.append("r", [make_event("r", 2)])
            store.append("r", [make_event("r", 3)], durability="primary")
            with pytest.raises(DurabilityNotReached, match="up to offset 4,"):
                plain.append("r", [make_event("r", 4)], durability=ONE)
        with pytest.raises(ConfigurationError, match="replicas connected: 1; connect more"):
            plain.append("r", [make_event("r", 5)], durability="replicated=2")
        assert len(plain.list_events("r")) == 4, "what is refused writes nothing"


def test_a_run_goes_on_after_it(pair: Pair, store: Hot) -> None:
    """The event is there, under its number, and the next one has the next."""
    with store.open_run("r") as run:
        run.emit("agent.progress", {"n": 1})
        with pair.replica.stopped(), pytest.raises(DurabilityNotReached):
            run.emit("agent.progress", {"n": 2})
        with pair.replica.stopped(), pytest.raises(DurabilityNotReached):
            run.checkpoint()
        run.emit("agent.progress", {"n": 3})
        run.checkpoint()
        run.finish()
    assert [event.seq for event in store.list_events("r")] == [1, 2, 3, 4]


def test_a_resend_waits_like_the_first(pair: Pair) -> None:
    with FaultProxy(pair.url) as proxy:
        url = f"{proxy.url}?partitions=1&durability={ONE}&socket_timeout=0.4&retry_seconds=0"
        with connect(url) as store:
            store.save_event(make_event("r", 1))
            event = make_event("r", 2)
            proxy.arm(Fault.DROP_REPLY)
            with pytest.raises(StoreUnavailable):
                store.save_event(event)
            with pair.replica.stopped(), pytest.raises(DurabilityNotReached):
                store.save_event(event)
            proxy.arm(Fault.DROP_REPLY)
            event = make_event("r", 3)
            with pytest.raises(StoreUnavailable):
                store.save_event(event)
            store.save_event(event)
            assert [event.seq for event in store.list_events("r")] == [1, 2, 3]


def test_what_another_has_written_under_the_same_key_is_waited_for(pair: Pair, store: Hot) -> None:
    with connect(f"{pair.url}?partitions=1") as plain, pair.replica.stopped():
        plain.append("r", [make_event("r", 1)], keys=["once"])
        with pytest.raises(DurabilityNotReached):
            store.append("r", [make_event("r", 1)], keys=["once"])
    assert store.append("r", [make_event("r", 1)], keys=["once"]).last_offset == 1


def test_what_has_left_redis_is_as_durable_as_it_was(pair: Pair, store: Hot, tmp_path: Path) -> None:
    """A known key, and an append of nothing, wait for what was written, and find it where it has gone."""
    for run_id in ("drained", "retired", "cut", "parent"):
        store.append(run_id, make_events(run_id, 2), keys=["a", "b"])
    store.append("retired", [make_event("retired", 3, kind="run.finished")])
    store.fork("parent", "fork", at=2)
    store.truncate("cut", before=3)
    with JSONLCheckpointer(str(tmp_path / "archive")) as archive:
        for _ in range(2):
            DrainWorker(store, [archive], trim="archived", retire_after_seconds=0).drain_once()
    assert not [key for key in pair.primary.raw.keys("*:drained:events") if pair.primary.raw.xlen(key)]
    for run_id in ("drained", "retired", "cut", "fork"):
        assert store.append(run_id, [make_event(run_id, 1)], keys=["a"]).last_offset == 1
        store.append(run_id, [])


def test_what_a_promoted_server_lacks_is_not_taken_for_durable(pair: Pair, store: Hot) -> None:
    store.append("r", make_events("r", 2), keys=["a", "b"])
    with pair.losing():
        store.append("r", make_events("r", 2, first=3), durability="primary")
    pair.renew()
    with pytest.raises(DurabilityNotReached):
        store.append("r", [])


def test_the_offset_is_that_of_the_event_whatever_came_after_it(pair: Pair, store: Hot) -> None:
    store.save_event(make_event("r", 1))
    found: list[DurabilityNotReached] = []

    def write() -> None:
        with pytest.raises(DurabilityNotReached) as caught:
            store.save_event(make_event("r", 2))
        found.append(caught.value)

    with connect(f"{pair.url}?partitions=1") as plain, pair.replica.stopped():
        writer = threading.Thread(target=write)
        writer.start()
        eventually(lambda: len(plain.list_events("r")) == 2)
        store.append("r", make_events("r", 3, first=3), durability="primary")
        writer.join()
    assert found[0].offset == 2


CHANGES: dict[str, Callable[[Hot], Any]] = {
    "fork": lambda store: store.fork("r", "fork", at=2).run_id,
    "erase": lambda store: store.erase("r", [1]).run_id,
    "delete": lambda store: store.delete_run("gone"),
    "delete again": lambda store: store.delete_run("gone"),
}


@pytest.mark.parametrize("names", [["fork"], pytest.param([*CHANGES], marks=pytest.mark.exhaustive)], ids=len)
def test_forks_erasures_and_deletions_wait_too(pair: Pair, store: Hot, names: list[str]) -> None:
    """Each is applied, and made again it waits again."""
    for run_id in ("r", "gone"):
        store.append(run_id, make_events(run_id, 3))
    pair.replicate()
    with pair.replica.stopped():
        for name in names:
            with pytest.raises(DurabilityNotReached, match="waits again"):
                CHANGES[name](store)
    assert [CHANGES[name](store) for name in names] == ["fork", "r", False, False][: len(names)]
    assert [event.seq for event in store.list_events("fork")] == [1, 2][len(names) > 1 :]


def test_a_script_that_the_server_has_forgotten_is_waited_for_too(pair: Pair, store: Hot) -> None:
    store.save_event(make_event("r", 1))
    pair.primary.raw.script_flush()
    pair.replicate()
    with pair.replica.stopped(), pytest.raises(DurabilityNotReached):
        store.save_event(make_event("r", 2))
    assert len(store.list_events("r")) == 2


async def test_tasks_wait_for_their_own_writes_alone(pair: Pair) -> None:
    """One that asks for less is not held up by those that wait, nor is a reader."""
    async with connect_async(f"{pair.url}?partitions=1&durability={ONE}&socket_timeout=4") as store:
        await asyncio.gather(*(store.save_event(make_event(f"r{number}", 1)) for number in range(20)))
        with pair.replica.stopped():
            waiting = [asyncio.ensure_future(store.save_event(make_event(f"r{number}", 2))) for number in range(3)]
            await store.append("r", [make_event("r", 1)], durability="primary")
            assert len(await store.list_events("r")) == 1
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)


def test_a_server_that_has_no_replica_is_refused(pair: Pair) -> None:
    with pytest.raises(ConfigurationError, match="replicas connected: 1; connect more"):
        connect(f"{pair.url}?durability=replicated=2")
    pair.primary.raw.execute_command("ACL", "SETUSER", "u", "reset", "on", ">p", "~*", "+@all", "-wait")
    with pytest.raises(ConfigurationError, match=r"(?i)wait.*runstream acl --durability replicated=1"):
        connect(f"unix://u:p@{pair.socket_path}", durability=ONE)
    pair.cut()
    with pytest.raises(ConfigurationError, match="replicas connected: 0; connect more"):
        connect(f"{pair.url}?durability=replicated=1")
    assert pair.primary.raw.dbsize() == 0, "what is refused leaves nothing behind"


@pytest.mark.parametrize("name", PROGRAMS)
def test_fsync_is_given_where_it_is_shown_and_lost_never_silently(name: str, tmp_path: Path) -> None:
    node = Node(name, str(tmp_path), "--appendonly", "no")
    url = f"unix://{node.socket_path}?durability=fsync"
    try:
        with pytest.raises(ConfigurationError, match="set appendonly yes"):
            connect(url)
        switch_file_on(node)
        with pytest.raises(ConfigurationError, match="set appendfsync always"):
            connect(url)
        assert node.raw.dbsize() == 0
        node.raw.config_set("appendfsync", "always")
        with connect(url) as store:
            store.append("r", make_events("r", 3))
            node.raw.config_set("appendfsync", "everysec")
            with pytest.raises(DurabilityNotReached) as caught:
                store.save_event(make_event("r", 4))
            assert (caught.value.wanted, caught.value.reached, caught.value.offset) == ("fsync", "primary", 4)
            node.raw.config_set("appendfsync", "always")
            store.save_event(make_event("r", 5))
            node.raw.config_set("appendonly", "no")  # as on a server that came after a failover
            with pytest.raises(DurabilityNotReached) as caught:
                store.save_event(make_event("r", 6))
            assert (caught.value.reached, caught.value.offset) == ("primary", 6)
            assert [event.seq for event in store.list_events("r")] == [1, 2, 3, 4, 5, 6]
    finally:
        node.end()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_file_that_a_restart_would_not_load_or_that_is_not_synced_all_the_while_is_none(
    name: str, tmp_path: Path
) -> None:
    node = Node(name, str(tmp_path), "--appendonly", "yes", "--appendfsync", "always")
    url = f"unix://{node.socket_path}?partitions=1&durability=fsync&socket_timeout=0.2&retry_seconds=5"
    try:
        with connect(url) as store:
            store.save_event(make_event("r", 1))
            node.raw.config_set("appendonly", "no")
            node.raw.config_set("rdb-key-save-delay", 2_000_000)  # of a whole file there will be none
            node.raw.config_set("appendonly", "yes")
            with pytest.raises(DurabilityNotReached):
                store.save_event(make_event("r", 2))
            with pytest.raises(ConfigurationError, match="written for the first time"):
                connect(url)
            node.raw.config_set("appendonly", "no")
            node.raw.config_set("rdb-key-save-delay", 0)
            switch_file_on(node)
            store.save_event(make_event("r", 3))
            node.raw.config_set("no-appendfsync-on-rewrite", "yes")
            with pytest.raises(DurabilityNotReached):
                store.save_event(make_event("r", 4))
            with pytest.raises(ConfigurationError, match="set no-appendfsync-on-rewrite no"):
                connect(url)
    finally:
        node.end()


@pytest.mark.parametrize("name", PROGRAMS)
def test_fsync_is_shown_by_what_the_server_tells_of_and_refused_where_that_is_denied(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WAITAOF of none of these servers tells when a file is synced; if one's did, that would be asked."""
    node = Node(name, str(tmp_path), "--appendonly", "yes", "--appendfsync", "always")
    try:
        for way in ("CONFIG", "WAITAOF") if name == "valkey" else ("CONFIG",):
            monkeypatch.setattr(ServerVersion, "tells_of_syncs", way == "WAITAOF")
            node.raw.config_resetstat()
            with connect(f"unix://{node.socket_path}", durability="fsync") as store:
                for seq in (1, 2, 3):
                    store.append("r", [make_event("r", seq)])
            stats = node.raw.info("commandstats")
            calls = {one: stats.get(f"cmdstat_{one}", {"calls": 0})["calls"] for one in ASKED}
            calls["config"] += calls["config|get"] - (name == "redis62")  # whose count has that of resetting it
            assert calls[way.lower()] >= 4  # as it opens, and with each append
            assert not calls["config"] or way == "CONFIG"
            assert (calls["waitaof"] >= 4) == (name == "valkey"), "whether its file is whole"
            node.raw.execute_command("ACL", "SETUSER", "u", "reset", "on", ">p", "~*", "+@all", f"-{way}")
            with pytest.raises(ConfigurationError, match=rf"(?i){way}.*runstream acl --durability fsync"):
                connect(f"unix://u:p@{node.socket_path}", durability="fsync")
    finally:
        node.end()


@needs_embedded_server
def test_an_embedded_server_that_was_asked_for_it_syncs_whoever_starts_it_again(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path}/state"
    with connect(url) as before, connect(f"{url}?durability=fsync") as store:
        store.save_event(make_event("r", 1))
        before.append("r", [make_event("r", 2)], durability="fsync")
    with connect(url) as again:
        again.append("r", [make_event("r", 3)], durability="fsync")
        assert len(again.list_events("r")) == 3


@pytest.mark.parametrize("wanted", ["", "replicated", "replicated=0", "replicated=-1", "replicated=x", "disk", 1])
def test_what_is_no_durability_is_named(wanted: Any) -> None:
    with connect("memory:") as store, pytest.raises(ConfigurationError, match="'primary', 'fsync'"):
        store.append("r", [make_event("r", 1)], durability=wanted)


@pytest.mark.parametrize("url", ["memory:", "fake:", "sqlite:{}/runs.db", "jsonl:{}/runs"])
def test_other_stores_give_what_they_have(url: str, tmp_path: Path) -> None:
    """What is gone with its process takes any; a file is on one disk."""
    with connect(url.format(tmp_path)) as store:
        for number, level in enumerate(("primary", "fsync"), 1):
            assert store.append("r", [make_event("r", number)], durability=level).last_offset == number
        if url in {"memory:", "fake:"}:
            assert store.append("r", [make_event("r", 3)], durability=ONE).last_offset == 3
        else:
            with pytest.raises(ConfigurationError, match="one disk"):
                store.append("r", [make_event("r", 3)], durability=ONE)
            assert len(store.list_events("r")) == 2


@pytest.mark.exhaustive
@pytest.mark.parametrize("pair", ["valkey"], indirect=True)
def test_whether_replicas_keep_files_is_learned_once_a_server_that_was_full_takes_writes(pair: Pair) -> None:
    """What was not written is in every file."""
    with connect(f"{pair.url}?partitions=1") as store:
        store.save_event(make_event("r", 1))
    pair.primary.raw.config_set("maxmemory", 1)
    with connect(f"{pair.url}?durability={ONE}&socket_timeout=8&retry_seconds=0") as store:
        with pytest.raises(StoreUnavailable):
            store.save_event(make_event("r", 2))
        pair.primary.raw.config_set("maxmemory", 0)
        store.save_event(make_event("r", 3))
        assert len(session_of(store).confirmations) == 1
        store.save_event(make_event("r", 4))
    assert "cmdstat_wait" in pair.primary.raw.info("commandstats")


@pytest.mark.exhaustive
@pytest.mark.parametrize("pair", ["valkey"], indirect=True)
def test_replicas_that_keep_files_say_what_is_in_them(pair: Pair) -> None:
    """The server then waits for that, too."""
    keep_files(pair.replica)
    with connect(f"{pair.url}?partitions=1&durability={ONE}&socket_timeout=8") as store:
        store.append("r", make_events("r", 3))
        store.append("r", [make_event("r", 4)], snapshot=make_state("r"))
    calls = pair.primary.raw.info("commandstats")
    assert calls["cmdstat_waitaof"]["calls"] >= 3  # once to learn that they do
    assert calls["cmdstat_wait"]["calls"] == 2, "as it opens, whether that may be asked at all"
