"""A supervisor starts a worker, which dies by SIGKILL, and starts it again: what is recorded is not done twice.

    pip install 'runstream[embedded]' && python examples/supervisor.py

It prints::

    worker 1 begins at step 0
      asks the model for a plan
      books a flight to Lisbon
    worker 1 died by signal 9
    worker 2 begins at step 2
      books a hotel in Lisbon
    worker 2 ended with 0
    recorded: ['plan', 'flight', 'hotel']
"""

import os
import signal
import subprocess
import sys
import tempfile

import runstream


def say(text: str) -> None:
    print(text, flush=True)


def plan() -> dict:
    say("  asks the model for a plan")
    return {"city": "Lisbon"}


def book(what: str, city: str) -> str:
    say(f"  books {what} {city}")
    return f"receipt for {what} {city}"


def worker(url: str, number: str) -> None:
    """The same code each time: `once` gives what is recorded under a key, or makes the call and records it."""
    with runstream.connect(url) as store, store.open_run("trip-42", owner="worker", lease_ttl=30) as run:
        say(f"worker {number} begins at step {run.state.current_step}")
        city = run.once("plan", plan)["city"]
        for step, (key, what) in enumerate([("flight", "a flight to"), ("hotel", "a hotel in")], start=2):
            run.once(key, book, what, city)
            run.state.current_step = step
            run.checkpoint()
            if number == "1":
                os.kill(os.getpid(), signal.SIGKILL)  # as when the machine goes away
        run.finish()


def supervise(url: str) -> None:
    """Start workers until the run has ended."""
    with runstream.connect(url) as store:
        number, status = 0, None
        while status != "completed":
            number += 1
            code = subprocess.call([sys.executable, __file__, url, str(number)])
            say(f"worker {number} died by signal {-code}" if code < 0 else f"worker {number} ended with {code}")
            status = store.run_info("trip-42").status
        steps = [one.event.payload["step"] for one in store.read("trip-42") if "step" in one.event.payload]
        say(f"recorded: {steps}")


if __name__ == "__main__" and len(sys.argv) == 3:
    worker(*sys.argv[1:])
elif __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        supervise(f"embedded:{directory}")
