"""On our saver a program sees of its graphs what it sees on langgraph's InMemorySaver, on every store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.langgraph.observing import Place, Play, normalised
from tests.integrations.langgraph.places import Memory, Ours
from tests.integrations.langgraph.stories import STORIES
from tests.support.servers import PROGRAMS, Servers

DURABILITIES = ["sync", "async", "exit"]
KINDS = ["memory", "sqlite", "jsonl", "fake", "fake and archive", *(f"{name} and archive" for name in PROGRAMS)]


@pytest.fixture(params=["sync", "async"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner | None]:
    """What awaits an async saver's methods; None: the saver is sync."""
    if request.param == "sync":
        yield None
        return
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest,
    runner: asyncio.Runner | None,
    servers: Servers,
    namespace: str,
    tmp_path: Path,
) -> Iterator[Ours]:
    """Where threads are kept, of every kind; with an archive, all goes there between two calls."""
    name, _, archive = request.param.partition(" and ")
    beside = f"sqlite:{tmp_path}/archive.db" if archive else None
    if name not in PROGRAMS:
        url = {
            "sqlite": f"sqlite:{tmp_path}/threads.db",
            "jsonl": f"jsonl:{tmp_path}/threads",
            "fake": f"fake:{namespace}?namespace={namespace}",
            "memory": f"memory:{namespace}",
        }[name]
        yield Ours(runner, url, beside)
        return
    server = servers.get(name)
    yield Ours(runner, f"{server.url}?namespace={namespace}", beside)
    if left := list(server.raw.scan_iter(f"{{{namespace}*", count=1000)):
        server.raw.delete(*left)


def told(story: str, durability: str, place: Place) -> list[tuple[str, Any]]:
    """What is seen in a story, with a new saver wherever another process goes on."""
    make, tell = STORIES[story]
    with ExitStack() as opened:

        def reopen() -> None:
            opened.close()
            play.reopen(opened.enter_context(place.open()))

        play = Play(place, opened.enter_context(place.open()), make, durability)
        tell(play, reopen)
    return normalised(play.seen)


@cache
def told_in_memory(story: str, durability: str, *, is_async: bool) -> list[tuple[str, Any]]:
    """What is seen on langgraph's InMemorySaver."""
    if not is_async:
        return told(story, durability, Memory(None))
    with asyncio.Runner() as runner:
        return told(story, durability, Memory(runner))


def check_alike(seen: list[tuple[str, Any]], expected: list[tuple[str, Any]]) -> None:
    """All that was seen is the same, one after the other."""
    for one, other in zip(seen, expected, strict=True):
        assert one == other


@pytest.mark.exhaustive
@pytest.mark.one_in(24, exhaustively=10)
@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("story", STORIES)
def test_a_program_sees_what_it_sees_on_the_saver_in_memory(story: str, durability: str, place: Ours) -> None:
    """Streams, states, histories, interrupts, metadata, parents, and what the saver itself gives."""
    expected = told_in_memory(story, durability, is_async=place.runner is not None)
    check_alike(told(story, durability, place), expected)


@pytest.mark.one_in(8, exhaustively=4)
@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("story", STORIES)
def test_a_story_told_twice_is_seen_alike(story: str, durability: str) -> None:
    """Else what is compared would differ by itself."""
    check_alike(told(story, durability, Memory(None)), told_in_memory(story, durability, is_async=False))
