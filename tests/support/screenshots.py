"""The pictures of the page in docs/web: ``python -m tests.support.screenshots`` makes them anew.

They show runs that are written here, in Debian's Chromium.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import runstream
import runstream.web
from runstream.web.path_ids import path_id
from tests.support.browser import opened_browser
from tests.support.web_server import serving

PLACE = Path(__file__).parent.parent.parent / "docs/web"
SIZE = {"width": 1000, "height": 560}
RUN = "trip/lisbon"
STEPS = 30
PACE_SECONDS = 0.02

VIEWS = {
    "runs": ("", "tr[data-run]"),
    "run": (f"#/runs/{path_id(RUN)}?offset=3", ".details"),
    "lanes": (f"#/runs/{path_id(RUN)}?view=lanes", "[data-complete=true] ~ .lanes .one.error"),
    "state": (f"#/runs/{path_id('trip/kyoto')}?view=state&at=4&from=2", "[data-path]"),
}
"""By name: the place in the page, and what is there once all of it is shown."""


def main() -> None:
    """Write the runs, and take a picture of each view of them; the last one in dark."""
    PLACE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, runstream.SQLiteCheckpointer(f"{place}/archive.db") as archive:
        url = f"fake:{uuid.uuid4().hex}"
        with runstream.connect(url) as store:
            write(store, archive)
            opened = runstream.connect_async(url, archive=f"sqlite:{place}/archive.db")
            app = runstream.web.app(opened, authorize=lambda *_: True, actions=["answer"])
            with serving(app) as client, opened_browser() as browser:
                for name, (address, shows) in VIEWS.items():
                    page = browser.new_page(viewport=SIZE, color_scheme="dark" if name == "state" else "light")
                    page.goto(f"{client.base_url}{address}")
                    page.locator(shows).first.wait_for()
                    page.screenshot(path=PLACE / f"{name}.png")
                    page.close()


def write(store: Any, archive: Any) -> None:
    """Some runs: one that plans a trip with three lanes, and waits for an answer; others that have ended."""
    worker = runstream.DrainWorker(store, [archive])
    for number, city in enumerate(("porto", "oslo", "rome", "kyoto")):
        with store.open_run(f"trip/{city}", session_id=f"user-{number}", tags={"team": "travel"}) as run:
            for day in range(1, 5):
                run.emit("tool.result", tool="flights.search", hits=day)
                run.state.data.update({"day": day, "best": {"flight": f"TP{400 + day}", "price": 310 - day}})
                run.checkpoint()
                worker.drain_once()
            run.emit("text.done", text=f"Booked: {city}")
            if number == 2:
                run.fail("the hotel did not answer")
            else:
                run.finish()
    with (
        store.open_run(RUN, session_id="user-7", tags={"team": "travel"}) as run,
        store.open_run(RUN, lane_id="flights") as flights,
        store.open_run(RUN, lane_id="hotels") as hotels,
    ):
        for word in ["I", "compare", "flights", "and", "hotels", "for", "the", "last", "week", "of", "May."]:
            run.emit("text.delta", text=f"{word} ")
        for step in range(STEPS):
            for lane, tool in ((flights, "flights.search"), (hotels, "hotels.search")):
                asked = lane.emit("tool.started", tool=tool, args={"day": step + 1, "city": "Lisbon"})
                time.sleep(PACE_SECONDS)
                kind = "tool.error" if lane is hotels and step % 11 == 7 else "tool.result"
                lane.emit(kind, tool=tool, hits=step % 5, parent_span_id=asked.event.span_id)
            run.emit("model.response", usage={"input_tokens": 800 + step, "output_tokens": 60}, cost=0.0031)
        run.pause("Book flight TP429 for 281 €?")
    worker.drain_once()


if __name__ == "__main__":
    main()
