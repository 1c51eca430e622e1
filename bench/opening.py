"""How soon a long run is open in the browser: a run of 1,000,000 events of an archive, beside one of 1,000.

    python bench/opening.py [--quick]

Each view is opened in a new browser's page, of a server that has just begun and knows nothing of the run. The
figure is the time from the address until the view shows the run: the list its last event, the lanes over time and
the usage what is counted by then, which goes on in the background. That is to be under 2 seconds: else, unless the
short run takes about as long, the command fails. It needs Debian's Chromium, and playwright
(`pip install -e '.[browser]'`).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from web import serving

import runstream
import runstream.web
from runstream.web.path_ids import path_id

MOST_SECONDS, MOST_RATIO = 2.0, 1.5
BATCH = 10_000
LANES = [f"agent-{number}" for number in range(8)]
VIEWS = {
    "the list of events": ("", '.event[data-offset="{last}"]'),
    "lanes over time": ("?view=lanes", "svg [data-lane]"),
    "usage": ("?view=usage", "[data-complete]"),
    "state": ("?view=state", "[data-covers]"),
}


def fill(path: Path, events: int) -> None:
    """Write a run of so many events, the last of which ends it, with a state."""
    begin = time.time() - events / 100
    with runstream.SQLiteCheckpointer(path, state_type=dict) as store:
        for first in range(1, events + 1, BATCH):
            batch = [made(offset, begin) for offset in range(first, min(first + BATCH, events))]
            if first + BATCH > events:
                batch.append(runstream.PAEvent("r", kind="run.finished", ts=begin + events / 100))
            store.append("r", batch, snapshot={"run_id": "r", "data": {"step": first}})


def made(offset: int, begin: float) -> runstream.PAEvent:
    """A piece of text, or now and then the result of a tool, of one of a few lanes."""
    kind, payload = "text.delta", {"text": "and so on "}
    if offset % 4 == 0:
        kind, payload = "tool.result", {"tool": "search", "result": "x" * 100}
    lane_id = LANES[offset // 50 % len(LANES)]
    return runstream.PAEvent("r", lane_id=lane_id, kind=kind, seq=offset, ts=begin + offset / 100, payload=payload)


@contextmanager
def browsing() -> Iterator[Any]:
    """Debian's Chromium, driven by playwright."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - it is not among what all benchmarks need

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


def opened(browser: Any, path: Path, events: int, view: str) -> float:
    """How long a view took until it showed the run, in seconds."""
    query, shows = VIEWS[view]

    def make(_port: int, _namespace: str) -> Any:
        return runstream.web.app(runstream.connect_async(f"sqlite:{path}", state_type=dict))

    with serving(make, 0, "") as (port, _):
        page = browser.new_page()
        begin = time.perf_counter()
        page.goto(f"http://127.0.0.1:{port}/#/runs/{path_id('r')}{query}")
        page.locator(shows.format(last=events)).first.wait_for(timeout=60_000)
        took = time.perf_counter() - begin
        page.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the work: that it runs, not how fast")
    is_quick = parser.parse_args().quick
    sizes, rounds = ((100, 20_000), 1) if is_quick else ((1_000, 1_000_000), 5)
    table = Table("view", *(f"{size:,} events, median" for size in sizes), "longest", "ratio")
    is_slow = False
    with tempfile.TemporaryDirectory(prefix="runstream-bench-") as place, browsing() as browser:
        paths = [Path(place) / f"{size}.db" for size in sizes]
        for path, size in zip(paths, sizes, strict=True):
            fill(path, size)
        opened(browser, paths[0], sizes[0], next(iter(VIEWS)))  # the browser's own start is not what is asked
        for view in VIEWS:
            took = [[opened(browser, *one, view) for one in zip(paths, sizes, strict=True)] for _ in range(rounds)]
            each = [[of_size[at] for of_size in took] for at in range(len(sizes))]
            short, long = map(statistics.median, each)
            is_slow |= long > MOST_SECONDS and long > MOST_RATIO * short
            table.add_row(view, f"{short:.2f} s", f"{long:.2f} s", f"{max(each[-1]):.2f} s", f"{long / short:.2f}")
    console = Console()
    console.print(table)
    console.print(f"Python {sys.version.split()[0]}, SQLite archive, {rounds} rounds")
    if is_slow and not is_quick:
        sys.exit(f"a view of the long run took over {MOST_SECONDS:g} s")


if __name__ == "__main__":
    main()
