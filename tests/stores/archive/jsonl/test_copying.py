"""A log that gets a copy of what its run had shared has all of it in the end, whoever dies in between."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runstream import JSONLCheckpointer
from runstream.codec.archive_entries import renamed
from runstream.model.archive_records import ArchiveEntry
from runstream.model.run_head import Origin
from runstream.stores.archive import integrity
from runstream.stores.capabilities import MakesWhole, part_of
from tests.stores.archive.test_erasing import dying, is_sound
from tests.support.mortal import Killed
from tests.support.operations import operations_of
from tests.support.samples import make_event, make_events

AT = 4


def offsets(archive: Any) -> list[int]:
    return [item.offset for item in archive.read("f")]


def rest_in(archive: Any) -> list[ArchiveEntry]:
    """What ``f`` had shared, as its own."""
    return [renamed(entry, "f") for entry in operations_of(archive).read_back("r", 1, AT)]


@pytest.mark.parametrize("is_known", [True, False], ids=["a fork there", "not there"])
def test_a_log_is_made_whole_again_after_any_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    """As the fork that it was, or as far as it was copied, it is read and goes on; the same call finishes it."""
    monkeypatch.setattr(integrity, "_PAGE", 2)  # many pages
    with closing(JSONLCheckpointer[Any, Any](tmp_path / "made")) as archive:
        archive.append("r", make_events("r", 6), keys=["a", None, "c", None, "e", None])
        archive.fork("r", "f", at=AT)
        header = operations_of(archive).header("f")
        base = operations_of(archive).header("r").before_first
        if is_known:
            archive.append("f", [make_event("f", 50), make_event("f", 51)], keys=["own", None])
        else:
            archive.delete_run("f")
    whole = replace(header, parent=None, parent_identity=0, base=base, origins=(Origin(AT, "r"),))
    point, died, seen = 0, True, set()
    while died:
        point += 1
        shutil.copytree(tmp_path / "made", directory := tmp_path / str(point))
        with closing(JSONLCheckpointer[Any, Any](directory)) as archive:
            rest = rest_in(archive)
            died = False
            with monkeypatch.context() as patched:
                dying(patched, point)
                try:
                    part_of(archive, MakesWhole).make_whole(whole, () if is_known else rest)  # type: ignore[union-attr]
                except Killed:
                    died = True
        with closing(JSONLCheckpointer[Any, Any](directory)) as again:
            found = offsets(again)
            all_of_it = [*range(1, AT + 1), *((AT + 1, AT + 2) if is_known else ())]
            assert found == (all_of_it if is_known else all_of_it[: len(found)])
            info = again.run_info("f")
            seen.add(info is None or info.parent is not None or found != all_of_it)
            rest = rest_in(again)
            part_of(again, MakesWhole).make_whole(whole, () if is_known else rest)  # type: ignore[union-attr]
            assert offsets(again) == all_of_it
            assert again.find("f", ["a", "c", "e"]) == [1, 3, None]
            is_sound(again, "f", "r")
            again.delete_run("r")
            again.append("f", [make_event("f", 52)])
            assert offsets(again) == [*all_of_it, all_of_it[-1] + 1]
            assert {path.name for path in (directory / "f").iterdir()} <= {"events.jsonl", "snapshots.jsonl"}
            is_sound(again, "f")
    assert seen == {True, False}
    assert point > 8
