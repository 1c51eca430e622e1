"""A graph with a subgraph that remembers is replayed from each of its checkpoints, and nobody is in its way."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from tests.integrations.langgraph.checkpoints import config_of
from tests.integrations.langgraph.savers import PLACES, Places


class State(TypedDict):
    said: Annotated[list[Any], operator.add]


def graph_over(saver: Any) -> Any:
    """A graph with a subgraph whose namespace is the same in each run."""
    child = StateGraph(State)
    child.add_node("first", lambda _: {"said": ["first"]})
    child.add_node("second", lambda _: {"said": ["second"]})
    child.add_edge(START, "first")
    child.add_edge("first", "second")
    builder = StateGraph(State)
    builder.add_node("begin", lambda _: {"said": ["begin"]})
    builder.add_node("child", child.compile(checkpointer=True))
    builder.add_edge(START, "begin")
    builder.add_edge("begin", "child")
    return builder.compile(checkpointer=saver)


def replays(saver: Any) -> list[Any]:
    """What comes of two runs, of a replay from each checkpoint, and of one run more."""
    graph, config = graph_over(saver), config_of("thread")
    seen = [graph.invoke({"said": [number]}, config) for number in range(2)]
    for before in list(graph.get_state_history(config)):
        seen.append(graph.invoke(None, before.config))
        seen.append([(each.values, each.next, each.metadata) for each in graph.get_state_history(config)])
    return [*seen, graph.invoke({"said": ["last"]}, config)]


@pytest.mark.exhaustive
@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", PLACES)
def test_a_replay_from_each_checkpoint_gives_what_langgraphs_own_saver_gives(name: str, places: Places) -> None:
    with places.sync(name) as saver:
        assert replays(saver) == replays(InMemorySaver())
