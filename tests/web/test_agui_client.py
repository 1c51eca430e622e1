"""The official client of AG-UI reads our streams: its rules hold, and it ends with the messages and the state."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

import runstream
import runstream.web
from tests.support.servers import DEADLINE_SECONDS
from tests.support.web_server import serving
from tests.web.test_agui import STREAM, talk

HERE = Path(__file__).parent / "ag_ui_client"
_MISSING = "node is not installed (Debian: nodejs, npm)" if shutil.which("node") is None else ""
if not _MISSING and not (HERE / "node_modules").is_dir():
    _MISSING = "the client is not installed: npm ci --prefix tests/web/ag_ui_client"


def understood(url: str, frames: int) -> Any:
    """What the client has understood of a stream whose connection is cut after so many frames; 0: never."""
    command = ["node", "show.mjs", url, str(frames)]
    said = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


@pytest.mark.exhaustive
@pytest.mark.skipif(_MISSING != "", reason=_MISSING or "it is there")
def test_the_official_client_understands_a_run_also_where_its_connection_is_cut() -> None:
    with runstream.connect(f"fake:{uuid.uuid4().hex}") as store:
        talk(store)
        with serving(runstream.web.app(store)) as client:
            url = str(client.base_url).rstrip("/") + STREAM
            whole = understood(url, 0)
            assert whole["failed"] is None
            assert (whole["seen"][0], whole["seen"][-1]) == ("RUN_STARTED", "RUN_FINISHED")
            messages = whole["messages"]
            texts = [one["content"] for one in messages if one["role"] == "assistant" and "content" in one]
            assert texts == ["Hello", "I search", "all at once", "left open"]
            calls = [call["function"] for one in messages for call in one.get("toolCalls", ())]
            assert [(one["name"], one["arguments"]) for one in calls] == [
                ("search", '{"q":"hotel"}'), ("pay", "{}"), ("once", ""),
            ]  # fmt: skip
            assert len([one for one in messages if one["role"] == "tool"]) == 3
            assert whole["state"] == {"step": 2}
            assert understood(url, 3) == whole
