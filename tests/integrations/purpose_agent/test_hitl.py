"""HITLCheckpoints under purpose-agent's own HITLOrchestrator, beside the directory that it takes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.hitl import AutoApproveHandler, Checkpoint
from purpose_agent.protocols.agui import AGUIAdapter
from purpose_agent.runtime import EventKind

import runstream
from runstream import (
    ConfigurationError,
    DrainWorker,
    EncodingError,
    EventRefused,
    InvalidRunId,
    LeaseHeld,
    LeaseLost,
    PayloadTooLarge,
    StoreUnavailable,
    connect,
)
from runstream.integrations import purpose_agent as ours
from runstream.integrations.purpose_agent import HITLCheckpoints
from tests.integrations.purpose_agent.tasks import Approve, Away, orchestrator
from tests.support.servers import eventually, needs_server

URLS = ["memory:", "sqlite:{dir}/runs.db", "jsonl:{dir}/runs", "fake:{dir}", "fake:{dir} sqlite:{dir}/archive.db"]


@pytest.fixture(params=URLS, ids=lambda urls: urls.replace("{dir}", ""))
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Opens the same store again, as another process does."""
    url, *archive = request.param.format(dir=tmp_path).split()
    if url == "memory:":
        url += str(tmp_path)
    with ExitStack() as stack:
        yield lambda: stack.enter_context(ours.connect(url, archive=archive[0] if archive else None))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    with connect(f"memory:{tmp_path}") as opened:
        yield opened


def checkpoint(step: int = 1, name: str = "cp_1_7", **fields: Any) -> Checkpoint:
    lists: dict[str, Any] = {"trajectory_steps": [], "history": [], "heuristics": []}
    texts = {"purpose": "p", "task_description": "p", "state_summary": ""}
    values = {"current_state": {}, "timestamp": 7.5, **lists, **texts, **fields}
    return Checkpoint(step_index=step, checkpoint_id=name, **values)


# -- as a directory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["theirs", "ours"])
def test_a_task_that_is_interrupted_goes_on_as_with_their_directory(kind: str, store: Any, tmp_path: Path) -> None:
    def made(until: int) -> Any:
        if kind == "theirs":
            return orchestrator(Approve(until), checkpoint_dir=str(tmp_path / "checkpoints"))
        return HITLCheckpoints(store, "trip").attach(orchestrator(Approve(until)))

    hitl = made(3)
    assert hitl.list_checkpoints() == []
    with pytest.raises(Away):
        hitl.run_task("book", max_steps=5)
    listed = made(0).list_checkpoints()
    assert [set(one) for one in listed] == [{"file", "step", "id", "timestamp"}] * 3
    assert [one["step"] for one in listed] == [1, 2, 3]
    assert [one["id"].rpartition("_")[0] for one in listed] == ["cp_1", "cp_2", "cp_3"]
    assert all(time.time() - 60 < one["timestamp"] <= time.time() for one in listed)
    again = made(9)
    result = again.run_task("book", max_steps=5, resume_from=listed[-1]["file"])
    assert result.final_state.data["booked"] == 5
    assert [one["step"] for one in again.list_checkpoints()] == [1, 2, 3, 4, 5]
    assert [one.step_index for one in again._checkpoints] == [4, 5]
    assert again._checkpoints[-1].current_state == result.final_state.data
    with pytest.raises(FileNotFoundError):
        again.run_task("book", resume_from="cp_9_9")
    assert again.run_task("book", None, 1, 9.0, listed[0]["file"]).total_steps == 0


def test_it_goes_on_in_another_process_with_what_was_saved(reopen: Callable[[], Any]) -> None:
    """Tuples are tuples; theirs makes lists of them."""
    first = HITLCheckpoints(reopen(), "trip", session_id="monday")
    hitl = first.attach(orchestrator(Approve(3)))
    with pytest.raises(Away):
        hitl.run_task("book", max_steps=5)
    store = reopen()
    other = HITLCheckpoints(store, "trip")
    latest = other.latest()
    assert isinstance(latest, Checkpoint)
    assert latest == hitl._checkpoints[-1]
    assert latest.current_state == {"booked": 3, "at": (1, 2)}
    assert len(latest.history) == 3
    hitl = other.attach(orchestrator(Approve(5)))
    assert hitl.run_task("book", max_steps=5, resume_from=latest).final_state.data["booked"] == 5
    listed = first.list_checkpoints()
    assert [one["step"] for one in listed] == [1, 2, 3, 4, 5]
    assert [first.load(one["file"]).current_state["booked"] for one in listed] == [1, 2, 3, 4, 5]
    assert [first.load(one["id"]).step_index for one in listed] == [1, 2, 3, 4, 5]
    assert [info.run_id for info in store.runs(session_id="monday")] == ["trip"]


def test_an_older_checkpoint_is_resumed_from_by_its_id_and_the_latest_is_the_one_saved_last(store: Any) -> None:
    """Theirs lists by name: cp_10 comes before cp_2."""
    checkpoints = HITLCheckpoints(store, "trip")
    hitl = checkpoints.attach(orchestrator(AutoApproveHandler()))
    hitl.run_task("book", max_steps=11)
    listed = hitl.list_checkpoints()
    assert [one["step"] for one in listed] == list(range(1, 12))
    hitl.run_task("book", max_steps=3, resume_from=listed[1]["id"])
    latest = checkpoints.latest()
    assert latest is not None
    assert (latest.step_index, len(latest.history)) == (3, 3)
    assert HITLCheckpoints(store, "other").latest() is None
    assert HITLCheckpoints(store, "other").list_checkpoints() == []


def test_files_of_theirs_are_resumed_from_and_taken_over(store: Any, tmp_path: Path) -> None:
    theirs = orchestrator(Approve(2), checkpoint_dir=str(tmp_path))
    with pytest.raises(Away):
        theirs.run_task("book", max_steps=5)
    files = [one["file"] for one in theirs.list_checkpoints()]
    checkpoints = HITLCheckpoints(store, "trip")
    hitl = checkpoints.attach(orchestrator(Approve(3), checkpoint_dir=str(tmp_path)))
    with pytest.raises(Away):
        hitl.run_task("book", max_steps=5, resume_from=files[-1])
    for file in files:
        checkpoints.save(Checkpoint.load(file))
    assert [one["step"] for one in hitl.list_checkpoints()] == [3, 1, 2]
    assert len(list(tmp_path.glob("cp_*"))) == 2


# -- what a store adds -----------------------------------------------------------------------------------


def test_what_two_save_under_one_id_is_kept_of_both(reopen: Callable[[], Any]) -> None:
    """The id is a step and a second: theirs overwrites the file."""
    both = [HITLCheckpoints(reopen(), "trip") for _ in range(2)]
    names: list[str] = []

    def save(who: int) -> None:
        names.extend(both[who].save(checkpoint(step, f"cp_{step}_7", purpose=str(who))) for step in range(1, 11))

    threads = [threading.Thread(target=save, args=(who,)) for who in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    listed = HITLCheckpoints(reopen(), "trip").list_checkpoints()
    assert {one["file"] for one in listed} == set(names)
    assert len(names) == len(listed) == 20
    found = [both[0].load(one["file"]) for one in listed]
    assert {(one.step_index, one.purpose) for one in found} == {(n, who) for n in range(1, 11) for who in "01"}
    assert both[0].load("cp_10_7") == next(one for one in reversed(found) if one.step_index == 10)


def test_one_that_is_saved_again_is_there_once_and_as_it_was(reopen: Callable[[], Any]) -> None:
    """As after StoreUnavailable, from whichever process."""
    first, other = (HITLCheckpoints(reopen(), "trip") for _ in range(2))
    saved = checkpoint(current_state={"n": 1})
    name = first.save(saved)
    assert first.save(saved) == other.save(checkpoint(current_state={"n": 1})) == name
    saved.current_state["n"] = 2
    assert [one["file"] for one in other.list_checkpoints()] == [name]
    assert other.load(name).current_state == {"n": 1}
    assert other.save(saved) != name
    assert other.load(name).current_state == {"n": 1}
    assert other.load(saved.checkpoint_id).current_state == {"n": 2}


def test_it_shares_its_run_with_all_else(store: Any) -> None:
    checkpoints = HITLCheckpoints(store, "trip")
    with store.open_run("trip") as run:
        run.emit("tool.result", n=1)
        checkpoints.save(checkpoint(1, "cp_1_7"))
        run.emit("checkpoint.saved", checkpoint_id="another's")
        run.checkpoint()
        checkpoints.save(checkpoint(2, "cp_2_7"))
        run.emit("tool.result", n=2)
        store.append("trip", [runstream.create_event("trip", "agent.progress", lane_id="hitl")])
        run.finish()
    assert [one["file"] for one in checkpoints.list_checkpoints()] == ["cp_1_7@2", "cp_2_7@4"]
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step_index == 2
    elsewhere = ("cp_1_7@1", "cp_9_7@2", "cp_1_7@99", "cp_1_7@99999999999999999999", "@", "@0")
    for name in ("another's", "another's@3", *elsewhere):
        with pytest.raises(FileNotFoundError, match="no such checkpoint"):
            checkpoints.load(name)


def test_what_was_drained_and_trimmed_is_there(tmp_path: Path) -> None:
    url, archive = f"fake:{tmp_path}", f"sqlite:{tmp_path}/archive.db"
    with ours.connect(url, archive=archive) as store, connect(url) as hot, connect(archive) as sink:
        checkpoints = HITLCheckpoints(store, "trip")
        with pytest.raises(Away):
            checkpoints.attach(orchestrator(Approve(3))).run_task("book", max_steps=5)
        worker = DrainWorker(hot, [sink], trim="archived")  # type: ignore[list-item]
        assert worker.drain_once().trimmed == 3
        latest = checkpoints.latest()
        assert latest is not None
        assert latest.current_state == {"booked": 3, "at": (1, 2)}
        hitl = checkpoints.attach(orchestrator(Approve(5)))
        hitl.run_task("book", max_steps=5, resume_from=hitl.list_checkpoints()[-1]["file"])
        assert [one["step"] for one in hitl.list_checkpoints()] == [1, 2, 3, 4, 5]
        alone = HITLCheckpoints(hot, "trip")
        assert alone.load(hitl.list_checkpoints()[-1]["file"]).step_index == 5
        for look in (alone.list_checkpoints, alone.latest):
            with pytest.raises(runstream.EventsArchived):
                look()


def test_a_lease_keeps_a_second_one_out(store: Any) -> None:
    lease = store.lease("trip", owner="a", lane_id="hitl")
    mine, others = HITLCheckpoints(store, "trip", lease=lease), HITLCheckpoints(store, "trip")
    name = mine.save(checkpoint())
    with pytest.raises(LeaseHeld):
        others.attach(orchestrator(Approve(9))).run_task("book", max_steps=1)
    assert others.load(name) == checkpoint()
    lease.release()
    with pytest.raises(LeaseLost):
        mine.save(checkpoint(2))
    assert others.save(checkpoint(2))
    with store.lease("trip", owner="b") as whole:
        with pytest.raises(LeaseHeld):
            others.save(checkpoint(3))
        assert HITLCheckpoints(store, "trip", lease=whole).save(checkpoint(3))
    with store.open_run("trip", lease_ttl=30) as run:
        of_run = HITLCheckpoints(store, "trip", lease=run)
        assert of_run.save(checkpoint(4))
    with pytest.raises(LeaseLost):
        of_run.save(checkpoint(5))


def test_it_is_internal_to_a_user_interface(store: Any) -> None:
    HITLCheckpoints(store, "trip").save(checkpoint())
    (event,) = store.list_events("trip")
    assert (event.seq, event.ts, event.lane_id) == (1, 7.5, "hitl")
    assert AGUIAdapter().convert(event) is None
    assert AGUIAdapter(include_internal=True).convert(event).type == "custom.checkpoint"


# -- what is refused -------------------------------------------------------------------------------------


def test_what_cannot_be_stored_is_refused_by_name_and_the_task_can_be_resumed(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = HITLCheckpoints(store, "trip")
    with pytest.raises(EncodingError) as refused:
        checkpoints.save(checkpoint(current_state={"handle": object()}))
    assert refused.value.path == "payload.current_state.handle"
    with pytest.raises(PayloadTooLarge):
        checkpoints.save(checkpoint(current_state={"text": "x" * 9_000_000}))
    for fields in ({"timestamp": "late"}, {"step": "one"}, {"name": 7}):
        with pytest.raises(EncodingError):
            checkpoints.save(checkpoint(**fields))
    others: list[Any] = [None, {}, "cp_1_7"]
    for given in others:
        with pytest.raises(EncodingError, match="no Checkpoint"):
            checkpoints.save(given)
    assert checkpoints.list_checkpoints() == []
    hitl = checkpoints.attach(orchestrator(Approve(9)))
    with monkeypatch.context() as patched:

        def append(*_: Any, **__: Any) -> Any:
            raise StoreUnavailable("away")

        patched.setattr(store, "append", append)
        with pytest.raises(StoreUnavailable):
            hitl.run_task("book", max_steps=2)
    assert hitl._checkpoints == []
    assert hitl.run_task("book", max_steps=2).total_steps == 2


def test_an_unknown_type_is_made_text_in_a_store_of_purpose_agents(reopen: Callable[[], Any]) -> None:
    """As their files have it."""

    class Opaque:
        def __str__(self) -> str:
            return "opaque"

    checkpoints = HITLCheckpoints(reopen(), "trip")
    name = checkpoints.save(checkpoint(current_state={"of": Opaque(), (1, 2): b"x"}))
    assert HITLCheckpoints(reopen(), "trip").load(name).current_state == {"of": "opaque", (1, 2): b"x"}


def test_what_their_class_refuses_is_told_by_name(store: Any) -> None:
    fields = vars(checkpoint()) | {"mood": "good"}
    event = runstream.PAEvent("trip", lane_id="hitl", kind=runstream.EventKind.CHECKPOINT_SAVED, payload=fields)
    store.append("trip", [event])
    checkpoints = HITLCheckpoints(store, "trip")
    (listed,) = checkpoints.list_checkpoints()
    for load in (checkpoints.latest, lambda: checkpoints.load(listed["file"])):
        with pytest.raises(EventRefused, match="mood") as refused:
            load()
        assert (refused.value.offset, refused.value.event_type) == (1, "Checkpoint")
        assert refused.value.fields == fields


def test_bad_arguments_are_errors_by_name(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (None, "memory:x", object()):
        with pytest.raises(ConfigurationError, match="no store"):
            HITLCheckpoints(given, "trip")  # type: ignore[arg-type]
    for run_id in ("", None, 7):
        with pytest.raises(InvalidRunId):
            HITLCheckpoints(store, run_id)  # type: ignore[arg-type]
    checkpoints = HITLCheckpoints(store, "trip")
    assert "'trip'" in repr(checkpoints)
    for name in ("", None, 7):
        with pytest.raises(ConfigurationError):
            checkpoints.load(name)  # type: ignore[arg-type]
    for given in (None, object(), Checkpoint):
        with pytest.raises(ConfigurationError, match="no HITLOrchestrator"):
            checkpoints.attach(given)
    with pytest.raises(ConfigurationError, match="attach"):
        orchestrator(Approve(1), checkpoint_dir=checkpoints).run_task("book", max_steps=1)
    monkeypatch.setitem(sys.modules, "purpose_agent.hitl", None)
    with pytest.raises(ConfigurationError, match="pip install purpose-agent"):
        checkpoints.save(checkpoint())


# -- processes -------------------------------------------------------------------------------------------

PLACES = [
    pytest.param("embedded:{dir}/server", marks=needs_server),
    "sqlite:{dir}/runs.db",
    "jsonl:{dir}/runs",
]


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.integrations.purpose_agent.tasks", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return out.strip()


@pytest.mark.exhaustive
@pytest.mark.parametrize("place", PLACES)
def test_processes_take_a_task_up_one_after_the_other_and_at_once(place: str, tmp_path: Path) -> None:
    url = place.format(dir=tmp_path)
    with ours.connect(url) as store:
        assert said(started(url, "2", "trip")) == "away after 2"
        assert said(started(url, "5", "trip")) == "5 booked, 3 saved"
        checkpoints = HITLCheckpoints(store, "trip")
        assert [one["step"] for one in checkpoints.list_checkpoints()] == [1, 2, 3, 4, 5]
        at_once = [started(url, "5", "other") for _ in range(2)]
        others = [said(process).split(" booked, ") for process in at_once]
        assert [booked for booked, _ in others] == ["5", "5"]
        listed = HITLCheckpoints(store, "other").list_checkpoints()
        assert len(listed) == sum(int(saved.split()[0]) for _, saved in others)


@needs_server
@pytest.mark.exhaustive
def test_who_asks_may_be_killed_and_is_answered_from_another_process(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path}/server"
    with ours.connect(url) as store:

        def saved() -> list[int]:
            return [one["step"] for one in HITLCheckpoints(store, "trip").list_checkpoints()]

        for step in (1, 2, 3):
            asking = started(url, "ask", "trip")
            eventually(lambda: [run.run_id for run in store.runs(status="paused")] == ["trip"])
            asking.kill()
            asking.communicate()
            (waiting,) = store.runs(status="paused")
            (question,) = waiting.waiting_for
            assert f'"step": {step}' in str(question.text)
            store.answer("trip", {"ok": True})
            asking = started(url, "ask", "trip")  # it has the answer and saves, and asks for the next step
            eventually(lambda step=step: len(saved()) == step)  # type: ignore[misc] # bound at once
            if step < 3:
                asking.kill()
                asking.communicate()
        assert said(asking) == "3 booked, 1 saved"
        assert saved() == [1, 2, 3]
        asked = [one for one in store.list_events("trip") if one.kind is EventKind.HUMAN_APPROVAL_REQUESTED]
        assert [f'"step": {n}' in str(one.payload["question"]) for n, one in enumerate(asked, 1)] == [True] * 3
