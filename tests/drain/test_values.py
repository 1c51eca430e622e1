"""P9 by value: an archive holds what Redis has, whoever wrote its text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import DrainWorker, PAEvent
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.commands import QUIET, Place
from tests.support.drain_tools import Hooked, Hot, first_hot, open_archives, open_hot, parked
from tests.support.mortal import Killed
from tests.support.other_texts import rewrite
from tests.support.samples import RICH_VALUES, make_event, make_state, same
from tests.support.servers import DEADLINE_SECONDS, needs_server

TAGS = {f"tag {n}" for n in range(40)}
KINDS = {"sqlite": slice(1), "jsonl": slice(1, 2), "both": slice(2)}


@pytest.fixture
def hot(fake: RedisBackend) -> Hot:
    return open_hot(fake)


def fill(hot: Hot) -> list[PAEvent]:
    """A run with all values in its events and its states; all of it may be trimmed."""
    payloads: list[dict[str, Any]] = [{"value": value} for value in RICH_VALUES.values()]
    payloads += [{"n": 1, "x": 1e16}, {"tags": TAGS, "in": [frozenset({(frozenset(TAGS), 1)})]}]
    events = [make_event("r", seq, payload=payload) for seq, payload in enumerate(payloads, 1)]
    hot.save_events(events[:-1])
    hot.append("r", events[-1:], keys=["the key"])
    state = make_state("r")
    state.data.update(RICH_VALUES, tags=TAGS)
    hot.save_snapshot("r", state)
    hot.save_snapshot("r", state, lane_id="main")
    return events


def opened_anew(directory: Path, kinds: str) -> list[Archive]:
    """The archives as another process finds them."""
    return open_archives(directory)[KINDS[kinds]]


def archive_unsettled(hot: Hot, archives: Sequence[Archive]) -> None:
    """A worker is killed when all is committed, and nothing proven."""

    def die(*_: Any) -> None:
        raise Killed

    with pytest.raises(Killed):
        DrainWorker(hot, [*archives[:-1], Hooked(archives[-1], read_back=die)], trim="archived").drain_once()
    assert first_hot(hot, "r") == 1


def check_is_settled(hot: Hot, archives: Sequence[Archive], events: Sequence[PAEvent]) -> None:
    assert parked(hot) == {}
    assert first_hot(hot, "r") == len(events) + 1
    assert verify_run("r", hot=hot, sinks=archives).difference is None
    for archive in archives:
        assert same([one.event for one in archive.read("r")], list(events))


@pytest.mark.parametrize("kinds", KINDS)
def test_what_somebody_else_has_spelled_otherwise_is_proven(hot: Hot, tmp_path: Path, kinds: str) -> None:
    """A worker was killed between commit and settling, and another process had sets in another order."""
    events = fill(hot)
    archive_unsettled(hot, opened_anew(tmp_path, kinds))
    for archive in opened_anew(tmp_path, kinds):
        rewrite(archive)
    archives = opened_anew(tmp_path, kinds)
    assert verify_run("r", hot=hot, sinks=archives).difference is None
    assert DrainWorker(hot, archives, trim="archived").drain_once().parked == 0
    check_is_settled(hot, archives, events)


@pytest.mark.parametrize("kinds", KINDS)
def test_what_was_put_back_is_proven_by_value(hot: Hot, tmp_path: Path, kinds: str) -> None:
    """Restored from texts of another spelling, drained to where these are, and verified."""
    events = fill(hot)
    DrainWorker(hot, opened_anew(tmp_path, kinds), trim="archived").drain_once()
    for archive in opened_anew(tmp_path, kinds):
        rewrite(archive)
    saved = hot.load_snapshot("r")
    assert saved is not None
    for source in opened_anew(tmp_path, kinds):
        assert hot.delete_run("r")
        put_back(hot, source, "r", whole=True)
        archives = opened_anew(tmp_path, kinds)
        assert verify_run("r", hot=hot, sinks=archives).difference is None
        assert same([one.event for one in hot.read("r")], events)
        report = DrainWorker(hot, archives, trim="archived").drain_once()
        assert (report.events, report.parked) == (len(events), 0)
        check_is_settled(hot, archives, events)
        for store in (hot, *archives):
            snapshot = store.load_snapshot("r", lane_id="main")
            assert snapshot is not None
            assert same(snapshot.state.data, saved.state.data)


_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from runstream import DrainWorker, connect
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from tests.support.drain_tools import open_archives

hot, archives = connect(sys.argv[1]), open_archives(Path(sys.argv[2]))
drain = DrainWorker(hot, archives, trim="archived").drain_once
found = [verify_run("r", hot=hot, sinks=archives).difference, drain().parked]
for archive in archives:
    hot.delete_run("r")
    put_back(hot, archive, "r", whole=True)
    found += [verify_run("r", hot=hot, sinks=archives).difference, drain().parked]
print(found)
"""


@needs_server
def test_every_process_proves_what_any_other_has_written(tmp_path: Path) -> None:
    """Under whatever hash seed: what was committed and not settled, what was settled, what was put back."""
    with closing(Place(tmp_path)) as place:
        events = fill(place.store)
        archive_unsettled(place.store, open_archives(tmp_path))
        for hash_seed in ("1", "2"):
            done = subprocess.run(
                [sys.executable, "-c", _ANOTHER_PROCESS, place.url, str(tmp_path)],
                env={**QUIET, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                timeout=DEADLINE_SECONDS,
                check=False,
            )
            assert (done.stdout, done.stderr) == ("[None, 0, None, 0, None, 0]\n", "")
        check_is_settled(place.store, open_archives(tmp_path), events)


_OTHER_VALUES: dict[str, Callable[[str], str]] = {
    "of a set": lambda text: text.replace('"tag 7"', '"tag 70"'),
    "of a number's type": lambda text: text.replace('"n":1,', '"n":1.0,'),
    "of a float": lambda text: text.replace('"x":1e+16', '"x":10000000000000001').replace(
        '"x":1e16', '"x":10000000000000001'
    ),
}


@pytest.mark.parametrize("kinds", ["sqlite", "jsonl"])
@pytest.mark.parametrize("other", _OTHER_VALUES)
def test_another_value_is_no_spelling(hot: Hot, tmp_path: Path, kinds: str, other: str) -> None:
    fill(hot)
    archive_unsettled(hot, opened_anew(tmp_path, kinds))
    rewrite(opened_anew(tmp_path, kinds)[0], _OTHER_VALUES[other])
    assert DrainWorker(hot, opened_anew(tmp_path, kinds), trim="archived").drain_once().parked == 1
    assert "does not hold event" in parked(hot)["r"]
    assert first_hot(hot, "r") == 1
