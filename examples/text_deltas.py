"""A model's text, piece by piece, at a terminal that is another thread, process or machine than the agent.

    pip install runstream && python examples/text_deltas.py

It prints, as it comes::

    The best time to see Lisbon is in May.
    (9 pieces of text; the last offset is 11)
"""

import threading
import time

import runstream
from runstream import DeltaBuffer

WORDS = ["The", "best", "time", "to", "see", "Lisbon", "is", "in", "May."]


def agent(url: str) -> None:
    """Pieces are held back for a moment and appended together; each stays an event of its own."""
    with (
        runstream.connect(url) as store,
        store.open_run("trip-42", deltas=DeltaBuffer(max_events=4, max_milliseconds=50)) as run,
    ):
        for number, word in enumerate(WORDS):
            run.emit_delta(word if number == 0 else f" {word}")
            time.sleep(0.01)  # as fast as a model speaks
        run.emit("text.done", text=" ".join(WORDS))  # what was held back goes before it
        run.finish()


def terminal(url: str) -> None:
    """Follow the run: what is there, then what comes, until it has ended."""
    with runstream.connect(url) as store:
        pieces = 0
        for recorded in store.follow("trip-42"):
            if recorded.event.kind == "text.delta":
                pieces += 1
                print(recorded.event.payload["text"], end="", flush=True)
        print(f"\n({pieces} pieces of text; the last offset is {recorded.offset})")


if __name__ == "__main__":
    writing = threading.Thread(target=agent, args=("memory:deltas",))
    writing.start()
    terminal("memory:deltas")  # `runstream tail trip-42 --join --url redis://…` does it, too
    writing.join()
