"""A bit that flips in a SQLite archive is never handed out: what is read is as it was written, or an error."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runstream import RunstreamError, SQLiteCheckpointer
from tests.stores.archive.flips import LISTS, answers, differences, flip, write

_PAGE = 4096
_LEAF, _SCHEMA = 0x0D, 1


@pytest.fixture(scope="module")
def gold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gold") / "archive.db"
    with SQLiteCheckpointer(path) as store:
        write(store)
        assert store.check_integrity() == []
    return path


def _rows(path: Path) -> Iterator[range]:
    """Where the file has rows: the cells of the tables, and not of their indexes nor of the schema."""
    with closing(sqlite3.connect(path)) as file:
        roots = {
            number
            for (number,) in file.execute("SELECT rootpage FROM sqlite_master WHERE name IN ('runs', 'lanes')")
        }
    content = path.read_bytes()
    for number in range(_SCHEMA + 1, len(content) // _PAGE + 1):
        page = content[(number - 1) * _PAGE : number * _PAGE]
        cells = int.from_bytes(page[5:7], "big")
        if (page[0] == _LEAF or number in roots) and cells < _PAGE:  # there are some
            yield range((number - 1) * _PAGE + cells, number * _PAGE)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(2, 22))])
def test_no_flipped_bit_is_handed_out(gold: Path, tmp_path: Path, seed: int) -> None:
    """In a row, each answer is right or an error; elsewhere the check of the file may be what tells."""
    rng, rows = random.Random(seed), list(_rows(gold))
    with SQLiteCheckpointer(gold) as store:
        sound = answers(store)
    assert not [answer for answer in sound.values() if isinstance(answer, RunstreamError)]
    noticed = 0
    for number in range(50):
        path = tmp_path / f"{number}.db"
        at = flip(gold, path, rng, () if number % 5 == 0 else rows)
        in_row = any(at in cells for cells in rows)
        try:
            with SQLiteCheckpointer(path) as store:
                wrong = differences(sound, answers(store))
                problems = store.check_integrity()
        except RunstreamError:
            noticed += 1
            continue
        noticed += bool(problems)
        if in_row:
            wrong = {name: answer for name, answer in wrong.items() if name.split()[0] not in LISTS}
            assert not wrong, (at, wrong, problems)
        assert problems or not wrong, (at, wrong)
    assert noticed > 20
