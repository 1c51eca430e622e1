"""Whoever wants the first runs of a file does not wait for the list of all."""

from __future__ import annotations

from tests.stores.archive.sqlite.database import Archive
from tests.support.samples import make_event


def test_the_first_runs_are_given_before_all_are_read(archive: Archive) -> None:
    run_ids = [f"r{number}" for number in range(120)]
    for run_id in run_ids:
        archive.save_event(make_event(run_id, 1))
    listed = archive.runs()
    first = next(listed)
    archive.delete_run("r3")  # what is read later is as it is then
    rest = [info.run_id for info in listed]
    assert [first.run_id, *rest] == [run_id for run_id in reversed(run_ids) if run_id != "r3"]
