"""Threads are pruned, copied and deleted, and all that stays is whole: interrupts, DeltaChannels, copies."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from runstream import ConfigurationError, DrainWorker, SQLiteCheckpointer, connect
from runstream.integrations.langgraph import RunstreamSaver
from runstream.integrations.langgraph.mapping import THREAD_TAGS
from runstream.model.tags import MAX_TAGS
from tests.integrations.langgraph.checkpoints import config_of, ids_of, new_thread, save
from tests.integrations.langgraph.savers import ALONE, PLACES, Places
from tests.support.kinds import REAL

EVERYWHERE = ["memory", "fake", "sqlite", "jsonl", "draining"]


def extend(state: Any, writes: Any) -> Any:
    """The reducer of a list that is kept as differences."""
    return [*state, *(each for write in writes for each in write)]


class State(TypedDict):
    said: Annotated[list[str], DeltaChannel(extend)]
    count: int


def graph_over(saver: Any) -> Any:
    """A graph that asks a person after its first step."""
    builder = StateGraph(State)
    builder.add_node("speak", lambda state: {"said": [f"a{state['count']}"], "count": state["count"] + 1})
    builder.add_node("ask", lambda state: {"said": [interrupt(f"ok {state['count']}?")]})
    builder.add_edge(START, "speak")
    builder.add_edge("speak", "ask")
    return builder.compile(checkpointer=saver)


def turns(saver: Any, thread_id: str, count: int) -> Any:
    """Play so many turns, the last up to its question."""
    graph, config = graph_over(saver), config_of(thread_id)
    for turn in range(count):
        graph.invoke({"said": [f"q{turn}"], "count": turn}, config)
        if turn + 1 < count:
            graph.invoke(Command(resume=f"yes{turn}"), config)
    return graph


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_pruned_thread_keeps_its_question_and_its_differences_and_goes_on(name: str, places: Places) -> None:
    with places.sync(name) as saver:
        thread_id, config = new_thread(), config_of(new_thread())
        config["configurable"]["thread_id"] = thread_id
        graph = turns(saver, thread_id, 4)
        before, size = graph.get_state(config), len(list(graph.get_state_history(config)))
        saver.prune([thread_id])
        saver.prune([thread_id])  # there is nothing more
        for each in (saver, *([] if name == "memory" else [RunstreamSaver(saver.store)])):
            after = graph_over(each).get_state(config)
            assert after.values == before.values
            assert [task.interrupts for task in after.tasks] == [task.interrupts for task in before.tasks]
            assert (after.next, after.metadata, after.config) == (before.next, before.metadata, before.config)
            assert len(list(each.list(config))) == 1 < size
        graph.invoke(Command(resume="yes"), config)
        graph.invoke({"said": ["q"], "count": 9}, config)
        said = graph.get_state(config).values["said"]
        assert said == [*before.values["said"], "yes", "q", "a9"]
        first = list(graph.get_state_history(config))[-1]
        assert first.values == before.values


def test_what_pruning_takes_away_is_gone_from_the_store(places: Places) -> None:
    with places.sync("sqlite") as saver:
        thread_id, parent = new_thread(), None
        for turn in range(30):
            parent = save(saver, thread_id, {"messages": [f"m{each}" for each in range(turn)]}, turn, parent)
        saver.prune([thread_id])
        assert len(saver.store.list_events(thread_id)) == 1
        assert [erasure.done for erasure in saver.store.erasures(thread_id)] == [True]


def test_pruning_by_age_leaves_threads_that_are_written_to(places: Places) -> None:
    with places.sync("memory") as saver:
        thread_id = new_thread()
        second = save(saver, thread_id, {"x": 1}, 0, save(saver, thread_id, {"x": 0}, -1))
        saver.prune(idle_seconds=3600)
        assert len(ids_of(saver, thread_id)) == 2
        saver.prune(idle_seconds=0)
        assert ids_of(saver, thread_id) == [second]
        saver.prune([thread_id], strategy="delete", idle_seconds=3600)
        assert ids_of(saver, thread_id) == [second]
        saver.prune(strategy="delete")
        assert ids_of(saver, thread_id) == []
        with pytest.raises(ConfigurationError, match="keep_latest"):
            saver.prune(strategy="keep_all")


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_copy_goes_on_by_itself_and_outlives_the_thread(name: str, places: Places) -> None:
    with places.sync(name) as saver:
        source, target = new_thread(), new_thread()
        graph = turns(saver, source, 3)
        before = graph.get_state(config_of(source)).values
        saver.copy_thread(source, target)
        graph.invoke(Command(resume="of the copy"), config_of(target))
        assert graph.get_state(config_of(source)).values == before
        saver.delete_thread(source)
        assert saver.get_tuple(config_of(source)) is None
        copied = graph.get_state(config_of(target)).values
        assert copied["said"] == [*before["said"], "of the copy"]
        history = [each.values.get("said", []) for each in graph.get_state_history(config_of(target))]
        assert [len(said) for said in history] == sorted(map(len, history), reverse=True)
        with pytest.raises(ConfigurationError):
            saver.copy_thread(source, new_thread())


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_thread_and_its_copy_are_pruned_each_by_itself(name: str, places: Places) -> None:
    with places.sync(name) as saver:
        source, target = new_thread(), new_thread()
        graph = turns(saver, source, 3)
        saver.copy_thread(source, target)
        graph.invoke(Command(resume="of the copy"), config_of(target))
        of_source, of_target = (graph.get_state(config_of(each)).values for each in (source, target))
        length = len(ids_of(saver, target))
        saver.prune([source])
        assert graph.get_state(config_of(source)).values == of_source
        assert len(ids_of(saver, target)) == length
        saver.prune([target])
        assert graph.get_state(config_of(target)).values == of_target
        assert [len(ids_of(saver, each)) for each in (source, target)] == [1, 1]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_the_checkpoints_of_a_run_go_and_what_others_need_of_them_stays(name: str, places: Places) -> None:
    with places.sync(name) as saver:
        thread_id, parent, messages, ids = new_thread(), None, [], []
        for turn in range(9):
            messages.append(f"message {turn} " * 20)
            values = {"messages": messages, "secret": f"secret of run {turn // 3}"}
            parent = save(saver, thread_id, values, turn, parent, run_id=f"run-{turn // 3}")
            ids.append(parent)
            saver.put_writes(config_of(thread_id, parent), [("x", f"written by run {turn // 3}")], "task")
        saver.delete_for_runs(["run-1", "run-of-nobody"])
        kept = [*ids[:3], *ids[6:]]
        for each in (saver, *([] if name == "memory" else [RunstreamSaver(saver.store)])):
            assert ids_of(each, thread_id) == kept[::-1]
            assert each.get_tuple(config_of(thread_id, ids[4])) is None
            found = each.get_tuple(config_of(thread_id))
            assert found is not None
            assert found.checkpoint["channel_values"]["messages"] == messages
            of_first = each.get_tuple(config_of(thread_id, ids[1]))
            assert of_first is not None
            assert of_first.checkpoint["channel_values"]["messages"] == messages[:2]
        if name != "draining":  # where a worker erases them in its time
            text = "".join(str(event.payload) for event in saver.store.list_events(thread_id))
            assert "written by run 1" not in text
            assert "written by run 2" in text
        saver.delete_for_runs(["run-2"])  # the latest goes too
        found = saver.get_tuple(config_of(thread_id))
        assert found is not None
        assert found.checkpoint["id"] == ids[2]
        again = save(saver, thread_id, {"messages": ["anew"]}, 3, ids[2])
        assert ids_of(saver, thread_id) == [again, *ids[2::-1]]
        saver.delete_for_runs(["run-0"])
        assert ids_of(saver, thread_id) == [again]


def test_a_channel_of_differences_is_whole_without_the_run_that_wrote_some_of_them(places: Places) -> None:
    with places.sync("memory") as saver:
        graph, thread_id = graph_over(saver), new_thread()
        for turn in range(4):
            config = {**config_of(thread_id), "metadata": {"run_id": f"run-{turn}"}}
            graph.invoke({"said": [f"q{turn}"], "count": turn}, config)
            graph.invoke(Command(resume=f"yes{turn}"), config)
        before, length = graph.get_state(config_of(thread_id)).values, len(ids_of(saver, thread_id))
        saver.delete_for_runs(["run-1"])
        assert len(ids_of(saver, thread_id)) < length
        for each in (saver, RunstreamSaver(saver.store)):
            assert graph_over(each).get_state(config_of(thread_id)).values == before


@pytest.mark.parametrize("name", ["memory", "fake"])
def test_other_runs_of_a_store_are_no_threads(name: str, places: Places) -> None:
    with places.sync(name) as saver:
        saver.store.save_snapshot("of another kind", saver._context.operations.codec.new_state("of another kind"))
        thread_id = new_thread()
        made = save(saver, thread_id, {"x": 0}, -1, run_id="r1")
        assert [found.checkpoint["id"] for found in saver.list(None)] == [made]
        info = saver.store.run_info(thread_id)
        assert info is not None
        assert dict(info.tags) == {**THREAD_TAGS, "run:r1": ""}


@pytest.mark.parametrize(
    "name", ["memory", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in REAL[:1])]
)
def test_a_thread_of_more_runs_than_it_may_have_tags_goes_on(name: str, places: Places) -> None:
    with places.sync(name) as saver:
        thread_id = new_thread()
        first = save(saver, thread_id, {"x": 0}, -1)
        tags = {f"run:{number}": "" for number in range(MAX_TAGS - 1)}
        saver.store.append(thread_id, [], tags=tags)
        second = save(saver, thread_id, {"x": 1}, 0, first, run_id="one more")
        assert ids_of(saver, thread_id) == [second, first]


@pytest.mark.parametrize("name", REAL[:1])
def test_everything_is_there_once_all_of_it_has_left_redis(name: str, places: Places) -> None:
    (url, archive), config = places.urls("retiring"), config_of(new_thread())
    assert archive is not None
    with RunstreamSaver.from_url(url, archive=archive) as saver, connect(url) as hot:
        sink: Any = SQLiteCheckpointer(archive.removeprefix("sqlite:"))
        graph = turns(saver, config["configurable"]["thread_id"], 3)
        expected = [(each.values, each.next, each.config) for each in graph.get_state_history(config)]
        with sink:
            DrainWorker(hot, [sink], retire_idle_seconds=0).drain_once()
        assert [(each.values, each.next, each.config) for each in graph.get_state_history(config)] == expected
        graph.invoke(Command(resume="yes"), config)
        assert len(list(graph.get_state_history(config))) == len(expected) + 1


def test_every_place_is_tried_somewhere() -> None:
    assert set(EVERYWHERE) <= set(PLACES)
    assert set(ALONE) <= set(PLACES)
