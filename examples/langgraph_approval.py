"""A LangGraph graph that asks a person, is killed while it works, and goes on: no model, no server to install.

    pip install 'runstream[embedded,langgraph]' && python examples/langgraph_approval.py

Each step is a process of its own. The second dies by SIGKILL in the midst of booking; the third asks nobody again.
It prints::

    a process is to ask
      searches
      asks: Book it?
    a process is to answer
      books
    a process is to go on
      books
      has booked: Lisbon, 420 EUR
"""

import os
import signal
import subprocess
import sys
import tempfile
from typing import TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from runstream.integrations.langgraph import RunstreamSaver

THREAD = {"configurable": {"thread_id": "trip-42"}}


class Trip(TypedDict, total=False):
    offer: str
    answer: str
    booked: str


def search(trip: Trip) -> Trip:
    print("  searches")
    return {"offer": "Lisbon, 420 EUR"}


def ask(trip: Trip) -> Trip:
    return {"answer": interrupt(f"Book {trip['offer']}?")}  # the graph ends here until a person has answered


def book(trip: Trip) -> Trip:
    print("  books", flush=True)
    if "answer" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)  # as when the machine goes away
    return {"booked": trip["offer"]}


def main(step: str, url: str) -> None:
    builder = StateGraph(Trip).add_sequence([search, ask, book]).add_edge(START, "search")
    with RunstreamSaver.from_url(url) as saver:
        graph = builder.compile(checkpointer=saver)
        given = {"ask": {"offer": ""}, "answer": Command(resume="yes"), "go on": None}[step]
        trip = graph.invoke(given, THREAD, durability="sync")
        print("  asks:" if "__interrupt__" in trip else "  has booked:", trip.get("booked", "Book it?"))


if __name__ == "__main__" and len(sys.argv) == 3:
    main(*sys.argv[1:])
elif __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        for step in ("ask", "answer", "go on"):
            print(f"a process is to {step}", flush=True)
            subprocess.run([sys.executable, __file__, step, f"embedded:{directory}"])
