"""A bit that flips in a JSONL archive is never handed out: what is read is as it was written, or an error."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from runstream import JSONLCheckpointer, RunstreamError
from tests.stores.archive.flips import LISTS, answers, differences, flip, write

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
