"""``runstream diff``: where two runs part, their events side by side, and their states."""

from __future__ import annotations

from pathlib import Path

import pytest

from runstream import connect
from tests.support.commands import run
from tests.support.samples import make_event, make_events, make_state


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:{tmp_path}/archive.db"
    times = {"started_at": 1.0, "updated_at": 1.0}
    with connect(url) as store:
        store.append("trip-a", make_events("trip-a", 3), snapshot=make_state("trip-a", data={"n": 1}, **times))
        store.append("trip-b", [make_event("trip-b", 1), make_event("trip-b", 1, lane_id="x")])
        store.save_snapshot("trip-b", make_state("trip-b", data={"m": "\x1b[31m"}, **times))
    return url


def test_events_are_shown_side_by_side_and_states_by_path(url: str) -> None:
    said = run("diff", "trip-a", "trip-b", "--url", url)
    assert said.code == 0, said.err
    lines = [line.split() for line in said.out.splitlines()]
    main, other = lines.index(["lane", "main"]), lines.index(["lane", "x"])
    assert [line[0] for line in lines[main + 2 : main + 5]] == ["1", "2", "3"]
    assert lines[main + 2].count("1") >= 2
    assert lines[other + 2][0] == "2"
    assert ["data.n", "1"] in lines
    assert ["data.m", r'"\u001b[31m"'] in lines
    assert "the beginning: they share no event" in said.out


def test_as_json_a_run_has_no_value_where_it_has_none(url: str) -> None:
    document = run("diff", "trip-a", "trip-b", "--url", url, "--json").document
    assert (document["run_id"], document["other_run_id"], document["shared_offset"]) == ("trip-a", "trip-b", 0)
    main, other = document["lanes"]
    assert [len(main["events"]), len(main["other_events"])] == [3, 1]
    assert (other["events"], other["lane_id"], other["other_events"][0]["offset"]) == ([], "x", 2)
    assert document["state"] == [
        {"path": "data.n", "what": "removed", "old": 1},
        {"path": "data.m", "what": "added", "new": "\x1b[31m"},
    ]


def test_a_run_that_is_not_there_is_4(url: str) -> None:
    assert run("diff", "trip-a", "trip-c", "--url", url).code == 4
    assert run("diff", "trip-", "trip-a", "--url", url).code == 2
