"""What a beginner gets wrong is answered in words, and what he prints tells him where he is; never a password."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from runstream import (
    AsyncRedisCheckpointer,
    AsyncTieredCheckpointer,
    ConfigurationError,
    DrainWorker,
    EncodingError,
    InMemoryCheckpointer,
    JSONLCheckpointer,
    RedisCheckpointer,
    RunstreamError,
    SQLiteCheckpointer,
    TieredCheckpointer,
    connect,
    connect_async,
    create_event,
)
from tests.support.samples import make_event

SECRET = "redis://admin:pass-word@db.example:6400/2"


def anything(value: object) -> Any:
    """The value, whatever the types say to it."""
    return value


def check(error: type[RunstreamError], words: str, mistake: Callable[[], object]) -> None:
    with pytest.raises(error, match=words) as caught:
        mistake()
    assert "pass-word" not in str(caught.value)


# -- a URL, a client or a store in another's place


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (r"open it with runstream\.connect\(url\)", lambda: RedisCheckpointer(anything(SECRET))),
        (r"runstream\.connect_async\(url\)", lambda: AsyncRedisCheckpointer(anything(SECRET))),
        ("pass it to an AsyncRedisCheckpointer", lambda: RedisCheckpointer(anything(redis.asyncio.Redis()))),
        (
            "pass a redis.asyncio.Redis, or this one to a RedisCh",
            lambda: AsyncRedisCheckpointer(anything(redis.Redis())),
        ),
        (r"sqlite: URL, and a path is wanted", lambda: SQLiteCheckpointer("sqlite:mistake.db")),
        (r"redis: URL, and a path is wanted", lambda: SQLiteCheckpointer(SECRET)),
        (r"jsonl: URL, and a path is wanted", lambda: JSONLCheckpointer("jsonl:mistake")),
        ("RedisCheckpointer takes a client of redis-py", lambda: SQLiteCheckpointer(anything(redis.Redis()))),
        ("a path is a text or a pathlib.Path, and this is a NoneType", lambda: JSONLCheckpointer(anything(None))),
        (
            r"lease='w1': pass what the store's lease\(...\) gives",
            lambda: connect("memory:").append("r", [make_event("r", 1)], lease=anything("w1")),
        ),
        (
            r"connect\(url, archive=url\) opens both",
            lambda: TieredCheckpointer(anything(SECRET), anything("sqlite:m.db")),
        ),
        (r"or what runstream\.connect gives", lambda: DrainWorker(anything(SECRET), anything(["sqlite:m.db"]))),
        (
            "takes a list of archives, and a str is none",
            lambda: DrainWorker(connect("fake:"), anything(["sqlite:m.db"])),
        ),
        (
            "takes a list of archives, and a str is none",
            lambda: DrainWorker(connect("fake:"), anything("sqlite:m.db")),
        ),
        ("RedisCheckpointer takes a client of redis-py", lambda: connect(anything(redis.Redis()))),
        ("name a file as sqlite:PATH", lambda: connect(anything(Path("runs.db")))),
        ("TieredCheckpointer two stores", lambda: connect("fake:", archive=anything(InMemoryCheckpointer()))),
        ("await it first, or enter it with async with", lambda: anything(connect_async(SECRET)).save_event),
    ],
)
def test_what_stands_in_the_wrong_place(
    words: str, mistake: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check(ConfigurationError, words, mistake)
    assert list(tmp_path.iterdir()) == [], "no file of a URL's name"


def test_an_archive_by_itself_is_no_list_of_archives(tmp_path: Path) -> None:
    archive: Any = SQLiteCheckpointer(tmp_path / "a.db")
    with archive, connect("fake:") as hot:
        check(ConfigurationError, "a SQLiteCheckpointer is none", lambda: DrainWorker(hot, archive))


# -- what is passed to a store


def test_what_is_no_event_or_state() -> None:
    async def load() -> None: ...

    store: Any = InMemoryCheckpointer()
    event, coroutine = make_event("r", 1), load()
    for words, mistake in (
        (r"not a coroutine: await it first", lambda: store.append("r", coroutine)),
        (r"coroutine: await it first", lambda: store.save_event(coroutine)),
        (r"coroutine: await it first", lambda: store.save_snapshot("r", coroutine)),
        (
            r"payload\.x: .*coroutine: await it first",
            lambda: store.save_event(create_event("r", "k", x=coroutine)),
        ),
        (r"pass a list, not a PAEvent; \[event\] is a list of one", lambda: store.append("r", event)),
        (r"pass a list, not a PAEvent; save_event takes one", lambda: store.save_events(event)),
        (r"this is a list; .* save_events takes several", lambda: store.save_event([event])),
        (r"this is a dict; runstream\.create_event makes", lambda: store.save_event(event.to_dict())),
        (r"a state is a dict or has to_dict, and this is a str", lambda: store.save_snapshot("r", "done")),
        (r"and this is a NoneType", lambda: store.save_snapshot("r", None)),
        (r"kind: it is a text .*, not a PAEvent", lambda: store.open_run("r").emit(event)),
        (r"kind: it is a text .*, not an int", lambda: store.open_run("r").emit_many([(5,)])),
    ):
        check(EncodingError, words, mistake)
    coroutine.close()
    assert store.list_runs() == []


@pytest.mark.parametrize("url", ["memory:", "sqlite:{tmp}/a.db", "jsonl:{tmp}/a", "fake:"])
def test_no_state_is_no_state_in_any_store(url: str, tmp_path: Path) -> None:
    """What load_latest gives of a run without a snapshot, saved again, was silently nothing in some."""
    store: Any
    with connect(url.format(tmp=tmp_path)) as store:
        check(EncodingError, "and this is a NoneType", lambda: store.save_snapshot("r", None))


async def test_what_is_to_be_awaited_says_so() -> None:
    store: Any
    async with connect_async("memory:") as store:
        for opening in map(
            anything, (store.open_run("r"), store.lease("r", owner="me"), connect_async("memory:"))
        ):
            check(
                ConfigurationError,
                "it has no emit before it is opened: await it",
                partial(getattr, opening, "emit"),
            )
            assert not hasattr(opening, "emit")
            assert "to be opened" in repr(opening)
            with pytest.raises(ConfigurationError, match="async with"), opening:
                pass


async def test_what_comes_with_async_for_says_so() -> None:
    async with connect_async("memory:") as store:
        await store.save_events([make_event("r", 1), make_event("r", 2)])
        for items in map(anything, (store.read("r"), store.runs(), store.follow("r", idle_timeout=0))):
            check(ConfigurationError, "async for", partial(list, items))
        items = anything(store.read("r"))
        assert (await anext(items)).offset == 1
        assert [item.offset async for item in items] == [2]
        async with aclosing(anything(store.read("r"))) as items:
            async for _ in items:
                break
        assert [item async for item in items] == [], "it was closed"


# -- what is printed


async def test_a_repr_says_what_it_is_and_where(tmp_path: Path) -> None:
    class Mine(InMemoryCheckpointer[Any, Any]):
        pass

    hot, archive = connect("fake:repr"), SQLiteCheckpointer[Any, Any](tmp_path / "a.db")
    assert repr(Mine(name="x")) == "<Mine memory:x>"
    assert repr(hot) == "<RedisCheckpointer fake:, namespace 'runstream'>"
    assert repr(archive) == f"<SQLiteCheckpointer sqlite:{tmp_path}/a.db>"
    assert repr(JSONLCheckpointer(tmp_path / "a")) == f"<JSONLCheckpointer jsonl:{tmp_path}/a>"
    with archive, hot, connect("fake:repr", archive=f"sqlite:{tmp_path}/a.db") as tiered:
        assert repr(tiered) == f"<TieredCheckpointer {hot!r} with {archive!r}>"
        assert (
            repr(DrainWorker(anything(hot), [archive], name="w"))
            == f"<DrainWorker w: {hot!r} to sqlite:{tmp_path}/a.db>"
        )
    async with connect_async(f"sqlite:{tmp_path}/a.db") as local:
        assert repr(local) == f"<AsyncStore sqlite:{tmp_path}/a.db>"
    async with connect_async("fake:repr", archive=f"sqlite:{tmp_path}/a.db") as both:
        assert isinstance(both, AsyncTieredCheckpointer)
        assert "<AsyncRedisCheckpointer fake:, namespace 'runstream'> with <SQLite" in repr(both)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (SECRET, "redis://db.example:6400/2"),
        ("rediss://:pass-word@db.example?ssl_cert_reqs=none", "rediss://db.example:6379/0"),
        ("unix://admin:pass-word@/run/redis.sock?db=1", "unix:///run/redis.sock"),
    ],
)
def test_a_place_has_no_password(url: str, place: str) -> None:
    store: AsyncRedisCheckpointer[Any, Any] = AsyncRedisCheckpointer(
        redis.asyncio.Redis.from_url(url), namespace="n"
    )
    assert repr(store) == f"<AsyncRedisCheckpointer {place}, namespace 'n'>"


async def test_a_run_and_a_lease_say_whose_they_are() -> None:
    store: InMemoryCheckpointer[Any, Any] = InMemoryCheckpointer()
    with store.open_run("r", lane_id="b") as run:
        run.emit("k")
        assert repr(run) == "<Run of 'r', lane 'b', seq 1>"
    lease = store.lease("r", owner="me", ttl=5)
    assert repr(lease) == f"<Lease on 'r', the whole run, owner 'me', epoch {lease.epoch}>"
    lease.release()
    assert repr(lease).endswith(", lost>")
    with store.open_run("r", lease_ttl=5, owner="me") as run:
        assert repr(run) == f"<Run of 'r', lane 'main', seq 0, {run.lease!r}>"
    async with connect_async("memory:") as other, other.open_run("r") as aio:
        assert repr(aio) == "<AsyncRun of 'r', lane 'main', seq 0>"
