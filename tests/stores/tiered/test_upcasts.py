"""Upcasts over both tiers: on their way through drain, restore, export and import, bytes and versions stay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import ConfigurationError, DrainWorker, EventKind, RunState, connect
from runstream.history.archived import ArchivedHistory
from runstream.repair.restore import restore_run
from runstream.repair.verify import verify_run
from runstream.stores.archive.facade import ArchiveStore
from runstream.stores.capabilities import archive_of
from runstream.stores.tiered import TieredCheckpointer
from tests.stores.tiered.tiers import ARCHIVES
from tests.support.backends import RedisBackend, latest
from tests.support.commands import run
from tests.support.random_runs import lose_redis
from tests.support.samples import make_event
from tests.support.schema import UPCASTS, new_event, new_state, old_event, old_state


class Tiers:
    """A namespace and an archive, and the stores over them with upcasts and without."""

    def __init__(self, backend: RedisBackend, kind: str, directory: Path) -> None:
        self.backend = backend
        self.place = directory / "there"
        self.place.mkdir()
        self.url = f"sqlite:{self.place}/archive.db" if kind == "sqlite" else f"jsonl:{self.place}/archive"
        self.plain: Any = backend.open()
        self.hot: Any = backend.open(upcasts=UPCASTS)
        self.plain_archive: ArchiveStore[Any, Any] = ARCHIVES[kind](self.place)
        self.archive: Any = connect(self.url, upcasts=UPCASTS)

    def write(self) -> None:
        """Two events of version 1 and their state, and two of version 3, of lane b with a state of its own."""
        self.plain.append("r", [old_event(1), make_event("r", 2)], snapshot=old_state(2))
        self.hot.append("r", [new_event(3, lane_id="b"), new_event(4, lane_id="b")])
        self.hot.append("r", [], snapshot=new_state(4), lane_id="b")

    def drain(self, trim: Any = "archived", **options: Any) -> None:
        assert DrainWorker(self.plain, [self.plain_archive], trim=trim, **options).drain_once().parked == 0

    def close(self) -> None:
        self.plain_archive.close()
        self.archive.close()


@pytest.fixture(params=ARCHIVES)
def tiers(redis_backend: RedisBackend, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tiers]:
    with closing(Tiers(redis_backend, request.param, tmp_path)) as made:
        yield made


def seen(store: Any) -> tuple[list[Any], Any, Any]:
    """What a store with upcasts must give of it, in whichever tier it lies."""
    events = [(item.offset, item.event.kind, item.event.payload) for item in store.read("r")]
    return events, store.load_latest("r"), store.load_snapshot("r", lane_id="b")


def check(store: Any) -> None:
    events, state, of_lane = seen(store)
    started = EventKind.TOOL_STARTED
    assert events == [
        (1, started, {"arguments": [1]}),
        (2, EventKind.AGENT_PROGRESS, {"n": 2}),
        (3, started, {"arguments": [3]}),
        (4, started, {"arguments": [4]}),
    ]
    for each, steps in ((state, 2), (of_lane.state, 4)):
        assert type(each) is RunState
        assert (each.current_step, each.data) == (steps, {"kept": True})


@pytest.mark.one_in(2)
@pytest.mark.parametrize("trim", ["archived", "never"])
def test_both_tiers_are_read_as_one(tiers: Tiers, trim: str) -> None:
    tiers.plain.append("r", [old_event(1), make_event("r", 2)], snapshot=old_state(2))
    tiers.drain(trim)
    tiered = TieredCheckpointer(tiers.hot, tiers.archive)
    tiered.append("r", [new_event(3, lane_id="b"), new_event(4, lane_id="b")])
    tiered.append("r", [], snapshot=new_state(4), lane_id="b")
    check(tiered)
    tiers.drain(trim)
    check(tiered)
    assert [item.offset for item in _followed(tiered)] == [1, 3, 4]
    (history,) = tiered.snapshot_history("r")
    assert history.state.current_step == 2
    at = tiered.snapshot_at("r", 3)
    assert at is not None
    assert at.state.current_step == 2


def _followed(store: Any) -> list[Any]:
    store.append("r", [make_event("r", 5, kind="run.finished")])
    return list(store.follow("r", kinds=["tool.started"]))


def test_a_retired_run_reads_the_same_and_goes_on(tiers: Tiers) -> None:
    tiers.write()
    tiers.plain.append("r", [make_event("r", 5, kind="run.finished")])
    tiers.drain()
    tiers.drain(retire_after_seconds=0.0)
    tiered = TieredCheckpointer(tiers.hot, tiers.archive)
    assert latest(tiered, "r").current_step == 2
    assert [item.offset for item in tiered.read("r") if item.event.kind == EventKind.TOOL_STARTED] == [1, 3, 4]

    def step(state: RunState) -> None:
        state.current_step += 1

    assert tiered.update_state("r", step).current_step == 3
    assert latest(tiered, "r").current_step == 3
    assert tiers.hot.load_latest("r").current_step == 3


def test_both_parts_of_a_tiered_store_have_the_same_upcasts(tiers: Tiers) -> None:
    for hot, archive in ((tiers.hot, tiers.plain_archive), (tiers.plain, tiers.archive)):
        with pytest.raises(ConfigurationError, match="with the same upcasts"):
            TieredCheckpointer(hot, archive)


def test_what_is_stored_stays_as_it_is(tiers: Tiers, tmp_path: Path) -> None:
    """Reading changes nothing; drain, verify, restore, export and import carry bytes and versions on."""
    tiers.write()
    tiers.drain(trim="never")
    stored = tiers.backend.footprint()
    for store in (tiers.hot, tiers.archive):
        check(store)
    assert tiers.backend.footprint() == stored
    assert verify_run("r", hot=tiers.plain, sinks=[tiers.plain_archive]).difference is None
    records = [fields for name, fields in stored.items() if name.endswith(":events")]
    lost = lose_redis(tiers.backend)
    history = ArchivedHistory.load(archive_of(tiers.plain_archive), "r")
    assert history is not None
    restore_run(lost, history, seen=None, common=0, keep_from=1)
    assert [fields for name, fields in tiers.backend.footprint().items() if name.endswith(":events")] == records
    check(tiers.backend.open(upcasts=UPCASTS))
    tiers.drain(trim="never")
    assert verify_run("r", hot=lost, sinks=[tiers.plain_archive]).difference is None
    exported = tmp_path / "r.jsonl"
    assert run("export", "r", "--url", tiers.url, "--to", str(exported)).code == 0
    events = [json.loads(line)["event"] for line in exported.read_text().splitlines()]
    assert [event.get("$schema") for event in events] == [None, None, 3, 3]
    for kind in ("sqlite", "jsonl"):
        url = f"{kind}:{tmp_path}/imported-{kind}"
        for added in (4, 0):
            said = run("import", tiers.url.partition(":")[2], "--url", url, "--json")
            assert said.code == 0, said.err
            (result,) = said.document["runs"]
            assert (result["added"], result["snapshots"]) == (added, 2 if added else 0)
        with connect(url, upcasts=UPCASTS) as imported:
            check(imported)
