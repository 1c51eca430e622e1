"""What all tests share: real servers, one store of every kind, and a check that no test leaves keys behind."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import redis.utils
from fakeredis.commands_mixins import scripting_mixin

from runstream.testing.simulation.bytecode import ParsesOnce
from tests.support import one_slot
from tests.support.archive_check import Archive
from tests.support.backends import (
    AsyncRedisBackend,
    Backend,
    FakeBackend,
    JSONLBackend,
    LoopThread,
    MemoryBackend,
    RedisBackend,
    ServerBackend,
    SQLiteBackend,
    Store,
    ThreadedBackend,
)
from tests.support.browser import describe_browser
from tests.support.cluster import ClusterBackend, shared_cluster
from tests.support.drain_tools import open_archives
from tests.support.exhaustive import mark_exhaustive, marker_of
from tests.support.kinds import BACKENDS, LIVE, REAL, REDIS, SHARED, short
from tests.support.processes.template import end_template
from tests.support.servers import CLOCK_LIBRARY, Server, Servers, describe
from tests.support.their_connections import close_theirs

# `--hypothesis-profile deep` looks longer
for profile, examples in (("suite", 25), ("deep", 2000)):
    hypothesis.settings.register_profile(
        profile,
        max_examples=examples,
        deadline=None,  # a test machine pauses when it likes
        suppress_health_check=[
            hypothesis.HealthCheck.too_slow,
            # stores are shared between examples: each takes a run id of its own
            hypothesis.HealthCheck.function_scoped_fixture,
        ],
    )
hypothesis.settings.load_profile("suite")

LEFT_OUT = pytest.StashKey[int]()
"""How many exhaustive tests are left out of this session."""

# A shell that runs the suite in the background (`.ci/run &` in a script) has SIGINT ignored, which every child
# would inherit; but there are tests that interrupt themselves and their children. What is handled here is at
# its default in a child.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Where PYTHONDONTWRITEBYTECODE is set, as in many containers, each of the hundreds of processes that tests start
# would compile all of runstream anew, which is half of what a command takes to start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# redis-py reads the metadata of its package, to tell the server its version, for each client that is made.
redis.utils.get_lib_version = cache(redis.utils.get_lib_version)

# fakeredis parses a script each time that it runs it, which takes longer than to run it.
_scripting: Any = scripting_mixin.ScriptingCommandsMixin
_make_runtime = _scripting._get_server_runtime
_scripting._get_server_runtime = lambda connection, server: ParsesOnce(_make_runtime(connection, server))

# And it looks at each command of a script, by the runtime itself, for globals that the script has set, and in the
# end once more, which is enough: to look takes longer than most commands.
_globals: Any = scripting_mixin
_look_for_globals = _globals._check_for_lua_globals
_globals._check_for_lua_globals = lambda runtime, expected: (
    _look_for_globals(runtime, expected) if isinstance(runtime, ParsesOnce) else None
)

# In a cluster each command and script must find all that it touches on one server.
one_slot.watch()
close_theirs()

# The files of tests lie in memory where there is room for them: thousands of tests wait for an fsync otherwise.
# What a loss of power leaves of files is told by disks of the tests' own.
IN_MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 * 2**30
if IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ROOM_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """With ``-n auto``, one worker more than processors: tests of processes and timeouts wait for long."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else (os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    """Hand out few tests at a time to the workers of pytest-xdist: each gets some of those that take long."""
    if getattr(config.option, "maxschedchunk", 0) is None:
        config.option.maxschedchunk = 4


def pytest_report_header() -> str:
    """The servers and the browser that the suite runs on: one that is missing is seen to be. And the client."""
    clocks = "the machine's" if CLOCK_LIBRARY is None else "their own where they are told"
    servers = ", ".join(map(describe, REAL)) or "none, only fakeredis"
    return f"servers: {servers}; clocks: {clocks}; redis-py: {redis.__version__}; browser: {describe_browser()}"


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The real servers, started when they are first asked for."""
    with Servers() as servers:
        yield servers
        assert not (strays := servers.take_stray_keys(of_all=True)), f"keys are left behind: {strays[:10]}"


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    """The event loop that async stores run on."""
    loop = LoopThread()
    yield loop
    loop.close()


@pytest.fixture(scope="module", autouse=True)
def _servers_of_a_module(servers: Servers) -> Iterator[None]:
    """What a module's tests and fixtures ask for is theirs: to ask every server after each test takes longer."""
    yield
    servers.forget_used()


@pytest.fixture(autouse=True)
def no_stray_keys(servers: Servers) -> Iterator[None]:
    """Fail a test that leaves keys on a shared server: its own namespace is removed by then."""
    yield
    strays = servers.take_stray_keys()
    assert not strays, f"the test left keys behind: {strays[:10]}"


@pytest.fixture(autouse=True)
def no_second_slot() -> Iterator[None]:
    """Fail a test in which a command touches two slots of a cluster, or a script a key that it does not declare.

    That is all commands of all stores, and all scripts as fakeredis runs them.
    """
    yield
    assert not (faults := one_slot.take_faults()), faults[:3]


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"t{uuid.uuid4().hex}"


@pytest.fixture
def make_backend(
    servers: Servers, loop_thread: LoopThread, tmp_path: Path, namespace: str
) -> Iterator[Callable[[str], Backend]]:
    """Make a place to keep runs, by its name."""
    made: list[Backend] = []

    def local(name: str) -> Backend:
        if name == "memory":
            return MemoryBackend()
        # two directories deep, so that a run id that climbs out of it is seen
        place = tmp_path / "outer" / "inner"
        place.parent.mkdir()
        return JSONLBackend(place) if name == "jsonl" else SQLiteBackend(place)

    def on_redis(name: str) -> RedisBackend:
        if name == "fake":
            return FakeBackend(namespace)
        if name == "cluster":
            return ClusterBackend(shared_cluster(servers, REAL[0]), namespace)
        server, _, protocol = name.partition("-resp")
        options = {"protocol": int(protocol)} if protocol else {}
        return ServerBackend(servers.get(server), namespace, **options)

    def make(name: str) -> Backend:
        how, _, inner = name.partition("-")
        backend: Backend
        if how == "async":
            backend = AsyncRedisBackend(on_redis(inner), loop_thread)
        elif how == "threaded":
            backend = ThreadedBackend(local(inner), loop_thread)
        else:
            backend = local(name) if name in {"memory", "jsonl", "sqlite"} else on_redis(name)
        made.append(backend)
        return backend

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def fake(make_backend: Callable[[str], Backend]) -> FakeBackend:
    """A namespace of fakeredis, for tests that try very many points."""
    backend = make_backend("fake")
    assert isinstance(backend, FakeBackend)
    return backend


@pytest.fixture
def archives(tmp_path: Path) -> Iterator[list[Archive]]:
    """One archive of each kind."""
    made = open_archives(tmp_path)
    yield made
    for archive in made:
        archive.close()


@pytest.fixture(params=short(BACKENDS))
def backend(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> Backend:
    """A place to keep runs, of every kind that there is."""
    return make_backend(request.param)


@pytest.fixture
def store(backend: Backend) -> Store:
    """A store of every kind that there is."""
    return backend.open()


@pytest.fixture(params=short(SHARED))
def two_stores(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> tuple[Store, Store]:
    """Two writers: stores over one place, of every kind that allows it."""
    backend = make_backend(request.param)
    return backend.open(), backend.open()


@pytest.fixture(params=short(LIVE))
def live(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> Store:
    """A store of every kind in which people can be asked."""
    return make_backend(request.param).open()


@pytest.fixture(params=short(REDIS))
def redis_backend(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> RedisBackend:
    """A namespace of every kind of server, with the sync store."""
    backend = make_backend(request.param)
    assert isinstance(backend, RedisBackend)
    return backend


@pytest.fixture(params=["sqlite", "jsonl", "fake", "valkey"])
def url(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend], tmp_path: Path) -> str:
    """A store of every kind that a process can be pointed at."""
    name: str = request.param
    if name == "valkey":
        backend = make_backend(name)
        assert isinstance(backend, ServerBackend)
        return f"{backend.server.url}?namespace={backend.namespace}"
    return {"sqlite": f"sqlite:{tmp_path}/target.db", "jsonl": f"jsonl:{tmp_path}/target"}.get(
        name, f"fake:{uuid.uuid4().hex}"
    )


@pytest.fixture(params=REAL)
def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """Every real server."""
    return servers.get(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect tests, and not garbage: of the many thousand objects that are made none goes until the end.

    Each full collection would look at all of them again, here and between tests. What is left of tests that are
    left out stays too: to find it takes as long as a hundred tests.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before what is not wanted is left out by its marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is exhaustive of the tests that are marked ``one_in``; leave out what only more rounds have.

    What takes long comes first.
    """
    left = set(mark_exhaustive(items))
    items[:] = [item for item in items if item not in left]
    items.sort(key=_turn, reverse=True)


LONG = ("tests/chaos/", "tests/cli/", "tests/faults/", "tests/simulation/", "tests/web/browser/")
"""Where the tests are that take seconds, of a processor or waiting for processes, servers and a browser."""


def _turn(item: pytest.Item) -> tuple[float, int]:
    """What comes first has more of it: what says how long it may take, and what takes long, file by file.

    So no worker is left with it at the end, when the others have nothing to do any more. The files are mixed, so
    that some compute while others wait.
    """
    mark, path = marker_of(item, "timeout"), item.nodeid.partition("::")[0]
    return float(mark.args[0]) if mark else 0.0, zlib.crc32(path.encode()) if path.startswith(LONG) else 0


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count the exhaustive tests that are left out."""
    for item in items:
        if item.get_closest_marker("exhaustive") is not None:
            item.config.stash[LEFT_OUT] = item.config.stash.get(LEFT_OUT, 0) + 1


def pytest_unconfigure() -> None:
    """End the process that others were forked from."""
    end_template()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells what it has counted: each collects the same tests."""
    output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The controller of pytest-xdist, which collects nothing itself, hears what a worker has counted."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was left out, and how much the tests that walk all of something have walked.

    One that has become short is seen to be.
    """
    if left_out := config.stash.get(LEFT_OUT, 0):
        line = f"{left_out:,} exhaustive tests left out; run them with: python -m pytest -m exhaustive"
        terminalreporter.write_line(line)
    counted: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                counted.update(
                    {name: number for name, number in report.user_properties if isinstance(number, int)}
                )
    for name, number in sorted(counted.items()):
        terminalreporter.write_line(f"{name}: {number:,}")
