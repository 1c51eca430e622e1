"""How the tests of runs look at what was written, and fail what is written."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runstream import StoreUnavailable
from runstream.operations.operation import Exchange, Replies
from tests.support.backends import Store
from tests.support.kinds import BACKENDS, SHARED
from tests.support.servers import DEADLINE_SECONDS

LEASING = [name for name in BACKENDS if "jsonl" not in name]
SHARED_LEASING = [name for name in SHARED if "jsonl" not in name]

ASKED, ANSWERED = "human.approval.requested", "human.approval.received"


def events_of(store: Store, lane_id: str | None = None) -> list[Any]:
    return [item.event for item in store.read("r") if lane_id in (None, item.event.lane_id)]


def seqs(store: Store, lane_id: str = "main") -> list[int]:
    return [event.seq for event in events_of(store, lane_id)]


def kinds(store: Store) -> list[str]:
    return [str(getattr(event.kind, "value", event.kind)) for event in events_of(store)]


def status_of(store: Store) -> str:
    info = store.run_info("r")
    assert info is not None
    return info.status


@contextmanager
def meanwhile(work: Any) -> Iterator[None]:
    """Do something in another thread, a moment from now; what it raises is raised here."""
    failures: list[BaseException] = []

    def do() -> None:
        time.sleep(0.05)
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the test sees it
            failures.append(error)

    thread = threading.Thread(target=do)
    thread.start()
    yield
    thread.join(DEADLINE_SECONDS)
    for failure in failures:
        raise failure


class ModelGaveUpError(Exception):
    pass


class Line:
    """The line between a store and its server, which a test cuts."""

    def __init__(self, store: Any) -> None:
        driver: Any = store._driver
        self._exchange = driver.exchange_once
        self.cut = ""
        driver.exchange_once = self._pass_on

    def _pass_on(self, exchange: Exchange) -> Replies:
        cut, self.cut = self.cut, ""
        if cut == "request":
            raise StoreUnavailable("the request was lost")
        replies: Replies = self._exchange(exchange)
        if cut == "reply":
            raise StoreUnavailable("the reply was lost")
        return replies
