"""The browser that this machine has, and what the tests of the page ask of it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import runstream.web

__all__ = ["AXE", "describe_browser", "faults_of", "needs_axe", "needs_browser", "offsets_in", "opened_browser"]

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
"""Debian's; the driver brings none of its own."""

AXE = Path(runstream.web.__file__).parent / "page/node_modules/axe-core/axe.min.js"
"""Finds what a page lacks for those who do not see it; ``npm ci`` beside the page's source brings it."""

_HAS_DRIVER = importlib.util.find_spec("playwright") is not None

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or not _HAS_DRIVER,
    reason="no Chromium, or no playwright: apt-get install chromium; pip install -e '.[browser]'",
)

needs_axe = pytest.mark.skipif(not AXE.exists(), reason="no axe-core: npm ci in src/runstream/web/page")

_SERIOUS = {"serious", "critical"}

_COLLECT = """async () => {
    const box = document.querySelector('.events');
    const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    const found = [];
    box.scrollTop = 0;
    await frame();
    for (;;) {
        for (const row of box.querySelectorAll('.event')) {
            const offset = Number(row.dataset.offset);
            if (!found.length || offset > found.at(-1)) found.push(offset);
        }
        if (box.scrollTop + box.clientHeight >= box.scrollHeight - 1) return found;
        box.scrollTop += box.clientHeight - 60;
        await frame();
    }
}"""


def describe_browser() -> str:
    """The browser, for the test session's header."""
    if CHROMIUM is None or not _HAS_DRIVER:
        return "none, the page's tests are left out"
    version = subprocess.run([CHROMIUM, "--version"], capture_output=True, text=True, check=False).stdout
    return " ".join(version.split()[:2]) + ("" if AXE.exists() else ", without axe-core")


@contextmanager
def opened_browser() -> Iterator[Any]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - not every machine has it

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


def offsets_in(page: Any) -> list[int]:
    """The offsets of all rows of the list of events, as one sees them who scrolls through it."""
    found: list[int] = page.evaluate(_COLLECT)
    return found


def faults_of(page: Any) -> list[str]:
    """What is seriously wrong with a page for those who do not see it, or do not use a mouse."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{one['id']}: {node['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in _SERIOUS
        for node in one["nodes"]
    ]
