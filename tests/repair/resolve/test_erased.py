"""Two histories of one run of which content was erased: what is gone stays gone, whichever of them is kept."""

from __future__ import annotations

import pytest

from runstream.model.erasures import ErasureNote, spans_of
from runstream.repair.resolve import Keep
from runstream.repair.verify import verify_run
from runstream.stores.capabilities import ErasesContent, part_of
from tests.repair.resolve.world import KEEPS, World, emit
from tests.support.operations import operations_of


@pytest.mark.parametrize("keep", KEEPS)
def test_what_was_erased_of_the_archives_history_stays_so(world: World, keep: Keep) -> None:
    """Of what both have, and of what Redis has lost; a branch keeps the offset, with nothing in it."""
    emit(world.hot, "r", 3)
    world.drain()
    behind = world.remember()
    emit(world.hot, "r", 3, first=4)
    world.drain()
    for archive in world.archives:
        eraser = part_of(archive, ErasesContent)
        assert eraser is not None
        eraser.erase_offsets(operations_of(archive).header("r"), ErasureNote(1.0, spans_of([2, 5])))
        assert eraser.where_erased().done
    world.come_back(behind)
    world.hot = world.open()
    emit(world.hot, "r", 2, first=7)
    done = world.resolve(keep)
    assert done.unreadable == (1 if keep == "both" else 0)
    for archive in world.archives:
        whole = {
            "archive": [1, 3, 4, 6],
            "redis": [1, 3],
            "both": [1, 3],
        }[keep]
        assert [item.offset for item in archive.read("r")][: len(whole)] == whole
        for name in done.branches:
            if keep != "archive":
                assert [item.offset for item in archive.read(name)] == [4, 6]
            assert verify_run(name, sinks=[archive]).difference is None
    if keep == "archive":
        assert [item.offset for item in world.open().read("r", 4)] == [6]
