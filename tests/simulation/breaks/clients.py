"""Breaks of what a writer or a reader does."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pytest

from runstream.history.hot import HotHistory
from runstream.model.durability import Durability
from runstream.model.errors import StoreUnavailable
from runstream.stores.redis.connection.routing import _Answers
from runstream.stores.redis.operations.client import durability, resend_lost, send
from runstream.stores.redis.operations.client.reader import RunReader
from runstream.stores.redis.scripts.calls import append_call
from runstream.stores.redis.session.in_flight import InFlight
from runstream.stores.redis.session.producers import Producer
from runstream.stores.redis.session.recent_appends import RecentAppends
from runstream.stores.redis.session.seen import SeenBook
from runstream.stores.tiered.operations import TieredOperations
from tests.simulation.breaks.one import Break

__all__ = ["IN_CLIENTS"]


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _never(*_: Any, **__: Any) -> Iterator[Any]:
    yield from ()


def _forget_unanswered(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(InFlight, "add", _nothing)


def _number_anew(patched: pytest.MonkeyPatch) -> None:
    attempt = send._attempt

    def attempt_anew(session: Any, attempts: Sequence[Any], *, are_new: bool = False) -> Any:
        for one in () if are_new else attempts:
            producer = Producer()
            one.sending = one.sending._replace(producer=producer.name, number=1)
            one.call = append_call(session.keys, one.batch, one.sending)
        return attempt(session, attempts, are_new=are_new)

    patched.setattr(send, "_attempt", attempt_anew)


def _send_stale_anew(patched: pytest.MonkeyPatch) -> None:
    adjust = send._adjust

    def adjust_stale(attempt: Any, reply: Sequence[bytes]) -> Generator[Any, Any, bool]:
        if reply[0] != b"stale":
            return (yield from adjust(attempt, reply))
        attempt.sending = attempt.sending._replace(producer=Producer().name, number=1, sent_at=int(reply[1]))
        attempt.call = append_call(attempt.session.keys, attempt.batch, attempt.sending)
        return True

    patched.setattr(send, "_adjust", adjust_stale)


def _lose_outcomes(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(InFlight, "take_outcome", _nothing)


def _lose_changes(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(InFlight, "take_change", _nothing)


def _forget_seen(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(SeenBook, "note", _nothing)


def _wait_for_nobody(patched: pytest.MonkeyPatch) -> None:
    def said(operation: Any, _: Any, heard: list[Any], *__: Any) -> Generator[Any, Any, Any]:
        heard.append(Durability(replicas=1))
        return (yield from operation)

    patched.setattr(durability, "_confirmed", said)


def _resend_all(patched: pytest.MonkeyPatch) -> None:
    def count_none(*_: Any) -> Generator[Any, Any, int]:
        yield from ()
        return 0

    patched.setattr(resend_lost, "_count_present", count_none)


def _resend_backwards(patched: pytest.MonkeyPatch) -> None:
    lost = RecentAppends.lost
    patched.setattr(RecentAppends, "lost", lambda self, run_id: lost(self, run_id)[::-1])


def _take_trimmed_for_another(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(HotHistory, "has_trimmed", lambda *_: False)


def _pass_over_gaps(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(RunReader, "report_missing", _never)


def _give_followers_nothing(patched: pytest.MonkeyPatch) -> None:
    def follow(*_: Any, **__: Any) -> Iterator[Any]:
        yield from ()
        raise TimeoutError

    patched.setattr(TieredOperations, "follow", follow)


def _count_unanswered_as_done(patched: pytest.MonkeyPatch) -> None:
    take_all = _Answers.take_all

    def take_all_for_done(self: Any, parts: Sequence[Any], outcomes: Sequence[Any]) -> None:
        take_all(self, parts, outcomes)
        for part, outcome in zip(parts, outcomes, strict=True):
            if isinstance(outcome, StoreUnavailable):
                self._answered.update(dict.fromkeys(part.indexes, b"1"))

    patched.setattr(_Answers, "take_all", take_all_for_done)


def _take_replies_as_they_come(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(_Answers, "all", property(lambda self: list(self._answered.values())))


IN_CLIENTS: Sequence[Break] = (
    Break("a batch that got no reply is forgotten", "storm", _forget_unanswered, seed=4),
    Break("a batch is sent again under a new number", "storm", _number_anew, seed=4),
    Break("a batch that is stale is taken for one that was not applied", "many", _send_stale_anew, seed=20),
    Break("the outcome of a batch that was sent again is not kept", "storm", _lose_outcomes, seed=2),
    Break("a change of a state that was made is made again", "storm", _lose_changes, seed=7),
    Break("what a writer has seen is not kept", "failovers", _forget_seen, seed=1),
    Break("a write does not wait for the replica", "replicated", _wait_for_nobody, seed=3),
    Break("events that are there are taken for lost", "failovers", _resend_all, seed=70),
    Break("lost events are appended again in another order", "failovers", _resend_backwards, seed=1),
    Break("a follower passes over what has left Redis", "storm", _pass_over_gaps, seed=4),
    Break("a follower is given nothing", "storm", _give_followers_nothing, seed=1),
    Break("what a server of a cluster has not answered is taken for done", "cluster", _count_unanswered_as_done),
    Break("what servers of a cluster reply is taken as it comes", "cluster", _take_replies_as_they_come, seed=1),
    Break("what is trimmed meanwhile is taken for another history", "trims", _take_trimmed_for_another, seed=16),
)
