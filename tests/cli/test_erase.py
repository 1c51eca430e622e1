"""``runstream erase``, ``truncate`` and ``erasures``: what goes, what is done, and what is to be run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import RunState, connect
from tests.support.commands import Place, run
from tests.support.servers import needs_server

pytestmark = needs_server


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A run of six events, that is archived and in Redis."""
    with closing(Place(tmp_path)) as place:
        place.emit("r", 6)
        place.store.append("r", [], snapshot=RunState(run_id="r"))
        assert run("drain", *place.drain, "--trim", "never", "--once").code == 0
        yield place


def told(place: Place, *arguments: str) -> list[Any]:
    said = run(*arguments, "--url", place.url, "--json")
    assert said.code == 0, said.err
    erasures: list[Any] = said.document["erasures"]
    return erasures


def test_what_is_erased_is_pending_until_a_worker_has_been_there(place: Place) -> None:
    refused = run("erase", "r", "--offset", "2", "--url", place.url)
    assert (refused.code, "its own (revision 1" in refused.err) == (2, True)
    (asked,) = told(place, "erase", "r", "--offset", "2", "--offset", "3", "--drop-snapshots")
    assert (asked["spans"], asked["before"], asked["done"]) == ([[2, 3]], None, False)
    archives = {one["place"]: one["command"] for one in asked["places"] if one["place"] != "Redis"}
    assert set(archives) == {place.sqlite, place.jsonl}
    assert all(command == f"runstream drain --to {location} --once" for location, command in archives.items())
    shown = run("erasures", "r", "--url", place.url)
    assert "no drain worker has erased it there yet" in shown.out
    assert run("drain", *place.drain, "--trim", "never", "--once").code == 0
    assert [one["done"] for one in told(place, "erasures", "r")[0]["places"][1:]] == [True, True]
    assert [item.offset for item in place.store.read("r")] == [1, 4, 5, 6]
    for archive in (place.sqlite, place.jsonl):
        assert told_of(archive) == [[2, 3]]


def told_of(archive: str) -> list[Any]:
    said = run("erasures", "r", "--url", archive, "--json")
    assert said.code == 0, said.err
    return [span for one in said.document["erasures"] for span in one["spans"]]


def test_a_history_that_is_truncated_begins_later(place: Place) -> None:
    (asked,) = told(place, "truncate", "r", "--before", "4")
    assert asked["before"] == 4
    assert run("drain", *place.drain, "--trim", "archived", "--once").code == 0
    for url in (place.url, place.sqlite, place.jsonl):
        assert "<4" in run("erasures", "r", "--url", url).out
    with connect(place.jsonl) as archive:
        assert [item.offset for item in archive.read("r")] == [4, 5, 6]


def test_what_was_erased_or_cut_off_is_neither_damaged_nor_archived_for_show_and_tail(place: Place) -> None:
    place.emit("s", 6)
    place.store.truncate("s", before=4)
    place.store.erase("s", [5])
    said = run("show", "s", "--url", place.url, "--json")
    assert (said.err, said.document["unreadable"], said.document["archived_up_to"]) == ("", [], 0)
    assert [event["offset"] for event in said.document["events"]] == [4, 6]
    tailed = run("tail", "s", "--url", place.url, "--idle-timeout", "0.1")
    assert (len(tailed.out.splitlines()), "archive" in tailed.err) == (2, False)


def test_nothing_is_shown_of_a_run_of_which_nothing_was_erased(place: Place) -> None:
    shown = run("erasures", "r", "--url", place.url)
    assert (shown.code, "nothing was erased" in shown.err) == (0, True)
    assert run("erase", "r", "--url", place.url).code == 2
    assert run("erase", "r", "--offset", "9", "--url", place.url).code == 2
    assert run("truncate", "r", "--before", "99", "--url", place.url).code == 2
