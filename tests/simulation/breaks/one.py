"""What a deliberate break is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest

from runstream.stores.redis.scripts.library import SCRIPT
from runstream.testing.simulation import PLANS, Plan
from runstream.testing.simulation.server import SimulatedServer

__all__ = ["BREAK_PLANS", "Break", "InScript", "in_script"]

_RIVALS = replace(PLANS["lapses"], troubles=("leap",), fates=(60, 1, 1, 0, 0, 6, 1, 1))
_LEASES = Plan(
    forms=("contends",) * 2,
    workers=1,
    followers=0,
    runs=1,
    troubles=("leap", "step_clock"),
    fates=(60, 1, 1, 0, 0, 6, 1, 6),
    disk_fates=(1,),
)
_CLAIMS = Plan(
    forms=("plain",) * 4,
    followers=0,
    runs=6,
    turns=20,
    claim_seconds=0.2,
    trims=("archived", "never"),
    troubles=(),
    fates=(1,),
    disk_fates=(1,),
)

BREAK_PLANS: Mapping[str, Plan] = {
    **PLANS,
    # workers who stand still while others take their runs
    "rivals": _RIVALS,
    # a state that many change, and nothing else
    "counters": Plan(forms=("counts",) * 3, followers=0, runs=1),
    # the same, where others go on between the commands of an exchange
    "counters one by one": Plan(forms=("counts",) * 3, followers=0, runs=1, interludes=(1,)),
    # an agent of an event loop that is to come to its end in few steps
    "few, under asyncio": replace(
        PLANS["asyncio one by one"], loops=(("plain",),), async_followers=0, runs=1, turns=4, most_steps=2_000
    ),
    # agents that stand still with a lease on the lane that they share
    "leases": _LEASES,
    # the same, and leases of other lanes that are renewed meanwhile
    "renewals": replace(_LEASES, forms=("contends", "contends", "leases")),
    # leases on a run that is retired in between, while the server's clock is set
    "clocks": Plan(
        forms=("contends",) * 2,
        operators=1,
        workers=1,
        followers=0,
        runs=1,
        is_tiered=True,
        retire_after_seconds=0.02,
        trims=("archived",),
        troubles=("step_clock",) * 3,
        fates=(1,),
        disk_fates=(1,),
    ),
    # a run that ends over and over, and workers who stand still while others retire it
    "ends": replace(
        _RIVALS,
        operators=1,
        workers=2,
        is_tiered=True,
        retire_after_seconds=0.05,
        trims=("never",),
    ),
    # writers who say how many events there may be, and whose requests come late
    "late limits": replace(PLANS["limits"], fates=(100, 3, 5, 1, 2, 1, 1, 8)),
    # a run that operators put back and verify while workers trim it
    "trims": replace(
        PLANS["deletions"],
        forms=("plain",) * 2,
        operators=3,
        acts=("restore", "verify"),
        readers=0,
        turns=10,
        trims=("archived",),
        fates=(1,),
        disk_fates=(1,),
    ),
    # writers who stand still, of a server that fails over all the while
    "losses": replace(
        PLANS["lapses"],
        forms=("plain",) * 3,
        troubles=("replicate", "fail_over", "replicate", "fail_over", "leap"),
        fates=(30, 1, 1, 0, 0, 2, 2, 1),
    ),
    # more writers than a run remembers for long, requests that come late, and a clock that is set over and over
    "many": Plan(
        forms=("plain",) * 18,
        workers=1,
        followers=0,
        runs=1,
        turns=4,
        trims=("never",),
        troubles=("step_clock",) * 12,
        fates=(20, 0, 1, 0, 3, 0, 0, 12),
        disk_fates=(1,),
    ),
    # a run that is retired over and over, and goes on or is put back
    "returns": Plan(
        forms=("runs", "counts", "scatters"),
        workers=1,
        followers=0,
        runs=1,
        operators=2,
        is_tiered=True,
        retire_after_seconds=0.02,
        trims=("archived", "covered"),
        troubles=("leap", "step_clock"),
        fates=(60, 1, 2, 0, 0, 1, 1, 1),
        disk_fates=(1,),
    ),
    # workers who have much in hand, and nothing befalls anybody
    "claims": _CLAIMS,
    # agents that lease a whole run and one of its lanes, and one that writes without a lease
    "owners": Plan(
        forms=("owns", "contends", "plain"),
        workers=1,
        followers=0,
        runs=1,
        turns=6,
        troubles=(),
        fates=(1,),
        disk_fates=(1,),
    ),
    # agents that lease a lane from each other, and an operator who writes it without a lease
    "intruders": Plan(
        forms=("contends",) * 2,
        operators=1,
        acts=("intrude",),
        workers=1,
        followers=0,
        runs=1,
        is_tiered=True,
        troubles=("leap",),
        fates=(60, 1, 1, 0, 0, 2, 2, 1),
        disk_fates=(1,),
    ),
    # leases on a run that never comes to be, which run out while others take them, and are cleared
    "no runs": Plan(
        forms=(),
        operators=3,
        acts=("lease",),
        followers=0,
        runs=1,
        turns=10,
        is_tiered=True,
        retire_after_seconds=0.1,
        troubles=("leap",),
        fates=(10, 0, 0, 0, 0, 0, 0, 3),
        disk_fates=(1,),
    ),
    # leases on runs that have ended, have been retired, and are not there
    "ended": Plan(
        forms=(),
        operators=2,
        acts=("append", "end_own", "lease"),
        workers=1,
        followers=0,
        runs=1,
        turns=20,
        is_tiered=True,
        retire_after_seconds=0.1,
        forget_after_seconds=20.0,
        trims=("archived",),
        troubles=("leap",),
        fates=(1,),
        disk_fates=(1,),
    ),
    # operators who put a run back while it is retired over and over, and get no reply now and then
    "restores": Plan(
        forms=("plain",) * 3,
        operators=2,
        acts=("end", "restore", "restore"),
        workers=1,
        followers=0,
        runs=1,
        turns=8,
        is_tiered=True,
        retire_after_seconds=0.02,
        trims=("archived",),
        troubles=("leap",),
        fates=(30, 0, 4, 0, 0, 0, 0, 0),
        disk_fates=(1,),
    ),
    # operators who drop an archive each, and add it again
    "drops": Plan(
        forms=("plain",),
        operators=2,
        acts=("drop",),
        workers=1,
        followers=0,
        runs=1,
        troubles=("leap",) * 4,
        fates=(1,),
        disk_fates=(1,),
    ),
    # operators who delete runs that are claimed, and make them anew
    "deletes": Plan(
        forms=(),
        operators=2,
        acts=("append", "delete"),
        followers=0,
        runs=1,
        turns=10,
        is_tiered=True,
        claim_seconds=0.2,
        trims=("archived",),
        troubles=("leap",),
        fates=(15, 0, 0, 0, 0, 1, 1, 0),
        disk_fates=(1,),
    ),
    # workers who have much in hand, and an operator who unparks what is not parked
    "unparks": replace(_CLAIMS, operators=1, acts=("unpark",), turns=30),
    # a run whose tags change all the while, and workers who stand still
    "taggers": replace(
        PLANS["tags"],
        forms=("tags",) * 4,
        loops=(),
        workers=3,
        turns=15,
        troubles=("leap",),
        fates=(20, 0, 0, 0, 0, 2, 0, 6),
        call_fates=(1,),
        disk_fates=(1,),
    ),
    # two whose events go together or one by one, and whose replies are lost
    "pairs": replace(PLANS["together"], forms=("tells",) * 3, loops=(), fates=(60, 3, 20, 1, 1, 1, 1, 2)),
    # a run that is to be drained in few steps
    "few": Plan(forms=("plain",), workers=1, followers=0, runs=1, most_steps=600, most_calm_steps=600),
}
"""The games in which breaks are looked for, by name."""


class Break(NamedTuple):
    """A break of the protocol.

    Attributes:
        name: What it is.
        plan: In which games it is looked for; see :data:`BREAK_PLANS`.
        make: Makes it.
        seed: One that finds it: it is tried first.
    """

    name: str
    plan: str
    make: Callable[[pytest.MonkeyPatch], None]
    seed: int = 1


@dataclass(frozen=True)
class InScript:
    """Puts other text in the place of some of a script's.

    Attributes:
        script: The name of the script.
        changes: The texts, each with the other one.
    """

    script: str
    changes: Sequence[tuple[str, str]]

    def __call__(self, patched: pytest.MonkeyPatch) -> None:
        """Let simulated servers have the script with the other texts."""
        source = SCRIPT[self.script].source
        for text, other in self.changes:
            assert source.count(text) == 1, (self.script, text)
            source = source.replace(text, other)
        patched.setattr(SimulatedServer, "broken", {self.script: source})


def in_script(script: str, *changes: tuple[str, str]) -> InScript:
    """Put other text in the place of some of a script's."""
    return InScript(script, changes)
