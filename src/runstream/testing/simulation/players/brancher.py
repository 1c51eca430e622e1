"""Those who fork runs, as players: they write to the forks, and delete some, while others write to the parents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from runstream.model.errors import AcknowledgedWritesLost, ConfigurationError, EventsArchived, RunHasForks
from runstream.stores.tiered.checkpointer import TieredCheckpointer
from runstream.testing.simulation.players.operator import OperatorPlayer

__all__ = ["Branch", "BrancherPlayer"]

_PAUSE_SECONDS = (0.0, 0.1, 1.0)
_MOST_FORKS = 3


class Branch(NamedTuple):
    """A fork that somebody was told of.

    Attributes:
        run_id: The fork.
        parent: The run that it was forked from.
        at: The offset at which.
        may_be_own: Somebody has begun to detach it: it may be a run of its own by now.
        may_be_gone: Somebody has begun to delete it.
    """

    run_id: str
    parent: str
    at: int
    may_be_own: bool = False
    may_be_gone: bool = False


class BrancherPlayer(OperatorPlayer):
    """Forks a run of its own, runs of all, and forks again, and does one thing after the other to the forks.

    What it forks of its own it knows: which events a fork shares, and under which keys.
    """

    kind = "brancher"

    def prepare(self) -> None:
        """Have no forks."""
        super().prepare()
        self._made = 0
        self._free: list[str] = []  # names of forks that were deleted

    def act(self) -> None:
        """Do so many things."""
        world, choices = self.world, self.world.choices
        with world.at_work(self.process) as (hot, archives):
            self._hot, self._archives = hot, archives
            self._stores = [TieredCheckpointer(hot, archive) for archive in archives]
            self._base = f"{self.process.name}-base"
            world.own_runs.append(self._base)
            self._known: list[str] = []  # the keys of its own run, in order
            self._grow()
            acts: list[Callable[[], None]] = [self._fork, self._fork, self._grow, self._write, self._write]
            acts += [self._repeat, self._cut, self._read, self._hold, self._detach, self._detach, self._detach]
            for _ in range(world.plan.turns):
                choices.one_of(acts)()
                world.sleep(choices.one_of(_PAUSE_SECONDS))
            self.diary.is_done = True
            if world.plan.loses:
                self._settle()

    def succeed(self) -> BrancherPlayer:
        """Let another one begin, with a run of its own, and remember that this one was killed."""
        self.diary.was_killed = True
        return BrancherPlayer(self.world, self.role)

    def _grow(self) -> None:
        """Write to its own run."""
        before = self._number
        self._send(self._hot, self._base, 1 + self.world.choices.below(3))
        self._known += [f"{self.process.name}/{number}" for number in range(before + 1, self._number + 1)]

    def _own(self) -> list[Branch]:
        mine = f"{self.process.name}-"
        return [one for one in self.world.branches.values() if one.run_id.startswith(mine) and not one.may_be_gone]

    def _fork(self) -> None:
        """Fork its own run, a run of all, or a fork."""
        mine = (one.run_id for one in self._own())
        self._fork_one_of([self._base, self._base, *self.world.runs, *mine])

    def _fork_one_of(self, run_ids: Sequence[str]) -> None:
        """Fork one of these: at its end, or before it."""
        choices = self.world.choices
        if len(self._own()) >= _MOST_FORKS:
            return
        parent = choices.one_of(run_ids)
        at = None
        if choices.below(2):
            info = self._until_told(lambda: self._hot.run_info(parent))
            at = None if info is None else choices.below(info.last_offset + 1)
        if self._free and choices.below(2):
            run_id = self._free.pop()
        else:
            self._made += 1
            run_id = f"{self.process.name}-fork{self._made}"
            self.world.own_runs.append(run_id)
        self.world.scheduler.note(f"forks {parent} at {at} as {run_id}")
        info = None
        with self._may_be_lost(self._hot, parent), suppress(ConfigurationError, EventsArchived):
            info = self._until_told(lambda: self._hot.fork(parent, run_id, at=at))
        if info is None:  # the parent is not there, or has left Redis there
            self._free.append(run_id)
        else:
            assert info.parent is not None
            self.world.branches[run_id] = Branch(run_id, *info.parent)

    def _write(self) -> None:
        """Write to a fork."""
        if mine := self._own():
            self._send(self._hot, self.world.choices.one_of(mine).run_id, 1 + self.world.choices.below(2))

    def _repeat(self) -> None:
        """Append to a fork what it shares: it knows the key. What its parent has got since it does not know."""
        mine = [one for one in self._own() if one.parent == self._base]
        if mine:
            one, offset = self.world.choices.one_of(mine), 1 + self.world.choices.below(len(self._known))
            key, is_shared = self._known[offset - 1], offset <= one.at
            with self._may_be_lost(self._hot, one.run_id):
                found = self._until_told(lambda: self._hot.find(one.run_id, [key]))
                assert self._has_lost() or found == [offset if is_shared else None], (one, offset, found)
                if is_shared and not self._has_lost():  # else it may be another event
                    event = self._event(one.run_id)
                    done = self._until_told(lambda: self._hot.append(one.run_id, [event], keys=[key]))
                    assert self._has_lost() or done.first_offset == offset, (one, offset, done)

    def _has_lost(self) -> bool:
        """Whether the server has lost something: then what this one knows of its runs may be wrong."""
        return self.world.server.losses > 0

    def _cut(self) -> None:
        """Delete a fork that nobody has forked, in Redis and each archive."""
        branches = self.world.branches
        parents = {one.parent for one in branches.values() if not one.may_be_gone}  # or were: some are their own
        leaves = [one for one in self._own() if one.run_id not in parents]
        if leaves:
            leaf = self.world.choices.one_of(leaves)
            run_id = leaf.run_id
            branches[run_id] = leaf._replace(may_be_gone=True)
            self.diary.note(["deletes", run_id])
            try:
                for store in self._stores:
                    self._until_told(partial(store.delete_run, run_id))
            except RunHasForks:
                assert self._has_lost(), f"nobody has forked {run_id}"
            else:
                self.diary.note(["deleted", run_id])
                del branches[run_id]
                self._free.append(run_id)

    def _detach(self) -> None:
        """Delete a fork that was forked, in Redis and each archive: its own forks live on by themselves."""
        branches, mine = self.world.branches, self._own()
        found = [one for one in mine if any(each.parent == one.run_id for each in branches.values())]
        if not found:
            if mine:
                self._fork_one_of([one.run_id for one in mine])
            return
        parent = self.world.choices.one_of(found)
        for one in list(branches.values()):
            if one.parent == parent.run_id:
                branches[one.run_id] = one._replace(may_be_own=True)
        branches[parent.run_id] = parent._replace(may_be_gone=True)
        self.diary.note(["deletes", parent.run_id])
        for number, store in enumerate(self._stores):
            try:
                self._until_told(partial(store.delete_run, parent.run_id, detach=True))
            except (ConfigurationError, EventsArchived, AcknowledgedWritesLost) as error:
                # some has left Redis, for several archives; else one may be a fork again, of what is deleted, or
                # share what is lost
                if (number or isinstance(error, AcknowledgedWritesLost)) and not self._has_lost():
                    raise
                self.world.scheduler.note(f"keeps {parent.run_id}")
                if not number:
                    branches[parent.run_id] = parent
                return
        self.diary.note(["deleted", parent.run_id])

    def _hold(self) -> None:
        """Try to delete what was forked."""
        parents = sorted({one.parent for one in self._own() if not one.may_be_own})
        if parents and not self._has_lost():  # else the note of a fork may be, until it is noted again
            parent = self.world.choices.one_of(parents)
            try:
                self._until_told(lambda: self._hot.delete_run(parent))
            except RunHasForks:
                return
            assert self._has_lost(), f"{parent} was deleted, and has forks"

    def _read(self) -> None:
        """Read a fork through Redis, as far as it is there."""
        mine = [one for one in self._own() if one.parent == self._base]
        if mine:
            one = self.world.choices.one_of(mine)
            with self._may_be_lost(self._hot, one.run_id), suppress(EventsArchived):
                items: list[Any] = self._until_told(lambda: list(self._hot.read(one.run_id)))
                assert [item.offset for item in items] == list(range(1, len(items) + 1)), items
                assert all(item.event.run_id == one.run_id for item in items)
                marks = [item.event.payload["mark"].strip("@") for item in items[: one.at]]
                assert self._has_lost() or marks == self._known[: one.at], (one, marks)
