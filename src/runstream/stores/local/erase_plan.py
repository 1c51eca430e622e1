"""Plan what an erasure does to a run, for the stores on one machine, or why it is refused. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from runstream.model.erasures import ErasureNote, Spans, has_offset, may_hold
from runstream.model.errors import ConfigurationError
from runstream.model.results import Fork, LeaseGrant
from runstream.model.run_head import EndedLane, RunHead, SnapshotHead
from runstream.operations.erase_arguments import (
    MAY_HOLD,
    MAY_HOLD_SHARED,
    MayNeedEvents,
    begins_elsewhere,
    check_offsets,
    check_own,
    check_truncated,
    may_hold_erased,
)
from runstream.operations.lane_facts import LaneFacts
from runstream.operations.run_forks import has_forks
from runstream.stores.local.lease_rules import Leases, check_only

__all__ = ["EraseOrder", "ErasePlan", "Family", "noted", "plan_erase", "plan_truncate", "sharing"]


@dataclass(frozen=True, slots=True)
class EraseOrder:
    """What a caller asks to be erased of one run: the content at some offsets, or all before an offset.

    ``clean`` are the tokens of latest snapshots that hold nothing of it, or need nothing of it; with ``drops`` the
    others go.
    """

    run_id: str
    spans: Spans = ()
    before: int | None = None
    clean: Collection[str] = ()
    drops: bool = False
    grant: LeaseGrant | None = None

    def note(self, now: float) -> ErasureNote:
        """What is noted of it; ``now`` is Unix time in seconds."""
        return ErasureNote(now, self.spans, self.before)


@dataclass(frozen=True, slots=True)
class ErasePlan:
    """What goes: the content at the offsets of ``spans``, the entries up to ``base``, and snapshots.

    ``dropped`` are the tokens of latest snapshots that go; ``clean`` those of snapshots that stay, whatever they
    cover. ``first_held`` is the first offset whose content goes, though another run may have it.
    """

    start: int
    spans: Spans = ()
    base: int | None = None
    clean: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()
    first_held: int | None = None

    def is_empty(self, head: RunHead) -> bool:
        """Whether nothing of a run goes that stands there."""
        return not self.spans and not self.moves(head)

    def moves(self, head: RunHead) -> bool:
        """Whether the history of a run that stands there begins elsewhere then; a fork's with its own events."""
        return self.base is not None and begins_elsewhere(head, self.base)

    def has(self, offset: int) -> bool:
        """Whether the content at an offset goes."""
        return has_offset(self.spans, offset)

    def end_after(self, end: EndedLane, token: str) -> EndedLane:
        """The end of a lane, whose latest snapshot has this token, once that is carried out.

        A lane that ended with a snapshot that goes has ended without one; one that such a snapshot has opened
        again is not ended by its having none.
        """
        if token not in self.dropped:
            return end
        return end._replace(token="" if end.token == token else token)

    def keeps(self, saved: SnapshotHead) -> bool:
        """Whether an earlier snapshot stays, or a latest one that no caller speaks for."""
        if saved.token in self.clean:
            return True
        if self.base is not None:
            return saved.offset >= self.base
        first = self.spans[0][0] if self.spans and self.first_held is None else self.first_held
        return first is None or not may_hold(saved.offset, self.start, first)


def noted(known: list[ErasureNote], note: ErasureNote) -> ErasureNote:
    """Add a note to those that are known, unless the same was asked for before; gives the one that is there."""
    for one in known:
        if one.text == note.text:
            return one
    known.append(note)
    return note


class Family(NamedTuple):
    """The runs that share some of a run's history.

    Attributes:
        forks: Those that were forked from it.
        snapshots: The latest snapshots of those that share what is to be erased, forks of forks too, each with its
            run.
    """

    forks: Sequence[Fork] = ()
    snapshots: Sequence[tuple[str, SnapshotHead]] = ()


def sharing(run_id: str, first: int, forks_of: Callable[[str], Iterable[Fork]]) -> list[str]:
    """The forks of a run, and the forks of those, that share its history up to an offset or further.

    Args:
        run_id: The run.
        first: The offset.
        forks_of: Gives the forks of a run.
    """
    found = [fork.run_id for fork in forks_of(run_id) if fork.at >= first]
    return [*found, *(each for fork in found for each in sharing(fork, first, forks_of))]


def check_unneeded(run_id: str, head: RunHead, base: int, forks: Iterable[Fork]) -> None:
    """Check that no fork needs what is to be removed of a run.

    Args:
        run_id: The run.
        head: Where it stands.
        base: The offset up to which its events are to be removed.
        forks: Its forks.

    Raises:
        RunHasForks: One does.
    """
    needing = [fork for fork in forks if fork.at > head.begin]
    if needing and begins_elsewhere(head, base):
        raise has_forks(run_id, needing, "truncated")


def plan_erase(
    order: EraseOrder, head: RunHead | None, latest: Iterable[SnapshotHead], leases: Leases, family: Family
) -> ErasePlan:
    """Plan the erasing of content, or raise the error that refuses it.

    Args:
        order: What is asked for.
        head: Where the run stands; None if it is not there.
        latest: The latest snapshots of the run and its lanes.
        leases: Its leases that are in force.
        family: The runs that share its history.

    Raises:
        ConfigurationError: The run has no such events, or latest snapshots may hold them.
        LeaseLost: The lease is not in force any more.
        LeaseHeld: Another's lease is in the way.
    """
    there = _checked(order, head, leases)
    check_offsets(order.run_id, order.spans, there.before_first.offset + 1, there.last.offset)
    plan = ErasePlan(there.begin, order.spans, clean=frozenset(order.clean))
    holding = [saved for saved in latest if not plan.keeps(saved)]
    held = {order.run_id: holding} if holding else {}
    for run_id, saved in family.snapshots:
        if not plan.keeps(saved):
            held.setdefault(run_id, []).append(saved)
    if held and not order.drops:
        holder, its = next(iter(held.items()))
        raise may_hold_erased(holder, its, MAY_HOLD if holder == order.run_id else MAY_HOLD_SHARED)
    return replace(plan, dropped=frozenset(saved.token for saved in holding))


def plan_truncate(
    order: EraseOrder, head: RunHead | None, lanes: LaneFacts, leases: Leases, family: Family
) -> ErasePlan:
    """Plan the removing of all before an offset, or raise the error that refuses it.

    Args:
        order: What is asked for.
        head: Where the run stands; None if it is not there.
        lanes: What is known of its lanes.
        leases: Its leases that are in force.
        family: The runs that share its history.

    Raises:
        ConfigurationError: The history cannot begin there.
        MayNeedEvents: A latest snapshot may need some of these events.
        RunHasForks: Forks of it need some of these events.
        LeaseLost: The lease is not in force any more.
        LeaseHeld: Another's lease is in the way.
    """
    there = _checked(order, head, leases)
    before = order.before or 1
    check_truncated(order.run_id, before, there.last.offset)
    check_own(order.run_id, before, there)
    base = before - 1
    if not begins_elsewhere(there, base):
        return ErasePlan(there.begin)
    check_unneeded(order.run_id, there, base, family.forks)
    ended = {info.lane_id for info in lanes.infos() if info.ended}
    shares = there.fork_of is not None and there.base is None  # these may be of any lane
    needing = [
        saved
        for lane_id, saved in lanes.snapshots.items()
        if saved.offset < base
        and saved.token not in order.clean
        and lane_id not in ended
        and (lane_id is None or shares or lanes.lasts.get(lane_id, (0, 0))[0] > saved.offset)
    ]
    if needing:
        raise MayNeedEvents(needing)
    return ErasePlan(there.begin, base=base, clean=frozenset(saved.token for saved in lanes.snapshots.values()))


def _checked(order: EraseOrder, head: RunHead | None, leases: Leases) -> RunHead:
    if head is None:
        raise ConfigurationError(f"there is no run {order.run_id!r} here: see its id (list_runs)")
    check_only(order.run_id, leases, order.grant)
    return head
