"""What the tests of the drain share: archives to interfere with, and what stands in Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from runstream import (
    DrainReport,
    DrainWorker,
    EventKind,
    JSONLCheckpointer,
    PAEvent,
    RedisCheckpointer,
    SQLiteCheckpointer,
    connect,
    create_event,
)
from runstream.operations.operation import Exchange
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker.sweep import BEGINNING
from runstream.stores.redis.replies import parse_scores
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.samples import make_events
from tests.support.servers import DEADLINE_SECONDS

Hot: TypeAlias = RedisCheckpointer[Any, Any]


_BY_CLASS = {"position_of_lanes", "read_back_lanes", "read_back_tags"}
"""What a worker looks for in the class of a sink: one that passes all calls on does without."""


class Hooked:
    """An archive, or a store, that lets a test look or interfere before each call of some of its methods."""

    def __init__(self, inner: Any, **hooks: Callable[..., None]) -> None:
        self._inner = inner
        self._hooks = hooks
        # what it is shown to have: isinstance looks past __getattr__ from Python 3.12 on
        own = type(self)
        shown = {name for name in dir(type(inner)) if not name.startswith("_")} - _BY_CLASS
        names = [name for name in shown if not hasattr(own, name)]
        self.__class__ = type(own.__name__, (own,), {name: _shown(name) for name in names})

    def __getattr__(self, name: str) -> Any:
        return self._look_up(name)

    def _look_up(self, name: str) -> Any:
        found = getattr(self._inner, name)
        hook = self._hooks.get(name)
        if hook is None:
            return found

        def hooked(*args: Any, **options: Any) -> Any:
            hook(*args)
            return found(*args, **options)

        return hooked


def _shown(name: str) -> property:
    """An attribute of a Hooked."""

    def look_up(hooked: Hooked) -> Any:
        return hooked._look_up(name)

    return property(look_up)


class Outage:
    """A hook that raises for as long as it is on."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.is_on = True
        self.calls = 0

    def __call__(self, *_: Any) -> None:
        self.calls += 1
        if self.is_on:
            raise self.error


def open_archives(directory: Path) -> list[Archive]:
    """One of each kind."""
    return [SQLiteCheckpointer(directory / "archive.db"), JSONLCheckpointer(directory / "archive")]


def open_hot(backend: RedisBackend, **options: Any) -> Hot:
    """Another store over that namespace."""
    store = backend.open(**options)
    assert isinstance(store, RedisCheckpointer)
    return store


def locations(archives: Iterable[Archive]) -> dict[str, str]:
    """The archives, UUID to location, as a worker names them to Redis."""
    return {archive.archive_id: archive.location for archive in archives}


def emit(hot: Hot, run_id: str, count: int, *, first: int = 1) -> list[PAEvent]:
    """Append so many events, and give them back: they are acknowledged."""
    events = make_events(run_id, count, first=first)
    hot.save_events(events)
    return events


def drain_to(url: str, archive: str, **options: Any) -> DrainReport:
    """What a worker does that is started for a server and an archive: it archives all, and trims that."""
    with connect(url) as hot, connect(archive) as sink:
        worker = DrainWorker(hot, [sink], trim="archived", **options)  # type: ignore[list-item]  # connect gives any store
        return worker.drain_once()


def first_hot(hot: Hot, run_id: str) -> int:
    """The first offset that is in Redis."""
    info = hot.run_info(run_id)
    assert info is not None
    return info.first_hot


def ask(hot: Hot, *command: Any) -> Any:
    """The server's reply to a command."""

    def operation() -> Any:
        (reply,) = yield Exchange([command])
        return reply

    return namespace_of(hot).run(operation())


def due(hot: Hot) -> dict[str, float]:
    """The runs that are due, claimed or parked, and when they come due: seconds of server time."""
    found = {}
    for partition in namespace_of(hot).keys.partitions:
        for run_id, at in parse_scores(ask(hot, b"ZRANGE", partition.due, 0, -1, b"WITHSCORES")):
            found[run_id] = at / 1e6
    return found


def parked(hot: Hot) -> dict[str, str]:
    """The runs that are set aside, and why."""
    return dict(namespace_of(hot).status().parked)


def put_raw(hot: Hot, run_id: str, make: Callable[[bytes], bytes], key: str | None = None) -> bytes:
    """Append an event whose record is damaged on its way into Redis; offset and chain are the script's."""
    codec: Any = hot._operations.codec
    encode = codec.encode_events
    made: list[bytes] = []

    def encode_damaged(*args: Any) -> Any:
        damaged = [one._replace(record=make(one.record)) for one in encode(*args)]
        made.extend(one.record for one in damaged)
        return damaged

    codec.encode_events = encode_damaged
    try:
        hot.append(run_id, [create_event(run_id, EventKind.AGENT_PROGRESS, seq=99)], keys=[key])
    finally:
        del codec.encode_events  # the instance's own, set above
    return made[0]


def server_seconds(hot: Hot) -> float:
    """The server's time."""
    seconds, microseconds = ask(hot, b"TIME")
    return int(seconds) + int(microseconds) / 1e6


@contextmanager
def running(*workers: DrainWorker) -> Iterator[list[DrainReport]]:
    """The workers run while this lasts; then they are told to stop. What they report is there after it."""
    stop = threading.Event()
    reports: list[DrainReport] = []
    failures: list[BaseException] = []

    def work(worker: DrainWorker) -> None:
        try:
            reports.append(worker.run(stop))
        except BaseException as error:  # noqa: BLE001 - raised again where it is seen
            failures.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield reports
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]


def swept(hot: Hot) -> tuple[list[str], list[Any]]:
    """What a sweep over all keys, of however many servers, has put back, and what it has found damaged."""
    relisted: list[str] = []
    damaged: list[Any] = []
    position: bytes | None = None
    while position != BEGINNING:
        page = namespace_of(hot).sweep_page(position or BEGINNING)
        relisted += page.relisted
        damaged += page.damaged
        position = page.position
    return relisted, damaged
