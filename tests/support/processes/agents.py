"""Processes in which an agent uses runs, or a reader follows one, until the parent says anything."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from runstream import AcknowledgedWritesLost, HistoryDiverged, StoreUnavailable, connect, connect_async
from runstream.testing.agents import AGENTS
from tests.support.processes.journal import Diary
from tests.support.processes.talk import wait_for_all, wait_for_word


def act(url: str, name: str, form: str, run_ids: Sequence[str], seed: int, diary: str, archive: str) -> None:
    """Write to many runs, in a lane of each, until the parent says anything; then ask for what was lost.

    Who begins by reading a run has the archive too.
    """
    with ExitStack() as stack:
        store: Any
        if form == "async":
            runner = stack.enter_context(asyncio.Runner())
            store = InLoop(runner.run(_open(url)), runner)
            stack.callback(store.close)
        elif form == "runs":
            store = stack.enter_context(connect(url, archive=archive))
        else:
            store = stack.enter_context(connect(url, resend_lost=form == "resends"))
        agent = AGENTS[form](store, name, run_ids, Diary(diary), random.Random(f"{seed} {name}"))
        wait_for_all()
        enough = _on_next_word()
        while not enough.is_set():
            agent.take_turn()
        agent.settle()


async def _open(url: str) -> Any:
    return await connect_async(url)


def watch(url: str, run_id: str, diary: str, archive: str) -> None:
    """Note the offset and the mark of each event of a run as it comes, until the parent says anything.

    What was lost is noted, and the run is then read from its beginning.
    """
    told = Diary(diary)
    after: int | str = 0
    with connect(url, archive=archive) as store:
        wait_for_all()
        enough = _on_next_word()
        while not enough.is_set():
            try:
                for item in store.follow(run_id, after, idle_timeout=0.5):
                    told.note([item.offset, item.event.payload["mark"]])
                    after = item.cursor
            except TimeoutError:
                continue
            except StoreUnavailable:
                time.sleep(0.01)
            except (AcknowledgedWritesLost, HistoryDiverged):
                told.note(None)
                store.forget(run_id)
                after = 0


def _on_next_word() -> threading.Event:
    said = threading.Event()

    def wait() -> None:
        wait_for_word()
        said.set()

    threading.Thread(target=wait, daemon=True).start()
    return said


class InLoop:
    """An async store whose methods are called as those of a sync one."""

    def __init__(self, store: Any, runner: asyncio.Runner) -> None:
        self._store = store
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        return lambda *args, **options: self._runner.run(method(*args, **options))
