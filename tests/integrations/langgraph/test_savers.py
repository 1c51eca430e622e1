"""The savers as a user meets them: how they are opened, what they refuse, and what they give back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from runstream import ConfigurationError, PayloadTooLarge, connect, connect_async
from runstream.integrations.langgraph import AsyncRunstreamSaver, RunstreamSaver
from runstream.integrations.langgraph.mapping import Place
from tests.integrations.langgraph.checkpoints import checkpoint, config_of, new_thread, save
from tests.integrations.langgraph.savers import Places


@pytest.mark.exhaustive
def test_without_langgraph_the_error_names_the_extra_and_runstream_needs_none() -> None:
    program = """
import sys
sys.modules["langgraph"] = None  # as if it were not there
import runstream, runstream.cli
from runstream.integrations.langgraph import mapping, channels, values
assert mapping.Place("t").lane_id == "main"
try:
    from runstream.integrations.langgraph import RunstreamSaver
except runstream.ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'runstream[langgraph]'" in done.stdout


async def test_a_saver_takes_a_store_of_its_own_kind_alone() -> None:
    async with connect_async("memory:") as awaited:
        with connect("memory:") as store:
            for kind, other in (
                (RunstreamSaver, awaited),
                (AsyncRunstreamSaver, store),
                (RunstreamSaver, "memory:"),
            ):
                make: Any = kind
                with pytest.raises(ConfigurationError, match="connect"):
                    make(other)
            with pytest.raises(ConfigurationError, match="cache_bytes"):
                RunstreamSaver(store, cache_bytes=-1)
        saver: Any = AsyncRunstreamSaver(awaited)
        for method, argument in ((saver.get_tuple, config_of("t")), (saver.prune, ["t"]), (saver.list, None)):
            with pytest.raises(ConfigurationError, match="ainvoke"):
                method(argument)


def test_a_store_that_was_passed_in_stays_open_and_one_that_was_opened_is_closed(tmp_path: Path) -> None:
    with connect("memory:") as store:
        with RunstreamSaver(store) as saver:
            save(saver, "t", {"x": 1}, -1)
        assert RunstreamSaver(store).get_tuple(config_of("t")) is not None
    with RunstreamSaver.from_url(f"sqlite:{tmp_path}/runs.db") as saver:
        save(saver, "t", {"x": 1}, -1)
    with RunstreamSaver.from_url(f"sqlite:{tmp_path}/runs.db") as saver:
        assert saver.get_tuple(config_of("t")) is not None


@pytest.mark.parametrize(
    ("scheme", "asked", "kept"), [("sqlite", "", 1), ("jsonl", "", 1), ("sqlite", "?keep_snapshots=2", 2)]
)
def test_no_history_of_snapshots_is_kept_beside_checkpoints_unless_it_is_said(
    tmp_path: Path, scheme: str, asked: str, kept: int
) -> None:
    url = f"{scheme}:{tmp_path}/runs{asked}"
    with RunstreamSaver.from_url(url) as saver:
        for step in range(-1, 4):
            save(saver, "t", {"x": step}, step)
        assert len(list(saver.list(config_of("t")))) == 5
    with RunstreamSaver.from_url(url) as saver:
        store: Any = saver.store
        assert len(list(store.snapshot_history("t", lane_id="main"))) == kept


def test_on_a_server_threads_have_a_namespace_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"fake:{new_thread()}"
    monkeypatch.setenv("RUNSTREAM_URL", url)
    with RunstreamSaver.from_url() as saver, RunstreamSaver.from_url(f"{url}?namespace=other") as other:
        save(saver, "t", {"x": 1}, -1)
        assert list(other.list(None)) == []
        with connect(url, namespace="langgraph") as store:
            assert store.list_runs() == ["t"]


@pytest.mark.exhaustive
def test_how_large_a_checkpoint_may_be_is_a_savers_own_unless_it_is_said(places: Places) -> None:
    document = "p" * 9 * 2**20  # more than events of agents have
    url, archive = places.urls("draining")
    with RunstreamSaver.from_url(url, archive=archive) as saver:
        save(saver, "t", {"document": "", "parts": [document]}, -1)
        save(saver, "t", {"document": document, "parts": [document, "more"]}, 0)
        saver.prune(["t"])
        (found,) = saver.list(config_of("t"))
        assert found.checkpoint["channel_values"] == {"document": document, "parts": [document, "more"]}
    for limited in (
        RunstreamSaver.from_url(f"{url}&max_event_bytes=1000"),
        RunstreamSaver.from_url(url, max_event_bytes=1000),
    ):
        with limited as saver:
            with pytest.raises(PayloadTooLarge, match="max_event_bytes"):
                save(saver, "other", {"document": document}, -1)
            assert saver.get_tuple(config_of("other")) is None


def test_a_thread_of_a_store_with_usual_states_is_the_same(places: Places) -> None:
    with connect("memory:") as store, places.sync("memory") as other:
        for saver in (RunstreamSaver(store), other):
            first = save(saver, "t", {"messages": ["a"], "none": None}, -1)
            save(saver, "t", {"messages": ["a", "b"], "none": None}, 0, first, user="u")
            found = saver.get_tuple(config_of("t"))
            assert found is not None
            assert found.checkpoint["channel_values"] == {"messages": ["a", "b"], "none": None}
            assert found.metadata == {"source": "loop", "step": 0, "parents": {}, "user": "u"}


def test_what_is_no_plain_data_in_a_checkpoint_comes_back_as_it_was(places: Places) -> None:
    with places.sync("fake") as saver:
        made: Any = {**checkpoint({"x": 1}, {"x": 1}), "pending_sends": [{1, 2}], "updated_channels": ["x"]}
        metadata: Any = {"source": "loop", "step": 0, "parents": {}, "odd": {1, 2}, "pair": {"x": (1, 2)}}
        saver.put(config_of("t"), made, metadata, {"x": 1})
        for each in (saver, RunstreamSaver(saver.store)):
            found = each.get_tuple(config_of("t"))
            assert found is not None
            assert found.checkpoint == made
            assert found.metadata == metadata
            assert [one.metadata for one in each.list(config_of("t"), filter={"odd": {1, 2}})] == [metadata]


def test_versions_are_numbers_and_go_on_as_texts_where_another_saver_began() -> None:
    with connect("memory:") as store:
        saver, theirs = RunstreamSaver(store), InMemorySaver()
        assert [saver.get_next_version(None, None), saver.get_next_version(4, None)] == [1, 5]
        former = theirs.get_next_version(None, None)
        version = saver.get_next_version(former, None)
        assert isinstance(version, str)
        assert former < version < theirs.get_next_version(version, None)


def test_a_serializer_that_takes_more_classes_reads_the_same_threads() -> None:
    with connect("memory:") as store:
        saver = RunstreamSaver(store)
        clone = saver.with_allowlist([("some.module", "Class")])
        assert clone._context.values.held_bytes == saver._context.values.held_bytes > 0
        save(clone, "t", {"x": 1}, -1)
        found = saver.get_tuple(config_of("t"))
        assert found is not None
        assert found.checkpoint["channel_values"] == {"x": 1}


@pytest.mark.parametrize("namespace", ["", "child", "child:1", "a:1|b:2", "main", "|"])
def test_a_namespace_is_a_lane_of_its_own(namespace: str) -> None:
    place = Place("t", namespace)
    assert Place.at("t", place.lane_id) == place
    assert place.outwards()[0] == place
    assert place.outwards()[-1] == Place("t")


@pytest.mark.parametrize("lane_id", ["answers", "mainly", "main|", ""])
def test_other_lanes_of_a_run_are_no_namespaces(lane_id: str) -> None:
    assert Place.at("t", lane_id) is None


def test_one_id_in_two_namespaces_names_two_checkpoints(places: Places) -> None:
    with places.sync("memory") as saver:
        for namespace in ("", "child:1"):
            made = checkpoint({"x": namespace}, {"x": 1}, "the id")
            saver.put(
                config_of("t", None, namespace), made, {"source": "loop", "step": 0, "parents": {}}, {"x": 1}
            )
        for namespace in ("", "child:1"):
            found = saver.get_tuple(config_of("t", "the id", namespace))
            assert found is not None
            assert found.checkpoint["channel_values"] == {"x": namespace}
        assert len(list(saver.list({"configurable": {"thread_id": "t"}}))) == 2


@pytest.mark.parametrize("place", ["sqlite", "fake"])
def test_an_older_checkpoint_is_read_where_it_lies_now(places: Places, place: str) -> None:
    """Wherever this saver knew it before: the thread was deleted since, and imported anew, say."""
    names = [f"checkpoint {number}" for number in range(4)]

    def fill(saver: Any, what: str, before: int, tasks: int = 1) -> None:
        for number, name in enumerate([*(f"other {number}" for number in range(before)), *names]):
            parent = None if number == 0 else saver.get_tuple(config_of("t")).checkpoint["id"]
            made = checkpoint({"x": [what, name]}, {"x": number + 1}, name)
            metadata: Any = {"source": "loop", "step": number - 1, "parents": {}}
            config = saver.put(config_of("t", parent), made, metadata, {"x": number + 1})
            for task in range(tasks):
                saver.put_writes(config, [("x", what)], f"task {task} of {name}")

    def told(saver: Any) -> list[Any]:
        found = [saver.get_tuple(config_of("t", name)) for name in names[:-1]]
        return [(one.checkpoint["channel_values"]["x"], one.pending_writes) for one in found]

    def expected(what: str, tasks: int = 1) -> list[Any]:
        return [
            ([what, name], [(f"task {task} of {name}", "x", what) for task in range(tasks)]) for name in names[:-1]
        ]

    with places.sync(place) as saver, places.sync(place) as another:
        fill(saver, "old", 0)
        assert told(saver) == told(saver) == told(another) == told(another) == expected("old")
        another.delete_thread("t")
        assert saver.get_tuple(config_of("t", names[0])) is None
        fill(another, "longer", 0, tasks=3)  # the first lies where it lay, and the next one does not
        assert told(saver) == told(saver) == expected("longer", tasks=3)
        another.delete_thread("t")
        fill(another, "new", 2)
        assert told(saver) == told(saver) == expected("new")
