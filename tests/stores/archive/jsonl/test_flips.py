"""A bit that flips in a JSONL archive is never handed out: what is read is as it was written, or an error."""

from __future__ import annotations

import random
import shutil
from itertools import product
from pathlib import Path

import pytest

from runstream import JSONLCheckpointer, RunstreamError
from tests.stores.archive.flips import LISTS, answers, differences, flip, write
from tests.support.samples import make_event

_PARTS = ("events.jsonl", "snapshot.json", "snapshot-lane1.json", "snapshots.jsonl")


@pytest.fixture(scope="module")
def gold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gold") / "archive"
    with JSONLCheckpointer(path) as store:
        write(store)
        assert store.check_integrity() == []
    return path


@pytest.mark.parametrize(
    "seed", [pytest.param(1), *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(2, 22))]
)
def test_no_flipped_bit_is_handed_out(gold: Path, tmp_path: Path, seed: int) -> None:
    """Each answer is right or an error, and the check of the archive tells of every flip."""
    rng = random.Random(seed)
    with JSONLCheckpointer(gold) as store:
        sound = answers(store)
    assert not [answer for answer in sound.values() if isinstance(answer, RunstreamError)]
    for number in range(50):
        path = Path(shutil.copytree(gold, tmp_path / str(number)))
        name = rng.choice(("r", "q", "aside")) + "/" + rng.choice(_PARTS)
        if not (gold / name).exists():
            continue
        at = flip(gold / name, path / name, rng)
        with JSONLCheckpointer(path) as store:
            wrong = differences(sound, answers(store))
            problems = store.check_integrity()
        wrong = {question: answer for question, answer in wrong.items() if question.split()[0] not in LISTS}
        assert not wrong, (name, at, wrong, problems)
        assert problems, (name, at)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("part", _PARTS)
def test_each_bit_of_a_files_end_is_told_of(gold: Path, tmp_path: Path, part: str) -> None:
    """Where a file ends, its last line break may become something that passes for another one."""
    with JSONLCheckpointer(gold) as store:
        sound = answers(store)
    content = (gold / "r" / part).read_bytes()
    for at, bit in product((len(content) - 2, len(content) - 1), range(8)):
        path = Path(shutil.copytree(gold, tmp_path / f"{at}-{bit}"))
        changed = bytes((content[at] ^ 1 << bit,))
        (path / "r" / part).write_bytes(content[:at] + changed + content[at + 1 :])
        with JSONLCheckpointer(path) as store:
            wrong = differences(sound, answers(store))
            problems = store.check_integrity()
        wrong = {question: answer for question, answer in wrong.items() if question.split()[0] not in LISTS}
        assert not wrong, (at, bit, wrong)
        assert problems, (at, bit)


def test_a_snapshot_whose_line_break_was_damaged_is_not_cut_off(gold: Path, tmp_path: Path) -> None:
    """A torn line is; this one came whole."""
    path = Path(shutil.copytree(gold, tmp_path / "damaged"))
    history = path / "r" / "snapshots.jsonl"
    damaged = history.read_bytes()[:-1] + b"\x0b"
    history.write_bytes(damaged)
    with JSONLCheckpointer(path) as store:
        state = store.load_latest("r")
        assert state is not None
        store.append("r", [make_event("r", 9, lane_id="lane1")], snapshot=state)
        assert history.read_bytes().startswith(damaged + b"\n{")
        assert store.check_integrity()
