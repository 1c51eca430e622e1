"""Runs that wait for a person, and that a person cancels: across Runs, lanes, leases and restarts."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import (
    ConfigurationError,
    DrainWorker,
    EncodingError,
    EventsArchived,
    InMemoryCheckpointer,
    LeaseHeld,
    Question,
    RunCancelled,
    RunStatus,
    StoreUnavailable,
    TieredCheckpointer,
    create_event,
)
from runstream.repair.restore import put_back
from tests.run.run_tools import ANSWERED, ASKED, events_of, kinds, meanwhile, status_of
from tests.support.backends import RedisBackend, Store, info_of, latest
from tests.support.drain_tools import first_hot, open_hot
from tests.support.handles import Appends, leave, open_run
from tests.support.kinds import short
from tests.support.line import Line
from tests.support.servers import DEADLINE_SECONDS
from tests.support.unfinished import leave_entries

# -- asking and answering --------------------------------------------------------------------------------


def test_a_question_is_kept_with_the_paused_state_in_one_append(live: Store) -> None:
    appends = Appends(live)
    run = open_run(live)
    run.emit("agent.started")
    run.state.data["plan"] = "x"
    asked = run.pause("Ship it?", cost=3)
    assert [len(batch) for batch in appends.batches] == [1, 1]
    event = asked.event
    question_id = event.payload["question_id"]
    assert (str(event.kind), event.lane_id, event.seq) == (ASKED, "main", 2)
    assert event.payload == {"cost": 3, "question_id": question_id, "question": "Ship it?"}
    snapshot = live.load_snapshot("r")
    assert snapshot is not None
    assert (snapshot.offset, snapshot.state.status, snapshot.state.data) == (2, RunStatus.PAUSED, {"plan": "x"})
    (info,) = live.runs(status="paused")
    assert info.waiting_for == (Question(question_id, "main", "Ship it?", 2),)


def test_the_answer_goes_to_whoever_waits(live: Store) -> None:
    run = open_run(live)
    question_id = run.pause("Ship it?").event.payload["question_id"]
    with meanwhile(lambda: live.answer("r", {"ok": True, "notes": ("a", b"b")})):
        assert run.wait(timeout=DEADLINE_SECONDS) == {"ok": True, "notes": ("a", b"b")}
    (event,) = events_of(live, "answers")
    assert (str(event.kind), event.seq) == (ANSWERED, 1)
    assert (event.payload["question_id"], event.payload["lane_id"]) == (question_id, "main")
    assert (status_of(live), info_of(live).waiting_for) == ("running", ())
    assert run.state.status is RunStatus.RUNNING
    run.checkpoint()
    snapshot = live.load_snapshot("r")
    assert snapshot is not None
    assert (snapshot.offset, snapshot.state.status) == (2, RunStatus.RUNNING), "it covers the answer"
    assert run.wait(timeout=0) == {"ok": True, "notes": ("a", b"b")}


def test_a_second_answer_gives_the_first(live: Store) -> None:
    run = open_run(live)
    question_id = run.pause("Which?").event.payload["question_id"]
    first = live.answer("r", "red")
    assert live.answer("r", "blue") == first
    assert live.answer("r", "blue", lane_id="main", question_id=question_id) == first
    run.wait()
    run.pause("And now?")
    assert live.answer("r", "blue", question_id=question_id) == first, "also once the lane has asked anew"
    assert live.answer("r", "green").event.payload["answer"] == "green"
    assert [event.payload["answer"] for event in events_of(live, "answers")] == ["red", "green"]
    assert run.wait() == "green"


def test_nobody_is_answered_in_a_run_that_has_ended(live: Store) -> None:
    """A long question is shown by its beginning."""
    run, lane = open_run(live), open_run(live, lane_id="reviewer")
    lane.pause("x" * 1000)
    info = live.run_info("r")
    assert info is not None
    assert [one.text for one in info.waiting_for] == ["x" * 199 + "…"]
    run.finish()
    with pytest.raises(ConfigurationError, match="has ended"):
        live.answer("r", "yes")
    assert events_of(live, "answers") == []


def test_a_lane_that_waits_shows_the_run_as_paused_whatever_the_others_do(live: Store) -> None:
    main, lane = open_run(live), open_run(live, lane_id="reviewer")
    lane.pause("Is that right?")
    main.emit("agent.progress")
    main.checkpoint()
    (info,) = live.runs(status="paused")
    assert [(one.lane_id, one.text) for one in info.waiting_for] == [("reviewer", "Is that right?")]
    assert latest(live, "r").status is RunStatus.RUNNING
    main.pause("Ship it?")
    with pytest.raises(ConfigurationError, match=r"several lanes.*'reviewer'"):
        live.answer("r", "yes")
    live.answer("r", "yes", lane_id="main")
    assert (status_of(live), [one.lane_id for one in info_of(live).waiting_for]) == ("paused", ["reviewer"])
    assert main.wait() == "yes"
    live.answer("r", "no")
    assert (status_of(live), lane.wait()) == ("running", "no")


def test_what_was_asked_before_a_restart_is_answered_after_it(live: Store) -> None:
    """Asked again under its key, it is asked once; and a wait knows what its lane has asked."""
    open_run(live).pause("Ship it?", key="ship")
    run = open_run(live)
    assert run.state.status is RunStatus.PAUSED
    with pytest.raises(TimeoutError, match="no answer"):
        run.wait(timeout=0.01)
    assert run.pause("Ship it?", key="ship").offset == 1
    assert [one.question_id for one in info_of(live).waiting_for] == ["ship"]
    live.answer("r", 1, question_id="ship")
    assert open_run(live).wait() == run.wait() == 1
    run.checkpoint()
    run = open_run(live)
    assert run.pause("Ship it?", key="ship").offset == 1
    assert run.wait("ship", timeout=0) == 1
    assert kinds(live) == [ASKED, ANSWERED]


def test_what_nobody_asked_is_no_question(live: Store) -> None:
    run = open_run(live)
    with pytest.raises(ConfigurationError, match="has asked no question"):
        run.wait()
    with pytest.raises(ConfigurationError, match="has asked no question"):
        live.answer("r", "yes")
    run.pause("Ship it?")
    with pytest.raises(ConfigurationError, match="no question 'other'"):
        run.wait("other")
    with pytest.raises(ConfigurationError, match="no question 'other'"):
        live.answer("r", "yes", question_id="other")
    with pytest.raises(ConfigurationError, match="lane 'b' of run 'r' has asked no question"):
        live.answer("r", "yes", lane_id="b")
    with pytest.raises(ConfigurationError, match="timeout"):
        run.wait(timeout=-1)
    with pytest.raises(EncodingError, match="at most 512"):
        run.pause("Ship it?", key="k" * 496)
    assert kinds(live) == [ASKED]


def test_events_of_these_kinds_that_are_no_question_of_ours_say_nothing(live: Store) -> None:
    """As purpose-agent's own are: they neither pause a run nor answer it."""
    live.save_event(create_event("r", ASKED, seq=1, tool="rm"))
    assert (status_of(live), info_of(live).waiting_for) == ("running", ())
    open_run(live).pause("Ship it?", key="ship")
    live.save_event(create_event("r", ANSWERED, seq=3, question_id="ship", answer="yes"))
    assert status_of(live) == "paused"
    live.save_event(create_event("r", ANSWERED, lane_id="answers", seq=1, cancel="maybe"))
    open_run(live).emit("agent.progress")


def test_a_wait_ends_with_the_run(live: Store) -> None:
    run = open_run(live)
    run.pause("Ship it?")

    def end() -> None:
        open_run(live).fail("out of money")

    with meanwhile(end), pytest.raises(RunCancelled, match="has ended"):
        run.wait(timeout=DEADLINE_SECONDS)
    assert info_of(live).waiting_for == ()
    assert (leave(run), status_of(live)) == (None, "failed")


def test_a_question_whose_reply_was_lost_is_asked_once(redis_backend: RedisBackend) -> None:
    store = open_hot(redis_backend, retry_seconds=0)
    run = open_run(store)
    run.emit("agent.started")
    line = Line(store)
    line.cut("", "reply")
    with pytest.raises(StoreUnavailable) as caught:
        run.pause("Ship it?")
    line.cut()
    assert caught.value.resend is not None
    asked = caught.value.resend()
    assert [one.offset for one in info_of(store).waiting_for] == [asked.offset] == [2]
    store.answer("r", "yes")
    assert run.wait() == "yes"


# -- leases ----------------------------------------------------------------------------------------------


def test_a_lease_on_the_whole_run_lets_a_persons_word_pass_and_nothing_else(live: Store) -> None:
    run = open_run(live)
    run.pause("Ship it?")
    with live.lease("r", owner="the agent", ttl=60):
        live.answer("r", "yes")
        for lane in ("answers", "main"):
            with pytest.raises(LeaseHeld):
                live.save_event(create_event("r", ANSWERED, lane_id=lane, seq=9, question_id="x", answer="yes"))
        with pytest.raises(LeaseHeld):
            run.emit("agent.progress")
        live.request_cancel("r", "too dear")
    assert [event.payload.get("answer") for event in events_of(live, "answers")] == ["yes", None]
    run = open_run(live)
    with pytest.raises(RunCancelled):
        run.wait()


def test_a_lease_on_the_lane_of_answers_is_kept(live: Store) -> None:
    open_run(live).pause("Ship it?")
    with live.lease("r", owner="the moderator", lane_id="answers", ttl=60), pytest.raises(LeaseHeld):
        live.answer("r", "yes")
    live.answer("r", "yes")


def test_a_store_that_requires_leases_takes_a_persons_word(redis_backend: RedisBackend) -> None:
    for store in (redis_backend.open(require_lease=True), InMemoryCheckpointer[Any, Any](require_lease=True)):
        with open_run(store, lease_ttl=30) as run:
            run.pause("Ship it?")
            store.answer("r", "yes")
            assert run.wait() == "yes"
            run.checkpoint()
        store.request_cancel("r")


# -- what it costs, and what archives do -----------------------------------------------------------------


def test_a_run_emits_in_one_exchange_and_waits_without_asking(redis_backend: RedisBackend) -> None:
    store = redis_backend.open()
    run = open_run(store)
    run.emit("agent.started")
    driver: Any = store._driver  # type: ignore[attr-defined]  # of the sync store
    exchanges: list[Any] = []
    exchange_once = driver.exchange_once

    def count_one(exchange: Any) -> Any:
        exchanges.append(exchange)
        return exchange_once(exchange)

    driver.exchange_once = count_one
    run.emit("agent.progress")
    assert len(exchanges) == 1
    run.pause("Ship it?")
    exchanges.clear()
    with pytest.raises(TimeoutError):
        run.wait(timeout=0.3)
    assert len(exchanges) <= 3


@pytest.mark.parametrize("kind", short(["jsonl", "sqlite"]))
def test_an_archive_alone_says_what_to_do(make_backend: Any, kind: str) -> None:
    store = make_backend(kind).open()
    run = open_run(store)
    run.emit("agent.started")
    for call in (
        lambda: run.pause("Ship it?"),
        run.wait,
        lambda: store.answer("r", "yes"),
        lambda: store.request_cancel("r"),
    ):
        with pytest.raises(ConfigurationError, match="in Redis, with this as the archive"):
            call()
    assert kinds(store) == ["agent.started"]


def test_a_drain_archives_it_all_and_takes_no_answer_away(
    redis_backend: RedisBackend, archives: list[Any]
) -> None:
    """Though it trims at once; the checkpoint after it covers the answer, and nothing is kept for its sake."""
    hot = open_hot(redis_backend)
    run = open_run(hot)
    run.pause("Ship it?", key="ship")
    DrainWorker(hot, archives).drain_once()
    hot.answer("r", "x" * 60_000)
    DrainWorker(hot, archives, trim="archived").drain_once()
    assert first_hot(hot, "r") == 3
    assert run.wait() == "x" * 60_000
    run.checkpoint()
    run.pause("And this?")
    hot.answer("r", "yes")
    run.wait()
    run.checkpoint()
    DrainWorker(hot, archives).drain_once()
    assert first_hot(hot, "r") == 5
    run.pause("And that?")
    DrainWorker(hot, archives).drain_once()
    for archive in archives:
        assert kinds(archive) == [ASKED, ANSWERED, ASKED, ANSWERED, ASKED]
        assert status_of(archive) == "paused"


def test_a_long_answer_that_has_left_redis_is_in_the_archive(
    redis_backend: RedisBackend, archives: list[Any]
) -> None:
    hot = open_hot(redis_backend)
    run = open_run(hot)
    run.pause("Ship it?")
    hot.answer("r", "x" * 70_000)
    DrainWorker(hot, archives, trim="archived").drain_once()
    with pytest.raises(EventsArchived):
        run.wait()
    assert open_run(TieredCheckpointer(hot, archives[0])).wait() == "x" * 70_000


# -- what was broken -------------------------------------------------------------------------------------


def test_a_run_that_waits_can_be_put_back(redis_backend: RedisBackend, archives: list[Any]) -> None:
    """From an archive, with what its lanes have asked, what was answered, and a request to cancel."""
    hot = open_hot(redis_backend)
    for lane_id in ("main", "a", "b"):
        open_run(hot, lane_id=lane_id).pause(f"{lane_id}?", key=lane_id)
    hot.answer("r", "yes", lane_id="a")
    open_run(hot, "s").emit("agent.started")
    hot.request_cancel("s", "too dear")
    waiting = info_of(hot).waiting_for
    assert [one.lane_id for one in waiting] == ["main", "b"]
    DrainWorker(hot, archives).drain_once()
    for archive in archives:
        for run_id in ("r", "s"):
            hot.delete_run(run_id)
            put_back(hot, archive, run_id, whole=True)
        assert info_of(hot).waiting_for == waiting
        assert (open_run(hot, lane_id="a").wait(), hot.answer("r", "no", lane_id="a").offset) == ("yes", 4)
        with pytest.raises(RunCancelled, match="too dear"):
            open_run(hot, "s").emit("agent.progress")
    hot.answer("r", 1, lane_id="b")
    assert open_run(hot, lane_id="b").wait() == 1


def test_a_question_that_was_left_by_a_refused_append_is_asked(redis_backend: RedisBackend) -> None:
    """The server refused the script in its midst: the next append finishes it, here the one that answers."""
    hot = open_hot(redis_backend)
    open_run(hot).emit("agent.started")
    asked = create_event("r", ASKED, seq=2, question_id="ship", question="Ship it?")
    leave_entries(hot, redis_backend.raw, [asked])
    open_hot(redis_backend).save_event(create_event("r", "agent.progress", lane_id="b", seq=1))
    assert [one.text for one in info_of(hot).waiting_for] == ["Ship it?"]
    hot = open_hot(redis_backend)
    hot.answer("r", "yes")
    assert open_run(hot).wait() == "yes"
