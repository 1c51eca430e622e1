"""The files that earlier versions wrote, as tests use them: copied, served, compared with what must be there."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from runstream import JSONLCheckpointer, Recorded, SQLiteCheckpointer, connect
from tests.kept.neutral import fields_of
from tests.support.servers import Node

__all__ = ["KINDS", "VERSIONS", "World", "check_events", "check_snapshot", "serving"]

KEPT = Path(__file__).parent.parent / "kept"
VERSIONS = sorted(path.parent.name for path in KEPT.glob("*/expected.json"))
KINDS = ("sqlite", "jsonl")


@contextmanager
def serving(program: str, dump: Path | None = None) -> Iterator[Node]:
    """A fresh server that loads this dump, if there is one."""
    with tempfile.TemporaryDirectory(prefix="runstream-") as directory, ExitStack() as opened:
        if dump is not None:
            shutil.copy(dump, f"{directory}/dump.rdb")
        node = Node(program, directory)
        opened.callback(node.end)
        yield node


class World:
    """Copies of one version's files, what must be read from them, and a server that has loaded the namespace.

    ``part`` is a folder in that version's: a namespace and archives apart from the others.
    """

    def __init__(self, version: str, directory: Path, part: str = "") -> None:
        root = directory / version
        shutil.copytree(KEPT / version, root)
        self.dump = root / "namespace" / "dump.rdb"
        self.directory = root / part
        expected = json.loads((root / "expected.json").read_text("utf-8"))
        self.expected: dict[str, Any] = expected[part] if part else expected
        self.runs: dict[str, dict[str, Any]] = self.expected["runs"]
        self.url = ""
        self.opened = ExitStack()

    @property
    def hot_runs(self) -> dict[str, dict[str, Any]]:
        return {run_id: facts for run_id, facts in self.runs.items() if facts["hot"] is not None}

    @property
    def sound_runs(self) -> dict[str, dict[str, Any]]:
        """All but those that are parked."""
        return {run_id: facts for run_id, facts in self.runs.items() if run_id not in self.expected["parked"]}

    def serve(self, node: Node) -> None:
        self.url = f"unix://{node.socket_path}?namespace={self.expected['namespace']}"

    def target(self, kind: str) -> str:
        """The URL of an archive."""
        return f"{kind}:{self.directory / {'sqlite': 'archive.db', 'jsonl': 'archive_jsonl'}[kind]}"

    @property
    def targets(self) -> list[str]:
        return [self.target(kind) for kind in KINDS]

    def archive(self, kind: str) -> Any:
        """An archive, open until the test ends."""
        path = self.target(kind).partition(":")[2]
        make: Any = {"sqlite": SQLiteCheckpointer, "jsonl": JSONLCheckpointer}[kind]
        return self.opened.enter_context(closing(make(path)))

    def store(self, archive: str | None = None) -> Any:
        """A store over the server, tiered with an archive, open until the test ends."""
        return self.opened.enter_context(connect(self.url, archive=archive and self.target(archive)))

    def in_archive(self, kind: str) -> dict[str, list[Any]]:
        """What an archive must have as it was kept: entries by run."""
        found: dict[str, list[Any]] = {}
        for run_id, facts in self.runs.items():
            if facts.get("only", kind) == kind and not (run_id == "gap" and kind == "jsonl"):
                found[run_id] = facts.get("archive_entries", facts["entries"])[: facts["archived"]]
        branch = self.expected["branch"]
        found[branch["name"]] = renamed(branch["entries"], branch["name"])
        return {run_id: entries for run_id, entries in found.items() if entries}


def renamed(entries: Sequence[Mapping[str, Any]], run_id: str) -> list[dict[str, Any]]:
    """The entries of a branch: they name it as theirs."""
    name = json.dumps(run_id)
    return [{**entry, "event": {**entry["event"], "run_id": name}} for entry in entries]


def check_events(recorded: Iterable[Recorded[Any]], entries: Sequence[Mapping[str, Any]]) -> None:
    """What was read is what must be there: cursors, types, order; records that do not read are passed over."""
    found = [(one.offset, one.cursor, fields_of(one.event.to_dict())) for one in recorded]
    wanted = [
        (int(one["cursor"].partition("-")[0]), one["cursor"], one["event"]) for one in entries if one["event"]
    ]
    assert [one[:2] for one in found] == [one[:2] for one in wanted]
    for (_, cursor, fields), (_, _, former) in zip(found, wanted, strict=True):
        assert {name: fields.get(name) for name in former} == former, cursor


def check_snapshot(snapshot: Any, wanted: Mapping[str, Any] | None) -> None:
    """A snapshot is the one that was saved, at the place that it covers."""
    if wanted is None:
        assert snapshot is None
        return
    assert snapshot is not None
    assert (snapshot.offset, snapshot.revision) == (wanted["offset"], wanted["revision"])
    fields = fields_of(snapshot.state.to_dict())
    assert {name: fields.get(name) for name in wanted["state"]} == wanted["state"]
