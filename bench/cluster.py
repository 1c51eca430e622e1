"""What a call costs on a cluster of three servers beside a single one: in milliseconds, and as a ratio.

    python bench/cluster.py [--quick]

All servers are on this machine, where three share what one has alone: on machines of their own what concerns many
runs is done by all of them at once. Both take turns within each round.
"""

from __future__ import annotations

import argparse
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

import runstream
from bench import bench_server, event

_SLOTS = 16_384
_RUNS = 100


@contextmanager
def cluster() -> Iterator[str]:
    """The URL of a cluster of three servers."""
    with ExitStack() as stack:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "5000")
        servers: list[Any] = [stack.enter_context(bench_server(*options))[0] for _ in range(3)]
        ports = [server.connection_pool.connection_kwargs["port"] for server in servers]
        for number, server in enumerate(servers):
            slots = range(number * _SLOTS // 3, (number + 1) * _SLOTS // 3)
            server.execute_command("CLUSTER", "ADDSLOTS", *slots)
            server.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            server.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0])
        while not all(b"cluster_state:ok" in one.execute_command(b"CLUSTER", b"INFO") for one in servers):
            time.sleep(0.05)
        yield f"redis+cluster://127.0.0.1:{ports[0]}?partitions=64"


def calls(store: Any) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    run_ids = [uuid.uuid4().hex for _ in range(_RUNS)]
    store.save_events([event(run_id, 0) for run_id in run_ids])
    first = run_ids[0]
    return {
        "save_event": lambda: store.save_event(event(first, 1)),
        "list_events of one run": lambda: store.list_events(run_ids[1]),
        f"save_events of {_RUNS} runs": lambda: store.save_events([event(run_id, 1) for run_id in run_ids]),
        "list_runs": store.list_runs,
    }


def seconds(call: Callable[[], object], count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - begun) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds: it runs, its figures are worth little")
    rounds, count = (2, 5) if parser.parse_args().quick else (20, 50)
    table = Table("call", "cluster, ms", "one server, ms", "ratio")
    with cluster() as url, bench_server() as (single, _), ExitStack() as stack:
        port = single.connection_pool.connection_kwargs["port"]
        many = calls(stack.enter_context(runstream.connect(url)))
        one = calls(stack.enter_context(runstream.connect(f"redis://127.0.0.1:{port}?partitions=64")))
        for name, call in many.items():
            pairs = [(seconds(call, count), seconds(one[name], count)) for _ in range(rounds)]
            medians = [1000 * statistics.median(times) for times in zip(*pairs, strict=True)]
            ratio = statistics.median(here / there for here, there in pairs)
            table.add_row(name, *(f"{median:.2f}" for median in medians), f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
