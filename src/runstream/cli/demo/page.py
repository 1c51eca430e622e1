"""The page that shows the demo's runs while it goes on, and after that until a signal comes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from runstream.cli.demo.processes import Children, DemoFailed
from runstream.cli.demo.scenario import DemoFiles
from runstream.connect import connect

__all__ = ["shown_page"]

_NAME = "web"
_POLL_SECONDS = 0.05
_DEADLINE_SECONDS = 60.0


@contextmanager
def shown_page(files: DemoFiles) -> Iterator[str]:
    """The URL of a page that shows the demo's runs while this is entered.

    Args:
        files: The demo's files.

    Raises:
        DemoFailed: It did not start.
    """
    archive = files.archive_urls["SQLite"]
    connect(archive).close()  # whoever reads an archive makes none
    log = files.logs / f"{_NAME}.log"
    with Children(files.logs) as children:
        children.start(_NAME, ["web", "--url", files.server_url, "--archive", archive, "--port", "0"])
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while (found := re.search(r"http://\S+(?=;)", log.read_text(encoding="utf-8"))) is None:
            if children.has_ended(_NAME) or time.monotonic() > deadline:
                raise DemoFailed(f"the page did not start; see {log}")
            time.sleep(_POLL_SECONDS)
        yield found[0]
