"""What a store holds of what it appended last, to be put back if the server loses it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from runstream import DrainWorker, SQLiteCheckpointer
from runstream.codec.event_codec import Codec
from runstream.model.results import Cursor
from runstream.operations.messages import lost
from runstream.stores.redis.session.recent_appends import RecentAppends
from tests.support.backends import RedisBackend
from tests.support.operations import session_of
from tests.support.samples import make_events


def test_a_fork_puts_nothing_back() -> None:
    """What the server has lost of the parent's events is the parent's to put back."""
    book = RecentAppends()
    events = Codec[Any, Any]().encode_events("r", make_events("r", 3))
    book.mark_lost("r", [(Cursor(number, 0), event) for number, event in enumerate(events, 1)], lost("r", 3, 0))
    child = os.fork()
    if child == 0:
        os._exit(len(book.lost("r")))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(book.lost("r")) == 3
    book.mark_answered("r", book.lost("r"))
    assert not book.lost("r")


def test_what_is_found_where_it_was_before_one_loss_is_not_looked_for_where_it_was_before_another(
    redis_backend: RedisBackend, tmp_path: Path
) -> None:
    """What was put back once was lost again, before all of the first history was given to the run again."""
    hot: Any = redis_backend.open()
    hot.append("r", events := make_events("r", 5))
    cursors = [Cursor(*map(int, item.cursor.split("-"))) for item in hot.read("r", 2)]
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        DrainWorker(hot, [archive], trim="archived").drain_once()
    giver: Any = redis_backend.open(resend_lost=True)
    session = session_of(giver)
    book, encoded = session.recent, session.codec.encode_events("r", events[2:])
    for places in (cursors, [Cursor(at.offset - 1, 1) for at in cursors]):
        book.mark_answered("r", encoded)
        book.mark_lost("r", list(zip(places, encoded, strict=True)), lost("r", 5, 2))
    giver.append("r", make_events("r", 1))
    assert [item.offset for item in giver.read("r", 5)] == [6]
    assert not book.lost("r")


def test_what_shows_that_lost_events_are_not_back_is_in_no_history_before() -> None:
    """An event that is put back where it was is in both histories, as what was never lost is."""
    book, events = RecentAppends(), Codec[Any, Any]().encode_events("r", make_events("r", 5))
    places = [Cursor(number, number) for number in range(1, 6)]
    written = list(zip(places, events, strict=True))
    book.add("r", 0, written[:2])
    book.mark_lost("r", written[2:4], lost("r", 4, 2))
    book.add("r", 0, written[2:3])
    book.mark_answered("r", events[2:3])
    assert book.last_since_loss("r") is None
    book.add("r", 0, [(Cursor(4, 7), events[4])])
    assert book.last_since_loss("r") == (4, 7)


def test_what_is_held_of_events_with_the_span_of_their_writer_is_counted_whole() -> None:
    """Each is held twice: as it is written, and as the caller may repeat it."""
    (event,) = Codec[Any, Any]().encode_events("r", make_events("r", 1))
    book, traced = RecentAppends(max_bytes=4 * len(event.record)), event._replace(untraced=event.record)
    for number in range(1, 4):
        book.add("r", 0, [(Cursor(number, number), traced)])
    assert [at.offset for at, _ in book.get("r")] == [2, 3]
    book.forget("r")
    book.add("s", 0, [(Cursor(number, number), event) for number in range(1, 6)])
    assert [at.offset for at, _ in book.get("s")] == [2, 3, 4, 5]
