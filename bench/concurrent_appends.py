"""Appends of many tasks, or threads, of one process, each in a tight loop: ratios, interleaved in one run.

    python bench/concurrent_appends.py [--quick]

Each figure is a ratio of rates, ours to that of as many tasks or threads that each send ready-made bytes by `xadd`
of the same client, the median over rounds that alternate between the two; over 1 means ours is faster.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
import redis.asyncio
from rich.console import Console

import runstream
from bench import Result, bench_server, event, interleaved, report


def records(of_each: int) -> list[bytes]:
    return [msgpack.packb(event("r", seq).to_dict()) for seq in range(of_each)]


async def rate_of_tasks(count: int, work: Callable[[int], Awaitable[object]], tasks: int) -> float:
    """How many appends of all tasks are made in a second."""
    begun = time.perf_counter()
    await asyncio.gather(*map(work, range(tasks)))
    return count / (time.perf_counter() - begun)


async def tasks_of_ours(url: str, tasks: int, runs: int, of_each: int) -> float:
    names = [uuid.uuid4().hex for _ in range(runs)]
    events = [[event(names[task % runs], seq) for seq in range(1, of_each + 1)] for task in range(tasks)]
    async with runstream.connect_async(url) as store:
        await asyncio.gather(*(store.save_event(event(names[task % runs], 0)) for task in range(tasks)))

        async def work(task: int) -> None:
            for one in events[task]:
                await store.save_event(one)

        return await rate_of_tasks(tasks * of_each, work, tasks)


async def tasks_by_hand(url: str, tasks: int, runs: int, of_each: int) -> float:
    names, ready = [uuid.uuid4().hex for _ in range(runs)], records(of_each)
    async with redis.asyncio.Redis.from_url(url) as client:
        await asyncio.gather(*(client.xadd(names[task % runs], {"e": ready[0]}) for task in range(tasks)))

        async def work(task: int) -> None:
            for record in ready:
                await client.xadd(names[task % runs], {"e": record})

        return await rate_of_tasks(tasks * of_each, work, tasks)


def rate_of_threads(count: int, work: Callable[[int], None], threads: int) -> float:
    begun = time.perf_counter()
    all_threads = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in all_threads:
        thread.start()
    for thread in all_threads:
        thread.join()
    return count / (time.perf_counter() - begun)


def threads_of_ours(url: str, threads: int, runs: int, of_each: int) -> float:
    names = [uuid.uuid4().hex for _ in range(runs)]
    events = [[event(names[thread % runs], seq) for seq in range(1, of_each + 1)] for thread in range(threads)]
    with runstream.connect(url) as store:
        for name in names:
            store.save_event(event(name, 0))

        def work(thread: int) -> None:
            for one in events[thread]:
                store.save_event(one)

        return rate_of_threads(threads * of_each, work, threads)


def threads_by_hand(url: str, threads: int, runs: int, of_each: int) -> float:
    names, ready = [uuid.uuid4().hex for _ in range(runs)], records(of_each)
    with redis.Redis.from_url(url) as client:

        def work(thread: int) -> None:
            for record in ready:
                client.xadd(names[thread % runs], {"e": record})

        return rate_of_threads(threads * of_each, work, threads)


def bench_tasks(url: str, tasks: int, runs: int, rounds: int, count: int) -> Result:
    def rate(measure: Callable[..., Any]) -> Callable[[], float]:
        return lambda: float(asyncio.run(measure(url, tasks, runs, count // tasks)))

    name = f"save_event of {tasks} task(s) on {runs} run(s)"
    return interleaved(name, "as many of xadd", "events/s", rounds, rate(tasks_of_ours), rate(tasks_by_hand))


def bench_threads(url: str, threads: int, runs: int, rounds: int, count: int) -> Result:
    def rate(measure: Callable[..., float]) -> Callable[[], float]:
        return lambda: measure(url, threads, runs, count // threads)

    name = f"save_event of {threads} threads on {runs} run(s)"
    return interleaved(name, "as many of xadd", "events/s", rounds, rate(threads_of_ours), rate(threads_by_hand))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: that it runs, not how fast")
    quick = parser.parse_args().quick
    count, rounds = (500, 2) if quick else (5000, 7)
    with bench_server() as (client, _):
        url = f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}"
        report(
            [
                *(bench_tasks(url, tasks, runs, rounds, count) for tasks, runs in ((1, 1), (50, 50), (50, 1))),
                *(bench_threads(url, threads, runs, rounds, count) for threads, runs in ((16, 16), (16, 1))),
            ],
            Console(),
        )


if __name__ == "__main__":
    main()
