"""A directory and a database of purpose-agent."""

from __future__ import annotations

from pathlib import Path

import pytest
from purpose_agent.runtime import checkpoint as theirs

from tests.integrations.purpose_agent.sources import Theirs


@pytest.fixture(params=["directory", "database"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Theirs:
    """A source of either kind. Their names tell nothing."""
    path = tmp_path / "checkpoints"
    if request.param == "directory":
        return Theirs(path, theirs.JSONLCheckpointer(str(path)))
    return Theirs(path, theirs.SQLiteCheckpointer(str(path)))
