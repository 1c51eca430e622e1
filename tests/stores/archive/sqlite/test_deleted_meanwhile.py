"""A run of an archive that is deleted while somebody reads it. A JSONL archive says that its file is another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runstream import AcknowledgedWritesLost, SQLiteCheckpointer
from tests.support.operations import operations_of
from tests.support.samples import make_events


@pytest.mark.parametrize(("again", "after"), [(0, "cursor"), (1, "beginning")])
def test_a_reader_of_a_run_that_is_deleted_after_the_first_look_at_it_is_told(
    again: int, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not that another program had changed the archive."""
    with SQLiteCheckpointer(tmp_path / "runs.db") as store, SQLiteCheckpointer(tmp_path / "runs.db") as other:
        store.save_events(make_events("r", 3))
        cursor = [item.cursor for item in store.read("r")][1]
        operations = operations_of(store)
        entries = operations._entries

        def deleted(*args: Any, **options: Any) -> Any:
            if other.delete_run("r"):
                monkeypatch.undo()
                other.save_events(make_events("r", again))
            return entries(*args, **options)

        monkeypatch.setattr(operations, "_entries", deleted)
        with pytest.raises(AcknowledgedWritesLost) as caught:
            list(store.read("r", cursor if after == "cursor" else 0))
        assert caught.value.last_present == again
