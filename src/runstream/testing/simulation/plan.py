"""Who takes part in a game, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Finding", "Plan"]


@dataclass(frozen=True)
class Plan:
    """Who takes part in a game, and what may befall them.

    Attributes:
        forms: How the agents work, one each (see :data:`runstream.testing.agents.AGENTS`), ``asks``, ``steps``,
            ``tags`` or ``finds``.
        loops: The forms of agents that share a process, its event loop and its store for asyncio, one for each.
        workers: How many drain workers there are.
        followers: How many follow the first run, through an archive as well.
        async_followers: How many do so under asyncio.
        all_followers: How many follow all runs at once, likewise.
        async_all_followers: How many do so under asyncio.
        forks: Whether agents' processes fork now and then: the child goes on with all that the parent has.
        runs: How many runs there are.
        turns: How often each agent writes.
        operators: How many operators there are, who end, retire, restore and delete runs.
        acts: What these do: names of methods of :class:`~.players.operator.OperatorPlayer`, without the
            underscore; none are named: what is usual.
        branchers: How many fork runs, write to the forks, and delete some.
        archivists: How many operators there are who add archives and drop some.
        resolvers: How many operators there are who resolve runs that are parked, until none is.
        readers: How many read runs through Redis and an archive, in all ways.
        servers: How many servers of a cluster share the partitions; 1: it is no cluster.
        is_tiered: Agents use Redis and an archive as one store.
        durability: What agents ask for: ``replicated=1`` is given by the replica, and lost by no failover.
        retire_after_seconds: After how long a quiet run that has ended is retired; None: never.
        retire_idle_seconds: After how long any quiet run is retired; None: never.
        forget_after_seconds: After how long one that was retired is forgotten; None: never.
        claim_seconds: How long a claim lasts.
        trims: What workers may trim.
        troubles: What befalls them at the server: names of methods of :class:`Game`.
        fates: The weights of the fates of a round trip, in the order of :class:`~.server.Fate`.
        interludes: The weights of what becomes of an exchange between two of its commands, where it is not atomic,
            in the order of :class:`~.moments.Interlude`: others go on there. None: each is executed at one moment.
        gathers: Appends that are about to be sent to one run go together, in one call.
        call_fates: The weights of what becomes of an agent's call: it is waited for, or broken off: cancelled
            under asyncio, elsewhere interrupted by a signal.
        disk_fates: The weights of what becomes of a write to a file: it is made, the process is killed before it,
            it fails.
        most_steps: Within how many steps the agents have written all that they will, whatever comes.
        most_calm_steps: Within how many steps, once the troubles have ended, every run is drained, or parked with
            a reason, and everybody has come to an end.
    """

    forms: Sequence[str] = ("plain", "leases", "runs", "resends", "counts", "counts")
    loops: Sequence[Sequence[str]] = ()
    workers: int = 2
    followers: int = 1
    async_followers: int = 0
    all_followers: int = 0
    async_all_followers: int = 0
    forks: bool = False
    runs: int = 2
    turns: int = 12
    operators: int = 0
    acts: Sequence[str] = ()
    branchers: int = 0
    archivists: int = 0
    resolvers: int = 0
    readers: int = 0
    servers: int = 1
    is_tiered: bool = False
    durability: str = "primary"
    retire_after_seconds: float | None = None
    retire_idle_seconds: float | None = None
    forget_after_seconds: float | None = None
    claim_seconds: float = 2.0
    trims: Sequence[str] = ("archived", "never", "covered")
    troubles: Sequence[str] = ("restart", "leave", "leap", "step_clock")
    fates: Sequence[int] = (300, 3, 5, 1, 2, 1, 1, 2)
    interludes: Sequence[int] = ()
    gathers: bool = False
    call_fates: Sequence[int] = (1,)
    disk_fates: Sequence[int] = (300, 1, 1)
    most_steps: int = 60_000
    most_calm_steps: int = 10_000

    @property
    def loses(self) -> bool:
        """Whether the server may lose what it has acknowledged."""
        return not {"fail_over", "split"}.isdisjoint(self.troubles)

    @property
    def keeps(self) -> bool:
        """Whether a failover loses nothing that agents were told to be written."""
        return self.durability != "primary"


@dataclass
class Finding:
    """What came of a game: what was wrong, the choices by which it is played again, and its story."""

    seed: int
    faults: list[str]
    choices: list[int]
    story: list[str]
    steps: int = 0
    events: int = 0
    losses: int = 0
