"""What programs do with graphs: each story plays on any saver, and all that is seen is to be the same on all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from langchain_core.messages import HumanMessage, RemoveMessage
from langgraph.types import Command, StateUpdate

from tests.integrations.langgraph import graphs
from tests.integrations.langgraph.observing import THREAD, Play

__all__ = ["STORIES", "Story"]

Reopen = Callable[[], None]
"""Called where another process goes on with the thread."""


class Story(NamedTuple):
    """A graph, given a saver, and what is done with it."""

    make: Callable[[Any], Any]
    tell: Callable[[Play, Reopen], None]


STORIES: dict[str, Story] = {}


def of(make: Callable[[Any], Any]) -> Callable[[Callable[[Play, Reopen], None]], Callable[[Play, Reopen], None]]:
    """Take a function among the stories, with the graph that it is told on."""

    def take(tell: Callable[[Play, Reopen], None]) -> Callable[[Play, Reopen], None]:
        STORIES[tell.__name__.replace("_", " ")] = Story(make, tell)
        return tell

    return take


def thread(thread_id: str, **configurable: Any) -> Mapping[str, Any]:
    """The config of a thread."""
    return {"configurable": {"thread_id": thread_id, **configurable}}


@of(lambda saver: graphs.steps().compile(checkpointer=saver))
def steps_one_by_one(play: Play, reopen: Reopen) -> None:
    play.state()
    play.stream({"said": ["begin"]})
    play.stream({"said": ["again"]})
    play.stream(None)  # there is nothing to do
    reopen()
    play.state()
    play.history()
    play.saved()


@of(lambda saver: graphs.steps().compile(checkpointer=saver, interrupt_before=["two"], interrupt_after=["two"]))
def stops_before_and_after_a_node(play: Play, reopen: Reopen) -> None:
    play.stream({"said": ["begin"]})
    play.state()
    reopen()
    play.stream(None)
    play.state()
    play.update(values={"note": "by hand"})
    play.stream(None)
    play.history()
    play.saved()


@of(lambda saver: graphs.approval().compile(checkpointer=saver))
def a_person_says_no_and_then_yes(play: Play, reopen: Reopen) -> None:
    play.stream({"said": ["begin"]})
    play.state()
    reopen()
    play.stream(Command(resume="no"))
    play.state()
    reopen()
    play.stream(Command(resume="yes", update={"note": "with an answer"}))
    play.state()
    play.history()
    play.saved()


@of(lambda saver: graphs.two_questions().compile(checkpointer=saver))
def two_ask_at_once(play: Play, reopen: Reopen) -> None:
    play.stream({"said": []})
    asked = play.state().interrupts
    (twice,) = (one for one in asked if one.value == "first?")
    play.stream(Command(resume={twice.id: "a"}))
    reopen()
    still = play.state().interrupts
    (second,) = (one for one in still if one.value == "second?")
    (once,) = (one for one in still if one.value == "once?")
    play.stream(Command(resume={second.id: "b", once.id: "c"}))
    play.state()
    play.history()
    play.saved()


@of(lambda saver: graphs.branches().compile(checkpointer=saver))
def branches_come_together(play: Play, reopen: Reopen) -> None:
    play.stream({"said": []})
    reopen()
    play.stream({"said": ["again"]})
    play.history()
    play.saved()


def _shaky(saver: Any) -> Any:
    """A failure ends what runs beside it: the weak one fails when what the sound one has done is known."""
    fails, may_fail = ["weak"], threading.Event()
    graph: Any = graphs.shaky(fails, may_fail).compile(checkpointer=saver)
    graph.fails = fails  # the story heals it

    def see(chunk: Any) -> None:
        if "sound" in chunk[-1]:
            may_fail.set()

    graph.see = see
    return graph


@of(_shaky)
def a_branch_fails_and_is_done_again(play: Play, reopen: Reopen) -> None:
    play.stream({"said": []})
    play.state()
    play.saved()
    reopen()
    play.graph.fails[:] = ["after"]
    play.graph.see([["sound"]])
    play.stream(None)
    play.state()
    play.graph.fails.clear()
    play.stream(None)
    play.state()
    play.history()
    play.saved()


@of(lambda saver: graphs.fan().compile(checkpointer=saver))
def many_tasks_of_one_node(play: Play, reopen: Reopen) -> None:
    play.stream({"squares": []})
    reopen()
    play.history()
    play.saved()


@of(lambda saver: graphs.family().compile(checkpointer=saver))
def a_question_two_graphs_deep(play: Play, reopen: Reopen) -> None:
    play.stream({"said": []})
    state = play.state()
    reopen()
    child = state.tasks[0].state.config  # type: ignore[union-attr]
    play.state(child)
    play.history(child)
    play.update(child, {"note": "by hand"})
    play.stream(Command(resume="this"))
    play.state()
    play.history()
    play.saved()


@of(lambda saver: graphs.family(remembers=True).compile(checkpointer=saver))
def graphs_in_graphs_that_remember(play: Play, reopen: Reopen) -> None:
    for answer in ("this", "that"):
        play.stream({"said": [answer]})
        reopen()
        play.stream(Command(resume=answer))
    play.state()
    play.history()
    play.saved()


@of(lambda saver: graphs.chat().compile(checkpointer=saver))
def a_chat_of_many_turns(play: Play, reopen: Reopen) -> None:
    for turn in range(5):
        play.stream({"messages": [HumanMessage(f"question {turn}", id=f"question-{turn}")]})
    play.update(values={"messages": [RemoveMessage(id="question-1"), RemoveMessage(id="answer-3")]})
    play.update(values={"messages": [HumanMessage("corrected", id="question-2")]})
    reopen()
    play.stream({"messages": [HumanMessage("the last", id="question-9")]})
    play.state()
    history = play.history()
    play.history(limit=3)
    play.history(before=history[4].config, limit=2)
    play.history(filter={"source": "input"})
    play.history(filter={"source": "loop", "step": 4})
    play.saved()


@of(lambda saver: graphs.approval().compile(checkpointer=saver))
def back_in_time(play: Play, reopen: Reopen) -> None:
    play.stream({"said": ["begin"]})
    play.stream(Command(resume="no"))
    play.stream(Command(resume="yes"))
    history = play.history()
    asked = next(one for one in reversed(history) if one.next == ("ask",))
    begun = history[-1]
    reopen()
    play.state(asked.config)
    play.stream(None, asked.config)  # asks again, on a branch of its own
    play.state()
    play.stream(Command(resume="yes"))
    play.history()
    changed = play.update(begun.config, {"note": "otherwise"}, as_node="draft")
    play.state(changed)
    reopen()
    play.stream(None, changed)
    play.stream(Command(resume="yes"))
    copied = play.update(history[2].config, None, as_node="__copy__")
    play.stream(None, copied)
    play.state()
    play.history()
    play.saved()


@of(lambda saver: graphs.steps("one", "two").compile(checkpointer=saver))
def changes_by_hand(play: Play, reopen: Reopen) -> None:
    play.update(values={"said": ["first"], "note": "new"}, as_node="__input__")
    play.stream(None)
    reopen()
    play.update(values={"said": ["by one"]}, as_node="one")
    play.state()
    play.stream(None)
    play.bulk_update(
        [
            [StateUpdate({"said": ["a"]}, "one"), StateUpdate({"said": ["b"]}, "one")],
            [StateUpdate({"said": ["c"]}, "two")],
        ]
    )
    play.update(values=None, as_node="__end__")
    play.state()
    play.history()
    play.saved()


@of(lambda saver: graphs.deltas().compile(checkpointer=saver))
def a_list_of_differences(play: Play, reopen: Reopen) -> None:
    for turn in range(6):
        play.stream({"items": [f"given {turn}"]})
        if turn % 2:
            reopen()
    history = play.history()
    old = history[len(history) // 2]
    play.state(old.config)
    changed = play.update(old.config, {"items": ["by hand"]}, as_node="join")
    play.state(changed)
    play.stream({"items": ["on the branch"]}, changed)
    play.state()
    for one in play.history():
        play.deltas(one.config, ["items", "note"])


@of(graphs.functional)
def functions_with_a_question(play: Play, reopen: Reopen) -> None:
    for number in (1, 5):
        play.stream(number)
        play.state()
        reopen()
        play.stream(Command(resume="good"))
    play.state()
    play.history()
    play.saved()


@of(lambda saver: graphs.chat().compile(checkpointer=saver))
def threads_beside_one_another(play: Play, reopen: Reopen) -> None:
    for turn in range(2):
        for name in ("a", "b"):
            message = HumanMessage(f"{name} {turn}", id=f"{name}-{turn}")
            play.stream({"messages": [message]}, thread(name))
    play.delete("a")
    reopen()
    play.state(thread("a"))
    play.history(thread("a"))
    play.stream({"messages": [HumanMessage("anew", id="anew")]}, thread("a"))
    for name in ("a", "b"):
        play.history(thread(name))
        play.saved(thread(name))


assert thread("thread") == THREAD
