"""What earlier versions stored reads, drains, verifies, restores and goes on, on every server: see tests/kept."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from purpose_agent.runtime import checkpoint as theirs

from runstream import (
    ConfigurationError,
    CorruptRecordError,
    DrainReport,
    DrainWorker,
    EventsArchived,
    LeaseGrant,
    LeaseLost,
    PAEvent,
    UnsupportedVersion,
    connect,
)
from tests.compatibility.kept_files import KINDS, VERSIONS, World, check_events, check_snapshot, renamed, serving
from tests.kept.neutral import fields_of
from tests.support.commands import Said, run
from tests.support.operations import operations_of
from tests.support.servers import PROGRAMS, needs_server


@pytest.fixture(params=VERSIONS)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """The files of every version, without a server."""
    world = World(request.param, tmp_path)
    with world.opened:
        yield world


@pytest.fixture(params=PROGRAMS)
def world(request: pytest.FixtureRequest, kept: World) -> Iterator[World]:
    """The files of every version, on every real server."""
    with serving(request.param, kept.dump) as node, kept.opened:
        kept.serve(node)
        yield kept


def drain(world: World, **options: Any) -> DrainReport:
    """One round of a worker with both archives."""
    archives = [world.archive(kind) for kind in KINDS]
    report = DrainWorker(world.store(), archives, **options).drain_once()
    for archive in archives:
        archive.close()
    return report


def each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def verify(world: World, *arguments: str, run_ids: Sequence[str] = ()) -> Said:
    """``runstream verify``; a run's id may begin with a dash."""
    said = run("verify", *arguments, "--json", "--", *run_ids)
    assert said.out, said.err
    return said


def verify_all(world: World, run_ids: Sequence[str] = ()) -> Said:
    return verify(world, "--url", world.url, *each("--archive", world.targets), run_ids=run_ids)


def differences(said: Said) -> dict[str, str]:
    """The runs that do not agree, and in what."""
    assert not said.document["damaged"]
    assert said.code == int(not all(one["is_sound"] for one in said.document["runs"]))
    found = {one["run_id"]: one["difference"] for one in said.document["runs"] if not one["is_sound"]}
    return {run_id: difference["what"] for run_id, difference in found.items()}


def quarantined(said: Said) -> dict[str, list[int]]:
    """The records that do not read, by run: in Redis, and in each archive."""
    counted = {run["run_id"]: [one["quarantined"] for one in run["checked"]] for run in said.document["runs"]}
    return {run_id: counts for run_id, counts in counted.items() if any(counts)}


def is_damaged(facts: dict[str, Any]) -> bool:
    return any(entry["event"] is None for entry in facts["entries"])


def new_event(run_id: str) -> PAEvent:
    return PAEvent(run_id, seq=1000, payload={"new": True})


# -- reads -----------------------------------------------------------------------------------------------


def test_redis_alone_reads_what_it_has_and_tells_what_it_has_not(world: World) -> None:
    store = world.store()
    assert sorted(store.list_runs()) == sorted(world.hot_runs)
    for run_id, facts in world.hot_runs.items():
        info, first, last = store.run_info(run_id), facts["hot"]["first"], len(facts["entries"])
        assert (info.first_hot, info.last_offset) == (first, last)
        assert info.archived_offset == facts["hot"]["archived"]
        assert (info.status, info.session_id) == (facts["status"], facts["session_id"])
        if run_id == "newer":
            with pytest.raises(UnsupportedVersion):
                list(store.read(run_id))
            continue
        after = facts["entries"][first - 2]["cursor"] if first > 1 else 0
        check_events(store.read(run_id, after, on_corrupt="skip"), facts["entries"][first - 1 :])
        if first > 1:
            with pytest.raises(EventsArchived) as archived:
                list(store.read(run_id))
            assert archived.value.first_hot == first
        elif is_damaged(facts):
            with pytest.raises(CorruptRecordError) as corrupt:
                list(store.read(run_id))
            assert facts["entries"][corrupt.value.offset - 1]["event"] is None
    in_session = {run_id for run_id, facts in world.hot_runs.items() if facts["session_id"] == "s1"}
    assert {info.run_id for info in store.runs(session_id="s1")} == in_session


def test_redis_alone_recovers_what_its_snapshots_cover(world: World) -> None:
    store = world.store()
    recovered, refused = set(), set()
    for run_id, facts in world.hot_runs.items():
        if run_id in ("newer", "hot-corrupt", "corrupt"):
            continue
        if run_id.startswith("retired"):
            with pytest.raises(EventsArchived):
                store.load_snapshot(run_id)
            continue
        for lane in facts["snapshots"]:
            check_snapshot(store.load_snapshot(run_id, lane_id=lane or None), facts["snapshots"][lane])
        offset = facts["snapshots"].get("", {"offset": 0})["offset"]
        if offset + 1 < facts["hot"]["first"]:
            refused.add(run_id)
            with pytest.raises(EventsArchived):
                store.recover(run_id)
            continue
        recovered.add(run_id)
        recovery = store.recover(run_id)
        assert recovery.offset == offset
        check_events(recovery.events, facts["entries"][offset:])
    assert {"covered", "covered-more", "hot", "diverged", "values", "keyed"} <= recovered
    assert {"trimmed", "lanes", "failed"} <= refused
    for lane, wanted in world.runs["lanes"]["snapshots"].items():
        recovery = store.recover("lanes", lane_id=lane)
        check_snapshot(store.load_snapshot("lanes", lane_id=lane), wanted)
        assert recovery.offset == wanted["offset"]
        check_events(recovery.events, _of_lane(world.runs["lanes"]["entries"][wanted["offset"] :], lane))


def _of_lane(entries: Sequence[dict[str, Any]], lane: str) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["event"] and json.loads(entry["event"]["lane_id"]) == lane]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", KINDS)
def test_with_an_archive_every_run_reads_whole(world: World, kind: str) -> None:
    store = world.store(kind)
    for run_id, facts in world.sound_runs.items():
        if facts.get("only", kind) != kind:
            assert store.run_info(run_id) is None
            continue
        info = store.run_info(run_id)
        assert info.last_offset == len(facts["entries"])
        assert (info.status, info.session_id) == (facts["status"], facts["session_id"])
        check_events(store.read(run_id, on_corrupt="skip"), facts["entries"])
        latest = facts["snapshots"] or {lane: kept[-1] for lane, kept in facts["archive_snapshots"].items()}
        for lane, wanted in latest.items():
            check_snapshot(store.load_snapshot(run_id, lane_id=lane or None), wanted)
            if lane:
                check_events(
                    store.recover(run_id, lane_id=lane).events,
                    _of_lane(facts["entries"][wanted["offset"] :], lane),
                )
        if facts["hot"] is not None and not is_damaged(facts):
            offset = latest.get("", {"offset": 0})["offset"]
            recovery = store.recover(run_id)
            assert recovery.offset == offset
            check_events(recovery.events, facts["entries"][offset:])
    listed = {run_id for run_id, facts in world.runs.items() if facts.get("only", kind) == kind}
    assert set(store.list_runs()) == {*listed, world.expected["branch"]["name"]}


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_reads_by_itself(kept: World, kind: str) -> None:
    archive, wanted = kept.archive(kind), kept.in_archive(kind)
    with_snapshots = {run_id for run_id, facts in kept.runs.items() if facts["archive_snapshots"]}
    assert set(archive.list_runs()) == {*wanted, "only-a-snapshot"}
    for run_id, entries in wanted.items():
        check_events(archive.read(run_id, on_corrupt="skip"), entries)
        check_events(archive.read(run_id, entries[0]["cursor"], on_corrupt="skip"), entries[1:])
        back = list(archive.read_back(run_id, 1, 1000))
        assert [(str(one.cursor), one.key) for one in back] == [(one["cursor"], one["key"]) for one in entries]
        facts = kept.runs.get(run_id)
        if facts is None or run_id in kept.expected["parked"]:
            continue
        if facts["archived"] == len(facts["entries"]):
            info = archive.run_info(run_id)
            assert (info.status, info.session_id) == (facts["status"], facts["session_id"])
    for run_id in with_snapshots & set(archive.list_runs()):
        histories = kept.runs[run_id]["archive_snapshots"]
        assert archive.snapshot_lanes(run_id) == [lane or None for lane in sorted(histories)]
        for lane, history in histories.items():
            check_snapshot(archive.load_snapshot(run_id, lane_id=lane or None), history[-1])
            found = list(archive.snapshot_history(run_id, lane_id=lane or None))
            for snapshot, one in zip(found, history, strict=True):
                check_snapshot(snapshot, one)
                check_snapshot(archive.snapshot_at(run_id, one["offset"], lane_id=lane or None), one)
    assert len(kept.runs["covered"]["archive_snapshots"][""]) == 3
    branch = kept.expected["branch"]
    assert operations_of(archive).header(branch["name"]).parent == ("resolved", branch["start"])
    aside = [[run_id, entry.offset, entry.raw.hex()] for run_id, entry in archive.quarantine()]
    assert aside == kept.expected["quarantine"] != []
    assert archive.archive_id == kept.expected["uuids"][KINDS.index(kind)]
    with pytest.raises(CorruptRecordError):
        list(archive.read("corrupt"))


@pytest.mark.parametrize("kind", KINDS)
def test_purpose_agents_own_reader_reads_an_archive(kept: World, kind: str) -> None:
    path = kept.target(kind).partition(":")[2]
    make = theirs.SQLiteCheckpointer if kind == "sqlite" else theirs.JSONLCheckpointer
    reader = make(path)
    for run_id in ("covered", "covered-more", "keyed", "corrupt", "failed", "retired", "resolved", "diverged"):
        entries = [entry for entry in kept.in_archive(kind)[run_id] if entry["event"]]
        found = [fields_of(event.to_dict()) for event in reader.list_events(run_id)]
        assert found == [dict(entry["event"]) for entry in entries]
    state, wanted = fields_of(reader.load_latest("completed").to_dict()), kept.runs["completed"]["snapshots"][""]
    for name in ("run_id", "status", "current_step", "updated_at"):
        assert state[name] == wanted["state"][name]


def test_a_namespace_of_another_number_of_partitions_is_found_as_it_is(world: World) -> None:
    url = world.url.replace(world.expected["namespace"], "kept-two")
    with connect(url) as store:
        assert set(store.list_runs()) == set(world.expected["two_partitions"])
        for run_id in world.expected["two_partitions"]:
            assert [one.event.payload for one in store.read(run_id)] == [{"n": run_id}]
        assert store.append("four", [new_event("four")]).first_offset == 1
    with pytest.raises(ConfigurationError, match="partitions"):
        connect(url, partitions=16)


# -- drains, verifies, resolves ------------------------------------------------------------------------


@pytest.mark.one_in(3)
def test_verify_proves_all_but_what_is_parked(world: World) -> None:
    parked = {
        "diverged": "the event is not the same",
        "gap": "events are in neither of the two",
        "newer": "a record is of a newer version",
    }
    assert sorted(parked) == world.expected["parked"]
    said = verify_all(world)
    assert differences(said) == parked
    assert quarantined(said) == {"corrupt": [1, 1, 1], "hot-corrupt": [1, 0, 0]}
    assert len(said.document["runs"]) == len(world.runs) + 1
    assert verify_all(world, sorted(world.sound_runs)).code == 0
    assert differences(verify(world, "--url", world.url)) == {"newer": parked["newer"]}


@pytest.mark.parametrize("kind", KINDS)
def test_verify_proves_each_archive_by_itself(kept: World, kind: str) -> None:
    said = verify(kept, "--archive", kept.target(kind))
    assert said.code == 0, differences(said)
    counted = {one["run_id"]: one["checked"][0]["events"] for one in said.document["runs"]}
    assert counted == {"only-a-snapshot": 0} | {
        run: len(entries) for run, entries in kept.in_archive(kind).items()
    }
    assert quarantined(said) == {"corrupt": [1]}


@pytest.mark.one_in(3)
def test_what_is_left_is_archived_once_and_what_is_parked_is_put_right(world: World) -> None:
    """To the end: all that was kept is in both archives, and only the record of a newer version stays parked."""
    reasons = {
        "diverged": "`runstream resolve diverged`",
        "gap": "bring the archive back",
        "newer": "has record version 200",
    }
    url = ("--url", world.url)
    for told in run("status", *url, "--json").document["parked"], _parked_again(world):
        assert (
            {run_id for run_id, reason in reasons.items() if reason in told[run_id]} == set(told) == set(reasons)
        )
    _check_archived(world, {run_id: facts["entries"] for run_id, facts in world.sound_runs.items()})
    before = world.store().run_info("newer")
    assert (before.first_hot, before.archived_offset) == (1, 1)

    lost = world.runs["diverged"]["archive_entries"][3:]
    resolved = run("resolve", "diverged", "--keep", "both", *url, *each("--to", world.targets), "--json")
    assert resolved.code == 0, resolved.err
    branch = f"diverged~{lost[-1]['cursor']}"
    assert (resolved.document["branches"], resolved.document["appended"]) == ([branch], len(lost))
    added = run("archives", "add", world.target("jsonl"), "--copy-from", world.target("sqlite"), *url)
    assert added.code == 0, added.err
    assert run("unpark", "gap", *url).code == 0
    assert drain(world).parked == 0
    assert set(run("status", *url, "--json").document["parked"]) == {"newer"}
    _check_archived(world, {"gap": world.runs["gap"]["entries"], branch: renamed(lost, branch)})
    for kind in KINDS:
        found = list(world.archive(kind).read("diverged"))
        check_events(found[:-2], world.runs["diverged"]["entries"])
        again = [fields_of(one.event.to_dict()) for one in found[-2:]]
        assert again == [entry["event"] for entry in lost]
    said = verify_all(world)
    assert set(differences(said)) == {"newer"}
    assert quarantined(said) == {"corrupt": [1, 1, 1], "hot-corrupt": [1, 1, 1]}
    assert drain(world) == DrainReport()


def _parked_again(world: World) -> dict[str, str]:
    """What is parked after a drain that has tried each anew."""
    names = sorted(world.expected["parked"])
    assert run("unpark", "--all", "--url", world.url, "--json").document == {"unparked": names}
    left = sum(len(facts["entries"]) - facts["archived"] for facts in world.sound_runs.values())
    report = drain(world)
    # one of what is left does not read
    assert (report.events, report.quarantined, report.parked) == (left - 1, 1, len(names))
    told: dict[str, str] = run("status", "--url", world.url, "--json").document["parked"]
    return told


def _check_archived(world: World, runs: dict[str, Any]) -> None:
    """Both archives have each of these entries once, in order, and nothing else of the runs."""
    for kind in KINDS:
        archive = world.archive(kind)
        for run_id, entries in runs.items():
            if world.runs.get(run_id, {}).get("only", kind) != kind:
                continue
            check_events(archive.read(run_id, on_corrupt="skip"), entries)
            back = [
                (str(one.cursor), one.key, one.raw and one.raw.hex()) for one in archive.read_back(run_id, 1, 1000)
            ]
            assert back == [(entry["cursor"], entry["key"], entry.get("raw")) for entry in entries]


@pytest.fixture(params=VERSIONS)
def sets(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A run whose state has sets of texts, served by any real server."""
    world = World(request.param, tmp_path, "sets")
    with serving(next(iter(PROGRAMS)), world.dump) as node, world.opened:
        world.serve(node)
        yield world


@needs_server
def test_sets_of_texts_read(sets: World) -> None:
    facts = sets.runs["sets"]
    stores = [sets.store(), *map(sets.store, KINDS), *map(sets.archive, KINDS)]
    for store in stores:
        check_snapshot(store.load_snapshot("sets"), facts["snapshots"][""])
    for store in stores[1:]:
        check_events(store.read("sets"), facts["entries"])


@needs_server
def test_sets_of_texts_are_proven_by_another_process(sets: World) -> None:
    """Whoever wrote them had them in another order."""
    assert differences(verify_all(sets)) == {}
    with sets.store() as store:
        store.recover("sets")
        assert store.delete_run("sets")
    for kind in KINDS:
        assert run("restore", "--from", sets.target(kind), "--to", sets.url).code == 0
        assert drain(sets).parked == 0


# -- restores ------------------------------------------------------------------------------------------


@needs_server
@pytest.mark.one_in(6)
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_redis_is_restored_from_an_archive(kept: World, program: str, kind: str) -> None:
    with serving(program) as node, kept.opened:
        for is_whole in (False, True):
            kept.url = f"unix://{node.socket_path}?namespace=back{is_whole:d}"
            _restore(kept, kind, is_whole=is_whole)


def _restore(kept: World, kind: str, *, is_whole: bool) -> None:
    whole = ["--whole"] if is_whole else []
    said = run("restore", "--from", kept.target(kind), "--to", kept.url, *whole, "--json")
    assert said.code == 0, said.err
    wanted = {run_id: entries for run_id, entries in kept.in_archive(kind).items() if "~" not in run_id[1:]}
    assert {one["run_id"]: one["outcome"] for one in said.document["runs"]} == dict.fromkeys(
        ["only-a-snapshot", *wanted], "restored"
    )
    store = kept.store(None if is_whole else kind)
    for run_id, entries in wanted.items():
        check_events(store.read(run_id, on_corrupt="skip"), entries)
        for lane, history in kept.runs[run_id]["archive_snapshots"].items():
            check_snapshot(store.load_snapshot(run_id, lane_id=lane or None), history[-1])
        assert store.run_info(run_id).last_offset == len(entries)
        keys = {entry["key"]: offset for offset, entry in enumerate(entries, 1) if entry["key"] is not None}
        for key, offset in keys.items():
            assert store.append(run_id, [new_event(run_id)], keys=[key]).first_offset == offset
    assert store.run_info("deleted") is None
    assert differences(verify(kept, "--url", kept.url, "--archive", kept.target(kind))) == {}
    if is_whole:
        assert {info.first_hot for info in store.runs()} == {1}
    with kept.archive(kind) as archive:
        assert DrainWorker(kept.store(), [archive]).drain_once().parked == 0


# -- goes on -------------------------------------------------------------------------------------------


def test_keys_that_were_given_are_known(world: World) -> None:
    store = world.store()
    count = 0
    for run_id, facts in world.hot_runs.items():
        for offset, entry in enumerate(facts["entries"], 1):
            if entry["key"] is not None:
                count += 1
                appended = store.append(run_id, [new_event(run_id)], keys=[entry["key"]])
                assert (appended.first_offset, appended.last_offset) == (offset, offset)
        assert store.run_info(run_id).last_offset == len(facts["entries"])
    assert count == 9


class Held(NamedTuple):
    """A lease as its holder has it."""

    grant: LeaseGrant


def test_a_lease_that_was_held_is_over_and_epochs_rise(world: World) -> None:
    store = world.store()
    for facts in world.expected["leases"]:
        run_id, lane_id = facts["run_id"], facts["lane_id"]
        last = len(world.runs[run_id]["entries"])
        with pytest.raises(LeaseLost):
            store.append(run_id, [new_event(run_id)], lease=Held(LeaseGrant(**facts)))
        assert store.append(run_id, [new_event(run_id)]).first_offset == last + 1
        with store.lease(run_id, owner="owner-2", lane_id=lane_id) as lease:
            assert lease.epoch > facts["epoch"]
            assert store.append(run_id, [new_event(run_id)], lease=lease).first_offset == last + 2


@pytest.mark.one_in(3)
def test_runs_go_on_where_they_were(world: World) -> None:
    """Retired, trimmed and deleted ones too; and then all of it drains and proves."""
    store = world.store("sqlite")
    for run_id in (
        "retired",
        "retired-late",
        "failed",
        "trimmed",
        "covered-more",
        "../../x",
        "x" * 500,
        "resolved",
    ):
        last = len(world.runs[run_id]["entries"])
        assert store.append(run_id, [new_event(run_id)], expected_offset=last).first_offset == last + 1
        found = list(store.read(run_id))
        check_events(found[:-1], world.runs[run_id]["entries"])
        assert found[-1].event.payload == {"new": True}
    for run_id, lane in (("covered", ""), ("lanes", "a"), ("retired", ""), ("retired-late", "side"), ("hot", "")):
        wanted = world.runs[run_id]["snapshots"][lane]
        state = store.recover(run_id, lane_id=lane or None).state
        state.metadata["went"] = "on"
        store.save_snapshot(run_id, state, lane_id=lane or None)
        saved = store.load_snapshot(run_id, lane_id=lane or None)
        assert (saved.revision, saved.state.metadata) == (wanted["revision"] + 1, {"went": "on"})
    with store.open_run("agent", lane_id="booker") as agent:
        assert agent.state.data == {"hotel": 101}
        assert agent.emit("tool.result", key="book", room=102).offset == 1
        emitted = agent.emit("agent.progress")
        assert (emitted.offset, emitted.event.seq) == (4, 4)
    for archive in map(world.archive, KINDS):
        assert archive.run_info("deleted") is None
    assert store.run_info("deleted") is None
    assert store.append("deleted", [new_event("deleted")]).first_offset == 1
    drain(world, retire_after_seconds=0.0)
    said = verify_all(world)
    assert set(differences(said)) == set(world.expected["parked"])
    assert world.store().run_info("completed").first_hot == 3
    for archive in map(world.archive, KINDS):
        assert len(archive.list_events("deleted")) == 1
        assert archive.load_snapshot("retired").revision == 2


# -- purpose-agent's own files -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["opened in place", "imported"])
def test_what_purpose_agent_wrote_reads(kept: World, kind: str, how: str) -> None:
    source = kept.directory / "purpose_agent" / {"sqlite": "checkpoints.db", "jsonl": "checkpoints"}[kind]
    url = f"{kind}:{source}"
    if how == "imported":
        url = f"sqlite:{kept.directory}/imported.db"
        said = run("import", str(source), "--url", url)
        assert said.code == 0, said.err
    runs = kept.expected["purpose_agent"]["runs"]
    if (kind, how) == ("jsonl", "opened in place"):
        # the name of a directory that the JSONL store takes for one of its own
        runs = {run_id: facts for run_id, facts in runs.items() if run_id != "a%20b"}
    with connect(url) as store:
        assert set(store.list_runs()) - {"a b"} == set(runs)
        for run_id, facts in runs.items():
            events = [fields_of(event.to_dict()) for event in store.list_events(run_id)]
            assert events == facts["events"]
            assert [one.offset for one in store.read(run_id)] == list(range(1, 9))
            latest, info = store.load_latest(run_id), store.run_info(run_id)
            assert latest is not None
            assert info is not None
            state = fields_of(latest.to_dict())
            assert {name: state.get(name) for name in facts["state"]} == facts["state"]
            assert (info.status, info.session_id) == ("completed", "s")
            assert store.append(run_id, [new_event(run_id)]).first_offset == 9
    assert verify(kept, "--archive", url, run_ids=list(runs)).code == 0


def test_what_is_kept_is_whole() -> None:
    """A version's folder is never without its parts, however it was copied."""
    assert "v0_1_0" in VERSIONS
    for version in VERSIONS:
        folder = Path(__file__).parent.parent / "kept" / version
        for part in ("namespace/dump.rdb", "archive.db", "archive_jsonl/.runstream.json", "purpose_agent", "sets"):
            assert (folder / part).exists()
        assert not list(folder.rglob("*-wal"))
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 1_000_000
        assert shutil.which("git") is None or _unkept(folder) == []


def _unkept(folder: Path) -> list[str]:
    """The files that the repository leaves out."""
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return listed.stdout.split()
