"""A restore brings no erased content back, and a truncated history begins where it did."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from runstream.repair.required_archives import copy_run
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from runstream.stores.capabilities import ErasesContent, part_of
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.operations import last_seq
from tests.support.random_runs import one_archive
from tests.support.samples import make_event, make_events, make_state

PLANTED = "nobody is to read this"


def fill(archive: Archive) -> None:
    """Eight events of two lanes, of which the third and the last of one lane are erased, and a snapshot."""
    for seq in range(1, 9):
        text = PLANTED if seq in {3, 7} else "fine"
        archive.append("r", [make_event("r", seq, lane_id="ab"[seq % 2], payload={"t": text})], keys=[f"k{seq}"])
    archive.erase("r", where=lambda event: event.payload["t"] == PLANTED)
    archive.append("r", [make_event("r", 9, lane_id="a")])
    archive.recover("r")
    archive.save_snapshot("r", make_state("r"))


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_no_erased_content_comes_back_with_a_restore(
    redis_backend: RedisBackend, tmp_path: Path, kind: str
) -> None:
    with closing(one_archive(kind, tmp_path)) as archive:
        fill(archive)
        hot = redis_backend.open()
        put_back(hot, archive, "r", whole=True)
        assert [item.offset for item in hot.read("r")] == [1, 2, 4, 5, 6, 8, 9]
        assert [item.cursor for item in hot.read("r")] == [item.cursor for item in archive.read("r")]
        assert PLANTED not in repr(redis_backend.footprint())
        assert hot.find("r", ["k3", "k7"]) == [3, 7]
        assert {lane: last_seq(hot, "r", lane) for lane in "ab"} == {"a": 9, "b": 7}
        hot.append("r", make_events("r", 1, first=10), expected_offset=9)
        assert hot.recover("r").offset == 9
        assert verify_run("r", sinks=[archive]).difference is None


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_a_truncated_history_is_restored_from_where_it_begins(
    redis_backend: RedisBackend, tmp_path: Path, kind: str
) -> None:
    with closing(one_archive(kind, tmp_path)) as archive:
        fill(archive)
        archive.truncate("r", before=8)
        hot = redis_backend.open()
        put_back(hot, archive, "r", whole=True)
        assert [item.offset for item in hot.read("r", 7)] == [8, 9]
        assert hot.find("r", ["k1", "k3", "k8"]) == [1, 3, 8]
        assert hot.append("r", make_events("r", 1), keys=["k1"]).last_offset == 1
        assert {lane: last_seq(hot, "r", lane) for lane in "ab"} == {"a": 9, "b": 7}
        assert hot.append("r", make_events("r", 1, first=10), expected_offset=9).last_offset == 10


@pytest.mark.parametrize("kinds", [("sqlite", "jsonl"), ("jsonl", "sqlite")])
def test_a_copy_of_an_archive_knows_what_was_erased(tmp_path: Path, kinds: tuple[str, str]) -> None:
    """And what is left of the beginning that was truncated: keys, and where lanes end."""
    with (
        closing(one_archive(kinds[0], tmp_path)) as source,
        closing(one_archive(kinds[1], tmp_path)) as target,
    ):
        fill(source)
        source.truncate("r", before=8)
        copy_run(source, target, "r")
        copy_run(source, target, "r")
        assert [item.cursor for item in target.read("r")] == [item.cursor for item in source.read("r")]
        assert target.find("r", ["k1", "k3", "k8"]) == [1, 3, 8]
        assert {lane: last_seq(target, "r", lane) for lane in "ab"} == {"a": 9, "b": 7}
        for archive in (source, target):
            eraser = part_of(archive, ErasesContent)
            assert eraser is not None
            assert [note.text for note in eraser.erasure_notes("r")] == ["3,7", "<8"]
        assert target.load_snapshot("r") is not None
        verdict = verify_run("r", sinks=[source, target])
        assert verdict.difference is None


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_a_truncated_history_is_restored_without_a_snapshot(
    redis_backend: RedisBackend, tmp_path: Path, kind: str, whole: bool
) -> None:
    """Also where all that a lane had was truncated."""
    with closing(one_archive(kind, tmp_path)) as archive:
        archive.append(
            "r", [make_event("r", seq, lane_id="abb"[seq - 1]) for seq in (1, 2, 3)], keys=["k", None, "l"]
        )
        archive.truncate("r", before=2)
        hot = redis_backend.open()
        put_back(hot, archive, "r", whole=whole)
        assert [item.cursor for item in hot.read("r")] == [item.cursor for item in archive.read("r")]
        assert hot.find("r", ["k", "l"]) == archive.find("r", ["k", "l"]) == [1, 3]
        assert hot.lanes("r") == archive.lanes("r")
