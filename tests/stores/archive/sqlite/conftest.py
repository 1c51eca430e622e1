"""A SQLite archive that a test opens as often as it likes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from purpose_agent.runtime import checkpoint as foreign

from runstream.stores.archive.sqlite import SQLiteCheckpointer
from tests.stores.archive.sqlite.database import Archive, Open, SelfClosing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def open_archive(path: Path) -> Iterator[Open]:
    """Open the archive, any number of times."""
    opened: list[Archive] = []

    def open_one(**options: Any) -> Archive:
        opened.append(SQLiteCheckpointer(path, **options))
        return opened[-1]

    yield open_one
    for archive in opened:
        archive.close()


@pytest.fixture
def archive(open_archive: Open) -> Archive:
    return open_archive()


@pytest.fixture(autouse=True)
def _purpose_agents_store_closes_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves them to the collector, which Python 3.13 warns of, in whichever test then runs."""
    closing_sqlite3 = SimpleNamespace(connect=partial(sqlite3.connect, factory=SelfClosing))
    monkeypatch.setattr(foreign, "sqlite3", closing_sqlite3)
