"""A run is named by its id, or by a beginning of it that no other run has, in every command that takes one."""

from __future__ import annotations

import pytest

from runstream import DrainWorker, InMemoryCheckpointer, InvalidRunId, SQLiteCheckpointer
from runstream.cli.support.exit_codes import AmbiguousRun, ExitCode, NoSuchRun, exit_code_of
from runstream.cli.support.run_names import find_run, run_named
from tests.support.commands import Place, put_damaged, run
from tests.support.samples import make_event

RUNS = ["order-1", "order-12", "order-2", "orders", "trip"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        *((run_id, run_id) for run_id in RUNS),  # itself, though others begin so
        ("t", "trip"),
        ("orders", "orders"),
        ("order-12", "order-12"),
        ("tri…", "trip"),  # as a table has it that was cut
    ],
)
def test_a_beginning_that_one_run_has_is_that_run(given: str, found: str) -> None:
    store: InMemoryCheckpointer = InMemoryCheckpointer()
    for run_id in RUNS:
        store.save_event(make_event(run_id, 1))
    assert find_run(given, RUNS, "unknown") == run_named(store, given) == found


def test_a_beginning_that_several_have_names_them() -> None:
    with pytest.raises(
        AmbiguousRun, match=r"3 runs begin with 'order-': 'order-1', 'order-12', 'order-2'; "
    ) as caught:
        find_run("order-", RUNS, "unknown")
    assert exit_code_of(caught.value) is ExitCode.USAGE
    with pytest.raises(AmbiguousRun, match=r"20 runs .* 'r109', …; name more"):
        find_run("r", [f"r{number}" for number in range(100, 120)], "unknown")


def test_what_no_run_begins_with_is_said() -> None:
    store: InMemoryCheckpointer = InMemoryCheckpointer()
    store.save_event(make_event("trip", 1))
    with pytest.raises(NoSuchRun, match=r"^there is no run 'trap' in this store; `runstream runs` lists"):
        run_named(store, "trap")
    with pytest.raises(NoSuchRun, match=r"^unknown$"):
        find_run("trap", ["trip"], "unknown")
    with pytest.raises(InvalidRunId):
        run_named(store, "")


def test_every_command_that_takes_a_run_takes_its_beginning(place: Place) -> None:
    """And says which runs begin so where that are several, before it does anything."""
    for run_id in ("order-1", "order-2", "trip"):
        place.emit(run_id, 2)
    put_damaged(place, "trip")
    with SQLiteCheckpointer(place.sqlite.removeprefix("sqlite:")) as archive:
        DrainWorker(place.store, [archive], trim="never").drain_once()
    hot, cold = ["--url", place.url], ["--url", place.sqlite]
    copied = f"sqlite:{place.directory}/copy.db"
    for arguments in (
        ["show", "RUN", *hot],
        ["show", "RUN", *cold],
        ["tail", "RUN", *hot, "--lines", "0", "--idle-timeout", "0"],
        ["export", "RUN", *hot, "--to", f"{place.directory}/out.jsonl", "--skip-corrupt"],
        ["resolve", "RUN", *hot],
        ["quarantine", "list", "RUN", *cold],
        ["quarantine", "show", "RUN", "3", *cold],
        ["restore", "RUN", "--from", place.sqlite, "--to", place.url],
        ["verify", "RUN", *hot, "--archive", place.sqlite],
        ["import", f"{place.directory}/a.db", "--run", "RUN", "--url", copied],
    ):
        said = run(*("tr" if part == "RUN" else part for part in arguments))
        assert said.code in {0, 1}, said.err
        assert "trip" in said.out + said.err, arguments
        several = run(*("order" if part == "RUN" else part for part in arguments))
        none = run(*("none" if part == "RUN" else part for part in arguments))
        assert (none.code, none.out) == (4, "")
        if arguments[0] != "quarantine":  # it has records of one run
            assert (several.code, several.out) == (2, "")
            assert "'order-1', 'order-2'" in several.err
    said = run("unpark", "order", *hot)
    assert (said.code, said.out) == (4, ""), "none is parked"
