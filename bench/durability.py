"""What each durability costs a write: `save_event` beside the same commands by redis-py, in milliseconds.

    python bench/durability.py [--quick]

A primary that syncs its file once a second, with a replica that keeps none, and one that syncs before each reply,
on this machine: what a network and other disks take is to be added. All take turns within each round.
"""

from __future__ import annotations

import argparse
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

import runstream
from bench import bench_server, event

LEVELS: dict[str, tuple[str, tuple[Any, ...] | None]] = {
    "primary": ("everysec", None),
    "replicated=1": ("everysec", ("WAIT", 1, 1000)),
    "fsync": ("always", ("CONFIG", "GET", "appendfsync")),
}
"""By durability: when the primary syncs its file, and what is sent behind an XADD for as much."""


@contextmanager
def primaries() -> Iterator[dict[str, redis.Redis]]:
    """Clients of two primaries, by when they sync their files; the first one has a replica."""
    with ExitStack() as stack:
        found = {
            policy: stack.enter_context(bench_server("--appendfsync", policy))[0]
            for policy in ("everysec", "always")
        }
        replica, _ = stack.enter_context(bench_server("--appendonly", "no"))
        replica.replicaof("127.0.0.1", port_of(found["everysec"]))
        while replica.info("replication")["master_link_status"] != "up":
            time.sleep(0.05)
        yield found


def port_of(client: redis.Redis) -> int:
    return int(client.connection_pool.connection_kwargs["port"])


def ours(store: Any) -> Callable[[int], float]:
    def seconds(count: int) -> float:
        events = [event(run_id := uuid.uuid4().hex, seq) for seq in range(1, count + 1)]
        store.save_event(event(run_id, 0))
        begun = time.perf_counter()
        for one in events:
            store.save_event(one)
        return (time.perf_counter() - begun) / count

    return seconds


def by_hand(client: Any, confirm: tuple[Any, ...] | None, record: bytes) -> Callable[[int], float]:
    def seconds(count: int) -> float:
        key = uuid.uuid4().hex
        begun = time.perf_counter()
        for _ in range(count):
            with client.pipeline(transaction=False) as pipeline:
                pipeline.xadd(key, {"e": record})
                if confirm is not None:
                    pipeline.execute_command(*confirm)
                pipeline.execute()
        return (time.perf_counter() - begun) / count

    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds: it runs, its figures are worth little")
    rounds, count = (2, 10) if parser.parse_args().quick else (20, 100)
    table = Table("durability", "save_event, ms", "by hand, ms", "ratio", title="one event per call")
    with primaries() as clients, ExitStack() as stack:
        timed: dict[str, tuple[Callable[[int], float], Callable[[int], float]]] = {}
        for level, (policy, confirm) in LEVELS.items():
            url = f"redis://127.0.0.1:{port_of(clients[policy])}?durability={level}"
            store: Any = stack.enter_context(runstream.connect(url))
            record = store._operations.codec.encode_events("r", [event("r", 1)])[0].record
            timed[level] = ours(store), by_hand(clients[policy], confirm, record)
        took: dict[str, list[tuple[float, float]]] = {level: [] for level in timed}
        for _ in range(rounds):
            for level, (first, second) in timed.items():
                took[level].append((first(count), second(count)))
    for level, pairs in took.items():
        medians = [1000 * statistics.median(times) for times in zip(*pairs, strict=True)]
        ratio = statistics.median(one / other for one, other in pairs)
        table.add_row(level, *(f"{median:.2f}" for median in medians), f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
