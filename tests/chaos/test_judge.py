"""The judge finds what is wrong: each event dropped, doubled, moved or invented, in Redis and in the archives."""

from __future__ import annotations

from collections.abc import Iterator

from runstream.testing.copies import Copy
from runstream.testing.judge import faults_of_copy, find_faults, hear, judge

A = [["sends", "r", ["@a/1@"], None], ["told", "r", ["@a/1@"], 1], ["sends", "r", ["@a/2@", "@a/3@"], None]]
B = [
    ["sends", "r", ["@b/1@", "@b/2@"], ["k1", "k2"]],
    ["told", "r", ["@b/1@", "@b/2@"], 2],
    ["sends", "r", ["@b/3@"], ["shared"]],
    ["told", "r", ["@b/3@"], 4],
]
C = [["sends", "r", ["@c/1@"], ["shared"]], ["told", "r", ["@c/1@"], 4], ["lost", "r"]]
MARKS = ["@a/1@", "@b/1@", "@b/2@", "@b/3@", "@a/2@", "@a/3@"]
RIGHT = {(offset, 100 + offset): mark for offset, mark in enumerate(MARKS, 1)}


def faults(hot: Copy, *archives: Copy, losses: bool = False) -> list[str]:
    said = hear([(A, False), (B, False), (C, False)])["r"]
    copies = {f"archive {number}": copy for number, copy in enumerate(archives)}
    alone = [fault for name, copy in copies.items() for fault in faults_of_copy(name, copy)]
    return [*alone, *find_faults(hot, copies, said, losses=losses)]


def test_it_takes_what_is_right() -> None:
    """Also where an archive has a part of it that Redis has no more."""
    assert faults(RIGHT) == []
    parts = (
        {place: RIGHT[place] for place in list(RIGHT)[:4]},
        {place: RIGHT[place] for place in list(RIGHT)[2:]},
    )
    assert faults(parts[1], parts[0]) == []
    assert faults(RIGHT, losses=True) == []


def wrong() -> Iterator[tuple[str, list[str]]]:
    for at, mark in enumerate(MARKS):
        yield f"without {mark}", MARKS[:at] + MARKS[at + 1 :]
        for other in range(len(MARKS) + 1):
            yield f"{mark} twice", [*MARKS[:other], mark, *MARKS[other:]]
        for other in range(at):
            swapped = list(MARKS)
            swapped[at], swapped[other] = MARKS[other], mark
            yield f"{mark} swapped", swapped
    yield "both events of a key", [*MARKS, "@c/1@"]
    yield "one that nobody sent", [*MARKS, "@d/1@"]


def test_it_finds_what_is_wrong() -> None:
    """Wherever it is, in Redis or in an archive."""
    for name, marks in wrong():
        history = {(offset, 100 + offset): mark for offset, mark in enumerate(marks, 1)}
        assert faults(history), name
        assert faults({}, history), name


def test_another_history_in_an_archive_is_found() -> None:
    """The same event at another place, and another chain."""
    assert faults(RIGHT, {(1, 999): "@a/1@"})
    assert faults(RIGHT, {(1, 101): "@a/1@", (3, 103): "@b/2@"})


def test_what_is_missing_may_be_missing_only_where_its_sender_was_told() -> None:
    """After a failover."""
    without = [mark for mark in MARKS if mark != "@b/3@"]
    history = {(offset, 100 + offset): mark for offset, mark in enumerate(without, 1)}
    assert faults(history, losses=True)
    history = {(offset, 100 + offset): mark for offset, mark in enumerate(MARKS[:4], 1)}
    assert faults(history, losses=True) == []
    assert faults(history) == []
    told_later = hear([(A, False), ([*B, ["lost", "r"]], False)])["r"]
    assert list(find_faults({(1, 101): "@a/1@"}, {}, told_later, losses=True)) == []
    killed = hear([(A, False), (B, True)])["r"]
    assert list(find_faults({(1, 101): "@a/1@"}, {}, killed, losses=True)) == []


def test_what_is_missing_may_be_missing_where_another_wrote_its_lane_beyond() -> None:
    """A forked child, in the lane of its parent: docs/protocol.md, Limits."""
    parent = [["sends", "r", ["@a/1@"], None], ["told", "r", ["@a/1@"], 2]]
    child = [["lane", "r", "a", ["@b/1@"]], ["sends", "r", ["@b/1@"], None], ["told", "r", ["@b/1@"], 1]]
    said = hear([(parent, False), (child, False)])["r"]
    archived, hot = {"one": {(1, 201): "@c/last@"}}, {(2, 202): "@a/1@"}
    assert list(find_faults(hot, archived, said, losses=True)) == []
    assert list(find_faults({**hot, (1, 201): "@c/last@"}, {}, said, losses=True)), "it is not trimmed"
    assert list(find_faults(hot, archived, said))
    in_its_own = hear([(parent, False), (child[1:], False)])["r"]
    assert list(find_faults(hot, archived, in_its_own, losses=True))
    assert list(find_faults(hot, archived, in_its_own, losses=True, retires=True)) == []
    leased = [[["leased", "r", "both", [f"@{name}/1@"], epoch]] for epoch, name in enumerate("ab", 1)]
    in_one = hear([([*leased[0], *parent], False), ([*leased[1], *child[1:]], False)])["r"]
    assert list(find_faults(hot, archived, in_one, losses=True)) == []


def test_what_an_archive_has_beside_the_stream_of_a_parked_run_was_lost() -> None:
    """Whichever of two chains at one offset is the greater number."""
    said = hear([(A, False), ([*B, ["lost", "r"]], False), (C, False)])["r"]
    hot = {(3, 103): "@b/2@"}
    lost = {(1, 101): "@a/1@", (2, 102): "@b/1@"}
    for chain in (99, 109):
        assert not list(judge(hot, {"one": {**lost, (3, chain): "@b/3@"}}, said, 0, is_parked=True, losses=True))


def test_what_was_refused_must_not_be_there() -> None:
    said = hear([([["sends", "r", ["@a/1@"], None], ["refused", "r"]], False)])["r"]
    assert list(find_faults({}, {}, said)) == []
    (fault,) = find_faults({(1, 101): "@a/1@"}, {}, said)
    assert "was refused and is there" in fault
