"""P11 as a table: every value that was tried, through every store and every way that it can take from there.

``python -m pytest tests/stores/test_value_table.py -s`` prints it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runstream import DrainWorker, EncodingError, TieredCheckpointer
from runstream.codec.lossless_json import load_json
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from tests.support.archive_check import Archive
from tests.support.backends import Backend, ServerBackend, Store
from tests.support.commands import run
from tests.support.drain_tools import open_archives, open_hot
from tests.support.kinds import REAL
from tests.support.samples import make_event, make_state, same
from tests.support.servers import Servers
from tests.support.tried_values import TRIED, Refused

_ALL = "all"  # the run that has every value that is taken
Told = dict[str, str]
"""What came out, by the name of the value: ``equal``, ``refused``, or what is wrong."""


def fill(store: Store) -> Told:
    """Append every value, in an event and in a state, and tell which of them were refused."""
    told: Told = {}
    for seq, (name, (value, expected)) in enumerate(TRIED.items(), 1):
        payload = {"value": value, "in": [value]} if name not in {"deep lists", "deep dicts"} else {"value": value}
        state = make_state(name, data={"value": value} if "deep" not in name else value)
        if isinstance(expected, Refused):
            told[name] = _refusal(store, name, payload, expected)
            continue
        try:
            store.append(name, [make_event(name, seq, payload=payload)], snapshot=state)
            store.save_event(make_event(_ALL, seq, payload=payload))
        except EncodingError as error:
            told[name] = f"not taken: {error}"
    return told


def _refusal(store: Store, name: str, payload: Any, expected: Refused) -> str:
    paths = []
    for events, state in (
        ([make_event(name), make_event(name, payload=payload)], None),
        ([make_event(name)], make_state(name, metadata={"value": payload["value"]})),
    ):
        try:
            store.append(name, events, snapshot=state)
        except EncodingError as error:
            paths.append(error.path)
        else:
            return "taken"
    if store.run_info(name) is not None:
        return "half written"
    wanted = [f"payload.value{expected.part}", f"metadata.value{expected.part}"]
    if not all(path.startswith(start) for path, start in zip(paths, wanted, strict=True)):
        return f"refused as {paths}, not {wanted}"
    return "refused"


def read(store: Store, told: Mapping[str, str]) -> Told:
    """Read every value that was taken: from the run of all, and from a state."""
    found = {event.seq: event.payload for event in store.list_events(_ALL)}
    states = {name: store.load_latest(name) for name in TRIED if name not in told}
    return {
        name: told.get(name) or _compared(name, found.get(seq), states.get(name))
        for seq, name in enumerate(TRIED, 1)
    }


def _compared(name: str, payload: Any, state: Any) -> str:
    expected = TRIED[name].expected
    if payload is None:
        return "missing"
    if not all(same(part, [expected] if key == "in" else expected) for key, part in payload.items()):
        return f"another value: {payload!r:.200}"
    if state is not None and not same(state.data, expected if "deep" in name else {"value": expected}):
        return f"another value in the state: {state.data!r:.200}"
    return "equal"


def exported(url: str, path: Path, told: Mapping[str, str]) -> Told:
    """What a file of ``runstream export`` has."""
    said = run("export", _ALL, "--url", url, "--to", str(path))
    assert said.code == 0, said.err
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    events = [load_json(line)["event"] for line in lines]
    found = {event["seq"]: event["payload"] for event in events}
    return {name: told.get(name) or _compared(name, found.get(seq), None) for seq, name in enumerate(TRIED, 1)}


def kind_of(archive: Archive) -> str:
    return type(archive).__name__.removesuffix("Checkpointer")


@pytest.fixture
def table(
    make_backend: Callable[[str], Backend], servers: Servers, namespace: str, tmp_path: Path
) -> Iterator[dict[str, Told]]:
    """What came out, by the way that it took."""
    ways: dict[str, Told] = {}
    for kind in ("memory", "fake", f"async-{REAL[0]}"):
        backend = make_backend(kind)
        store = backend.open()
        ways[kind] = read(store, fill(store))
        backend.close()
    (tmp_path / "direct").mkdir()
    for direct in open_archives(tmp_path / "direct"):
        ways[kind_of(direct)] = read(direct, fill(direct))
        direct.close()
    made = [ServerBackend(servers.get(REAL[0]), name) for name in (namespace, f"{namespace}x", f"{namespace}y")]
    hot, *others = map(open_hot, made)
    told = fill(hot)
    ways["redis"] = read(hot, told)
    archives = open_archives(tmp_path)
    report = DrainWorker(hot, archives, trim="archived").drain_once()
    assert (report.quarantined, report.parked) == (0, 0)
    for archive, again in zip(archives, others, strict=True):
        kind = kind_of(archive)
        ways[f"drained into {kind}"] = read(archive, told)
        ways[f"tiered over {kind}"] = read(TieredCheckpointer(hot, archive), told)
        ways[f"exported from {kind}"] = exported(archive.location, tmp_path / f"{kind}.export.jsonl", told)
        for run_id in archive.list_runs():
            put_back(again, archive, run_id, whole=True)
        ways[f"restored from {kind}"] = read(again, told)
        for run_id in archive.list_runs():
            assert verify_run(run_id, hot=again, sinks=[archive]).is_sound
    yield ways
    for place in (*archives, *made):
        place.close()


def test_a_value_is_taken_by_every_store_or_by_none_and_comes_back_equal(table: dict[str, Told]) -> None:
    wide = max(map(len, TRIED))
    print()
    for number, way in enumerate(table):
        print(f"{' ' * wide} {'│ ' * number}┌ {way}")
    for name in TRIED:
        signs = [{"equal": "=", "refused": "x"}.get(told[name], "!") for told in table.values()]
        print(name.rjust(wide), *signs)
    print(f"= equal, x refused by its path and nothing written; {len(TRIED)} values, {len(table)} ways")
    wrong = {
        (name, way): told[name]
        for way, told in table.items()
        for name, tried in TRIED.items()
        if told[name] != ("refused" if isinstance(tried.expected, Refused) else "equal")
    }
    assert wrong == {}
