"""``runstream export``: all of a run, from wherever it lies, in a file that is complete or not there."""

from __future__ import annotations

import csv
import io
import json
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.runtime import checkpoint as theirs

from runstream import (
    CorruptRecordError,
    DrainWorker,
    EventsArchived,
    JSONLCheckpointer,
    PAEvent,
    RedisCheckpointer,
    SQLiteCheckpointer,
    connect,
)
from runstream.cli.support import export_formats
from runstream.cli.support.export_formats import complete_or_absent
from runstream.codec.lossless_json import load_json
from runstream.history.exported import Export
from runstream.history.merged import MergedRun
from runstream.model.errors import ConfigurationError
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.tiered import TieredCheckpointer
from tests.integrations.purpose_agent.sources import their_event
from tests.support.archive_check import check_archives
from tests.support.backends import Backend, ServerBackend
from tests.support.commands import QUIET, Said, command, run
from tests.support.samples import RICH_VALUES, make_event, make_events, make_state, same
from tests.support.servers import eventually


@pytest.fixture
def split(make_backend: Callable[[str], Backend], tmp_path: Path) -> tuple[RedisCheckpointer[Any, Any], str, str]:
    """A store with the run ``r`` of nine events, the first five of them in an archive alone; both URLs."""
    backend = make_backend("valkey")
    assert isinstance(backend, ServerBackend)
    hot: Any = backend.open()
    with SQLiteCheckpointer[Any, Any](tmp_path / "archive.db") as archive:
        hot.append("r", make_events("r", 5), keys=[f"k{n}" for n in range(5)], snapshot=make_state("r"))
        hot.save_snapshot("r", make_state("r", current_step=3), lane_id="main")
        assert DrainWorker(hot, [archive], trim="archived").drain_once().trimmed == 5
    hot.append("r", make_events("r", 4, first=6))
    return hot, f"{backend.server.url}?namespace={backend.namespace}", f"sqlite:{tmp_path}/archive.db"


def export(*arguments: object) -> Said:
    return run("export", *map(str, arguments))


def lines_of(path: Path) -> list[Any]:
    return [load_json(line) for line in path.read_text("utf-8").splitlines() if line]


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline=""), strict=True))


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# -- what stands in the files --------------------------------------------------------------------------


def test_every_value_comes_out_of_jsonl_as_it_went_in(url: str, tmp_path: Path) -> None:
    events = [make_event("r", n, payload={name: value}) for n, (name, value) in enumerate(RICH_VALUES.items())]
    with connect(url) as store:
        store.append("r", events, keys=[f'key "{n}"\n' if n % 2 else None for n in range(len(events))])
        recorded = list(store.read("r"))
        path = tmp_path / "r.jsonl"
        said = export("r", "--url", url, "--to", path)
    assert said.code == 0, said.err
    # \n alone ends a line: what other readers of lines take for an end stands escaped, or inside a JSON string
    found = [load_json(line) for line in path.read_bytes().removesuffix(b"\n").split(b"\n")]
    assert [(line["offset"], line["cursor"]) for line in found] == [
        (item.offset, item.cursor) for item in recorded
    ]
    assert [line["key"] for line in found] == [f'key "{n}"\n' if n % 2 else None for n in range(len(events))]
    for line, event in zip(found, events, strict=True):
        assert same(line["event"], event.to_dict()), line


def test_csv_has_each_event_as_one_record_whatever_is_in_its_texts(url: str, tmp_path: Path) -> None:
    nasty = 'a,"b"\r\nc\rd\n=1+1'
    events = [
        make_event(
            "r", 1, span_id=nasty, parent_span_id=nasty, kind=nasty, payload={"text": nasty, "n": [1, (2,)]}
        ),
        PAEvent("r", "s", "lane,2", "=2+2", None, -7, 1.1, "x", "secret", {}),
    ]
    with connect(url) as store:
        store.append("r", events, keys=["a,b", None])
        cursors = [item.cursor for item in store.read("r")]
        path = tmp_path / "r.csv"
        assert export("r", "--url", url, "--to", path).code == 0
    assert path.read_bytes().startswith(",".join(export_formats.COLUMNS).encode() + b"\r\n")
    rows = rows_of(path)
    assert [row["cursor"] for row in rows] == cursors
    for row, event in zip(rows, events, strict=True):
        assert float(row["ts"]) == event.ts
        for name in ("lane_id", "kind", "visibility", "span_id", "session_id"):
            value = getattr(event, name)
            assert row[name] == getattr(value, "value", value), name
        assert (row["parent_span_id"], int(row["seq"])) == (event.parent_span_id or "", event.seq)
        assert same(load_json(row["payload"]), event.payload)
    assert rows[1]["time"] == "1970-01-01T00:00:01.100000Z"
    assert [row["key"] for row in rows] == ["a,b", ""]
    assert "taken for a formula" in " ".join(run("export", "--help").out.split())


class Tagged:
    """An event of a user's own class, with a field of its own."""

    def __init__(self, event: PAEvent) -> None:
        self.run_id = event.run_id
        self.event = event

    def to_dict(self) -> dict[str, Any]:
        return {**self.event.to_dict(), "offset": "mine", "tags": {"a"}}


def test_fields_of_a_users_own_are_not_lost_and_not_taken_for_ours(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/runs.db"
    with connect(url) as store:
        store.append("r", [Tagged(make_event("r", 1))])  # type: ignore[list-item] # a class of the user's own
    assert export("r", "--url", url, "--to", tmp_path / "r.jsonl").code == 0
    (line,) = lines_of(tmp_path / "r.jsonl")
    assert (line["offset"], line["event"]["offset"], line["event"]["tags"]) == (1, "mine", {"a"})
    assert export("r", "--url", url, "--to", tmp_path / "r.csv").code == 0
    (row,) = rows_of(tmp_path / "r.csv")
    assert (row["offset"], load_json(row["extra"])) == ("1", {"offset": "mine", "tags": {"a"}})


def test_an_event_is_one_line_also_where_another_program_has_laid_it_out(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/runs.db"
    event = make_event("r", 1, payload={"text": "a\nb\r"})
    with connect(url) as store:
        store.save_event(event)
    with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as connection:
        laid_out = json.dumps(event.to_dict(), indent=1).replace("\n", "\r\n")
        connection.execute("UPDATE events SET data = ?, checksum = NULL", (laid_out,))
    assert export("r", "--url", url, "--to", tmp_path / "r.jsonl").code == 0
    (line,) = (tmp_path / "r.jsonl").read_bytes().splitlines()
    assert load_json(line)["event"] == event.to_dict()


def test_a_sqlite_file_is_an_archive_of_the_run(url: str, tmp_path: Path) -> None:
    # all but those that do not even equal themselves, which the checker compares
    values = {name: value for name, value in RICH_VALUES.items() if name not in {"floats", "decimals"}}
    events = [make_event("r", n + 1, payload={name: value}) for n, (name, value) in enumerate(values.items())]
    state = make_state("r", session_id="s", data={"values": RICH_VALUES["sets"]})
    path = tmp_path / "out" / "r.db"
    path.parent.mkdir()
    with connect(url) as store:
        store.append("other", make_events("other", 3))
        store.append("r", events, keys=[f"k{n}" for n in range(len(events))], snapshot=state)
        store.save_snapshot("r", make_state("r", current_step=4), lane_id="main")
        store.append("r", make_events("r", 2, first=90))
        said = export("r", "--url", url, "--to", path)
        assert said.code == 0, said.err
        assert left_in(path.parent) == ["r.db"]
        with SQLiteCheckpointer[Any, Any](path) as copy:
            assert copy.list_runs() == ["r"]
            for mine, there in zip(store.read("r"), copy.read("r"), strict=True):
                assert mine[:2] == there[:2]
                assert same(mine.event.to_dict(), there.event.to_dict())
            for lane_id in (None, "main"):
                assert copy.load_snapshot("r", lane_id=lane_id) == store.load_snapshot("r", lane_id=lane_id)
            before, after = store.run_info("r"), copy.run_info("r")
            assert before is not None
            assert after is not None
            for name in ("session_id", "status", "last_offset", "created_at", "updated_at"):
                assert getattr(after, name) == getattr(before, name), name
            check_archives([copy], {"r": [item.event for item in store.read("r")]})
            # a key that the run knows is known in the copy
            assert copy.append("r", [make_event("r", 1)], keys=["k0"]).first_offset == 1
    assert len(run("show", "r", "--url", f"sqlite:{path}", "--json").document["events"]) == len(events) + 2


def test_purpose_agent_reads_the_sqlite_file(tmp_path: Path) -> None:
    url = f"jsonl:{tmp_path}/runs"
    events = make_events("r", 1200)
    with connect(url) as store:
        store.append("r", events, snapshot=make_state("r", current_step=7))
    assert export("r", "--url", url, "--to", tmp_path / "r.db").code == 0
    reader = theirs.SQLiteCheckpointer(str(tmp_path / "r.db"))
    assert [event.to_dict() for event in reader.list_events("r")] == [event.to_dict() for event in events]
    assert reader.load_latest("r").current_step == 7


def test_a_sqlite_file_stands_alone_and_is_written_on(tmp_path: Path) -> None:
    """Nothing more comes to it from elsewhere, so what purpose-agent adds is adopted."""
    source, path = f"sqlite:{tmp_path}/runs.db", tmp_path / "run.db"
    with connect(source) as store:
        store.save_events(make_events("r", 2))
    assert run("export", "r", "--url", source, "--to", str(path)).code == 0
    theirs.SQLiteCheckpointer(str(path)).save_event(their_event("r", 3))
    with connect(f"sqlite:{path}") as store:
        assert store.append("r", make_events("r", 1, first=4)).last_offset == 4
        assert [event.seq for event in store.list_events("r")] == [1, 2, 3, 4]


# -- from wherever it lies -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "db"])
def test_a_run_in_two_tiers_is_exported_as_one(split: Any, tmp_path: Path, suffix: str) -> None:
    hot, url, archive_url = split
    path = tmp_path / f"r.{suffix}"
    said = export("r", "--url", url, "--to", path)
    assert said.code == 1
    assert "have left Redis" in said.err
    assert not path.exists()
    said = export("r", "--url", url, "--archive", archive_url, "--to", path)
    assert said.code == 0, said.err
    with connect(archive_url) as archive:
        both = list(TieredCheckpointer[Any, Any](hot, archive).read("r"))  # type: ignore[arg-type]  # connect gives any store
    assert len(both) == 9
    if suffix == "db":
        with SQLiteCheckpointer[Any, Any](path) as copy:
            assert list(copy.read("r")) == both
            assert copy.load_snapshot("r") == hot.load_snapshot("r")
            assert copy.load_snapshot("r", lane_id="main") == hot.load_snapshot("r", lane_id="main")
    elif suffix == "csv":
        found = [row["cursor"] for row in rows_of(path)]
        assert found == [item.cursor for item in both]
    else:
        assert [line["event"] for line in lines_of(path)] == [item.event.to_dict() for item in both]


@pytest.mark.parametrize("archive_first", [False, True])
def test_nothing_is_missing_when_the_boundary_moves_under_the_export(
    make_backend: Callable[[str], Backend], tmp_path: Path, archive_first: bool
) -> None:
    hot: Any = make_backend("valkey").open()
    archive = JSONLCheckpointer[Any, Any](tmp_path / "archive")
    worker = DrainWorker(hot, [archive], trim="archived")
    hot.append("r", make_events("r", 300))
    if archive_first:
        worker.drain_once()
        hot.append("r", make_events("r", 300, first=301))
    whole = MergedRun.load(TieredCheckpointer[Any, Any](hot, archive), "r")
    assert whole is not None
    entries = whole.entries()
    given = [next(entries) for _ in range(len(whole) - 290)]
    hot.append("r", make_events("r", 10, first=9000))  # not of what was looked at
    assert worker.drain_once().trimmed > 0
    given += entries
    assert [entry.offset for entry in given] == list(range(1, len(whole) + 1))
    archive.close()


def test_a_run_that_was_retired_comes_from_the_archive_with_its_snapshots(
    make_backend: Callable[[str], Backend], tmp_path: Path
) -> None:
    backend = make_backend("valkey")
    assert isinstance(backend, ServerBackend)
    hot: Any = backend.open()
    url = f"{backend.server.url}?namespace={backend.namespace}"
    with SQLiteCheckpointer[Any, Any](tmp_path / "archive.db") as archive:
        hot.append("r", [*make_events("r", 3), make_event("r", 4, kind="run.finished")])
        hot.save_snapshot("r", make_state("r", status="completed", current_step=9))
        worker = DrainWorker(hot, [archive], trim="archived", retire_after_seconds=0)

        def is_retired() -> bool:
            return worker.drain_once().retired > 0

        eventually(is_retired)
    assert export("r", "--url", url, "--to", tmp_path / "r.db").code == 1
    said = export("r", "--url", url, "--archive", f"sqlite:{tmp_path}/archive.db", "--to", tmp_path / "r.db")
    assert said.code == 0, said.err
    with SQLiteCheckpointer[Any, Any](tmp_path / "r.db") as copy:
        assert len(list(copy.read("r"))) == 4
        state = copy.load_latest("r")
        assert state is not None
        assert state.current_step == 9


def test_what_redis_alone_has_no_more_is_an_error_that_says_where_it_went(split: Any) -> None:
    hot, _, archive_url = split
    whole = MergedRun.load(hot, "r")
    assert whole is not None
    with pytest.raises(EventsArchived) as raised:
        list(whole.entries())
    assert raised.value.archives == (archive_url,)


# -- complete or not there -----------------------------------------------------------------------------


def spoil(path: Path, offset: int) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE events SET data = '{\"cut' WHERE offset = ?", (offset,))


@pytest.fixture
def spoilt(tmp_path: Path) -> str:
    """An archive with the run ``r`` of five events, the third of which does not read."""
    with SQLiteCheckpointer[Any, Any](tmp_path / "runs.db") as store:
        store.append("r", make_events("r", 5), snapshot=make_state("r"))
    spoil(tmp_path / "runs.db", 3)
    return f"sqlite:{tmp_path}/runs.db"


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "db"])
def test_a_record_that_does_not_read_ends_the_export_and_leaves_no_file(
    spoilt: str, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    path = out / f"r.{suffix}"
    said = export("r", "--url", spoilt, "--to", path)
    assert said.code == 1
    assert "event 3 of run 'r' does not read" in said.err
    assert left_in(out) == []
    path.write_bytes(b"former")
    assert export("r", "--url", spoilt, "--to", path, "--force").code == 1
    assert path.read_bytes() == b"former"
    assert left_in(out) == [path.name]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "db"])
def test_skip_corrupt_leaves_it_out_and_says_so(spoilt: str, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"r.{suffix}"
    said = export("r", "--url", spoilt, "--to", path, "--skip-corrupt")
    assert said.code == 0
    assert "1 records that do not read are left out, at offsets 3" in said.err
    assert "4 events of run 'r'" in said.err
    if suffix == "db":
        with SQLiteCheckpointer[Any, Any](path) as copy:
            assert [item.offset for item in copy.read("r", on_corrupt="skip")] == [1, 2, 4, 5]
            ((_, entry),) = copy.quarantine("r")
            assert (entry.offset, entry.raw) == (3, b'{"cut')
    elif suffix == "csv":
        assert [row["offset"] for row in rows_of(path)] == ["1", "2", "4", "5"]
    else:
        assert [line["offset"] for line in lines_of(path)] == [1, 2, 4, 5]


def test_a_record_in_redis_that_does_not_read_is_named_too(
    make_backend: Callable[[str], Backend], tmp_path: Path
) -> None:
    backend = make_backend("valkey")
    assert isinstance(backend, ServerBackend)
    hot: Any = backend.open()
    hot.append("r", make_events("r", 2))
    events = namespace_of(hot).keys.run("r").events
    (last, fields) = backend.raw.xrange(events)[-1]
    ((name, record),) = fields.items()
    backend.raw.xdel(events, last)
    # a stream takes no id twice, so it is made anew
    first = backend.raw.xrange(events)
    backend.raw.delete(events)
    for at, value in [*first, (last, {name: record[:-1] + b"?"})]:
        backend.raw.xadd(events, value, id=at)
    url = f"{backend.server.url}?namespace={backend.namespace}"
    said = export("r", "--url", url, "--to", tmp_path / "r.jsonl")
    assert said.code == 1
    assert "event 2 of run 'r'" in said.err
    assert export("r", "--url", url, "--to", tmp_path / "r.jsonl", "--skip-corrupt").code == 0
    assert [line["offset"] for line in lines_of(tmp_path / "r.jsonl")] == [1]


def test_a_snapshot_that_does_not_read_is_refused_or_left_out(tmp_path: Path) -> None:
    with SQLiteCheckpointer[Any, Any](tmp_path / "runs.db") as store:
        store.append("r", make_events("r", 2), snapshot=make_state("r"))
        store.save_snapshot("r", make_state("r"), lane_id="main")
    with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as connection:
        connection.execute("UPDATE snapshots SET state = '{'")
    arguments = ("r", "--url", f"sqlite:{tmp_path}/runs.db", "--to", tmp_path / "r.db")
    said = export(*arguments)
    assert said.code == 1
    assert "the run's snapshot" in said.err
    assert not (tmp_path / "r.db").exists()
    said = export(*arguments, "--skip-corrupt")
    assert said.code == 0
    assert "1 snapshots that do not read are left out" in said.err
    with SQLiteCheckpointer[Any, Any](tmp_path / "r.db") as copy:
        assert copy.load_snapshot("r") is None
        assert copy.load_snapshot("r", lane_id="main") is not None


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "db"])
def test_a_file_that_is_there_is_replaced_only_if_that_is_asked_for(tmp_path: Path, suffix: str) -> None:
    url = f"jsonl:{tmp_path}/runs"
    with connect(url) as store:
        store.append("r", make_events("r", 2))
    path = tmp_path / f"r.{suffix}"
    path.write_bytes(b"former")
    said = export("r", "--url", url, "--to", path)
    assert said.code == 2
    assert "--force" in said.err
    assert path.read_bytes() == b"former"
    assert export("r", "--url", url, "--to", path, "--force").code == 0
    assert path.read_bytes() != b"former"


def test_a_file_that_comes_in_between_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"

    def export_meanwhile() -> None:
        with complete_or_absent(path, force=False) as partial:
            partial.write_bytes(b"mine")
            path.write_bytes(b"another's")

    with pytest.raises(ConfigurationError, match="is there already"):
        export_meanwhile()
    assert (path.read_bytes(), left_in(tmp_path)) == (b"another's", ["r.jsonl"])


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("suffix", ["jsonl", "db"])
def test_an_export_that_is_killed_leaves_nothing_that_looks_complete(tmp_path: Path, suffix: str) -> None:
    url = f"sqlite:{tmp_path}/runs.db"
    with connect(url) as store:
        for first in range(1, 40_000, 2000):
            store.append("r", make_events("r", 2000, first=first))
    out = tmp_path / "out"
    out.mkdir()
    path = out / f"r.{suffix}"
    arguments = command("export", "r", "--url", url, "--to", str(path))
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, env=QUIET) as process:
        eventually(lambda: has_begun(out))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "it had ended: give it more to do"
    assert not path.exists()
    assert all(found.name.startswith(".") for found in out.iterdir())
    assert export("r", "--url", url, "--to", path).code == 0


def has_begun(out: Path) -> bool:
    """Whether something has been written there; a journal may be gone again before one can look at it."""
    with suppress(FileNotFoundError):
        return any(found.stat().st_size for found in out.iterdir())
    return False


def test_a_database_is_not_put_beside_the_log_of_another(tmp_path: Path) -> None:
    url = f"jsonl:{tmp_path}/runs"
    with connect(url) as store:
        store.append("r", make_events("r", 2))
    path = tmp_path / "r.db"
    with SQLiteCheckpointer[Any, Any](path) as other:
        other.append("other", make_events("other", 3))
        said = export("r", "--url", url, "--to", path, "--force")
        assert said.code == 2
        assert "has that database open" in said.err
        assert len(other.list_events("other")) == 3


def test_an_archive_is_not_replaced_by_one_run_of_it(tmp_path: Path) -> None:
    with SQLiteCheckpointer[Any, Any](tmp_path / "runs.db") as store:
        store.append("r", make_events("r", 2))
        store.append("other", make_events("other", 2))
    (tmp_path / "link.db").symlink_to(tmp_path / "runs.db")
    said = export("r", "--url", f"sqlite:{tmp_path}/link.db", "--to", tmp_path / "runs.db", "--force")
    assert said.code == 2
    assert "is exported from" in said.err
    with SQLiteCheckpointer[Any, Any](tmp_path / "runs.db") as store:
        assert len(store.list_runs()) == 2


# -- how it is asked for -------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("made", ["jsonl", "csv"])
def test_stdout_gets_the_file_and_nothing_else(tmp_path: Path, made: str) -> None:
    url = f"sqlite:{tmp_path}/runs.db"
    with connect(url) as store:
        store.append("r", make_events("r", 3, payload={"text": "ünï日本"}))
    assert export("r", "--url", url, "--to", tmp_path / "file", "--format", made).code == 0
    said = subprocess.run(
        command("export", "r", "--url", url, "--to", "-", "--format", made),
        capture_output=True,
        env={**QUIET, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        check=True,
    )
    assert said.stdout == (tmp_path / "file").read_bytes()
    assert said.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nobody", "--to", "{tmp}/r.jsonl"), 4, "there is no run 'nobody'"),
        (("r", "--to", "{tmp}/r.txt"), 2, "does not say which"),
        (("r", "--to", "-"), 2, "does not say which"),
        (("r", "--to", "-", "--format", "sqlite"), 2, "not stdout"),
        (("r", "--to", "{tmp}", "--format", "csv"), 2, "is a directory"),
        (("r", "--to", "{tmp}/nowhere/r.db"), 2, "is no directory"),
        (("r", "--to", "{tmp}/r.csv", "--archive", "sqlite:{tmp}/nothing.db"), 2, "there is nothing at that path"),
        (("", "--to", "{tmp}/r.csv"), 2, "1 to 512 bytes"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    url = f"jsonl:{tmp_path}/runs"
    with connect(url) as store:
        store.append("r", make_events("r", 3))
    before = left_in(tmp_path)
    said = run("export", *(each.replace("{tmp}", str(tmp_path)) for each in arguments), "--url", url)
    assert said.code == code, said.err
    assert says in " ".join(said.err.replace("│", " ").split())
    assert left_in(tmp_path) == before


def test_a_run_of_nothing_but_a_state_is_exported(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/runs.db"
    with connect(url) as store:
        store.save_snapshot("r", make_state("r", current_step=2))
    assert export("r", "--url", url, "--to", tmp_path / "r.db").code == 0
    assert export("r", "--url", url, "--to", tmp_path / "r.jsonl").code == 0
    assert (tmp_path / "r.jsonl").read_bytes() == b""
    facts = run("show", "r", "--url", f"sqlite:{tmp_path}/r.db", "--json").document
    assert facts["snapshots"][0]["state"]["current_step"] == 2
    assert json.loads(json.dumps(facts["events"])) == []


def test_the_first_record_that_does_not_read_is_the_error_of_the_library(spoilt: str) -> None:
    with connect(spoilt) as store:
        whole = MergedRun.load(store, "r")
        assert whole is not None
        exported = Export(whole, skip=False, on_progress=lambda _: None)
        with pytest.raises(CorruptRecordError) as raised:
            export_formats.write_jsonl(exported, io.BytesIO())
    assert (raised.value.run_id, raised.value.offset) == ("r", 3)
