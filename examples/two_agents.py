"""Two agents, each a process of its own, share a run: each writes a lane, and whoever looks sees one order.

    pip install 'runstream[embedded]' && python examples/two_agents.py

It prints::

    flights found TAP 1015
    hotels found Alpenrose
    the run ended with lanes ['flights', 'hotels'] and offsets [1, 2, 3, 4, 5]
    a third one was refused: the lane 'hotels' is leased to the agent of hotels
"""

import subprocess
import sys
import tempfile

import runstream

FINDS = {"flights": "TAP 1015", "hotels": "Alpenrose"}


def agent(lane: str, url: str) -> None:
    """Work in one lane: nobody else can write it meanwhile, and other lanes go on."""
    with (
        runstream.connect(url) as store,
        store.open_run("trip-42", lane_id=lane, owner=f"the agent of {lane}", lease_ttl=30) as run,
    ):
        run.emit("tool.started", tool=f"search {lane}")
        run.emit("tool.result", found=FINDS[lane])
        run.finish_lane()
        if lane == "hotels":
            try:
                store.lease("trip-42", lane_id="hotels", owner="a third one")
            except runstream.LeaseHeld as held:
                print(f"a third one was refused: the lane 'hotels' is leased to {held.owner}")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        url = f"embedded:{directory}"  # or redis://…: agents on many machines
        with runstream.connect(url) as store:
            agents = [
                subprocess.Popen([sys.executable, __file__, lane, url], stdout=subprocess.PIPE, text=True)
                for lane in FINDS
            ]
            said = "".join(each.communicate()[0] for each in agents)
            store.open_run("trip-42", lane_id="supervisor").finish()
            found = list(store.follow("trip-42"))  # what is there, then what comes, until the run has ended
            for recorded in sorted(found, key=lambda one: one.event.lane_id):
                if "found" in recorded.event.payload:
                    print(recorded.event.lane_id, "found", recorded.event.payload["found"])
            lanes = sorted({one.event.lane_id for one in found} - {"supervisor"})
            print(f"the run ended with lanes {lanes} and offsets {[one.offset for one in found]}")
            print(said, end="")


if __name__ == "__main__" and len(sys.argv) == 3:
    agent(*sys.argv[1:])
elif __name__ == "__main__":
    main()
