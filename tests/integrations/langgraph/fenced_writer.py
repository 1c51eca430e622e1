"""A process that loads and saves threads when it is told to, and says what came of it."""

from __future__ import annotations

import sys

from runstream import ConcurrencyConflict
from runstream.integrations.langgraph import RunstreamSaver
from tests.integrations.langgraph.checkpoints import config_of, save


def main(url: str) -> None:
    """Do what each line says."""
    with RunstreamSaver.from_url(url) as saver:
        latest = None
        for line in sys.stdin:
            step, thread_id = line.split()
            if step == "load":
                latest = saver.get_tuple(config_of(thread_id))
                print("loaded", flush=True)
                continue
            parent = None if latest is None else latest.checkpoint["id"]
            try:
                save(saver, thread_id, {"messages": ["hello", parent]}, -1 if parent is None else 0, parent)
                print("saved", flush=True)
            except ConcurrencyConflict:
                print("ConcurrencyConflict", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
