"""Looks at each settling whether its worker has the claim on the run still."""

from __future__ import annotations

from collections.abc import Callable

from runstream.stores.redis.scripts.script import script_of
from runstream.testing.simulation.plan import Plan
from runstream.testing.simulation.scheduler import Process
from runstream.testing.simulation.server import Done
from runstream.testing.simulation.story import run_of

__all__ = ["ClaimWatch"]


class ClaimWatch:
    """Notes as a fault that a worker took a run that another one had in hand, where nothing befalls anybody.

    Elsewhere a claim may end too early: that does no harm, but that work is done twice.

    Args:
        plan: Says what may befall them.
        note_fault: Is told of each fault.
    """

    def __init__(self, plan: Plan, note_fault: Callable[[str], None]) -> None:
        fates = (plan.fates, plan.disk_fates, plan.call_fates, plan.interludes or (1,))
        self._looks = not plan.troubles and all(len(weights) == 1 for weights in fates)
        self._note_fault = note_fault
        self._holders: dict[str, Process] = {}
        self._visits: set[tuple[str, str]] = set()

    def note(self, done: Done) -> None:
        """Note which runs a process has claimed, and look at which it settles."""
        process = done.process
        for command, reply in zip(done.exchange.commands, done.replies, strict=True) if self._looks else ():
            script = script_of(command)
            if script is not None and script.name == "claim" and isinstance(reply, list):
                claimed = [run_id.decode() for run_id in reply[1][::2]]
                self._holders.update(dict.fromkeys(claimed, process))
                self._visits.difference_update((process.name, run_id) for run_id in claimed)
            elif run_id := run_of(command, "revisit"):  # it is drained whoever has claimed it
                self._visits.add((process.name, run_id))
            elif run_id := run_of(command, "settle"):
                holder = self._holders.get(run_id, process)
                if holder is not process and (process.name, run_id) not in self._visits:
                    self._note_fault(f"{holder.name} took {run_id} while {process.name} had it in hand")
