"""How soon browsers get what is appended: 2,000 streams of one process, beside an endpoint written by hand.

    python bench/web.py [--quick]

Both are served by uvicorn in a process of their own, and read by as many sockets here. The one written by hand is
FastAPI with a loop over ``XREAD`` in each stream: no archive, no check of its position, no loss told. An event is
appended whenever all streams have the one before: to the one run that all of them show, or to one of as many runs
as there are streams. The figure is the time from the call that appends until a stream has it. Beside a follower in
Python, a stream of one run shows what HTTP adds.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import re
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis.asyncio
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from rich.console import Console
from rich.table import Table

import runstream
import runstream.web
from bench import bench_server, event
from runstream.web.path_ids import path_id

PAUSE_SECONDS = 0.005
LONGEST_WAIT_SECONDS = 60.0
_STAMP = re.compile(rb'"sent": ?([0-9.]+)[,}]')


class Took(list[float]):
    """How long events took, and whoever waits for so many of them."""

    def __init__(self) -> None:
        super().__init__()
        self._awaited, self._is_there = 0, asyncio.Event()

    def note(self, seconds: float) -> None:
        self.append(seconds)
        if len(self) == self._awaited:
            self._is_there.set()

    async def wait_for(self, count: int) -> None:
        self._awaited, self._is_there = count, asyncio.Event()
        if len(self) < count:
            await in_time(self._is_there.wait(), "the last events")


@dataclass
class Figures:
    """What one round has shown of one way.

    Attributes:
        took: How long events took until a stream had them, in seconds.
        processor: The processor time that the server took for each of these, in seconds.
        memory: What it needed for the streams, in bytes.
    """

    took: Took = field(default_factory=Took)
    processor: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        self.took += other.took
        self.processor += other.processor
        self.memory += other.memory


# -- what serves -----------------------------------------------------------------------------------------


def ours(port: int, namespace: str) -> Any:
    """The app, over the store of a namespace."""
    return runstream.web.app(
        runstream.connect_async(f"redis://127.0.0.1:{port}?namespace={namespace}"), max_streams=5000
    )


def by_hand(port: int, _: str) -> Any:
    """What is written by hand: each stream has a connection that blocks in XREAD."""
    app, client = FastAPI(), redis.asyncio.Redis(port=port, max_connections=5000, socket_connect_timeout=60)

    @app.get("/runs/{run_id}/stream")
    async def stream(run_id: str) -> StreamingResponse:
        async def frames() -> AsyncIterator[bytes]:
            last = b"0-0"
            while True:
                found: Any = await client.xread({f"hand:{run_id}": last}, block=15_000, count=100)
                for _, entries in found:
                    for entry_id, fields in entries:
                        last = entry_id
                        yield b"id: %s\ndata: %s\n\n" % (entry_id, fields[b"data"])

        return StreamingResponse(frames(), media_type="text/event-stream")

    return app


def serve(make: Callable[[int, str], Any], port: int, namespace: str, listener: socket.socket) -> None:
    config = uvicorn.Config(make(port, namespace), log_config=None, timeout_graceful_shutdown=1, backlog=4096)
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


@contextmanager
def serving(make: Callable[[int, str], Any], port: int, namespace: str) -> Iterator[tuple[int, int]]:
    """An app in a process of its own: the port that it listens at, and the process."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as `runstream web` does
        process = multiprocessing.get_context("fork").Process(target=serve, args=(make, port, namespace, listener))
        process.start()
        try:
            assert process.pid is not None
            yield listener.getsockname()[1], process.pid
        finally:
            process.kill()
            process.join()


def memory_of(pid: int) -> int:
    """What a process has of memory, in bytes."""
    (line,) = (one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def processor_of(pid: int) -> float:
    """The processor time that a process has taken, in its first thread, in seconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def settled(pid: int) -> None:
    """Wait until a process has nothing more to do: streams that have their history begin to follow."""
    before = -1.0
    while processor_of(pid) - before > 0.01:
        before = processor_of(pid)
        await asyncio.sleep(0.5)


# -- what reads and writes -------------------------------------------------------------------------------


class Reader(asyncio.Protocol):
    """A stream's reader: notes how long each event took to come."""

    def __init__(self, path: str, took: Took) -> None:
        self._path, self._took, self._rest = path, took, b""
        self.begun = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        transport.write(f"GET {self._path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        now = time.time()
        text, end = self._rest + data, 0
        for found in _STAMP.finditer(text):
            end = found.end()
            if sent := float(found[1]):
                self._took.note(now - sent)
            else:
                self.begun.set()  # the first event: it has the history
        self._rest = text[end:][-100:]


class Writer:
    """Appends events with the time in them, as ours has them or for what is written by hand."""

    def __init__(self, make: Any, client: Any, store: Any) -> None:
        self._by_hand, self._client, self._store = make is by_hand, client, store

    def path(self, run_id: str) -> str:
        return f"/runs/{run_id if self._by_hand else path_id(run_id)}/stream"

    async def append(self, run_id: str, seq: int, sent: float) -> None:
        one = event(run_id, seq)
        one.payload["sent"] = sent
        if self._by_hand:
            await self._client.xadd(f"hand:{run_id}", {"data": one.to_json()})
        else:
            await self._store.save_event(one)


async def one_round(make: Any, port: int, namespace: str, streams: int, runs: int, events: int) -> Figures:
    """Open the streams, append, and see."""
    found, loop = Figures(), asyncio.get_running_loop()
    async with redis.asyncio.Redis(port=port) as client:
        store: Any = runstream.AsyncRedisCheckpointer(client, namespace=namespace)
        writer, names = Writer(make, client, store), [f"r{time.time_ns()}-{number}" for number in range(runs)]
        for name in names:
            await writer.append(name, 0, 0.0)
        with serving(make, port, namespace) as (listens_at, pid):
            warm = await open_streams(loop, listens_at, [writer.path(names[0])], Took())
            before = memory_of(pid)
            paths = [writer.path(names[number % runs]) for number in range(streams)]
            opened = await open_streams(loop, listens_at, paths, found.took)
            await settled(pid)
            if streams > 1:  # of one it says nothing
                found.memory.append((memory_of(pid) - before) / streams)
            spent = processor_of(pid)
            for seq in range(1, events + 1):
                await writer.append(names[seq % runs], seq, time.time())
                await found.took.wait_for(seq * streams // runs)
                await asyncio.sleep(PAUSE_SECONDS)
            found.processor.append((processor_of(pid) - spent) / len(found.took))
            for transport in (*warm, *opened):
                transport.abort()
    return found


async def in_time(waited: Awaitable[Any], what: str) -> None:
    """Wait, but not without end: RuntimeError where what is waited for was lost."""
    try:
        await asyncio.wait_for(waited, LONGEST_WAIT_SECONDS)
    except TimeoutError as error:
        raise RuntimeError(f"{what} did not come within {LONGEST_WAIT_SECONDS:.0f} s: one may be lost") from error


async def open_streams(loop: Any, port: int, paths: list[str], took: Took) -> list[Any]:
    opened = []
    for first in range(0, len(paths), 100):
        pairs = [
            await loop.create_connection(lambda path=path: Reader(path, took), "127.0.0.1", port)
            for path in paths[first : first + 100]
        ]
        for _, reader in pairs:
            await in_time(reader.begun.wait(), "the first frame of a stream")
        opened += [transport for transport, _ in pairs]
    return opened


async def followed(port: int, namespace: str, events: int) -> Figures:
    """One follower in Python, in this process."""
    found = Figures()
    async with redis.asyncio.Redis(port=port) as client:
        store: Any = runstream.AsyncRedisCheckpointer(client, namespace=namespace)
        run_id, writer = f"f{time.time_ns()}", Writer(ours, client, store)
        await writer.append(run_id, 0, 0.0)
        begun = asyncio.Event()

        async def follow() -> None:
            async for item in store.follow(run_id):
                begun.set()
                if sent := item.event.payload["sent"]:
                    found.took.note(time.time() - sent)
                if item.event.seq == events:
                    return

        task = asyncio.create_task(follow())
        await in_time(begun.wait(), "the follower's first event")
        for seq in range(1, events + 1):
            await writer.append(run_id, seq, time.time())
            await found.took.wait_for(seq)
            await asyncio.sleep(PAUSE_SECONDS)
        await in_time(task, "the follower's last event")
    return found


def shown(name: str, found: Figures) -> tuple[str, ...]:
    cuts = statistics.quantiles(found.took, n=100)
    processor = f"{statistics.median(found.processor) * 1e6:,.0f} µs" if found.processor else ""
    memory = f"{statistics.median(found.memory) / 1024:,.0f} kB" if found.memory else ""
    return name, f"{cuts[49] * 1000:,.2f} ms", f"{cuts[98] * 1000:,.2f} ms", processor, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: that it runs, not how fast")
    scale, rounds = (20, 1) if parser.parse_args().quick else (1, 5)
    streams, few, many = 2000 // scale, 50 // scale + 5, 300 // scale
    plans = {
        "one stream": (1, 1, many),
        f"{streams:,} streams of one run": (streams, 1, few),
        f"{streams:,} streams of as many runs": (streams, streams, many),
    }
    table = Table("streams", "p50", "p99", "processor, each", "memory, each")
    with bench_server() as (client, _):
        port: int = client.connection_pool.connection_kwargs["port"]
        results: dict[str, Figures] = {"follow, in Python": Figures()}
        for number in range(rounds):
            namespace = f"web-{number}"
            results["follow, in Python"].add(asyncio.run(followed(port, namespace, many)))
            for plan, (count, runs, events) in plans.items():
                for name, make in (("ours", ours), ("by hand", by_hand)):
                    found = asyncio.run(one_round(make, port, namespace, count, runs, events))
                    results.setdefault(f"{plan}, {name}", Figures()).add(found)
    for name, found in results.items():
        table.add_row(*shown(name, found))
    console = Console()
    console.print(table)
    console.print(f"Python {sys.version.split()[0]}, {rounds} rounds")


if __name__ == "__main__":
    main()
