"""A run in numbers over HTTP: read once, in the background, and told as far as it is known."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import runstream
import runstream.web
from runstream.web import summaries
from runstream.web.access import Access
from runstream.web.opened import OpenedStore
from runstream.web.path_ids import path_id
from tests.support.backends import Backend
from tests.support.servers import eventually
from tests.support.web_server import asked, fits, serving
from tests.support.web_world import world_of

SUMMARY = f"/runs/{path_id('r')}/summary"


def complete(client: Any) -> Any:
    """The numbers, once they are those of the whole run."""
    found: Any = None

    def is_complete() -> bool:
        nonlocal found
        found = client.get(SUMMARY).json()
        return bool(found["complete"])

    eventually(is_complete)
    return found


def results(count: int, first: int = 0) -> list[runstream.PAEvent]:
    return [
        runstream.create_event("r", "model.response", seq=number, usage={"input_tokens": number})
        for number in range(first, first + count)
    ]


@pytest.mark.parametrize("kind", ["fake", pytest.param("sync", marks=pytest.mark.exhaustive)])
def test_a_summary_is_of_archive_and_redis_and_goes_on_with_the_run(
    kind: str, make_backend: Callable[[str], Backend], tmp_path: Path
) -> None:
    with world_of(kind, make_backend, tmp_path) as world:
        world.store.append("r", results(600))
        world.drain(trim="archived")
        world.store.append("r", results(1, 600))
        client = world.replicas[0]
        found = complete(client)
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        assert fits(found, schemas["RunSummaryFacts"], schemas)
        assert (found["offset"], found["total"]["events"]) == (601, 601)
        world.store.append("r", results(1, 601))
        assert complete(client)["total"]["input_tokens"] == sum(range(602))


def test_a_run_that_is_made_anew_is_counted_anew(make_backend: Callable[[str], Backend], tmp_path: Path) -> None:
    with world_of("fake", make_backend, tmp_path) as world:
        for text in ("one", "other"):
            world.store.append("r", [runstream.create_event("r", "tool.result", tool=text)])
            assert [tool["tool"] for tool in complete(world.replicas[0])["tools"]] == [text]
            world.store.delete_run("r")


def test_a_summary_says_how_far_it_has_been_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "_ANSWER_SECONDS", 0.0)
    with runstream.connect("memory:") as store:
        store.append("r", results(3000))
        with serving(runstream.web.app(store)) as client:
            found = client.get(SUMMARY).json()
            assert found["offset"] == found["total"]["events"] < found["last_offset"] == 3000
            assert not found["complete"]
            assert complete(client)["total"]["events"] == 3000


class Odd:
    """An event of an application: its payload is no dict, and it may have no kind."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.__dict__.update(fields, payload=object())
        self.fields = fields

    def __getattribute__(self, name: str) -> Any:
        if name == "kind" and self.fields["kind"] == "broken":
            raise ArithmeticError
        return super().__getattribute__(name)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Odd:
        return cls(fields)

    def to_dict(self) -> dict[str, Any]:
        return self.fields


def test_an_event_of_any_class_is_counted_or_is_a_problem() -> None:
    with runstream.connect(f"memory:{uuid.uuid4().hex}", event_type=Odd) as store:
        store.append("r", [Odd(runstream.create_event("r", "tool.result").to_dict())])
        (found,) = asyncio.run(asked(runstream.web.app(store), SUMMARY))
        assert (found.json()["complete"], found.json()["total"]["events"]) == (True, 1)
    with runstream.connect(f"memory:{uuid.uuid4().hex}", event_type=Odd) as store:
        store.append("r", [Odd(runstream.create_event("r", "broken").to_dict())])
        for answer in asyncio.run(asked(runstream.web.app(store), SUMMARY, SUMMARY)):
            assert (answer.status_code, answer.json()["status"]) == (500, 500)


def test_who_has_the_numbers_is_told_that_they_are_the_newest() -> None:
    async def follow(store: Any) -> list[int]:
        transport = httpx.ASGITransport(app=runstream.web.app(store))
        found = []
        async with httpx.AsyncClient(transport=transport, base_url="http://runs") as client:
            tag = ""
            for _ in range(2):
                for _ in range(2):
                    answer = await client.get(SUMMARY, headers={"If-None-Match": tag})
                    tag = answer.headers["etag"]
                    found.append(answer.status_code)
                await asyncio.to_thread(store.append, "r", results(1))
        return found

    with runstream.connect("memory:") as store:
        store.append("r", results(1))
        assert asyncio.run(follow(store)) == [200, 304, 200, 304]


@asynccontextmanager
async def counted() -> AsyncIterator[tuple[Any, Callable[[], Awaitable[int]]]]:
    """A store with a run of three events, and how many its summary counts."""
    async with runstream.connect_async("memory:") as store:
        await store.append("r", results(3))
        transport = httpx.ASGITransport(app=runstream.web.app(store))
        async with httpx.AsyncClient(transport=transport, base_url="http://runs") as client:

            async def count() -> int:
                found: int = (await client.get(SUMMARY)).json()["total"]["events"]
                return found

            assert await count() == 3
            yield store, count


async def test_what_was_erased_is_counted_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it took to count: it is asked now and then what was erased."""
    monkeypatch.setattr(summaries, "_QUICK_SECONDS", 0.0)
    async with counted() as (store, count):
        await store.erase("r", [2])
        assert await count() == 3
        monkeypatch.setattr(summaries, "_ERASURES_SECONDS", 0.0)
        assert await count() == 2
        await store.truncate("r", before=2)
        assert await count() == 1


async def test_what_was_erased_is_counted_no_longer_once_the_numbers_are_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with counted() as (store, count):
        await store.erase("r", [2])
        assert await count() == 3
        monkeypatch.setattr(summaries, "_QUICK_OLD_SECONDS", 0.0)
        monkeypatch.setattr(summaries, "_QUICK_SECONDS", 60.0)
        assert await count() == 2
        monkeypatch.setattr(summaries, "_QUICK_SECONDS", 0.0)
        await store.erase("r", [1])
        assert await count() == 2  # it took long


def test_what_goes_on_beside_answers_ends_with_the_app() -> None:
    async def close(store: Any) -> bool:
        access = Access(OpenedStore(store))
        going_on = access.begin(asyncio.Event().wait())  # type: ignore[arg-type]  # it never ends
        await asyncio.sleep(0)
        await access.close()
        return going_on.cancelled()

    with runstream.connect("memory:") as store:
        assert asyncio.run(close(store))
