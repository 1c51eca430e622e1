"""An import that is broken off, repeated, or meets others: nothing comes in twice, nothing is written over."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from purpose_agent.runtime import state as their_state

from runstream import (
    StoreUnavailable,
    connect,
)
from runstream.integrations.purpose_agent.directory import open_source
from runstream.integrations.purpose_agent.source import SourceSnapshot
from tests.integrations.purpose_agent.sources import (
    Theirs,
    fill,
    footprint,
    import_,
    importing_all,
    numbers,
    result_of,
)
from tests.support.samples import make_event, make_events, make_state

pytestmark = pytest.mark.one_in(2)


def test_a_second_import_changes_nothing_and_a_third_adds_what_is_new(source: Theirs, url: str) -> None:
    fill(source, "r", 7)
    source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r", current_step=1))
    before = footprint(source.path)
    assert result_of(import_(source.path, url, "--json"))["added"] == 7
    with connect(url) as store:
        info, snapshot, cursors = (
            store.run_info("r"),
            store.load_snapshot("r"),
            [e.cursor for e in store.read("r")],
        )
        again = result_of(import_(source.path, url, "--json"))
        assert (again["there"], again["added"], again["snapshots"], again["refused"]) == (7, 0, 0, "")
        assert footprint(source.path) == before, "the source was changed"
        assert (store.run_info("r"), store.load_snapshot("r")) == (info, snapshot)
    fill(source, "r", 3, first=8)
    source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r", current_step=2))
    third = result_of(import_(source.path, url, "--json"))
    assert (third["there"], third["added"], third["snapshots"]) == (7, 3, 1)
    assert numbers(url) == list(range(1, 11))
    with connect(url) as store:
        assert [item.cursor for item in store.read("r", before=8)] == cursors
        snapshot = store.load_snapshot("r")
        assert snapshot is not None
        assert (snapshot.state.current_step, snapshot.offset) == (2, 10)
    fill(source, "r", 1, first=11)  # and no other state
    fourth = result_of(import_(source.path, url, "--json"))
    assert (fourth["added"], fourth["snapshots"]) == (1, 0)


class Failing:
    """A store that cannot be reached any more after so many appends; of the last, nobody knows whether it was."""

    def __init__(self, store: Any, appends: int, *, applied: bool) -> None:
        self._append = store.append
        self._left = appends
        self._applied = applied
        store.append = self

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise StoreUnavailable("gone")
        done = self._append(*arguments, **options)
        if self._left == 0 and self._applied:
            raise StoreUnavailable("the reply was lost")
        return done


@pytest.mark.exhaustive
@pytest.mark.one_in(16, exhaustively=2)
@pytest.mark.parametrize("appends", [0, 1, 2, 3])
@pytest.mark.parametrize("applied", [False, True])
def test_an_import_that_is_broken_off_goes_on_where_it_was(
    source: Theirs, url: str, appends: int, applied: bool
) -> None:
    if appends == 0 and applied:
        return
    fill(source, "r", 1250)
    source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r", current_step=5))
    with connect(url, state_type=dict) as store, open_source(source.path) as opened:
        Failing(store, appends, applied=applied)
        if applied or appends < 3:
            with pytest.raises(StoreUnavailable):
                importing_all(store, opened)
    said = import_(source.path, url, "--json")
    assert said.code == 0, said.err
    assert result_of(said)["there"] == [0, 500, 1000, 1250][appends] or appends == 3
    assert numbers(url) == list(range(1, 1251))
    with connect(url) as store:
        snapshot = store.load_snapshot("r")
        assert snapshot is not None
        assert (snapshot.offset, snapshot.revision, snapshot.state.current_step) == (1250, 1, 5)


@pytest.mark.exhaustive
@pytest.mark.one_in(8)
def test_two_imports_at_once_do_not_mix(source: Theirs, url: str) -> None:
    fill(source, "r", 1250)
    together = threading.Barrier(2)
    refused: list[str] = []

    def work() -> None:
        with connect(url, state_type=dict) as store, open_source(source.path) as opened:
            together.wait()
            refused.extend(each.refused for each in importing_all(store, opened))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # one of them at least was refused at some place, unless it came when the other had done
    assert len(refused) == 2
    assert import_(source.path, url).code == 0
    assert numbers(url) == list(range(1, 1251))


@pytest.mark.exhaustive
@pytest.mark.one_in(4)
def test_whoever_comes_in_between_is_not_written_over(source: Theirs, url: str) -> None:
    fill(source, "r", 1250)
    with connect(url, state_type=dict) as store, open_source(source.path) as opened, connect(url) as other:
        append, calls = store.append, []

        def append_and_be_overtaken(*arguments: Any, **options: Any) -> Any:
            done = append(*arguments, **options)
            calls.append(done)
            other.append("r", [make_event("r", 9, payload={"n": -1})])
            return done

        store.append = append_and_be_overtaken  # type: ignore[method-assign]  # between two of its appends
        (done,) = importing_all(store, opened)
    assert "stands at offset 501, not 500" in done.refused
    assert numbers(url) == [*range(1, 501), -1]
    said = import_(source.path, url, "--json")
    assert said.code == 1
    assert "has other events up to offset 501" in result_of(said)["refused"]
    assert "run 'r'" in said.err


# -- beside what is there ------------------------------------------------------------------------------


def test_a_run_with_other_events_is_left_alone_and_the_others_are_imported(source: Theirs, url: str) -> None:
    fill(source, "r", 5)
    fill(source, "other", 2)
    with connect(url) as store:
        store.append("r", make_events("r", 2))
        store.append("r", make_events("r", 9))
    said = import_(source.path, url, "--json")
    assert said.code == 1
    assert "run 'r' is in the store already" in result_of(said)["refused"]
    assert result_of(said, "other")["added"] == 2
    assert len(numbers(url)) == 11
    assert numbers(url, "other") == [1, 2]


def test_a_run_that_has_gone_on_in_the_store_is_left_as_it_is(source: Theirs, url: str) -> None:
    fill(source, "r", 5)
    source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r", current_step=1))
    assert import_(source.path, url).code == 0
    with connect(url) as store:
        store.recover("r")
        store.append("r", make_events("r", 2, first=6), snapshot=make_state("r", current_step=7))
    said = import_(source.path, url, "--json")
    assert (said.code, result_of(said)["there"], result_of(said)["snapshots"]) == (0, 5, 0)
    with connect(url) as store:
        state = store.load_latest("r")
        assert state is not None
        assert state.current_step == 7


def _saved_at(source: Theirs) -> float:
    """When the one state of the one run of a source was saved there: Unix time in seconds."""
    with open_source(source.path) as opened:
        (run,) = opened.runs()
        assert list(run.events())
        (state,) = run.snapshots()
    assert isinstance(state, SourceSnapshot)
    return state.saved_at


@pytest.mark.parametrize("is_newer", [False, True])
def test_of_two_states_the_newer_one_stays(source: Theirs, url: str, is_newer: bool) -> None:
    fill(source, "r", 2)
    source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r", current_step=1))
    assert import_(source.path, url).code == 0
    with connect(url) as store:
        store.save_snapshot("r", make_state("r", current_step=7))
        info = store.run_info("r")
    assert info is not None
    if is_newer:
        # a file's time is the system's last tick, which may lie before the time that the store gave its state
        while _saved_at(source) <= info.updated_at:
            source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r", current_step=8))
    said = import_(source.path, url, "--json")
    assert (said.code, result_of(said)["snapshots"]) == (0, int(is_newer))
    with connect(url) as store:
        state = store.load_latest("r")
        assert state is not None
        assert state.current_step == (8 if is_newer else 7)
