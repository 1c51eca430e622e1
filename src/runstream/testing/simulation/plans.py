"""The games that are played by default."""

from __future__ import annotations

from dataclasses import replace

from runstream.testing.simulation.plan import Plan

__all__ = ["PLANS"]

_AT_ONE_MOMENT = {
    # replies lost, processes killed or stopped, disks that fail, a server that restarts, leaves, sets its clock
    "storm": Plan(),
    # a server that loses what it has acknowledged, over and over
    "failovers": Plan(
        forms=("plain", "leases", "runs", "resends"),
        troubles=("restart", "leave", "leap", "replicate", "replicate", "fail_over"),
    ),
    # writers who wait for the replica, which takes the server's place over and over: they lose nothing
    "replicated": Plan(
        forms=("plain", "runs", "counts", "contends"),
        durability="replicated=1",
        troubles=("restart", "leave", "leap", "fail_over", "fail_over"),
    ),
    # servers of a cluster, whose partitions go from one to another, and which lose what they have acknowledged
    "cluster": Plan(
        forms=("plain", "leases", "runs", "resends"),
        loops=(("plain", "contends"),),
        servers=2,
        operators=1,
        troubles=("move_slot", "move_slot", "move_slot", "leave", "leap", "replicate", "fail_over"),
    ),
    # agents that share an event loop, and break off some of their calls
    "asyncio": Plan(
        forms=(),
        loops=(("plain", "leases", "runs"), ("plain", "counts", "resends")),
        workers=1,
        followers=0,
        async_followers=1,
        call_fates=(12, 1),
    ),
    # writers who say where their events are to go, and how many there may be
    "limits": Plan(forms=("expects",) * 4, runs=1, fates=(300, 3, 5, 1, 2, 1, 1, 6)),
    # writers who know what the others have written, and append by the fastest way: many replies are lost
    "readers": Plan(
        forms=("reads", "reads", "reads"),
        workers=1,
        followers=0,
        runs=1,
        turns=20,
        fates=(150, 2, 15, 2, 2, 1, 1, 4),
    ),
    # leases that are kept long enough to be renewed, by a clock that is set forwards and back over and over
    "set clocks": Plan(
        forms=("leases", "leases"),
        loops=(("contends", "leases"),),
        operators=2,
        acts=("lease", "append"),
        workers=1,
        followers=0,
        runs=1,
        turns=8,
        is_tiered=True,
        troubles=("step_clock",) * 4 + ("leave", "leap"),
        fates=(200, 2, 3, 1, 1, 3, 3, 2),
    ),
    # workers who stand still while others take their runs, and a server that loses what they have archived
    "lapses": Plan(
        forms=("plain", "plain"),
        workers=3,
        followers=0,
        runs=1,
        turns=20,
        claim_seconds=0.2,
        trims=("archived",),
        troubles=("replicate", "fail_over", "leap", "leap", "leap"),
        fates=(100, 1, 1, 0, 0, 2, 2, 1),
        disk_fates=(1,),
    ),
    # many writers who come and go, so that producers are forgotten
    "crowd": Plan(
        forms=("plain",) * 5 + ("runs", "counts", "counts"),
        runs=1,
        turns=8,
        fates=(200, 2, 10, 4, 4, 1, 3, 4),
        troubles=("restart", "leave", "leap", "step_clock", "step_clock"),
        trims=("covered", "never"),
    ),
    # two primaries at once, whose clocks differ; agents that share a lane by leases in one event loop
    "split brain": Plan(
        forms=("plain", "runs"),
        loops=(("contends", "contends", "leases"),),
        troubles=("restart", "leave", "leap", "replicate", "split", "split"),
    ),
    # machines of archives that lose power, over and over, and disks that fail
    "power loss": Plan(
        forms=("plain", "runs", "counts"),
        turns=20,
        troubles=("lose_power", "lose_power", "lose_power", "leap"),
        disk_fates=(100, 1, 1),
    ),
    # a server that has no memory left, over and over, which evicts keys, or refuses commands for other reasons;
    # agents that lease the whole run, or write in more lanes than workers look at each time
    "full server": Plan(
        forms=("contends", "owns", "runs", "counts", "scatters", "scatters"),
        runs=1,
        turns=8,
        troubles=("restart", "leap", "step_clock", "fill", "fill", "refuse", "evict", "evict"),
    ),
    # processes that fork while their server loses what it has acknowledged, and signals that interrupt calls
    "forks": Plan(
        forms=("plain", "runs", "resends"),
        loops=(("plain",), ("plain",)),
        forks=True,
        workers=1,
        followers=0,
        call_fates=(12, 1),
        troubles=("restart", "leave", "leap", "replicate", "replicate", "fail_over"),
    ),
    # runs that are forked while they are written to, and forks that are forked, deleted and made again
    "branches": Plan(forms=("plain", "runs"), branchers=2, followers=0, runs=1, turns=14),
    # the same beside a server that loses parents, forks, and what either knows of the other
    "lost branches": Plan(
        forms=("plain", "leases"),
        branchers=2,
        followers=0,
        runs=1,
        turns=8,
        troubles=("restart", "leap", "replicate", "replicate", "fail_over", "fill"),
    ),
    # runs that end, are retired, go on, are put back and read meanwhile; agents that share a lane by leases
    "retirements": Plan(
        forms=("plain", "contends", "contends", "runs", "counts", "counts"),
        operators=1,
        readers=1,
        followers=0,
        is_tiered=True,
        retire_after_seconds=0.1,
    ),
    # runs that are retired whenever they were quiet for a moment, and go on, answered by people or written to
    "idle": Plan(
        forms=("asks", "contends", "runs", "counts"),
        readers=1,
        is_tiered=True,
        retire_idle_seconds=0.05,
    ),
    # runs that are forgotten after they were retired, and some that are deleted and made anew
    "deletions": Plan(
        forms=("resends", "runs"),
        operators=2,
        readers=1,
        followers=0,
        runs=1,
        is_tiered=True,
        retire_after_seconds=0.1,
        forget_after_seconds=20.0,
    ),
    # operators who erase content of runs, and truncate them, while they are archived, trimmed and retired
    "erasures": Plan(
        forms=("plain", "runs"),
        operators=2,
        acts=("append", "append", "erase", "erase", "truncate", "end_own", "trim", "verify"),
        followers=0,
        runs=1,
        turns=16,
        is_tiered=True,
        retire_after_seconds=0.1,
    ),
    # the same beside a server that loses what it was asked for, with states that hold what is erased, and leases
    "lost erasures": Plan(
        forms=("plain",),
        operators=2,
        acts=("append", "append", "append", "erase", "erase", "truncate", "save", "lease", "end_own"),
        followers=0,
        runs=1,
        turns=8,
        is_tiered=True,
        retire_after_seconds=0.1,
        troubles=("replicate", "replicate", "fail_over", "fail_over", "fail_over", "leap"),
    ),
    # agents that save the states of several lanes with their events, and end them, some of which are broken off
    "lanes": Plan(
        forms=("saves", "checkpoints"),
        loops=(("saves", "checkpoints"),),
        followers=0,
        runs=1,
        turns=12,
        call_fates=(12, 1),
        is_tiered=True,
    ),
    # agents that share durable steps
    "steps": Plan(forms=("steps", "steps", "steps", "runs"), runs=1, turns=14, call_fates=(12, 1)),
    # agents that change tags, with events and alone, of runs that end, are retired, go on and are put back
    "tags": Plan(
        forms=("tags", "finds"),
        loops=(("finds",),),
        operators=1,
        followers=0,
        runs=1,
        turns=10,
        is_tiered=True,
        retire_after_seconds=0.1,
        troubles=("restart", "leave", "leap", "step_clock", "unindex"),
        call_fates=(12, 1),
    ),
    # the same beside a server that loses them
    "lost tags": Plan(
        forms=("tags", "tags"),
        followers=0,
        runs=1,
        troubles=("leave", "leap", "step_clock", "replicate", "fail_over", "split"),
    ),
    # operators who resolve runs whose histories have parted in a failover; what is late, or put back by a store
    # after `resolve --keep both`, may be there twice then (docs/protocol.md, Limits)
    "resolutions": Plan(
        forms=("plain", "plain", "runs"),
        followers=0,
        resolvers=1,
        runs=1,
        turns=20,
        troubles=("fail_over", "fail_over", "fail_over", "leap"),
        fates=(300, 3, 5, 1, 2, 1, 1, 0),
    ),
    # agents whose events go together, in one call
    "together": Plan(
        forms=("tells", "tells", "tells", "tells", "leases", "runs"),
        loops=(("tells", "tells"),),
        runs=1,
        turns=14,
        call_fates=(12, 1),
        gathers=True,
        retire_after_seconds=0.5,
    ),
    # the same beside a server that loses them
    "lost together": Plan(
        forms=("tells", "tells", "tells", "tells", "contends"),
        runs=1,
        turns=14,
        troubles=("restart", "leave", "leap", "step_clock", "fail_over", "split"),
        gathers=True,
    ),
    # archives that are added and dropped while runs are written and drained
    "archives": Plan(
        forms=("plain", "runs"), archivists=1, followers=0, readers=1, turns=12, trims=("archived", "covered")
    ),
    # an archive that is lost, and put back from an older copy
    "older copies": Plan(
        forms=("plain", "runs"),
        followers=0,
        readers=1,
        turns=12,
        troubles=("back_up", "back_up", "put_back", "put_back", "leap"),
    ),
}
"""Those in which each exchange is executed at one moment."""

_INTERLUDES = (200, 2, 1, 1)
_ONE_BY_ONE = (
    "storm",
    "asyncio",
    "split brain",
    "lost branches",
    "retirements",
    "deletions",
    "lost erasures",
    "lanes",
)
_SHORTER = ("cluster", "branches")
"""Those that are long: the same with fewer turns."""

PLANS = {
    **_AT_ONE_MOMENT,
    # the same where a server executes the commands of an exchange one by one, and others go on in between
    **{f"{name} one by one": replace(_AT_ONE_MOMENT[name], interludes=_INTERLUDES) for name in _ONE_BY_ONE},
    **{f"{name} one by one": replace(_AT_ONE_MOMENT[name], turns=4, interludes=_INTERLUDES) for name in _SHORTER},
}
"""Plans by name."""
