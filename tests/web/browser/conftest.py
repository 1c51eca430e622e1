"""A browser for the tests of the page, and runs that it shows."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

import runstream
import runstream.web
from tests.support.browser import opened_browser
from tests.support.web_server import serving


@pytest.fixture
def browser() -> Iterator[Any]:
    """One for each test: as long as it is open its driver runs a loop in this thread, where others want theirs."""
    with opened_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of its own; it fails the test where a script failed, or one of a run ran."""
    context = browser.new_context(viewport={"width": 1100, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(30_000)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))

    def heard(dialog: Any) -> None:
        faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def said(message: Any) -> None:
        if "Content Security Policy" in message.text:
            faults.append(message.text)

    page.on("dialog", heard)
    page.on("console", said)
    yield page
    context.close()
    assert faults == []


class Shown:
    """Runs in Redis and in an archive, which an app shows."""

    def __init__(self, url: str, archive: str) -> None:
        self.url, self.archive_url = url, archive
        self.store: Any = runstream.connect(url)
        self.archive: Any = runstream.connect(archive)

    def app(self) -> Any:
        store = runstream.connect_async(self.url, archive=self.archive_url)
        return runstream.web.app(store, authorize=lambda *_: True, actions=["answer", "cancel", "fork"])

    def drain(self, **options: Any) -> None:
        runstream.DrainWorker(self.store, [self.archive], **options).drain_once()


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Shown]:
    shown = Shown(f"fake:{uuid.uuid4().hex}", f"sqlite:{tmp_path}/archive.db")
    yield shown
    shown.archive.close()
    shown.store.close()


@pytest.fixture
def client(shown: Shown) -> Iterator[httpx.Client]:
    with serving(shown.app()) as client:
        yield client


class InMemory(NamedTuple):
    """A run in memory, and a client of an app that shows it."""

    run: Any
    client: httpx.Client


@pytest.fixture
def in_memory() -> Iterator[InMemory]:
    """The run ``r``, for tests of so many events that a server of their own would take longer."""
    url = f"memory:{uuid.uuid4().hex}"
    with (
        runstream.connect(url) as store,
        serving(runstream.web.app(runstream.connect_async(url))) as client,
        store.open_run("r") as run,
    ):
        yield InMemory(run, client)
