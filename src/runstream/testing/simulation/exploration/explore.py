"""Play every history of a configuration."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from runstream.testing.simulation.clock import Clock, in_place
from runstream.testing.simulation.exploration.scene import Scene
from runstream.testing.simulation.exploration.search import Search
from runstream.testing.simulation.exploration.steps import SharedSteps
from runstream.testing.simulation.exploration.tape import Tape
from runstream.testing.simulation.game import a_directory
from runstream.testing.simulation.threads import Threads

__all__ = ["Configuration", "Exploration", "explore"]


@dataclass(frozen=True)
class Configuration:
    """A small configuration.

    Attributes:
        begin: Lets all begin who take part, writers with so many events; what it returns says what is wrong in the
            end.
        faults: How many steps of one history may have another fate than to arrive.
        time_passes: Whether one of those who take part lets time pass.
        one_by_one: Whether each command of an exchange that is not atomic is a step.
    """

    begin: Callable[[Scene, int], Callable[[], Iterator[str]]]
    faults: int = 0
    time_passes: bool = False
    one_by_one: bool = False


@dataclass
class Exploration:
    """What was found.

    Attributes:
        histories: How many histories were played to their end, each to another end.
        turns: How many were played until they came to a state that was known.
        states: How many states there were from which histories part, or in which they end.
        steps: How many steps were made that others may notice.
        depth: How many of them the longest history has.
        is_whole: Whether all histories were played.
        faults: What is wrong with the first history that ends badly.
        story: What happened in it.
    """

    histories: int = 0
    turns: int = 0
    states: int = 0
    steps: int = 0
    depth: int = 0
    is_whole: bool = False
    faults: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)

    def told(self) -> str:
        """How much was played, in words."""
        extent = "all" if self.is_whole else "not all"
        return (
            f"{extent} histories, which come to {self.histories:,} ends of {self.depth} steps at most:"
            f" {self.steps:,} steps, {self.states:,} states, {self.turns:,} turns at known ones"
        )


def explore(configuration: Configuration, events: int = 1, most_histories: int | None = None) -> Exploration:
    """Play every history of a configuration, until one ends badly.

    Args:
        configuration: Who takes part.
        events: How many events each writer appends.
        most_histories: No more are played; None: all.

    Returns:
        What was found.
    """
    found = Exploration()
    steps = SharedSteps(Clock(), tape := Tape())
    with (
        a_directory() as directory,
        in_place(steps.clock, 0, lambda _: None, steps.skew, Threads(steps)) as steps.dice,
    ):
        scene = Scene(steps, directory)
        search = Search(tape, scene.shared.save, scene.shared.put_back)
        while not (found.faults or found.is_whole or found.histories + found.turns == most_histories):
            _play(configuration, events, scene, search, found)
            found.is_whole = not search.turn()
    found.states, found.steps = search.states, search.steps
    return found


def _play(configuration: Configuration, events: int, scene: Scene, search: Search, found: Exploration) -> None:
    """Play the next history, and judge it if it comes to an end that is not known."""
    steps = scene.steps
    search.begin()
    scene.begin(configuration.faults, time_passes=configuration.time_passes, one_by_one=configuration.one_by_one)
    try:
        judge = configuration.begin(scene, events)
        if steps.play(search.choose, scene.shared.state):
            found.histories += 1
            found.depth = max(found.depth, steps.steps)
            found.faults = [*scene.settle(), *judge()]
        else:
            found.turns += 1
        found.faults += scene.noted
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        found.faults = ["".join(traceback.format_exception(error))]
    if found.faults:
        found.story = list(steps.story)
    steps.close()
