"""purpose-agent's own stores and ours side by side: the differences are those in docs/purpose-agent.md."""

from __future__ import annotations

import datetime
import decimal
import json
import pickle
import sqlite3
import uuid
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from purpose_agent.runtime import EventKind, PAEvent, RunState, RunStatus, checkpoint, create_event

import runstream
from runstream import ConfigurationError, CorruptRecordError, EncodingError, InvalidRunId, PayloadTooLarge
from runstream.integrations.purpose_agent import connect, connect_async

KIND = EventKind.TOOL_RESULT
Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - as users have them


class Sides(NamedTuple):
    """A store of theirs and the one of ours that takes its place, and where each has its files."""

    kind: str
    theirs: Any
    ours: Any
    their_path: Path
    our_path: Path

    @property
    def has_files(self) -> bool:
        return self.kind != "memory"

    def both(self, ask: Callable[[Any], object]) -> tuple[object, object]:
        return ask(self.theirs), ask(self.ours)


@pytest.fixture(params=["memory", "sqlite", "jsonl"])
def sides(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sides]:
    kind = request.param
    paths = [tmp_path / side / "checkpoints" for side in ("theirs", "ours")]
    for path in paths:
        path.parent.mkdir()
    makers: dict[str, Callable[[], Any]] = {
        "memory": checkpoint.InMemoryCheckpointer,
        "sqlite": lambda: checkpoint.SQLiteCheckpointer(str(paths[0])),
        "jsonl": lambda: checkpoint.JSONLCheckpointer(str(paths[0])),
    }
    with connect("memory:" if kind == "memory" else f"{kind}:{paths[1]}") as ours:
        yield Sides(kind, makers[kind](), ours, *paths)


def an_event(seq: int = 1, run_id: str = "r", lane_id: str = "main", **payload: Any) -> PAEvent:
    return PAEvent(run_id, seq=seq, lane_id=lane_id, kind=KIND, payload=payload)


def test_a_plain_flow_is_the_same(sides: Sides) -> None:
    """Of JSON values and numbers from 1 on, with the names of the arguments."""
    state = RunState("Run 1", session_id="s", status=RunStatus.PAUSED, current_step=2)
    state.data["a"] = [1, None, {"b": 1.5}]
    events = [PAEvent("Run 1", seq=n, kind=kind, payload={"n": n}) for n, kind in enumerate(EventKind, 1)]

    def flow(store: Any) -> object:
        assert (store.list_events("Run 1"), store.load_latest("Run 1")) == ([], None)
        for event in events:
            assert store.save_event(event=event) is None
        assert store.save_snapshot(run_id="Run 1", state=state) is None
        found = store.list_events(run_id="Run 1", since_seq=2)
        assert all(event.kind is list(EventKind)[event.seq - 1] for event in found)
        return store.list_events("Run 1"), found, store.load_latest(run_id="Run 1")

    theirs, ours = sides.both(flow)
    assert theirs == ours == (events, events[2:], state)


def test_run_ids_that_are_refused(sides: Sides) -> None:
    bad: list[Any] = ["", "x" * 513, "\ud800", 5, None]
    for run_id in bad:
        for method, *arguments in (
            ("save_event", PAEvent(run_id, kind=KIND)),
            ("save_snapshot", run_id, RunState(run_id)),
            ("list_events", run_id),
            ("load_latest", run_id),
        ):
            with pytest.raises(InvalidRunId):
                getattr(sides.ours, method)(*arguments)


def test_run_ids_that_name_other_places(sides: Sides) -> None:
    for run_id in ("../out", "a//b", "a/b"):
        for store in (sides.theirs, sides.ours):
            store.save_event(an_event(run_id=run_id))
    assert [len(sides.ours.list_events(run_id)) for run_id in ("../out", "a//b", "a/b")] == [1, 1, 1]
    if sides.kind == "jsonl":
        assert (sides.their_path.parent / "out" / "events.jsonl").exists()
        assert {path.name for path in sides.our_path.parent.iterdir()} == {"checkpoints"}
        assert len(sides.theirs.list_events("a/b")) == 2


def test_a_state_of_another_run(sides: Sides) -> None:
    sides.theirs.save_snapshot("r", RunState("other"))
    with pytest.raises(InvalidRunId):
        sides.ours.save_snapshot("r", RunState("other"))


def test_numbers_and_their_order(sides: Sides) -> None:
    def ask(store: Any) -> object:
        store.save_event(create_event("r", KIND))
        for seq, lane_id in ((3, "a"), (1, "b"), (-1, "c")):
            store.save_event(an_event(seq, lane_id=lane_id))
        return [[event.seq for event in store.list_events("r", since)] for since in (0, -1, 1)]

    theirs, ours = sides.both(ask)
    assert ours == [[0, 3, 1, -1], [0, 3, 1, -1], [3]]
    assert (
        theirs
        == {
            "memory": [[0, 3, 1, -1], [0, 3, 1, -1], [3]],
            "jsonl": [[3, 1], [0, 3, 1], [3]],
            "sqlite": [[1, 3], [0, 1, 3], [3]],
        }[sides.kind]
    )


def test_fields_of_other_types_are_refused_when_they_are_saved(sides: Sides) -> None:
    bad: list[tuple[str, Any]] = [("seq", "1"), ("seq", None), ("seq", 2**63), ("ts", None), ("kind", None)]
    bad += [("payload", [1]), ("payload", None), ("session_id", None), ("lane_id", 5), ("lane_id", "x" * 513)]
    for name, value in [*bad, ("visibility", None)]:
        with pytest.raises(EncodingError):
            sides.ours.save_event(PAEvent(**{"run_id": "r", "seq": 1, "kind": KIND, name: value}))
    states: list[dict[str, Any]] = [
        {"status": None},
        {"status": 5},
        {"node_states": None},
        {"node_states": {"n": 5}},
    ]
    for fields in states:
        with pytest.raises(EncodingError):
            sides.ours.save_snapshot("r", RunState("r", **fields))
    assert (sides.ours.list_events("r"), sides.ours.load_latest("r")) == ([], None)


def test_a_kind_may_be_a_text_and_a_since_seq_is_a_whole_number(sides: Sides) -> None:
    event: Any = PAEvent("r", seq=1, kind="my.kind")
    with suppress(AttributeError):
        sides.theirs.save_event(event)
    assert [found.kind for found in sides.theirs.list_events("r")] == (["my.kind"] if not sides.has_files else [])
    sides.ours.save_event(event)
    assert [found.kind.value for found in sides.ours.list_events("r")] == ["my.kind"]
    with pytest.raises(ConfigurationError):
        sides.ours.list_events("r", 1.5)


def test_what_is_too_large(sides: Sides) -> None:
    deep: Any = None
    for _ in range(300):
        deep = [deep]
    sides.theirs.save_event(an_event(deep=deep))
    with pytest.raises(EncodingError):
        sides.ours.save_event(an_event(deep=deep))
    if not sides.has_files:
        with pytest.raises(PayloadTooLarge):
            sides.ours.save_event(an_event(text="x" * 2**23))


MOMENT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
VALUES: list[tuple[object, object, object]] = [  # as it is saved, as their files give it, as ours do
    ((1, 2), [1, 2], (1, 2)),
    (Pair(1, 2), [1, 2], (1, 2)),
    ({1}, "{1}", {1}),
    (b"x", "b'x'", b"x"),
    (bytearray(b"x"), "bytearray(b'x')", b"x"),
    (MOMENT, "2026-01-01 00:00:00+00:00", MOMENT),
    (decimal.Decimal("1.50"), "1.50", decimal.Decimal("1.50")),
    (uuid.UUID(int=1), str(uuid.UUID(int=1)), uuid.UUID(int=1)),
    ({1: "a", "1": "b"}, {"1": "b"}, {1: "a", "1": "b"}),
    (OrderedDict(a=1), {"a": 1}, {"a": 1}),
    (EventKind.TOOL_RESULT, "tool.result", "tool.result"),
    (Path("/x"), "/x", "/x"),
    (ValueError("no"), "no", "no"),
    (2**70, 2**70, 2**70),
    ({"$tuple": [1]}, {"$tuple": [1]}, {"$tuple": [1]}),
]


def test_values(sides: Sides) -> None:
    for number, (value, of_theirs, of_ours) in enumerate(VALUES, 1):
        for store in (sides.theirs, sides.ours):
            store.save_event(an_event(number, value=value))
            store.save_snapshot(f"s{number}", RunState(f"s{number}", data={"value": value}))
        for store, expected in ((sides.theirs, of_theirs), (sides.ours, of_ours)):
            if store is sides.theirs and not sides.has_files:
                continue
            (event,) = store.list_events("r", number - 1)
            for found in (event.payload["value"], store.load_latest(f"s{number}").data["value"]):
                assert (type(found), found) == (type(expected), expected)


def test_the_json_in_the_files(sides: Sides) -> None:
    """The same where JSON has the value, and their reader gives the tag where it has not."""
    if not sides.has_files:
        return
    plain, other = an_event(1, a=[1, None, {"b": 1.5}], t="é"), an_event(2, t=(1, 2))
    for event in (plain, other):
        sides.ours.save_event(event)
    if sides.kind == "sqlite":
        with closing(sqlite3.connect(sides.our_path)) as connection:
            texts = [text for (text,) in connection.execute("SELECT data FROM events ORDER BY id")]
    else:
        texts = (sides.our_path / "r" / "events.jsonl").read_text().splitlines()
    written = [{name: value for name, value in json.loads(text).items() if "$" not in name} for text in texts]
    assert [one["payload"] for one in written if one] == [plain.payload, {"t": {"$tuple": [1, 2]}}]
    assert plain.to_dict() in written
    reader = type(sides.theirs)(str(sides.our_path))
    assert [event.payload for event in reader.list_events("r")] == [plain.payload, {"t": {"$tuple": [1, 2]}}]


def test_what_does_not_read(sides: Sides) -> None:
    if not sides.has_files:
        return
    for store, path in ((sides.theirs, sides.their_path), (sides.ours, sides.our_path)):
        store.save_event(an_event(1))
        if sides.kind == "sqlite":
            row = "INSERT INTO events (run_id, seq, ts, kind, data) VALUES ('r', 2, 1, 'x', 'no')"
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute(row)
                connection.execute("INSERT INTO snapshots (run_id, state) VALUES ('r', 'no')")
        else:
            with (path / "r" / "events.jsonl").open("a") as file:
                file.write("no\n")
            (path / "r" / "snapshot.json").write_text("no")
        store.save_event(an_event(3))
    assert [event.seq for event in sides.theirs.list_events("r")] == [1, 3]
    assert sides.theirs.load_latest("r") is None
    for ask in (sides.ours.list_events, sides.ours.load_latest):
        with pytest.raises(CorruptRecordError):
            ask("r")
    assert [item.event.seq for item in sides.ours.read("r", on_corrupt="skip")] == [1, 3]


def test_what_is_given_is_never_what_was_saved(sides: Sides) -> None:
    state, event = RunState("r"), an_event(1, n=1)
    for store in (sides.theirs, sides.ours):
        store.save_event(event)
        store.save_snapshot("r", state)
    theirs, ours = sides.both(lambda store: store.load_latest("r") is state)
    assert (theirs, ours) == (not sides.has_files, False)
    event.payload["n"] = 2
    theirs, ours = sides.both(lambda store: store.list_events("r")[0].payload["n"])
    assert (theirs, ours) == (1 if sides.has_files else 2, 1)


def test_a_store_is_pickled_by_its_place(sides: Sides) -> None:
    def ask(store: Any) -> int:
        store.save_event(an_event(1))
        return len(pickle.loads(pickle.dumps(store)).list_events("r"))

    assert sides.both(ask) == (1, int(sides.has_files))


def test_a_read_makes_nothing(sides: Sides) -> None:
    sides.both(lambda store: (store.list_events("Nobody"), store.load_latest("Nobody")))
    assert (sides.their_path / "Nobody").exists() is (sides.kind == "jsonl")
    assert list(sides.our_path.parent.rglob("*obody")) == []


async def test_what_they_have_beside_the_four_methods(sides: Sides) -> None:
    for store in (sides.theirs, sides.ours):
        for run_id in ("s1", "s2"):
            store.save_snapshot(run_id, RunState(run_id))
        for seq in (1, 2):
            store.save_event(an_event(seq, run_id="e"))
    assert sides.ours.list_runs() == ["e", "s2", "s1"]
    sides.ours.save_snapshot("e", RunState("e"), lane_id="main")
    assert (sides.ours.event_count, sides.ours.snapshot_count) == (2, 2)
    if sides.kind == "memory":
        assert (sides.theirs.event_count, sides.theirs.snapshot_count) == (2, 2)
    elif sides.kind == "jsonl":
        assert sides.both(lambda store: store.base_dir) == (sides.their_path, sides.our_path)
    else:
        assert sides.both(lambda store: store.db_path) == (str(sides.their_path), str(sides.our_path))
        assert sides.theirs.list_runs() == ["s2", "s1"]
        assert sides.theirs.delete_run("e") is None
    assert [sides.ours.delete_run("e") for _ in range(2)] == [True, False]
    assert sides.ours.list_runs() == ["s2", "s1"]
    async with connect_async(f"{sides.kind}:{sides.our_path}") as beside:
        await beside.save_event(an_event(run_id="new"))
        assert (await beside.list_runs())[0] == "new"
        assert (await beside.event_count, await beside.snapshot_count) == (1, 2 if sides.has_files else 0)
        assert await beside.delete_run("new") is True
        for name in ("db_path", "base_dir"):
            assert getattr(beside, name, None) == getattr(sides.ours, name, None)


def test_the_places_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNSTREAM_URL", raising=False)
    with pytest.raises(ConfigurationError):
        connect()
    checkpoint.SQLiteCheckpointer().save_event(an_event(1))
    monkeypatch.setenv("RUNSTREAM_URL", "sqlite:purpose_agent_checkpoints.db")
    with connect() as store:
        assert [event.seq for event in store.list_events("r")] == [1]
    file, lines = runstream.SQLiteCheckpointer("x.db"), runstream.JSONLCheckpointer("x")
    with file, lines:
        assert (file.db_path, lines.base_dir) == (str(tmp_path / "x.db"), tmp_path / "x")
        file.save_event(runstream.PAEvent("r", seq=1))
        lines.save_event(runstream.PAEvent("r", seq=1))
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "x.db", tmp_path / "x" / "r" / "events.jsonl")]
    assert modes == [0o600, 0o600]
