"""What a worker logs: a line for each minute of work, and one for what somebody has to act on."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from runstream import DrainWorker
from runstream.drain import tally
from tests.support.backends import RedisBackend
from tests.support.drain_tools import due, emit, open_archives, open_hot, running
from tests.support.servers import eventually


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[logging.LogRecord]:
    return [one for one in caplog.records if one.levelno == level and one.name == "runstream.drain"]


def test_a_minute_of_work_is_one_line_with_what_was_done_in_it(
    fake: RedisBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many batches there were; and an idle worker says nothing."""
    caplog.set_level(logging.DEBUG, "runstream.drain")
    hot = open_hot(fake)
    emit(hot, "r", 50)
    worker = DrainWorker(hot, open_archives(tmp_path), batch=5, trim="archived", poll_seconds=0.01, name="w")
    with running(worker):
        eventually(lambda: due(hot) == {})
        eventually(lambda: len(lines(caplog, logging.DEBUG)) == 10)
        assert lines(caplog, logging.INFO) == []
        monkeypatch.setattr(tally, "_SECONDS", 0.01)  # the minute is over
        eventually(lambda: lines(caplog, logging.INFO))
        beat = worker.progress.last_beat
        eventually(lambda: worker.progress.last_beat > beat)
        (line,) = lines(caplog, logging.INFO)
    assert line.getMessage().startswith("drain w: 1 run, 50 events, 50 trimmed in")
    assert vars(line)["events"] == vars(line)["trimmed"] == 50
