"""``runstream tail``: what it shows, where it begins, how it ends, and what it does in an outage."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

import pytest

from runstream import DrainWorker, EventKind, connect
from runstream.cli.tail import lane_style
from runstream.codec.lossless_json import load_json
from runstream.testing import FaultProxy
from tests.support.commands import QUIET, Place, command, put_damaged, run
from tests.support.processes.template import Python
from tests.support.samples import make_event, make_events
from tests.support.servers import DEADLINE_SECONDS, PROGRAMS, eventually, needs_server, primary_and_replica

pytestmark = needs_server


class Tail:
    """``runstream tail …`` as a process; a context manager that ends it if it still runs."""

    def __init__(self, *arguments: str) -> None:
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.process = Python(
            command("tail", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=QUIET,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines))
            for stream, lines in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, lines: list[str]) -> None:
        lines.extend(line.rstrip("\n") for line in stream)

    @property
    def offsets(self) -> list[int]:
        return [offset_in(line) for line in self.lines]

    def shows(self, count: int) -> None:
        """Wait until so many lines are there."""
        eventually(lambda: len(self.lines) >= count or self.process.poll() is not None)
        assert len(self.lines) >= count, self.errors

    def has_said(self, count: int) -> None:
        """Wait until it has said so many things besides the lines."""
        eventually(lambda: len(self.errors) >= count)

    def end(self) -> int:
        """Wait for its end; gives its exit code."""
        code = self.process.wait(DEADLINE_SECONDS)
        for reader in self._readers:
            reader.join(DEADLINE_SECONDS)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.end()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def offset_in(line: str) -> int:
    return int(json.loads(line)["offset"]) if line.startswith("{") else int(line.split()[1])


def finish(place: Place, run_id: str = "r") -> None:
    place.store.save_event(make_event(run_id, 99, kind=EventKind.RUN_FINISHED))


def ended(place: Place, count: int = 30) -> None:
    """A run of so many events and one that ends it, in two lanes: the odd ones are of lane b."""
    events = [make_event("r", seq, lane_id="ab"[seq % 2], kind=f"kind{seq % 3}") for seq in range(1, count + 1)]
    place.store.save_events(events)
    finish(place)


def shown(place: Place, *options: str) -> list[int]:
    said = run("tail", "r", "--url", place.url, *options)
    assert said.code == 0, said.err
    return [offset_in(line) for line in said.out.splitlines()]


# -- what it shows, and where it begins


def test_a_line_has_time_offset_lane_seq_kind_and_payload(place: Place) -> None:
    place.store.save_event(make_event("r", 7, lane_id="planner", ts=1.5, kind="k", payload={"a": [1, "\x1b[2J"]}))
    finish(place)
    date, first, *_ = run("tail", "r", "--url", place.url).out.splitlines()
    assert date == "1970-01-01 UTC"
    assert first.split(maxsplit=5) == ["00:00:01.500", "1", "planner", "7", "k", 'a=[1, "\\u001b[2J"]']


def test_json_holds_all_of_an_event(place: Place) -> None:
    """Each on a line of its own, from which it comes back equal, values that JSON has no type for included."""
    event = make_event("r", 1, payload={"body": b"\x00\xff", "pair": (1, float("nan")), "text": "a\nb"})
    place.store.save_event(event)
    finish(place)
    lines = run("tail", "r", "--url", place.url, "--json").out.splitlines()
    recorded = list(place.store.read("r"))
    assert [json.loads(line)["cursor"] for line in lines] == [item.cursor for item in recorded]
    found = load_json(lines[0])
    assert {"offset", "cursor"} | recorded[0].event.to_dict().keys() == found.keys()
    assert (found["payload"]["body"], found["payload"]["text"]) == (b"\x00\xff", "a\nb")
    assert repr(found["payload"]["pair"]) == "(1, nan)"


def test_it_begins_with_the_last_ten(place: Place) -> None:
    ended(place)
    assert shown(place) == list(range(22, 32))
    assert shown(place, "--lines", "3") == [29, 30, 31]
    assert shown(place, "-n", "31") == shown(place, "-n", "99") == list(range(1, 32))
    assert shown(place, "--lines", "0") == []


def test_lines_are_counted_of_what_is_shown(place: Place) -> None:
    ended(place)
    assert shown(place, "--lane", "b", "-n", "2") == [27, 29]
    assert shown(place, "--kind", "kind0", "-n", "2") == [27, 30]
    assert shown(place, "--kind", "kind0", "--kind", "kind1", "--lane", "a", "-n", "3") == [22, 24, 28, 30][-3:]


def test_a_viewer_is_shown_what_he_may_see(place: Place) -> None:
    for seq, visibility in enumerate(["public", "internal", "debug"], 1):
        place.store.save_event(make_event("r", seq, visibility=visibility))
    finish(place)
    assert shown(place, "--visibility", "public") == [1, 4]
    assert shown(place, "--visibility", "internal") == [1, 2, 4]
    assert shown(place, "--visibility", "debug") == [1, 2, 3, 4]


def test_since_is_an_offset_a_cursor_or_an_age(place: Place) -> None:
    ended(place)
    cursor = list(place.store.read("r", limit=5))[-1].cursor
    assert shown(place, "--since", "5") == shown(place, "--since", cursor) == list(range(6, 32))
    assert shown(place, "--since", "0") == shown(place, "--since", "2h") == list(range(1, 32))
    assert shown(place, "--since", "5", "--lines", "2") == [30, 31]
    assert shown(place, "--since", "29", "--lines", "20") == [30, 31]


def test_an_age_goes_back_to_the_first_event_that_is_older(place: Place) -> None:
    now = make_event("r").ts
    place.store.save_events([make_event("r", seq, ts=now - 3600 + 600 * seq) for seq in range(1, 6)])
    finish(place)
    assert shown(place, "--since", "25m") == [4, 5, 6]
    assert shown(place, "--since", "5s") == [6]


@pytest.mark.parametrize("since", ["yesterday", "1.5", "5-x", "-1-1", "10x", "²"])
def test_any_other_since_is_refused(place: Place, since: str) -> None:
    ended(place, 1)
    said = run("tail", "r", "--url", place.url, f"--since={since}")
    assert (said.code, said.out) == (2, "")


def test_a_cursor_of_another_history_ends_it_with_1(place: Place) -> None:
    ended(place)
    said = run("tail", "r", "--url", place.url, "--since", "5-1")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("runstream: error: ")


def test_an_archive_is_followed_as_the_worker_fills_it(place: Place) -> None:
    place.emit("r", 2)
    with connect(place.sqlite) as archive:
        worker = DrainWorker(place.store, [archive])  # type: ignore[list-item]  # connect gives any store
        worker.drain_once()
        said = run("tail", "r", "--url", place.sqlite, "--idle-timeout", "0.1")
        assert (said.code, len(said.out.splitlines())) == (1, 2)
        place.emit("r", 1, first=3)
        finish(place)
        worker.drain_once()
        said = run("tail", "r", "--url", place.sqlite, "--since", "2")
        assert (said.code, len(said.out.splitlines())) == (0, 2)


@pytest.mark.parametrize("scheme", ["sqlite", "jsonl"])
def test_what_has_left_redis_is_shown_from_the_archive_or_said_to_be_there(place: Place, scheme: str) -> None:
    ended(place)
    url = getattr(place, scheme)
    with connect(url) as archive:
        DrainWorker(place.store, [archive], trim="archived").drain_once()  # type: ignore[list-item]  # connect gives any store
    assert shown(place, "--archive", url, "-n", "99") == list(range(1, 32))
    assert shown(place, "--archive", url, "--since", "20") == list(range(21, 32))
    said = run("tail", "r", "--url", place.url)
    assert (said.code, said.out) == (0, "")
    assert "offsets up to 31" in said.err
    said = run("tail", "r", "--url", place.url, "--since", "3")
    assert (said.code, said.out) == (1, "")


def test_a_record_that_does_not_read_is_said_and_holds_up_nothing(place: Place) -> None:
    place.emit("r", 2)
    put_damaged(place, "r")
    finish(place)
    said = run("tail", "r", "--url", place.url)
    assert said.code == 0
    assert [offset_in(line) for line in said.out.splitlines()] == [1, 2, 4]
    assert "offset 3 does not read" in said.err
    assert said.err.count("\n") == 1


# -- how it ends


def test_a_run_that_is_not_there_is_4_unless_it_is_waited_for(place: Place) -> None:
    said = run("tail", "r", "--url", place.url)
    assert (said.code, said.out) == (4, "")
    assert "--wait" in said.err
    with Tail("r", "--url", place.url, "--wait") as tail:
        place.emit("other", 1)
        place.emit("r", 3)
        tail.shows(3)
        finish(place)
        assert tail.end() == 0
        assert (tail.offsets, tail.errors) == ([1, 2, 3, 4], [])


def test_it_follows_until_the_run_has_ended(place: Place) -> None:
    place.emit("r", 12)
    with Tail("r", "--url", place.url, "--lines", "2") as tail:
        tail.shows(2)
        for seq in range(13, 20):
            place.emit("r", 1, first=seq)
            tail.shows(seq - 10)
        finish(place)
        assert tail.end() == 0
        assert (tail.offsets, tail.errors) == (list(range(11, 21)), [])


@pytest.mark.exhaustive
def test_only_what_is_new(place: Place) -> None:
    place.emit("r", 12)
    with Tail("r", "--url", place.url, "--lines", "0", "--json") as tail:
        # nothing tells that it has begun but what it does
        sent = 0
        while not tail.lines:
            sent += 1
            place.emit("r", 1, first=12 + sent)
        finish(place)
        assert tail.end() == 0
        assert tail.offsets == list(range(tail.offsets[0], 14 + sent))
        assert tail.offsets[0] > 12


def test_nothing_to_show_for_so_long_is_1(place: Place) -> None:
    place.emit("r", 3)
    said = run("tail", "r", "--url", place.url, "--idle-timeout", "0.2")
    assert (said.code, len(said.out.splitlines())) == (1, 3)
    assert "no event came in 0.2 seconds" in said.err


def test_events_that_are_not_wanted_do_not_count_against_an_idle_timeout(place: Place) -> None:
    place.emit("r", 3)
    stop = threading.Event()

    def emit() -> None:
        while not stop.wait(0.01):
            place.emit("r", 1)

    emitter = threading.Thread(target=emit)
    emitter.start()
    try:
        said = run("tail", "r", "--url", place.url, "--idle-timeout", "0.5", "--kind", "none")
        assert (said.code, said.out) == (1, "")
    finally:
        stop.set()
        emitter.join()


def test_ctrl_c_is_130(place: Place) -> None:
    place.emit("r", 3)
    with Tail("r", "--url", place.url) as tail:
        tail.shows(3)
        tail.process.send_signal(signal.SIGINT)
        assert tail.end() == 130
        assert "Traceback" not in "".join(tail.errors)


@pytest.mark.exhaustive
def test_it_ends_when_its_reader_has_gone_though_nothing_comes(place: Place) -> None:
    """As with `| head`; a write would tell only when the next event comes."""
    place.emit("r", 3)
    with Python(
        command("tail", "r", "--url", place.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=QUIET,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            for _ in range(3):
                process.stdout.readline()
            process.stdout.close()
            assert process.wait(DEADLINE_SECONDS) == 141
            assert process.stderr.read() == ""
        finally:
            process.kill()


# -- outages


@pytest.mark.exhaustive
def test_it_goes_on_through_an_outage_and_misses_and_repeats_nothing(place: Place) -> None:
    """Cut off again and again, while a writer that is not goes on."""
    place.emit("r", 5)
    with (
        FaultProxy(place.url) as proxy,
        Tail("r", "--url", f"{proxy.url}?retry_seconds=0.1", "--json") as tail,
    ):
        tail.shows(5)
        for number in range(4):
            proxy.refuse()
            proxy.cut()
            tail.has_said(2 * number + 1)
            place.emit("r", 50, first=6 + 50 * number)
            proxy.restore()
            tail.shows(5 + 50 * (number + 1))
            tail.has_said(2 * number + 2)
        finish(place)
        assert tail.end() == 0
        assert tail.offsets == list(range(1, 207))
        assert ["again" in line for line in tail.errors] == [True, True] * 4
        waits = [line for line in tail.errors if "waits until it answers again" in line]
        assert len(waits) == 4  # each outage is said once


@pytest.mark.exhaustive
def test_an_outage_is_said_once_however_long_it_lasts(place: Place) -> None:
    """Somebody else takes the calls, and hangs up."""
    place.emit("r", 3)
    address = Path(place.url.removeprefix("unix://"))
    elsewhere = address.with_name("elsewhere")
    with Tail("r", "--url", f"{place.url}?retry_seconds=0.05") as tail, socket.socket(socket.AF_UNIX) as deaf:
        tail.shows(3)
        deaf.bind(str(elsewhere))
        deaf.listen()
        deaf.settimeout(DEADLINE_SECONDS)
        address.unlink()
        address.symlink_to(elsewhere)
        place.node.raw.client_kill_filter(_type="normal", skipme=True)
        for _ in range(12):
            deaf.accept()[0].close()
        address.unlink()
        address.symlink_to(place.node.socket_path)
        place.emit("r", 2, first=4)
        finish(place)
        assert tail.end() == 0
        assert tail.offsets == [1, 2, 3, 4, 5, 6]
        assert ["again" in line for line in tail.errors] == [True, True], tail.errors


def test_history_that_was_lost_in_a_failover_ends_it_with_1() -> None:
    with primary_and_replica(next(iter(PROGRAMS))) as pair, connect(pair.url) as store:
        store.save_events(make_events("r", 3))
        with pair.losing():
            store.save_events(make_events("r", 2, first=4))
            tail = Tail("r", "--url", f"{pair.url}?retry_seconds=0.1")
            tail.shows(5)
        with tail:
            assert tail.end() == 1
            assert tail.offsets == [1, 2, 3, 4, 5]
            error = tail.errors[-1]
            assert error.startswith("runstream: error: ")
            assert "lost" in error or "forgot" in error
            assert " [runstream explain " in error


def test_nothing_is_missed_while_a_worker_trims_under_it(place: Place) -> None:
    place.emit("r", 20)
    with (
        connect(place.sqlite) as archive,
        Tail("r", "--url", place.url, "--archive", place.sqlite, "--since", "0") as tail,
    ):
        worker = DrainWorker(place.store, [archive], trim="archived")  # type: ignore[list-item]  # connect gives any store
        for number in range(1, 20):
            worker.drain_once()
            place.emit("r", 20, first=20 * number + 1)
        finish(place)
        worker.drain_once()
        assert tail.end() == 0, tail.errors
        assert (tail.offsets, tail.errors) == (list(range(1, 402)), [])


# -- at a terminal


def at_a_terminal(*arguments: str, **environment: str) -> str:
    """What a command writes to a terminal of 60 columns."""
    terminal, its_end = pty.openpty()
    process = Python(
        command(*arguments),
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        env={**QUIET, "TERM": "xterm", "COLUMNS": "60", **environment},
    )
    os.close(its_end)
    written = b""
    while select.select([terminal], [], [], DEADLINE_SECONDS)[0]:
        try:
            written += os.read(terminal, 65536)
        except OSError:  # as Linux says that nobody has it open any more
            break
    os.close(terminal)
    assert process.wait(DEADLINE_SECONDS) == 0
    return written.decode()


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="the end of a terminal is told as on Linux")
def test_a_lane_has_its_colour_at_a_terminal_and_nowhere_else(place: Place) -> None:
    lanes = ["planner", "searcher", "planner", "writer"]
    place.store.save_events([make_event("r", 1, lane_id=lane, payload={"n": "x" * 99}) for lane in lanes])
    finish(place)
    lines = at_a_terminal("tail", "r", "--url", place.url).splitlines()
    assert len(lines) == 5  # each event has one line, cut off where the terminal ends
    colours = [re.findall(r"\x1b\[(9?\d)m", line) for line in lines[:4]]
    assert colours[0] == colours[2]
    assert len({str(colour) for colour in colours}) == len({lane_style(lane) for lane in lanes})
    plain = at_a_terminal("tail", "r", "--url", place.url, NO_COLOR="1")
    assert "\x1b" not in plain
    assert len(plain.splitlines()) == 5


@pytest.mark.exhaustive
def test_text_is_joined_if_that_is_asked_for(place: Place) -> None:
    """Also that of a lane that has fallen silent."""
    texts = ["a", "b" * 99, "c"]
    place.store.save_events(
        [make_event("r", n, kind="text.delta", payload={"text": text}) for n, text in enumerate(texts)]
    )
    with Tail("r", "--url", place.url, "--join") as tail:
        eventually(lambda: len(tail.lines) == 1)
    assert tail.lines[0].endswith(f'text="{"".join(texts)}"')


def test_the_colour_of_a_lane_is_always_the_same() -> None:
    assert [lane_style(lane) for lane in ("main", "planner")] == ["bright_yellow", "red"]  # in any process
    assert len({lane_style(f"lane-{number}") for number in range(100)}) > 6
