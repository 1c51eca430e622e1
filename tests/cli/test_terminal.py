"""Nothing that others wrote reaches a terminal as anything but text: names, reasons, places, errors, headings."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.panel import Panel
from rich.text import Text

from runstream import DrainWorker, SQLiteCheckpointer, connect
from runstream.cli.support.output import console, make_table
from tests.support.commands import Place, Said, run
from tests.support.samples import make_event, make_state

EVIL = "e\x1b[31mv\x9b2Ji\x07l\u202e"
SHOWN = "e\\x1b[31mv\\x9b2Ji\\x07l\\u202e"


def check(said: Said) -> Said:
    """All of it is printable, and one line after the other."""
    for text in (said.out, said.err):
        assert all(char.isprintable() or char == "\n" for char in text), ascii(text)
    return said


def fill(store: Any) -> None:
    events = [
        make_event(
            EVIL,
            1,
            kind=EVIL,
            lane_id=EVIL,
            session_id=EVIL,
            payload={EVIL: EVIL},
        ),
        make_event(EVIL, 2, lane_id=EVIL),
    ]
    state = make_state(EVIL, current_node=EVIL, data={EVIL: EVIL})
    store.append(EVIL, events, snapshot=state, lane_id=EVIL)
    store.append(EVIL, [make_event(EVIL, 1)], snapshot=state)


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_what_is_in_an_archive(tmp_path: Path, kind: str) -> None:
    """Its location too."""
    place = tmp_path / EVIL
    place.mkdir()
    url = f"{kind}:{place}/archive"
    with connect(url) as store:
        fill(store)
    shown = check(run("show", EVIL, "--url", url))
    assert f"state of lane {SHOWN}" in shown.out
    assert shown.code == 0
    for arguments in (
        ["runs"],
        ["runs", "--session", EVIL],
        ["status"],
        ["show", EVIL, "--lane", EVIL, "--at", "3"],
        ["show", f"{EVIL}?"],
        ["quarantine"],
        ["verify", "--archive", url],
        ["export", EVIL, "--to", f"{place}/exported.jsonl"],
        ["export", f"{EVIL}?", "--to", f"{place}/none.jsonl"],
        ["import", "--from", url, "--to", f"sqlite:{place}/other.db"],
        ["import", "--from", f"sqlite:{place}/none.db", "--to", url],
        ["tail", EVIL, "--idle-timeout", "0.1"],
        ["runs", "--url", f"sqlite:{place}/none.db"],
    ):
        given = [] if "--url" in arguments or arguments[0] in {"verify", "import"} else ["--url", url]
        check(run(*arguments, *given))


def test_what_is_in_redis(place: Place) -> None:
    """Of workers, parked runs and their reasons, archives and their places."""
    directory = place.directory / EVIL
    directory.mkdir()
    to = f"sqlite:{directory}/a.db"
    fill(place.store)
    place.store.append("gap", [make_event("gap", 1, lane_id=EVIL)])
    assert check(run("drain", "--url", place.url, "--to", to, "--once", "--name", EVIL)).code == 0
    with SQLiteCheckpointer[Any, Any](directory / "a.db") as archive:
        archive.delete_run(EVIL)
        fill(place.store)
        DrainWorker(place.store, [archive], name=EVIL).drain_once()
    status = check(run("status", "--url", place.url, "--archive", to))
    assert status.code == 0
    assert status.out.count(SHOWN) >= 3  # the archive, the worker, the parked run
    for arguments in (
        ["runs"],
        ["show", EVIL, "--archive", to],
        ["tail", EVIL, "--archive", to, "--idle-timeout", "0"],
        ["tail", EVIL, "--idle-timeout", "0"],
        ["tail", f"{EVIL}?"],
        ["archives"],
        ["archives", "add", f"sqlite:{directory}/none.db"],
        ["verify", "--archive", to],
        ["verify", EVIL],
        ["unpark", EVIL],
        ["unpark", f"{EVIL}?"],
        ["resolve", EVIL, "--archive", to],
        ["restore", EVIL, "--archive", to],
        ["drain", "--to", to, "--once", "--log-level", "debug"],
        ["drain", "--to", f"sqlite:{directory}", "--once"],
        ["status", "--archive", f"sqlite:{directory}/none.db"],
    ):
        check(run(*arguments, "--url", place.url))


def test_whatever_is_printed_at_a_terminal() -> None:
    """A console's own controls and colours stay; a heading, a title, a text in a panel: text."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    screen = console(out)
    screen.print(EVIL)
    screen.print(Text(EVIL, style="red"))
    screen.print(Panel(EVIL, title=EVIL, subtitle=EVIL))
    screen.print(make_table([EVIL], [[EVIL]], title=EVIL))
    printed = out.getvalue()
    assert "\x9b" not in printed
    assert "\x07" not in printed
    assert "\u202e" not in printed
    assert "\x1b[31mv" not in printed
    assert printed.count(SHOWN.partition("\\x07")[0]) >= 7  # rich drops some control characters itself
