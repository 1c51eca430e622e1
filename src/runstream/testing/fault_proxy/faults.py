"""The faults of a proxy: what can happen to a round trip, to which one it happens, and how often it has."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum

from runstream.testing.fault_proxy.resp import UNPAIRED, counts

__all__ = ["BEFORE", "Fault", "FaultSchedule", "Plan"]


class Fault(Enum):
    """What can happen to a round trip."""

    DROP_REPLY = "drop_reply"
    """The server applies the commands and answers; the client gets nothing and is disconnected."""
    DROP_REQUEST = "drop_request"
    """The client is disconnected before any byte reaches the server."""
    CUT_REPLY = "cut_reply"
    """The server applies the commands and answers; the client gets half of the bytes and is disconnected."""
    CUT_REQUEST = "cut_request"
    """The server gets half of the bytes. When it has applied the commands that are complete in that half (of a
    single command or a MULTI: nothing) and has ended the connection, the client is disconnected."""
    DELAY = "delay"
    """The server applies the commands and answers; the client gets that ``delay_seconds`` later."""


BEFORE = frozenset({Fault.DROP_REQUEST, Fault.CUT_REQUEST})
"""The faults that strike before the server has the whole request."""


@dataclass
class Plan:
    """A fault that is armed, and which round trips it strikes.

    Attributes:
        fault: What happens to them.
        skip: How many matching round trips go through before.
        times: How many it strikes then.
        commands: The names of commands of which a round trip must have one; None: every round trip that counts.
        delay_seconds: How long a delayed reply is held back.
    """

    fault: Fault
    skip: int
    times: int
    commands: frozenset[str] | None
    delay_seconds: float

    def matches(self, names: Collection[str]) -> bool:
        """Whether the fault may strike a round trip of these commands."""
        if not UNPAIRED.isdisjoint(names):
            return False
        return counts(names) if self.commands is None else not self.commands.isdisjoint(names)


class FaultSchedule:
    """The armed fault and the counters of one proxy, which its connections share. Safe between threads."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        """Guards all that follows, the set of the proxy's connections, and which of these have ended."""
        self.round_trips = self.struck = 0
        self._plan: Plan | None = None
        self._releases = 0  # how often delayed replies were let go

    def arm(self, plan: Plan) -> None:
        """Arm a fault in place of what was armed before."""
        with self.changed:
            self._plan = plan

    def disarm(self) -> None:
        """Arm nothing, and deliver what is being delayed."""
        with self.changed:
            self._plan = None
            self._releases += 1
            self.changed.notify_all()

    def reset(self) -> None:
        """Set the counters to 0."""
        with self.changed:
            self.round_trips = self.struck = 0

    def take(self, names: Collection[str]) -> Plan | None:
        """Count a round trip of these commands, and return the plan that strikes it, or None."""
        with self.changed:
            plan, striking = self._plan, None
            if plan is not None and plan.matches(names):
                if plan.skip:
                    plan.skip -= 1
                else:
                    striking = plan
                    plan.times -= 1
                    self._plan = plan if plan.times else None
            if counts(names) and (striking is None or striking.fault not in BEFORE):
                self.round_trips += 1
            return striking

    def strike(self) -> None:
        """Count a fault that strikes now."""
        with self.changed:
            self.struck += 1

    def delay(self, seconds: float, has_ended: Callable[[], bool]) -> None:
        """Count a delay, and return when it has passed, faults were disarmed, or the connection has ended."""
        with self.changed:
            self.struck += 1
            releases = self._releases
            self.changed.wait_for(lambda: has_ended() or self._releases != releases, seconds)
