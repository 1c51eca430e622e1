"""``runstream show --at``: a run as it was; and over both tiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runstream import DrainWorker, connect
from tests.support.commands import Place, Said, run
from tests.support.samples import make_event, make_events, make_state


def fill(store: Any) -> None:
    """Twelve events: of the run a snapshot at 4 and at 8, of lane b one at 6."""
    store.append("r", make_events("r", 4), snapshot=make_state("r", current_step=4, data={"found": ["x"]}))
    store.append("r", make_events("r", 2, first=5, lane_id="b"), snapshot=make_state("r"), lane_id="b")
    store.append("r", make_events("r", 2, first=7), snapshot=make_state("r", current_step=8))
    store.append("r", [*make_events("r", 3, first=9), make_event("r", 12, kind="run.finished")])


@pytest.fixture(params=["sqlite", "jsonl"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url = f"{request.param}:{tmp_path}/archive"
    with connect(url) as store:
        fill(store)
    return url


def show(url: str, *options: str) -> Said:
    said = run("show", "r", "--url", url, *options)
    assert said.code == 0, said.err
    return said


def seen(url: str, *options: str) -> tuple[dict[str | None, tuple[int, int]], list[int]]:
    """Of each lane the snapshot's offset and step; the offsets of the events."""
    shown = show(url, "--json", *options).document
    snapshots = {one["lane_id"]: (one["offset"], one["state"]["current_step"]) for one in shown["snapshots"]}
    return snapshots, [event["offset"] for event in shown["events"]]


def test_a_run_is_shown_as_it_was(url: str) -> None:
    assert seen(url, "--at", "0") == ({}, [])
    assert seen(url, "--at", "3") == ({}, [1, 2, 3])
    assert seen(url, "--at", "4") == ({None: (4, 4)}, [])
    assert seen(url, "--at", "7") == ({None: (4, 4), "b": (6, 0)}, [5, 6, 7])
    assert seen(url, "--at", "8") == ({None: (8, 8), "b": (6, 0)}, [])
    assert seen(url, "--at", "12") == ({None: (8, 8), "b": (6, 0)}, [9, 10, 11, 12])
    assert seen(url) == ({None: (8, 8), "b": (6, 0)}, list(range(1, 13)))


def test_a_lane_is_shown_as_it_was(url: str) -> None:
    assert seen(url, "--at", "7", "--lane", "b") == ({"b": (6, 0)}, [])
    assert seen(url, "--at", "5", "--lane", "b") == ({}, [5])


def test_the_json_tells_at_which_offset(url: str) -> None:
    assert show(url, "--at", "7", "--json").document["at"] == 7
    assert show(url, "--json").document["at"] is None


def test_what_is_too_much_is_gone_on_with(url: str) -> None:
    said = show(url, "--at", "3", "--limit", "2", "--json")
    assert (said.document["next_after"], [one["offset"] for one in said.document["events"]]) == (2, [1, 2])
    assert seen(url, "--at", "3", "--limit", "2", "--after", "2")[1] == [3]
    assert "--after 2" in show(url, "--at", "3", "--limit", "2").err
    assert seen(url, "--at", "8", "--after", "0")[1] == list(range(1, 9))


def test_an_offset_that_the_run_has_not_is_2(url: str) -> None:
    said = run("show", "r", "--url", url, "--at", "13")
    assert (said.code, said.out) == (2, "")
    assert "offset 12" in said.err


def test_the_state_comes_at_the_end(url: str) -> None:
    text = show(url, "--at", "7").out
    assert "offset 7" in text
    end = text[text.index("state of the run") :]
    assert "as of offset 4" in end
    assert '{"found": ["x"]}' in end
    assert "state of lane b" in end


def test_with_a_bound_there_is_only_what_was_kept(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/a.db?keep_snapshots=1"
    with connect(url) as store:
        fill(store)
    assert seen(url, "--at", "7") == ({"b": (6, 0)}, [7])


@pytest.mark.parametrize("scheme", ["sqlite", "jsonl"])
def test_over_both_tiers_nothing_is_missing(place: Place, scheme: str) -> None:
    url = getattr(place, scheme)
    store = place.store
    store.append("r", make_events("r", 4), snapshot=make_state("r", current_step=4))
    with connect(url) as archive:
        DrainWorker(store, [archive], trim="archived").drain_once()  # type: ignore[list-item]  # connect gives any store
    store.append("r", make_events("r", 4, first=5), snapshot=make_state("r", current_step=8))
    store.append("r", make_events("r", 4, first=9))
    tiers = ["--archive", url]
    assert seen(place.url, *tiers) == ({None: (8, 8)}, list(range(1, 13)))
    assert seen(place.url, *tiers, "--at", "7") == ({None: (4, 4)}, [5, 6, 7])
    assert seen(place.url, *tiers, "--at", "3") == ({}, [1, 2, 3])
    assert seen(place.url, *tiers, "--at", "10") == ({None: (8, 8)}, [9, 10])
    assert show(place.url, *tiers, "--at", "3").err == ""
    row = show(place.url, *tiers).out
    assert "12, archived up to 4" in row


def test_redis_alone_shows_what_it_has_and_says_what_is_elsewhere(place: Place) -> None:
    store = place.store
    store.append("r", make_events("r", 4), snapshot=make_state("r", current_step=4))
    with connect(place.sqlite) as archive:
        DrainWorker(store, [archive], trim="archived").drain_once()  # type: ignore[list-item]  # connect gives any store
    store.append("r", make_events("r", 4, first=5))
    assert seen(place.url, "--at", "7") == ({None: (4, 4)}, [5, 6, 7])
    store.append("r", [], snapshot=make_state("r", current_step=8))
    said = show(place.url, "--at", "7", "--json")
    assert (said.document["snapshots"], [one["offset"] for one in said.document["events"]]) == ([], [5, 6, 7])
    assert "offsets up to 4" in said.err
    said = show(place.url, "--at", "3", "--json")
    assert (said.document["archived_up_to"], said.document["events"]) == (4, [])


def test_an_archive_that_is_not_there_is_not_made(place: Place, tmp_path: Path) -> None:
    place.emit("r", 1)
    said = run("show", "r", "--url", place.url, "--archive", f"sqlite:{tmp_path}/typo.db")
    assert said.code == 2
    assert not (tmp_path / "typo.db").exists()


def test_the_lanes_of_a_run_are_shown(url: str) -> None:
    """As a table, and with --json."""
    with connect(url) as store:
        store.append("r", (), end_lanes=["b"])
    lanes = show(url, "--lanes", "--json").document["lanes"]
    assert lanes[0] == {
        "lane_id": "b",
        "last_offset": 6,
        "last_seq": 6,
        "snapshot_offset": 6,
        "ended": True,
        "lease": None,
    }
    assert [lane["lane_id"] for lane in lanes] == ["b", "main"]
    header, first, second = show(url, "--lanes").out.splitlines()
    assert header.split() == ["lane", "last", "offset", "last", "seq", "covers", "offset", "ended"]
    assert (first.split(), second.split()) == (["b", "6", "6", "6", "yes"], ["main", "12", "12"])


def test_lanes_that_have_left_redis_are_shown_with_the_archive(place: Place, tmp_path: Path) -> None:
    to = f"sqlite:{tmp_path}/a.db"
    with connect(place.url) as hot, connect(to) as archive:
        fill(hot)
        hot.append("r", (), end_lanes=["b"])
        sink: Any = archive
        DrainWorker(hot, [sink]).drain_once()
    said = run("show", "r", "--url", place.url, "--lanes")
    assert said.code != 0
    assert to in said.err
    assert "b " in show(place.url, "--lanes", "--archive", to).out
