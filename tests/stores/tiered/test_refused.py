"""P12: what the caller's class refuses is sound: it is archived, and the run is read past it in both tiers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runstream import DrainWorker, EventRefused, PAEvent, RedisCheckpointer, SQLiteCheckpointer, connect
from runstream.repair.verify import verify_run
from runstream.stores.tiered import TieredCheckpointer
from tests.support.samples import make_events


class Odd(PAEvent):
    """Takes an odd seq alone, and takes what it gets apart before it refuses."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Odd:
        seq = dict(fields)["seq"]
        fields.pop("kind")  # type: ignore[attr-defined] # it is a dict
        if seq % 2 == 0:
            raise ValueError("odd ones only")
        return cls("r", span_id="", seq=seq, ts=0.0)


@pytest.fixture
def stores(tmp_path: Path, namespace: str) -> Iterator[tuple[Any, Any, Any]]:
    """A run of nine events: the first six in the archive, the rest in Redis; hot, archive, and both."""
    with (
        connect(f"fake:{namespace}", event_type=Odd) as hot,
        SQLiteCheckpointer(tmp_path / "archive.db", event_type=Odd) as archive,
    ):
        assert isinstance(hot, RedisCheckpointer)
        events: Any = make_events("r", 9)
        hot.save_events(events[:6])
        report = DrainWorker(hot, [archive], trim="archived").drain_once()
        assert (report.events, report.quarantined, report.parked, report.trimmed) == (6, 0, 0, 6)
        hot.save_events(events[6:])
        with TieredCheckpointer(hot, archive) as tiered:
            yield hot, archive, tiered


def test_the_run_is_read_past_what_the_class_refuses(stores: tuple[Any, Any, Any]) -> None:
    hot, archive, tiered = stores
    assert [item.offset for item in tiered.read("r", on_corrupt="skip")] == [1, 3, 5, 7, 9]
    assert [item.offset for item in tiered.read("r", on_corrupt="skip", limit=4, reverse=True)] == [9, 7, 5, 3]
    given = list(tiered.read("r", on_corrupt="raw"))
    assert [item.offset for item in given] == list(range(1, 10))
    assert [type(item.event) for item in given] == [Odd, dict] * 4 + [Odd]
    assert all(item.event["kind"] == "agent.progress" for item in given[1::2])
    assert given[::-1] == list(tiered.read("r", on_corrupt="raw", reverse=True))
    assert [item.offset for item in tiered.read("r", given[3].cursor, on_corrupt="raw", limit=4)] == [5, 6, 7, 8]
    assert verify_run("r", hot=hot, sinks=[archive]).is_sound


def test_what_gives_events_says_which_one_the_class_refuses(stores: tuple[Any, Any, Any]) -> None:
    hot, _, tiered = stores
    for read, offset in ((tiered.list_events, 2), (tiered.recover, 2), (lambda run: list(hot.follow(run, 6)), 8)):
        with pytest.raises(EventRefused, match="Odd refuses it: ValueError: odd ones only") as caught:
            read("r")
        assert (caught.value.offset, caught.value.event_type) == (offset, "Odd")
    following = tiered.follow("r", 2)  # begins at the cursor of one that the class refuses
    assert next(following).offset == 3
    with pytest.raises(EventRefused):
        next(following)
