"""An agent asks a person in mid-run and ends; another process answers, and a third goes on where the first was.

    pip install 'runstream[embedded]' && python examples/approval.py

It prints::

    the agent searches
    the agent asks, and its process ends
    the run waits: Book Lisbon for 420 EUR?
    a person says: up to 450 EUR
    the agent goes on: up to 450 EUR
    the agent books Lisbon
    the run is completed
"""

import subprocess
import sys
import tempfile

import runstream


def search() -> dict:
    print("the agent searches")
    return {"city": "Lisbon", "price": 420}


def agent(url: str) -> None:
    """The same code before and after the question: a step and a question have keys, and happen once."""
    with runstream.connect(url) as store, store.open_run("trip-42") as run:
        offer = run.once("search", search)
        run.pause(f"Book {offer['city']} for {offer['price']} EUR?", key="book")
        try:
            answer = run.wait(timeout=0.1)  # timeout=None waits for as long as it takes
        except TimeoutError:
            print("the agent asks, and its process ends")
            return
        print("the agent goes on:", answer["note"])
        if answer["ok"]:
            run.once("booked", lambda: print(f"the agent books {offer['city']}"))
        run.finish()


def person(url: str) -> None:
    """What `runstream answer trip-42` does, or a page: from any process, on any machine."""
    with runstream.connect(url) as store:
        (run,) = store.runs(status="paused")
        print("the run waits:", run.waiting_for[0].text)
        store.answer(run.run_id, {"ok": True, "note": "up to 450 EUR"})
        print("a person says: up to 450 EUR")


if __name__ == "__main__" and len(sys.argv) == 3:
    {"agent": agent, "person": person}[sys.argv[1]](sys.argv[2])
elif __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        url = f"embedded:{directory}"
        for who in ("agent", "person", "agent"):
            subprocess.run([sys.executable, __file__, who, url], check=True)
        with runstream.connect(url) as store:
            print("the run is", store.run_info("trip-42").status, flush=True)
