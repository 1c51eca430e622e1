"""Stores of purpose-agent's own types: events, kinds and states are its own, a resume is whole after a drain."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.protocols.agui import AGUIAdapter
from purpose_agent.runtime import EventKind, PAEvent, RunState, RunStatus, Visibility

import runstream
from runstream import ConfigurationError
from runstream.integrations.purpose_agent import connect, connect_async
from tests.support.backends import latest
from tests.support.commands import run
from tests.support.decoding import note_decoded
from tests.support.drain_tools import drain_to
from tests.support.handles import open_run
from tests.support.servers import needs_embedded_server

URLS = ["memory:", "sqlite:{dir}/runs.db", "jsonl:{dir}/runs", "fake:{dir}", "fake:{dir} sqlite:{dir}/archive.db"]
ARCHIVES = ["sqlite:{dir}/archive.db", "jsonl:{dir}/archive"]


class Opaque:
    def __str__(self) -> str:
        return "opaque"


def full_state() -> Any:
    """A state of which purpose-agent's own to_dict drops a part."""
    state = RunState("r", session_id="s", status=RunStatus.RUNNING, current_step=3)
    state.action_history = [{"action": n} for n in range(60)]
    state.mark_node_started("one")
    state.mark_node_completed("one", {"out": 1})
    return state


def some_events(first: int, last: int) -> list[Any]:
    return [PAEvent("r", seq=seq, kind=EventKind.TOOL_RESULT) for seq in range(first, last + 1)]


def check_events(events: list[Any]) -> None:
    """They are purpose-agent's own, with its own members, whether it knows them or not."""
    known, unknown = events
    assert type(known) is type(unknown) is PAEvent
    assert known.kind is EventKind.TOOL_RESULT
    assert known.visibility is Visibility.INTERNAL
    assert known.payload == {"value": "opaque"}
    assert (unknown.kind.value, unknown.kind.name) == ("my.kind", "MY_KIND")
    assert unknown.visibility is Visibility.PUBLIC
    assert AGUIAdapter().convert(unknown).type == "custom.my_kind"


def given_events() -> list[Any]:
    kinds = {"kind": EventKind.TOOL_RESULT, "visibility": Visibility.INTERNAL}
    return [PAEvent("r", seq=1, payload={"value": Opaque()}, **kinds), PAEvent("r", seq=2, kind="my.kind")]


@pytest.mark.parametrize("urls", URLS, ids=lambda urls: urls.replace("{dir}", ""))
def test_events_and_states_are_purpose_agents_own(urls: str, tmp_path: Path) -> None:
    url, *archive = urls.format(dir=tmp_path).split()
    with connect(url, archive=archive[0] if archive else None) as store:
        for event in given_events():
            store.save_event(event)
        store.save_snapshot("r", full_state())
        check_events(store.list_events("r"))
        loaded: Any = store.load_latest("r")
        assert type(loaded) is RunState
        assert loaded.status is RunStatus.RUNNING
        assert len(loaded.action_history) == 60
        assert loaded.node_states["one"].finished_at > 0
        agent = open_run(store)
        emitted = agent.emit(EventKind.AGENT_FINISHED).event
        assert (type(emitted), emitted.kind, emitted.is_terminal) == (PAEvent, EventKind.AGENT_FINISHED, True)
        assert emitted.kind is EventKind.AGENT_FINISHED
        assert agent.emit("their.kind").event.kind.value == "their.kind"


@pytest.mark.parametrize("urls", URLS, ids=lambda urls: urls.replace("{dir}", ""))
async def test_so_they_are_for_asyncio(urls: str, tmp_path: Path) -> None:
    url, *archive = urls.format(dir=tmp_path).split()
    async with connect_async(url, archive=archive[0] if archive else None) as store:
        await store.save_events(given_events())
        state = full_state()
        await store.save_snapshot("r", state)
        check_events(await store.list_events("r"))
        assert await store.load_latest("r") == state
        assert await store.load_latest("none") is None


@pytest.mark.one_in(2)
@pytest.mark.parametrize("archive", ARCHIVES)
def test_a_resume_is_whole_after_a_drain_that_came_later(archive: str, tmp_path: Path) -> None:
    """To the store that was open before, that made no archive, and to the Run that was."""
    url, archive = f"fake:{tmp_path}", archive.format(dir=tmp_path)
    with connect(url, archive=archive) as store:
        agent = open_run(store, "other")
        agent.emit(EventKind.TOOL_RESULT)
        store.save_events(some_events(1, 5))
        state = full_state()
        store.save_snapshot("r", state)
        assert [event.seq for event in store.list_events("r", 3)] == [4, 5]
        assert list(tmp_path.iterdir()) == []
        drain_to(url, archive)
        assert [event.seq for event in store.list_events("r", latest(store, "r").current_step)] == [4, 5]
        assert store.list_events("r") == store.list_events("r", 0)
        assert len(store.list_events("r")) == 5
        assert agent.emit(EventKind.TOOL_RESULT).event.seq == 2
        agent.checkpoint()
        store.save_event(PAEvent("r", seq=6, kind=EventKind.RUN_FINISHED))
        drain_to(url, archive)
        drain_to(url, archive, retire_after_seconds=0.0)
        with runstream.connect(url) as alone, pytest.raises(runstream.EventsArchived):
            alone.load_latest("r")
        assert store.load_latest("r") == state
        assert [event.seq for event in store.list_events("r", 3)] == [4, 5, 6]
        recovery = store.recover("r")
        assert (recovery.state, [item.event.seq for item in recovery.events]) == (state, [6])
        store.save_event(PAEvent("r", seq=7, kind=EventKind.RUN_STARTED))
        assert [event.seq for event in store.list_events("r", 3)] == [4, 5, 6, 7]
        assert store.delete_run("r")
        assert store.list_runs() == ["other"]


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("archive", "how", "others"),
    [
        (ARCHIVES[0], None, 0),
        (ARCHIVES[0], {}, 0),
        (ARCHIVES[0], {"retire_after_seconds": 0.0}, 0),
        (ARCHIVES[1], {"retire_after_seconds": 0.0}, 63),  # the points of its index are so far apart
    ],
    ids=["hot", "sqlite-drained", "sqlite-retired", "jsonl-retired"],
)
def test_a_resume_takes_what_it_gives(
    archive: str, how: dict[str, Any] | None, others: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a long run, wherever it is, the events after the state's step alone are made."""
    url, archive = f"fake:{tmp_path}", archive.format(dir=tmp_path)
    with connect(url, archive=archive) as store:
        store.save_events([*some_events(1, 499), PAEvent("r", seq=500, kind=EventKind.RUN_FINISHED)])
        store.save_snapshot("r", RunState("r", status=RunStatus.COMPLETED, current_step=498))
        if how is not None:
            drain_to(url, archive, **how)
            drain_to(url, archive, **how)
        made = note_decoded(monkeypatch)
        step = latest(store, "r").current_step
        assert [event.seq for event in store.list_events("r", step)] == [499, 500]
        assert 2 <= len(made) <= 2 + others


def test_an_archive_that_nobody_has_made_is_an_empty_one(tmp_path: Path) -> None:
    with connect(f"fake:{tmp_path}", archive=f"sqlite:{tmp_path}/archive.db") as opened:
        store: Any = opened
        assert (store.list_events("r"), store.load_latest("r"), store.run_info("r")) == ([], None, None)
        assert store.recover("r") == runstream.Recovery(None, 0, [])
        assert (store.snapshot_lanes("r"), list(store.snapshot_history("r"))) == ([], [])
        assert (store.snapshot_at("r", 3), list(store.runs()), store.delete_run("r")) == (None, [], False)
        store.save_snapshot("r", state := full_state())
        assert (store.snapshot_at("r", 3).state, store.snapshot_lanes("r")) == (state, [None])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.one_in(2)
@pytest.mark.parametrize("archive", [None, *ARCHIVES], ids=["alone", "sqlite", "jsonl"])
async def test_a_server_counts_as_their_store_does(archive: str | None, tmp_path: Path) -> None:
    """What has left Redis, and what it has forgotten, counts once; and a path it has not."""
    url, archive = f"fake:{tmp_path}", archive and archive.format(dir=tmp_path)
    with connect(url, archive=archive) as store:
        for run_id, ends in (("a", True), ("b", False), ("c", False)):
            store.save_events(PAEvent(run_id, seq=seq, kind=EventKind.TOOL_RESULT) for seq in (1, 2, 3))
            if ends:
                store.save_event(PAEvent(run_id, seq=4, kind=EventKind.RUN_FINISHED))
            if run_id != "c":
                store.save_snapshot(run_id, RunState(run_id))
        store.save_snapshot("c", RunState("c"), lane_id="main")
        for _ in range(3 if archive else 0):
            assert (store.event_count, store.snapshot_count) == (10, 2)
            drain_to(url, archive or "", retire_after_seconds=0.0, forget_after_seconds=0.0)
        assert (store.event_count, store.snapshot_count) == (10, 2)
        async with connect_async(url, archive=archive) as beside:
            assert (await beside.event_count, await beside.snapshot_count) == (10, 2)
            for each in (store, beside):
                for name, scheme in (("db_path", "sqlite:"), ("base_dir", "jsonl:")):
                    with pytest.raises(AttributeError, match=f"has no {name}: a {scheme} store"):
                        getattr(each, name)


def test_a_closed_store_opens_no_archive(tmp_path: Path) -> None:
    url, archive = f"fake:{tmp_path}", f"sqlite:{tmp_path}/archive.db"
    store: Any = connect(url, archive=archive)
    store.save_events(some_events(1, 2))
    store.close()
    drain_to(url, archive)
    assert store._operations.archive.position_of_lanes("r", ()) is None


@needs_embedded_server
async def test_an_embedded_store_reads_the_archive_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a worker writes that is told of no other; under a relative path, pickled too, and for asyncio."""
    monkeypatch.chdir(tmp_path)
    with connect("embedded:./state?namespace=dev") as store:
        monkeypatch.chdir("/")
        state = full_state()
        store.append("r", some_events(1, 5), snapshot=state)
        assert list((tmp_path / "state").glob("*.db")) == []
        said = run("drain", "--url", f"embedded:{tmp_path}/state?namespace=dev", "--trim", "archived", "--once")
        assert (said.code, [path.name for path in (tmp_path / "state").glob("*.db")]) == (0, ["archive-dev.db"])
        with connect(f"embedded:{tmp_path}/state") as other:  # of another namespace
            assert (other.list_runs(), other.list_events("r"), other.delete_run("r")) == ([], [], False)
        with connect(f"embedded:{tmp_path}/state", namespace="dev") as same:
            assert len(same.list_events("r")) == 5
        with pickle.loads(pickle.dumps(store)) as again:
            for each in (store, again):
                assert each.load_latest("r") == state
                assert [event.seq for event in each.list_events("r")] == [1, 2, 3, 4, 5]
        async with connect_async(f"embedded:{tmp_path}/state?namespace=dev") as beside:
            one = pickle.loads(pickle.dumps(beside))
            for each in (beside, one):
                assert await each.load_latest("r") == state
                assert [event.seq for event in await each.list_events("r", 3)] == [4, 5]
            await one.close()


@pytest.mark.parametrize(
    ("url", "archive", "said"),
    [
        ("fake:", "redis://localhost", "an archive is"),
        ("sqlite:{dir}/a.db", "sqlite:{dir}/b.db", "tiered store"),
        ("embedded:", None, "path"),
        ("", None, "no URL"),
    ],
)
async def test_what_does_not_fit_is_refused(url: str, archive: str | None, said: str, tmp_path: Path) -> None:
    url, archive = url.format(dir=tmp_path), archive and archive.format(dir=tmp_path)
    with pytest.raises(ConfigurationError, match=said):
        connect(url, archive=archive)
    with pytest.raises(ConfigurationError, match=said):
        await connect_async(url, archive=archive)


def test_who_has_no_purpose_agent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "purpose_agent.runtime", None)
    for open_it in (connect, connect_async):
        with pytest.raises(ConfigurationError, match="pip install"):
            open_it("memory:")


@pytest.mark.exhaustive
def test_the_command_line_does_without_purpose_agent() -> None:
    code = "import sys, runstream.cli; sys.exit('purpose_agent' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
