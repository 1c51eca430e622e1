"""How soon followers get what is appended: 2,000 of 500 runs in one process, beside one follower alone.

    python bench/following.py [--quick]

For each of the two ways to follow, in threads and as tasks, rounds alternate between one follower and all of them,
over clients with redis-py's default pool. An event is appended every few milliseconds to a run drawn by lot, by
the same process. The figure is the time from the call that appends an event until a follower has it, of which 99
in 100 took less: as a rate, so that a ratio over 1 means that all are served faster than one; the aim is 0.2.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import redis.asyncio
from rich.console import Console

import runstream
from bench import Result, bench_server, event, interleaved, report

PAUSE_SECONDS = 0.01
LAST = 1_000_000


class Deliveries:
    """When events were sent, and how long each of them took to reach each of its followers."""

    def __init__(self) -> None:
        self.sent: dict[tuple[str, int], float] = {}
        self.took: list[float] = []
        self.begun = 0

    def send(self, run_id: str, seq: int) -> runstream.PAEvent:
        one: runstream.PAEvent = event(run_id, seq)
        self.sent[run_id, seq] = time.perf_counter()
        return one

    def receive(self, one: runstream.PAEvent) -> bool:
        """Note an event that came; False for the last one of a run."""
        if one.seq == 0:
            self.begun += 1  # its follower is there
        elif one.seq != LAST:
            self.took.append(time.perf_counter() - self.sent[one.run_id, one.seq])
        return one.seq != LAST

    @property
    def rate(self) -> float:
        """How many of the slowest in a hundred would fit into a second."""
        return 1 / statistics.quantiles(self.took, n=100)[98]


def in_threads(port: int, runs: int, per_run: int, events: int) -> float:
    """Followers in a thread each."""
    found, names = Deliveries(), [f"r{number}" for number in range(runs)]
    with redis.Redis(port=port) as client:
        store: Any = runstream.RedisCheckpointer(client, namespace=f"threads-{time.time_ns()}")

        def follow(run_id: str) -> None:
            for item in store.follow(run_id):
                if not found.receive(item.event):
                    return

        store.save_events([found.send(run_id, 0) for run_id in names])
        threads = [threading.Thread(target=follow, args=[run_id]) for run_id in names * per_run]
        for thread in threads:
            thread.start()
        while found.begun < len(threads):
            time.sleep(0.01)
        for seq in range(1, events + 1):
            store.save_event(found.send(random.choice(names), seq))
            time.sleep(PAUSE_SECONDS)
        store.save_events(map(last_event, names))
        for thread in threads:
            thread.join()
    assert len(found.took) == events * per_run
    return found.rate


def as_tasks(port: int, runs: int, per_run: int, events: int) -> float:
    """Followers in a task each."""
    return asyncio.run(_as_tasks(port, runs, per_run, events))


async def _as_tasks(port: int, runs: int, per_run: int, events: int) -> float:
    found, names = Deliveries(), [f"r{number}" for number in range(runs)]
    async with redis.asyncio.Redis(port=port) as client:
        store: Any = runstream.AsyncRedisCheckpointer(client, namespace=f"tasks-{time.time_ns()}")

        async def follow(run_id: str) -> None:
            async for item in store.follow(run_id):
                if not found.receive(item.event):
                    return

        await store.save_events([found.send(run_id, 0) for run_id in names])
        tasks = [asyncio.create_task(follow(run_id)) for run_id in names * per_run]
        while found.begun < len(tasks):  # noqa: ASYNC110 - the count is the threads', too
            await asyncio.sleep(0.01)
        for seq in range(1, events + 1):
            await store.save_event(found.send(random.choice(names), seq))
            await asyncio.sleep(PAUSE_SECONDS)
        await store.save_events(map(last_event, names))
        await asyncio.gather(*tasks)
    assert len(found.took) == events * per_run
    return found.rate


def last_event(run_id: str) -> runstream.PAEvent:
    return runstream.create_event(run_id, runstream.EventKind.RUN_FINISHED, seq=LAST)


def bench_following(
    name: str, way: Callable[[int, int, int, int], float], port: int, rounds: int, runs: int, events: int
) -> Result:
    return interleaved(
        f"the slowest of 100 deliveries to {4 * runs:,} followers of {runs} runs, {name}",
        "the same to one follower alone",
        "/s",
        rounds,
        lambda: way(port, runs, 4, events),
        lambda: way(port, 1, 1, events),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: that it runs, not how fast")
    scale, rounds = (10, 2) if parser.parse_args().quick else (1, 7)
    ways = {"in threads": in_threads, "as tasks": as_tasks}
    with bench_server() as (client, _):
        port: int = client.connection_pool.connection_kwargs["port"]
        results = [
            bench_following(name, way, port, rounds, 500 // scale, 500 // scale) for name, way in ways.items()
        ]
    report(results, Console())


if __name__ == "__main__":
    main()
